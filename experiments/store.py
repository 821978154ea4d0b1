"""Result files: one for each cell and seed, in book/results; in its folder `partial`, what is known of unfinished runs.

A run's files live in its run folder until it is finished. Then its result.json, with the name of its cell and the
score of each test task, becomes a file that is whole or not there, under a name that no other run has: it cannot be
counted twice.
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sharp_maml_core import metrics, rundir
from sharp_maml_core.config import config_from
from sharp_maml_core.errors import UserError, invalid
from sharp_maml_core.files import write_text
from sharp_maml_core.published import settings
from sharp_maml_core.results import commit, device_name, now, source_hash, worked
from sharp_maml_core.run import evaluate_run

from .cells import CELLS, Run

RUNS, RESULTS, PARTIAL = Path("runs") / "cells", Path("book") / "results", "partial"
DONE, BEGUN, MISSING, DIVERGED = "done", "begun", "missing", "diverged"
DAMAGED, OTHER = "damaged", "of other settings"
TRAIN_TASKS = 600
SHARED = "shared"


@dataclass(frozen=True)
class Store:
    """Where runs and results are kept.

    runs     a folder for each run
    results  a file for each finished run
    cells    the file that says which runs there are
    """

    runs: Path = RUNS
    results: Path = RESULTS
    cells: Path = CELLS

    @property
    def arguments(self) -> list[str]:
        """Those of `python -m experiments` that mean these places."""
        return ["--runs", str(self.runs), "--results", str(self.results), "--cells", str(self.cells)]

    def folder(self, run: Run) -> Path:
        return self.runs / run.name

    def path(self, run: Run) -> Path:
        return self.results / f"{run.name}.json"

    def partial_path(self, run: Run) -> Path:
        return self.results / PARTIAL / f"{run.name}.json"

    def state(self, run: Run) -> str:
        """done, begun or diverged (here or, by its partial file, elsewhere), missing, damaged, of other settings."""
        if self.path(run).exists():
            return {None: DAMAGED, True: DONE, False: OTHER}[_is_of(run, _read(self.path(run)))]
        partial = _read(self.partial_path(run))
        if partial is not None and DIVERGED in partial and _is_of(run, partial):
            return DIVERGED
        begun = (self.folder(run) / rundir.CHECKPOINT).exists() or self.partial_path(run).exists()
        return BEGUN if begun else MISSING

    def foreign(self, run: Run) -> str:
        """In what the settings of the run in its folder differ from its cell's; empty where they do not, or none is.

        Raises UserError for a folder whose settings cannot be read.
        """
        if not (self.folder(run) / rundir.CONFIG).exists():
            return ""
        return differences(run, {"config": rundir.read_config(self.folder(run), "auto").to_dict()})

    def measured(self) -> list[dict[str, Any]]:
        """All results and partial results that can be read and say what an iteration takes on their device.

        Those do not of which another device did iterations, or several processes, or a stack, which tells an equal
        share of its seconds; nor those with settings that this version does not know.
        """
        paths = [*self.results.glob("*.json"), *(self.results / PARTIAL).glob("*.json")]
        read = [found for path in sorted(paths) if (found := _read(path)) is not None]
        timed = [found for found in read if "cell" in found and found.get("seconds_per_iteration") and _known(found)]
        return [
            found
            for found in timed
            if _devices(found.get("sessions"), found["iterations"]) <= {found["device"]}
            and "stack" not in found
            and found.get("processes", 1) == 1
        ]


def collect(run: Run, store: Store, device: str = "auto") -> dict[str, Any]:
    """Make the result file of a finished run, and return what it says. What is missing is tested on the device.

    Besides result.json it has `cell` (name, group, schedule), `test` (how many of how many questions each test task
    got right), `validations` (iteration and score), and `train`: the accuracy on up to 600 tasks of the training
    classes, whose gap to the test accuracy is the generalisation error of Section 5.3, and the code that found it.

    Raises UserError for a run that is not finished, is damaged, in use, or has other settings than its cell, DeviceLost
    for a GPU that failed.
    """
    folder = store.folder(run)
    if not folder.is_dir():
        raise _unfinished(run, folder)
    with rundir.locked(folder):
        return _collect(run, store, folder, device)


def _collect(run: Run, store: Store, folder: Path, device: str) -> dict[str, Any]:
    result = rundir.read_result(folder)
    if result is None:
        raise _unfinished(run, folder)
    changed = differences(run, result)
    if changed:
        raise invalid("run", run.name, f"of its cell's settings ({changed})", f"Move {folder} away and run it again.")
    result["cell"] = _cell(run)
    result["test"] = _answers(folder, result)
    result["validations"] = [
        [int(row["iteration"]), row["val_score"] if math.isfinite(row["val_score"]) else None]
        for row in metrics.read_rows(folder / rundir.METRICS)
        if "val_score" in row
    ]
    train_tasks = min(TRAIN_TASKS, result["eval_tasks"])
    code = {"commit": commit(), "source_sha256": source_hash()}  # now: the files may change while this runs
    seen = evaluate_run(folder, n_tasks=train_tasks, split="train", progress=False, device=device)
    result["train"] = {"mean": seen.mean, "interval_95": seen.interval, "tasks": train_tasks} | code
    try:
        store.results.mkdir(parents=True, exist_ok=True)
        _write(store.path(run), result)
    except OSError as error:
        raise UserError(
            f"{store.path(run)} could not be written ({error.strerror}). The run in {folder} is whole: make room, and "
            "the same command makes the file."
        ) from None
    store.partial_path(run).unlink(missing_ok=True)
    return result


def _unfinished(run: Run, folder: Path) -> UserError:
    return invalid("run", run.name, f"finished, and {folder} has no {rundir.RESULT}", "Run it first.")


def note_partial(run: Run, store: Store, device: str, diverged: str = "") -> int:
    """Say in its partial file how far an unfinished run is; returns the iterations that are done.

    Nothing is said of a folder that holds a run of other settings: its iterations are none of this one's.

    diverged  what a run that will never be finished said last
    """
    folder = store.folder(run)
    if store.foreign(run):
        return 0
    iterations, seconds = progress(folder)
    if iterations or diverged:
        config = run.cell.config(run.seed, device)
        path = store.partial_path(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        figures = {
            "partial": True,
            "cell": _cell(run),
            "seed": run.seed,
            "iterations": iterations,
            "of": config.iterations,
            "seconds": seconds,
            "seconds_per_iteration": seconds / iterations if iterations else None,
            "device": device_name(config.torch_device),
            "noted": now(),
            "config": config.to_dict(),
            "sessions": _checkpoint(folder).get("sessions", []),
        }
        if diverged:
            figures[DIVERGED] = diverged
        _write(path, figures)
    return iterations


def progress(folder: Path) -> tuple[int, float]:
    """Iterations and seconds of the checkpoint in a run folder; nothing where there is none that can be read."""
    figures = _checkpoint(folder)
    return figures.get("iteration", 0), figures.get("seconds", 0.0)


def trained_on(folder: Path) -> set[str]:
    """The devices that did the iterations of the checkpoint in a run folder; none where nobody kept them."""
    return _devices(_checkpoint(folder).get("sessions"), progress(folder)[0])


def _devices(sessions: list[dict[str, Any]] | None, iterations: int) -> set[str]:
    """Those that did iterations; none of a run from before sessions were kept. SHARED is one more where several
    processes did some, or a stack: their seconds are not those of a run alone.
    """
    did = worked(sessions or [], iterations)
    shared = any(session.get("processes") not in (None, "unknown", 1) or "stack" in session for session in did)
    return {session["device"] for session in did} | ({SHARED} if shared else set())


def _checkpoint(folder: Path) -> dict[str, Any]:
    """The figures of the checkpoint in a run folder; nothing where there is none that can be read."""
    try:
        with safe_open(folder / rundir.CHECKPOINT, framework="pt") as file:
            figures: dict[str, Any] = json.loads(file.metadata()["state"])
        return figures if {"iteration", "seconds"} <= set(figures) else {}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return {}


def in_use(folder: Path) -> bool:
    """Whether another process works in a run folder now; true too of another user's, whose lock is not ours to take."""
    try:
        with (folder / rundir.LOCK).open("r+") as lock:  # to write, or NFS has no exclusive lock for it
            return not rundir.take(lock)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True


