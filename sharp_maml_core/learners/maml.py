"""MAML, Sharp-MAML low / up / both, and their first-order, ANIL and ESAM forms: settings of the same few functions.

Algorithms 1-4 and Section 5.4 of the paper; Finn et al. 2017; Raghu et al. 2020 (ANIL); Du et al. 2022 (ESAM).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..adapt import InnerRule, Look, Masks, Problem, adapt, task_gradient
from ..config import Config
from ..data.split import Split
from ..derivatives import vjp
from ..episode import Episode
from ..errors import invalid
from ..meta import MetaGradient, Metrics, sharpen
from ..network import FEATURES, HEAD, Network
from ..params import Params, select
from ..sharpness import is_off
from .common import kept_graphs, mean_gradient, outer_gradient, precision_of, task_metrics, trial
from .learner import Learner, Loss
from .zero_head import check_rows, classes_of, gradient_from_zero_head, moves_the_head_alone, rule_for, started


@dataclass(frozen=True)
class Kind:
    """What distinguishes one variant of the family from plain MAML."""

    low: bool = False  # SAM in the inner loop (Eq. 11-12)
    up: bool = False  # SAM on the meta-gradient (Eq. 13-15)
    head_only: bool = False  # ANIL: adapt the head only (Eq. 19)
    efficient: bool = False  # ESAM's two strategies in `low`
    first_order: bool = False  # FOMAML


KINDS = {
    "maml": Kind(),
    "fomaml": Kind(first_order=True),
    "low": Kind(low=True),
    "up": Kind(up=True),
    "both": Kind(low=True, up=True),
    "anil": Kind(head_only=True),
    "low-anil": Kind(low=True, head_only=True),
    "e-low": Kind(low=True, efficient=True),
    "e-low-anil": Kind(low=True, head_only=True, efficient=True),
}


class Decomposition(NamedTuple):
    """One task, told as a problem in what is adapted, and the way back from its derivatives to all parameters."""

    problem: Problem
    fast: Params
    context: Params
    pull_back: Callable[[Params, Params], Params]


def maml(config: Config, network: Network, loss: Loss) -> Learner:
    """A learner of the family; `config.variant` is a key of `KINDS`."""
    kind = KINDS[config.variant]
    rule = _inner_rule(config, kind)
    test_rule = _inner_rule(config, kind, at_test=True)
    if kind.head_only and not network.has_parts:
        raise invalid(
            "variant",
            config.variant,
            "a variant without ANIL: this model has no submodules `features` and `head`",
            "Compose the model as head(features(x)), or choose maml, low, up or both.",
        )
    if config.zero_head and not network.has_parts:
        raise invalid(
            "zero_head",
            True,
            "false: this model has no submodules `features` and `head`",
            "Compose the model as head(features(x)).",
        )
    if config.train_way:
        check_rows(network, config)
    decompose = _head_only if kind.head_only else whole_network

    def adapted(name: str) -> bool:
        if kind.head_only:
            return name.startswith(HEAD)
        return config.adapt_norm or name not in network.norm_names

    def check_model(params: Params, x: Tensor) -> None:
        if kind.head_only or config.zero_head:
            network.check_parts(params, x, zero_head=config.zero_head)

    def check_split(split: Split) -> None:  # now: in a stack `vmap` hides what `check_model` looks at
        if kind.head_only or config.zero_head:
            network.check_parts(*trial(config, network, split), zero_head=config.zero_head)

    def once(
        params: Params, episode: Episode, looks: Any = None, generator: torch.Generator | None = None
    ) -> MetaGradient:
        n_classes = classes_of(config, episode.support_y)
        here = rule_for(config, rule, n_classes)

        def one_task(task: Episode, looks: list[Look], masks: Params) -> tuple[Params, Metrics, list[Look]]:
            problem, fast, context, pull_back = decompose(network, loss, params, adapted, task, config.query_precision)
            if config.zero_head and moves_the_head_alone(rule) and not kind.head_only:
                outcome = gradient_from_zero_head(here, network, loss, task, problem, fast, context)
            else:
                outcome = task_gradient(here, problem, fast, context, looks, _per_step(masks, rule), kept_graphs(task))
            grads = started(config, pull_back(outcome.fast_gradient, outcome.context_gradient), config.n_way)
            return grads, task_metrics(outcome.query_loss, outcome.outputs, task.query_y), outcome.looks

        params = started(config, params, n_classes)
        check_model(params, episode.support_x[0])
        masks = _random_weights(rule, select(params, adapted), episode.n_tasks, generator)
        return mean_gradient(config, one_task, episode, looks or [], masks)

    whole = sharpen(
        once,
        config.alpha_up if kind.up else 0.0,
        adaptive=config.adaptive,
        reuse=config.reuse_lower_perturbation,
    )

    def adapt_one(params: Params, support_x: Tensor, support_y: Tensor) -> Params:
        params = started(config, params, config.n_way)
        check_model(params, support_x)
        task = Episode(support_x, support_y, support_x[:0], support_y[:0])
        with torch.inference_mode(False):
            problem, fast, context, _ = decompose(network, loss, params, adapted, task, "full")
            masks = _random_weights(test_rule, fast, 1, None)
            masks = {name: value[0] for name, value in masks.items()}
            return params | adapt(test_rule, problem, fast, context, _per_step(masks, test_rule))

    return Learner(
        init=lambda generator: started(config, network.init(generator), config.n_way),
        gradient=outer_gradient(whole),
        adapt=adapt_one,
        predict=network.forward,
        check_split=check_split,
        recordable=not kind.efficient,
    )


def _inner_rule(config: Config, kind: Kind, at_test: bool = False) -> InnerRule:
    sharp = kind.low and (config.test_perturbation or not at_test)
    return InnerRule(
        inner_lr=config.inner_lr,
        steps=config.steps_of_test if at_test else config.inner_steps,
        alpha_low=config.alpha_low if sharp else 0.0,
        adaptive=config.adaptive,
        through=config.perturbation_gradient == "through",
        first_order=kind.first_order,
        weight_fraction=config.esam_weights if kind.efficient else 1.0,
        sample_fraction=config.esam_samples if kind.efficient else 1.0,
    )


def whole_network(
    network: Network,
    loss: Loss,
    params: Params,
    adapted: Callable[[str], bool],
    task: Episode,
    precision: str,
) -> Decomposition:
    """Everything adapts, but for what `adapted` leaves out; that is the context."""
    support_x, support_y, query_x, query_y = task

    def support_loss(fast: Params, context: Params, samples: Tensor | None = None) -> Tensor:
        x, y = (support_x, support_y) if samples is None else (support_x[samples], support_y[samples])
        return loss(network.forward(fast | context, x), y)

    def support_losses(fast: Params, context: Params) -> Tensor:
        return _per_sample(loss, network.forward(fast | context, support_x), support_y)

    def query_loss(fast: Params, context: Params) -> tuple[Tensor, Tensor]:
        with precision_of(precision, query_x):
            outputs = network.forward(fast | context, query_x)
        return loss(outputs.to(query_x.dtype), query_y), outputs

    return Decomposition(
        Problem(support_loss, support_losses, query_loss),
        select(params, adapted),
        select(params, lambda name: not adapted(name)),
        lambda by_fast, by_context: {name: (by_fast | by_context)[name] for name in params},
    )


def _head_only(
    network: Network,
    loss: Loss,
    params: Params,
    adapted: Callable[[str], bool],
    task: Episode,
    precision: str,
) -> Decomposition:
    """ANIL (Eq. 19): the head adapts to features that are computed once; the context is the features themselves."""
    support_x, support_y, query_x, query_y = task
    body = select(params, lambda name: name.startswith(FEATURES))

    def features(body: Params) -> Params:
        found = {"support": network.features(body, support_x)}
        if len(query_x):  # a task without queries only adapts
            with precision_of(precision, query_x):
                found["query"] = network.features(body, query_x).to(query_x.dtype)
        return found

    context, pull_features = vjp(features, body)

    def support_loss(fast: Params, context: Params, samples: Tensor | None = None) -> Tensor:
        x, y = (context["support"], support_y) if samples is None else (context["support"][samples], support_y[samples])
        return loss(network.head(fast, x), y)

    def support_losses(fast: Params, context: Params) -> Tensor:
        return _per_sample(loss, network.head(fast, context["support"]), support_y)

    def query_loss(fast: Params, context: Params) -> tuple[Tensor, Tensor]:
        outputs = network.head(fast, context["query"])
        return loss(outputs, query_y), outputs

    def pull_back(by_fast: Params, by_context: Params) -> Params:
        (by_body,) = pull_features(by_context)
        return {name: (by_fast | by_body)[name] for name in params}

    return Decomposition(
        Problem(support_loss, support_losses, query_loss),
        select(params, adapted),
        context,
        pull_back,
    )


def _per_sample(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.func.vmap(lambda output, target: loss(output[None], target[None]))(outputs, targets)


def _random_weights(rule: InnerRule, fast: Params, n_tasks: int, generator: torch.Generator | None) -> Params:
    """SWP's masks [T, S, ...] for all tasks and steps at once; none where SWP is off."""
    if rule.weight_fraction == 1 or is_off(rule.alpha_low):
        return {}
    generator = generator or torch.Generator().manual_seed(0)
    return {
        name: (
            torch.rand((n_tasks, rule.steps, *value.shape), generator=generator, device=generator.device)
            < rule.weight_fraction
        ).to(value)
        for name, value in fast.items()
    }


def _per_step(masks: Params, rule: InnerRule) -> Masks:
    return [{name: value[step] for name, value in masks.items()} for step in range(rule.steps)] if masks else None
