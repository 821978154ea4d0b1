"""Figures of sharpness: spectral densities, measures of the variants beside how well they do, and changes of scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..errors import invalid
from ..landscape.rescale import Rescaled
from ..landscape.summary import MEASURES, Correlation, Mean, Row, over_seeds

COLOURS = dict(zip(("maml", "low", "up", "both"), sns.color_palette("colorblind"), strict=False))
SURFACE_LABELS = {"maml": "MAML loss", "erm": "ERM loss", "meta": "meta-objective"}
LABELS = {
    "top_eigenvalue": "top eigenvalue",
    "trace": "trace",
    "one_step": "sharpness,\none step",
    "sharpness": "sharpness,\nmaximised",
    "adaptive_sharpness": "adaptive\nsharpness",
    "accuracy": "test accuracy",
    "train accuracy": "accuracy,\ntraining classes",
    "gap": "generalisation gap",
}
# What is drawn of a sweep. The measures that move are full lines; those that are said not to are broken ones, each
# thinner than the one that it may lie upon.
MOVING = {"top_eigenvalue": "top eigenvalue", "trace": "trace", "sharpness": "sharpness", "gradient_norm": "gradient"}
FIXED = {
    "loss": "loss",
    "adaptive_sharpness": "adaptive sharpness",
    "adaptive_top_eigenvalue": "adaptive top eigenvalue",
}
FLOOR = 1e-7  # of a density that is drawn: an eigenvalue by itself has the weight 1 / k, of k = 30 to 120 thousand


def densities(curves: Mapping[str, tuple[Tensor, Mapping[str, Tensor]]]) -> Figure:
    """The spectral density of each variant on a logarithmic axis, as `summary.densities` has it; a panel a surface."""
    with sns.axes_style("ticks"):
        figure, axes = plt.subplots(
            len(curves), 1, figsize=(7.2, 2.6 * len(curves)), squeeze=False, layout="constrained"
        )
        for ax, (surface, (grid, by_variant)) in zip(axes[:, 0], curves.items(), strict=True):
            for variant, density in by_variant.items():
                ax.semilogy(grid, density.clamp(min=FLOOR / 10), color=_colour(variant), label=variant, linewidth=1.2)
            ax.set(xlabel=f"eigenvalue of the Hessian, {_surface(surface)}", ylabel="density", ylim=(FLOOR, None))
        axes[0, 0].legend(frameon=False, fontsize="small")
        sns.despine(figure)
    return figure


def measures(table: Sequence[Row]) -> Figure:
    """Each measure of each variant beside accuracy and gap: open dots are seeds, full ones their mean.

    Bars are 95% intervals over seeds; of a variant with one seed, over its tasks. A figure that has neither has no bar.
    """
    last = len(MEASURES) + 1
    panels = [
        (row, column, f"{surface} {measure}", LABELS[measure])
        for column, surface in enumerate(SURFACE_LABELS)
        for row, measure in enumerate(MEASURES)
    ]
    panels += [(last, column, name, LABELS[name]) for column, name in enumerate(("accuracy", "train accuracy", "gap"))]
    means = over_seeds(table)
    with sns.axes_style("ticks"):
        heights = {"height_ratios": [1.0] * len(MEASURES) + [0.1, 1.0]}
        size = (7.5, 1.6 * (last + 0.1))
        figure, axes = plt.subplots(
            last + 1, len(SURFACE_LABELS), figsize=size, sharey=True, layout="constrained", gridspec_kw=heights
        )
        for row, column, name, label in panels:
            ax = axes[row, column]
            for place, (variant, figures) in enumerate(means.items()):
                seeds = [(one.figures | one.outcomes)[name] for one in table if one.variant == variant]
                values = [seed.mean for seed in seeds]
                ax.plot(values, [place] * len(seeds), "o", markersize=4, fillstyle="none", color=_colour(variant))
                _mean(ax, figures[name] if len(seeds) > 1 else seeds[0], place, _colour(variant))
            ax.set_xlabel(label.replace("\n", " "), fontsize="small")
            ax.tick_params(labelsize="small")
            ax.locator_params(axis="x", nbins=4)
        for top, between, surface in zip(axes[0], axes[-2], SURFACE_LABELS.values(), strict=True):
            top.set_title(surface, fontsize="medium")
            between.axis("off")
        axes[0, 0].set(yticks=range(len(means)), yticklabels=list(means), ylim=(len(means) - 0.5, -0.5))
        sns.despine(figure)
    return figure


def correlations(found: Sequence[Correlation]) -> Figure:
    """Rank correlations of every measure with accuracy and with the gap; bars are 95% intervals, grey with 0 in it."""
    outcomes = list(dict.fromkeys(one.outcome for one in found))
    names = list(dict.fromkeys((one.surface, one.measure) for one in found))
    with sns.axes_style("ticks"):
        size = (4.2 * len(outcomes) + 1.5, 0.28 * len(names) + 1.1)
        figure, axes = plt.subplots(1, len(outcomes), figsize=size, sharey=True, squeeze=False, layout="constrained")
        for ax, outcome in zip(axes[0], outcomes, strict=True):
            for one in (one for one in found if one.outcome == outcome):
                place = names.index((one.surface, one.measure))
                colour = COLOURS["maml"] if one.clear else "0.55"
                ax.plot([one.low, one.high], [place, place], color=colour, linewidth=1.5)
                ax.plot(one.rho, place, "o", color=colour, markersize=5)
            ax.axvline(0, color="0.8", linewidth=1, zorder=0)
            ax.set(xlim=(-1.03, 1.03), xlabel=f"rank correlation with {LABELS[outcome]}")
            ax.set_title(f"{found[0].n} models", fontsize="small", loc="right")
        labels = [f"{LABELS[measure].replace(chr(10), ' ')}, {_surface(surface)}" for surface, measure in names]
        axes[0, 0].set(yticks=range(len(names)), yticklabels=labels, ylim=(len(names) - 0.5, -0.5))
        sns.despine(figure)
    return figure


def rescaling(sweeps: Mapping[str, Sequence[Rescaled]]) -> Figure:
    """Each measure against the factor c, as a multiple of what it is at c = 1, which has to be one; a panel a sweep.

    Broken lines are what does not move where the function does not. A multiple that is not above 0 has no place on a
    logarithmic axis and is not drawn. Raises UserError for a sweep without c = 1.
    """
    for title, points in sweeps.items():
        factors = [point.factor for point in points]
        if 1 not in factors:
            raise invalid(f"sweeps[{title!r}]", factors, "factors with 1 among them, to compare with")
    with sns.axes_style("ticks"):
        size = (3.1 * len(sweeps) + 0.4, 3.9)
        figure, axes = plt.subplots(1, len(sweeps), figsize=size, squeeze=False, sharey=True, layout="constrained")
        for ax, (title, points) in zip(axes[0], sweeps.items(), strict=True):
            _sweep(ax, points)
            ax.set_title(title, fontsize="medium")
        axes[0, 0].set_ylabel("multiple of the value at c = 1")
        lines, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(lines, labels, frameon=False, fontsize="small", loc="outside lower center", ncols=4)
        sns.despine(figure)
    return figure


def _sweep(ax: Axes, points: Sequence[Rescaled]) -> None:
    factors = [point.factor for point in points]
    base = next(point for point in points if point.factor == 1)
    full = [(name, label, "-", 1.5) for name, label in MOVING.items()]
    broken = [(name, label, "--", 3.4 - 1.2 * i) for i, (name, label) in enumerate(FIXED.items())]
    for (name, label, style, width), colour in zip(full + broken, sns.color_palette("colorblind"), strict=False):
        multiples = np.array([getattr(point, name) for point in points]) / getattr(base, name)
        ax.plot(factors, multiples, style, color=colour, linewidth=width, label=label)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(factors, [f"{factor:g}" if factor >= 1 else f"1/{1 / factor:g}" for factor in factors])
    ax.set_xlabel("factor c")


def _mean(ax: Axes, found: Mean, place: int, colour: tuple[float, ...]) -> None:
    bar = found.interval if math.isfinite(found.interval) else None
    ax.errorbar(found.mean, place, xerr=bar, fmt="o", markersize=6, color=colour, capsize=3)


def _colour(variant: str) -> tuple[float, ...]:
    return COLOURS.get(variant, (0.4, 0.4, 0.4))


def _surface(name: str) -> str:
    return SURFACE_LABELS.get(name, name)
