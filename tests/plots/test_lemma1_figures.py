"""The figures of Lemma 1 show what they are given, and tell L's points from new ones."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb

from sharp_maml_core.plots import lemma1 as figures
from sharp_maml_core.theory.census import Census, census, plane, slider, sweep
from sharp_maml_core.theory.lemma1 import two_tasks
from sharp_maml_core.theory.stationary import Points
from sharp_maml_core.theory.support import Curvatures
from sharp_maml_core.theory.zoo import FUNCTIONS

WELL = FUNCTIONS["double-well"]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def marks(axis):
    """(x, y), whether it is hollow, and the colour of each mark, in the order that it was drawn."""
    drawn = [artist for artist in axis.collections if isinstance(artist, PathCollection)]
    return [
        (
            tuple(artist.get_offsets()[0]),
            to_rgb(artist.get_facecolor()[0]) == (1, 1, 1),
            to_rgb(artist.get_edgecolor()[0]),
        )
        for artist in drawn
    ]


def words(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_curves_show_both_losses_and_every_point() -> None:
    data = slider(WELL, [0.05, 0.2, 0.4])
    figure = figures.curves(data, [0, 2])
    assert len(figure.axes) == 2
    for axis, position in zip(figure.axes, (0, 2), strict=True):
        own, composed = axis.lines
        assert list(own.get_ydata()) == data["loss"]
        assert list(composed.get_ydata()) == data["composed"][position]
        rows = data["stationary"][position]
        assert [(mark[0], mark[1]) for mark in marks(axis)] == [((x, value), bool(new)) for x, value, _, new in rows]
        assert [mark[2] for mark in marks(axis)] == [
            to_rgb(figures.COLOURS[data["kinds"][kind]]) for _, _, kind, _ in rows
        ]
    assert words(figure)[2:] == ["minimum", "maximum", "hollow: not of $L$"]


def test_births_show_where_points_are_and_the_threshold() -> None:
    found = sweep(WELL, [0.5, 2.5])
    figure = figures.births(found, "double-well", WELL.l1)
    (axis,) = figure.axes
    expected = [
        (pytest.approx((one.inner_lr * WELL.l1, at)), new)
        for one in found
        for at, new in zip(one.points.at[:, 0].tolist(), one.extra, strict=True)
    ]
    assert [(mark[0], mark[1]) for mark in marks(axis)] == expected
    assert list(axis.lines[-1].get_xdata()) == [1, 1]


def test_extra_points_are_stacked_by_kind_from_where_they_were_counted() -> None:
    def one(rate, kinds, extra):
        return Census(rate, Points(torch.zeros(len(kinds), 1).double(), kinds, True), extra, 0, 0)

    counts = [one(0.1, ("minimum",), (False,)), one(0.3, ("minimum", "maximum", "minimum"), (False, True, True))]
    figure = figures.extra_counts({"f": (5.0, counts)})
    (axis,) = figure.axes
    total = axis.lines[0]
    assert total.get_drawstyle() == "steps-post"
    np.testing.assert_allclose(total.get_xdata(), [0.5, 1.5])
    assert list(total.get_ydata()) == [0, 2]
    tops = [area.get_paths()[0].vertices[:, 1].max() for area in axis.collections]
    assert tops == [1, 2]  # minima below, maxima on them
    assert words(figure) == ["minimum", "maximum"]


def test_functions_without_extra_points_are_drawn_too() -> None:
    found = {name: (FUNCTIONS[name].l1, sweep(FUNCTIONS[name], [0.5, 0.9])) for name in ("parabola", "cubic")}
    figure = figures.extra_counts(found)
    assert [axis.get_title() for axis in figure.axes] == ["parabola", "cubic"]
    assert words(figure) == []


def test_planes_show_every_point_once() -> None:
    function = FUNCTIONS["ripples"]
    rates = [rate / function.l1 for rate in (0.5, 1.5)]
    panels = [(plane(function, rate, points=21), census(function, rate)) for rate in rates]
    figure = figures.planes(panels, "ripples", function.l1)
    for axis, (_, found) in zip(figure.axes, panels, strict=True):
        places = {mark[0]: mark[1] for mark in marks(axis)}
        assert list(places) == [tuple(at) for at in found.points.at.tolist()]
        assert Counter(places.values()) == Counter(found.extra)
    assert words(figure) == ["minimum", "saddle", "maximum", "hollow: not of $L$"]


def test_the_moving_minimiser() -> None:
    rates = [Fraction(1, 10), Fraction(1, 5)]
    figure = figures.moving_minimiser([0.1, 0.2], [two_tasks((1, 3), (1, -1), rate) for rate in rates], (1, -1))
    maml, erm, *_ = figure.axes[0].lines
    assert maml.get_ydata()[1] == 1 / 7
    assert list(erm.get_ydata()) == [-0.5, -0.5]


def test_curvatures_before_and_after() -> None:
    before = torch.tensor([1.0, 5.0, 40.0], dtype=torch.float64)
    found = Curvatures(before, before * (1 - 0.1 * before) ** 2, 0.0)
    figure = figures.curvatures([("one", 0.1, found), ("other", 0.01, found)])
    for axis, rate in zip(figure.axes, (0.1, 0.01), strict=True):
        same, formula, measured = axis.lines[:3]
        x = same.get_xdata()
        np.testing.assert_allclose(formula.get_ydata(), x * (1 - rate * x) ** 2)
        assert measured.get_ydata().tolist() == found.after.tolist()
    assert len(figure.axes[0].lines) == 4  # 2 / 0.1 is in the panel
    assert len(figure.axes[1].lines) == 3  # 2 / 0.01 is not


def test_a_function_without_stationary_points_is_drawn() -> None:
    nothing = Census(0.1, Points(torch.empty(0, 1, dtype=torch.float64), (), True), (), 0, 0)
    figure = figures.births([nothing], "x", 1.0)
    figure.canvas.draw()
    assert words(figure) == []
