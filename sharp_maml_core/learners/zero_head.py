r"""A head that starts every task from zero and is not learned (Kao et al. 2022, the zeroing trick), for `maml.py`.

All classes of a task are then alike before its first step. There, whatever the features theta_r are, the loss is the
same, so its gradient and its second derivatives by them are zero: the first step moves the head alone,

    theta_c' = -inner_lr * grad_{theta_c} L(0; phi(D)),   phi = features(theta_r),

and v, the gradient by what comes after it, is pulled back through phi once. A general step differentiates the support
loss twice by everything to find the same.

On unit features of length s, with one image x_n a class, a step of rate beta makes logits that are, but for a number
that all classes share,

    beta s^2 / N * cos(phi(x), phi(x_n))

Those are the logits of Matching Networks with the scale beta s^2 / N, and the meta-gradient is theirs, second
derivatives and all; from the second step on the features adapt too.
"""

from __future__ import annotations

import dataclasses

import torch

from ..adapt import InnerRule, Outcome, Problem, task_gradient
from ..derivatives import gradient, vjp
from ..episode import Episode
from ..network import HEAD, Network
from ..params import Params, add_scaled, scaled, select
from ..sharpness import is_off
from .common import kept_graphs
from .learner import Loss


def without_head(params: Params) -> Params:
    """Parameters, or their gradient, with zeros for the head's."""
    return {name: torch.zeros_like(value) if _in_head(name) else value for name, value in params.items()}


def moves_the_head_alone(rule: InnerRule) -> bool:
    """Whether the first step leaves the features: one that looks from a perturbed head, as `low`'s, does not."""
    return is_off(rule.alpha_low)


def gradient_from_zero_head(
    rule: InnerRule, network: Network, loss: Loss, task: Episode, problem: Problem, fast: Params, context: Params
) -> Outcome:
    """`adapt.task_gradient` of all but the head, for a rule of which `moves_the_head_alone` is true.

    problem, fast, context  those of the whole network, the head among what is adapted
    """

    def first_step(params: Params) -> Params:
        features = network.features(params, task.support_x)
        zero = select(params, _in_head)
        return scaled(gradient(lambda head: loss(network.head(head, features), task.support_y), zero), -rule.inner_lr)

    start = without_head(fast | context)
    head, pull_back = vjp(first_step, start)
    rest = dataclasses.replace(rule, steps=rule.steps - 1)
    after = task_gradient(rest, problem, fast | head, context, kept_graphs=kept_graphs(task))
    if rule.first_order:
        return after
    (found,) = pull_back(select(after.fast_gradient, _in_head))
    return after._replace(
        fast_gradient=add_scaled(after.fast_gradient, found, 1.0),
        context_gradient=add_scaled(after.context_gradient, found, 1.0),
    )


def _in_head(name: str) -> bool:
    return name.startswith(HEAD)
