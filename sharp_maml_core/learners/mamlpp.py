r"""MAML++: MAML with a learning rate for each tensor and inner step, and a training that is eased in.

The meta-parameters are, beside the initial point phi_0 = theta, the rates eta_s of each inner step and each tensor, and
the scales and shifts nu_s of each inner step's own norm layers:

    phi_{s+1} = phi_s - eta_s * g_s,   g_s = grad L(phi_s, nu_s; D),   s = 0, ..., S-1
    objective = sum_s w_s L(phi_{s+1}, nu_s; D'),   sum_s w_s = 1

The weights w move from equal ones to the last step alone (`step_weights`), and the first iterations take every g_s for
a constant. The derivative is one vector that is carried back through the steps, and picks up a query gradient at each:

    v = 0;   for s = S-1, ..., 0:   v = v + w_s grad_phi L(phi_{s+1}, nu_s; D'),   d/d eta_s = -<v, g_s> of each tensor,
                                    v = v - H_s (eta_s * v),   and likewise for nu_s

with H_s the Hessian of the support loss at phi_s. Points and gradients are kept of each step, and a bounded number of
graphs. With equal rates, the weight on the last step, second derivatives and no norms of their own it is MAML.

The two other parts are found elsewhere: the cosine schedule is `outer_schedule`, and the ensemble of the best on
validation is what `Learner.ensemble` asks for.

Source: Antoniou et al. 2019 and its released code. Of that, running statistics are left out: `EpisodeNorm` normalises
by the images at hand always, as the released code in fact does too (it keeps statistics per step, and never uses them).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import Config
from ..derivatives import Pullback, gradient, value_and_gradients, vjp
from ..episode import Episode
from ..errors import invalid
from ..meta import MetaGradient, Metrics, sharpen
from ..network import Network
from ..params import Params, add_scaled, select
from .common import kept_graphs, mean_gradient, outer_gradient, precision_of, task_metrics
from .learner import Gradient, Learner, Loss
from .settings import only

RATE = "rate/"
"""What the name of a tensor's rates begins with; its rest is the tensor's own name."""

SMALLEST = 0.03
"""The share of an equal weight under which no step but the last falls while the loss is one of many steps."""


class Plan(NamedTuple):
    """The objective of one iteration: w_s of each step, and whether inner gradients are taken for constants."""

    weights: tuple[float, ...]
    first_order: bool


class Steps(NamedTuple):
    """The meta-parameters as an inner loop needs them: where it starts, and what each of its steps uses."""

    fast: Params
    rates: list[Params]  # one number a tensor of `fast`
    contexts: list[Params]  # what is not adapted


def mamlpp(config: Config, network: Network, loss: Loss) -> Learner:
    """MAML++. `params` has the network's names, of norm layers [S, channels], and `rate/NAME` [S]."""
    _refuse_what_does_not_apply(config)
    per_step = network.norm_names if config.mamlpp_step_norms else frozenset()
    steps = config.inner_steps

    def adapted(name: str) -> bool:
        return name not in per_step and (config.adapt_norm or name not in network.norm_names)

    def init(generator: torch.Generator) -> Params:
        params = network.init(generator)
        rates = {RATE + name: value.new_full((steps,), config.inner_lr) for name, value in params.items()}
        own = {name: torch.stack([value] * steps) for name, value in params.items() if name in per_step}
        return params | own | select(rates, lambda name: adapted(name.removeprefix(RATE)))

    def unpack(params: Params) -> Steps:
        theta = select(params, lambda name: not name.startswith(RATE))
        fast = select(theta, adapted)
        rates = [{name: params[RATE + name][step] for name in fast} for step in range(steps)]
        fixed = select(theta, lambda name: not adapted(name))
        contexts = [
            {name: value[step] if name in per_step else value for name, value in fixed.items()} for step in range(steps)
        ]
        return Steps(fast, rates, contexts)

    def pass_of(plan: Plan) -> Callable[..., MetaGradient]:
        def once(
            params: Params, episode: Episode, looks: Any = None, generator: torch.Generator | None = None
        ) -> MetaGradient:
            at = unpack(params)

            def one_task(task: Episode) -> tuple[Params, Metrics]:
                return _task_gradient(config, network, loss, plan, at, task, per_step)

            grads, metrics, _ = mean_gradient(config, one_task, episode)
            return MetaGradient({name: grads[name] for name in params}, metrics, None)

        return once

    def annealed(iteration: int) -> Gradient:
        return outer_gradient(sharpen(pass_of(plan_of(config, iteration)), config.alpha_up, adaptive=config.adaptive))

    def adapt(params: Params, support_x: Tensor, support_y: Tensor) -> Params:
        with torch.inference_mode(False):
            phi, rates, contexts = unpack(params)
            for step in range(config.steps_of_test):
                descent = gradient(_loss_on(network, loss, support_x, support_y), phi, contexts[step])
                phi = _descended(phi, descent, rates[step])
            return phi | contexts[step]

    return Learner(
        init=init,
        gradient=annealed(config.iterations),
        adapt=adapt,
        predict=network.forward,
        annealed=annealed,
        ensemble=config.mamlpp_ensemble,
    )


