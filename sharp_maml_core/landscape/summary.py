"""The stored measurements side by side, and what they say: does flatter go with better here?

A figure of one model is a mean over tasks, with a Student interval over tasks (one of `meta` is a single figure); one
of a variant is a mean over seeds of those means, with a Student interval over seeds, which is what a comparison of
variants has to be judged by: with three seeds its half width is 2.5 standard deviations. The tasks are the same for
all models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

from ..checks import check, one_of
from ..errors import invalid
from ..evaluate import Z95
from .measure import SURFACES, Figures
from .spectrum import Quadrature, density

MEASURES = ("top_eigenvalue", "trace", "one_step", "sharpness", "adaptive_sharpness")
"""What is small where a surface is flat."""

COLUMNS = (
    *((surface, measure) for surface in SURFACES for measure in MEASURES),
    ("erm", "local_minima"),
    ("maml", "local_minima"),
)
OUTCOMES = ("accuracy", "gap")
REFERENCE = "maml"


class Mean(NamedTuple):
    """A mean of n figures and half the width of its 95% interval, infinite for one figure."""

    mean: float
    interval: float
    n: int


class Row(NamedTuple):
    """One model: figures by "SURFACE MEASURE", and its outcomes, "accuracy", "train accuracy" and "gap"."""

    model: str
    variant: str
    seed: int
    figures: dict[str, Mean]
    outcomes: dict[str, Mean]


class Correlation(NamedTuple):
    """Spearman's rank correlation of a measure with an outcome over n models, and its 95% interval."""

    surface: str
    measure: str
    outcome: str
    rho: float
    low: float
    high: float
    n: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def mean_of(values: Sequence[float]) -> Mean:
    """The mean with Student's interval. Raises UserError for no value at all."""
    n = len(values)
    if not n:
        raise invalid("values", values, "at least one")
    if n == 1:
        return Mean(float(values[0]), math.inf, 1)
    x = torch.tensor(values, dtype=torch.float64)
    return Mean(float(x.mean()), float(stats.t.ppf(0.975, n - 1)) * float(x.std(correction=1)) / math.sqrt(n), n)


def per_task(result: Figures, surface: str, measure: str) -> list[float]:
    """A measure of one model, a figure a task; of `meta` there is one in all.

    Raises UserError for another surface or measure than were taken.
    """
    check("surface", surface, one_of(*SURFACES))
    figures = result["surfaces"][surface]
    if measure == "top_eigenvalue":
        return [row[0] for row in figures["top_eigenvalues"]]
    check("measure", measure, one_of("top_eigenvalue", *figures))
    return figures[measure]


def rows(results: Sequence[Figures]) -> list[Row]:
    """A row a model, in the order of `results`: MEASURES of every surface, and the local minima of "erm" and "maml"."""
    return [
        Row(
            result["model"],
            result["variant"],
            result["seed"],
            {f"{surface} {measure}": mean_of(per_task(result, surface, measure)) for surface, measure in COLUMNS},
            {
                "accuracy": _outcome(result["accuracy"]["test"]),
                "train accuracy": _outcome(result["accuracy"]["train"]),
                "gap": _outcome(result["accuracy"]["gap"]),
            },
        )
        for result in results
    ]


def over_seeds(table: Sequence[Row]) -> dict[str, dict[str, Mean]]:
    """Of each variant, in the order of the rows, the figures and outcomes over its seeds."""
    found: dict[str, dict[str, Mean]] = {}
    for variant in dict.fromkeys(row.variant for row in table):
        mine = [row.figures | row.outcomes for row in table if row.variant == variant]
        found[variant] = {name: mean_of([values[name].mean for values in mine]) for name in mine[0]}
    return found


