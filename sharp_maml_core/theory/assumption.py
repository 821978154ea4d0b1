r"""The assumption of Theorem 2, F(theta; P) <= E_{eps ~ N(0, alpha^2 I)} F(theta + eps; P), at trained parameters.

For each task its own eps, and the paired difference (F(theta + eps) + F(theta - eps)) / 2 - F(theta): its expectation
is that of F(theta + eps) - F(theta), because eps is symmetric, and the gradient's part, the noisiest, is gone. Tasks
are independent and so are their eps, so the interval is that of a mean.

alpha is used in three ways (Section 4.2, Appendix D): as this standard deviation; as the radius of the ball, which for
k parameters is a standard deviation of alpha / sqrt(k); and in D.2 with ||eps|| <= alpha^2, of alpha^2 / sqrt(k).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..checks import ABOVE_ZERO, at_least, check
from ..config import Config
from ..data import ImageSplit
from ..evaluate import BAR_SECONDS, Z95
from ..learners import Learner
from ..params import Params, add_scaled
from ._numbers import Array, numbers
from .certificate.tasks import batches


class Differences(NamedTuple):
    """E F(theta + eps) - F(theta), over standard deviations of eps.

    sigmas    [A]
    loss      [A, T] paired differences of the cross-entropy, one for each task
    error     [A, T] the same of the 0-1 error, which is a loss in [0, 1] as Theorem 2 asks
    at_theta  mean cross-entropy and mean error at theta itself
    n_params  k
    """

    sigmas: Array
    loss: Array
    error: Array
    at_theta: tuple[float, float]
    n_params: int

    def lengths(self) -> Array:
        """About ||eps||: sigma sqrt(k), [A]."""
        return self.sigmas * math.sqrt(self.n_params)


def mean_and_interval(differences: Array) -> tuple[Array, Array]:
    """The mean over tasks [A] of differences [A, T], and half its 95% interval."""
    spread = differences.std(-1, ddof=1)
    return differences.mean(-1), Z95 * spread / math.sqrt(differences.shape[-1])


def verdicts(differences: Array) -> list[str]:
    """For each sigma: "holds" or "violated" where the 95% interval excludes 0, else "undecided"."""
    mean, interval = mean_and_interval(differences)
    return [
        "holds" if m - i > 0 else "violated" if m + i < 0 else "undecided"
        for m, i in zip(mean.tolist(), interval.tolist(), strict=True)
    ]


def readings(alpha: float, n_params: int) -> dict[str, float]:
    """The standard deviation that alpha stands for, by what it is said to be.

    Raises UserError for alpha <= 0 or k < 1.
    """
    check("alpha", alpha, ABOVE_ZERO)
    check("n_params", n_params, at_least(1))
    root = math.sqrt(n_params)
    return {"α as deviation": alpha, "α as radius": alpha / root, "α² as radius (D.2)": alpha**2 / root}


def measure_differences(
    learner: Learner,
    params: Params,
    split: ImageSplit,
    config: Config,
    sigmas: Sequence[float],
    *,
    n_tasks: int,
    seed: int = 0,
    progress: bool = False,
) -> Differences:
    """Perturb the parameters of a learner, adapt from there, and compare with adapting from theta.

    sigmas  standard deviations of every parameter's noise, above 0; a task's eps has one direction for all of them
    split   whose tasks stand for P

    In float32 a difference is exact to about 1e-7 of the loss, far below its interval: ReLU and max-pooling make
    differences between tasks of order sigma. Raises UserError for a sigma <= 0 or fewer than 2 tasks.
    """
    deviations = numbers("sigmas", sigmas, ABOVE_ZERO)
    check("n_tasks", n_tasks, at_least(2))
    generator = torch.Generator().manual_seed(seed)
    found, here = [], []
    bar = tqdm(
        total=n_tasks,
        desc=f"perturbing on {split.name}",
        unit="task",
        disable=not progress,
        leave=False,
        mininterval=BAR_SECONDS,
    )
    with bar:
        for episode in batches(split, config, n_tasks, seed):
            for task in zip(*episode, strict=True):
                noise = {
                    name: torch.randn(value.shape, generator=generator, dtype=value.dtype)
                    for name, value in params.items()
                }
                middle = _query_losses(learner, params, task)
                sides = [
                    [_query_losses(learner, add_scaled(params, noise, sign * sigma), task) for sign in (1, -1)]
                    for sigma in deviations.tolist()
                ]
                here.append(middle)
                found.append([(plus + minus) / 2 - middle for plus, minus in sides])
            bar.update(episode.n_tasks)
    of_loss, of_error = np.array(found).transpose(2, 1, 0)  # [A, T] each
    loss, error = np.array(here).mean(0)
    n_params = sum(value.numel() for value in params.values())
    return Differences(deviations, of_loss, of_error, (float(loss), float(error)), n_params)


def _query_losses(learner: Learner, params: Params, task: tuple[Tensor, ...]) -> Array:
    """Cross-entropy and 0-1 error of one task, float64 [2]."""
    support_x, support_y, query_x, query_y = task
    outputs = learner.predict(learner.adapt(params, support_x, support_y), query_x)
    error = (outputs.argmax(-1) != query_y).to(torch.float64).mean()
    return np.array([float(F.cross_entropy(outputs, query_y)), float(error)])
