r"""Do the bounds hold as often as they say? Worlds in which the truth is a formula, drawn many times.

Tasks. A task picks one of d coordinates j and a target a ~ N(t_j, spread^2), and shows x ~ N(a, noise^2). The learner
takes one step of gradient descent on (theta_j - x)^2 / 2, theta' = theta_j - inner_lr (theta_j - x), and is wrong if
theta' is further than `reach` from y ~ N(a, noise^2). With theta ~ N(mean, std^2 I), theta' - y is Gaussian given the
task, and also over tasks: E_Q fhat and E_Q f are both values of the error function.

Classes. Each of K learners finds some classes of a pool hard, and fails on a task that has one of them. Then the error
over all tasks of n classes with h hard ones is 1 - C(n - h, N) / C(n, N).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...checks import PROBABILITY, at_least, check
from .._numbers import Array, numbers
from .bounds import draws, new_classes, new_tasks
from .certified import DRAWS_SHARE

TARGETS = (0.8, -0.5, 0.3)  # t_j; the prior is at 0, so that there is something to learn
SPREAD, NOISE, REACH, INNER_LR, STD = 0.5, 0.3, 0.8, 0.4, 0.3
SHRINKAGES = (0.0, 0.25, 0.5, 0.75, 1.0)  # the posterior's mean is the best of these multiples of the data's
LEARNERS = 8
HARD = 0.04  # share of the pool that is hard for the first learner; for the last it is twice that


class Coverage(NamedTuple):
    """Bounds against the truth, for each delta (first axis) and each repetition (second).

    deltas  [D]; bounds, truths, seen [D, R]: what was promised, what was true, and the error on the seen units
    """

    deltas: Array
    bounds: Array
    truths: Array
    seen: Array

    @property
    def violations(self) -> Array:
        """The share of repetitions in which the truth is above the bound, [D]."""
        return (self.truths > self.bounds).mean(1)

    def violations_at_most(self, delta: float = 0.05) -> Array:
        """What the probability of a violation is at most, by Theorem D, at confidence 1 - delta, [D]."""
        return draws(self.violations, self.truths.shape[1], delta)


def tasks_coverage(
    n_tasks: int, deltas: tuple[float, ...], *, repetitions: int, generator: torch.Generator, random: bool = False
) -> Coverage:
    """Theorem T for a Gaussian posterior whose mean is fitted to the M tasks that the bound is computed from.

    random  draw meta-parameters for each task and use Theorem D too, instead of E_Q fhat itself

    Raises UserError for fewer than 1 task or repetition, or a delta outside (0, 1).
    """
    check("n_tasks", n_tasks, at_least(1))
    check("repetitions", repetitions, at_least(1))
    probabilities = numbers("deltas", deltas, PROBABILITY)
    targets = torch.tensor(TARGETS, dtype=torch.float64)
    chosen = torch.randint(len(targets), (repetitions, n_tasks), generator=generator)
    x, y = _points(targets[chosen], generator)
    rest = INNER_LR * x - y  # theta' - y = (1 - inner_lr) theta_j + rest
    best = _means(chosen, -rest / (1 - INNER_LR), len(targets))  # [R, d]
    means = torch.tensor(SHRINKAGES, dtype=torch.float64)[:, None, None] * best  # [S, R, d]
    at_task = (1 - INNER_LR) * torch.gather(means, 2, chosen.expand(len(means), -1, -1))  # [S, R, M]
    empirical = _wrong(at_task + rest, (1 - INNER_LR) * STD).mean(-1).numpy()
    over_tasks = math.sqrt((1 - INNER_LR) ** 2 * (STD**2 + SPREAD**2) + (1 + INNER_LR**2) * NOISE**2)
    truths = _wrong((1 - INNER_LR) * (means - targets), over_tasks).mean(-1).numpy()
    divergences = (means**2).sum(-1).numpy() / (2 * STD**2)  # [S, R]

    of_draws = DRAWS_SHARE if random else 0.0
    found = []
    for delta in probabilities:
        pick = new_tasks(empirical, divergences, n_tasks, delta).argmin(0)
        seen, truth, divergence = (np.take_along_axis(a, pick[None], 0)[0] for a in (empirical, truths, divergences))
        if random:
            theta = torch.from_numpy(np.take_along_axis(at_task.numpy(), pick[None, :, None], 0)[0])
            theta = theta + (1 - INNER_LR) * STD * _normal(theta, generator)
            seen = ((theta + rest).abs() > REACH).double().mean(-1).numpy()
        upper = draws(seen, n_tasks, of_draws * delta) if random else seen
        found.append((new_tasks(upper, divergence, n_tasks, (1 - of_draws) * delta), truth, seen))
    return Coverage(probabilities, *(np.stack(column) for column in zip(*found, strict=True)))


def classes_coverage(
    n_seen: int,
    n_unseen: int,
    n_way: int,
    deltas: tuple[float, ...],
    *,
    repetitions: int,
    generator: torch.Generator,
) -> Coverage:
    """Theorem C for the worst of eight learners in each deal: the bound has to hold for all of them at once.

    n_seen, n_unseen  M and M', the classes of each part over n_way

    Raises UserError for a number below 1 or a delta outside (0, 1).
    """
    for name, value in {"n_seen": n_seen, "n_unseen": n_unseen, "n_way": n_way, "repetitions": repetitions}.items():
        check(name, value, at_least(1))
    probabilities = numbers("deltas", deltas, PROBABILITY)
    n_classes = n_way * (n_seen + n_unseen)
    shares = torch.linspace(HARD, 2 * HARD, LEARNERS, dtype=torch.float64)
    hard = torch.rand((LEARNERS, n_classes), generator=generator, dtype=torch.float64).argsort(1) < (
        shares[:, None] * n_classes
    )
    dealt = torch.rand((repetitions, n_classes), generator=generator).argsort(1)[:, : n_way * n_seen]
    in_seen = hard.double()[:, dealt].sum(-1).numpy()  # [K, R]
    in_unseen = hard.sum(1, keepdim=True).numpy() - in_seen
    seen = _some_hard(n_way * n_seen, in_seen, n_way)
    unseen = _some_hard(n_way * n_unseen, in_unseen, n_way)
    found = []
    for delta in probabilities:
        bounds = new_classes(seen, math.log(LEARNERS), n_seen, n_unseen, delta)
        worst = (unseen - bounds).argmax(0)[None]
        found.append([np.take_along_axis(values, worst, 0)[0] for values in (bounds, unseen, seen)])
    return Coverage(probabilities, *(np.stack(column) for column in zip(*found, strict=True)))


def _points(targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The support and the query point of each task."""
    centre = targets + SPREAD * _normal(targets, generator)
    return centre + NOISE * _normal(targets, generator), centre + NOISE * _normal(targets, generator)


def _means(chosen: Tensor, values: Tensor, n_coordinates: int) -> Tensor:
    """The mean of the values [R, M] of each coordinate, 0 where it was not chosen: [R, d]."""
    member = torch.nn.functional.one_hot(chosen, n_coordinates).double()  # [R, M, d]
    return (member * values[..., None]).sum(1) / member.sum(1).clamp(min=1)


def _wrong(mean: Tensor, std: float) -> Tensor:
    """P(|N(mean, std^2)| > REACH)."""
    root = std * math.sqrt(2)
    return (torch.erfc((REACH - mean) / root) + torch.erfc((REACH + mean) / root)) / 2


def _some_hard(n: int, hard: Array, n_way: int) -> Array:
    """1 - C(n - hard, n_way) / C(n, n_way)."""
    none = np.ones_like(hard)
    for i in range(n_way):
        none = none * np.maximum(n - hard - i, 0) / (n - i)
    return 1 - none


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)
