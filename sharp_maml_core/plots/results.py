"""Figures of results: accuracy against cost, paired differences, curves over the radius, the paper's own numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..checks import check
from ..config import VARIANTS
from ..groups import Against, Line
from ..published import SEEDS, Ours
from ..radii import Curves
from ..theory.paper_tables import A_TABLE, REPORTED, TABLES

PALETTE = sns.color_palette("colorblind")
MAIN = ("maml", "low", "up", "both")
REST = [name for name in VARIANTS if name not in MAIN]
COLOURS = dict(zip((*MAIN, *REST), (*PALETTE[: len(MAIN)], *sns.color_palette("husl", len(REST))), strict=True))
"""A variant has the same colour everywhere, and no two have one."""

OURS, PAPER, QUOTED = PALETTE[0], PALETTE[3], "0.45"


BESIDE = 1.1  # from a variant to the next, on the logarithmic axis of the radius


def comparison(lines: Sequence[Line]) -> Figure:
    """Left the accuracy of each cell against the images of a run, right its paired difference to each baseline.

    Small open dots are seeds, bars 95% intervals over seeds and tasks. Right, a filled dot is a difference that stands;
    left, a mean of fewer than three seeds is open, and of a single one it has no bar. Images of an upper perturbation
    count twice.
    """
    pairs = [(line, against) for line in lines for against in line.against]
    height = 1.2 + 0.3 * max(len(lines), len(pairs))
    with sns.axes_style("ticks"):
        figure, (cost, forest) = plt.subplots(1, 2, figsize=(10, max(3.2, height)), layout="constrained")
        for place, line in enumerate(lines):
            colour = _colour(line.variant)
            x = line.images * (1 + 0.02 * (place - len(lines) / 2))  # beside each other, not upon
            shape = "o" if line.variant == line.name else "s"  # another setting of a variant is a square
            cost.plot([x] * len(line.means), line.means, shape, markersize=4, fillstyle="none", color=colour)
            bar = {"fmt": shape, "color": colour, "capsize": 3, "label": line.name}
            cost.errorbar([x], [line.ours.mean], _bars([line.ours]), **bar, **_fill(line.ours))
        cost.set(xlabel="training images of a run, thousands", ylabel="test accuracy, %", xscale="log")
        _few_ticks(cost, sorted({line.images for line in lines}))
        cost.legend(frameon=False, fontsize="small")
        for place, (line, against) in enumerate(pairs):
            found = against.difference
            forest.plot([found.low, found.high], [place, place], color=_colour(line.variant), linewidth=1.5)
            fill = "full" if against.clear else "none"
            forest.plot(found.mean, place, "o", color=_colour(line.variant), fillstyle=fill, markersize=6)
        forest.axvline(0, color="0.6", linewidth=1, linestyle="--")
        names = [f"{line.name} − {against.baseline}" for line, against in pairs]
        forest.set(xlabel="difference on the same tasks, points", yticks=range(len(pairs)), yticklabels=names)
        forest.set_ylim(len(pairs) - 0.5, -0.5)
        sns.despine(figure)
    return figure


def alpha_curves(curves: Curves) -> Figure:
    """Accuracy against the radius, a line a variant, with 95% intervals; each plain MAML as a band (Figures 2, 3).

    A single seed has no interval, and no bar or band. The variants stand a little beside each other, or their bars
    would hide one another.
    """
    with sns.axes_style("ticks"):
        figure, ax = plt.subplots(figsize=(6.6, 3.6), layout="constrained")
        for place, (variant, points) in enumerate(curves.variants.items()):
            beside = BESIDE ** (place - (len(curves.variants) - 1) / 2)
            ax.errorbar(
                [beside * point.alpha for point in points],
                [point.ours.mean for point in points],
                _bars([point.ours for point in points]),
                color=_colour(variant),
                marker="o",
                capsize=3,
                label=variant,
            )
        for (name, ours), style in zip(curves.maml.items(), itertools.cycle(("--", ":", "-."))):
            ax.axhline(ours.mean, color="0.4", linestyle=style, label=name)
            if math.isfinite(ours.interval):
                ax.axhspan(ours.mean - ours.interval, ours.mean + ours.interval, color="0.5", alpha=0.2, zorder=0)
        ax.set(xscale="log", xlabel=r"$\alpha$", ylabel="test accuracy, %")
        ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
        sns.despine(figure)
    return figure


def worth(
    baseline: Sequence[tuple[str, Against]], methods: Sequence[tuple[Line, Against]], printed: float | None
) -> Figure:
    """What a better baseline is worth beside what the method is, on one scale of points, with 95% intervals.

    baseline  a cell of MAML with its difference to MAML of other settings (`groups.worth_of_baseline`)
    methods   a variant with its difference to MAML on as many images (`groups.on_as_many_images`)
    printed   the largest gain of a variant that the paper prints for this setting; None where it has none
    """
    rows = [(name, against, _colour("maml")) for name, against in baseline]
    rows += [(line.name, against, _colour(line.variant)) for line, against in methods]
    with sns.axes_style("ticks"):
        figure, ax = plt.subplots(figsize=(7, 1.3 + 0.32 * len(rows)), layout="constrained")
        for place, (_, against, colour) in enumerate(rows):
            found = against.difference
            ax.plot([found.low, found.high], [place, place], color=colour, linewidth=1.5)
            ax.plot(found.mean, place, "o", color=colour, fillstyle="full" if against.clear else "none", markersize=6)
        ax.axvline(0, color="0.6", linewidth=1, linestyle="--")
        if printed is not None:
            ax.axvline(
                printed, color="0.2", linewidth=1.5, label=f"the paper's largest gain of a variant, {printed:.2f}"
            )
            figure.legend(frameon=False, fontsize="small", loc="outside lower right")  # inside it would hide a row
        names = [f"{name} − {against.baseline}" for name, against, _ in rows]
        ax.set(xlabel="difference on the same tasks, points", yticks=range(len(rows)), yticklabels=names)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        sns.despine(figure)
    return figure


def paper_table(number: int, ours: Mapping[str, Ours]) -> Figure:
    """A table of the paper as a picture: what it prints, what the quoted papers report of the same, what we found.

    ours  by the key of a row; what is missing was not run. Raises UserError for a table that there is not.
    """
    check("number", number, A_TABLE)
    table = TABLES[number]
    reported = {entry.method: entry for entry in REPORTED if entry[1:4] == table[:3]}
    with sns.axes_style("ticks"):
        figure, ax = plt.subplots(figsize=(7, 0.9 + 0.32 * len(table.rows)), layout="constrained")
        for place, row in enumerate(table.rows):
            ax.axhline(place, color="0.93", linewidth=1, zorder=0)
            if entry := reported.get(row.method):
                _across(ax, place + 0.15, entry.accuracy, entry.interval, fmt="s", color=QUOTED)
            if found := ours.get(row.method):
                _across(ax, place - 0.15, found.mean, found.interval, fmt="D", color=OURS, **_fill(found))
            ax.plot(float(row.accuracy), place, "o", color=PAPER)
        for colour, marker, label in (
            (PAPER, "o", "the paper"),
            (QUOTED, "s", "the method's own paper"),
            (OURS, "D", "ours"),
        ):
            if label != "ours" or ours:
                ax.plot([], [], marker, color=colour, label=label)
        ax.set(yticks=range(len(table.rows)), yticklabels=[row.method for row in table.rows], xlabel="accuracy, %")
        ax.set_ylim(len(table.rows) - 0.5, -0.5)
        ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
        sns.despine(figure)
    return figure


def _across(ax: Axes, y: float, mean: float, reach: float | None, **style: Any) -> None:
    bar = None if reach is None or math.isnan(reach) else [reach]
    ax.errorbar([mean], [y], xerr=bar, capsize=2, markersize=4, **style)


def _few_ticks(ax: Axes, values: Sequence[int]) -> None:
    ax.set_xticks(values, [f"{value / 1000:,.0f}" for value in values])
    ax.minorticks_off()


def _bars(found: Sequence[Ours]) -> list[float] | None:
    """Half-widths; None where there are none, of single seeds."""
    return None if all(math.isnan(each.interval) for each in found) else [each.interval for each in found]


def _fill(found: Ours) -> dict[str, str]:
    return {"fillstyle": "full" if len(found.seeds) >= SEEDS else "none"}


def _colour(variant: str) -> Any:
    return COLOURS.get(variant, "0.5")