def step_weights(steps: int, done: float) -> tuple[float, ...]:
    """Weights of the query losses when a share `done` of the annealing lies behind: equal at 0, the last alone from 1.

    In between all but the last fall in proportion, but not below 3% of where they began; they sum to 1. Antoniou et al.
    go an epoch at a time, here it is an iteration.
    """
    if done >= 1:
        return (0.0,) * (steps - 1) + (1.0,)
    others = max(1 - done, SMALLEST) / steps
    return (others,) * (steps - 1) + (1 - (steps - 1) * others,)


def plan_of(config: Config, iteration: int) -> Plan:
    """What the objective is in the iteration, counted from 0."""
    annealing = config.mamlpp_multi_step * config.iterations
    return Plan(
        step_weights(config.inner_steps, iteration / annealing if annealing else 1.0),
        first_order=iteration < config.mamlpp_first_order * config.iterations,
    )


def _task_gradient(
    config: Config,
    network: Network,
    loss: Loss,
    plan: Plan,
    at: Steps,
    task: Episode,
    per_step: frozenset[str],
) -> tuple[Params, Metrics]:
    """The gradient of one task by all meta-parameters, and its metrics after the last step."""
    descent = _descent(_loss_on(network, loss, task.support_x, task.support_y))
    points, gradients = [at.fast], []
    pullbacks: list[Pullback | None] = []
    for step, (rates, context) in enumerate(zip(at.rates, at.contexts, strict=True)):
        pullback = None
        if plan.first_order or step < len(at.rates) - kept_graphs(task):
            found = descent(points[-1], context)
        else:
            found, pullback = vjp(descent, points[-1], context)
        gradients.append(found)
        pullbacks.append(pullback)
        points.append(_descended(points[-1], found, rates))

    def query_loss(phi: Params, context: Params) -> tuple[Tensor, Tensor]:
        with precision_of(config.query_precision, task.query_x):
            outputs = network.forward(phi | context, task.query_x)
        return loss(outputs.to(task.query_x.dtype), task.query_y), outputs

    metrics: Metrics = {}
    v = _zeros(at.fast)
    by_rates: list[Params] = []
    by_contexts: list[Params] = []
    for step in reversed(range(len(at.rates))):
        rates, context, pullback = at.rates[step], at.contexts[step], pullbacks.pop()
        w = _zeros(context)
        if plan.weights[step]:
            (by_phi, by_context), (value, outputs) = value_and_gradients(query_loss, points[step + 1], context)
            v, w = add_scaled(v, by_phi, plan.weights[step]), add_scaled(w, by_context, plan.weights[step])
            metrics = metrics or task_metrics(value, outputs, task.query_y)  # of the last step, the first one here
        by_rates.append({RATE + name: -(value * gradients[step][name]).sum() for name, value in v.items()})
        if not plan.first_order:
            back = pullback or vjp(descent, points[step], context)[1]
            by_phi, by_context = back({name: rates[name] * value for name, value in v.items()})
            v, w = add_scaled(v, by_phi, -1.0), add_scaled(w, by_context, -1.0)
        by_contexts.append(w)
    return v | _over_steps(by_rates) | _of_contexts(by_contexts, per_step), metrics


def _loss_on(network: Network, loss: Loss, x: Tensor, y: Tensor) -> Callable[[Params, Params], Tensor]:
    return lambda phi, context: loss(network.forward(phi | context, x), y)


def _descent(function: Callable[[Params, Params], Tensor]) -> Callable[[Params, Params], Params]:
    return lambda phi, context: gradient(function, phi, context)


def _descended(phi: Params, descent: Params, rates: Params) -> Params:
    return {name: value - rates[name] * descent[name] for name, value in phi.items()}


def _zeros(x: Params) -> Params:
    return {name: torch.zeros_like(value) for name, value in x.items()}


def _over_steps(backwards: list[Params]) -> Params:
    """What was found going back from the last step, stacked from the first one on."""
    return {name: torch.stack([found[name] for found in reversed(backwards)]) for name in backwards[0]}


def _of_contexts(backwards: list[Params], per_step: frozenset[str]) -> Params:
    """A tensor that all steps share gets the sum of what they say."""
    stacked = _over_steps(backwards)
    return {name: value if name in per_step else value.sum(0) for name, value in stacked.items()}


def _refuse_what_does_not_apply(config: Config) -> None:
    if config.eval_inner_steps > config.inner_steps:
        raise invalid(
            "eval_inner_steps",
            config.eval_inner_steps,
            f"at most inner_steps={config.inner_steps} for {config.variant}: later steps have no learned rate",
            "Train with as many steps as you test with.",
        )
    only(config, hint="alpha_up sharpens it.", alpha_low=0.0)
