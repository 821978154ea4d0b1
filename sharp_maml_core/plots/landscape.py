"""Figures of loss surfaces: slices side by side on one scale, lines, planes through solutions, and a run's way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import seaborn as sns
from matplotlib import colors, ticker
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from torch import Tensor

from ..errors import invalid
from ..landscape.counted import VALLEY
from ..landscape.directions import Trajectory
from ..landscape.prominence import prominences
from ..landscape.slices import Slice, ball, finite_range, local_minima

Levels = npt.NDArray[np.float64]

MAP = sns.color_palette("mako", as_cmap=True)
BALL, PATH = sns.color_palette("colorblind")[3], sns.color_palette("colorblind")[1]
LEVELS = 24
WIDE = 8.0  # where the largest loss is this many times the smallest, the scale is logarithmic
ABREAST = 2  # more of them side by side and nobody can read what stands beside the axes
SMALL = 0.02  # a ball under this share of a plane's width is named rather than seen


def surfaces(slices: Mapping[str, Slice], radius: float | None = None, note: str = "") -> Figure:
    """Slices on planes, each as a 3-D surface over filled contours, all with the same scale of colours and heights.

    radius  alpha: the ball ||theta - origin|| <= alpha is drawn in, where it is not too small to be seen
    note    small print under the figure

    Raises UserError for no slice, a slice on a line, and where no loss of any is finite.
    """
    _check_planes(slices)
    norm, levels = _scale(list(slices.values()))
    with sns.axes_style("ticks"):
        columns = min(len(slices), ABREAST)
        blocks = math.ceil(len(slices) / columns)
        figure = plt.figure(figsize=(3.3 * columns + 0.9, 6.4 * blocks), layout="constrained")
        places = figure.add_gridspec(2 * blocks, columns)
        below: list[Axes] = []
        for index, (title, cut) in enumerate(slices.items()):
            row, column = divmod(index, columns)
            axes = figure.add_subplot(places[2 * row, column], projection="3d")
            _relief(axes, cut, norm, levels)
            axes.set_title(_title(title, cut), fontsize="medium")
            flat = figure.add_subplot(places[2 * row + 1, column])
            _contours(flat, cut, norm, levels)
            _ball(flat, cut, radius)
            if column:
                flat.set(ylabel="", yticklabels=[])
            below.append(flat)
        _colour_bar(figure, below, norm)
        _note(figure, note)
    return figure


def plane(cut: Slice, radius: float | None = None, note: str = "") -> Figure:
    """One slice as filled contours, with its marked points by name: the plane through three solutions, say.

    Raises UserError as `surfaces` does.
    """
    _check_planes({"slice": cut})
    norm, levels = _scale([cut])
    with sns.axes_style("ticks"):
        figure, axes = plt.subplots(figsize=(5.4, 4.6), layout="constrained")
        _contours(axes, cut, norm, levels)
        for name, (x, y) in cut.marks.items():
            axes.plot(x, y, "o", color="white", markeredgecolor="black", markersize=6)
            axes.annotate(name, (x, y), (6, 6), textcoords="offset points", color="black", bbox=_LABEL)
        _ball(axes, cut, radius)
        _colour_bar(figure, [axes], norm)
        _note(figure, note)
    return figure


def lines(slices: Mapping[str, Slice], radius: float | None = None, note: str = "") -> Figure:
    """Slices on lines, one over another; marked points as dots, the ball as a band.

    Lines along axes of different names are drawn along "the line". Raises UserError for no slice, for a slice on a
    plane, and for a radius where a unit of the axes is not the same distance for all: there is no one band then.
    """
    _check_some(slices)
    for name, cut in slices.items():
        if len(cut.axes) != 1:
            raise invalid(f"slices[{name!r}].axes", cut.axes, "one axis: a line")
    with sns.axes_style("ticks"):
        figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
        palette = sns.color_palette("colorblind", len(slices))
        for colour, (name, cut) in zip(palette, slices.items(), strict=True):
            x, y = cut.coordinates[0].numpy(), cut.losses.numpy()
            axes.plot(x, y, color=colour, label=name)
            for mark, (at,) in cut.marks.items():
                height = np.interp(at, x, y)
                axes.plot(at, height, "o", color=colour)
                axes.annotate(mark, (at, height), (0, 7), textcoords="offset points", ha="center", fontsize="small")
        if radius is not None:
            low, high = _common_ball(slices, radius)
            axes.axvspan(low, high, color=BALL, alpha=0.15, linewidth=0, label=rf"$\alpha$ = {radius:g}")
        names = {cut.axes[0] for cut in slices.values()}
        axes.set(xlabel=names.pop() if len(names) == 1 else "along the line", ylabel="cross-entropy")
        axes.legend(frameon=False, fontsize="small")
        sns.despine(figure)
        _note(figure, note)
    return figure


def way(cut: Slice, trajectory: Trajectory, note: str = "") -> Figure:
    """A run's points on their principal plane, over the losses of that plane, and how far beside the plane they lie.

    Raises UserError as `surfaces` does.
    """
    _check_planes({"slice": cut})
    norm, levels = _scale([cut])
    with sns.axes_style("ticks"):
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(9, 4), layout="constrained", gridspec_kw={"width_ratios": [1.5, 1]}
        )
        _contours(left, cut, norm, levels)
        x, y = trajectory.path.numpy().T
        left.plot(x, y, ".-", color=PATH, linewidth=1.2, markersize=5)
        for index, where in ((0, "start"), (-1, "end")):
            beyond = x[index] > cut.coordinates[0].mean()  # then the words go to the left of the point
            left.annotate(
                f"{where}, iteration {trajectory.iterations[index]}",
                (x[index], y[index]),
                (-6 if beyond else 6, 6),
                textcoords="offset points",
                ha="right" if beyond else "left",
                fontsize="small",
                bbox=_LABEL,
            )
        for share, setter, name in zip(trajectory.explained, (left.set_xlabel, left.set_ylabel), cut.axes, strict=True):
            setter(f"{name} ({share:.0%} of the variance)")
        right.plot(trajectory.iterations, trajectory.distances.numpy(), ".-", color=PATH)
        right.set(xlabel="meta-iteration", ylabel="distance from the plane", ylim=(0, None))
        sns.despine(ax=right)
        _colour_bar(figure, [left], norm)
        _note(figure, note)
    return figure


_LABEL = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}


def _check_some(slices: Mapping[str, Slice]) -> None:
    if not slices:
        raise invalid("slices", slices, "at least one, by name")


def _check_planes(slices: Mapping[str, Slice]) -> None:
    _check_some(slices)
    for name, cut in slices.items():
        if len(cut.axes) != 2:
            raise invalid(f"slices[{name!r}].axes", cut.axes, "two axes: a plane")


def _scale(slices: Sequence[Slice]) -> tuple[colors.Normalize, Levels]:
    """One scale for all: from the lowest to the highest loss of any; logarithmic where these are far apart.

    Where all losses are equal it reaches 0.5 to either side.
    """
    ranges = [found for cut in slices if (found := finite_range(cut)) is not None]
    if not ranges:
        centres = ", ".join(cut.centre for cut in slices)
        raise invalid("slices", centres, "planes with a finite loss", "Take them nearer to the centre.")
    low, high = min(found[0] for found in ranges), max(found[1] for found in ranges)
    if low == high:
        low, high = low - 0.5, high + 0.5
    elif low > 0 and high / low > WIDE:
        return colors.LogNorm(low, high), np.geomspace(low, high, LEVELS + 1)
    return colors.Normalize(low, high), np.linspace(low, high, LEVELS + 1)


def _relief(axes: Any, cut: Slice, norm: colors.Normalize, levels: Levels) -> None:
    x, y = np.meshgrid(*(c.numpy() for c in cut.coordinates), indexing="ij")
    logarithmic = isinstance(norm, colors.LogNorm)
    heights = cut.losses.numpy()
    z = np.log10(heights) if logarithmic else heights
    axes.plot_surface(x, y, z, facecolors=MAP(norm(heights)), rcount=len(x), ccount=len(y), linewidth=0, shade=False)
    lowest, highest = levels[0], levels[-1]
    axes.set_zlim(*(np.log10([lowest, highest]) if logarithmic else (lowest, highest)))
    if logarithmic:
        shown = _round_numbers(lowest, highest)
        axes.set_zticks(np.log10(shown), [f"{value:g}" for value in shown])
    else:
        axes.locator_params(axis="z", nbins=5)
    for setter, range_ in zip((axes.set_xticks, axes.set_yticks), cut.coordinates, strict=True):
        setter(_three(range_))
    axes.tick_params(labelsize="x-small", pad=-2)
    axes.view_init(elev=32, azim=-55)
    axes.set_box_aspect((1, 1, 0.8), zoom=0.95)


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten in a range; where these are more than six, the powers alone."""
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    fine = [step * power for power in powers for step in (1, 2, 5) if low <= step * power <= high]
    return fine if len(fine) <= 6 else [power for power in powers if low <= power <= high]


