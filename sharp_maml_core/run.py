"""One experiment, from its settings to its run folder: load, train, keep, go on, evaluate, record."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from . import distributed, rundir
from .board import Board
from .checkpoint import check_data, check_model, shapes_of
from .config import Config
from .data import SPLITS, ImageSplit, Split, check_split, load_split
from .data.benchmarks import BENCHMARKS, completeness_note
from .data.split import check_name
from .errors import DeviceLost, Diverged, UserError
from .evaluate import Evaluation, evaluate
from .files import write_json
from .learners import Learner, Loss, build_learner
from .learners.ensemble import ensemble, ensemble_params
from .learners.learner import Tested
from .memory import keep_freed_memory
from .models import loss_for, model_for
from .output import complain
from .params import Params
from .precision import full_precision
from .results import devices, now, provenance, session
from .train import TrainState, check_training_split, fresh_state, meta_train

SAME = "Give the model and the data that it was run with."
LIBRARIES = ("cuDNN error", "CUDA error")
"""How the errors begin that a failing GPU makes where PyTorch has no class for them."""


@dataclass(frozen=True)
class Experiment:
    """Everything that the settings stand for, checked and ready: data on the device, and the learner."""

    config: Config
    splits: dict[str, Split]
    learner: Learner

    @property
    def identities(self) -> dict[str, str]:
        """What the data are: a hash for each split."""
        return {name: split.identity for name, split in self.splits.items()}

    @property
    def shapes(self) -> dict[str, list[int]]:
        """What the parameters are: a shape for each name."""
        return shapes_of(self.learner.init(torch.Generator()))


def prepare(config: Config, model: nn.Module | None = None, loss: Loss | None = None, data: Any = None) -> Experiment:
    """Load the data and build the learner. Nothing is written, whatever is wrong is said now.

    model, loss  default: the paper's network for these data, and cross-entropy (the mean square for regression)
    data         what takes the place of `config.dataset`: an array, a dict of arrays, or a folder; see `load_split`
    """
    if config.tensorboard and find_spec("tensorboard") is None:
        raise UserError("tensorboard=True needs the package tensorboard: pip install tensorboard.")
    source = config.dataset if data is None else data
    device = config.torch_device
    distributed.check_device(device)

    def load() -> dict[str, Split]:
        return {
            name: load_split(
                source,
                name,
                root=config.data_root or None,
                download=config.download,
                image_size=config.image_size or None,
                device=device,
            )
            for name in SPLITS
        }

    splits = distributed.after_first(load)
    for name, split in splits.items():
        if name == "train":
            check_training_split(config, split)
        else:
            check_split(split, n_way=config.n_way, k_shot=config.k_shot, n_query=config.n_query)
    return Experiment(config, splits, learner_for(config, splits["train"], model, loss))


def learner_for(config: Config, train: Split, model: nn.Module | None = None, loss: Loss | None = None) -> Learner:
    """The learner of the settings, with the network and the loss that suit the data where none are given."""
    model = model_for(config, train) if model is None else model  # an empty Sequential is false
    learner = build_learner(config, model, loss or loss_for(train))
    learner.check_split(train)
    return learner


def run_experiment(
    config: Config,
    folder: str | Path | None = None,
    *,
    overwrite: bool = False,
    progress: bool = True,
    model: nn.Module | None = None,
    loss: Loss | None = None,
    data: Any = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Train and test, in `folder` (default `default_folder(config)`), and return what its result.json says.

    Started again it goes on where it stopped, with bit-identical figures; a finished run is read, not repeated. Either
    is refused where the data, or the names and shapes of the model's parameters, are others than those of the run.
    Within `distributed.together` several processes call this and work on one run.

    model, loss, data  see `prepare`
    command            what result.json names as the command, for a caller whose own says nothing (a notebook)

    Raises UserError, before any work, for whatever cannot be used, Diverged where training fails, DeviceLost where the
    GPU does, and KeyboardInterrupt after a checkpoint when interrupted.
    """
    folder = default_folder(config) if folder is None else Path(folder).expanduser()
    distributed.check_tasks(config.n_tasks)
    experiment = prepare(config, model, loss, data)
    progress = progress and distributed.first()
    with _opened(folder, config, overwrite):
        distributed.agree()  # the first process has the folder, or has said why not
        result = read_finished(experiment, folder)
        found = [rundir.digest(config), experiment.identities, result is not None]
        distributed.check_same(json.dumps(found), "run_dir", str(folder))
        if result is not None:
            if progress:
                print(f"{folder} is finished; this is its result. overwrite=True runs it again.", file=sys.stderr)
            return result
        keep_freed_memory()
        full_precision()
        with explained(folder):
            origin = provenance(config.torch_device, command)  # now: the files may change while this runs
            state = _train(experiment, folder, origin, progress)
            return finish(experiment, folder, state, origin, progress)


