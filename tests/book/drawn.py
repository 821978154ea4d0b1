"""A figure with sliders as it stands in a page, and the way back from places to numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from playwright.sync_api import Locator

Array = npt.NDArray[np.float64]

PIXEL = 0.005  # places are written to 2 decimals
READ = """root => {
  const svg = root.querySelector("svg"), numbers = [...root.querySelectorAll("b")];
  const of = (node, ...names) => names.map((name) => node.getAttribute(name));
  const seen = (node) => getComputedStyle(node).visibility === "visible";
  const lines = (group) => [...group.children].map((path) => [Number(path.dataset.level), path.getAttribute("d")]);
  return {
    axes: { ...svg.dataset },
    layer: [...svg.querySelector(".layer").children].map((node) => of(node, "class", "points", "cx", "cy", "r")),
    contours: [...svg.querySelectorAll(".contours")].filter(seen).map(lines),
    texts: [...svg.querySelectorAll("text:not(.spot)")].map((node) => [node.textContent, ...of(node, "x", "y")]),
    values: Object.fromEntries(numbers.map((node) => [node.dataset.name, Number(node.dataset.value)])),
    said: Object.fromEntries(numbers.map((node) => [node.dataset.name, node.textContent])),
  };
}"""


class Drawn(NamedTuple):
    """A figure as it stands in the page, with what leads from its places back to numbers."""

    axes: dict[str, str]
    layer: list[list[str | None]]
    contours: list[list[tuple[float, str]]]
    texts: list[tuple[str, str | None, str | None]]
    values: dict[str, float]
    said: dict[str, str]

    def line(self, look: str) -> Array:
        """The points of the only line that has just these classes, as numbers [n, 2]."""
        (points,) = [points for kind, points, *_ in self.layer if kind == f"line {look}"]
        assert points is not None
        return self.numbers([place.split(",") for place in points.split()])

    def circles(self, look: str) -> Array:
        """The centres of the circles that have just these classes [n, 2]."""
        return self.numbers([[cx, cy] for kind, _, cx, cy, _ in self.layer if kind == look])

    def radius(self, look: str) -> float:
        (radius,) = [float(r) for kind, *_, r in self.layer if kind == look and r is not None]
        return radius / self.scale()[0]

    def numbers(self, places: Any) -> Array:
        places = np.array(places, dtype=float).reshape(-1, 2)
        left, _, _, bottom = self.box()
        per = self.scale()
        along = [
            self.ends("x")[0] + (places[:, 0] - left) / per[0],
            self.ends("y")[0] + (bottom - places[:, 1]) / per[1],
        ]
        return np.stack([np.exp(v) if axis in self.axes["log"] else v for axis, v in zip("xy", along, strict=True)], 1)

    def scale(self) -> tuple[float, float]:
        """Units of the drawing per unit of an axis, or of its logarithm."""
        left, right, top, bottom = self.box()
        return (right - left) / np.ptp(self.ends("x")), (bottom - top) / np.ptp(self.ends("y"))

    def box(self) -> list[float]:
        return [float(side) for side in self.axes["box"].split()]

    def ends(self, axis: str) -> Array:
        ends = np.array(self.axes[axis].split(), dtype=float)
        return np.log(ends) if axis in self.axes["log"] else ends


def read(root: Locator) -> Drawn:
    return Drawn(**root.evaluate(READ))
