r"""Implicit MAML (Rajeswaran et al. 2019): the gradient of the proximal problem's solution, not of the way to it.

The lower level is that of the paper's (1b), with a lambda of its own, by plain gradient steps from phi = theta:

    phi*(theta) = argmin_phi L(phi; D) + (lambda / 2) ||phi - theta||^2
    phi <- phi - inner_lr * (grad L(phi; D) + lambda * (phi - theta))

Where its gradient is zero, grad L(phi*; D) + lambda (phi* - theta) = 0, the implicit function theorem gives

    d phi* / d theta = (I + H / lambda)^-1,   H the Hessian of L(.; D) at phi*

so that the meta-gradient is the solution v of (I + H / lambda) v = grad L(phi*; D'), by conjugate gradients. The way
back does not depend on the inner steps, neither in memory nor in time. H may be indefinite: `imaml_damping` is added to
the diagonal, and at a direction of non-positive curvature the conjugate gradients stop (see `solvers`). The metrics say
how far they got: `cg_residual`, and `cg_stopped`, the share of tasks in which such a direction was met.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..config import Config
from ..derivatives import gradient, value_and_gradients, vjp
from ..episode import Episode
from ..meta import MetaGradient, Metrics, sharpen
from ..network import Network
from ..params import Params, add_scaled
from ..solvers import conjugate_gradient
from .common import mean_gradient, outer_gradient, precision_of, task_metrics
from .learner import Learner, Loss
from .settings import only


def imaml(config: Config, network: Network, loss: Loss) -> Learner:
    """Implicit MAML; `alpha_up` > 0 sharpens it, which is new here.

    Raises UserError for a lower perturbation and for parameters that do not adapt: the equations above know neither.
    """
    only(config, alpha_low=0.0, adapt_norm=True)

    def minimise(theta: Params, x: Tensor, y: Tensor, steps: int) -> Params:
        phi = theta
        for _ in range(steps):
            descent = gradient(lambda phi: loss(network.forward(phi, x), y), phi)
            pull = add_scaled(phi, theta, -1.0)
            phi = add_scaled(phi, add_scaled(descent, pull, config.imaml_lambda), -config.inner_lr)
        return phi

    def one_task(theta: Params, task: Episode) -> tuple[Params, Metrics]:
        support_x, support_y, query_x, query_y = task

        def support_gradient(phi: Params) -> Params:
            return gradient(lambda phi: loss(network.forward(phi, support_x), support_y), phi)

        def query_loss(phi: Params) -> tuple[Tensor, Tensor]:
            with precision_of(config.query_precision, query_x):
                outputs = network.forward(phi, query_x)
            return loss(outputs.to(query_x.dtype), query_y), outputs

        def operator(v: Params) -> Params:
            (product,) = vjp(support_gradient, phi)[1](v)
            return {
                name: (1 + config.imaml_damping) * value + product[name] / config.imaml_lambda
                for name, value in v.items()
            }

        phi = minimise(theta, support_x, support_y, config.inner_steps)
        (b,), (value, outputs) = value_and_gradients(query_loss, phi)
        solution = conjugate_gradient(operator, b, config.imaml_cg_steps)
        metrics = task_metrics(value, outputs, query_y)
        return solution.x, metrics | {"cg_residual": solution.residual, "cg_stopped": solution.stopped}

    def once(
        params: Params, episode: Episode, looks: Any = None, generator: torch.Generator | None = None
    ) -> MetaGradient:
        return mean_gradient(config, partial(one_task, params), episode)

    whole = sharpen(once, config.alpha_up, adaptive=config.adaptive)

    def adapt_one(params: Params, support_x: Tensor, support_y: Tensor) -> Params:
        with torch.inference_mode(False):
            return minimise(params, support_x, support_y, config.steps_of_test)

    return Learner(
        init=network.init,
        gradient=outer_gradient(whole),
        adapt=adapt_one,
        predict=network.forward,
        recordable=True,
    )
