r"""The mean of a table D [S seeds, T test tasks], which are samples both: its standard error and its interval.

Every seed is tested on all tasks, so D[s, t] is the mean, the luck of the seed, the ease of the task and a rest. The
variance of the mean is that of a bootstrap over seeds alone, which draws S - 1 of S so as to be unbiased (Rao and Wu
1988), and of one over tasks alone, less the rest's, which each of them counts (two-way clusters: Cameron, Gelbach and
Miller 2011):

    v = v_seeds + v_tasks - v_rest,   and at least v_tasks and v_rest

    v_seeds = var_s(mean_t D) / S,   v_tasks = var_t(mean_s D) / T,   v_rest = var(rest) / (S T)

These are closed forms, the bootstrap of endless draws. It is the unbiased estimate of a crossed analysis of variance
too, whose degrees of freedom are Satterthwaite's (1946), and at least S - 1:

    v^2 / (v_seeds^2 / (S - 1) + v_tasks^2 / (T - 1) + v_rest^2 / ((S - 1) (T - 1)))

Where the seeds differ more than chance among tasks would have it, that is Student's t of the seeds' means; where they
do not, the many tasks decide. Drawing seeds and tasks at once, the pigeonhole bootstrap (Owen 2007), counts the rest
three times. A bootstrap's percentiles, of three seeds, never leave their range.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """The mean of a table, the standard error of that mean, and its degrees of freedom."""

    mean: float
    error: float
    freedom: float

    @property
    def reach(self) -> float:
        """The half-width of the 95% interval."""
        return reach(self.error, self.freedom)

    @property
    def p(self) -> float:
        """Two-sided, of a mean of zero."""
        return 2 * float(stats.t.sf(abs(self.mean) / self.error, self.freedom)) if self.error else float(self.mean == 0)


def estimate(table: Array) -> Estimate:
    """Of D [S, T] with at least two tasks; of a single seed what the tasks say."""
    n_seeds, n_tasks = table.shape
    mean = float(table.mean())
    rows, columns = table.mean(1) - mean, table.mean(0) - mean
    of_tasks = float((columns**2).sum()) / n_tasks / (n_tasks - 1)
    if n_seeds == 1:
        return Estimate(mean, of_tasks**0.5, n_tasks - 1)
    rest = table - mean - rows[:, None] - columns
    free = n_seeds - 1, n_tasks - 1, (n_seeds - 1) * (n_tasks - 1)
    of_seeds = float((rows**2).sum()) / n_seeds / (n_seeds - 1)
    of_rest = float((rest**2).sum()) / free[2] / table.size
    variance = max(of_seeds + of_tasks - of_rest, of_tasks, of_rest)
    return Estimate(mean, variance**0.5, satterthwaite(variance, (of_seeds, of_tasks, of_rest), free))


def satterthwaite(variance: float, parts: tuple[float, ...], free: tuple[float, ...]) -> float:
    """Degrees of freedom of a variance that is made of parts with their own, of which the first has the fewest."""
    uncertain = sum(part**2 / count for part, count in zip(parts, free, strict=True))
    return max(free[0], variance**2 / uncertain) if uncertain else free[0]


def reach(error: float, freedom: float) -> float:
    """The half-width of a 95% interval with that standard error, by Student's t."""
    return float(stats.t.ppf(0.975, freedom)) * error