def _three(coordinates: Tensor) -> list[float]:
    low, high = float(coordinates[0]), float(coordinates[-1])
    return [low, (low + high) / 2, high]


def _contours(axes: Axes, cut: Slice, norm: colors.Normalize, levels: Levels) -> None:
    x, y = (c.numpy() for c in cut.coordinates)
    losses = cut.losses.numpy().T  # contourf wants rows along the second axis
    axes.contourf(x, y, losses, levels=levels, norm=norm, cmap=MAP)
    axes.contour(x, y, losses, levels=levels, colors="white", linewidths=0.3, alpha=0.5)
    minima = local_minima(cut).numpy()
    axes.plot(x[minima[:, 0]], y[minima[:, 1]], "o", markersize=3.5, markerfacecolor="none", markeredgecolor="white")
    axes.plot(0, 0, "+", color="white", markersize=8, markeredgewidth=1.5)
    axes.set(xlabel=cut.axes[0], ylabel=cut.axes[1])
    axes.locator_params(nbins=5)
    axes.set_aspect("equal")


def _common_ball(slices: Mapping[str, Slice], radius: float) -> tuple[float, float]:
    """The ends of the ball on every line."""
    ends = [ball(cut, radius)[:, 0].tolist() for cut in slices.values()]
    if not np.allclose(ends, ends[0], rtol=1e-5, atol=0):
        units = {name: math.sqrt(cut.gram[0][0]) for name, cut in slices.items()}
        raise invalid("radius", radius, f"None for lines whose axes have different lengths ({units})")
    low, high = ends[0]
    return low, high


