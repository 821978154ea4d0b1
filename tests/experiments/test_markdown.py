"""The tables of the command line: the paper's figure beside ours, a verdict only where the runs are of its length."""

from __future__ import annotations

import pytest
from made_results import made

from experiments import cells
from experiments.tables import markdown


@pytest.mark.parametrize(("schedule", "verdict"), [("paper", "differs"), ("strong", ""), ("hour", "")])
def test_only_runs_of_the_papers_schedule_agree_or_differ(schedule: str, verdict: str) -> None:
    cell = next(c for c in cells.load() if c.table == 4 and c.schedule.name == schedule and c.name.endswith("-maml"))
    name = cell.name.removeprefix(f"{cell.group}-")
    text = markdown([cell], [made(name, seed, 20, group=cell.group, schedule=schedule) for seed in (0, 1, 2)])
    assert f"## {cell.group} ({schedule})" in text
    assert f"| 0, 1, 2 | 91.77 | {verdict} |" in text


def test_without_results_it_says_so() -> None:
    assert markdown(cells.load(), []) == "No results."
