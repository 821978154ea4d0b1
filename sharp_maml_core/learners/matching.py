r"""Matching Networks: a query image has the labels of the support images that it looks like.

    p(y = c | x) = sum_i a_i(x) [y_i = c],   a(x) = softmax_i(scale * cos(f(x), f(x_i)))

over the support set D = {(x_i, y_i)}, with one embedding f, the network's `features`, for query and support. What is
minimised is the mean over tasks of the loss of the queries, -log p(y | x) with cross-entropy: the gradient of one task
is a plain one, for nothing adapts but by remembering the support set. Full-context embeddings are left out.

A cosine is at most 1, so without a scale no class of N could get more than e^2 / (e^2 + N - 1) of one shot, 0.65 of
five ways. The scale is a meta-parameter, kept as its logarithm so that it stays positive.

`alpha_up` sharpens the episodic loss, as it does any: Sharp-Matching is not in the paper.

Source: Vinyals et al. 2016 (no scale); Gidaris and Komodakis 2018 (a learned one, from 10).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Config
from ..data.split import RegressionSplit, Split
from ..derivatives import hidden, value_and_gradients
from ..episode import Episode
from ..errors import UserError, invalid
from ..meta import MetaGradient, Metrics, sharpen
from ..network import FEATURES, Network
from ..params import Params, select
from .common import mean_gradient, outer_gradient, precision_of, task_metrics
from .learner import Learner, Loss
from .settings import only

# No module has a parameter of such a name: PyTorch's modules and parameters have no empty ones.
LOG_SCALE = ".log_scale"
"""Where the parameters keep log(scale), a scalar."""
SUPPORT, LABELS = ".support", ".labels"
"""Where the adapted parameters keep the support set: unit embeddings [N*K, d], and labels, one-hot, [N*K, N]."""


def matching(config: Config, network: Network, loss: Loss) -> Learner:
    """A learner whose outputs are the log-probabilities log p(y | x); its parameters are `features` and the scale.

    The model's `head` is not used. `inner_lr` and the other settings of the inner loop mean nothing here.

    Raises UserError for a model without submodules `features` and `head`, for `alpha_low`, and, when it sees a split or
    a task, for targets that are not classes.
    """
    only(config, hint="alpha_up sharpens it.", alpha_low=0.0)
    if not network.has_parts:
        raise invalid(
            "variant",
            config.variant,
            "another variant: this model has no submodules `features` and `head`, and `features` is what embeds",
            "Compose the model as head(features(x)).",
        )

    def init(generator: torch.Generator) -> Params:
        params = network.init(generator)
        scale = torch.tensor(math.log(config.matching_scale), dtype=config.torch_dtype, device=config.torch_device)
        return select(params, lambda name: name.startswith(FEATURES)) | {LOG_SCALE: scale}

    def adapt(params: Params, support_x: Tensor, support_y: Tensor) -> Params:
        return among(config.n_way, params, support_x, support_y)

    def among(n_classes: int, params: Params, support_x: Tensor, support_y: Tensor) -> Params:
        _check_classes(support_y, n_classes)
        embeddings = _unit(network.features(params, support_x))
        labels = support_y[:, None] == torch.arange(n_classes, device=support_y.device)
        return params | {SUPPORT: embeddings, LABELS: labels.to(embeddings.dtype)}

    def predict(fast: Params, query_x: Tensor, precision: str = "full") -> Tensor:
        with precision_of(precision, query_x):
            embeddings = network.features(fast, query_x)
        cosines = _unit(embeddings.to(query_x.dtype)) @ fast[SUPPORT].T  # [N*Q, N*K]
        return log_attention(fast[LOG_SCALE].exp() * cosines, fast[LABELS])

    def once(
        params: Params, episode: Episode, looks: Any = None, generator: torch.Generator | None = None
    ) -> MetaGradient:
        def one_task(task: Episode) -> tuple[Params, Metrics]:
            def query_loss(params: Params) -> tuple[Tensor, Tensor]:
                fast = among(config.way_of_training, params, task.support_x, task.support_y)
                outputs = predict(fast, task.query_x, config.query_precision)
                return loss(outputs, task.query_y), outputs

            (grads,), (value, outputs) = value_and_gradients(query_loss, params)
            return grads, task_metrics(value, outputs, task.query_y)

        return mean_gradient(config, one_task, episode)

    whole = sharpen(once, config.alpha_up, adaptive=config.adaptive)

    return Learner(init, outer_gradient(whole), adapt, predict, check_split=_check_is_of_classes, recordable=True)


def log_attention(scores: Tensor, labels: Tensor) -> Tensor:
    """Log of softmax(scores) @ labels: scores [B, n] of the n support images, their labels [n, N], one-hot, to [B, N].

    In logarithms throughout: at a large scale the probabilities themselves would be 0 and their logarithms infinite.
    """
    # A class without an image gets a probability of 0 by a finite logarithm: that of 0 has no gradient.
    nothing = torch.finfo(scores.dtype).min
    by_class = torch.where(labels > 0, scores[..., None], nothing)  # [B, n, N]
    return by_class.logsumexp(-2) - scores.logsumexp(-1, keepdim=True)


def _unit(embeddings: Tensor) -> Tensor:
    """Rows of length 1; one of zeros, which has no direction, stays."""
    return F.normalize(embeddings.flatten(1), dim=1)


def _no_classes(what: str) -> UserError:
    return invalid("variant", "matching", f"another variant: {what} are no classes, of which a support image has one")


def _check_is_of_classes(split: Split) -> None:
    if isinstance(split, RegressionSplit):
        raise _no_classes(f"the targets of {split.name}")


def _check_classes(targets: Tensor, n_way: int) -> None:
    if targets.is_floating_point():
        raise _no_classes("these targets")
    if not hidden(targets) and int(targets.max()) >= n_way:
        raise invalid("n_way", n_way, f"above {int(targets.max())}, a label of the support set")