def _ball(axes: Axes, cut: Slice, radius: float | None) -> None:
    """The ball's edge; where it is too small to be seen, words say how large it is."""
    if radius is None:
        return
    edge = ball(cut, radius).numpy()
    width = float(cut.coordinates[0][-1] - cut.coordinates[0][0])
    reach = float(np.abs(edge[:, 0]).max())
    axes.plot(*edge.T, color=BALL, linewidth=1.5)
    if 2 * reach < SMALL * width:
        text = rf"$\alpha$-ball: radius {reach:.2g}, under the cross"
    else:
        text = rf"$\alpha$-ball, $\alpha$ = {radius:g}"
    axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", fontsize="x-small", color=BALL, bbox=_LABEL)


def _title(title: str, cut: Slice) -> str:
    climbs = prominences(cut)
    minima = "1 local minimum" if len(climbs) == 1 else f"{len(climbs)} local minima"
    deep = sum(climb > VALLEY for climb in climbs)
    return f"{title}\n{cut.origin_loss:.3f} at the centre\n{minima}, {deep} deeper than {VALLEY:g}"


def _colour_bar(figure: Figure, axes: Sequence[Axes], norm: colors.Normalize) -> None:
    bar = figure.colorbar(ScalarMappable(norm, MAP), ax=list(axes), label="cross-entropy", shrink=0.9, aspect=30)
    bar.outline.set_visible(False)
    if isinstance(norm, colors.LogNorm):
        bar.ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        bar.ax.yaxis.set_minor_locator(ticker.NullLocator())


def _note(figure: Figure, note: str) -> None:
    if note:
        # A line that is longer than the figure would widen the picture, and so shrink all that is in it.
        figure.supxlabel(fill(note, round(17 * figure.get_figwidth())), fontsize="x-small", color="0.4")
