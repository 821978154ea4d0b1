"""The folder of one run: what is in it, and how it survives being killed.

    config.json              the settings
    metrics.csv              one line an iteration
    checkpoint.safetensors   the last state: parameters, Adam's moments, the best parameters and, where they are asked
                             for, the members of an ensemble, the task generator; who computed it
    model.safetensors        the parameters that scored best on validation
    snapshots/               where asked for, the parameters at each checkpoint, named by their iteration
    test_scores.csv          one line a test task: score of the best and of the last parameters
    environment.json         packages, machine, code
    result.json              the figures, and where they come from; a run that has it is finished

metrics.csv is written before the checkpoint, so it always holds at least the iterations up to it; what goes beyond
is cut off when the run goes on.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch

from . import checkpoint, metrics
from .config import Config, config_from
from .data import KNOWN
from .errors import UserError, invalid
from .files import remove, remove_halves, write_json, write_text
from .params import Params
from .train import TrainState

CONFIG, METRICS, CHECKPOINT = "config.json", "metrics.csv", "checkpoint.safetensors"
MODEL, SCORES, ENVIRONMENT, RESULT = "model.safetensors", "test_scores.csv", "environment.json", "result.json"
WRITTEN = (RESULT, CHECKPOINT, MODEL, METRICS, SCORES, ENVIRONMENT, CONFIG)
SNAPSHOTS, SUFFIX = "snapshots", ".safetensors"
FOLDERS = (SNAPSHOTS, "tensorboard")
LOCK = ".lock"
MOMENT = 0.1
# These say where a run computes, not what: it may go on with others.
FREE_TO_CHANGE = (
    "data_root",
    "download",
    "device",
    "checkpoint_every",
    "snapshots",
    "tensorboard",
    "record",
    "task_map",
    "task_chunk",
)


@contextmanager
def open_run(folder: Path, config: Config, overwrite: bool = False) -> Iterator[Path]:
    """Make or reopen the folder for `config`, locked against other processes while the block runs.

    Raises UserError if it cannot be written, is in use, or holds a run of other settings.
    """
    with locked(folder):
        begin(folder, config, overwrite)
        yield folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder and lock it against other processes while the block runs; what it holds is left alone.

    Raises UserError if it cannot be written or is in use.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise _unwritable(folder, error) from None
    with lock:
        if not (take(lock) or _take_later(lock)):
            raise invalid("run_dir", str(folder), "a folder that no other process is using now")
        yield


def begin(folder: Path, config: Config, overwrite: bool = False) -> None:
    """Put a locked folder in order for `config`; with `overwrite`, throw away the run that it holds.

    Raises UserError if it cannot be written, or holds a run of other settings.
    """
    try:
        if overwrite:
            _throw_away(folder)
        _check_same(folder, config)
        for name in WRITTEN:  # what a killed process was writing
            remove_halves(folder, name)
        remove_halves(folder / SNAPSHOTS, f"*{SUFFIX}")
        if not (folder / RESULT).exists():  # a finished run keeps the settings that it was finished with
            write_json(folder / CONFIG, config.to_dict())
    except OSError as error:
        raise _unwritable(folder, error) from None


def _throw_away(folder: Path) -> None:
    """The result first, for what has one is finished; the settings last, lest what stays is taken for another's."""
    for name in (*WRITTEN[:-1], *FOLDERS, CONFIG):
        remove(folder / name)


def take(lock: TextIO) -> bool:
    """Lock a file, open for writing, against other processes until it is closed; False where one of them has it.

    Raises UserError where its file system has no locks.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        place = str(Path(lock.name).parent)
        raise invalid("run_dir", place, f"on a file system that can lock files ({error.strerror})") from None
    return True


def _take_later(lock: TextIO) -> bool:
    """Once more: who looks whether a folder is in use has its lock for a moment."""
    time.sleep(MOMENT)
    return take(lock)


def read_config(folder: Path, device: str) -> Config:
    """The settings of a run, for a device of this machine. Raises UserError if the folder holds none."""
    values = _read_json(folder / CONFIG)
    if values is None:
        raise invalid("run_dir", str(folder), f"a run folder, with a {CONFIG}")
    return config_from(values | {"device": device})


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of a finished run, or None."""
    return _read_json(folder / RESULT)


def save_model(folder: Path, params: Params) -> None:
    checkpoint.save_params(folder / MODEL, params)