def read_finished(experiment: Experiment, folder: Path) -> dict[str, Any] | None:
    """The result of a finished run, or None. Raises UserError for a run on other data or with another model."""
    result = rundir.read_result(folder)
    if result is not None:
        check_data(folder, result.get("data", {}), experiment.identities)
        shapes = rundir.model_shapes(folder)
        if shapes is not None:
            check_model(folder, shapes, experiment.shapes)
    return result


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Say how a run goes on that is interrupted, cannot be written or has lost its GPU."""
    try:
        with _lost_device(folder):
            yield
    except KeyboardInterrupt:
        if distributed.first():
            complain(f"\nInterrupted. The same command goes on from {folder}.")
        raise
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{folder} could not be written ({error}). What was kept there before is whole: "
            "make room, and the same command goes on from it."
        ) from error


@contextmanager
def _lost_device(folder: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.AcceleratorError) and not str(error).startswith(LIBRARIES):
            raise
        raise DeviceLost(
            f"The device failed ({str(error).splitlines()[0]}). What {folder} has is whole: "
            "the same command goes on from its last checkpoint, with device=cpu without a GPU."
        ) from error


def _opened(folder: Path, config: Config, overwrite: bool) -> AbstractContextManager[Any]:
    return rundir.open_run(folder, config, overwrite) if distributed.first() else nullcontext()


def default_folder(config: Config) -> Path:
    """runs/, the settings that people compare by, and a digest of all that decide the outcome."""
    dataset = Path(config.dataset).name
    name = f"{config.variant}-{dataset}-{config.n_way}way-{config.k_shot}shot-seed{config.seed}"
    return Path("runs") / f"{name}-{rundir.digest(config)}"


def evaluate_run(
    folder: str | Path,
    *,
    n_tasks: int | None = None,
    seed: int | None = None,
    split: str = "test",
    progress: bool = True,
    model: nn.Module | None = None,
    loss: Loss | None = None,
    data: Any = None,
    device: str = "auto",
) -> Evaluation:
    """Test the best parameters of a run again: more tasks, other tasks (`seed`), another split, another device.

    model, loss, data  the same as for `run_experiment`: other data in that split, and another model, are refused;
                       data may be the folder to which the images were moved

    Raises UserError for what cannot be used, Diverged for a mean that is not finite, DeviceLost for a GPU that failed.
    """
    check_name(split)
    folder = Path(folder).expanduser()
    config = rundir.read_config(folder, device).replace(tensorboard=False)  # nothing is written here
    with _lost_device(folder):
        params = rundir.load_model(folder, config.torch_device)
        experiment = prepare(config, model, loss, data)
        tasks = experiment.splits[split]
        result = rundir.read_result(folder) or {}
        check_data(folder, result.get("data", {}), {split: tasks.identity}, SAME)
        check_model(folder, shapes_of(params), experiment.shapes, SAME)
        keep_freed_memory()
        full_precision()
        return _finite(
            evaluate(experiment.learner, params, tasks, config, n_tasks=n_tasks, seed=seed, progress=progress), tasks
        )


def _finite(result: Evaluation, tasks: Split) -> Evaluation:
    """The result. Raises Diverged where its mean is not finite."""
    if not math.isfinite(result.mean):
        raise Diverged(f"The {result.metric} on {tasks.name} is not finite. Lower inner_lr or eval_inner_steps.")
    return result


def finish(
    experiment: Experiment, folder: Path, state: TrainState, origin: dict[str, Any], progress: bool
) -> dict[str, Any]:
    """Test the trained parameters and write what makes the run a finished one.

    origin  what result.json says of where the figures come from
    """
    tasks = experiment.splits["test"]

    def test(params: Params, learner: Tested = experiment.learner) -> Evaluation:
        return _finite(evaluate(learner, params, tasks, experiment.config, progress=progress), tasks)

    best = test(state.best)
    last = best if state.best_iteration == state.iteration else test(state.params)
    trained = devices(state.sessions, state.iteration)  # where another went on only to test, it is not of its making
    result = describe(experiment, state, best, last) | origin | {"device": trained, "finished": now()}
    if state.leaders:
        together = test(
            ensemble_params([leader.params for leader in state.leaders]),
            ensemble(experiment.learner, classes=isinstance(tasks, ImageSplit)),
        )
        iterations = [leader.iteration for leader in state.leaders]
        result["ensemble"] = {"mean": together.mean, "interval_95": together.interval, "iterations": iterations}
    if distributed.first():
        rundir.save_model(folder, state.best)
        rundir.write_scores(folder, best.scores.tolist(), last.scores.tolist())
        write_json(folder / rundir.ENVIRONMENT, origin)
        write_json(folder / rundir.RESULT, result)
    return result


def describe(experiment: Experiment, state: TrainState, best: Evaluation, last: Evaluation) -> dict[str, Any]:
    """What result.json says of the run itself."""
    config = experiment.config
    # Where the data lay is this machine's business; what they were, `data` says.
    portable = config.to_dict() | {"data_root": "", "dataset": Path(config.dataset).name}
    notes = {name: note for name, split in experiment.splits.items() if (note := _note(config.dataset, split))}
    return {
        "metric": best.metric,
        "best": {"mean": best.mean, "interval_95": best.interval, "iteration": state.best_iteration},
        "last": {"mean": last.mean, "interval_95": last.interval, "iteration": state.iteration},
        "validation": state.best_score if math.isfinite(state.best_score) else None,
        "eval_tasks": len(best.scores),
        "iterations": state.iteration,
        "seconds": state.seconds,
        "seconds_per_iteration": state.seconds / state.iteration,
        "seed": config.seed,
        "config": portable,
        "data": experiment.identities,
        "data_notes": notes,
        "sessions": state.sessions,
    }


def _note(dataset: str, split: Split) -> str:
    """What is missing of a benchmark's split; of `data` that took its place nothing is."""
    if isinstance(split, ImageSplit) and dataset in BENCHMARKS and split.name.startswith(f"{dataset}/"):
        return completeness_note(split)
    return ""


