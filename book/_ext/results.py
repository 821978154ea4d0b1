"""The paper's tables with our runs beside them, made of `book/results/*.json` and nothing else.

```{results-table} 1
:schedule: short
```

The runs of a table are of one schedule of `experiments/cells.toml`, the paper's where none is named.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from sharp_maml_core import published
from sharp_maml_core.theory.paper_tables import TABLES

HEADINGS = ("method", "paper", "ours", "seeds, test tasks, iterations", "verdict")


class ResultsTable(SphinxDirective):
    """One of the paper's tables of accuracies."""

    required_arguments = 1
    option_spec: ClassVar = {"schedule": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Make the table, and under it what its runs have to say."""
        folder = Path(self.env.srcdir) / "results"
        for path in sorted(folder.glob("*.json")):
            self.env.note_dependency(str(path))
        results = published.load(folder)
        table = TABLES[int(self.arguments[0])]
        schedule = self.options.get("schedule", published.PAPER)
        rows, notes = [], set()
        for row in table.rows:
            setting = published.Setting(table.dataset, table.n_way, table.k_shot, row.method, schedule)
            found = published.ours(results, setting)
            verdict = published.verdict(float(row.accuracy), found)
            rows.append([row.printed, row.accuracy, *_ours(found), verdict])
            notes |= set(found.notes) if found else set()
        return [_table(rows, schedule), *(nodes.paragraph(text=note) for note in sorted(notes))]


def _ours(found: published.Ours | None) -> list[str]:
    if found is None:
        return ["", ""]
    spread = "" if math.isnan(found.interval) else f" ± {found.interval:.2f}"
    seeds = ", ".join(map(str, found.seeds))
    return [f"{found.mean:.2f}{spread}", f"{seeds}; {found.tasks}; {found.iterations}"]


def _table(rows: list[list[str]], schedule: str) -> nodes.Node:
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in HEADINGS), cols=len(HEADINGS))
    group += nodes.thead("", _row(list(HEADINGS)))
    group += nodes.tbody("", *map(_row, rows))
    return nodes.table("", nodes.title(text=f"Schedule: {schedule}"), group, classes=["results"])


def _row(texts: list[str]) -> nodes.Node:
    return nodes.row("", *(nodes.entry("", nodes.paragraph(text=text)) for text in texts))


def setup(app: Sphinx) -> dict[str, Any]:
    """The directive."""
    app.add_directive("results-table", ResultsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
