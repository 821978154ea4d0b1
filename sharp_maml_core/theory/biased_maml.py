r"""Biased MAML (Appendix C.2), and Sharp-MAML as a case of it (Lemma 5), in closed form on the problems of `problems`.

    theta_hat_m = theta - inner_lr * g_hat_m
    h           = 1/M sum_m (I - inner_lr H_hat_m) grad L(theta_hat_m; D'_m, xi'_m)

with estimators g_hat, H_hat of the support gradient and Hessian. Lemma 5 reads Sharp-MAML both as

    g_hat_m = grad L(theta + eps + eps_m; D_m, xi_m) - eps / inner_lr
    H_hat_m = Hessian of L at theta + eps + eps_m; D_m, psi_m.

Appendix C takes xi, psi and xi' for independent of each other and of eps, eps_m. In Algorithm 1 and in every learner
here they are one batch: `Samples` says which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..episode import Episode
from .convergence_bounds import Steps
from .problems import Problem, Rows

Update = Callable[[Tensor, torch.Generator], Tensor]
"""(theta [R, d], generator) -> the stochastic meta-gradients h [R, d] that R independent repetitions descend."""


class Samples(NamedTuple):
    """What each part of an update is computed from: leaves [..., M, n, ...]."""

    gradient: Episode  # xi
    hessian: Episode  # psi
    query: Episode  # xi'
    perturbation: Episode  # of eps and eps_m


def same(episode: Episode) -> Samples:
    """One batch for everything, as Algorithm 1 has it."""
    return Samples(episode, episode, episode, episode)


def independent(problem: Problem, shape: tuple[int, ...], generator: torch.Generator) -> Samples:
    """Independent batches, as Appendix C takes them."""
    return Samples(*(problem.sample(shape, generator) for _ in Samples._fields))


def support_of(episode: Episode) -> Rows:
    return Rows(episode.support_x, episode.support_y)


def query_of(episode: Episode) -> Rows:
    return Rows(episode.query_x, episode.query_y)


def biased_gradient(
    problem: Problem, theta: Tensor, inner_lr: float, gradient_hat: Tensor, hessian_hat: Tensor, query: Rows
) -> Tensor:
    """The update h of (C.2) [..., d]; theta [..., d], g_hat [..., M, d], H_hat [..., M, d, d], query sides as data."""
    steep = problem.gradient(query, theta[..., None, :] - inner_lr * gradient_hat)
    return (steep - inner_lr * (hessian_hat @ steep[..., None])[..., 0]).mean(-2)


def estimates(
    problem: Problem, theta: Tensor, inner_lr: float, eps: Tensor, eps_m: Tensor, samples: Samples
) -> tuple[Tensor, Tensor]:
    """Lemma 5's g_hat [..., M, d] and H_hat [..., M, d, d]; eps [..., d], eps_m [..., M, d]."""
    eps = eps[..., None, :]
    point = theta[..., None, :] + eps + eps_m
    gradient_hat = problem.gradient(support_of(samples.gradient), point) - eps / inner_lr
    return gradient_hat, problem.hessian(support_of(samples.hessian), point)


def perturbations(problem: Problem, theta: Tensor, steps: Steps, episode: Episode) -> tuple[Tensor, Tensor]:
    """Eps [..., d] and eps_m [..., M, d] of Eq. 11 and 13, from one batch."""
    support = support_of(episode)
    eps_m = _to_length(problem.gradient(support, theta[..., None, :]), steps.alpha_low)
    if steps.alpha_up == 0:
        return torch.zeros_like(theta), eps_m
    nothing = torch.zeros_like(theta)
    hats = estimates(problem, theta, steps.inner_lr, nothing, eps_m, same(episode))
    h = biased_gradient(problem, theta, steps.inner_lr, *hats, query_of(episode))
    return _to_length(h, steps.alpha_up), eps_m


def sharp_gradient(problem: Problem, theta: Tensor, steps: Steps, samples: Samples) -> Tensor:
    """The stochastic meta-gradient of Sharp-MAML (Eq. 10-15) at theta [..., d], as Lemma 5 writes it.

    Radii of 0 are low, up or MAML. With `same` samples this is what the package's learners return.
    """
    eps, eps_m = perturbations(problem, theta, steps, samples.perturbation)
    hats = estimates(problem, theta, steps.inner_lr, eps, eps_m, samples)
    return biased_gradient(problem, theta, steps.inner_lr, *hats, query_of(samples.query))


def independent_update(problem: Problem, steps: Steps) -> Update:
    """Sharp-MAML as Appendix C analyses it: every part from a batch of its own."""
    return lambda theta, generator: sharp_gradient(
        problem, theta, steps, independent(problem, theta.shape[:-1], generator)
    )


def same_batch_update(problem: Problem, steps: Steps) -> Update:
    """Sharp-MAML as Algorithm 1 has it, in closed form: the learners' gradient, several times faster."""
    return lambda theta, generator: sharp_gradient(
        problem, theta, steps, same(problem.sample(theta.shape[:-1], generator))
    )


def _to_length(vectors: Tensor, radius: float) -> Tensor:
    """Radius * v / ||v|| over the last axis, zero where v is zero."""
    return radius * torch.nn.functional.normalize(vectors, dim=-1, eps=torch.finfo(vectors.dtype).tiny)
