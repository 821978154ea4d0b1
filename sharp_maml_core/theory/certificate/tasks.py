"""What a certificate is computed from: classes that are dealt at random, and the error of each of many tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from ...checks import at_least, check
from ...config import Config
from ...data import ImageSplit, sample_episodes
from ...episode import Episode
from ...errors import invalid
from ...evaluate import BAR_SECONDS
from ...learners import Learner
from ...params import Params

Draw = Callable[[torch.Generator], Params]
"""A posterior over meta-parameters, as a way to draw from it."""


def blocks(n_classes: int, n_way: int) -> tuple[int, int]:
    """How many disjoint tasks' worth of classes are seen, and how many are not: as equal as can be.

    Theorem C's deviation is of order sqrt(1/M + 1/M'), which for a given pool is least there. Raises UserError for
    fewer than 2 n_way classes.
    """
    check("n_classes", n_classes, at_least(2 * n_way))
    n_blocks = n_classes // n_way
    return n_blocks // 2, n_blocks - n_blocks // 2


def deal(split: ImageSplit, sizes: tuple[int, ...], generator: torch.Generator) -> tuple[ImageSplit, ...]:
    """Shuffle the classes and deal them into parts of these sizes; what is over is left out.

    Raises UserError for a size below 1, or more classes than the split has.
    """
    for size in sizes:
        check("sizes", size, at_least(1))
    n_classes = len(split.images)
    if sum(sizes) > n_classes:
        raise invalid("sizes", sizes, f"at most {n_classes} together, the classes of {split.name}")
    order = torch.randperm(n_classes, generator=generator)[: sum(sizes)]
    return tuple(_part(split, chosen) for chosen in order.split(sizes))


def batches(split: ImageSplit, config: Config, n_tasks: int, seed: int) -> Iterator[Episode]:
    """The tasks that a seed stands for, `config.n_tasks` at a time, the last ones perhaps fewer."""
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, n_tasks, config.n_tasks):
        yield sample_episodes(
            split,
            n_way=config.n_way,
            k_shot=config.k_shot,
            n_query=config.n_query,
            n_tasks=min(config.n_tasks, n_tasks - start),
            generator=generator,
            dtype=config.torch_dtype,
        )


def task_errors(
    learner: Learner,
    draw: Draw,
    split: ImageSplit,
    config: Config,
    n_tasks: int,
    seed: int,
    *,
    generator: torch.Generator,
    progress: bool = False,
) -> Tensor:
    """The 0-1 error of each task that `seed` stands for, each with meta-parameters drawn anew: float64 [n_tasks].

    generator  that the meta-parameters are drawn by, so that they are independent of the tasks
    """
    check("n_tasks", n_tasks, at_least(2))
    errors = []
    bar = tqdm(
        total=n_tasks,
        desc=f"errors on {split.name}",
        unit="task",
        disable=not progress,
        leave=False,
        mininterval=BAR_SECONDS,
    )
    with bar:
        for episode in batches(split, config, n_tasks, seed):
            for support_x, support_y, query_x, query_y in zip(*episode, strict=True):
                fast = learner.adapt(draw(generator), support_x, support_y)
                wrong = learner.predict(fast, query_x).argmax(-1) != query_y
                errors.append(wrong.to(torch.float64).mean())
            bar.update(episode.n_tasks)
    return torch.stack(errors)


def _part(split: ImageSplit, chosen: Tensor) -> ImageSplit:
    return ImageSplit.from_images(
        split.images[chosen.to(split.images.device)],
        tuple(split.class_names[i] for i in chosen),
        split.name,
        split.counts[chosen],
    )
