"""Figures of Theorem 2's right-hand side (Eq. 18): its terms, where it is below 1, and the steps of its proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ..theory.generalization import Bound, LargerRadius
from ..theory.lemma6 import Violations

_PALETTE = sns.color_palette("colorblind")
WARNING = _PALETTE[3]
COLOURS = [colour for colour in _PALETTE if colour != WARNING]
ALPHA, SAMPLES = r"radius $\alpha$", "number of training images $nM$"


def terms(x: ArrayLike, panels: Mapping[str, Bound], xlabel: str, marked: Mapping[str, Sequence[float]]) -> Figure:
    """Each part of a root as if it were alone in it, and the root of their sum, a panel for each experiment.

    x       [X], above 0; panels  title -> Bound with parts [X]
    marked  title -> values of x to mark: the paper's radii, or the number of images that there are
    """
    with sns.axes_style("ticks"):
        figure, axes = _row(len(panels), 4.6)
        for ax, (title, bound) in zip(axes, panels.items(), strict=True):
            ax.plot(x, bound.root, color="0.75", linewidth=5, label="root of their sum")
            for colour, (part, label) in enumerate(_PARTS.items()):
                values = np.sqrt(getattr(bound, part))
                if values.any():
                    ax.plot(x, values, color=COLOURS[colour], linewidth=1.4, label=label)
            ax.set(xscale="log", yscale="log", title=title, xlabel=xlabel)
            for value in marked[title]:
                ax.axvline(value, color="0.55", linewidth=0.9, linestyle=":", zorder=0)
        axes[0].set_ylabel("contribution to the bound")
        for ax in axes:  # once the shared limits are known
            _vacuous(ax)
        _legend_below(figure, axes, 5)
        sns.despine(figure)
    return figure


def curves(
    x: ArrayLike, lines: Mapping[str, ArrayLike], xlabel: str, ylabel: str, marked: Mapping[str, float]
) -> Figure:
    """What several bounds add to the empirical loss, against one size.

    x  [X], above 0; lines  label -> [X]; marked  what it is -> a value of x
    """
    with sns.axes_style("ticks"):
        figure, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
        for colour, (label, values) in enumerate(lines.items()):
            ax.plot(x, values, color=COLOURS[colour], linewidth=1.8, label=label)
        ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
        _vacuous(ax)
        for label, value in marked.items():
            ax.axvline(value, color="0.55", linewidth=0.9, linestyle=":", zorder=0)
            ax.annotate(label, (value, 1.02), xycoords=("data", "axes fraction"), ha="center", fontsize="small")
        _legend_below(figure, [ax], 5)
        sns.despine(figure)
    return figure


def larger_radius(x: ArrayLike, root: ArrayLike, alpha0: float, found: LargerRadius) -> Figure:
    """D.1: where the bound can lie for losses in [0, 1], and the radii that are compared with alpha0.

    x  [X] radii; root  [X]; found  of `generalization.larger_radius` at alpha0, finite scalars
    """
    low = np.asarray(root, dtype=np.float64)
    with sns.axes_style("ticks"):
        figure, (ax, step) = plt.subplots(1, 2, figsize=(9.6, 4.3), width_ratios=[1.7, 1], layout="constrained")
        ax.fill_between(x, low, low + 1, color=COLOURS[0], alpha=0.2, linewidth=0)
        ax.plot(x, low, color=COLOURS[0], label="loss 0 in the ball")
        ax.plot(x, low + 1, color=COLOURS[0], linestyle="--", label="loss 1 in the ball")
        level = float(found.root0)
        ax.axhline(level, color="0.5", linewidth=1, linestyle=":")
        worst = 1 + np.sqrt(level**2 - 1)
        points = {
            r"$\alpha_0$": (alpha0, level, "o", "black"),
            r"least $\alpha_1$ of D.1, if the loss there is 1": (float(found.paper), worst, "X", WARNING),
            r"least $\alpha_1$ that is better whatever the losses": (float(found.proved), level, "s", COLOURS[2]),
        }
        for label, (at, height, marker, colour) in points.items():
            ax.plot(at, height, marker, color=colour, markersize=8, label=label)
        ax.set(xscale="log", xlabel=ALPHA, ylabel=r"$g(\alpha)$, with $\gamma_A = 0$", ylim=(0, None))
        ax.set_title("no loss is known: the bound lies in the band")
        _vacuous(ax)
        square = np.linspace(1, 6, 200)
        step.plot(square, 1 + np.sqrt(square - 1), color=WARNING, label=r"$1 + \sqrt{x - 1}$")
        step.plot(square, np.sqrt(square), color="black", label=r"$\sqrt{x}$")
        step.set(xlabel=r"$x$, the square of the root at $\alpha_0$", title="D.1 needs red below black")
        step.legend(frameon=False)
        _legend_below(figure, [ax], 3)
        sns.despine(figure)
    return figure


def violations(counts: Mapping[tuple[int, int], Violations], delta: float) -> Figure:
    """How often Lemma 6 failed, with samples and with tasks for n.

    counts  (n_tasks, n_samples) -> what was counted; delta  how often it may
    """
    with sns.axes_style("ticks"):
        figure, axes = _row(2, 4.4)
        for ax, unit in zip(axes, ("samples", "tasks"), strict=True):
            for colour, n_tasks in enumerate(sorted({key[0] for key in counts})):
                of_these = sorted((key[1], found) for key, found in counts.items() if key[0] == n_tasks)
                rates = [getattr(found, f"by_{unit}") / found.draws for _, found in of_these]
                label = f"{n_tasks} task" + "s" * (n_tasks > 1)
                ax.plot([n for n, _ in of_these], rates, "o-", color=COLOURS[colour], label=label)
            ax.axhline(delta, color="0.4", linewidth=1, linestyle="--", label=rf"promised: at most $\delta$ = {delta}")
            ax.set(xscale="log", xlabel="samples of each task", title=f"n counts {unit}", ylim=(-0.04, 1.04))
        axes[0].set_ylabel("share of training sets\nfor which the bound was wrong")
        _legend_below(figure, axes, 5)
        sns.despine(figure)
    return figure


def tails(t: ArrayLike, exact: Mapping[str, ArrayLike]) -> Figure:
    """The chance to be outside of Laurent and Massart's radius against exp(-t), their bound of it.

    t  [X]; exact  label -> [X] probabilities
    """
    with sns.axes_style("ticks"):
        figure, ax = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
        ax.plot(t, np.exp(-np.asarray(t)), color="black", linewidth=2.2, label=r"bound, $e^{-t}$")
        for colour, (label, values) in enumerate(exact.items()):
            ax.plot(t, values, color=COLOURS[colour], label=f"exact, {label}")
        ax.set(yscale="log", xlabel=r"$t$", ylabel=r"$P(\|\epsilon\|^2 > \sigma^2 (k + 2\sqrt{kt} + 2t))$")
        ax.legend(frameon=False, fontsize="small")
        sns.despine(figure)
    return figure


_PARTS = {
    "norm": r"$k\,\ln(1 + \ldots\|\theta\|^2 / \alpha^2)$",
    "confidence": r"$2\,\ln(1/\delta)$",
    "logarithm": r"$5\,\ln(nM)$",
    "constant": "constant",
}


def _row(count: int, width: float) -> tuple[Figure, list[Axes]]:
    size = (width * count, 4.1)
    figure, axes = plt.subplots(1, count, figsize=size, squeeze=False, sharey=True, layout="constrained")
    return figure, list(axes[0])


def _vacuous(ax: Axes) -> None:
    """No loss is above 1, so there a bound says nothing."""
    bottom, top = ax.get_ylim()
    ax.axhline(1, color=WARNING, linewidth=1, linestyle="--")
    if top > 1:
        ax.axhspan(1, top, color=WARNING, alpha=0.06, linewidth=0)
        ax.text(0.985, 0.975, "above 1: says nothing", transform=ax.transAxes, ha="right", va="top",
                color=WARNING, fontsize="small")  # fmt: skip
    ax.set_ylim(bottom, top)


def _legend_below(figure: Figure, axes: Sequence[Axes], columns: int) -> None:
    """One legend for all panels, also of what only some of them have."""
    entries = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize="small",
    )
