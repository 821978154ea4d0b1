"""Tables of results, made of `book/results/*.json` and nothing else.

```{results-table} 1
:schedule: short
```

is a table of the paper with our runs beside it, those of a schedule of `experiments/cells.toml` (the paper's where none
is named), `{results-times}` the time column of Table 3, `{results-claims}` what our runs say about the paper's main
claim, and

```{results-group} omniglot-5way-1shot-short
```

the cells of a group of ours, and what their comparison says. `{results-trials} glyphs` are the runs on a data set that
belong to no cell.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import stamps
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from sharp_maml_core import groups, published, tables
from sharp_maml_core.theory.paper_tables import TABLES

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


class FromResults(SphinxDirective):
    """A table of result files, which the page depends on."""

    required_arguments = 1

    def results(self) -> list[published.Result]:
        """All results; the page is read again when one changes."""
        for path in sorted(self.folder.glob("*.json")):
            self.env.note_dependency(str(path))
        return published.load(self.folder)

    @property
    def folder(self) -> Path:
        """Where they are."""
        return Path(self.env.srcdir) / "results"

    def stamp(self, runs: list[published.Result]) -> list[nodes.Node]:
        """Where the runs behind a table come from, with links; nothing for runs outside of the cells, or for none."""
        files = [f"{run['cell']['name']}-seed{run['seed']}" for run in runs if "cell" in run]
        if not files:
            return []
        return [
            nodes.container("", *self.parse_text_to_nodes(stamps.of_results(self.folder, files)), classes=["stamp"])
        ]


class ResultsTable(FromResults):
    """One of the paper's tables of accuracies; of runs of the paper's length, or of another schedule."""

    option_spec: ClassVar = {"schedule": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Make the table, and under it what its runs have to say."""
        results, number = self.results(), int(self.arguments[0])
        schedule = self.options.get("schedule", published.PAPER)
        notes = tables.notes(results, number, schedule)
        place = TABLES[number][:3]
        settings = [published.Setting(*place, row.method, schedule) for row in TABLES[number].rows]
        behind = [run for setting in settings for run in published.chosen(results, setting)]
        return [
            _table(tables.paper_rows(results, number, schedule), f"Schedule: {schedule}"),
            *map(_paragraph, notes),
            *self.stamp(behind),
        ]


class ResultsClaims(FromResults):
    """The claim that a variant beats MAML, in each group of ours; where there is none, said so."""

    required_arguments = 0

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        rows = tables.claims(self.results())
        caption = "Against MAML on as many images, and for twice the iterations"
        return [_table(rows, caption)] if rows else [_paragraph("Not run.")]


class ResultsTimes(FromResults):
    """The time column of Table 3, from the benchmark of each device that was measured."""

    required_arguments = 0

    def run(self) -> list[nodes.Node]:
        """Make a table for each, with where it comes from."""
        made: list[nodes.Node] = []
        for path in sorted(BENCHMARKS.glob("speed-*.json")):
            self.env.note_dependency(str(path))
            benchmark = json.loads(path.read_text(encoding="utf-8"))
            made.append(_table(tables.times(benchmark), f"A meta-iteration on {benchmark['device']}, MAML's being 1"))
            told = f"`{benchmark['command']}`; source {benchmark['source_sha256'][:8]}; {benchmark['device']}."
            made.append(nodes.container("", *self.parse_text_to_nodes(told), classes=["stamp"]))
        return made


class ResultsTrials(FromResults):
    """The runs on a data set that belong to no cell, one seed each."""

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        results, dataset = self.results(), self.arguments[0]
        told = stamps.of_results(self.folder, [f"{dataset}-*"])
        return [
            _table(tables.trials(results, dataset), f"One run each on {dataset}; ± over its test tasks, at 95%"),
            nodes.container("", *self.parse_text_to_nodes(told), classes=["stamp"]),
        ]


class ResultsGroup(FromResults):
    """A group of cells: a line each, and a sentence for each comparison."""

    def run(self) -> list[nodes.Node]:
        """Make the table and the list of sentences; where nothing was run, say so."""
        results, group = self.results(), self.arguments[0]
        lines = groups.lines(results, group)
        if not lines:
            return [_paragraph("Not run.")]
        compared = [(line.name, against) for line in lines for against in line.against]
        said = [groups.statement(*pair) for pair in (*compared, *groups.worth_of_baseline(results, group))]
        items = [nodes.list_item("", _paragraph(text)) for text in said]
        return [
            _table(tables.group_rows(lines), group),
            *map(_paragraph, tables.group_notes(lines)),
            *self.stamp([run for run in results if run.get("cell", {}).get("group") == group]),
            *([nodes.bullet_list("", *items)] if items else []),
        ]


def _table(rows: tables.Rows, caption: str) -> nodes.Node:
    if not any(row.get(tables.DETAILS) for row in rows):  # a column for nothing
        rows = [{name: text for name, text in row.items() if name != tables.DETAILS} for row in rows]
    headings = list(rows[0])
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in headings), cols=len(headings))
    group += nodes.thead("", _row(headings))
    group += nodes.tbody("", *(_row(list(row.values())) for row in rows))
    return nodes.table("", nodes.title(text=caption), group, classes=["results"])


def _row(texts: list[str]) -> nodes.Node:
    return nodes.row("", *(nodes.entry("", _paragraph(text)) for text in texts))


def _paragraph(text: str) -> nodes.Node:
    return nodes.paragraph(text=text)


def setup(app: Sphinx) -> dict[str, Any]:
    """The directives."""
    app.add_directive("results-table", ResultsTable)
    app.add_directive("results-claims", ResultsClaims)
    app.add_directive("results-times", ResultsTimes)
    app.add_directive("results-group", ResultsGroup)
    app.add_directive("results-trials", ResultsTrials)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
