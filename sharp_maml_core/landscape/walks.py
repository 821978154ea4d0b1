r"""The way of theta through a scene, as the core goes it: Eq. 9 and 11-15 on two coordinates.

An outer step is the paper's own, theta <- theta - outer_lr * h with h of Eq. 10, 14 or 15; there is no Adam in it. What
goes is `adapt.task_gradient` inside of `meta.sharpen`. `build_learner`, given the same losses as a module, returns the
same to the last bit in nearly twice the time: it carries the parameters into the module at every look.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..adapt import InnerRule, Outcome, Problem, adapt, task_gradient
from ..checks import at_least, check, check_finite, one_of
from ..config import Config
from ..episode import Episode
from ..errors import Diverged
from ..learners.maml import KINDS
from ..meta import GradientPass, MetaGradient, sharpen
from ..params import Params, add_scaled
from .directions import Mark
from .plane import PlaneLoss, loss_at
from .scenes import Scene

POINT = "point"  # the name of the only parameter
VARIANTS = ("maml", "low", "up", "both")
NO_DATA = Episode(*[torch.empty(1, 0)] * 4)  # the losses are all there is


class Walk(NamedTuple):
    """T outer steps, and so T + 1 points, with S inner steps from each. float64, on the CPU.

    outer           [T+1, 2]       theta
    inner           [T+1, S+1, 2]  phi_0 = theta, ..., phi_S = theta'
    lower           [T+1, S, 2]    eps_s of Eq. 11; 0 where it is off
    upper           [T+1, 2]       epsilon of Eq. 13; 0 where it is off
    support_loss    [T+1, S+1]     at phi_0, ..., phi_S
    query_loss      [T+1, S+1]     at phi_0, ..., phi_S: the last of each row is F(theta) of Eq. 2
    perturbed_loss  [T+1]          F at theta + epsilon, with the lower perturbations of theta (Eq. 14)
    """

    outer: Tensor
    inner: Tensor
    lower: Tensor
    upper: Tensor
    support_loss: Tensor
    query_loss: Tensor
    perturbed_loss: Tensor

    @property
    def meta_loss(self) -> Tensor:
        """F(theta) [T+1]: the query loss after adaptation."""
        return self.query_loss[:, -1]


class _Look(NamedTuple):
    point: Tensor
    outcome: Outcome


def walk(scene: Scene, config: Config, start: Mark | None = None) -> Walk:
    """`config.iterations` outer steps from `start`, by default the scene's own.

    Raises UserError for a variant that means nothing on a plane and for a start that is not finite; Diverged where a
    step leads beyond all numbers.
    """
    return walk_and_objective(scene, config, torch.empty(0, 2, dtype=torch.float64), start)[0]


def walk_and_objective(scene: Scene, config: Config, points: Tensor, start: Mark | None = None) -> tuple[Walk, Tensor]:
    """`walk`, and `objective` at the points [..., 2]: all inner loops at once, which takes about as long as some."""
    theta = {POINT: torch.tensor(scene.start if start is None else start, dtype=torch.float64)}
    check_finite("start", theta[POINT])
    rows = []
    for step in range(config.iterations + 1):
        grads, looks = _outer_gradient(scene, config, theta, step)
        here, there = looks[0], looks[-1]
        rows.append((here.point, _lower(here, config), there.point - here.point, there.outcome.query_loss))
        theta = add_scaled(theta, grads, -config.outer_lr)
    outer, lower, upper, perturbed_loss = (torch.stack(column) for column in zip(*rows, strict=True))
    paths = inner_paths(scene, config, torch.cat([outer, points.reshape(-1, 2)]))
    inner, others = paths.split([len(outer), len(paths) - len(outer)])
    return (
        Walk(outer, inner, lower, upper, losses(scene.support, inner), losses(scene.query, inner), perturbed_loss),
        losses(scene.query, others[:, -1]).view(points.shape[:-1]),
    )


def inner_paths(scene: Scene, config: Config, points: Tensor) -> Tensor:
    """The inner loop from each of the points [n, 2]: phi_0, ..., phi_S, float64 [n, S+1, 2]."""
    rule, problem = dataclasses.replace(_rule(config), steps=1), _problem(scene)
    step = torch.func.vmap(lambda point: adapt(rule, problem, {POINT: point}, {})[POINT])
    paths = [points]
    for _ in range(config.inner_steps):
        paths.append(step(paths[-1]))
    return torch.stack(paths, 1)


def objective(scene: Scene, config: Config, points: Tensor) -> Tensor:
    """F(theta) = L(theta'(theta); D') of Eq. 2 at each of the points [..., 2]: what the outer loop descends, [...]."""
    ends = inner_paths(scene, config, points.reshape(-1, 2))[:, -1]
    return losses(scene.query, ends).view(points.shape[:-1])


def grid(scene: Scene, points: int = 33) -> Tensor:
    """Points on the scene's window: float64 [points, points, 2], the first coordinate along the first dimension.

    Raises UserError for fewer than two.
    """
    check("points", points, at_least(2))
    along_x, along_y = (torch.linspace(low, high, points, dtype=torch.float64) for low, high in scene.window)
    return torch.cartesian_prod(along_x, along_y).view(points, points, 2)


def losses(loss: PlaneLoss, points: Tensor) -> Tensor:
    """The loss at each of the points [..., 2]."""
    (values,) = loss.derivatives(points[..., 0].numpy(), points[..., 1].numpy(), 0)
    return torch.from_numpy(values)


def radii(config: Config) -> tuple[float, float]:
    """The lower and the upper radius that take effect: 0 where the variant does not perturb."""
    check("variant", config.variant, one_of(*VARIANTS))
    kind = KINDS[config.variant]
    return config.alpha_low if kind.low else 0.0, config.alpha_up if kind.up else 0.0


def _outer_gradient(scene: Scene, config: Config, theta: Params, step: int) -> tuple[Params, list[_Look]]:
    """The gradient that the outer step descends, and from where the core looked to get it: theta, theta + epsilon."""
    looks: list[_Look] = []
    gradient = sharpen(
        _watched(scene, config, looks),
        radii(config)[1],
        adaptive=config.adaptive,
        reuse=config.reuse_lower_perturbation,
    )
    try:
        grads = gradient(theta, NO_DATA, None, None).grads
    except OverflowError:
        grads = {POINT: torch.full((2,), torch.nan)}
    if not grads[POINT].isfinite().all():
        raise Diverged(f"Outer step {step} is not finite: use a smaller inner_lr or outer_lr.")
    return grads, looks


def _watched(scene: Scene, config: Config, seen: list[_Look]) -> GradientPass:
    rule, problem = _rule(config), _problem(scene)

    def once(params: Params, episode: Episode, looks: Any, generator: torch.Generator | None) -> MetaGradient:
        outcome = task_gradient(rule, problem, params, {}, looks, kept_graphs=rule.steps)  # graphs of two numbers
        seen.append(_Look(params[POINT], outcome))
        return MetaGradient(outcome.fast_gradient, {"query_loss": outcome.query_loss}, outcome.looks)

    return once


def _lower(look: _Look, config: Config) -> Tensor:
    if not look.outcome.looks:
        return look.point.new_zeros(config.inner_steps, 2)
    return torch.stack([each.epsilon[POINT] for each in look.outcome.looks])


def _rule(config: Config) -> InnerRule:
    return InnerRule(
        inner_lr=config.inner_lr,
        steps=config.inner_steps,
        alpha_low=radii(config)[0],
        adaptive=config.adaptive,
        through=config.perturbation_gradient == "through",
    )


def _problem(scene: Scene) -> Problem:
    def support_loss(fast: Params, context: Params) -> Tensor:
        return loss_at(scene.support, fast[POINT])

    def query_loss(fast: Params, context: Params) -> tuple[Tensor, Tensor]:
        loss = loss_at(scene.query, fast[POINT])
        return loss, loss

    return Problem(support_loss, lambda fast, context: support_loss(fast, context)[None], query_loss)