def load_model(folder: Path, device: torch.device | str = "cpu") -> Params:
    """The parameters that scored best on validation."""
    try:
        return checkpoint.load_params(folder / MODEL, device)
    except FileNotFoundError:
        raise invalid("run_dir", str(folder), f"a finished run, with a {MODEL}") from None
    except ValueError as error:
        raise _damaged_model(error) from None


def model_shapes(folder: Path) -> dict[str, list[int]] | None:
    """The shapes of these parameters by name, or None where they are not kept."""
    try:
        return checkpoint.load_shapes(folder / MODEL)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _damaged_model(error) from None


def save_snapshot(folder: Path, state: TrainState) -> None:
    """Keep the parameters after `state.iteration` updates, under that number."""
    (folder / SNAPSHOTS).mkdir(exist_ok=True)
    checkpoint.save_params(folder / SNAPSHOTS / f"{state.iteration:07d}{SUFFIX}", state.params)


def load_snapshots(folder: Path, device: torch.device | str = "cpu") -> dict[int, Params]:
    """The parameters by iteration, in order.

    Raises UserError for a run that was not asked to keep them, and for a damaged file.
    """
    paths = sorted((folder / SNAPSHOTS).glob(f"[0-9]*{SUFFIX}"))
    if not paths:
        raise invalid("run_dir", str(folder), "a run that kept its way", "Train it with snapshots=True.")
    try:
        return {int(path.stem): checkpoint.load_params(path, device) for path in paths}
    except ValueError as error:
        raise UserError(f"{error}: restore a copy, or set overwrite=True to begin again.") from None


def save_state(folder: Path, state: TrainState, data: Mapping[str, str]) -> None:
    """Put the state away: first the metrics of the iterations up to it, then the checkpoint that counts on them.

    data  the identity of each split that it was trained on
    """
    metrics.append(folder / METRICS, state.rows)
    checkpoint.save_state(folder / CHECKPOINT, state, data)


def load_state(folder: Path, data: Mapping[str, str], device: torch.device) -> TrainState | None:
    """The state to go on from, or None for a run that has none yet; metrics beyond it are cut off.

    Raises UserError for a damaged checkpoint or metrics file, and for a checkpoint that was trained on other data than
    `data`.
    """
    state = read_state(folder, data, device)
    rows = metrics.cut(folder / METRICS, state.iteration if state else 0)
    if state is not None:
        if [row["iteration"] for row in rows] != list(range(1, state.iteration + 1)):
            raise metrics.damaged(folder / METRICS, f"it has not each of the {state.iteration} iterations once")
        state.rows = rows
    return state


def read_state(folder: Path, data: Mapping[str, str], device: torch.device) -> TrainState | None:
    """What `load_state` gives, without rows; nothing is written."""
    path = folder / CHECKPOINT
    return checkpoint.load_state(path, data, device) if path.exists() else None


def write_scores(folder: Path, best: Sequence[float], last: Sequence[float]) -> None:
    lines = [f"{task},{b!r},{w!r}" for task, (b, w) in enumerate(zip(best, last, strict=True))]
    write_text(folder / SCORES, "\n".join(["task,best,last", *lines]) + "\n")


def digest(config: Config) -> str:
    """Six hexadecimal digits of the settings that decide a run's outcome.

    Of those only that are not the defaults, so that a setting which comes with a later version changes no digest.
    """
    usual = Config(config.variant, device="cpu").to_dict()
    decisive = {
        name: value
        for name, value in config.to_dict().items()
        if name not in FREE_TO_CHANGE and (name == "variant" or value != usual[name])
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:6]


def _damaged_model(error: ValueError) -> UserError:
    return UserError(f"{error}: delete the {RESULT} and run it again.")


def _unwritable(folder: Path, error: OSError) -> UserError:
    return invalid("run_dir", str(folder), "a folder that can be written", f"{error.strerror}.")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): restore a copy, or set overwrite=True to begin again.") from None


def _check_same(folder: Path, config: Config) -> None:
    if not (folder / CONFIG).exists():
        return
    before, now = read_config(folder, config.device).to_dict(), config.to_dict()
    free = {*FREE_TO_CHANGE}
    if before["dataset"] not in KNOWN and now["dataset"] not in KNOWN:
        free.add("dataset")  # a folder may be spelled otherwise, or moved: `check_data` compares what is in it
    changed = [name for name in now if now[name] != before[name] and name not in free]
    if changed:
        differences = ", ".join(f"{name} {before[name]!r} is now {now[name]!r}" for name in changed)
        raise invalid(
            "run_dir",
            str(folder),
            f"a folder without a run of other settings ({differences})",
            checkpoint.REPLACE,
        )