def differences(run: Run, result: dict[str, Any]) -> str:
    """In what a result's settings differ from its cell's; empty where they do not."""
    before, now = (
        values | {"dataset": Path(values["dataset"]).name}  # as in result.json, which leaves out where it lay
        for values in (settings(result), settings({"config": run.cell.config(run.seed).to_dict()}))
    )
    changed = [f"{name} {before[name]!r} is now {now[name]!r}" for name in now if before[name] != now[name]]
    if result["config"]["seed"] != run.seed:
        changed.append(f"seed {result['config']['seed']} is now {run.seed}")
    return ", ".join(changed)


def _is_of(run: Run, result: dict[str, Any] | None) -> bool | None:
    """Whether a result has its cell's settings; None for one that cannot be read or whose settings are none of ours."""
    try:
        return None if result is None else not differences(run, result)
    except (UserError, KeyError):
        return None


def _known(result: dict[str, Any]) -> bool:
    """Whether this version knows the settings of a result; another one's may have more."""
    try:
        config_from(result["config"] | {"device": "auto"})
    except UserError:
        return False
    return True


def _cell(run: Run) -> dict[str, str]:
    return {"name": run.cell.name, "group": run.cell.group, "schedule": run.cell.schedule.name}


def _answers(folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    """From each task's share of right answers back to their number."""
    config = result["config"]
    questions = config["n_way"] * config["n_query"]
    with (folder / rundir.SCORES).open() as file:
        scores = [float(row["best"]) for row in csv.DictReader(file)]
    correct = [round(score * questions) for score in scores]
    whole = all(abs(score * questions - count) < 1e-6 for score, count in zip(scores, correct, strict=True))
    if not whole or len(correct) != result["eval_tasks"]:
        raise UserError(
            f"{folder / rundir.SCORES} is not what the run wrote: delete the {rundir.RESULT}, run it again."
        )
    return {"questions": questions, "correct": correct}


def _read(path: Path) -> dict[str, Any] | None:
    """A result file, or None for one that is damaged, or gone: who collects a run takes its partial file away."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, FileNotFoundError):
        return None
    return found if isinstance(found, dict) and "config" in found else None


def _write(path: Path, result: dict[str, Any]) -> None:
    """As JSON with a line for each value; the long lists have one line each."""
    lists = {name: result[name] for name in ("test", "validations") if name in result}
    text = json.dumps({name: value for name, value in result.items() if name not in lists}, indent=2, allow_nan=False)
    lines = [f',\n  "{name}": {json.dumps(value, allow_nan=False)}' for name, value in lists.items()]
    write_text(path, text[:-2] + "".join(lines) + "\n}\n")
