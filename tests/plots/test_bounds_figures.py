"""Figures of Theorem 2 show the numbers that they are given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sharp_maml_core.plots import bounds
from sharp_maml_core.theory.generalization import larger_radius, repaired, theorem2, theorem3
from sharp_maml_core.theory.lemma6 import Violations

ALPHA = np.geomspace(1e-4, 100, 30)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def at(alpha):
    return theorem2(alpha, 1000, 20, 50, 0.05, 3.0)


def drawn(figure, label):
    """What is drawn under this label, on every panel that has it."""
    lines = [line for ax in figure.axes for line in ax.lines if line.get_label() == label]
    return [(np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in lines]


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_terms_are_drawn_alone_and_together() -> None:
    one, other = at(ALPHA), theorem3(ALPHA, 2000, 20, 50, 0.05, 5.0)
    figure = bounds.terms(ALPHA, {"one": one, "other": other}, bounds.ALPHA, {"one": [0.05, 0.5], "other": [0.7]})
    assert [ax.get_title() for ax in figure.axes] == ["one", "other"]
    for (x, root), bound in zip(drawn(figure, "root of their sum"), (one, other), strict=True):
        np.testing.assert_array_equal(x, ALPHA)
        np.testing.assert_array_equal(root, bound.root)
    (alone, _) = drawn(figure, r"$2\,\ln(1/\delta)$")
    np.testing.assert_array_equal(alone[1], np.sqrt(one.confidence))
    assert len(drawn(figure, "constant")) == 1  # (18) has none
    for ax, marks in zip(figure.axes, ([0.05, 0.5], [0.7]), strict=True):
        assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"] == marks
        assert [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"] == [1]  # the vacuous level


def test_a_constant_of_the_second_panel_only_is_in_the_legend() -> None:
    panels = {"one": at(ALPHA), "other": theorem3(ALPHA, 2000, 20, 50, 0.05, 5.0)}
    assert "constant" in legend_of(bounds.terms(ALPHA, panels, bounds.ALPHA, {"one": [], "other": []}))


def test_curves_are_labelled_and_marked() -> None:
    tasks = np.geomspace(10, 1e6, 20)
    lines = {f"{alpha}": repaired(alpha, 1000, tasks, 0.05, 3.0).excess for alpha in (0.1, 1.0)}
    figure = bounds.curves(tasks, lines, "M", "excess", {"there are": 64})
    for label, values in lines.items():
        ((_, shown),) = drawn(figure, label)
        np.testing.assert_array_equal(shown, values)
    assert legend_of(figure) == ["0.1", "1.0"]
    assert "there are" in [text.get_text() for text in figure.axes[0].texts]


def test_where_all_is_below_1_nothing_is_called_vacuous() -> None:
    figure = bounds.curves(np.array([1.0, 10.0]), {"small": np.array([0.5, 0.1])}, "x", "y", {})
    assert not figure.axes[0].texts


def test_d1_s_radii_are_where_they_belong() -> None:
    found = larger_radius(at, 0.05)
    figure = bounds.larger_radius(ALPHA, at(ALPHA).root, 0.05, found)
    np.testing.assert_array_equal(drawn(figure, "loss 1 in the ball")[0][1], at(ALPHA).root + 1)
    points = {line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in figure.axes[0].lines[3:6]}
    alpha0, paper, proved = points.values()
    assert alpha0 == (0.05, found.root0)
    for point, radius in ((paper, found.paper), (proved, found.proved)):
        assert point == pytest.approx((float(radius), 1 + float(at(radius).root)), rel=1e-12)


def test_violations_are_shares_of_the_draws() -> None:
    counts = {(1, 10): Violations(200, 50, 2), (1, 100): Violations(200, 150, 0), (4, 10): Violations(100, 10, 1)}
    figure = bounds.violations(counts, 0.05)
    samples, tasks = figure.axes
    assert [line.get_ydata().tolist() for line in samples.lines[:2]] == [[0.25, 0.75], [0.1]]
    assert [line.get_ydata().tolist() for line in tasks.lines[:2]] == [[0.01, 0.0], [0.01]]
    assert legend_of(figure)[:2] == ["1 task", "4 tasks"]
    assert samples.lines[2].get_ydata()[0] == 0.05


def test_tails_are_drawn_beside_their_bound() -> None:
    t = np.linspace(0, 3, 7)
    figure = bounds.tails(t, {"k = 2": np.exp(-2 * t)})
    np.testing.assert_array_equal(drawn(figure, "exact, k = 2")[0][1], np.exp(-2 * t))
    np.testing.assert_allclose(drawn(figure, "bound, $e^{-t}$")[0][1], np.exp(-t), rtol=1e-15)
