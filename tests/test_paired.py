"""Paired differences: over common seeds, task by task, and what may be compared at all."""

from __future__ import annotations

from typing import Any

import pytest
from scipy import stats

from sharp_maml_core import UserError, paired

CONFIG = {"dataset": "x", "n_way": 5, "k_shot": 1, "n_query": 2, "eval_seed": 0, "eval_tasks": 4, "dtype": "float32"}


def run(seed: int, correct: list[int], questions: int = 10, **changes: Any) -> dict[str, Any]:
    return {
        "seed": seed,
        "config": CONFIG | changes,
        "data": {"test": "a"},
        "command": "c",
        "test": {"questions": questions, "correct": correct},
    }


def test_the_difference_is_task_by_task_over_common_seeds() -> None:
    first = [run(0, [5, 6, 7, 8]), run(1, [1, 1, 1, 1]), run(7, [0, 0, 0, 0])]
    second = [run(1, [1, 0, 2, 1]), run(0, [4, 6, 8, 5])]
    seeds, table = paired.differences(first, second)
    assert seeds == (0, 1)
    assert table.tolist() == [[10, 0, -10, 30], [0, 10, -10, 0]]
    found = paired.compare(first, second)
    assert found.mean == pytest.approx(30 / 8)
    assert (found.seeds, found.tasks) == ((0, 1), 4)
    assert not found.significant  # of two seeds nothing is


def test_equal_tables_differ_by_nothing() -> None:
    runs = [run(seed, [1, 2, 3, 4]) for seed in range(3)]
    found = paired.compare(runs, runs)
    assert found[:4] == (0, 0, 0, 1)
    assert not found.significant


def test_a_difference_on_every_task_is_significant() -> None:
    found = paired.compare([run(s, [9, 8, 9, 9]) for s in range(3)], [run(s, [1, 2, 1, 2]) for s in range(3)])
    assert found.significant
    assert 0 < found.p < 0.01
    assert found.low > 0


def test_interval_and_p_are_those_of_the_crossed_table() -> None:
    """Tasks that are all alike leave the seeds alone: the t test of three differences, 10, 20 and 60 points."""
    first = [run(seed, [right] * 4) for seed, right in enumerate((3, 4, 8))]
    second = [run(seed, [2] * 4) for seed in range(3)]
    found = paired.compare(first, second)
    exact = stats.ttest_1samp([10, 20, 60], 0)
    assert found.mean == pytest.approx(30)
    assert found.p == pytest.approx(exact.pvalue)
    assert [found.low, found.high] == pytest.approx([*exact.confidence_interval()])
    alone = paired.compare([run(0, [3, 4, 8, 9])], [run(0, [1, 4, 8, 1])])
    assert alone.low < 0 < alone.high  # of one seed, 20, 0, 0 and 80 points on four tasks: 3 degrees of freedom
    assert not alone.significant


@pytest.mark.parametrize("name", ["n_query", "eval_seed", "k_shot"])
def test_other_test_tasks_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=name):
        paired.compare([run(0, [1, 2, 3, 4])], [run(0, [1, 2, 3, 4], **{name: 9})])
    with pytest.raises(UserError, match="data"):
        paired.compare([run(0, [1, 2, 3, 4])], [run(0, [1, 2, 3, 4]) | {"data": {"test": "b"}}])


def test_no_common_seed_and_no_scores_are_refused() -> None:
    with pytest.raises(UserError, match="a seed in common"):
        paired.compare([run(0, [1, 2, 3, 4])], [run(1, [1, 2, 3, 4])])
    old = run(0, [1, 2, 3, 4])
    del old["test"]
    with pytest.raises(UserError, match="score of each test task"):
        paired.compare([old], [old])


def test_holm_is_the_textbook_s() -> None:
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([0.5, 0.9]) == [1.0, 1.0]
