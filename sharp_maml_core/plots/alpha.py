"""A scene and a walk through it: what the radii do to the way of theta."""

from __future__ import annotations

import io
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation
from PIL import Image
from torch import Tensor

from ..config import Config
from ..landscape.scenes import Scene
from ..landscape.walks import Walk, grid, losses, radii

Array = npt.NDArray[np.float64]

COLOURS = sns.color_palette("colorblind")
OUTER, UPPER, INNER, LOWER = COLOURS[0], COLOURS[3], COLOURS[2], COLOURS[1]
GREYS = LinearSegmentedColormap.from_list("greys", ["white", "0.5"])  # what is drawn over the darkest stays legible
CONTOURS = 14
FLOOR = 1e-3  # the lowest loss that the axis of losses shows
_ANGLES = np.linspace(0, 2 * np.pi, 73)
CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)


def scene_figure(scene: Scene, config: Config, walk: Walk, objective: Tensor) -> Figure:
    """Left what the outer loop descends, and its way; middle what the inner loop descends, and its; right the losses.

    objective  F at the points of `walks.grid(scene)`, computed with the config of the walk
    """
    picture = ScenePicture(scene)
    picture.show(config, walk, objective)
    return picture.figure


class ScenePicture:
    """The figure of `scene_figure` for one walk after another.

    Contours, axes and legends are drawn once. `show` gives the rest its new data, and `png` draws that alone over a
    copy of what stays.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        with sns.axes_style("ticks"):
            self.figure, (outer, inner, along) = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
            sns.despine(self.figure)
        self._still: Any = None
        self.figure.suptitle(" ")  # room for the next line; only what belongs to axes is drawn again in a saved figure
        self._text = outer.text(0, 1.2, "", transform=outer.transAxes, animated=True, in_layout=False)
        self._outer, self._inner, self._along = _Outer(outer, scene), _Inner(inner, scene), _Along(along, scene)
        self.figure.legend(handles=_legend(), loc="outside lower center", ncols=7, frameon=False, fontsize="small")
        self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")  # what is drawn over a copy must find its axes where they were

    def show(self, config: Config, walk: Walk, objective: Tensor) -> None:
        """Bring the figure up to date; the arguments as for `scene_figure`."""
        self._text.set_text(_title(self._scene, config))
        self._outer.show(config, walk, objective)
        self._inner.show(config, walk)
        self._along.show(walk)

    def png(self) -> bytes:
        """The figure as it is now."""
        canvas = self.figure.canvas
        if not isinstance(canvas, FigureCanvasAgg):
            canvas = FigureCanvasAgg(self.figure)
        if self._still is None:
            canvas.draw()
            self._still = canvas.copy_from_bbox(self.figure.bbox)
        canvas.restore_region(self._still)
        self._outer.ax.draw_artist(self._text)
        for part in (self._outer, self._inner, self._along):
            for artist in part.moving():
                part.ax.draw_artist(artist)
        file = io.BytesIO()
        # There is nothing behind it to shine through, and little time is worth more here than few bytes.
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(file, "png", compress_level=1)
        return file.getvalue()


class _Outer:
    """F, and the way of theta on it."""

    def __init__(self, ax: Axes, scene: Scene) -> None:
        self.ax = ax
        _plane(ax, scene, "What the outer loop descends:\nthe query loss after adaptation")
        extent = (*scene.window[0], *scene.window[1])
        self._image = ax.imshow(
            [[0.0]], extent=extent, origin="lower", interpolation="bilinear", cmap=GREYS, animated=True
        )
        self._shades: PowerNorm | None = None
        self._marks = _marks(ax, scene)
        self._balls = _balls(ax, UPPER)
        self._path = _line(ax, OUTER, marker="o", markersize=4)
        self._ends = _ends(ax)
        self._arrows: list[Any] = []

    def moving(self) -> list[Any]:
        spines = [self.ax.spines["left"], self.ax.spines["bottom"]]
        return [self._image, *spines, *self._marks, self._balls, *self._arrows, self._path, *self._ends]

    def show(self, config: Config, walk: Walk, objective: Tensor) -> None:
        outer, upper = walk.outer.numpy(), walk.upper.numpy()
        if self._shades is None:  # those of the first F, so that one sees the others rise and sink
            self._shades = PowerNorm(0.5, float(objective.min()), _most(objective))
            self._image.set_norm(self._shades)
        self._image.set_data(objective.numpy().T)
        self._path.set_data(*outer.T)
        _place(self._ends, outer)
        self._balls.set_segments(_circles(outer[[0, -1]], np.linalg.norm(upper[[0, -1]], axis=1)))
        self._arrows = _new_arrows(self.ax, self._arrows, outer, upper, UPPER)


class _Inner:
    """The support loss, and the inner loop on it: strong from the first and the last theta, faint from all others."""

    def __init__(self, ax: Axes, scene: Scene) -> None:
        self.ax = ax
        _plane(ax, scene, "What the inner loop descends:\nthe support loss")
        points = grid(scene)
        x, y = points[:, 0, 0].numpy(), points[0, :, 1].numpy()
        values = losses(scene.support, points)
        highest = _most(values)
        levels = highest * np.linspace(0, 1, CONTOURS) ** 2
        ax.contourf(x, y, values.numpy().T, levels, norm=PowerNorm(0.5, 0.0, highest), cmap=GREYS, extend="both")
        for artist in _marks(ax, scene):
            artist.set_animated(False)
        self._balls = _balls(ax, LOWER)
        self._faint = _segments(ax, colors=[INNER], alpha=0.35)
        self._paths = [_line(ax, INNER, marker=".", markersize=6) for _ in range(2)]
        self._ends = _ends(ax)
        self._arrows: list[Any] = []

    def moving(self) -> list[Any]:
        return [self._balls, self._faint, *self._arrows, *self._paths, *self._ends]

    def show(self, config: Config, walk: Walk) -> None:
        inner, lower = walk.inner.numpy(), walk.lower.numpy()
        self._faint.set_segments(list(inner[1:-1]))
        for line, row in zip(self._paths, (0, -1), strict=True):
            line.set_data(*inner[row].T)
        _place(self._ends, inner[:, 0])
        self._balls.set_segments(_circles(inner[[0, -1], 0], np.linalg.norm(lower[[0, -1], 0], axis=1)))
        shown = inner[[0, -1], :-1].reshape(-1, 2), lower[[0, -1]].reshape(-1, 2)
        self._arrows = _new_arrows(self.ax, self._arrows, *shown, LOWER)


class _Along:
    """The losses at each theta."""

    def __init__(self, ax: Axes, scene: Scene) -> None:
        self.ax = ax
        steps = scene.config.iterations
        highest = 2 * _most(losses(scene.query, grid(scene)))
        ax.set(xlabel="outer step", xlim=(-0.3, steps + 0.3), yscale="log", ylim=(FLOOR, highest))
        ax.set_title("The query loss along the way", fontsize="medium", loc="left", pad=22)
        self._before = _line(ax, "0.55", linestyle="--")
        self._after = _line(ax, OUTER, marker="o", markersize=4)
        self._perturbed = _line(ax, UPPER, linestyle=":")
        lines = [self._before, self._after, self._perturbed]
        names = ["before adaptation", "after", r"after, from $\theta + \epsilon$"]
        style: dict[str, Any] = {"frameon": False, "fontsize": "small", "ncols": 3, "columnspacing": 1.0}
        ax.legend(lines, names, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderpad=0.2, **style)

    def moving(self) -> list[Any]:
        return [self._before, self._perturbed, self._after]

    def show(self, walk: Walk) -> None:
        steps = np.arange(len(walk.outer))
        for line, values in (
            (self._before, walk.query_loss[:, 0]),
            (self._after, walk.meta_loss),
            (self._perturbed, walk.perturbed_loss),
        ):
            line.set_data(steps, np.maximum(values.numpy(), FLOOR / 10))  # below the axis, and not along it


def _most(values: Tensor) -> float:
    """Where a scale of losses ends: few points of the window lie above, but far above."""
    return float(values.quantile(0.85))


def _plane(ax: Axes, scene: Scene, title: str) -> None:
    ax.set(xlim=scene.window[0], ylim=scene.window[1], xlabel=scene.axes[0], ylabel=scene.axes[1])
    ax.set_aspect("equal")
    ax.set_title(title, fontsize="medium", loc="left")


def _title(scene: Scene, config: Config) -> str:
    low, up = radii(config)
    name = (("MAML", "Sharp-MAML up"), ("Sharp-MAML low", "Sharp-MAML both"))[low > 0][up > 0]
    steps = f"{config.inner_steps} inner step{'s' if config.inner_steps > 1 else ''} of {config.inner_lr:g}"
    return rf"{scene.title}: {name}, $\alpha_{{low}}$ = {low:g}, $\alpha_{{up}}$ = {up:g}, {steps}"


def _legend() -> list[Line2D]:
    def line(colour: Any, label: str, **style: Any) -> Line2D:
        return Line2D([], [], color=colour, label=label, **style)

    return [
        line("black", "start", marker="s", linestyle="", markersize=6, markerfacecolor="white"),
        line("black", "end", marker="*", linestyle="", markersize=10),
        line(OUTER, r"outer steps of $\theta$", marker="o", markersize=4),
        line(UPPER, r"$\epsilon$, Eq. 13, and its ball"),
        line(INNER, r"inner steps, $\theta$ to $\theta'$", marker=".", markersize=6),
        line(LOWER, r"$\epsilon_m$, Eq. 11, and its ball"),
    ]


def _line(ax: Axes, colour: Any, **style: Any) -> Line2D:
    (line,) = ax.plot([], [], color=colour, linewidth=1.5, animated=True, **style)
    return line


def _ends(ax: Axes) -> tuple[Line2D, Line2D]:
    start = _line(ax, "black", marker="s", markersize=6, markerfacecolor="white")
    end = _line(ax, "black", marker="*", markersize=11)
    return start, end


def _place(ends: tuple[Line2D, Line2D], points: Array) -> None:
    for line, (x, y) in zip(ends, points[[0, -1]], strict=True):
        line.set_data([x], [y])


def _marks(ax: Axes, scene: Scene) -> list[Any]:
    figure = ax.get_figure()
    assert figure is not None
    below = ax.transData + ScaledTranslation(0, -9 / 72, figure.dpi_scale_trans)  # an annotation is slower
    style: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": "small", "animated": True}
    artists: list[Any] = []
    for name, (x, y) in scene.marks.items():
        artists += ax.plot(x, y, "+", color="black", markersize=8, animated=True)
        artists.append(ax.text(x, y, name, transform=below, **style))
    return artists


def _balls(ax: Axes, colour: Any) -> LineCollection:
    return _segments(ax, colors=[colour], linestyles="--")


def _segments(ax: Axes, **style: Any) -> LineCollection:
    segments = LineCollection([], linewidths=1, animated=True, **style)
    ax.add_collection(segments)
    return segments


def _circles(centres: Array, radii: Array) -> list[Array]:
    return [centre + radius * CIRCLE for centre, radius in zip(centres, radii, strict=True) if radius > 0]


def _new_arrows(ax: Axes, old: list[Any], points: Array, steps: Array, colour: Any) -> list[Any]:
    for arrows in old:
        arrows.remove()
    moved = np.any(steps != 0, axis=1)
    if not moved.any():
        return []
    return [
        ax.quiver(
            *points[moved].T,
            *steps[moved].T,
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.004,
            color=colour,
            alpha=0.8,
            animated=True,
        )
    ]
