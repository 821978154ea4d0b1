"""Two learners on the same test tasks: their difference task by task, and whether it is more than chance.

D[s, t] is the difference on task t between runs of seed s. Seeds and tasks are both samples, and every seed is tested
on all tasks, so the bootstrap draws seeds and, independently and once for all seeds, tasks: the crossed, or pigeonhole,
bootstrap (Owen 2007). Of S seeds it draws S - 1, with which the variance of a mean is unbiased (Rao and Wu 1988);
drawing S of 3 seeds would make the interval a fifth too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import invalid
from .published import SEEDS, Result

Array = npt.NDArray[np.float64]
DRAWS = 10_000
AT_ONCE = 1000


class Difference(NamedTuple):
    """How much better the first is than the second.

    mean       in percentage points
    low, high  the 95% interval, by the percentiles of the bootstrap
    p          two-sided: twice the smaller share of draws on one side of zero
    seeds      that both were run with; of a single one the interval knows the tasks only
    tasks      that both were tested on
    wins       share of tasks, over all seeds, on which the first was better; `losses` on which it was worse
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: tuple[int, ...]
    tasks: int
    wins: float
    losses: float

    @property
    def significant(self) -> bool:
        """The interval is of at least three seeds and does not hold zero."""
        return len(self.seeds) >= SEEDS and not self.low <= 0 <= self.high


def compare(first: Sequence[Result], second: Sequence[Result], draws: int = DRAWS, seed: int = 0) -> Difference:
    """The paired difference of two lists of results, over the seeds that both have.

    Raises UserError without a common seed, and for runs that were not tested on the same tasks.
    """
    seeds, table = differences(first, second)
    means = resampled(table, draws, np.random.default_rng(seed))
    low, high = np.quantile(means, [0.025, 0.975])
    below, above = np.count_nonzero(means <= 0), np.count_nonzero(means >= 0)
    p = min(1.0, 2 * (min(below, above) + 1) / (draws + 1))
    return Difference(
        float(table.mean()),
        float(low),
        float(high),
        p,
        seeds,
        table.shape[1],
        float((table > 0).mean()),
        float((table < 0).mean()),
    )


def differences(first: Sequence[Result], second: Sequence[Result]) -> tuple[tuple[int, ...], Array]:
    """The common seeds, and D [seeds, tasks] in percentage points.

    Raises UserError without a common seed, and for runs that were not tested on the same tasks.
    """
    ours, theirs = ({run["seed"]: run for run in runs} for runs in (first, second))
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    if not seeds:
        raise invalid("seeds of what is compared", (sorted(ours), sorted(theirs)), "runs with a seed in common")
    kinds = [_tasks(run) for seed in seeds for run in (ours[seed], theirs[seed])]
    for kind in kinds[1:]:
        if kind != kinds[0]:
            changed = [name for name in kind if kind[name] != kinds[0][name]]
            raise invalid("test tasks of what is compared", changed, "the same for all runs")
    return seeds, np.stack([scores(ours[seed]) - scores(theirs[seed]) for seed in seeds])


def scores(run: Result) -> Array:
    """The accuracy on each test task, in percent. Raises UserError for a result that does not hold them."""
    if "test" not in run:
        raise invalid("result", run["command"], "one with its score of each test task", "Run its cell again.")
    return 100 * np.asarray(run["test"]["correct"], float) / run["test"]["questions"]


def resampled(table: Array, draws: int, generator: np.random.Generator) -> Array:
    """The mean of D [seeds, tasks] in each of `draws` draws of seeds and of tasks; of a single seed, of tasks."""
    n_seeds, n_tasks = table.shape
    some = max(n_seeds - 1, 1)
    means = []
    for start in range(0, draws, AT_ONCE):
        count = min(AT_ONCE, draws - start)
        rows = generator.multinomial(some, np.full(n_seeds, 1 / n_seeds), count) / some  # [draws, seeds]
        columns = generator.multinomial(n_tasks, np.full(n_tasks, 1 / n_tasks), count) / n_tasks  # [draws, tasks]
        means.append(np.einsum("ds,st,dt->d", rows, table, columns, optimize=True))
    return np.concatenate(means)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, for several comparisons of one family."""
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted


def _tasks(run: Result) -> dict[str, Any]:
    """What decides the test tasks."""
    config = run["config"]
    names = ("dataset", "n_way", "k_shot", "n_query", "eval_seed", "eval_tasks", "dtype")
    return {name: config[name] for name in names} | {"data": run["data"]["test"]}
