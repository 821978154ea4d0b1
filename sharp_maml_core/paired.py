"""Two learners on the same test tasks: their difference task by task, and whether it is more than chance.

D[s, t] is the difference on task t between runs of seed s. Seeds and tasks are both samples, and every seed is tested
on all tasks, so the bootstrap draws seeds and, independently and once for all seeds, tasks: the crossed, or pigeonhole,
bootstrap (Owen 2007). Of S seeds it draws S - 1, with which the variance of a mean is unbiased (Rao and Wu 1988);
drawing S of 3 seeds would make the interval a fifth too narrow.

The bootstrap gives the standard error, Student's t with S - 1 degrees of freedom the interval and p: the percentiles of
a bootstrap of three seeds never leave their range, and call a difference of nothing significant more than twice as
often as they say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from .errors import invalid
from .published import SEEDS, Result

Array = npt.NDArray[np.float64]
DRAWS = 10_000
AT_ONCE = 1000


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


def compare(first: Sequence[Result], second: Sequence[Result], draws: int = DRAWS, seed: int = 0) -> Difference:
    """The paired difference of two lists of results, over the seeds that both have.

    Raises UserError without a common seed, and for runs that were not tested on the same tasks.
    """
    seeds, table = differences(first, second)
    mean, error = float(table.mean()), float(resampled(table, draws, np.random.default_rng(seed)).std())
    student = stats.t((len(seeds) if len(seeds) > 1 else table.shape[1]) - 1)
    reach = float(student.ppf(0.975)) * error
    p = 2 * float(student.sf(abs(mean) / error)) if error else float(mean == 0)
    return Difference(mean, mean - reach, mean + reach, p, seeds, table.shape[1])


def differences(first: Sequence[Result], second: Sequence[Result]) -> tuple[tuple[int, ...], Array]:
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
    """What decides the test tasks, and the data that the run was trained on."""
    config = run["config"]
    names = ("dataset", "n_way", "k_shot", "n_query", "eval_seed", "eval_tasks", "dtype")
    return {name: config[name] for name in names} | {"data": run["data"]}
