r"""How much higher the loss is within reach: Eq. 7 of the paper,

    s(theta) = max over ||eps|| <= alpha of f(theta + eps) - f(theta),

for any surface f, in three grades: the linear term alpha * ||g||; the rise at eps = alpha * g / ||g||, the one step of
SAM (Eq. 8a); and the maximum itself, searched for by projected gradient ascent. The first two say nothing certain
about the third: where f bends down the linear term is too large, where it bends up both are too small. What the search
finds is always a lower bound, and never below the one step.

Adaptive sharpness (ASAM, Kwon et al. 2021) is the same in the units of the weights: `in_weight_units` gives f as a
function of delta, eps = |w| * delta. All of this, and the spectrum, then apply to that.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import ABOVE_ZERO, at_least, check
from ..derivatives import value_and_gradients
from ..errors import invalid
from ..params import Params, add_scaled, dot, norm, scaled
from ..sharpness import perturbation
from .surfaces import Surface


class OneStep(NamedTuple):
    """SAM's own estimate: linear = alpha * ||g||, rise = f(theta + epsilon) - f(theta), epsilon = alpha * g / ||g||."""

    linear: float
    rise: float
    epsilon: Params


class Maximum(NamedTuple):
    """The highest point found in the ball.

    first       where the search began: SAM's one step
    rise        f(theta + epsilon) - f(theta), at least 0
    epsilon     where, ||epsilon|| <= alpha
    alignment   cosine between epsilon and the gradient there: 1 at a stationary point on the sphere; 0 if epsilon is 0
    multiplier  mu = <gradient there, epsilon> / alpha^2. Of a quadratic, an aligned epsilon is the global maximum if,
                and only if, mu is at least the largest eigenvalue (and 0)
    """

    first: OneStep
    rise: float
    epsilon: Params
    alignment: float
    multiplier: float


class _Point(NamedTuple):
    """Where a search stands: f(theta + epsilon), epsilon, and the gradient there."""

    value: float
    epsilon: Params
    gradient: Params


def one_step(surface: Surface, params: Params, alpha: float) -> OneStep:
    """Sharpness (7) by the linearisation (8a): two values and one gradient. Raises UserError unless alpha > 0."""
    check("alpha", alpha, ABOVE_ZERO)
    here, gradient = _look(surface, params)
    epsilon = perturbation(gradient, alpha)
    with torch.no_grad():
        there = float(surface(add_scaled(params, epsilon, 1.0)))
    return OneStep(alpha * float(norm(gradient)), there - here, epsilon)


def maximise(
    surface: Surface,
    params: Params,
    alpha: float,
    *,
    steps: int,
    restarts: int,
    generator: torch.Generator,
) -> Maximum:
    """Sharpness (7) by maximisation: projected gradient ascent from SAM's one step and from random points.

    steps     of each ascent. One that would go down is not taken and the next a quarter as long; one that goes up is
              taken and the next twice as long
    restarts  random points on the sphere that it starts from as well, drawn on the generator's device

    Costs 1 + (1 + restarts) * (1 + steps) gradients. Raises UserError for a radius that is not above 0, fewer than 0
    restarts or steps, and a surface that is not finite in the ball.
    """
    check("alpha", alpha, ABOVE_ZERO)
    check("steps", steps, at_least(0))
    check("restarts", restarts, at_least(0))
    here, gradient = _look(surface, params)
    starts = [perturbation(gradient, alpha)] + [_on_sphere(params, alpha, generator) for _ in range(restarts)]
    points = [_point(surface, params, start) for start in starts]
    first = OneStep(alpha * float(norm(gradient)), points[0].value - here, points[0].epsilon)
    best = Maximum(first, 0.0, scaled(params, 0.0), 0.0, 0.0)
    for point in points:
        value, epsilon, slope = _ascend(surface, params, point, alpha, steps)
        if value - here > best.rise:
            along, length = float(dot(slope, epsilon)), float(norm(slope) * norm(epsilon))
            best = Maximum(first, value - here, epsilon, along / length if length else 0.0, along / alpha**2)
    return best


def in_weight_units(surface: Surface, params: Params) -> tuple[Surface, Params]:
    """The surface around `params` as a function of delta, f(w + |w| delta), and the origin delta = 0.

    Of this function and point `one_step`, `maximise` and `expand` give adaptive sharpness and the Hessian |w| H |w|.
    ASAM's ball is ||delta|| <= alpha: dimensionless, a share of each weight. If f(A w) = f(w) for all w and a diagonal
    A > 0, it is the same function at A w as at w, and so are they all, exactly. (Kwon et al. also add a small constant
    to |w|, which gives a weight of 0 a way to move, and breaks this.)
    """
    fixed = {name: value.detach() for name, value in params.items()}

    def weighted(delta: Params) -> Tensor:
        return surface({name: value + value.abs() * delta[name] for name, value in fixed.items()})

    return weighted, scaled(fixed, 0.0)


def _ascend(surface: Surface, params: Params, point: _Point, alpha: float, steps: int) -> _Point:
    """Where `steps` steps lead. A long step ends at alpha * g / ||g||, SAM's again."""
    length = 2 * alpha
    for _ in range(steps):
        further = _into_ball(add_scaled(point.epsilon, perturbation(point.gradient, length), 1.0), alpha)
        candidate = _point(surface, params, further)
        if candidate.value > point.value:
            point, length = candidate, 2 * length
        else:
            length = length / 4
    return point


def _point(surface: Surface, params: Params, epsilon: Params) -> _Point:
    value, gradient = _look(surface, add_scaled(params, epsilon, 1.0))
    return _Point(value, epsilon, gradient)


def _look(surface: Surface, params: Params) -> tuple[float, Params]:
    """Value and gradient at a point. Raises UserError where they are not finite."""

    def twice(params: Params) -> tuple[Tensor, Tensor]:
        value = surface(params)
        return value, value

    (gradient,), (value, _) = value_and_gradients(twice, {name: value.detach() for name, value in params.items()})
    if not (value.isfinite() and norm(gradient).isfinite()):
        raise invalid("surface", float(value), "finite, with its gradient, in the whole ball", "Lower alpha.")
    return float(value), gradient


def _into_ball(epsilon: Params, alpha: float) -> Params:
    return scaled(epsilon, (alpha / norm(epsilon)).clamp(max=1.0))


def _on_sphere(params: Params, alpha: float, generator: torch.Generator) -> Params:
    direction = {
        name: torch.randn(value.shape, generator=generator, device=generator.device).to(value)
        for name, value in params.items()
    }
    return perturbation(direction, alpha)
