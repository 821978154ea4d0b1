"""What the figures with sliders are made of: the drawing at the sliders' first values, the sliders, the legend.

sliders.js draws the same for the other values; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from drawing import Axis, Drawing


class Slider(NamedTuple):
    """A slider over the positions of a list: what each shows, and where it starts."""

    name: str
    label: str
    shown: list[str]
    start: int


class Picture(NamedTuple):
    """A figure.

    legend   classes of a swatch and what it stands for
    readout  name, label and value of each number below the drawing
    """

    drawing: Drawing
    legend: list[tuple[str, str]]
    sliders: list[Slider]
    readout: list[tuple[str, str, float]]


def short(value: float) -> str:
    """Three digits, as sliders.js writes them too."""
    if value == 0:
        return "0"
    text = f"{value:.3g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.2e}"
    mantissa, _, power = text.partition("e")
    return f"{mantissa}e{int(power)}" if power else mantissa


def nearest(values: Sequence[float], wanted: float) -> int:
    """The position of the value next to the one wanted."""
    return min(range(len(values)), key=lambda i: abs(values[i] - wanted))


def lemma1(name: str, data: dict[str, Any]) -> Picture:
    """A loss of one variable before and after one gradient step; inner_lr moves."""
    rates = data["inner_lr"]
    i = nearest(rates, 1.5 * data["threshold"])
    values = [*data["loss"], *(point[1] for point in data["own"])]
    room = 0.12 * (max(values) - min(values))
    drawing = Drawing(
        name,
        f"The loss {data['formula']} before and after one gradient step, and where both are stationary",
        Axis(data["x"][0], data["x"][-1], "θ"),
        Axis(min(values) - room, max(values) + room, "loss"),
    )
    drawing.line("loss", zip(data["x"], data["loss"], strict=True))
    drawing.line("composed", zip(data["x"], data["composed"][i], strict=True))
    for x, value, _, extra in data["stationary"][i]:
        drawing.dot("extra" if extra else "shared", (x, value), 6)
    legend = [
        ("line loss", "L(θ), the loss"),
        ("line composed", "L(θ′), after the step"),
        ("dot shared", "stationary points of both"),
        ("dot extra", "new ones, of L(θ′) only"),
    ]
    shown = [f"{short(rate)} = {short(rate * data['l1'])} / ℓ₁" for rate in rates]
    extra = sum(point[3] for point in data["stationary"][i])
    readout = [
        ("stationary", "stationary points of L(θ′)", len(data["stationary"][i])),
        ("extra", "of them new", extra),
    ]
    return Picture(drawing, legend, [Slider("inner_lr", "inner_lr", shown, i)], readout)


def bounds(name: str, data: dict[str, Any]) -> Picture:
    """The root of (18) against the radius, for each experiment; the number of images and the radius move."""
    n, a = nearest(data["n_images"], 38400), nearest(data["alpha"], 0.05)
    roots = [root for one in data["experiments"] for row in one["root"] for root in row]
    drawing = Drawing(
        name,
        "The root term of Theorem 2's bound against the radius",
        Axis(data["alpha"][0], data["alpha"][-1], "radius α", log=True),
        Axis(max(0.01, min(roots)), max(roots), "root term of (18)", log=True),
    )
    drawing.line("one", [(data["alpha"][0], 1), (data["alpha"][-1], 1)])
    for j, one in enumerate(data["experiments"]):
        drawing.line(f"experiment{j}", [(alpha, row[n]) for alpha, row in zip(data["alpha"], one["root"], strict=True)])
        drawing.dot(f"experiment{j}", (data["alpha"][a], one["root"][a][n]), 7 - 3 * j)
    legend = [
        *(
            (f"line experiment{j}", f"{one['name']}, k = {one['n_params']:,}")
            for j, one in enumerate(data["experiments"])
        ),
        ("line one", "1: from here up the bound says nothing"),
    ]
    sliders = [
        Slider("n_images", "images n·M", [f"{count:,.0f}" for count in data["n_images"]], n),
        Slider("alpha", "radius α", [short(alpha) for alpha in data["alpha"]], a),
    ]
    readout = [(f"root{j}", one["name"], one["root"][a][n]) for j, one in enumerate(data["experiments"])]
    return Picture(drawing, legend, sliders, readout)


def alpha(name: str, data: dict[str, Any]) -> Picture:
    """A scene: the way of theta over the loss after adaptation; the two radii and the outer step move."""
    u, low, t = nearest(data["alphas_up"], 0.5), nearest(data["alphas_low"], 0), 3
    walk = data["walks"][low][u]
    here, inner = walk["outer"][t], [walk["outer"][t], *walk["inner"][t]]
    drawing = Drawing(
        name,
        f"{data['title']}: the loss after adaptation, darker where it is low, and the way of θ across it",
        Axis(*data["window"][0], data["axes"][0]),
        Axis(*data["window"][1], data["axes"][1]),
        equal=True,
    )
    drawing.contours(data["objective"], low)
    for text, point in data["marks"].items():
        drawing.mark(text, point)
    drawing.line("outer future", walk["outer"])
    drawing.line("outer", walk["outer"][: t + 1])
    for point in walk["outer"][: t + 1]:
        drawing.dot("outer", point, 3)
    drawing.line("inner", inner)
    for start, step in zip(inner, walk["lower"][t], strict=False):
        drawing.arrow("lower", start, step)
    drawing.ball("upper", here, data["alphas_up"][u])
    drawing.arrow("upper", here, walk["upper"][t])
    drawing.dot("outer", here, 5)
    legend = [
        ("line outer", "θ, one outer step after the other"),
        ("line outer future", "the steps to come"),
        ("line upper", "ε, and the ball of radius alpha_up"),
        ("line lower", "εₘ of the inner steps"),
        ("line inner", "the inner loop, θ to θ′"),
    ]
    sliders = [
        Slider("alpha_up", "alpha_up", [short(radius) for radius in data["alphas_up"]], u),
        Slider("alpha_low", "alpha_low", [short(radius) for radius in data["alphas_low"]], low),
        Slider("step", "outer step", [str(step) for step in range(len(walk["outer"]))], t),
    ]
    readout = [
        ("query_loss", "query loss at θ", walk["query_loss"][t]),
        ("meta_loss", "after adaptation, at θ′", walk["meta_loss"][t]),
        ("perturbed_loss", "after it, from θ + ε", walk["perturbed_loss"][t]),
    ]
    return Picture(drawing, legend, sliders, readout)


PICTURES = {"lemma1": lemma1, "bounds": bounds, "alpha": alpha}
