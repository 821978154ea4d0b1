"""Figures of results show what they are given, and only that."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import pytest
from made_results import a_group

from sharp_maml_core import groups
from sharp_maml_core.errors import UserError
from sharp_maml_core.plots import results
from sharp_maml_core.published import Ours
from sharp_maml_core.radii import Curves, Point
from sharp_maml_core.theory.paper_tables import TABLES


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def ours(mean: float, interval: float = 1.0) -> Ours:
    return Ours(mean, interval, (0, 1, 2), 100, 10, ())


def test_each_cell_is_at_its_cost_and_each_difference_at_its_place() -> None:
    lines = groups.lines(a_group(), "g")
    cost, forest = results.comparison(lines).axes
    assert [text.get_text() for text in cost.get_legend().get_texts()] == [line.name for line in lines]
    bars = [float(bar.lines[0].get_ydata()[0]) for bar in cost.containers]
    assert bars == pytest.approx([line.ours.mean for line in lines])
    dots = [line for line in forest.lines if line.get_marker() == "o"]
    pairs = [(line, one) for line in lines for one in line.against]
    assert [float(dot.get_xdata()[0]) for dot in dots] == pytest.approx([one.difference.mean for _, one in pairs])
    assert [dot.get_fillstyle() == "full" for dot in dots] == [one.clear for _, one in pairs]
    assert forest.get_yticklabels()[0].get_text() == "maml-2x − maml"


def test_a_curve_has_its_radii_its_intervals_and_each_maml() -> None:
    points = [Point(alpha, ours(40 + i)) for i, alpha in enumerate((5e-5, 5e-4, 5e-3))]
    (ax,) = results.alpha_curves(Curves({"both": points}, {"maml": ours(41, 2.0), "maml-2x": ours(44, 1.0)})).axes
    (bar,) = ax.containers
    assert bar.lines[0].get_xdata().tolist() == [5e-5, 5e-4, 5e-3]
    assert bar.lines[0].get_ydata().tolist() == [40, 41, 42]
    assert [(band.get_y(), band.get_height()) for band in ax.patches] == [(39.0, 4.0), (43.0, 2.0)]
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"both", "maml", "maml-2x"}
    assert not list(results.alpha_curves(Curves({"both": points}, {})).axes[0].patches)
    (three,) = results.alpha_curves(Curves(dict.fromkeys(("low", "up", "both"), points), {})).axes
    low, up, both = (bar.lines[0].get_xdata() for bar in three.containers)
    assert up.tolist() == [5e-5, 5e-4, 5e-3]
    assert (low < up).all()
    assert both / up == pytest.approx(up / low)


@pytest.mark.parametrize("printed", [1.7, None])
def test_what_the_baseline_is_worth_is_beside_what_a_variant_is(printed: float | None) -> None:
    claim = groups.on_as_many_images(groups.lines(a_group(), "g"))
    figure = results.worth(2 * [("maml", claim[0][1])], claim, printed)
    (ax,) = figure.axes
    dots = [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() == "o"]
    means = [one.difference.mean for _, one in claim]
    assert dots == pytest.approx([means[0], means[0], *means])
    assert [text.get_text() for text in ax.get_yticklabels()][2:] == ["low − maml", "up − maml-2x", "both − maml-2x"]
    assert len(figure.legends) == (printed is not None)


def test_a_single_seed_is_open_and_has_no_bar() -> None:
    alone = Ours(95.0, math.nan, (0,), 100, 10, ())
    (ax,) = results.paper_table(4, {"maml": alone, "up": ours(96.0)}).axes
    found = {float(bar.lines[0].get_xdata()[0]): bar for bar in ax.containers if bar.lines[0].get_marker() == "D"}
    assert {x: (bar.lines[0].get_fillstyle(), bar.has_xerr) for x, bar in found.items()} == {
        95.0: ("none", False),
        96.0: ("full", True),
    }
    (curve,) = results.alpha_curves(Curves({"both": [Point(0.1, alone)]}, {"maml": alone})).axes
    assert not curve.containers[0].has_yerr
    assert not curve.patches


def test_a_table_of_the_paper_shows_every_row_and_ours_where_there_is_one() -> None:
    (ax,) = results.paper_table(4, {"maml": ours(95.0, math.nan)}).axes
    assert [text.get_text() for text in ax.get_yticklabels()] == [row.method for row in TABLES[4].rows]
    printed = [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert printed == [float(row.accuracy) for row in TABLES[4].rows]
    assert [float(bar.lines[0].get_xdata()[0]) for bar in ax.containers if bar.lines[0].get_marker() == "D"] == [95.0]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["the paper", "the method's own paper", "ours"]
    assert "ours" not in [t.get_text() for t in results.paper_table(4, {}).axes[0].get_legend().get_texts()]


def test_a_table_that_there_is_not() -> None:
    with pytest.raises(UserError, match="number=0"):
        results.paper_table(0, {})
