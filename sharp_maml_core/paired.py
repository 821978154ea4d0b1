"""Two learners on the same test tasks: their difference task by task, and whether it is more than chance.

D[s, t] is the difference on task t between runs of seed s. Seeds and tasks are both samples, and `crossed` has the
standard error of the mean of D, a bootstrap's over both in closed form, its interval and its p.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import crossed
from .errors import invalid
from .published import SEEDS, Result, scores


class Difference(NamedTuple):
    """How much better the first is than the second.

    mean       in percentage points
    low, high  the 95% interval
    p          two-sided, of a difference of zero
    seeds      that both were run with; of a single one interval and p know the tasks only
    tasks      that both were tested on
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: tuple[int, ...]
    tasks: int

    @property
    def text(self) -> str:
        """The mean and its interval."""
        return f"{self.mean:+.2f} ({self.low:+.2f} to {self.high:+.2f})"

    @property
    def significant(self) -> bool:
        """The interval is of at least three seeds and does not hold zero."""
        return len(self.seeds) >= SEEDS and not self.low <= 0 <= self.high


def compare(first: Sequence[Result], second: Sequence[Result]) -> Difference:
    """The paired difference of two lists of results, over the seeds that both have.

    Raises UserError without a common seed, and for runs that were not tested on the same tasks.
    """
    seeds, table = differences(first, second)
    found = crossed.estimate(table)
    return Difference(found.mean, found.mean - found.reach, found.mean + found.reach, found.p, seeds, table.shape[1])


def differences(first: Sequence[Result], second: Sequence[Result]) -> tuple[tuple[int, ...], crossed.Array]:
    """The common seeds, and D [seeds, tasks] in percentage points.

    Raises UserError without a common seed, and for runs that do not share their data and test tasks.
    """
    ours, theirs = ({run["seed"]: run for run in runs} for runs in (first, second))
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    if not seeds:
        raise invalid("seeds of what is compared", (sorted(ours), sorted(theirs)), "runs with a seed in common")
    kinds = [_tasks(run) for seed in seeds for run in (ours[seed], theirs[seed])]
    for kind in kinds[1:]:
        if kind != kinds[0]:
            changed = [name for name in kind if kind[name] != kinds[0][name]]
            raise invalid("data and test tasks of what is compared", changed, "the same for all runs")
    return seeds, np.stack([scores(ours[seed]) - scores(theirs[seed]) for seed in seeds])


def same_tasks(first: Sequence[Result], second: Sequence[Result]) -> bool:
    """Whether two cells were trained on the same data and tested on the same tasks."""
    return _tasks(first[0]) == _tasks(second[0])


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, for several comparisons of one family."""
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted


def _tasks(run: Result) -> dict[str, Any]:
    """What decides the test tasks, and the data that the run was trained on."""
    config = run["config"]
    names = ("dataset", "n_way", "k_shot", "n_query", "eval_seed", "eval_tasks", "dtype")
    return {name: config[name] for name in names} | {"data": run["data"]}
