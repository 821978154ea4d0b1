"""The published results: small JSON files, each a run's result.json, read for the tables of the book.

A cell of a table counts once three seeds of it were run. Its interval is Student's t over the seeds' means, which has
the choice of test tasks only as far as it moves them: all seeds are tested on the same tasks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

from .errors import UserError, invalid

PROVENANCE = ("command", "finished", "commit", "source_sha256", "device", "packages", "system", "data")
FIGURES = ("metric", "best", "seed", "config", "iterations", "eval_tasks", "seconds")
SEEDS = 3


class Setting(NamedTuple):
    """What a cell of a table is about."""

    dataset: str
    n_way: int
    k_shot: int
    method: str


class Ours(NamedTuple):
    """Our figure for a cell.

    mean, interval  in percent; the interval is the half-width at 95% over seeds, NaN for a single one
    seeds           of the runs that were averaged
    tasks           test tasks of each run
    iterations      meta-iterations of each run
    notes           what has to be said with it, as that classes are missing
    """

    mean: float
    interval: float
    seeds: tuple[int, ...]
    tasks: int
    iterations: int
    notes: tuple[str, ...]


def load(folder: Path) -> list[dict[str, Any]]:
    """All results of a folder, by file name. Raises UserError for a file that is damaged or lacks its provenance."""
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def ours(results: Iterable[dict[str, Any]], setting: Setting) -> Ours | None:
    """The mean over the seeds of a setting; None where it was not run.

    Raises UserError where its runs differ in more than the seed: then they are not one cell.
    """
    runs = sorted((run for run in results if _setting(run) == setting), key=lambda run: run["seed"])
    if not runs:
        return None
    for run in runs[1:]:
        changed = [name for name, value in run["config"].items() if value != runs[0]["config"].get(name)]
        if set(changed) - {"seed", "device"}:
            raise invalid(f"results of {setting}", changed, "runs that differ in their seed only")
    means = [100 * run["best"]["mean"] for run in runs]
    return Ours(
        sum(means) / len(means),
        interval(means),
        tuple(run["seed"] for run in runs),
        runs[0]["eval_tasks"],
        runs[0]["iterations"],
        tuple(sorted({note for run in runs for note in run.get("data_notes", {}).values()})),
    )


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


def interval(means: list[float]) -> float:
    """Half-width of the 95% interval of the mean of a few values, by Student's t; NaN for a single one."""
    count = len(means)
    if count < 2:
        return math.nan
    centre = sum(means) / count
    deviation = math.sqrt(sum((mean - centre) ** 2 for mean in means) / (count - 1))
    return float(stats.t.ppf(0.975, count - 1)) * deviation / math.sqrt(count)


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path.name} is damaged ({error}): restore it, or run its experiment again.") from None
    missing = [name for name in (*FIGURES, *PROVENANCE) if name not in result]
    if missing:
        raise invalid(path.name, "a result without " + ", ".join(missing), "the result.json of a finished run")
    return result


def _setting(run: dict[str, Any]) -> Setting:
    config = run["config"]
    return Setting(config["dataset"], config["n_way"], config["k_shot"], config["variant"])
