"""What the paper's claims rest on beside accuracies, the generalisation error; and what can be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .evaluate import Z95
from .published import Result, interval, settings

FREE_OF_RADII = ("variant", "alpha_low", "alpha_up", "iterations")


class Gap(NamedTuple):
    """The generalisation error: accuracy on tasks of training classes less that on tasks of test classes.

    In percentage points, with the half-width of the 95% interval over seeds and both kinds of tasks.
    """

    mean: float
    interval: float
    seeds: tuple[int, ...]


def generalization_error(runs: Sequence[Result]) -> Gap | None:
    """Section 5.3's generalisation error as a gap of accuracies; None where a run was not tested on training classes.

    The paper does not define its own: this reading fits its numbers (`theory.errata.tables`).
    """
    if not runs or any("train" not in run for run in runs):
        return None
    gaps = [100 * (run["train"]["mean"] - run["best"]["mean"]) for run in runs]
    reach = [100 * math.hypot(run["train"]["interval_95"], run["best"]["interval_95"]) for run in runs]
    of_tasks = sum(reach) / len(reach) / Z95  # which the seeds share: more of them take nothing off it
    return Gap(sum(gaps) / len(gaps), interval(gaps, of_tasks), tuple(run["seed"] for run in runs))


def same(runs: list[Result], like: list[Result], free: set[str]) -> bool:
    """Whether two cells share their data and all settings but those named."""
    mine, theirs = settings(runs[0]), settings(like[0])
    return all(mine[name] == theirs[name] for name in mine if name not in free) and runs[0]["data"] == like[0]["data"]


def meet(first: list[Result], second: list[Result]) -> bool:
    """Whether two cells have a seed in common."""
    return not {run["seed"] for run in first}.isdisjoint(run["seed"] for run in second)
