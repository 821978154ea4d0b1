"""What the runs of one group of cells say: a line for each cell, its difference to MAML on the same tasks, a sentence.

The cells of a group (`experiments/cells.toml`) are compared with each other: their runs share the data, the test tasks
and the length, and differ in what the group is about. A baseline is a cell of the group that is plain MAML, as at once
and at twice the iterations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .learners.maml import KINDS
from .paired import Difference, compare, holm
from .published import SEEDS, Ours, Result, average

SIGNIFICANCE = 0.05


class Against(NamedTuple):
    """A cell less a baseline: the paired difference, and its p value adjusted for all comparisons of the group."""

    baseline: str
    difference: Difference
    adjusted_p: float

    @property
    def clear(self) -> bool:
        """At least three seeds, an interval without zero, and not by the number of comparisons alone."""
        return self.difference.significant and self.adjusted_p < SIGNIFICANCE


class Line(NamedTuple):
    """One cell of a group.

    name            without the group's: "both", "maml-2x", ...
    means           test accuracy of each run in percent, by seed
    meta_gradients  of a run: its iterations, twice that with an upper perturbation, which takes two an iteration
    seconds         of a meta-iteration, the mean over runs
    against         one for each baseline before it that has a seed in common
    """

    name: str
    variant: str
    ours: Ours
    means: tuple[float, ...]
    meta_gradients: int
    seconds: float
    against: tuple[Against, ...]


def names(results: Sequence[Result]) -> list[str]:
    """The groups that have results, sorted."""
    return sorted({run["cell"]["group"] for run in results if "cell" in run})


def lines(results: Sequence[Result], group: str) -> list[Line]:
    """A line for each cell of the group that has results, baselines first; none for a group without."""
    cells: dict[str, list[Result]] = {}
    for run in results:
        if run.get("cell", {}).get("group") == group:
            cells.setdefault(run["cell"]["name"].removeprefix(f"{group}-"), []).append(run)
    baselines = [name for name in sorted(cells, key=len) if _variant(cells[name]) == "maml"]
    order = [*baselines, *(name for name in sorted(cells, key=lambda n: _place(cells[n])) if name not in baselines)]
    found = {
        (name, other): compare(cells[name], cells[other])
        for name in order
        for other in baselines
        if other in order[: order.index(name)] and _meet(cells[name], cells[other])  # each pair once
    }
    adjusted = holm([difference.p for difference in found.values()])
    against: dict[str, list[Against]] = {name: [] for name in order}
    for ((name, other), difference), p in zip(found.items(), adjusted, strict=True):
        against[name].append(Against(other, difference, p))
    return [_line(name, sorted(cells[name], key=lambda run: run["seed"]), tuple(against[name])) for name in order]


def statement(line: Line, against: Against) -> str:
    """What the comparison says, in a sentence."""
    found = against.difference
    figures = f"{found.mean:+.2f} points ({found.low:+.2f} to {found.high:+.2f})"
    if len(found.seeds) < SEEDS:
        return f"{line.name} against {against.baseline}: {figures}, of too few seeds to say anything."
    if not against.clear:
        return f"{line.name} against {against.baseline}: {figures}; no difference is seen."
    return f"{line.name} is {'better' if found.mean > 0 else 'worse'} than {against.baseline}: {figures}."


def _line(name: str, runs: list[Result], against: tuple[Against, ...]) -> Line:
    config = runs[0]["config"]
    kind = KINDS.get(config["variant"])
    upper = config["alpha_up"] > 0 and (kind is None or kind.up)
    return Line(
        name,
        config["variant"],
        average(runs),
        tuple(100 * run["best"]["mean"] for run in runs),
        config["iterations"] * (2 if upper else 1),
        sum(run["seconds"] / run["iterations"] for run in runs) / len(runs),
        against,
    )


def _variant(runs: list[Result]) -> str:
    return runs[0]["config"]["variant"]


def _place(runs: list[Result]) -> tuple[int, float, str]:
    """In the order of the family, then by radius."""
    order = list(KINDS)
    variant, config = _variant(runs), runs[0]["config"]
    radius = max(config["alpha_low"], config["alpha_up"])
    return (order.index(variant) if variant in order else len(order), radius, runs[0]["cell"]["name"])


def _meet(first: list[Result], second: list[Result]) -> bool:
    return not {run["seed"] for run in first}.isdisjoint(run["seed"] for run in second)
