"""Figures of Lemma 1: the loss before and after one inner step, and where both are stationary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..theory.census import Census, Plane
from ..theory.lemma1 import TwoTasks
from ..theory.stationary import KINDS
from ..theory.support import Curvatures

_PALETTE = sns.color_palette("colorblind")
OWN, COMPOSED = "0.55", _PALETTE[0]
COLOURS = dict(zip(KINDS, (_PALETTE[0], _PALETTE[1], _PALETTE[3], "0.4"), strict=True))
MARKERS = dict(zip(KINDS, ("o", "D", "^", "s"), strict=True))
THRESHOLD = r"$\beta\, l_1$"
_LIGHT = ListedColormap(plt.get_cmap("Greys")(np.linspace(0.0, 0.5, 128)))  # markers have to be seen on it


def curves(data: Mapping[str, Any], positions: Sequence[int]) -> Figure:
    """L and L(theta') at some positions of a `census.slider`, with the stationary points of the latter.

    positions  indices into data["inner_lr"], one panel each
    """
    with sns.axes_style("ticks"):
        figure, axes = plt.subplots(
            1, len(positions), figsize=(3.3 * len(positions), 3.4), squeeze=False, sharey=True, layout="constrained"
        )
        for ax, position in zip(axes[0], positions, strict=True):
            rate = data["inner_lr"][position]
            ax.plot(data["x"], data["loss"], "--", color=OWN, linewidth=1.2, label=r"$L(\theta)$")
            ax.plot(data["x"], data["composed"][position], color="0.15", linewidth=1.4, label=r"$L(\theta')$")
            for x, value, kind, new in data["stationary"][position]:
                _point(ax, x, value, data["kinds"][int(kind)], bool(new))
            ax.set(xlabel=r"$\theta$", title=rf"$\beta$ = {rate:g},  {THRESHOLD} = {rate * data['l1']:.2g}")
            ax.title.set_fontsize("medium")
        axes[0, 0].set_ylabel(data["formula"])
        drawn = {data["kinds"][int(kind)] for position in positions for _, _, kind, _ in data["stationary"][position]}
        _legend(figure, drawn, axes[0, 0].get_legend_handles_labels()[0])
        sns.despine(figure)
    return figure


def births(found: Sequence[Census], name: str, l1: float) -> Figure:
    """Where the stationary points of L(theta') are, of a function of one variable, by inner_lr * l1."""
    with sns.axes_style("ticks"):
        figure, ax = plt.subplots(figsize=(7.2, 4), layout="constrained")
        for census in found:
            for at, kind, new in zip(census.points.at[:, 0].tolist(), census.points.kinds, census.extra, strict=True):
                _point(ax, census.inner_lr * l1, at, kind, new, size=14)
        _threshold(ax)
        ax.set(xlabel=rf"{THRESHOLD}   (inner learning rate times the largest curvature)", ylabel=rf"$\theta$ ({name})")
        _legend(figure, {kind for census in found for kind in census.points.kinds})
        sns.despine(figure)
    return figure


def extra_counts(found: Mapping[str, tuple[float, Sequence[Census]]]) -> Figure:
    """How many stationary points MAML's loss has and L has not, by inner_lr * l1; one panel a function.

    found  by name of the function: its l1, and its census at each inner_lr, ascending

    A count is drawn from where it was taken to the next one, so nothing appears before it was seen.
    """
    drawn: set[str] = set()
    with sns.axes_style("ticks"):
        columns = min(3, len(found))
        rows = -(-len(found) // columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(3.2 * columns, 2.3 * rows + 0.4), squeeze=False, layout="constrained"
        )
        for ax in axes.flat[len(found) :]:
            ax.set_visible(False)
        for i, (ax, (name, (l1, counts))) in enumerate(zip(axes.flat, found.items(), strict=False)):
            x = [census.inner_lr * l1 for census in counts]
            total = np.zeros(len(x))
            for kind in KINDS:
                top = total + [_new(census, kind) for census in counts]
                if (top > total).any():
                    drawn.add(kind)
                    ax.fill_between(x, total, top, step="post", color=COLOURS[kind], alpha=0.75, linewidth=0)
                total = top
            ax.step(x, total, where="post", color="0.15", linewidth=1)
            _threshold(ax, label=False)
            ax.set(title=name, ylim=(0, max(4.0, 1.15 * total.max())))
            ax.title.set_fontsize("medium")
            ax.yaxis.get_major_locator().set_params(integer=True)
            if i + columns >= len(found):  # the last of its column
                ax.set_xlabel(THRESHOLD)
        for ax in axes[:, 0]:
            ax.set_ylabel("extra points")
        kinds = [kind for kind in KINDS if kind in drawn]
        patches = [Patch(color=COLOURS[kind], alpha=0.75, linewidth=0) for kind in kinds]
        figure.legend(patches, kinds, loc="outside lower center", ncols=max(1, len(kinds)), frameon=False)
        sns.despine(figure)
    return figure


def planes(panels: Sequence[tuple[Plane, Census]], name: str, l1: float) -> Figure:
    """Level lines of L(theta') of a function of two variables, with its stationary points; one panel an inner_lr."""
    with sns.axes_style("ticks"):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(3.3 * len(panels), 4.2), squeeze=False, sharey=True, layout="constrained"
        )
        for ax, (plane, census) in zip(axes[0], panels, strict=True):
            x, y, values = (part.numpy() for part in plane)
            above = values - values.min()
            ax.contourf(x, y, np.log10(above + 1e-2 * np.median(above)), levels=24, cmap=_LIGHT)
            for (x, y), kind, new in zip(census.points.at.tolist(), census.points.kinds, census.extra, strict=True):
                _point(ax, x, y, kind, new)
            ax.set(xlabel=r"$\theta_1$", aspect="equal")
            ax.set_title(rf"$\beta$ = {census.inner_lr:.3g},  {THRESHOLD} = {census.inner_lr * l1:.2g}", size="medium")
        axes[0, 0].set_ylabel(rf"$\theta_2$ ({name})")
        _legend(figure, {kind for _, census in panels for kind in census.points.kinds})
    return figure


def moving_minimiser(inner_lrs: Sequence[float], found: Sequence[TwoTasks], minima: Sequence[float]) -> Figure:
    """The minimiser of the mean of the tasks' losses, with and without adaptation, by inner_lr."""
    with sns.axes_style("ticks"):
        figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
        ax.plot(inner_lrs, [float(both.maml) for both in found], color=COMPOSED, label="MAML (Eq. 2)")
        ax.plot(inner_lrs, [float(both.erm) for both in found], "--", color=OWN, label="ERM (Eq. 5)")
        for minimum in minima:
            ax.axhline(minimum, color="0.8", linewidth=1, zorder=0)
            ax.annotate("a task's own", (inner_lrs[-1], minimum), ha="right", va="bottom", color="0.45", size="small")
        ax.set(xlabel=r"inner learning rate $\beta$", ylabel="minimiser", ylim=(min(minima) - 0.15, max(minima) + 0.3))
        ax.legend(frameon=False, loc="center left", bbox_to_anchor=(0.6, 0.6))
        sns.despine(figure)
    return figure


def curvatures(panels: Sequence[tuple[str, float, Curvatures]]) -> Figure:
    """Eigenvalues of the Hessian at a stationary point of the support loss, before and after one inner step.

    panels  a title, inner_lr, and what `support.curvatures` found
    """
    with sns.axes_style("ticks"):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(4.3 * len(panels), 3.6), squeeze=False, layout="constrained"
        )
        for ax, (title, rate, found) in zip(axes[0], panels, strict=True):
            before, measured = found.before.numpy(), found.after.numpy()
            line = np.geomspace(before[0] / 1.5, before[-1] * 1.5, 400)
            ax.loglog(line, line, "--", color=OWN, linewidth=1, label="as before")
            ax.loglog(
                line, line * (1 - rate * line) ** 2, color="0.15", linewidth=1, label=r"$\lambda(1-\beta\lambda)^2$"
            )
            ax.loglog(before, measured, "o", color=COMPOSED, markersize=4.5, alpha=0.8, label="measured")
            if line[0] < 2 / rate < line[-1]:
                ax.axvline(2 / rate, color="0.8", linewidth=1, zorder=0)
                ax.annotate(r" $2/\beta$", (2 / rate, 0), xycoords=("data", "axes fraction"), va="bottom", color="0.4")
            ax.set(xlabel=r"$\lambda$ of the support loss", title=title)
            ax.title.set_fontsize("medium")
            ax.set_xlim(line[0], line[-1])
            ax.set_ylim(measured.min() / 3, max(measured.max(), line[-1]) * 2)
            ax.legend(frameon=False, loc="upper left", fontsize="small")
        axes[0, 0].set_ylabel("the same for MAML's loss")
        sns.despine(figure)
    return figure


