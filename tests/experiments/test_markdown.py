"""The tables of the command line have the paper's figure beside ours."""

from __future__ import annotations

from made_results import made

from experiments import cells
from experiments.tables import markdown


def test_a_cell_stands_beside_the_number_that_the_paper_prints_for_it() -> None:
    cell = next(c for c in cells.load() if c.table == 4 and c.schedule.name == "strong" and c.name.endswith("-maml"))
    name = cell.name.removeprefix(f"{cell.group}-")
    text = markdown([cell], [made(name, seed, 20, group=cell.group, schedule="strong") for seed in (0, 1, 2)])
    assert f"## {cell.group} (strong)" in text
    assert "| 0, 1, 2 | 91.77 |" in text


def test_without_results_it_says_so() -> None:
    assert markdown(cells.load(), []) == "No results."
