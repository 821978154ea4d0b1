"""Accuracy against the radius, as in Figures 2 and 3: the cells of a group that differ in it, and MAML beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .contrasts import FREE_OF_RADII, same
from .groups import cells_of, lender, variant_of
from .learners.maml import KINDS
from .published import Ours, Result, average
from .theory.paper_tables import SHARP


class Point(NamedTuple):
    """A point of a curve: the radius, and our figure."""

    alpha: float
    ours: Ours


class Curves(NamedTuple):
    """What a figure of radii shows.

    variants  a curve for each variant that was run with two radii or more, sorted by them
    maml      plain MAML by the name of its cell, as at once and at twice the iterations
    """

    variants: dict[str, list[Point]]
    maml: dict[str, Ours]


def curves(results: Sequence[Result], group: str) -> Curves:
    """The curves of a group and of the one whose name it continues, which may hold one of the radii.

    All else is as in the group's own first cell with a radius. Where both radii count they are tied, as in the paper.
    """
    cells, continued = cells_of(results, group), lender(results, group)
    like = next((runs for runs in cells.values() if variant_of(runs) in SHARP), None)
    if like is None:
        return Curves({}, {})
    if continued is not None:
        cells = cells_of(results, continued) | cells
    alike = {name: runs for name, runs in cells.items() if same(runs, like, {*FREE_OF_RADII})}
    found = {name: sorted(_point(runs) for runs in alike.values() if variant_of(runs) == name) for name in SHARP}
    return Curves(
        {variant: points for variant, points in found.items() if len(points) > 1},
        {name: average(alike[name]) for name in sorted(alike, key=len) if variant_of(alike[name]) == "maml"},
    )


def _point(runs: list[Result]) -> Point:
    config = runs[0]["config"]
    return Point(config["alpha_low" if KINDS[variant_of(runs)].low else "alpha_up"], average(runs))