def _train(experiment: Experiment, folder: Path, origin: dict[str, Any], progress: bool) -> TrainState:
    with kept(experiment, folder, origin) as (state, keep):
        return meta_train(
            experiment.learner,
            experiment.config,
            experiment.splits["train"],
            experiment.splits["val"],
            state=state,
            checkpoint=keep,
            progress=progress,
        )


@contextmanager
def kept(
    experiment: Experiment, folder: Path, origin: dict[str, Any]
) -> Iterator[tuple[TrainState, Callable[[TrainState], None]]]:
    """The state to go on from, with a session of this `origin`, and what puts a later one away."""
    config = experiment.config
    found = _load(experiment, folder)
    state = fresh_state(experiment.learner, config) if found is None else found
    before = [each for each in state.sessions if each["from_iteration"] < state.iteration]  # which got somewhere
    state.sessions = [*before, session(origin, state.iteration)]
    board = Board(folder, config, state)
    if config.snapshots and found is None and distributed.first():
        rundir.save_snapshot(folder, state)

    def keep(state: TrainState) -> None:
        if not distributed.first():
            return
        rundir.save_state(folder, state, experiment.identities)
        if config.snapshots:
            rundir.save_snapshot(folder, state)
        board.write(state.rows)

    try:
        yield state, keep
    finally:
        board.close()


def _load(experiment: Experiment, folder: Path) -> TrainState | None:
    """The state to go on from. The first process puts the folder in order, then the others look."""
    where = folder, experiment.identities, experiment.config.torch_device
    state = rundir.load_state(*where) if distributed.first() else None
    distributed.agree()
    if not distributed.first():
        state = rundir.read_state(*where)
    distributed.check_same(str(state and state.iteration), "run_dir", str(folder))
    if state is not None:
        check_model(folder, shapes_of(state.params), experiment.shapes)
    return state
