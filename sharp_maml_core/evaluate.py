"""Adapt to tasks that were never trained on, and report the mean with its 95% interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from . import distributed
from .config import Config
from .data.episodes import sample_episodes
from .data.split import ImageSplit, Split
from .episode import Episode
from .learners.learner import Tested
from .meta import map_tasks, task_map
from .params import Params
from .recorded import recorded

ACCURACY, MEAN_SQUARED_ERROR = "accuracy", "mean squared error"
TASKS_AT_ONCE = 16
BAR_SECONDS = 1.0  # between two looks of a progress bar: in a log file each is a line
Z95 = 1.959963984540054  # the normal quantile of a two-sided 95% interval; at 100 tasks or more Student's t is the same


@dataclass(frozen=True)
class Evaluation:
    """A learner's score over many tasks.

    scores  float64 [tasks] on the CPU: one figure per task, not finite where the learner's outputs were not
    metric  "accuracy" in [0, 1], or for regression "mean squared error"
    """

    scores: Tensor
    metric: str

    @property
    def mean(self) -> float:
        return float(self.scores.mean())

    @property
    def interval(self) -> float:
        """Half the width of the 95% confidence interval of the mean, from the spread over tasks."""
        return Z95 * float(self.scores.std(correction=1)) / math.sqrt(len(self.scores))

    def better_than(self, mean: float) -> bool:
        return self.mean > mean if self.metric == ACCURACY else self.mean < mean


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of right answers of one task, float64; NaN where an answer is none: no largest output that is finite.

    argmax takes NaN, and the first of several infinities, for the largest: parameters that overflowed would score as
    well as chance. An output of -inf below others is an answer still: an ensemble's probability that is rounded to 0.
    """
    none = ~outputs.amax(-1).isfinite().all()  # amax passes NaN on
    return (outputs.argmax(-1) == targets).to(torch.float64).mean().masked_fill(none, math.nan)


def evaluate(
    learner: Tested,
    params: Params,
    split: Split,
    config: Config,
    *,
    n_tasks: int | None = None,
    seed: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Score `params` on `n_tasks` (default `config.eval_tasks`) tasks of the split.

    The tasks depend on the split, the task settings and `seed` (default `config.eval_seed`) only: they are the same
    for every learner, so scores may be compared task by task. With another `n_tasks` the first are the same, but for
    those of a last batch that is not full: tasks are drawn 16 at once. Raises UserError for fewer than 2 tasks.
    """
    n_tasks = config.eval_tasks if n_tasks is None else n_tasks
    seed = config.eval_seed if seed is None else seed
    config = config.replace(eval_tasks=n_tasks, eval_seed=seed)  # checks them, and makes of "3" and 3.0 a 3
    n_tasks, seed = config.eval_tasks, config.eval_seed
    generator = torch.Generator().manual_seed(seed)
    metric = ACCURACY if isinstance(split, ImageSplit) else MEAN_SQUARED_ERROR

    def one_task(task: Episode) -> Tensor:
        outputs = learner.predict(learner.adapt(params, task.support_x, task.support_y), task.query_x)
        if metric == ACCURACY:
            return accuracy(outputs, task.query_y)
        return F.mse_loss(outputs, task.query_y).to(torch.float64)

    def score(tasks: Episode) -> Tensor:
        how = task_map(config.task_map, tasks)
        return map_tasks(one_task, (tasks,), how, config.task_chunk or None)

    def part(episode: Episode, mine: slice) -> Tensor:
        return score_mine(Episode(*(value[mine] for value in episode)))

    score_mine = recorded(score, config, learner)
    scores = []
    bar = tqdm(
        total=n_tasks,
        desc=f"testing on {split.name}",
        unit="task",
        disable=not (progress and distributed.first()),
        leave=False,
        mininterval=BAR_SECONDS,
    )
    with bar:
        for start in range(0, n_tasks, TASKS_AT_ONCE):
            episode = sample_episodes(
                split,
                n_way=config.n_way,
                k_shot=config.k_shot,
                n_query=config.n_query,
                n_tasks=min(TASKS_AT_ONCE, n_tasks - start),
                generator=generator,
                dtype=config.torch_dtype,
            )
            scores.append(distributed.gather(partial(part, episode), episode.n_tasks))
            bar.set_postfix({metric: f"{float(torch.cat(scores).mean()):.3f}"}, refresh=False)
            bar.update(episode.n_tasks)
    return Evaluation(torch.cat(scores), metric)
