r"""ALSET, and one-step MAML as a case of it (Appendix C.1; Chen, Sun and Yin 2021).

ALSET solves min_theta f(phi'(theta)) with phi'(theta) = argmin_phi g(theta, phi) by alternating two steps,

    phi   <- phi - lower_lr * grad_phi g(theta, phi)
    theta <- theta + outer_lr * grad_theta_phi g (grad_phi_phi g)^-1 grad f(phi),

the second along minus the hypergradient, which at phi = phi'(theta) is the gradient of F (Eq. 30). MAML is (Eq. 29)

    f(phi)        = 1/M sum_m L(theta_m; D'_m)
    g(theta, phi) = 1/M sum_m <grad L(theta; D_m), theta_m - theta> + ||theta_m - theta||^2 / 2b

with phi = (theta_1, ..., theta_M) and b = inner_lr. As g is quadratic in phi with Hessian I / (b M), a lower step of
b M ends at the minimiser, theta - b grad L(theta; D_m), from wherever it begins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, jacrev

from ..checks import ABOVE_ZERO, check
from ..episode import Episode
from .problems import Problem, Rows


class Bilevel(NamedTuple):
    """f(phi) and g(theta, phi), scalars; theta and phi of any shapes."""

    upper: Callable[[Tensor], Tensor]
    lower: Callable[[Tensor, Tensor], Tensor]


def hypergradient(bilevel: Bilevel, theta: Tensor, phi: Tensor) -> Tensor:
    """-grad_theta_phi g (grad_phi_phi g)^-1 grad f(phi), shaped like theta, by automatic differentiation."""
    by_phi = grad(bilevel.lower, argnums=1)
    size = phi.numel()
    curvature = jacrev(by_phi, argnums=1)(theta, phi).reshape(size, size)
    cross = jacrev(by_phi, argnums=0)(theta, phi).reshape(size, theta.numel())
    weights = torch.linalg.solve(curvature, grad(bilevel.upper)(phi).flatten())
    return -(cross.T @ weights).reshape(theta.shape)


def alset_step(
    bilevel: Bilevel, theta: Tensor, phi: Tensor, *, lower_lr: float, outer_lr: float
) -> tuple[Tensor, Tensor]:
    """One iteration: the new theta and phi. Raises UserError for a step size that is not above 0."""
    for name, value in (("lower_lr", lower_lr), ("outer_lr", outer_lr)):
        check(name, value, ABOVE_ZERO)
    phi = phi - lower_lr * grad(bilevel.lower, argnums=1)(theta, phi)
    return theta - outer_lr * hypergradient(bilevel, theta, phi), phi


def maml_as_bilevel(problem: Problem, inner_lr: float, episode: Episode | None = None) -> Bilevel:
    """The f and g of Eq. 29, phi [M, d], of the exact tasks, or of the samples that an episode of M tasks holds.

    Raises UserError for an inner_lr that is not above 0.
    """
    check("inner_lr", inner_lr, ABOVE_ZERO)
    support, query = (problem.support, problem.query) if episode is None else (Rows(*episode[:2]), Rows(*episode[2:]))

    def upper(phi: Tensor) -> Tensor:
        return problem.value(query, phi).mean()

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        away = phi - theta
        slopes = problem.gradient(support, theta[None])
        return (slopes * away).sum(-1).mean() + away.square().sum(-1).mean() / (2 * inner_lr)

    return Bilevel(upper, lower)


def maml_lower_lr(problem: Problem, inner_lr: float) -> float:
    """The lower step with which one ALSET iteration is one of MAML: M inner_lr, as g is a mean over tasks."""
    return problem.n_tasks * inner_lr
