"""Parameters and training states as safetensors files, which nothing has to unpickle.

safetensors sorts its tensors, but masks are drawn and norms are summed in the order of the parameters, so each file
says what it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .errors import UserError, invalid
from .files import atomic
from .params import Params
from .results import unknown_session
from .train import Ranked, TrainState

REPLACE = "Choose another run_dir, or set overwrite=True to replace that run."


def shapes_of(params: Params) -> dict[str, list[int]]:
    """The shape of each parameter, by its name."""
    return {name: list(value.shape) for name, value in params.items()}


def check_data(folder: Path, before: Mapping[str, str], now: Mapping[str, str], fix: str = REPLACE) -> None:
    """Raise UserError where a run in `folder` was on other data than there are now.

    before, now  the identity of each split; one of which `before` says nothing, as of an older run, is not compared
    """
    changed = [split for split in now if before.get(split, now[split]) != now[split]]
    if changed:
        raise invalid(
            "run_dir",
            str(folder),
            f"the folder of a run on the same data ({' and '.join(changed)} changed since it was begun)",
            fix,
        )


def check_model(
    folder: Path, before: Mapping[str, Sequence[int]], now: Mapping[str, Sequence[int]], fix: str = REPLACE
) -> None:
    """Raise UserError where the parameters of a run in `folder` have other names or shapes than those of the model now.

    functional_call takes parameters of any shape: without this, the run would go on with the model that it began with.
    """
    for name in [*before, *now]:
        was, is_now = (list(shapes[name]) if name in shapes else "missing" for shapes in (before, now))
        if was != is_now:
            raise invalid(
                "run_dir", str(folder), f"the folder of a run of the same model ({name} {was} is now {is_now})", fix
            )


def save_params(path: Path, params: Params) -> None:
    with atomic(path) as file:
        metadata = {"names": json.dumps(list(params))}
        save_file({name: value.contiguous().cpu() for name, value in params.items()}, file, metadata)


def load_params(path: Path, device: torch.device | str = "cpu") -> Params:
    """The parameters of one file, in their order. Raises ValueError, naming the file, for a damaged one."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in json.loads(file.metadata()["names"])}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None


def load_shapes(path: Path) -> dict[str, list[int]]:
    """The shapes of the parameters of one file, of which only the head is read. Raises ValueError for a damaged one."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in json.loads(file.metadata()["names"])}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None


def save_state(path: Path, state: TrainState, data: Mapping[str, str]) -> None:
    """Put the state away, but for its rows. data: the identity of each split that it was trained on."""
    tensors = {"generator": state.generator_state}
    members = [(f"leader{i}", leader.params) for i, leader in enumerate(state.leaders)]
    for group, params in (("params", state.params), ("best", state.best), *members):
        tensors |= {f"{group}/{name}": value for name, value in params.items()}
    for name, moments in state.moments.items():
        tensors |= {f"{key}/{name}": value for key, value in moments.items()}
    figures = {
        "iteration": state.iteration,
        "best_iteration": state.best_iteration,
        "best_score": state.best_score,
        "seconds": state.seconds,
        "leaders": [[leader.iteration, leader.score] for leader in state.leaders],
        "sessions": state.sessions,
        "data": dict(data),
        "names": list(state.params),
    }
    with atomic(path) as file:
        # Clones: the parameters and, before the first validation, the best ones are the same memory.
        save_file(
            {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()},
            file,
            metadata={"state": json.dumps(figures)},
        )


def load_state(path: Path, data: Mapping[str, str], device: torch.device) -> TrainState:
    """The state without rows.

    Raises UserError for a damaged file, and for a state that was trained on other data than `data`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            figures = json.loads(file.metadata()["state"])
            names, trained_on = figures["names"], figures["data"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is not a dict
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it to begin the run again, or restore a copy.") from None
    check_data(path.parent, trained_on, data)

    def moments(name: str) -> Params:
        """Of one parameter, none before the first update; Adam keeps its step count on the CPU."""
        found = {
            key: tensors[f"{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}/{name}" in tensors
        }
        return {key: value if key == "step" else value.to(device) for key, value in found.items()}

    def group(key: str) -> Params:
        return {name: tensors[f"{key}/{name}"].to(device) for name in names}

    return TrainState(
        params=group("params"),
        best=group("best"),
        moments={name: moments(name) for name in names},
        generator_state=tensors["generator"],
        iteration=figures["iteration"],
        best_iteration=figures["best_iteration"],
        best_score=figures["best_score"],
        seconds=figures["seconds"],
        leaders=[
            Ranked(iteration, score, group(f"leader{i}"))
            for i, (iteration, score) in enumerate(figures.get("leaders", []))  # none before there were ensembles
        ],
        sessions=figures.get("sessions", [unknown_session()]),  # none before they were kept
    )
