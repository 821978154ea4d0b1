"""From the gradient of one task to the gradient of the meta-objective: the mean over tasks, and the upper-level SAM."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree  # what torch.func itself is built on; there is no public name for it yet

from . import distributed
from .episode import Episode
from .params import Params, add_scaled
from .sharpness import adaptive_perturbation, is_off, perturbation

PIXELS_THAT_FILL_A_GPU = 150_000
"""Of the images of one task: between what was measured to be too few and enough, see `task_map`."""

Metrics = dict[str, Tensor]
"""Scalars of a batch of tasks: `query_loss`, for classes `query_accuracy`, after `sharpen` also `perturbed_loss`."""


class MetaGradient(NamedTuple):
    """Gradient of the mean over tasks, what to report, and what the second pass of `sharpen` may use again.

    Where the tasks are split over processes, `looks` are those of this process's tasks.
    """

    grads: Params
    metrics: Metrics
    looks: Any


class GradientPass(Protocol):
    """One evaluation of a meta-gradient; `looks` are the lower perturbations to use again (Eq. 14), or None."""

    def __call__(
        self, params: Params, episode: Episode, looks: Any, generator: torch.Generator | None
    ) -> MetaGradient: ...


def map_tasks(function: Callable[..., Any], arguments: tuple[Any, ...], how: str, chunk: int | None) -> Any:
    """Function applied to each task: arguments and result are trees of tensors with the tasks in front.

    how    "loop" (less memory, faster on CPU) or "vmap" (one kernel for all tasks of a chunk)
    chunk  how many tasks vmap takes at once; None for all

    vmap is always the outermost transform. The other way round, grad of vmap, PyTorch's fused batch norm gives a
    meta-gradient that is wrong by 1e-2 without a word.

    In a gradient pass that is split over processes (`over_processes`), arguments and result are of this one's tasks.
    """
    arguments = distributed.mine(arguments)
    if how == "vmap":
        # Of a single task of images that lie channels last, vmap does not know the strides, and fails.
        arguments = pytree.tree_map(torch.Tensor.contiguous, arguments)
        return torch.func.vmap(function, chunk_size=chunk, randomness="same")(*arguments)
    n_tasks = len(pytree.tree_leaves(arguments)[0])
    results = [function(*pytree.tree_map(lambda leaf, task=task: leaf[task], arguments)) for task in range(n_tasks)]
    return pytree.tree_map(lambda *leaves: torch.stack(leaves), *results)


def task_map(setting: str, episode: Episode) -> str:
    """The setting, or what suits the device where it is "auto".

    vmap makes grouped convolutions of per-task weights. On 2 cores a loop was 2.9 (84x84, 4 tasks) and 6.4 times
    (28x28, 16 tasks) faster. On an H100, recorded, vmap was 2.0 times faster with 24,000 pixels a task, 1.9 times with
    82,000, 1.3 times with 94,000, a loop 1.6 times with 250,000; with 560,000 they were equal but for the memory.
    """
    if setting != "auto":
        return setting
    if episode.support_x.device.type == "cpu" or episode.n_tasks == 1:
        return "loop"
    pixels = (episode.support_x.shape[1] + episode.query_x.shape[1]) * math.prod(episode.support_x.shape[3:])
    return "loop" if pixels >= PIXELS_THAT_FILL_A_GPU else "vmap"


def over_processes(gradient: GradientPass) -> GradientPass:
    """The pass, its tasks split over the processes of the run (`distributed`), its results averaged over all of them.

    Within it `map_tasks` takes this process's tasks only; what the pass does before that, its random draws above all,
    every process does for all tasks. The mean of such a share weighs as many tasks as it has. A pass that does not map
    its tasks is the same in every process, and so is the mean of it.
    """

    def split(
        params: Params, episode: Episode, looks: Any = None, generator: torch.Generator | None = None
    ) -> MetaGradient:
        if distributed.size() == 1:
            return gradient(params, episode, looks, generator)
        with distributed.splitting(episode.n_tasks):
            grads, metrics, looked = gradient(params, episode, looks, generator)
        grads, metrics = distributed.mean((grads, metrics), episode.n_tasks)
        return MetaGradient(grads, metrics, looked)

    return split


def sharpen(
    gradient: GradientPass, alpha_up: float | Tensor, *, adaptive: bool = False, reuse: bool = True
) -> GradientPass:
    """SAM around any meta-gradient h (Eq. 13-15, 20-21): evaluate it at theta + alpha_up * h / ||h||, same tasks.

    reuse  keep the first pass's lower perturbations in the second, as Eq. 14 does; False computes them anew at
           theta + epsilon, as the released code does
    """
    gradient = over_processes(gradient)
    if is_off(alpha_up):
        return gradient

    def sharpened(
        params: Params, episode: Episode, looks: Any = None, generator: torch.Generator | None = None
    ) -> MetaGradient:
        here = gradient(params, episode, looks, generator)
        if adaptive:
            epsilon = adaptive_perturbation(here.grads, params, alpha_up)
        else:
            epsilon = perturbation(here.grads, alpha_up)
        there = gradient(add_scaled(params, epsilon, 1.0), episode, here.looks if reuse else None, generator)
        metrics = here.metrics | {"perturbed_loss": there.metrics["query_loss"]}
        return MetaGradient(there.grads, metrics, here.looks)

    return sharpened
