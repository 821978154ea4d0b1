"""What the result files say, as Markdown: for each group of cells our figures, the paper's and paired differences.

A cell is one point of a grid, and the paper's figure the best of its own, so there is no verdict here: the book has it.
"""

from __future__ import annotations

import itertools

from sharp_maml_core import groups, tables
from sharp_maml_core.published import Result
from sharp_maml_core.theory.paper_tables import Row

from .cells import Cell

HEADINGS = "| cell | ours | seeds | paper | less a baseline |\n|---|---|---|---|---|"


def markdown(cells: list[Cell], results: list[Result]) -> str:
    """The groups that have results, each of one schedule, which its heading names."""
    printed = {cell.name: cell.printed for cell in cells}
    parts = []
    for group, members in itertools.groupby(cells, lambda cell: cell.group):
        schedule = next(members).schedule.name
        lines = groups.lines(results, group)
        if lines:
            rows = [_row(line, printed.get(f"{group}-{line.name}")) for line in lines]
            notes = "".join(f"\n\n{note}" for note in tables.group_notes(lines))
            parts.append(f"## {group} ({schedule})\n\n" + "\n".join([HEADINGS, *rows]) + notes)
    return "\n\n".join(parts) if parts else "No results."


def _row(line: groups.Line, printed: Row | None) -> str:
    seeds, paper = ", ".join(map(str, line.ours.seeds)), printed.accuracy if printed else ""
    columns = [line.name, tables.accuracy(line.ours), seeds, paper, _less(line)]
    return "| " + " | ".join(columns) + " |"


def _less(line: groups.Line) -> str:
    """The differences to the baselines, and p by Holm for all comparisons of the group."""
    return "; ".join(f"{one.baseline} {one.difference.text}, {_p(one.adjusted_p)}" for one in line.against)


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
