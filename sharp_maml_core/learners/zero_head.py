r"""A head that starts every task from zero and is not learned (Kao et al. 2022, the zeroing trick), for `maml.py`.

All classes of a task are then alike before its first step (`Network.check_parts` sees to it). There, whatever the
features theta_r are, the loss is the same, so its gradient and its second derivatives by them are zero: the first step
moves the head alone,

    theta_c' = -inner_lr * grad_{theta_c} L(0; phi(D)),   phi = features(theta_r),

and v, the gradient by what comes after it, is pulled back through phi once. A general step differentiates the support
loss twice by everything to find the same.

On unit features of length s, with one image x_n a class, a step of rate beta makes logits that are, but for a number
that all classes share,

    beta s^2 / N * cos(phi(x), phi(x_n))

Those are the logits of Matching Networks with the scale beta s^2 / N, and the meta-gradient is theirs, second
derivatives and all; from the second step on the features adapt too.

Such a head has as many rows as a task has classes. Training tasks may therefore have more of them than test tasks
(`train_way`; Snell et al. 2017), which is harder and teaches more. A task of M classes is taken with the rate
inner_lr * M / n_way, because the support loss is a mean: each row, and so each logit, moves as far as in one of n_way.
From the second step on the features take that rate too, so each image pulls at them as in a task of n_way classes, and
all together the more, the more classes there are.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..adapt import InnerRule, Outcome, Problem, task_gradient
from ..config import Config
from ..derivatives import gradient, vjp
from ..episode import Episode
from ..errors import invalid
from ..network import HEAD, Network
from ..params import Params, add_scaled, scaled, select
from ..sharpness import is_off
from .common import kept_graphs
from .learner import Loss


def without_head(params: Params, n_classes: int | None = None) -> Params:
    """Parameters, or their gradient, with zeros for the head's, if given a number of classes with a row for each."""

    def zeros(value: Tensor) -> Tensor:
        return torch.zeros_like(value) if n_classes is None else value.new_zeros(n_classes, *value.shape[1:])

    return {name: zeros(value) if _in_head(name) else value for name, value in params.items()}


def started(config: Config, params: Params, n_classes: int) -> Params:
    """Parameters as a task of n classes starts from them, or their gradient: with `zero_head` without a head."""
    if not config.zero_head:
        return params
    return without_head(params, n_classes if config.train_way else None)


def classes_of(config: Config, support_y: Tensor) -> int:
    """How many classes a task that gives a gradient has, by its support labels [..., N*K]: train_way or n_way.

    A task that is only adapted to has n_way, whatever its shots: of it the number of labels says nothing.
    """
    if not config.train_way:
        return config.n_way
    n_images = support_y.shape[-1]  # a size: labels cannot be looked at within `vmap` or while a GPU records
    for n_classes in (config.train_way, config.n_way):
        if n_images == n_classes * config.k_shot:
            return n_classes
    raise invalid(
        "episode",
        f"one of {n_images} support images a task",
        f"of k_shot={config.k_shot} images of each of train_way={config.train_way} or n_way={config.n_way} classes",
        "Build the learner with the k_shot of its tasks.",
    )


def rule_for(config: Config, rule: InnerRule, n_classes: int) -> InnerRule:
    """The rule of a task of n classes."""
    return dataclasses.replace(rule, inner_lr=rule.inner_lr * (n_classes / config.n_way))


def check_rows(network: Network, config: Config) -> None:
    """Raise UserError unless each tensor of the head has a row for each class, so that there can be other classes."""
    for name, shape in network.shapes.items():
        if _in_head(name) and (not shape or shape[0] != config.n_way):
            raise invalid(
                "train_way",
                config.train_way,
                f"0: this model's {name} is of shape {tuple(shape)}, and not of n_way={config.n_way} rows",
                "Make the head one linear layer.",
            )


def moves_the_head_alone(rule: InnerRule) -> bool:
    """Whether the first step leaves the features: one that looks from a perturbed head, as `low`'s, does not."""
    return is_off(rule.alpha_low)


def gradient_from_zero_head(
    rule: InnerRule, network: Network, loss: Loss, task: Episode, problem: Problem, fast: Params, context: Params
) -> Outcome:
    """`adapt.task_gradient` of all but the head, for a rule of which `moves_the_head_alone` is true.

    problem, fast, context  those of the whole network; the head, zeros, is among what is adapted
    """

    def first_step(params: Params) -> Params:
        features = network.features(params, task.support_x)
        zero = select(params, _in_head)
        return scaled(gradient(lambda head: loss(network.head(head, features), task.support_y), zero), -rule.inner_lr)

    head, pull_back = vjp(first_step, fast | context)
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
