r"""Lemma 1 (Section 2.2, Appendix B): the loss after one inner step, seen as a function of the point before it.

With theta' = theta - b grad L(theta), b = inner_lr, H the Hessian of L and J = I - b H(theta), the composed loss
F(theta) = L(theta') has

    grad F = J grad L(theta')                                  (26)
    Hess F = J H(theta') J - b D^3 L(theta)[grad L(theta')]    (27), its factors in the right order

The paper prints J J H(theta') in (27), which is not even symmetric; where grad L(theta) = 0 the two agree.

What holds, for any b > 0:

a) Stationary points of L are stationary points of F: there theta' = theta, so (26) is J grad L(theta) = 0.
b) Local minimisers of L are local minimisers of F. theta' is a continuous function of theta and leaves a minimiser
   theta* where it is, so it maps points near theta* to points near theta*, and there F(theta) = L(theta') >=
   L(theta*) = F(theta*). The same goes for maximisers. (The paper argues that a positive semidefinite Hessian makes a
   minimum, which x^3 refutes.)
c) If 1/b is no eigenvalue of H(theta*), theta -> theta' is a diffeomorphism near theta*, and theta* is for F exactly
   what it is for L. Its Hessian J H J has the eigenvalues lambda (1 - b lambda)^2.
d) Let all eigenvalues of H be below 1/b on a convex set that has all stationary points of L in it. Then F has no others
   in it. J is positive definite there, so a stationary theta of F has grad L(theta') = 0, theta' is in the set, and
   the map takes both theta and theta' to theta'. But it takes no two points of the set to one: <theta_1' - theta_2',
   theta_1 - theta_2> >= (1 - b l1) ||theta_1 - theta_2||^2 > 0, with l1 < 1/b the largest eigenvalue between them.

So the stationary points that MAML has and L has not, of which the paper speaks below the lemma, need b l1 >= 1. For a)
and c) L has to be twice, for b) once continuously differentiable; third derivatives occur in (27) only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

from ..checks import ABOVE_ZERO, Allowed, check, check_finite
from ..errors import invalid
from ..params import Params
from .stationary import Inertia, inertia

Loss = Callable[[Any], Tensor]
"""L: a vector [d] or a dict of parameters to a scalar; three times differentiable by torch.func."""

_STEP = 1e-3  # of central differences of fourth order: truncation about 1e-12, rounding 1e-13
_NO_NORM = 1e-9  # errors are absolute below it, as at a stationary point


class Hessians(NamedTuple):
    """Eq. 27 with its factors in the right order, and as the paper prints it: [d, d] each."""

    right: Tensor
    printed: Tensor


class Error(NamedTuple):
    """How far a formula is from the same derivative by autograd and by central differences.

    Norm of the difference over the norm of the derivative; only the former where the derivative is zero (below 1e-9).
    """

    formula: str
    autograd: float
    differences: float


class Kept(NamedTuple):
    """A stationary point of L, looked at as one of F.

    gradient_norm  of F: 0, by a)
    before, after  eigenvalues of the Hessians of L and of F, ascending, [d]
    """

    gradient_norm: float
    before: Tensor
    after: Tensor
    inertia_before: Inertia
    inertia_after: Inertia


class TwoTasks(NamedTuple):
    """Minimisers of the mean of the tasks' losses: without adaptation (Eq. 5) and with it (Eq. 2, D = D')."""

    erm: Fraction
    maml: Fraction


def flattened(theta: Tensor | Params) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Theta as one vector, a dict's tensors one after the other, and the way back.

    Raises UserError for a theta that is empty, not float64 or not finite.
    """
    if not isinstance(theta, Tensor):
        check("theta", theta, Allowed("a dict of tensors, with one at least", bool))
    vector = theta if isinstance(theta, Tensor) else torch.cat([value.flatten() for value in theta.values()])
    if vector.dtype != torch.float64 or vector.dim() != 1 or not len(vector):
        raise invalid("theta", f"{vector.dtype} {tuple(vector.shape)}", "one vector, or a dict of tensors, in float64")
    check_finite("theta", vector)
    return vector, _same if isinstance(theta, Tensor) else partial(_parts, {n: v.shape for n, v in theta.items()})


