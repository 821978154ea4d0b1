"""The whole way on one data set: a prior from half of the training classes, a posterior and certificates from the rest.

The training classes are dealt at random: half to the prior, a quarter is seen by the posterior, a quarter by nobody.
On the prior's classes a learner is meta-trained; where it still moved in the last quarter of that is the plane. Two
posteriors are fitted to M tasks of the seen classes, one for each certificate, for they differ in the number of units.
What is certified is the randomised learner that draws meta-parameters from the posterior for each task.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ...checks import PROBABILITY, at_least, check
from ...config import Config
from ...data import ImageSplit, load_split
from ...errors import invalid
from ...learners import Learner, build_learner
from ...models import model_for
from ...params import Params
from ...train import TrainState, meta_train
from ..experiments import Experiment, experiment
from .bounds import draws
from .certified import Certificate, Seen, certify_classes, certify_tasks
from .plane import Plane, Posterior, fit, plane_of
from .tasks import Draw, blocks, deal, task_errors

PRIOR_SHARE = 0.5  # of the classes
LATE = 0.25  # of the iterations: where the learner no longer gets better at every step


class Trained(NamedTuple):
    """What came out.

    certificates  for tasks and for classes, each of the randomised learner whose posterior was fitted for that
    posteriors    over the plane, by unit
    errors        mean 0-1 error on fresh tasks of the seen classes, of the last checkpoint of the prior's training, of
                  the plane's centre, and of the mean of the posterior for tasks, by these names
    held_out      what Theorem D alone says of the centre, from its errors on the fresh tasks: a bound for a learner
                  that learns nothing from the seen classes
    experiment    of the last checkpoint and the classes for the prior and seen, which Theorem 2 asks for
    classes       how many there were for the prior, seen and unseen; identity  of the split that they are of
    """

    certificates: list[Certificate]
    posteriors: dict[str, Posterior]
    errors: dict[str, float]
    held_out: float
    experiment: Experiment
    classes: dict[str, int]
    identity: str


def certify_trained(
    config: Config,
    *,
    n_tasks: int,
    n_fresh: int,
    dimension: int = 2,
    passes: int = 2,
    epochs: int = 1,
    delta: float = 0.05,
    progress: bool = False,
) -> Trained:
    """Train, fit and certify a learner; everything follows from `config.seed`.

    config     the learner and its training: `config.iterations` on the prior's classes; `checkpoint_every` says how
               densely the way is kept
    n_tasks    M, tasks of the seen classes; n_fresh  tasks to estimate and to compare with
    dimension  of the plane; passes  draws of meta-parameters for each of the M tasks; epochs  of the fit

    Raises UserError for settings out of range, or data with too few classes.
    """
    for name, value in {"n_fresh": n_fresh, "n_tasks": n_tasks}.items():
        check(name, value, at_least(2))
    for name, value in {"dimension": dimension, "passes": passes, "epochs": epochs}.items():
        check(name, value, at_least(1))
    check("delta", delta, PROBABILITY)
    split = load_split(config.dataset, "train", root=config.data_root or None, image_size=config.image_size or None)
    if not isinstance(split, ImageSplit):
        raise invalid("dataset", config.dataset, "of images: their errors are between 0 and 1")
    n_late = sum(_is_late(i, config) for i in _checkpoints(config))
    if n_late <= dimension:
        allowed = (
            f"enough for more than {dimension} checkpoints in their last quarter, which is where the plane is from"
        )
        raise invalid("iterations", config.iterations, allowed, f"There would be {n_late}: train for longer.")
    for_prior = round(PRIOR_SHARE * len(split.images))
    n_seen, n_unseen = blocks(len(split.images) - for_prior, config.n_way)
    generator = torch.Generator().manual_seed(config.seed)
    prior, seen, unseen = deal(split, (for_prior, n_seen * config.n_way, n_unseen * config.n_way), generator)

    learner = build_learner(config, model_for(config, split))
    last, plane = _train(learner, config, prior, dimension, progress)
    # A posterior wants the gradient of its own loss, not of the upper level's neighbourhood.
    descent = build_learner(config.replace(alpha_up=0.0), model_for(config, split))
    fit_for = partial(fit, descent, plane, seen, config, n_tasks, config.seed, generator=generator, epochs=epochs)
    of_tasks = fit_for(n_units=n_tasks, progress=progress)
    of_classes = fit_for(n_units=n_seen, progress=progress)

    def errors(draw: Draw, part: ImageSplit, n_tasks: int, seed: int) -> Tensor:
        return task_errors(learner, draw, part, config, n_tasks, seed, generator=generator, progress=progress)

    other = config.seed + 1
    mine = torch.cat([errors(of_tasks.draw, seen, n_tasks, config.seed) for _ in range(passes)])
    fresh, drawn = (errors(posterior.draw, seen, n_fresh, other) for posterior in (of_tasks, of_classes))
    new = errors(of_classes.draw, unseen, n_fresh, other)
    fixed: dict[str, Draw] = {"last": lambda _: last, "centre": lambda _: plane.centre, "mean": of_tasks.at_mean}
    without_noise = {key: float(errors(draw, seen, n_fresh, other).mean()) for key, draw in fixed.items()}
    name = f"{config.variant}, drawn from {dimension} axes"
    n_images, n_classes = (sum(count(part) for part in (prior, seen)) for count in (_images, _classes))
    return Trained(
        [
            certify_tasks(name, Seen(mine, n_tasks, of_tasks.divergence), fresh, delta, random=True),
            certify_classes(name, Seen(drawn, n_seen, of_classes.divergence), n_unseen, new, delta),
        ],
        {"tasks": of_tasks, "classes": of_classes},
        without_noise,
        float(draws(without_noise["centre"], n_fresh, delta)),
        experiment(config.variant, last, n_images, n_classes, config.n_way),
        {"prior": _classes(prior), "seen": _classes(seen), "unseen": _classes(unseen)},
        split.identity,
    )


def _classes(split: ImageSplit) -> int:
    return len(split.counts)


def _images(split: ImageSplit) -> int:
    return int(split.counts.sum())


def _checkpoints(config: Config) -> set[int]:
    """The iterations after which there is one."""
    return {*range(config.checkpoint_every, config.iterations, config.checkpoint_every), config.iterations}


def _is_late(iteration: int, config: Config) -> bool:
    return iteration > (1 - LATE) * config.iterations


def _train(learner: Learner, config: Config, split: ImageSplit, dimension: int, progress: bool) -> tuple[Params, Plane]:
    """The last parameters, and the plane of the checkpoints of the last quarter."""
    late: list[Params] = []

    def keep(state: TrainState) -> None:
        if _is_late(state.iteration, config):
            late.append({name: value.clone() for name, value in state.params.items()})

    # Validation chooses nothing here: once, at the end, on as few tasks as may be.
    config = config.replace(eval_every=config.iterations, val_tasks=2)
    meta_train(learner, config, split, split, checkpoint=keep, progress=progress)
    return late[-1], plane_of(late, dimension)
