r"""The mean of a table D [S seeds, T test tasks], which are samples both: its standard error and its interval.

Every seed is tested on all tasks, so D[s, t] is the mean, the luck of the seed, the ease of the task and a rest. The
variance of the mean is that of a bootstrap over seeds alone, which draws S - 1 of S so as to be unbiased (Rao and Wu
1988), and of one over tasks alone, less the rest's, which each of them counts (two-way clusters: Cameron, Gelbach and
Miller 2011):

    v = v_seeds + v_tasks - v_rest,   and at least v_tasks and v_rest

    v_seeds = var_s(mean_t D) / S,   v_tasks = var_t(mean_s D) / T,   v_rest = var(rest) / (S T)

These are closed forms, the bootstrap of endless draws, and the unbiased estimate of a crossed analysis of variance too.
Of three seeds v_seeds is a guess, though, and where it is too small by luck the mean looks certain. So neither interval
nor p takes it for the truth. Given the data, the true variance of the seeds' means is v_seeds (S - 1) / chi^2_{S-1},
that of the tasks' likewise, and the chance of a mean so far from zero is averaged over both: the solution of Behrens
and Fisher (1935). Where the seeds decide, that is Student's t of their means; where the tasks do, of the tasks'.
Degrees of freedom by Satterthwaite (1946), which takes the guess for the truth in another place, would call a
difference of nothing one at p < 0.007, of three seeds, three times as often as it should.

Drawing seeds and tasks at once, the pigeonhole bootstrap (Owen 2007), counts the rest three times. A bootstrap's
percentiles, of three seeds, never leave their range.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

Array = npt.NDArray[np.float64]

NODES = 64
CROWD = 3  # the power of evenly spread nodes that crowds them towards small chi, which large means are decided by
EDGE = 1e-14  # of a chi distribution, on either side, beyond which nothing is counted


class Estimate(NamedTuple):
    """The mean of a table, the parts of its variance as above, and the degrees of freedom of the first two.

    Infinite ones are those of a variance that is known.
    """

    mean: float
    of_seeds: float
    of_tasks: float
    of_rest: float
    seeds_freedom: float
    tasks_freedom: float

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return float(_variance(self, 1.0, 1.0)) ** 0.5

    @property
    def reach(self) -> float:
        """The half-width of the 95% interval."""
        if self.error == 0:
            return 0.0
        far = self.error
        while chance(self, far) > 0.05:
            far *= 2
        return float(optimize.brentq(lambda size: chance(self, size) - 0.05, 0, far, rtol=1e-10))

    @property
    def p(self) -> float:
        """Two-sided, of a mean of zero."""
        return chance(self, abs(self.mean)) if self.error else float(self.mean == 0)


def estimate(table: Array) -> Estimate:
    """Of D [S, T] with at least two tasks; of a single seed what the tasks say."""
    n_seeds, n_tasks = table.shape
    mean = float(table.mean())
    rows, columns = table.mean(1) - mean, table.mean(0) - mean
    of_tasks = float((columns**2).sum()) / n_tasks / (n_tasks - 1)
    if n_seeds == 1:
        return Estimate(mean, 0.0, of_tasks, 0.0, math.inf, n_tasks - 1)
    rest = table - mean - rows[:, None] - columns
    of_seeds = float((rows**2).sum()) / n_seeds / (n_seeds - 1)
    of_rest = float((rest**2).sum()) / ((n_seeds - 1) * (n_tasks - 1)) / table.size
    return Estimate(mean, of_seeds, of_tasks, of_rest, n_seeds - 1, n_tasks - 1)


def chance(found: Estimate, size: float) -> float:
    """The chance that a mean is as far as `size` from the true one, either way, by chance alone; error above 0."""
    (seeds, seeds_weights), (tasks, tasks_weights) = _factors(found.seeds_freedom), _factors(found.tasks_freedom)
    variances = _variance(found, seeds[:, None], tasks)
    return float(seeds_weights @ (2 * special.ndtr(-size / np.sqrt(variances))) @ tasks_weights)


def _variance(found: Estimate, seeds: Array | float, tasks: Array | float) -> Array:
    """Of the mean, where the variances of seeds and tasks are these multiples of their estimates."""
    of_tasks = found.of_tasks * tasks
    return np.maximum(np.maximum(found.of_seeds * seeds + of_tasks - found.of_rest, of_tasks), found.of_rest)


@lru_cache
def _factors(freedom: float) -> tuple[Array, Array]:
    """Values of freedom / chi^2, and the weight of each: Gauss and Legendre's nodes of a root of chi.

    Of chi itself, whose density is smooth, two seeds that all but agree had a sixteenth of their p at t = 1000.
    """
    if math.isinf(freedom):
        return np.ones(1), np.ones(1)
    law = stats.chi(freedom)
    low, high = law.ppf(EDGE), law.isf(EDGE)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    root = (nodes + 1) / 2
    chi = low + (high - low) * root**CROWD
    weights = weights * root ** (CROWD - 1) * law.pdf(chi)
    return freedom / chi**2, weights / weights.sum()
