"""One task twice: as the few images that MAML adapts to, and as all images of its classes, which ERM trains on.

Figure 1 sets the loss landscape of a meta-model on a task m beside that of "a standard ERM model" (Eq. 5). The paper
does not say what that model was trained on; here it is everything that the split has of the task's classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..checks import ABOVE_ZERO, at_least, check
from ..config import SEED
from ..data.episodes import check_split
from ..data.split import ImageSplit
from ..episode import Episode
from ..errors import Diverged
from ..evaluate import BAR_SECONDS
from ..learners import Learner
from ..params import Params


class SingleTask(NamedTuple):
    """A task whose classes, in the order of their labels, are known.

    episode  one task: support and query images
    images   [n, C, H, W], all images of its classes, also those of the episode;  labels  int64 [n]
    classes  their names
    """

    episode: Episode
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]


class Trained(NamedTuple):
    """What training by ERM ends with: the parameters, and each step's loss and accuracy before its update."""

    params: Params
    losses: list[float]
    accuracies: list[float]


def draw_task(
    split: ImageSplit,
    *,
    n_way: int,
    k_shot: int,
    n_query: int,
    seed: int,
    dtype: torch.dtype = torch.float32,
) -> SingleTask:
    """A task of classes drawn from the split, with support and query images drawn from all that there are of them.

    Drawn on the CPU, so equal on every device. Raises UserError if the split has too few classes or images.
    """
    check("seed", seed, SEED)
    check_split(split, n_way=n_way, k_shot=k_shot, n_query=n_query)
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randperm(len(split.images), generator=generator)[:n_way].tolist()
    pixels = split.images.permute(0, 1, 3, 4, 2)  # [classes, instances, H, W, C]
    shuffled = []
    for c in classes:
        order = torch.randperm(int(split.counts[c]), generator=generator)
        shuffled.append(pixels[c][order.to(pixels.device)].contiguous().to(dtype) / 255)
    support, query = zip(*((images[:k_shot], images[k_shot : k_shot + n_query]) for images in shuffled), strict=True)
    episode = Episode(*(value[None] for value in (*_labelled(support), *_labelled(query))))
    return SingleTask(episode, *_labelled(shuffled), tuple(split.class_names[c] for c in classes))


def train_erm(
    learner: Learner,
    task: SingleTask,
    *,
    seed: int = 0,
    steps: int = 400,
    batch: int = 75,
    lr: float = 1e-3,
    progress: bool = False,
) -> Trained:
    """Minimise the cross-entropy of all images of the task by Adam: plain empirical risk minimisation (Eq. 5).

    learner  whose network it is: `init` and `predict` are used, nothing of its inner loop
    batch    images of a step, at most all of them. They are normalised together, so about as many as the loss is
             looked at with later

    Raises UserError for settings that are not allowed, Diverged where the loss is not finite.
    """
    check("seed", seed, SEED)
    check("steps", steps, at_least(1))
    check("batch", batch, at_least(1))
    check("lr", lr, ABOVE_ZERO)
    generator = torch.Generator().manual_seed(seed)
    leaves = {name: value.clone().requires_grad_() for name, value in learner.init(generator).items()}
    adam = torch.optim.Adam(leaves.values(), lr=lr)
    losses, accuracies = [], []
    bar = tqdm(
        _batches(len(task.labels), batch, steps, generator),
        total=steps,
        desc="ERM",
        unit="step",
        disable=not progress,
        leave=False,
        mininterval=BAR_SECONDS,
    )
    for chosen in bar:
        chosen = chosen.to(task.labels.device)
        loss, accuracy = _step(learner, leaves, adam, task.images[chosen], task.labels[chosen])
        if not math.isfinite(loss):
            raise Diverged(f"The loss of ERM is {loss}. Lower lr={lr!r}.")
        losses.append(loss)
        accuracies.append(accuracy)
        bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}", refresh=False)
    return Trained({name: value.detach() for name, value in leaves.items()}, losses, accuracies)


def _batches(n: int, batch: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of whole batches, pass after pass over all n samples; what a pass leaves over is left out of it."""
    batch = min(batch, n)
    per_pass = n // batch
    for step in range(steps):
        if step % per_pass == 0:
            order = torch.randperm(n, generator=generator)
        yield order[step % per_pass * batch :][:batch]


def _step(learner: Learner, leaves: Params, adam: torch.optim.Adam, x: Tensor, y: Tensor) -> tuple[float, float]:
    """One update; the loss and the accuracy before it."""
    outputs = learner.predict(leaves, x)
    loss = F.cross_entropy(outputs, y)
    adam.zero_grad()
    loss.backward()
    adam.step()
    return loss.item(), (outputs.argmax(-1) == y).double().mean().item()


def _labelled(groups: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The images [H, W, C] of all groups as [n, C, H, W], channels last in memory, and the group of each."""
    counts = torch.tensor([len(group) for group in groups])
    labels = torch.arange(len(groups)).repeat_interleave(counts).to(groups[0].device)
    # Permuted, not converted: with one channel any layout passes for channels last, and convolutions take the slow one.
    return torch.cat(list(groups)).permute(0, 3, 1, 2), labels
