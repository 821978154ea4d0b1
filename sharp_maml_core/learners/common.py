"""What the learners share: the mean over tasks, what they report, how precise the query pass is, a look at a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import SINGLE_LEVEL, Config
from ..data.split import Split
from ..episode import Episode
from ..errors import UserError, invalid
from ..meta import GradientPass, MetaGradient, Metrics, map_tasks, task_map
from ..network import Network
from ..params import Params
from .learner import Gradient, Loss


def mean_gradient(config: Config, one_task: Callable[..., Any], episode: Episode, *more: Any) -> MetaGradient:
    """The mean over the tasks of an episode of what `one_task` gives of each: gradients, metrics, and its looks if any.

    one_task  gets the task and its part of each of `more`, trees of tensors with the tasks in front
    """
    how = task_map(config.task_map, episode)
    grads, metrics, *looks = map_tasks(one_task, (episode, *more), how, config.task_chunk or None)
    return MetaGradient(mean_over_tasks(grads), mean_over_tasks(metrics), looks[0] if looks else None)


def outer_gradient(whole: GradientPass) -> Gradient:
    """What a learner gives of a pass: gradients and metrics."""

    def gradient(params: Params, episode: Episode, generator: torch.Generator | None = None) -> tuple[Params, Metrics]:
        with torch.inference_mode(False):  # inner gradients are needed, whatever is wanted of the outer ones
            grads, metrics, _ = whole(params, episode, None, generator)
        return grads, metrics

    return gradient


def task_metrics(query_loss: Tensor, outputs: Tensor, targets: Tensor) -> Metrics:
    """The query loss and, of classes, the accuracy."""
    metrics = {"query_loss": query_loss}
    if not targets.is_floating_point():
        metrics["query_accuracy"] = (outputs.argmax(-1) == targets).to(query_loss.dtype).mean()
    return metrics


def mean_over_tasks(per_task: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.mean(0) for name, value in per_task.items()}


def precision_of(setting: str, x: Tensor) -> torch.autocast:
    """The context of the query pass: autocast to bfloat16 where `config.query_precision` says so."""
    return torch.autocast(x.device.type, torch.bfloat16, enabled=setting == "bfloat16")


def kept_graphs(task: Episode) -> int:
    """As many as have a third of the query images among them: a bound on memory that no number of steps moves.

    Measured at 84x84, 5-way 1-shot, 15 queries: 6% less time than with one; the peak of 10 steps is 13% to 34% above
    that of 1.
    """
    return max(1, len(task.query_y) // (3 * len(task.support_y)))


def check_fits(config: Config, network: Network, loss: Loss, split: Split) -> None:
    """Raise UserError unless the network takes the split's inputs and, for cross-entropy, has an output for each class.

    It is given as many inputs as a support set has. Those that are of one level have a check of their own.
    """
    params, x = trial(config, network, split, config.way_of_training * config.k_shot)
    forward = network.features if config.variant == "matching" else network.forward
    try:
        with torch.no_grad():
            outputs = forward(params, x)
    except (UserError, torch.AcceleratorError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError) as error:
        takes = f"one that takes inputs of shape {tuple(x.shape)}, as those of {split.name}"
        says, *_ = f"{error}\n".splitlines()
        raise invalid("model", network.name, takes, f"It says: {says}.") from error
    if loss is not F.cross_entropy or config.variant in ("matching", *SINGLE_LEVEL):
        return
    if outputs.ndim != 2 or outputs.shape[1] < config.n_way:
        raise invalid(
            "model",
            network.name,
            f"one whose outputs are [n, C] with C at least n_way={config.n_way}, and not {list(outputs.shape)}",
            "models.model_for(config, split) makes one.",
        )


def trial(config: Config, network: Network, split: Split, n: int = 7) -> tuple[Params, Tensor]:
    """Parameters and a few inputs [n, ...] of the split's shape, drawn alike each time: to look at a model before work.

    Seven, lest the samples be as many as an image's channels and pass for them.
    """
    generator = torch.Generator().manual_seed(0)
    params = network.init(generator)
    x = torch.randn((n, *split.shape), generator=generator, dtype=config.torch_dtype)
    return params, x.to(config.torch_device)
