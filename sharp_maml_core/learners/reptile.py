r"""Reptile: train on a task for a while, then move the initial parameters towards where that led.

    phi_m = U(theta; D_m + D'_m)      `inner_steps` steps of Adam or plain SGD, each on a mini-batch of its images
    grad  = mean_m (theta - phi_m)    the pseudo-gradient, which the outer optimiser takes for a gradient

While it trains, support and query images are one set; at test time `adapt` sees the support set only, all of it in each
of `eval_inner_steps` steps. With outer_optimizer=sgd, outer_lr=1 and outer_schedule=linear the outer step is Nichol et
al.'s theta <- theta + step * mean_m (phi_m - theta), whose step falls linearly from 1 to 0. The first step of plain SGD
makes inner_lr times the gradient of the task's loss; what distinguishes Reptile comes from the later ones.

The inner Adam has no first moment (beta1 = 0), as in the source, and starts afresh in each task, so that phi_m depends
on theta and the task alone: in the released code second moments are handed on from task to task.

`alpha_up` takes the pseudo-gradient once more, at theta + alpha_up * grad / ||grad||, with the same tasks and the same
mini-batches. The pseudo-gradient is not the gradient of any function, so this is an ascent in name only. Sharp-Reptile
is not in the paper.

Source: Nichol, Achiam and Schulman 2018, and their released code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import Config
from ..derivatives import gradient as gradient_of
from ..episode import Episode
from ..meta import MetaGradient, Metrics, sharpen
from ..network import Network
from ..params import Params, add_scaled, scaled
from .common import mean_gradient, precision_of, task_metrics
from .learner import Learner, Loss
from .settings import only

BETA2, EPS = 0.999, 1e-8  # Adam's, in PyTorch and in the source alike


class Moments(NamedTuple):
    """The inner Adam's state: mean squares of the gradients, and how many there were."""

    squares: Params
    steps: int


def reptile(config: Config, network: Network, loss: Loss) -> Learner:
    """A learner whose `gradient` is the pseudo-gradient; any model and loss will do.

    `query_loss` and `query_accuracy` are those of phi_m on the query images, which it was trained on as well.

    Raises UserError for `alpha_low` and for `adapt_norm=False`: what no inner step moves would never be learned.
    """
    only(config, hint="alpha_up sharpens it.", alpha_low=0.0)
    only(config, hint="It learns only what its inner steps move.", adapt_norm=True)
    direction = DIRECTIONS[config.reptile_optimizer]

    def train(theta: Params, x: Tensor, y: Tensor, steps: int, batches: Tensor | None = None) -> Params:
        """How far the inner steps lead, theta - phi: summed up by itself it does not drown in theta's rounding."""
        way = {name: torch.zeros_like(value) for name, value in theta.items()}
        moments = Moments(way, 0)
        for step in range(steps):
            seen = (x, y) if batches is None else (x[batches[step]], y[batches[step]])
            grads = gradient_of(lambda phi, x, y: loss(network.forward(phi, x), y), add_scaled(theta, way, -1.0), *seen)
            descent, moments = direction(grads, moments)
            way = add_scaled(way, descent, config.inner_lr)
        return way

    def pseudo_gradient(params: Params, episode: Episode, batches: Tensor | None) -> MetaGradient:
        def one_task(task: Episode, batches: list[Tensor]) -> tuple[Params, Metrics]:
            x, y = torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y])
            way = train(params, x, y, config.inner_steps, batches[0] if batches else None)
            with precision_of(config.query_precision, task.query_x):
                outputs = network.forward(add_scaled(params, way, -1.0), task.query_x)
            outputs = outputs.to(task.query_x.dtype)
            return way, task_metrics(loss(outputs, task.query_y), outputs, task.query_y)

        return mean_gradient(config, one_task, episode, [] if batches is None else [batches])

    def gradient(params: Params, episode: Episode, generator: torch.Generator | None = None) -> tuple[Params, Metrics]:
        def once(params: Params, episode: Episode, looks: Any, generator: torch.Generator | None) -> MetaGradient:
            return pseudo_gradient(params, episode, batches)  # drawn once: the second pass must not see others

        with torch.inference_mode(False), torch.no_grad():  # nothing is differentiated through the inner steps
            batches = draw_batches(episode, config.inner_steps, config.reptile_batch, generator)
            grads, metrics, _ = sharpen(once, config.alpha_up, adaptive=config.adaptive)(params, episode, None, None)
        return grads, metrics

    def adapt(params: Params, support_x: Tensor, support_y: Tensor) -> Params:
        with torch.inference_mode(False), torch.no_grad():
            way = train(params, support_x, support_y, config.steps_of_test)
            return add_scaled(params, way, -1.0)

    return Learner(
        init=network.init,
        gradient=gradient,
        adapt=adapt,
        predict=network.forward,
        recordable=config.reptile_batch == 0,
    )


def draw_batches(episode: Episode, steps: int, size: int, generator: torch.Generator | None) -> Tensor | None:
    """The images of each inner step, int64 [T, S, B], numbered through support and query; None where size is 0: all.

    A task's images are gone through in random order, and again in another once all were seen.
    """
    if size == 0:
        return None
    generator = generator or torch.Generator().manual_seed(0)
    n_images = episode.support_y.shape[1] + episode.query_y.shape[1]
    rounds = -(-steps * size // n_images)
    keys = torch.rand((episode.n_tasks, rounds, n_images), generator=generator, device=generator.device)
    order = keys.argsort(-1).flatten(1)[:, : steps * size]
    return order.reshape(-1, steps, size).to(episode.support_x.device)


def _adam(grads: Params, moments: Moments) -> tuple[Params, Moments]:
    """Adam with beta1 = 0: g / (sqrt(v) + eps), v the mean of g^2 over the steps, the last ones weighing most."""
    steps = moments.steps + 1
    squares = {name: BETA2 * v + (1 - BETA2) * grads[name] ** 2 for name, v in moments.squares.items()}
    unbiased = scaled(squares, 1 / (1 - BETA2**steps))
    return {name: g / (unbiased[name].sqrt() + EPS) for name, g in grads.items()}, Moments(squares, steps)


def _sgd(grads: Params, moments: Moments) -> tuple[Params, Moments]:
    return grads, moments


DIRECTIONS: dict[str, Callable[[Params, Moments], tuple[Params, Moments]]] = {"adam": _adam, "sgd": _sgd}
"""What an inner step descends, and the optimiser's new state."""
