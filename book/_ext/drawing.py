"""A drawing in SVG: two axes, a ground, and a layer that sliders.js draws anew when a slider moves.

The same numbers give the same bytes. Colours and line widths are book.css's, by class, so that they follow light and
dark; what maps numbers to places is in the data attributes, where the script and the tests find it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

import contourpy
import numpy as np

LEFT, RIGHT, TOP, HEIGHT = 60, 468, 12, 250  # of the axes' box; drawn for a phone, where a unit is 0.7 pixels
LEVELS = 14
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Axis(NamedTuple):
    """From where to where an axis goes."""

    low: float
    high: float
    label: str
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        scale = math.log if self.log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))

    def marks(self) -> list[tuple[float, str]]:
        """Round numbers and how they are written."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [(10.0**power, _power_of_ten(power)) for power in powers[:: math.ceil(len(powers) / 6)]]
        rough = (self.high - self.low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(i * step, f"{i * step:.6g}".replace("-", "−")) for i in range(first, last + 1)]


class Drawing:
    """`title` is what a screen reader says it is; with `equal` a unit is as long along both axes."""

    def __init__(self, name: str, title: str, x: Axis, y: Axis, equal: bool = False) -> None:
        self.name, self.title, self.x, self.y = name, title, x, y
        height = (RIGHT - LEFT) * (y.high - y.low) / (x.high - x.low) if equal else HEIGHT
        self.bottom = TOP + round(height)
        self.ground: list[str] = []
        self.layer: list[str] = []

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Of a point, in the units of the drawing."""
        return LEFT + self.x.share(x) * (RIGHT - LEFT), self.bottom - self.y.share(y) * (self.bottom - TOP)

    def line(self, look: str, points: Iterable[Sequence[float]], more: str = "") -> None:
        """A line through the points, in the layer; `look` is its classes, `more` its other attributes."""
        places = " ".join("{:.2f},{:.2f}".format(*self.place(*point)) for point in points)
        self.layer.append(f'<polyline class="line {look}" points="{places}"{more}/>')

    def arrow(self, look: str, start: Sequence[float], step: Sequence[float]) -> None:
        """From a point to a point plus a step; nothing where the step is zero."""
        if any(step):
            end = (start[0] + step[0], start[1] + step[1])
            self.line(f"arrow {look}", [start, end], f' marker-end="url(#{self.name}-head-{look})"')

    def dot(self, look: str, point: Sequence[float], radius: float = 5) -> None:
        """A filled circle of a radius in the units of the drawing."""
        self.layer.append(f'<circle class="dot {look}" {self._centre(point)} r="{radius}"/>')

    def ball(self, look: str, point: Sequence[float], radius: float) -> None:
        """A circle of a radius in the units of the axes, which have to be equal."""
        across = radius / (self.x.high - self.x.low) * (RIGHT - LEFT)
        self.layer.append(f'<circle class="ball {look}" {self._centre(point)} r="{across:.2f}"/>')

    def mark(self, text: str, point: Sequence[float]) -> None:
        """A cross with a name to it, on the ground."""
        x, y = self.place(*point)
        self.ground.append(f'<path class="spot" d="M{x - 5:.1f},{y:.1f}h10m-5,-5v10"/>')
        self.ground.append(_text("spot", x, y + 20, "middle", text))

    def contours(self, grids: Sequence[Sequence[Sequence[float]]], shown: int) -> None:
        """Of each grid [i][j], i along x, the parts below some levels, one over the other; one grid is shown.

        The levels are quantiles, so that what is between two of them always takes as much room.
        """
        xs, ys = (
            np.linspace(low, high, count)
            for low, high, count in ((LEFT, RIGHT, len(grids[0])), (self.bottom, TOP, len(grids[0][0])))
        )
        for i, grid in enumerate(grids):
            values = np.array(grid).T
            generator = contourpy.contour_generator(xs, ys, values, fill_type=contourpy.FillType.OuterOffset)
            self.ground.append(f'<g class="contours" visibility="{"visible" if i == shown else "hidden"}">')
            for level in np.quantile(values, np.arange(1, LEVELS) / LEVELS):
                below = _path(*generator.filled(values.min() - 1, level))
                self.ground.append(f'<path data-level="{level:.6g}" d="{below}"/>')
            self.ground.append("</g>")

    def svg(self) -> str:
        """All of it."""
        clip = f"{self.name}-clip"
        return "\n".join(
            [
                f'<svg id="{self.name}" viewBox="0 0 {RIGHT + 12} {self.bottom + 48}" role="img"'
                f' aria-label="{escape(self.title)}" data-box="{LEFT} {RIGHT} {TOP} {self.bottom}"'
                f' data-x="{self.x.low} {self.x.high}" data-y="{self.y.low} {self.y.high}"'
                f' data-log="{"x" * self.x.log}{"y" * self.y.log}">',
                f'<defs><clipPath id="{clip}"><rect x="{LEFT}" y="{TOP}" width="{RIGHT - LEFT}"'
                f' height="{self.bottom - TOP}"/></clipPath>{self._head("upper")}{self._head("lower")}</defs>',
                *self._axes(),
                f'<g clip-path="url(#{clip})">',
                *self.ground,
                f'<g class="layer">{"".join(self.layer)}</g>',
                "</g></svg>",
            ]
        )

    def _centre(self, point: Sequence[float]) -> str:
        return 'cx="{:.2f}" cy="{:.2f}"'.format(*self.place(*point))

    def _head(self, look: str) -> str:
        return (
            f'<marker id="{self.name}-head-{look}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="4" markerHeight="4"'
            f' orient="auto"><path class="dot {look}" d="M0,0 8,4 0,8z"/></marker>'
        )

    def _axes(self) -> list[str]:
        made = []
        for value, text in self.x.marks():
            at = LEFT + self.x.share(value) * (RIGHT - LEFT)
            made.append(f'<path class="grid" d="M{at:.1f},{TOP}V{self.bottom}"/>')
            made.append(_text("", at, self.bottom + 18, "middle", text))
        for value, text in self.y.marks():
            at = self.bottom - self.y.share(value) * (self.bottom - TOP)
            made.append(f'<path class="grid" d="M{LEFT},{at:.1f}H{RIGHT}"/>')
            made.append(_text("", LEFT - 7, at + 5, "end", text))
        made.append(_text("", (LEFT + RIGHT) / 2, self.bottom + 39, "middle", self.x.label))
        made.append(
            f'<text transform="translate(15 {(TOP + self.bottom) / 2:.1f}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y.label)}</text>"
        )
        return made


def _power_of_ten(power: int) -> str:
    return f"{10.0**power:g}" if -2 <= power <= 2 else f"10{str(power).translate(_SUPERSCRIPTS)}"


def _text(look: str, x: float, y: float, anchor: str, text: str) -> str:
    kind = f' class="{look}"' if look else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _path(polygons: Sequence[np.ndarray], offsets: Sequence[np.ndarray]) -> str:
    """Polygons with their holes as one path."""
    return "".join(
        "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in points[start : end - 1]) + "z"  # the last point is the first
        for points, ends in zip(polygons, offsets, strict=True)
        for start, end in pairwise(ends)
    )
