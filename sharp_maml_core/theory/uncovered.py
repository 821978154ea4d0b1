r"""What Theorem 1's proof leaves out: one batch for the upper perturbation and the update, and gradients through eps_m.

Lemma 5 takes grad L(theta_hat; D', xi') for unbiased given theta_hat. But theta_hat contains eps(theta), and Algorithm
1 computes that from the same xi'. If the samples' gradients are Lipschitz the bias this makes is O(alpha_up), see
`convergence_bounds.one_batch_bias`; Assumptions 1 and 2 alone bound it by nothing that vanishes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import ABOVE_ZERO, check
from ..config import Config
from ..episode import Episode
from ..learners import build_learner
from .biased_maml import Samples, Update, same, sharp_gradient
from .convergence_bounds import Steps, checked
from .floors import ONE_TASK
from .problems import Noise, Problem, check_points

_SKEW = 0.7  # of the wave whose bias at a third of its period, 0.29 sigma, is about the largest


class InnerJacobian(NamedTuple):
    """At one theta: ||grad L||, and two norms of d theta' / d theta, with eps_m a constant and differentiated too."""

    gradient: float
    constant: float
    through: float


def roughened(problem: Problem, alpha_up: float) -> Problem:
    """With query noise of the same variance, but a wave of period 3 alpha_up.

    The constants of Assumptions 1 and 2 stay what they are; sample_l1 grows like 1 / alpha_up. Raises UserError for a
    radius that is not above 0.
    """
    check("alpha_up", alpha_up, ABOVE_ZERO)
    noise = Noise(problem.query_noise.sigma, 2 * math.pi / (3 * alpha_up), _SKEW)
    return dataclasses.replace(problem, query_noise=noise)


def on_rough_noise(update_for: Callable[[Problem, Steps], Update]) -> Callable[[Problem, Steps], Update]:
    """The same update, on the problem that is `roughened` for its alpha_up."""
    return lambda problem, steps: update_for(roughened(problem, steps.alpha_up), steps)


def one_batch_gap(problem: Problem, theta: Tensor, steps: Steps) -> Tensor:
    """E h from one batch, minus E h with eps and eps_m from a batch of their own; theta [n, d] -> [n, d].

    Exact, every pair of samples being enumerated. Raises UserError for several tasks, a theta that is not [n, d] or not
    finite, and steps out of range.
    """
    check("n_tasks", problem.n_tasks, ONE_TASK)
    check_points("theta", theta, problem, "n")
    checked(steps)
    episode = problem.every_sample()
    rows, columns = (Episode(*(value.unsqueeze(axis) for value in episode)) for axis in (0, 1))
    apart = Samples(rows, rows, rows, perturbation=columns)

    def bias(point: Tensor) -> Tensor:
        together = sharp_gradient(problem, point, steps, same(episode)).mean(0)
        return together - sharp_gradient(problem, point, steps, apart).mean((0, 1))

    return torch.stack([bias(point) for point in theta])


def inner_jacobians(problem: Problem, steps: Steps, distances: Sequence[float]) -> list[InnerJacobian]:
    """The Jacobian of Sharp-MAML_low's inner step at each distance from a minimiser of the first task's support loss.

    Through eps_m, as the package's learner differentiates, it contains the term d eps_m / d theta =
    alpha_low (I - u u^T) H / ||grad L||, with u the gradient's direction. Neither Assumption bounds that.

    Raises UserError for a distance that is not above 0, and as `Config` does.
    """
    checked(steps)
    for distance in distances:
        check("distances", distance, ABOVE_ZERO)
    config = Config(
        variant="low",
        inner_lr=steps.inner_lr,
        inner_steps=1,
        alpha_low=steps.alpha_low,
        perturbation_gradient="through",
        dtype="float64",
        device="cpu",
    )
    learner = build_learner(config, problem.model(), problem.loss)
    x, y = (side[0] for side in problem.support)
    minimiser = torch.linalg.solve(x, y[:, 0])
    away = torch.ones_like(minimiser) / math.sqrt(problem.dim)
    identity = torch.eye(problem.dim, dtype=x.dtype)

    def adapted(theta: Tensor) -> Tensor:
        return learner.adapt({"theta": theta}, x, y)["theta"]

    found = []
    for distance in distances:
        theta = minimiser + distance * away
        gradient = problem.gradient(problem.support, theta[None])[0]
        looked = theta + steps.alpha_low * gradient / gradient.norm()
        constant = identity - steps.inner_lr * problem.hessian(problem.support, looked[None])[0]
        through = torch.func.jacrev(adapted)(theta)
        largest = (float(torch.linalg.matrix_norm(jacobian, 2)) for jacobian in (constant, through))
        found.append(InnerJacobian(float(gradient.norm()), *largest))
    return found
