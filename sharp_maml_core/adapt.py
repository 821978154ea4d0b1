r"""The inner loop of one task, and the exact derivative of what follows it.

One step of the inner loop on the support set D (Eq. 9, 11, 12; alpha_low = 0 is MAML's):

    eps_s     = alpha_low * g / ||g||   with   g = grad L(phi_s; D)
    phi_{s+1} = phi_s - inner_lr * grad L(phi_s + eps_s; D)

The derivative of a query loss L(phi_S; D') by theta = phi_0 is Eq. 10, applied once a step. Read from right to left it
is a recursion on one vector,

    v = grad L(phi_S; D');   for s = S-1, ..., 0:   v = v - inner_lr * H(phi_s + eps_s) v,

so beside a few graphs only the points where inner gradients were taken are kept: memory does not grow with the number
of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from .derivatives import Pullback, gradient, value_and_gradients, vjp
from .params import Params, add_scaled
from .sharpness import adaptive_perturbation, is_off, most_sensitive, on_random_weights, perturbation

Direction = Callable[[Params, Params], Params]
"""(phi, context) -> the gradient that an inner step descends."""

Masks = list[Params] | None
"""SWP's random weights: a 0/1 dict shaped like the adapted parameters, one an inner step."""


@dataclass(frozen=True)
class InnerRule:
    """Settings of the inner loop; `Config` documents each."""

    inner_lr: float
    steps: int
    alpha_low: float | Tensor = 0.0
    adaptive: bool = False  # ASAM's ball instead of SAM's
    through: bool = False  # differentiate through eps, as the released code does; the paper's Eq. 10 does not
    first_order: bool = False  # FOMAML: take inner gradients for constants
    weight_fraction: float = 1.0  # ESAM's xi; 1 is off
    sample_fraction: float = 1.0  # ESAM's mu; 1 is off


class Look(NamedTuple):
    """Where one inner step looks from, and at what. Kept so that Eq. 14 can look from there again.

    epsilon  eps_s, shaped like the adapted parameters
    samples  one int64 [n], the support samples whose gradient is taken at phi_s + eps_s (ESAM's selection); () for all
    """

    epsilon: Params
    samples: tuple[Tensor, ...]


class Problem(NamedTuple):
    """One task as functions of what is adapted (`fast`) and of what is not (`context`).

    The context is whatever else gradients must reach: parameters that stay fixed inside, or ANIL's features.
    """

    support_loss: Callable[..., Tensor]  # (fast, context) or (fast, context, samples) -> mean loss
    support_losses: Callable[[Params, Params], Tensor] | None  # (fast, context) -> loss per sample [n]; for ESAM only
    query_loss: Callable[[Params, Params], tuple[Tensor, Any]]  # (fast, context) -> mean loss, outputs (or a tree)


class Outcome(NamedTuple):
    """What one task says: derivatives of its query loss, the loss, what came beside it, and where it looked."""

    fast_gradient: Params
    context_gradient: Params
    query_loss: Tensor
    outputs: Any
    looks: list[Look]


def adapt(rule: InnerRule, problem: Problem, fast: Params, context: Params, masks: Masks = None) -> Params:
    """The adapted parameters phi_S, without a derivative."""
    for step in range(rule.steps):
        direction, _ = _inner_gradient(rule, problem, fast, context, None, masks[step] if masks else None)
        fast = add_scaled(fast, direction(fast, context), -rule.inner_lr)
    return fast


def task_gradient(
    rule: InnerRule,
    problem: Problem,
    fast: Params,
    context: Params,
    looks: list[Look] | None = None,
    masks: Masks = None,
    kept_graphs: int = 1,
) -> Outcome:
    """The exact derivative of the query loss after adaptation (Eq. 10), by `fast` and by `context`.

    looks        perturbations to use again instead of computing them (Eq. 14); a list of `rule.steps`, or None
    kept_graphs  how many inner steps, the last ones, keep their graph for the way back; others are evaluated anew
    """
    points: list[tuple[Params, Direction, Pullback | None]] = []
    looked: list[Look] = []
    phi = fast
    for step in range(rule.steps):
        given = looks[step] if looks else None
        direction, look = _inner_gradient(rule, problem, phi, context, given, masks[step] if masks else None)
        if look is not None:
            looked.append(look)
        pullback = None
        if rule.first_order or step < rule.steps - kept_graphs:
            descent = direction(phi, context)
        else:
            descent, pullback = vjp(direction, phi, context)
        points.append((phi, direction, pullback))
        phi = add_scaled(phi, descent, -rule.inner_lr)

    (v, w), (loss, outputs) = value_and_gradients(problem.query_loss, phi, context)
    while points and not rule.first_order:
        point, direction, pullback = points.pop()
        by_fast, by_context = (pullback or vjp(direction, point, context)[1])(v)
        v, w = add_scaled(v, by_fast, -rule.inner_lr), add_scaled(w, by_context, -rule.inner_lr)
    return Outcome(v, w, loss, outputs, looked)


def _inner_gradient(
    rule: InnerRule, problem: Problem, phi: Params, context: Params, look: Look | None, mask: Params | None
) -> tuple[Direction, Look | None]:
    """What the step at phi descends, as a function of (phi, context) to differentiate, and where it looks from."""

    def descent(phi: Params, context: Params, *samples: Tensor) -> Params:
        return gradient(problem.support_loss, phi, context, *samples)

    def epsilon(phi: Params, context: Params) -> Params:
        steepest = descent(phi, context)
        if rule.adaptive:
            eps = adaptive_perturbation(steepest, phi, rule.alpha_low)
        else:
            eps = perturbation(steepest, rule.alpha_low)
        return eps if mask is None else on_random_weights(eps, mask, rule.weight_fraction)

    if is_off(rule.alpha_low):
        return descent, None
    constant = look is not None or not rule.through  # a perturbation that is used again is a number, not a function
    if look is None:
        eps = epsilon(phi, context)
        look = Look(eps, _selected(rule, problem, phi, eps, context))
    eps, samples = look

    def direction(phi: Params, context: Params) -> Params:
        return descent(add_scaled(phi, eps if constant else epsilon(phi, context), 1.0), context, *samples)

    return direction, look


def _selected(rule: InnerRule, problem: Problem, phi: Params, eps: Params, context: Params) -> tuple[Tensor, ...]:
    if rule.sample_fraction == 1:
        return ()
    assert problem.support_losses is not None
    increase = problem.support_losses(add_scaled(phi, eps, 1.0), context) - problem.support_losses(phi, context)
    return (most_sensitive(increase, rule.sample_fraction),)
