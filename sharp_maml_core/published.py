"""The published results: small JSON files, each a run's result.json, read for the tables of the book.

A cell of a table counts once three seeds of it were run. Its interval is over seeds and test tasks (`crossed`).

Runs are averaged where nothing but their seeds and machines differ. Of several settings of a method, as the radii of a
grid or MAML at twice the iterations, a table shows the one that was best on validation; those of another schedule
(short, medium, paper: `experiments/cells.toml`) are never among them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import crossed
from .config import config_from
from .errors import UserError, invalid
from .evaluate import Z95
from .rundir import FREE_TO_CHANGE

PROVENANCE = ("command", "finished", "commit", "source_sha256", "device", "packages", "system", "data")
FIGURES = ("metric", "best", "seed", "config", "iterations", "eval_tasks", "seconds")
SEEDS = 3
PAPER, SINGLE = "paper", "single"
METHODS = {"matching": "matching-nets"}
"""How the paper's tables call a variant, where it is not by its name."""

Result = dict[str, Any]


class Setting(NamedTuple):
    """What a cell of a table is about.

    method    the key of a row of the paper's tables
    schedule  how long the runs were: a schedule of `experiments/cells.toml`, or "single" for runs outside them
    """

    dataset: str
    n_way: int
    k_shot: int
    method: str
    schedule: str = PAPER


class Ours(NamedTuple):
    """Our figure for a cell.

    mean, interval  in percent; the half-width at 95% over seeds and test tasks, NaN for a single seed
    seeds           of the runs that were averaged
    tasks           test tasks of each run
    iterations      meta-iterations of each run
    notes           what has to be said with it, as that classes are missing
    candidates      settings of the method that were run, of which this one was best on validation
    """

    mean: float
    interval: float
    seeds: tuple[int, ...]
    tasks: int
    iterations: int
    notes: tuple[str, ...]
    candidates: int = 1


def load(folder: Path) -> list[Result]:
    """All results of a folder, by file name.

    Raises UserError for a folder that is not there and for a file that is damaged or lacks its provenance.
    """
    if not folder.is_dir():
        raise invalid("results", str(folder), "a folder of result files")
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def ours(results: Iterable[Result], setting: Setting) -> Ours | None:
    """The mean over the seeds of a setting, of its candidate that was best on validation; None where it was not run."""
    found = candidates(results, setting)
    return average(_best(found))._replace(candidates=len(found)) if found else None


def chosen(results: Iterable[Result], setting: Setting) -> list[Result]:
    """The runs behind `ours`, by seed; none where it was not run."""
    found = candidates(results, setting)
    return _best(found) if found else []


def candidates(results: Iterable[Result], setting: Setting) -> list[list[Result]]:
    """All runs of a setting, put together where they differ in seed and machine only, each sorted by seed.

    Raises UserError for a seed that is there twice.
    """
    groups: dict[str, list[Result]] = {}
    for run in results:
        if setting_of(run) == setting:
            groups.setdefault(json.dumps([settings(run), run["data"]], sort_keys=True), []).append(run)
    for runs in groups.values():
        runs.sort(key=lambda run: run["seed"])
        seeds = [run["seed"] for run in runs]
        twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
        if twice is not None:
            raise invalid(f"results of {setting}", f"seed {twice}", "there once", "Delete one of the two files.")
    return list(groups.values())


def average(runs: list[Result]) -> Ours:
    """The figures of runs that differ in their seed only."""
    means = [100 * run["best"]["mean"] for run in runs]
    of_tasks = 100 * sum(run["best"]["interval_95"] for run in runs) / len(runs) / Z95
    known = len(runs) > 1 and all("test" in run for run in runs)
    return Ours(
        sum(means) / len(means),
        crossed.estimate(np.stack([scores(run) for run in runs])).reach if known else interval(means, of_tasks),
        tuple(run["seed"] for run in runs),
        runs[0]["eval_tasks"],
        runs[0]["iterations"],
        tuple(sorted({note for run in runs for note in run.get("data_notes", {}).values()})),
    )


def settings(run: Result) -> dict[str, Any]:
    """The settings that decide a run's outcome, but for its seed; those that it does not name have their defaults."""
    values = config_from(run["config"] | {"device": "auto"}).to_dict()
    return {name: value for name, value in values.items() if name != "seed" and name not in FREE_TO_CHANGE}


def verdict(paper: float, found: Ours | None) -> str:
    """What our runs say about a printed figure.

    not run        there is no result
    too few seeds  there are results, but of fewer than three seeds
    agrees         the printed figure lies in our interval
    differs        it does not
    """
    if found is None:
        return "not run"
    if len(found.seeds) < SEEDS:
        return "too few seeds"
    return "agrees" if abs(paper - found.mean) <= found.interval else "differs"


def interval(means: list[float], common: float = 0.0) -> float:
    """Half-width of the 95% interval of the mean of a few values, as in `crossed`; NaN for a single one.

    common  the standard error of what they all share, which is taken for known
    """
    count = len(means)
    if count < 2:
        return math.nan
    of_seeds = float(np.var(means, ddof=1)) / count
    return crossed.Estimate(0.0, of_seeds, common**2, 0.0, count - 1, math.inf).reach


def scores(run: Result) -> crossed.Array:
    """The accuracy on each test task, in percent. Raises UserError for a result that does not hold them."""
    if "test" not in run:
        raise invalid("result", run["command"], "one with its score of each test task", "Run its cell again.")
    return 100 * np.asarray(run["test"]["correct"], float) / run["test"]["questions"]


def _read(path: Path) -> Result:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path.name} is damaged ({error}): restore it, or run its experiment again.") from None
    missing = [name for name in (*FIGURES, *PROVENANCE) if name not in result]
    if missing:
        raise invalid(path.name, "a result without " + ", ".join(missing), "the result.json of a finished run")
    return result


def setting_of(run: Result) -> Setting:
    """What cell of a table a run is of."""
    config = run["config"]
    method = METHODS.get(config["variant"], config["variant"])
    schedule = run["cell"]["schedule"] if "cell" in run else SINGLE
    return Setting(config["dataset"], config["n_way"], config["k_shot"], method, schedule)


def _best(found: list[list[Result]]) -> list[Result]:
    """Of those with enough seeds, if any, the runs with the best mean on validation: the test tasks choose nothing."""

    def rank(runs: list[Result]) -> tuple[int, float]:
        scores = [-math.inf if run.get("validation") is None else run["validation"] for run in runs]
        return min(len(runs), SEEDS), sum(scores) / len(scores)

    return max(found, key=rank)
