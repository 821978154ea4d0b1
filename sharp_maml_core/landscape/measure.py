"""The numbers behind the landscapes: how sharp a trained model is, task by task, and how well it does.

Of each model three surfaces around its meta-parameters theta, the same for all models:

    erm    L(theta; D_m) of a test task, the loss of its support set (Eq. 5), which the inner loop descends
    maml   L(theta'_m(theta); D'_m) of a test task, its query loss after plain MAML's inner loop (Eq. 2, 9)
    meta   the mean of that over tasks of the training classes, which training descends

theta is a minimum of none: of one task's loss the gradient is not small, and that of a few tasks is not that of all.
Beside them, from the learner as it was trained, its accuracy on test tasks, on tasks of the training classes, and their
difference, the generalisation gap.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from ..checks import ABOVE_ZERO, at_least, check
from ..config import SEED, Config
from ..data import sample_episodes
from ..data.split import Split
from ..episode import Episode
from ..errors import invalid
from ..evaluate import BAR_SECONDS, evaluate
from ..learners import build_learner
from ..params import Params
from ..pretrained import Pretrained
from ..results import now, provenance
from .directions import random_frame
from .sharpness import in_weight_units, maximise
from .slices import local_minima, take_slice
from .spectrum import eigenpairs, expand, lanczos, quadrature, trace
from .stored import digest
from .surfaces import Surface, erm_surface, maml_surface, plain_maml

SURFACES = ("erm", "maml", "meta")
TRAIN, TEST = "train", "test"
DIGITS = 6  # what float32 parameters leave of a figure, and more than any of them is known to

Figures = dict[str, Any]
"""The figures of one surface at one point; see `measure_surface`."""


class Effort(NamedTuple):
    """What one surface may cost: products for Lanczos and for the trace, and gradients of each ascent."""

    lanczos_steps: int
    trace_probes: int
    ascent_steps: int
    restarts: int


# A product of `maml` costs about 15 times one of `erm`, which has 5 images. On CIFAR-FS (Conv4, 32 filters) the largest
# eigenvalue then has a residual of up to 3% of itself, the fifth of `maml` one of up to a half; ascents of three times
# the steps found at most 2% more on the tasks that were tried.
ERM_EFFORT, MAML_EFFORT, META_EFFORT = Effort(30, 16, 12, 1), Effort(12, 2, 4, 0), Effort(10, 2, 4, 0)


@dataclass(frozen=True)
class Settings:
    """What is measured. Invalid values raise UserError.

    n_tasks         test tasks
    meta_tasks      tasks of the training classes, of which `meta` is the mean
    seed            of the tasks, and of all random vectors
    alpha           radius of sharpness (7)
    adaptive_alpha  the same in units of the weights, in the range that Kwon et al. (2021) use
    top             eigenvalues that are kept
    erm, maml, meta what each surface may cost
    slice_tasks     test tasks with a slice of `erm` and `maml` along two random directions, whose minima are counted
    slice_points    of each slice, along each axis
    accuracy_tasks  tasks of the training classes
    """

    n_tasks: int = 16
    meta_tasks: int = 8
    seed: int = 0
    alpha: float = 0.05
    adaptive_alpha: float = 0.5
    top: int = 5
    erm: Effort = ERM_EFFORT
    maml: Effort = MAML_EFFORT
    meta: Effort = META_EFFORT
    slice_tasks: int = 3
    slice_points: int = 11
    accuracy_tasks: int = 400

    def __post_init__(self) -> None:
        check("n_tasks", self.n_tasks, at_least(2))
        check("meta_tasks", self.meta_tasks, at_least(1))
        check("seed", self.seed, SEED)
        check("alpha", self.alpha, ABOVE_ZERO)
        check("adaptive_alpha", self.adaptive_alpha, ABOVE_ZERO)
        check("top", self.top, at_least(1))
        check("slice_tasks", self.slice_tasks, at_least(1))
        check("slice_points", self.slice_points, at_least(3))
        check("accuracy_tasks", self.accuracy_tasks, at_least(2))
        if self.slice_tasks > self.n_tasks:
            raise invalid("slice_tasks", self.slice_tasks, f"at most {self.n_tasks}, the number of tasks")


def measure_surface(
    surface: Surface, params: Params, settings: Settings, effort: Effort, generator: torch.Generator
) -> Figures:
    """Every figure of one surface at one point, as plain numbers:

    loss, gradient_norm
    top_eigenvalues, top_residuals       the largest ones first; lowest_eigenvalue, lowest_residual
    trace, trace_error                   with its standard error
    nodes, weights                       of the spectral density (`spectrum.quadrature`)
    linear, one_step, sharpness          Eq. 7: alpha * ||g||, after SAM's step, and at the maximum that ascent finds
    adaptive_linear, _one_step, _sharpness   the same in units of the weights
    alignment, adaptive_alignment        1 where the ascent has arrived
    """
    expansion = expand(surface, params)
    krylov = lanczos(expansion, effort.lanczos_steps, generator)
    top = eigenpairs(krylov, min(settings.top, len(krylov.basis)), params)
    lowest = eigenpairs(krylov, 1, params, lowest=True)
    estimate = trace(expansion, effort.trace_probes, generator, krylov)
    nodes, weights = quadrature(krylov)
    figures = {
        "loss": expansion.value,
        "gradient_norm": float(expansion.gradient.norm()),
        "top_eigenvalues": list(top.values),
        "top_residuals": list(top.residuals),
        "lowest_eigenvalue": lowest.values[0],
        "lowest_residual": lowest.residuals[0],
        "trace": estimate.mean,
        "trace_error": estimate.standard_error,
        "nodes": nodes.tolist(),
        "weights": weights.tolist(),
    }
    for prefix, (function, point), alpha in (
        ("", (surface, params), settings.alpha),
        ("adaptive_", in_weight_units(surface, params), settings.adaptive_alpha),
    ):
        found = maximise(
            function, point, alpha, steps=effort.ascent_steps, restarts=effort.restarts, generator=generator
        )
        figures |= {
            f"{prefix}linear": found.first.linear,
            f"{prefix}one_step": found.first.rise,
            f"{prefix}sharpness": found.rise,
            f"{prefix}alignment": found.alignment,
        }
    return {name: _short(value) for name, value in figures.items()}


def measure(model: Pretrained, splits: Mapping[str, Split], settings: Settings, *, progress: bool = False) -> Figures:
    """Everything about one trained model, as plain numbers and texts.

    splits  "train" and "test" of its data set

    The generalisation gap is the accuracy on tasks drawn from the training classes minus that on test tasks, of the
    same learner with the same number of shots and steps: both are of tasks that it adapts to anew, only the classes
    were seen in training or not. (The paper gives a "generalization error" of 34.58% against 37.46%, Section 5.3, and
    does not say what that is.) The accuracy on test tasks is that of the run's own result.json.

    Raises UserError for other data than the model was trained on.
    """
    for name in (TRAIN, TEST):
        _check_data(name, splits[name], model)
    origin = provenance(next(iter(model.params.values())).device)
    rows: dict[str, list[Figures]] = {name: [] for name in SURFACES}
    frame = random_frame(model.params, settings.seed)
    looks = _looks(model, splits, settings)
    bar = tqdm(looks, desc=model.name, unit="surface", disable=not progress, mininterval=BAR_SECONDS)
    for name, index, surface in bar:
        generator = torch.Generator().manual_seed(settings.seed + index)
        figures = measure_surface(surface, model.params, settings, getattr(settings, name), generator)
        if name != "meta" and index < settings.slice_tasks:
            cut = take_slice(surface, frame, centre=f"{name} of {model.name}", points=settings.slice_points)
            figures["local_minima"] = len(local_minima(cut))
        rows[name].append(figures)
    columns = {
        name: {key: [row[key] for row in found if key in row] for key in found[0]} for name, found in rows.items()
    }
    return (
        identity(model, settings)
        | {"accuracy": _accuracy(model, splits[TRAIN], settings, progress), "surfaces": columns}
        | {"provenance": origin | {"finished": now()}}
    )


def identity(model: Pretrained, settings: Settings) -> Figures:
    """The model, its data and the settings: all that decides the figures, as JSON has it."""
    return {
        "model": model.name,
        "model_sha256": digest(model.params),
        "dataset": model.config.dataset,
        "variant": model.config.variant,
        "seed": model.config.seed,
        "data": model.result["data"],
        "settings": {name: _plain(value) for name, value in dataclasses.asdict(settings).items()},
    }


def _plain(value: Any) -> Any:
    return value._asdict() if isinstance(value, Effort) else value


def _looks(model: Pretrained, splits: Mapping[str, Split], settings: Settings) -> list[tuple[str, int, Surface]]:
    """What is looked at: the name of the surface, the number of the task, and the surface."""
    learner = plain_maml(model.config, model.model)
    test = _tasks(splits[TEST], model.config, settings.n_tasks, settings.seed)
    train = _tasks(splits[TRAIN], model.config, settings.meta_tasks, settings.seed)
    tasks = [Episode(*(value[index : index + 1] for value in test)) for index in range(settings.n_tasks)]
    return [
        *(("erm", index, erm_surface(learner, task)) for index, task in enumerate(tasks)),
        *(("maml", index, maml_surface(learner, task)) for index, task in enumerate(tasks)),
        ("meta", 0, maml_surface(learner, train)),
    ]


def _tasks(split: Split, config: Config, n_tasks: int, seed: int) -> Episode:
    return sample_episodes(
        split,
        n_way=config.n_way,
        k_shot=config.k_shot,
        n_query=config.n_query,
        n_tasks=n_tasks,
        generator=torch.Generator().manual_seed(seed),
        dtype=config.torch_dtype,
    )


def _accuracy(model: Pretrained, train: Split, settings: Settings, progress: bool) -> Figures:
    learner = build_learner(model.config, model.model)
    seen = evaluate(
        learner,
        model.params,
        train,
        model.config,
        n_tasks=settings.accuracy_tasks,
        seed=settings.seed,
        progress=progress,
    )
    best = model.result["best"]
    test = {"mean": best["mean"], "interval_95": best["interval_95"], "tasks": model.result["eval_tasks"]}
    gap = {"mean": seen.mean - test["mean"], "interval_95": math.hypot(seen.interval, test["interval_95"])}
    return {
        "test": test,
        "train": {"mean": seen.mean, "interval_95": seen.interval, "tasks": len(seen.scores)},
        "gap": gap,
    }


def _check_data(name: str, split: Split, model: Pretrained) -> None:
    if split.identity != model.result["data"][name]:
        raise invalid(f"splits[{name!r}]", split.name, f"the data that {model.name} was trained on")


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [_short(entry) for entry in value]
    return float(f"{value:.{DIGITS}g}")
