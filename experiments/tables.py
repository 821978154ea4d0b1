"""What the result files say, as Markdown: for each group of cells our figures, the paper's and paired differences."""

from __future__ import annotations

import itertools
import math

from sharp_maml_core.paired import compare
from sharp_maml_core.published import Result, average, candidates, setting_of, verdict

from .cells import Cell

HEADINGS = "| cell | ours | seeds | paper | verdict | less MAML |\n|---|---|---|---|---|---|"


def markdown(cells: list[Cell], results: list[Result]) -> str:
    """The groups that have results. A group is of one schedule, which its heading names."""
    found: dict[str, list[Result]] = {}
    for run in results:
        if "cell" in run:
            found.setdefault(run["cell"]["name"], []).append(run)
    parts = []
    for name, group in itertools.groupby(cells, lambda cell: cell.group):
        members = [cell for cell in group if cell.name in found]
        if members:
            rows = [_row(cell, found[cell.name], found.get(f"{name}-maml", [])) for cell in members]
            parts.append(f"## {name} ({members[0].schedule.name})\n\n" + "\n".join([HEADINGS, *rows]))
    return "\n\n".join(parts) if parts else "No results."


def _row(cell: Cell, runs: list[Result], maml: list[Result]) -> str:
    (whole,) = candidates(runs, setting_of(runs[0]))
    ours = average(whole)
    spread = "" if math.isnan(ours.interval) else f" ± {ours.interval:.2f}"
    printed = cell.printed
    paper = [printed.accuracy, verdict(float(printed.accuracy), ours)] if printed else ["", ""]
    columns = [cell.name, f"{ours.mean:.2f}{spread}", ", ".join(map(str, ours.seeds)), *paper, _less(whole, maml)]
    return "| " + " | ".join(columns) + " |"


def _less(runs: list[Result], maml: list[Result]) -> str:
    shared = {run["seed"] for run in runs} & {run["seed"] for run in maml}
    if not shared or runs[0]["cell"] == maml[0]["cell"]:
        return ""
    found = compare(runs, maml)
    return f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f}), p = {found.p:.3f}"
