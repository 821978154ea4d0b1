r"""ERM and SAM: the single-level reference, one network for all training classes, and a fresh head for each task.

Eq. 5 minimises the plain mean of L(theta; D_m) over the tasks. Taken at its word, with a head for N ways, it learns
chance: the N classes of a task are numbered anew each time, and nothing adapts to the numbering. So the labels here are
the classes of the whole training split, and a batch of tasks is one mini-batch of images,

    theta <- theta - outer_lr * grad L(theta + eps; D),   eps = alpha_up * grad L(theta; D) / ||grad L(theta; D)||

with alpha_up = 0 for ERM (Eq. 5) and a radius for SAM (Eq. 6-8). A new task gets a linear head of its own, which starts
from zero and takes gradient steps on the support features; the features stay as they are. This is Chen et al.'s
baseline, but for the head's optimiser: theirs takes 100 epochs of SGD with momentum and weight decay in batches of 4.

Sources: Section 2.1 and 2.3 of the paper; Foret et al. 2021 (SAM); Chen et al. 2019 (the fresh head).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Config
from ..data.episodes import n_classes
from ..data.split import RegressionSplit, Split
from ..derivatives import gradient, value_and_gradients
from ..episode import Episode
from ..errors import invalid
from ..meta import MetaGradient, sharpen
from ..network import FEATURES, Network
from ..params import Params, add_scaled, select
from .common import outer_gradient, task_metrics, trial
from .learner import Learner, Loss
from .settings import only

WEIGHT, BIAS = "task.weight", "task.bias"
"""Names of a task's own head; those of the network begin with `features.` and `head.`."""


def erm(config: Config, network: Network, loss: Loss) -> Learner:
    """ERM, or SAM where `alpha_up` is above 0, on episodes whose labels are the classes of the split.

    All images of a batch, support and query, are normalised together in training; at test time those of a task's
    support set are, and those of its queries. So several processes cannot share a batch: each takes all of it.
    """
    _refuse_what_does_not_apply(config, network)
    steps = config.steps_of_test

    def once(
        params: Params, episode: Episode, looks: Any = None, generator: torch.Generator | None = None
    ) -> MetaGradient:
        network.check_parts(params, episode.support_x[0])
        x = torch.cat([episode.support_x, episode.query_x], 1).flatten(0, 1)
        y = torch.cat([episode.support_y, episode.query_y], 1).flatten()

        def of_all_images(params: Params) -> tuple[Tensor, Tensor]:
            outputs = network.forward(params, x)
            return loss(outputs, y), outputs

        (grads,), (value, outputs) = value_and_gradients(of_all_images, params)
        return MetaGradient(grads, task_metrics(value, outputs, y), None)

    whole = sharpen(once, config.alpha_up, adaptive=config.adaptive)

    def adapt(params: Params, support_x: Tensor, support_y: Tensor) -> Params:
        network.check_parts(params, support_x)
        with torch.inference_mode(False):
            features = network.features(params, support_x).flatten(1)

            def support_loss(head: Params) -> Tensor:
                return loss(F.linear(features, head[WEIGHT], head[BIAS]), support_y)

            head = {
                WEIGHT: features.new_zeros(config.n_way, features.shape[1]),
                BIAS: features.new_zeros(config.n_way),
            }
            for _ in range(steps):
                head = add_scaled(head, gradient(support_loss, head), -config.inner_lr)
            return select(params, lambda name: name.startswith(FEATURES)) | head

    def predict(fast: Params, query_x: Tensor) -> Tensor:
        return F.linear(network.features(fast, query_x).flatten(1), fast[WEIGHT], fast[BIAS])

    return Learner(
        init=network.init,
        gradient=outer_gradient(whole),
        adapt=adapt,
        predict=predict,
        labels="split",
        recordable=True,
        check_split=lambda split: _check_model(config, network, split),
    )


def _refuse_what_does_not_apply(config: Config, network: Network) -> None:
    if not network.has_parts:
        raise invalid(
            "variant",
            config.variant,
            "another: this model has no submodules `features` and `head`, and a task gets a head of its own",
            "Compose the model as head(features(x)).",
        )
    only(config, hint="alpha_up sharpens it.", alpha_low=0.0)
    only(config, hint="It has no query pass.", query_precision="full")


def _check_model(config: Config, network: Network, split: Split) -> None:
    """Raise UserError unless the network is its parts' composition and tells all classes of the split apart."""
    if isinstance(split, RegressionSplit):
        raise invalid(
            "variant", config.variant, f"another on {split.name}: functions have no classes for one head to tell apart"
        )
    params, x = trial(config, network, split)
    network.check_parts(params, x)
    with torch.no_grad():
        outputs = network.forward(params, x).shape[-1]
    needed = n_classes(split, config.rotations)
    if outputs < needed:
        raise invalid(
            "model",
            f"a head of {outputs} outputs",
            f"one of at least {needed}, the classes of {split.name}, for {config.variant}",
            "models.model_for(config, split) makes one.",
        )
