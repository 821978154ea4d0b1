r"""Lemma 3 on random problems: both sides of Eq. 31, with the expectations as finite sums.

    E ||grad F(theta) - h_bar||^2,    h_bar = E[h | theta_hat]   (Eq. 31)

With xi and psi independent, h_bar has the Hessian's mean in it; with psi = xi, as in Algorithm 1, it has the Hessian of
the very sample that theta_hat came from.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ..checks import ABOVE_ZERO, at_least, check
from .biased_maml import estimates, same
from .convergence_bounds import Biases, lemma3, lemma3_sharper
from .problems import SHAPES, Noise, Problem, check_points, random_problem


class Lemma3(NamedTuple):
    """Both sides of Eq. 31 at points of problems, each float64 [draws].

    independent  the left side, psi independent of xi
    one_batch    the left side, psi = xi
    printed      the right side of Eq. 31
    sharper      `lemma3_sharper`
    bias         ||grad F - E h||^2 with psi = xi: what a proof that conditions on theta_t alone needs
    bias_bound   (sqrt(sharper) + b^2 l1 sigma_b^2)^2, which bounds it
    """

    independent: Tensor
    one_batch: Tensor
    printed: Tensor
    sharper: Tensor
    bias: Tensor
    bias_bound: Tensor


def evaluate_lemma3(problem: Problem, theta: Tensor, inner_lr: float, eps: Tensor, eps_m: Tensor) -> Lemma3:
    """Both sides at theta [d] for given perturbations eps [d], eps_m [M, d], with the gamma_g, gamma_h that they make.

    Exact up to rounding. Raises UserError for an inner_lr that is not above 0, and for theta, eps or eps_m of another
    shape or not finite.
    """
    check("inner_lr", inner_lr, ABOVE_ZERO)
    for name, value in (("theta", theta), ("eps", eps)):
        check_points(name, value, problem)
    check_points("eps_m", eps_m, problem, "n_tasks")
    episode = problem.every_sample()
    gradient_hat, hessian_hat = estimates(problem, theta, inner_lr, eps, eps_m, same(episode))  # [samples, M, ...]
    mean_gradient, mean_hessian = gradient_hat.mean(0), hessian_hat.mean(0)
    here = theta[None]
    gradient, hessian = problem.gradient(problem.support, here), problem.hessian(problem.support, here)
    biases = Biases(
        float((mean_gradient - gradient).norm(dim=-1).max()),
        float(torch.linalg.matrix_norm(mean_hessian - hessian, 2).max()),
    )
    target = _pulled_back(problem, here - inner_lr * gradient, hessian, inner_lr)
    reached = here - inner_lr * gradient_hat
    independent, one_batch = (
        _pulled_back(problem, reached, curvature, inner_lr) - target for curvature in (mean_hessian, hessian_hat)
    )
    constants, b = problem.constants, inner_lr
    arguments = (constants, b, biases, constants.sigma)
    bound = (math.sqrt(lemma3_sharper(*arguments)) + b**2 * constants.l1 * constants.sigma**2) ** 2
    sides = (
        _mean_square(independent),
        _mean_square(one_batch),
        lemma3(*arguments),
        lemma3_sharper(*arguments),
        one_batch.mean((0, 1)).square().sum(),
        bound,
    )
    return Lemma3(*(torch.as_tensor(value, dtype=torch.float64) for value in sides))


def lemma3_draws(count: int, *, seed: int, progress: bool = False) -> Lemma3:
    """`evaluate_lemma3` on `count` random problems, points, step sizes and radii, over several orders of magnitude.

    Raises UserError for a count below 1.
    """
    check("count", count, at_least(1))
    generator = torch.Generator().manual_seed(seed)
    draws = tqdm(range(count), desc="Lemma 3", unit="draw", disable=not progress, leave=False)
    return Lemma3(*(torch.stack(sides) for sides in zip(*(_one(generator) for _ in draws), strict=True)))


def _one(generator: torch.Generator) -> Lemma3:
    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    def log_uniform(low: float, high: float) -> float:
        return math.exp(math.log(low) + float(torch.rand((), generator=generator)) * math.log(high / low))

    def directions(*size: int) -> Tensor:
        normal = torch.randn(size, generator=generator, dtype=torch.float64)
        return normal / normal.norm(dim=-1, keepdim=True)

    dim, n_tasks = whole(1, 3), whole(1, 3)
    problem = random_problem(
        generator,
        shape=list(SHAPES)[whole(0, len(SHAPES) - 1)],
        n_tasks=n_tasks,
        dim=dim,
        support_scale=log_uniform(0.1, 3),
        query_scale=log_uniform(0.1, 3),
        width=log_uniform(0.3, 10),
        spread=log_uniform(0.01, 3),
        support_noise=Noise(log_uniform(0.01, 3), log_uniform(0.3, 3)),
    )
    theta = torch.randn(dim, generator=generator, dtype=torch.float64)
    inner_lr = log_uniform(0.01, 2)
    eps, eps_m = (log_uniform(0.001, 1) * directions(*size) for size in ((dim,), (n_tasks, dim)))
    return evaluate_lemma3(problem, theta, inner_lr, eps, eps_m)


def _pulled_back(problem: Problem, adapted: Tensor, hessian: Tensor, inner_lr: float) -> Tensor:
    """(I - b H) grad L(adapted; D'), the query sides exact."""
    steep = problem.gradient(problem.query, adapted)
    return steep - inner_lr * (hessian @ steep[..., None])[..., 0]


def _mean_square(parts: Tensor) -> Tensor:
    """E ||mean over tasks||^2 from all samples of each task [samples, M, d], the tasks being independent."""
    mean = parts.mean(0)
    variances = (parts - mean).square().sum(-1).mean(0)
    return mean.mean(0).square().sum() + variances.sum() / len(mean) ** 2