def changes(table: Sequence[Row], reference: str = REFERENCE) -> dict[str, dict[str, Mean]]:
    """Of each other variant, figure / figure of the reference with the same seed - 1, over the seeds that both have.

    Models of one seed began at the same point and saw the same tasks. Outcomes are differences, not shares.
    Raises UserError for a reference that is not there.
    """
    check("reference", reference, one_of(*dict.fromkeys(row.variant for row in table)))
    base = {row.seed: row for row in table if row.variant == reference}
    found: dict[str, dict[str, Mean]] = {}
    for variant in dict.fromkeys(row.variant for row in table):
        mine = [(row, base[row.seed]) for row in table if row.variant == variant and row.seed in base]
        if variant == reference or not mine:
            continue
        shares = {
            name: mean_of([row.figures[name].mean / other.figures[name].mean - 1 for row, other in mine])
            for name in table[0].figures
            if all(other.figures[name].mean for _, other in mine)
        }
        differences = {
            name: mean_of([row.outcomes[name].mean - other.outcomes[name].mean for row, other in mine])
            for name in table[0].outcomes
        }
        found[variant] = shares | differences
    return found


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Spearman's rho and its 95% interval by Fisher's transform with Bonett and Wright's (2000) standard error.

    The interval is approximate, and for independent points. A perfect ranking is transformed as the next best one, with
    two neighbours exchanged: its own transform is infinite, and four points in order prove little.
    Raises UserError for fewer than 4 points, and for a constant.
    """
    n = len(x)
    if n < 4 or len(y) != n:
        raise invalid("x, y", (n, len(y)), "of the same length, at least 4")
    if min(x) == max(x) or min(y) == max(y):
        raise invalid("x, y", "constant", "at least two different values each: there is nothing to rank")
    rho = float(stats.spearmanr(x, y).statistic)
    next_best = 1 - 12 / (n**3 - n)
    middle = math.atanh(max(-next_best, min(next_best, rho)))
    reach = Z95 * math.sqrt((1 + rho**2 / 2) / (n - 3))
    low, high = math.tanh(middle - reach), math.tanh(middle + reach)
    return rho, -1.0 if rho < -next_best else low, 1.0 if rho > next_best else high


def correlations(table: Sequence[Row]) -> list[Correlation]:
    """Every measure of MEASURES on each surface with each of OUTCOMES, over all models, of which 4 are the fewest."""
    return [
        Correlation(
            surface,
            measure,
            outcome,
            *rank_correlation(
                [row.figures[f"{surface} {measure}"].mean for row in table],
                [row.outcomes[outcome].mean for row in table],
            ),
            len(table),
        )
        for outcome in OUTCOMES
        for surface in SURFACES
        for measure in MEASURES
    ]


def verdict(found: Sequence[Correlation], table: Sequence[Row]) -> str:
    """What the correlations over the models of a table say, in words, and how much that is worth."""
    lines = []
    for outcome, better, flat in (("accuracy", "Higher test accuracy", -1), ("gap", "A smaller gap", 1)):
        mine = [one for one in found if one.outcome == outcome]
        flatter = [one for one in mine if one.clear and one.rho * flat > 0]
        sharper = [one for one in mine if one.clear and one.rho * flat < 0]
        lines.append(
            f"{better} goes with a flatter surface by {_count(flatter)} of {len(mine)} measures, "
            f"and with a sharper one by {_count(sharper)}."
        )
    apart = _apart(table)
    if apart:
        lines.append(
            f"Beside `{REFERENCE}`, {'; '.join(apart)}. Variants that differ in both make such a correlation by "
            "themselves, whatever else tells them apart."
        )
    lines.append(
        f"This is of {len(table)} models, which are not independent: they are a few variants with the same seeds. "
        f"Of {len(found)} intervals about {0.05 * len(found):.1f} leave out 0 by chance. "
        "It says what goes together, not what makes what."
    )
    return "\n".join(lines)


def _apart(table: Sequence[Row]) -> list[str]:
    """The variants whose accuracy differs from the reference's, and by how many measures they are flatter or sharper.

    By intervals over seeds that leave out 0.
    """
    if not any(row.variant == REFERENCE for row in table):
        return []
    said = []
    for variant, change in changes(table).items():
        shifts = [
            change[name] for surface in SURFACES for measure in MEASURES if (name := f"{surface} {measure}") in change
        ]
        flatter = sum(one.mean + one.interval < 0 for one in shifts)
        sharper = sum(one.mean - one.interval > 0 for one in shifts)
        accuracy = change["accuracy"]
        if abs(accuracy.mean) > accuracy.interval and flatter + sharper:
            word, count = ("flatter", flatter) if flatter >= sharper else ("sharper", sharper)
            more = "more" if accuracy.mean > 0 else "less"
            said.append(f"`{variant}` is {more} accurate and {word} by {count} of {len(shifts)} measures")
    return said


def densities(
    results: Sequence[Figures], surface: str, *, points: int = 600, width: float | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The spectral density of each variant, a mean over its models and tasks, on one grid [points].

    width  of the Gaussian that each node becomes; default 1/150 of the range of all nodes
    """
    check("surface", surface, one_of(*SURFACES))
    masses = {
        variant: [_quadrature(result, surface) for result in results if result["variant"] == variant]
        for variant in dict.fromkeys(result["variant"] for result in results)
    }
    nodes = torch.cat([one.nodes.flatten() for each in masses.values() for one in each])
    low, high = float(nodes.min()), float(nodes.max())
    width = (high - low) / 150 if width is None else width
    grid = torch.linspace(low - 4 * width, high + 4 * width, points, dtype=torch.float64)
    return grid, {
        variant: torch.stack([density(one, grid, width) for one in each]).mean(0) for variant, each in masses.items()
    }


def _quadrature(result: Figures, surface: str) -> Quadrature:
    figures = result["surfaces"][surface]
    return Quadrature(
        torch.tensor(figures["nodes"], dtype=torch.float64), torch.tensor(figures["weights"], dtype=torch.float64)
    )


def _outcome(figures: Figures) -> Mean:
    return Mean(figures["mean"], figures["interval_95"], figures.get("tasks", 0))


def _count(found: Sequence[Correlation]) -> str:
    """How many, and between what their correlations lie."""
    if not found:
        return "none"
    rhos = [one.rho for one in found]
    return f"{len(found)} (rho {min(rhos):+.2f} to {max(rhos):+.2f})"
