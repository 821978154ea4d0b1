r"""LLAMA (Grant et al. 2018): MAML as empirical Bayes, with Laplace's approximation of the integral over the task.

With phi the adapted parameters of MAML, the meta-objective is

    L(phi; D') + eta * log det H,   H ~ F + tau I

with F the empirical Fisher matrix of the query set at phi, in K-FAC's form. Adaptation and prediction are MAML's. The
log-determinant depends on theta through phi alone, and its gradient flows through both factors of every layer: it joins
that of the query loss at phi, and the adjoint recursion takes both back to theta.

In Laplace's approximation of -log p(D' | theta), the query loss, summed over samples, stands beside 1/2 log det H. The
loss here is a mean, and `llama_eta` takes up all such factors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..adapt import InnerRule, Problem, adapt, task_gradient
from ..config import Config
from ..data.split import Split
from ..episode import Episode
from ..kfac import Shapes, layer_shapes, loss_and_log_det
from ..meta import MetaGradient, Metrics, sharpen
from ..network import Network
from ..params import Params, select
from .common import kept_graphs, mean_gradient, outer_gradient, task_metrics, trial
from .learner import Learner, Loss
from .settings import only


def llama(config: Config, network: Network, loss: Loss) -> Learner:
    """LLAMA; `alpha_up` > 0 sharpens it, which is new here.

    Raises UserError for a lower perturbation, for a query pass in bfloat16, in which a determinant means nothing, and
    for a model that K-FAC cannot read (see `kfac.layer_shapes`), the latter when it first sees a split or data.
    """
    only(config, alpha_low=0.0, query_precision="full")
    rule = InnerRule(config.inner_lr, config.inner_steps)
    test_rule = InnerRule(config.inner_lr, config.steps_of_test)

    def adapted(name: str) -> bool:
        return config.adapt_norm or name not in network.norm_names

    def split(params: Params) -> tuple[Params, Params]:
        return select(params, adapted), select(params, lambda name: not adapted(name))

    def problem(task: Episode, shapes: Shapes) -> Problem:
        support_x, support_y, query_x, query_y = task

        def support_loss(fast: Params, context: Params) -> Tensor:
            return loss(network.forward(fast | context, support_x), support_y)

        def query_loss(fast: Params, context: Params) -> tuple[Tensor, tuple[Tensor, ...]]:
            value, log_det, outputs = loss_and_log_det(
                network.forward, loss, fast | context, query_x, query_y, shapes, config.llama_damping
            )
            return value + config.llama_eta * log_det, (value, log_det, outputs)

        return Problem(support_loss, None, query_loss)

    def once(
        params: Params, episode: Episode, looks: Any = None, generator: torch.Generator | None = None
    ) -> MetaGradient:
        shapes = layer_shapes(network.forward, params, episode.query_x[0])

        def one_task(task: Episode) -> tuple[Params, Metrics]:
            outcome = task_gradient(rule, problem(task, shapes), *split(params), kept_graphs=kept_graphs(task))
            value, log_det, outputs = outcome.outputs
            by_name = outcome.fast_gradient | outcome.context_gradient
            grads = {name: by_name[name] for name in params}
            return grads, task_metrics(value, outputs, task.query_y) | {"log_det": log_det}

        return mean_gradient(config, one_task, episode)

    whole = sharpen(once, config.alpha_up, adaptive=config.adaptive)

    def adapt_one(params: Params, support_x: Tensor, support_y: Tensor) -> Params:
        task = Episode(support_x, support_y, support_x[:0], support_y[:0])
        with torch.inference_mode(False):
            return params | adapt(test_rule, problem(task, {}), *split(params))

    def check_split(train: Split) -> None:
        layer_shapes(network.forward, *trial(config, network, train))

    return Learner(
        init=network.init,
        gradient=outer_gradient(whole),
        adapt=adapt_one,
        predict=network.forward,
        check_split=check_split,
        recordable=True,
    )
