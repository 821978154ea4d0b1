"""Figures of certificates, of stability, and of the assumption of Theorem 2."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ..theory._numbers import Array
from ..theory.assumption import Differences, mean_and_interval
from ..theory.certificate import Certificate, Coverage
from ..theory.stability import NEIGHBOURS, Changes

_ALL = sns.color_palette("colorblind")
WARNING = _ALL[3]
PALETTE = [_ALL[i] for i in (0, 2, 4, 7, 9)]
MEASURED, PROMISED = PALETTE[:2]
TITLES = {"tasks": "new tasks of the seen classes", "classes": "tasks of classes nobody looked at"}
BINS = 40
IN_X = ("data", "axes fraction")


def certificates(found: Sequence[Certificate], chance: float, note: str = "") -> Figure:
    """For each learner, what was measured on fresh tasks and what is certified, a panel for each unit.

    chance  the error of guessing; note  small print under the figure
    """
    learners = list(dict.fromkeys(one.learner for one in found))
    units = [unit for unit in TITLES if any(one.unit == unit for one in found)]
    with sns.axes_style("ticks"):
        figure, axes = plt.subplots(
            1,
            len(units),
            figsize=(4.6 * len(units) + 1, 0.42 * len(learners) + 1.9),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for ax, unit in zip(axes[0], units, strict=True):
            for one in (one for one in found if one.unit == unit):
                y = learners.index(one.learner)
                ax.plot([one.measured, one.bound], [y, y], color="0.8", linewidth=3, zorder=0)
                ax.errorbar(one.measured, y, xerr=one.interval, fmt="o", color=MEASURED, markersize=5, capsize=2)
                ax.plot(one.bound, y, marker="|", color=PROMISED, markersize=15, markeredgewidth=2.5)
                ax.annotate(
                    f"{one.bound:.3f}",
                    (one.bound, y),
                    xytext=(6, 0),
                    textcoords="offset points",
                    va="center",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                )
            ax.axvline(chance, color="0.6", linewidth=1, linestyle="--", zorder=0)
            ax.annotate(
                "chance", (chance + 0.015, 0.03), xycoords=("data", "axes fraction"), color="0.4", fontsize="small"
            )
            ax.set(xlim=(0, 1), xlabel="0-1 error", title=TITLES[unit])
            ax.set(yticks=range(len(learners)), yticklabels=learners, ylim=(len(learners) - 0.4, -0.6))
        handles = [
            plt.Line2D([], [], marker="o", color=MEASURED, linestyle="", label="measured, 95% interval"),
            plt.Line2D([], [], marker="|", color=PROMISED, linestyle="", markersize=13, markeredgewidth=2.5),
        ]
        handles[1].set_label(f"certified at {1 - found[0].delta:.0%}")
        figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False, fontsize="small")
        if note:
            figure.supxlabel(note, fontsize="small", color="0.35")
        sns.despine(figure)
    return figure


def coverage(found: Mapping[str, Coverage], shown: int) -> Figure:
    """How often each bound was violated against how often it may be, and how far it was from the truth.

    found  title -> deltas, bounds and truths; shown  which of the deltas the histograms are of
    """
    with sns.axes_style("ticks"):
        figure, axes = plt.subplots(
            1, 1 + len(found), figsize=(3.3 * (1 + len(found)), 3.6), squeeze=False, layout="constrained"
        )
        often, *panels = axes[0]
        deltas = next(iter(found.values())).deltas
        often.plot(deltas, deltas, color="0.6", linewidth=1, linestyle="--", label="allowed")
        sizes = range(3 * len(found) + 1, 0, -3)  # limits may coincide
        for size, colour, (title, one) in zip(sizes, PALETTE, found.items(), strict=False):
            upper = one.violations_at_most()
            often.plot(one.deltas, upper, "v:", color=colour, markersize=size, label=f"{title}: at most")
            seen = one.violations > 0
            often.plot(one.deltas[seen], one.violations[seen], "o", color=colour)
        often.set(xscale="log", yscale="log", xlabel=r"$\delta$", ylabel="share of violations")
        often.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2))
        for ax, (title, one) in zip(panels, found.items(), strict=True):
            for values, colour, label in (
                (one.seen[shown], "0.7", "error on what was seen"),
                (one.truths[shown], MEASURED, "true error"),
                (one.bounds[shown], PROMISED, f"bound at {1 - one.deltas[shown]:.0%}"),
            ):
                ax.hist(values, np.linspace(0, 1, BINS + 1), density=True, color=colour, alpha=0.65, label=label)
            ax.set(xlim=(0, 1), xlabel="error", yticks=[], title=title)
        middle = panels[len(panels) // 2]
        middle.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2))
        sns.despine(figure)
        for ax in panels:
            sns.despine(ax=ax, left=True)
    return figure


def stability(learners: Mapping[str, Changes], bounds: Mapping[str, ArrayLike]) -> Figure:
    """The largest change of 1 - p_y when one support example is replaced, against how many there are.

    learners  title -> changes, a panel each; faint points are tasks, the line goes through the largest
    bounds    title -> the closed form [K], for learners that have one
    """
    with sns.axes_style("ticks"):
        figure, axes = plt.subplots(
            1, len(learners), figsize=(3.9 * len(learners), 4.4), sharey=True, squeeze=False, layout="constrained"
        )
        for ax, (title, one) in zip(axes[0], learners.items(), strict=True):
            n = one.n_samples
            for colour, name, changes in zip(PALETTE, NEIGHBOURS, one.probability, strict=False):
                ax.plot(n, changes, "o", color=colour, markersize=3, alpha=0.25, markeredgewidth=0)
                slope = one.slope(changes)
                label = f"{name}: exponent ${slope.value:.2f} \\pm {slope.interval:.2f}$"
                ax.plot(n, changes.max(1), "o-", color=colour, markersize=5, label=label)
            if title in bounds:
                ax.plot(n, np.asarray(bounds[title]), color=WARNING, linewidth=2, label="proved bound")
            else:
                ax.axhline(1, color=WARNING, linewidth=2, label="the loss is at most 1")
            ax.set(xscale="log", yscale="log", xlabel="support examples $n$", title=title)
            ax.set_xticks(n, [f"{value:.0f}" for value in n], minor=False)
            ax.minorticks_off()
            ax.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2))
        axes[0, 0].set_ylabel("largest change of the loss")
        sns.despine(figure)
    return figure


def assumption(found: Mapping[str, Differences], marked: Mapping[str, float], linear_below: float = 1e-3) -> Figure:
    """E F(theta + eps) - F(theta) against the standard deviation of eps, with 95% intervals: loss and error.

    found  title -> differences; marked  what alpha may be -> the standard deviation that it is then
    """
    with sns.axes_style("ticks"):
        figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
        for ax, kind in zip(axes, ("loss", "error"), strict=True):
            for colour, (title, one) in zip(PALETTE, found.items(), strict=False):
                mean, interval = mean_and_interval(getattr(one, kind))
                ax.errorbar(one.sigmas, mean, interval, fmt="o-", color=colour, markersize=4, capsize=2, label=title)
            ax.axhline(0, color="0.4", linewidth=1)
            ax.set(xscale="log", xlabel=r"standard deviation of each parameter's noise, $\sigma$")
            ax.set_yscale("symlog", linthresh=linear_below, linscale=0.6)
            _mark(ax, marked)
            lengths = ax.secondary_xaxis(-0.24, functions=_lengths(next(iter(found.values())).n_params))
            lengths.set_xlabel(r"length of the noise, $\sigma\sqrt{k}$")
        axes[0].set_ylabel(r"cross-entropy: $E\,F(\theta+\epsilon) - F(\theta)$")
        axes[1].set_ylabel(r"0-1 error: $E\,F(\theta+\epsilon) - F(\theta)$")
        axes[0].legend(frameon=False, fontsize="small", loc="upper left")
        sns.despine(figure)
    return figure


def _mark(ax: Axes, marked: Mapping[str, float]) -> None:
    for label, value in marked.items():
        ax.axvline(value, color="0.55", linewidth=0.9, linestyle=":", zorder=0)
        ax.annotate(textwrap.fill(label, 12), (value, 1.01), xycoords=IN_X, ha="center", va="bottom", fontsize="small")


def _lengths(n_params: int) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    root = n_params**0.5
    return lambda sigma: sigma * root, lambda length: length / root
