"""Certificates of the checkpoints that come with the package: ordinary learners, nothing is drawn.

The prior is uniform over the K checkpoints, which were trained and chosen without the test split. A posterior that is
one of them has KL = ln K, and as the bounds hold for all posteriors at once they hold for each of the K.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from ... import pretrained
from ...checks import PROBABILITY, at_least, check
from ...data import ImageSplit, load_split
from ...errors import invalid
from ...learners import build_learner
from ...pretrained import Pretrained
from .certified import Certificate, Seen, certify_classes, certify_tasks
from .tasks import blocks, deal, task_errors

TASK_SETTINGS = ("dataset", "data_root", "n_way", "k_shot", "n_query")


def certify_checkpoints(
    names: Sequence[str],
    *,
    n_tasks: int,
    n_fresh: int,
    delta: float = 0.05,
    seed: int = 0,
    folder: Path = pretrained.HERE,
    progress: bool = False,
) -> list[Certificate]:
    """Two certificates for each checkpoint: for tasks of half of the test split's classes, and of the other half.

    n_tasks  M, tasks that are drawn from the first half and looked at, for all checkpoints the same
    n_fresh  tasks of each part to compare with; seed  of the deal and of the tasks

    Raises UserError for no names, unknown ones, checkpoints for different tasks, or settings out of range.
    """
    check("names", len(names), at_least(1))
    check("delta", delta, PROBABILITY)
    checkpoints = [pretrained.load(name, folder=folder) for name in names]
    config = checkpoints[0].config
    for setting in TASK_SETTINGS:
        wanted = getattr(config, setting)
        for name, found in ((other.name, getattr(other.config, setting)) for other in checkpoints):
            if found != wanted:
                raise invalid(f"{name}.{setting}", found, f"{wanted!r}, as in {names[0]}")
    split = load_split(config.dataset, "test", root=config.data_root or None, image_size=config.image_size or None)
    if not isinstance(split, ImageSplit):
        raise invalid("names", tuple(names), "classifiers: their errors are between 0 and 1")
    n_seen, n_unseen = blocks(len(split.images), config.n_way)
    seen, unseen = deal(split, (n_seen * config.n_way, n_unseen * config.n_way), torch.Generator().manual_seed(seed))

    def of(checkpoint: Pretrained) -> list[Certificate]:
        learner, nothing = build_learner(checkpoint.config, checkpoint.model), torch.Generator()

        def errors(part: ImageSplit, n_tasks: int, seed: int) -> torch.Tensor:
            draw = lambda generator: checkpoint.params  # noqa: E731
            return task_errors(learner, draw, part, config, n_tasks, seed, generator=nothing, progress=progress)

        mine, divergence = errors(seen, n_tasks, seed), math.log(len(checkpoints))
        tasks, classes = Seen(mine, n_tasks, divergence), Seen(mine, n_seen, divergence)
        fresh, new = errors(seen, n_fresh, seed + 1), errors(unseen, n_fresh, seed)
        return [
            certify_tasks(checkpoint.name, tasks, fresh, delta, random=False),
            certify_classes(checkpoint.name, classes, n_unseen, new, delta, candidates=len(checkpoints)),
        ]

    return [certificate for checkpoint in checkpoints for certificate in of(checkpoint)]
