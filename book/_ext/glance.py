"""What came out, in one table: each figure from a result file, the errata or a benchmark, none typed in.

```{at-a-glance}
```
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from sharp_maml_core import groups, published, tables
from sharp_maml_core.landscape import measured, summary
from sharp_maml_core.theory.paper_tables import SHARP, TABLES, gains

ROOT = Path(__file__).resolve().parents[2]
HEAD = ("question", "the paper", "here", "more")


class AtAGlance(SphinxDirective):
    """The table."""

    def run(self) -> list[nodes.Node]:
        """Make its rows."""
        book = Path(self.env.srcdir)
        for path in _read(book):
            self.env.note_dependency(str(path))
        rows = [
            HEAD,
            ("---",) * len(HEAD),
            *_accuracies(book),
            *_gains(book),
            *_costs(),
            *_flatness(book),
            *_bounds(book),
            _errata(book),
        ]
        text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
        return self.parse_text_to_nodes(text)


def _read(book: Path) -> list[Path]:
    """The files that the table is made of."""
    results, benchmarks = book / "results", ROOT / "benchmarks" / "results"
    found = [*results.glob("*.json"), *results.glob("sharpness/*.json"), *benchmarks.glob("speed-*.json")]
    return [book / "errata.md", results / "certificate" / "glyphs.json", *sorted(found)]


def _accuracies(book: Path) -> Iterator[tuple[str, ...]]:
    results = published.load(book / "results")
    printed = {  # each once: Table 3 repeats some of Table 1's
        published.Setting(table.dataset, table.n_way, table.k_shot, row.method): float(row.accuracy)
        for table in TABLES.values()
        for row in table.rows
    }
    verdicts = Counter(
        published.verdict(accuracy, published.ours(results, setting)) for setting, accuracy in printed.items()
    )
    counted = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    yield "Do the accuracies of Tables 1 to 5 come out again?", f"{verdicts.total()} figures", counted, "[](results.md)"


def _gains(book: Path) -> Iterator[tuple[str, ...]]:
    """Of groups of runs with enough seeds, the differences to MAML on as many images, and MAML's by a better recipe."""
    results = published.load(book / "results")
    printed = [gain for number in TABLES for gain in gains(number).values()]
    question = (
        "How many points better than `maml` on as many images? A star is more than chance; no radius was searched; "
        "`short` runs are minutes of one core, `hour` an hour or two. "
    )
    paper = f"{min(printed):+.2f} to {max(printed):+.2f} points"
    for group in groups.names(results):
        lines = groups.lines(results, group)
        noted = "".join(f", {note}" for note in tables.group_notes(lines))
        against = [(line.name, one) for line, one in groups.on_as_many_images(lines) if _enough(one)]
        if against:
            told = f"{question}{group}{noted}: {_length_and_radius(results, group, lines)}"
            yield told, paper, _points(against), "[](results.md)"
            question, paper = "The same: ", ""
    for group in groups.names(results):
        worth = [(name, one) for name, one in groups.worth_of_baseline(results, group) if _enough(one)]
        if worth:
            others = ", ".join(f"`{one.baseline}`" for _, one in worth)
            about = f"And MAML by a better recipe, on as many images as {others}? {group}"
            yield about, "", _points(worth), "[](results-figures.md)"


def _length_and_radius(results: list[published.Result], group: str, lines: list[groups.Line]) -> str:
    schedule = next(run["cell"]["schedule"] for run in results if run.get("cell", {}).get("group") == group)
    radii = sorted({line.radius for line in lines if line.sharp})
    return f"`{schedule}` runs, " + (f"radius {radii[0]:g}" if len(radii) == 1 else "the radius by name")


def _enough(one: groups.Against) -> bool:
    return len(one.difference.seeds) >= published.SEEDS


def _points(against: list[tuple[str, groups.Against]]) -> str:
    return ", ".join(f"`{name}` {one.difference.mean:+.2f}{'*' if one.clear else ''}" for name, one in against)


def _costs() -> Iterator[tuple[str, ...]]:
    paper = {row.method: row.time for row in TABLES[3].rows}
    for path in sorted((ROOT / "benchmarks" / "results").glob("speed-*.json")):
        benchmark = json.loads(path.read_text(encoding="utf-8"))
        ours = benchmark["results"]["mini-ImageNet, 5-way 1-shot"]["relative_to_maml"]
        methods = ", ".join(f"`{name}`" for name in SHARP)
        yield (
            f"How long does a step of {methods} take on {benchmark['device']}, MAML's being 1?",
            ", ".join(paper[name] for name in SHARP),
            ", ".join(f"{ours[name]:.2f}" for name in SHARP),
            "[](speed.md)",
        )


def _flatness(book: Path) -> Iterator[tuple[str, ...]]:
    """A row for each radius: within another one a sharpness is another quantity."""
    results = measured.read_all(book / "results" / "sharpness", "cifar-fs")
    for alpha in sorted({result["settings"]["alpha"] for result in results}):
        table = summary.rows([result for result in results if result["settings"]["alpha"] == alpha])
        if not any(row.variant == summary.REFERENCE for row in table):
            continue
        changes = summary.changes(table)
        found = {name: changes[name]["maml sharpness"] for name in SHARP if name in changes}
        if found:
            yield (
                f"How does the sharpness (Eq. 7) of {', '.join(f'`{name}`' for name in found)} differ from MAML's? On "
                f"CIFAR-FS, of MAML's loss of a task, within a radius of {alpha:g}",
                "smoother, by eye (Figure 4)",
                f"{', '.join(f'{100 * one.mean:+.0f}%{_spread(one)}' for one in found.values())} ({_seeds(found)})",
                "[](landscapes.md)",
            )


def _seeds(found: dict[str, summary.Mean]) -> str:
    """Of how many seeds the figures are: one number, or one for each."""
    counts = [one.n for one in found.values()]
    if len(set(counts)) == 1:
        return "1 seed" if counts[0] == 1 else f"{counts[0]} seeds"
    return ", ".join(map(str, counts)) + " seeds"


def _spread(one: summary.Mean) -> str:
    return "" if math.isinf(one.interval) else f" ± {100 * one.interval:.0f}"


def _bounds(book: Path) -> Iterator[tuple[str, ...]]:
    found = json.loads((book / "results" / "certificate" / "glyphs.json").read_text(encoding="utf-8"))
    unit = {one["unit"]: one for one in found["certificates"]}
    tasks, classes = unit["tasks"], unit["classes"]
    yield (
        "What does a bound say of the error, at most 1, on new tasks of letters seen (of unseen ones of their pool)?",
        f"{found['paper']['theorem2']:.2f} and more (Eq. 18, the same network, trained on half of the letters)",
        f"{tasks['bound']:.3f} ({classes['bound']:.3f}) at {1 - tasks['delta']:.0%}; "
        f"measured: {tasks['measured']:.3f} ({classes['measured']:.3f})",
        "[](generalisation.md)",
    )


def _errata(book: Path) -> tuple[str, ...]:
    verdicts: Counter[Any] = Counter(
        re.findall(r"^\*\*Verdict: ([a-z ]+)\.", (book / "errata.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    words = {"holds": "hold", "slip": "are slips", "proof incomplete": "have an incomplete proof", "false": "are false"}
    return (
        "Are the paper's statements right?",
        f"{verdicts.total()} were checked",
        ", ".join(f"{verdicts[name]} {said}" for name, said in words.items()),
        "[](errata.md)",
    )


def setup(app: Sphinx) -> dict[str, Any]:
    """The directive."""
    app.add_directive("at-a-glance", AtAGlance)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
