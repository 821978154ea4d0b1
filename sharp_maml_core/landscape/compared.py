"""What Figures 1 and 4 compare: one task, its losses as surfaces, and the models around which they are looked at.

The paper's Figure 1 changes two things at once, the function (MAML's loss or ERM's) and the point (a meta-model or a
model of this task). Here both are there by themselves, so that every function can be drawn around every model.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .. import pretrained
from ..checks import at_least, check
from ..config import SEED, Config
from ..data import load_split, sample_episodes
from ..data.split import ImageSplit
from ..derivatives import gradient
from ..errors import invalid
from ..learners import Learner
from ..memory import keep_freed_memory
from ..params import Params
from ..precision import full_precision
from ..pretrained import Pretrained
from .directions import Frame, along
from .single_task import SingleTask, Trained, draw_task, train_erm
from .spectrum import top_eigenpairs
from .surfaces import Surface, erm_surface, maml_surface, plain_maml, same_data

FUNCTIONS = {
    "maml": "L(θ'(θ; D); D'), one task",
    "erm": "L(θ; D'), one task",
    "same": "L(θ'(θ; D'); D'), one task",
    "meta": "L(θ'(θ; D); D'), mean over 8 tasks",
}
"""The surfaces of `Compared`, and what they are. D: the support set, D': the query set."""

ERM = "erm"
META_TASKS = 8
LANCZOS_STEPS = 12
COMMON = ("dataset", "n_way", "k_shot", "n_query", "inner_lr", "inner_steps", "adapt_norm", "filters")


class Compared(NamedTuple):
    """One task of a test split, and all that is looked at on it.

    functions  the keys of FUNCTIONS; all adapt by plain MAML (Eq. 9), so that every model is seen by the same function
    models     "maml", "low", ...: trained on the training split; "erm": trained on all images of this task's classes
    alpha      the radius that the sharp ones were trained with
    config     of the first model; the task settings, inner_lr and inner_steps of all of them
    """

    task: SingleTask
    split: ImageSplit
    functions: dict[str, Surface]
    models: dict[str, Params]
    alpha: float
    config: Config
    erm: Trained | None


def compare(
    dataset: str,
    variants: tuple[str, ...],
    *,
    seed: int = 0,
    task_seed: int = 0,
    data_root: str | None = None,
    device: torch.device | str = "cpu",
    erm_steps: int = 400,
    progress: bool = False,
) -> Compared:
    """Trained models of one data set around one test task.

    variants   of `pretrained.names()`: the models DATASET-VARIANT-seedSEED
    task_seed  of the task, and of the 8 tasks of "meta", which are others
    erm_steps  how long to train a model on all images of the task's classes; 0: there is none

    Raises UserError for a model or data that are not there, and for models of other settings of the inner loop.
    """
    check("seed", seed, SEED)
    check("task_seed", task_seed, SEED)
    check("erm_steps", erm_steps, at_least(0))
    found = {variant: pretrained.load(f"{dataset}-{variant}-seed{seed}", device) for variant in variants}
    config = _common_config(found)
    split = load_split(dataset, "test", root=data_root, device=device)
    if not isinstance(split, ImageSplit):
        raise invalid("dataset", dataset, "one of images: these figures are of classification")
    keep_freed_memory()
    full_precision()
    task = draw_task(split, n_way=config.n_way, k_shot=config.k_shot, n_query=config.n_query, seed=task_seed)
    learner = plain_maml(config, next(iter(found.values())).model)
    trained = train_erm(learner, task, steps=erm_steps, progress=progress) if erm_steps else None
    models = {variant: model.params for variant, model in found.items()}
    if trained is not None:
        models |= {ERM: trained.params}
    alpha = max(max(model.config.alpha_low, model.config.alpha_up) for model in found.values())
    return Compared(task, split, _functions(learner, task, split, config, task_seed), models, alpha, config, trained)


def steep_frame(surface: Surface, params: Params, seed: int = 0) -> Frame:
    """The plane of the gradient and of the top Hessian eigenvector: where the loss changes most, near by and further.

    The eigenvector is Lanczos' of 12 products. seed  of its start.
    """
    generator = torch.Generator().manual_seed(seed)
    (vector,) = top_eigenpairs(surface, params, 1, steps=LANCZOS_STEPS, generator=generator).vectors
    return along(params, {"gradient": gradient(surface, params), "top eigenvector": vector})


def _functions(
    learner: Learner, task: SingleTask, split: ImageSplit, config: Config, task_seed: int
) -> dict[str, Surface]:
    several = sample_episodes(
        split,
        n_way=config.n_way,
        k_shot=config.k_shot,
        n_query=config.n_query,
        n_tasks=META_TASKS,
        generator=torch.Generator().manual_seed(task_seed),
    )
    both = same_data(task.episode)
    return {
        "maml": maml_surface(learner, task.episode),
        "erm": erm_surface(learner, both),
        "same": maml_surface(learner, both),
        "meta": maml_surface(learner, several),
    }


def _common_config(found: dict[str, Pretrained]) -> Config:
    """The first model's settings. Raises UserError where the task or MAML's step are not those of all."""
    (first, model), *others = found.items()
    for name in COMMON:
        for variant, other in others:
            value, wanted = getattr(other.config, name), getattr(model.config, name)
            if value != wanted:
                raise invalid(name, value, f"{wanted!r}, as {first} was trained with: {variant} cannot be compared")
    return model.config