def as_vector(loss: Loss, theta: Tensor | Params) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The loss as a function of one vector, and theta as that vector.

    Raises UserError as `flattened` does, or for a loss that is not a finite scalar at theta.
    """
    vector, rebuild = flattened(theta)

    def function(vector: Tensor) -> Tensor:
        return loss(rebuild(vector))

    value = function(vector)
    check("loss(theta)", tuple(value.shape), Allowed("of shape (), a scalar", lambda shape: shape == ()))
    check_finite("loss(theta)", value)
    return function, vector


def composed(loss: Loss, inner_lr: float) -> Callable[[Tensor], Tensor]:
    """F(theta) = L(theta - inner_lr grad L(theta)) of a vector, to differentiate by autograd. L is one of a vector."""
    check("inner_lr", inner_lr, ABOVE_ZERO)
    slope = grad(loss)

    def after_one_step(theta: Tensor) -> Tensor:
        return loss(theta - inner_lr * slope(theta))

    return after_one_step


def gradient(loss: Loss, theta: Tensor | Params, inner_lr: float) -> Tensor:
    """The gradient of F by Eq. 26, [d]."""
    check("inner_lr", inner_lr, ABOVE_ZERO)
    function, at = as_vector(loss, theta)
    slope = grad(function)
    u = slope(at - inner_lr * slope(at))
    return u - inner_lr * grad(lambda x: u @ slope(x))(at)  # H u without H


def hessians(loss: Loss, theta: Tensor | Params, inner_lr: float) -> Hessians:
    """The Hessian of F by Eq. 27, in its right form and as it is printed."""
    check("inner_lr", inner_lr, ABOVE_ZERO)
    function, at = as_vector(loss, theta)
    slope, curvature = grad(function), jacrev(grad(function))
    adapted = at - inner_lr * slope(at)
    u, H = slope(adapted), curvature(adapted)
    J = torch.eye(len(at), dtype=at.dtype) - inner_lr * curvature(at)

    def along_u(x: Tensor) -> Tensor:
        return u @ slope(x)

    third = jacrev(grad(along_u))(at)  # D^3 L(theta)[u]
    return Hessians(J @ H @ J - inner_lr * third, J @ J @ H - inner_lr * third)


def errors(loss: Loss, theta: Tensor | Params, inner_lr: float) -> list[Error]:
    """Eq. 26 and 27 against autograd of F and against central differences of F (gradient) and of its gradient."""
    function, at = as_vector(loss, theta)
    whole = composed(function, inner_lr)
    slope, right, printed = gradient(function, at, inner_lr), *hessians(function, at, inner_lr)
    by_autograd = grad(whole)(at), jacrev(grad(whole))(at)
    by_differences = _differences(whole, at), _differences(grad(whole), at)
    return [
        Error(name, _relative(formula, by_autograd[order]), _relative(formula, by_differences[order]))
        for name, formula, order in (
            ("gradient (26)", slope, 0),
            ("Hessian (27), J H J", right, 1),
            ("Hessian (27) as printed, J J H", printed, 1),
        )
    ]


def kept(loss: Loss, theta: Tensor | Params, inner_lr: float) -> Kept:
    """A stationary point of L as a point of F, all by autograd: neither (26) nor (27) is used."""
    function, at = as_vector(loss, theta)
    whole = composed(function, inner_lr)
    before, after = jacrev(grad(function))(at), jacrev(grad(whole))(at)
    return Kept(
        float(grad(whole)(at).norm()),
        torch.linalg.eigvalsh(before),
        torch.linalg.eigvalsh((after + after.T) / 2),
        inertia(before),
        inertia(after),
    )


def two_tasks(
    curvatures: Sequence[Fraction | int], minima: Sequence[Fraction | int], inner_lr: Fraction | int
) -> TwoTasks:
    """Tasks a_m / 2 (theta - c_m)^2 with D = D': each keeps its minimiser c_m (b), their mean does not.

    One inner step makes task m a_m (1 - b a_m)^2 / 2 (theta - c_m)^2, so the two minimisers are means of the c_m with
    the weights a_m and a_m (1 - b a_m)^2. Exact in fractions; any number of tasks.

    Raises UserError for curvatures that are not above 0, or an inner_lr not above 0, or 1 / a_m for all tasks.
    """
    check(
        "curvatures",
        list(curvatures),
        Allowed("above 0, one a minimum", lambda a: len(a) == len(minima) > 0 and min(a) > 0),
    )
    check("inner_lr", inner_lr, ABOVE_ZERO)
    adapted = [a * (1 - inner_lr * a) ** 2 for a in curvatures]
    check("inner_lr", inner_lr, Allowed("other than 1 / curvature of every task", lambda _: any(adapted)))
    return TwoTasks(_mean(minima, curvatures), _mean(minima, adapted))


def _mean(values: Sequence[Fraction | int], weights: Sequence[Fraction | int]) -> Fraction:
    return Fraction(sum(w * v for w, v in zip(weights, values, strict=True))) / sum(weights)


def _differences(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Central differences of fourth order by each coordinate, [d, ...]."""
    steps = _STEP * torch.eye(len(at), dtype=at.dtype)
    once, twice = (vmap(function)(at + n * steps) - vmap(function)(at - n * steps) for n in (1, 2))
    return (8 * once - twice) / (12 * _STEP)


def _relative(found: Tensor, expected: Tensor) -> float:
    norm = float(expected.norm())
    return float((found - expected).norm()) / (norm if norm > _NO_NORM else 1.0)


def _same(vector: Tensor) -> Tensor:
    return vector


def _parts(shapes: dict[str, torch.Size], vector: Tensor) -> Params:
    parts = vector.split([shape.numel() for shape in shapes.values()])
    return {name: part.view(shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}
