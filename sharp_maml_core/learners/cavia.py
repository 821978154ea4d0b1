r"""CAVIA: a task changes a few context parameters c, and the network theta is shared by all tasks.

    c_0 = 0,   c_{s+1} = c_s - inner_lr * grad_c L(theta, c_s; D)      each task begins anew
    grad = mean over tasks of d/d theta L(theta, c_S(theta); D'),      exact: through all inner steps

Which are the parameters called `context` of the model: of `models.FilmConv4` they scale and shift channels. The way
back is the adjoint recursion of `adapt`, with c for what is adapted and theta for the rest. Without a context
(cavia_context=0) nothing adapts, and what is left is the gradient of the query loss at theta.

`alpha_low` perturbs c in the inner steps and `alpha_up` theta, each in the norm of its own parameters. Both together
are Sharp-CAVIA, which is not in the paper.

Source: Zintgraf et al. 2019; inner_lr 1, 2 steps, 100 numbers, 32 filters in their released code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..adapt import InnerRule, Look, Problem, adapt, task_gradient
from ..config import Config
from ..episode import Episode
from ..errors import invalid
from ..meta import MetaGradient, Metrics, sharpen
from ..network import CONTEXT, Network
from ..params import Params, select
from .common import kept_graphs, mean_gradient, outer_gradient, task_metrics
from .learner import Learner, Loss
from .maml import whole_network


def cavia(config: Config, network: Network, loss: Loss) -> Learner:
    """A learner whose parameters are all but the context; `adapt` adds the task's context to them.

    Raises UserError for a model that has no parameter called `context`.
    """
    shapes = network.context_shapes
    if not shapes:
        raise invalid(
            "variant",
            config.variant,
            f"another variant: no parameter of this model is called `{CONTEXT}`",
            f"Give it one, as in self.{CONTEXT} = nn.Parameter(torch.zeros(100)), and use it in forward; "
            "or take sharp_maml_core.models.FilmConv4.",
        )
    rule, test_rule = _inner_rule(config), _inner_rule(config, at_test=True)

    def parts(params: Params, task: Episode, precision: str) -> tuple[Problem, Params, Params]:
        """The task as a problem in c, its starting point, and what stays."""
        some = next(iter(params.values()))
        start = {name: some.new_zeros(shape) for name, shape in shapes.items()}
        return whole_network(network, loss, params | start, shapes.__contains__, task, precision)[:3]

    def once(
        params: Params, episode: Episode, looks: Any = None, generator: torch.Generator | None = None
    ) -> MetaGradient:
        def one_task(task: Episode, looks: list[Look]) -> tuple[Params, Metrics, list[Look]]:
            problem, c, theta = parts(params, task, config.query_precision)
            outcome = task_gradient(rule, problem, c, theta, looks, kept_graphs=kept_graphs(task))
            metrics = task_metrics(outcome.query_loss, outcome.outputs, task.query_y)
            return outcome.context_gradient, metrics, outcome.looks

        return mean_gradient(config, one_task, episode, looks or [])

    whole = sharpen(once, config.alpha_up, adaptive=config.adaptive, reuse=config.reuse_lower_perturbation)

    def adapt_one(params: Params, support_x: Tensor, support_y: Tensor) -> Params:
        task = Episode(support_x, support_y, support_x[:0], support_y[:0])
        with torch.inference_mode(False):
            problem, c, theta = parts(params, task, "full")
            return params | adapt(test_rule, problem, c, theta)

    def init(generator: torch.Generator) -> Params:
        params = network.init(generator)
        return select(params, lambda name: name not in shapes)

    return Learner(init, outer_gradient(whole), adapt_one, network.forward, recordable=True)


def _inner_rule(config: Config, at_test: bool = False) -> InnerRule:
    return InnerRule(
        inner_lr=config.inner_lr,
        steps=config.steps_of_test if at_test else config.inner_steps,
        alpha_low=config.alpha_low if config.test_perturbation or not at_test else 0.0,
        adaptive=config.adaptive,
        through=config.perturbation_gradient == "through",
    )