def _point(ax: Axes, x: float, y: float, kind: str, new: bool, size: float = 34) -> None:
    """Filled where L has it too, hollow where only L(theta') does."""
    face = "white" if new else COLOURS[kind]
    ax.scatter(x, y, s=size, marker=MARKERS[kind], facecolor=face, edgecolor=COLOURS[kind], linewidth=1.2, zorder=3)


def _new(census: Census, kind: str) -> int:
    return sum(extra and k == kind for extra, k in zip(census.extra, census.points.kinds, strict=True))


def _threshold(ax: Axes, label: bool = True) -> None:
    ax.axvline(1, color="0.3", linewidth=1, linestyle=":")
    if label:
        ax.annotate(
            f"{THRESHOLD} = 1", (1, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", size="small"
        )


def _legend(figure: Figure, drawn: Set[str], lines: Sequence[Any] = ()) -> None:
    kinds = [kind for kind in KINDS if kind in drawn]

    def mark(kind: str, face: Any) -> Line2D:
        return Line2D([], [], linestyle="", marker=MARKERS[kind], color=COLOURS[kind], markerfacecolor=face)

    handles = [*lines, *(mark(kind, COLOURS[kind]) for kind in kinds), *(mark(kind, "white") for kind in kinds[:1])]
    labels = [*(line.get_label() for line in lines), *kinds, *["hollow: not of $L$"][: len(kinds)]]
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False, fontsize="small")
