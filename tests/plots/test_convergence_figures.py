"""The figures of Theorem 1 show the numbers that they are given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from sharp_maml_core.plots import convergence as figures
from sharp_maml_core.theory.convergence import Rate
from sharp_maml_core.theory.floors import Floors
from sharp_maml_core.theory.lemma3 import Lemma3
from sharp_maml_core.theory.uncovered import InnerJacobian

HORIZONS = (16, 64, 256)
RATE = Rate(HORIZONS, torch.tensor([[1.0, 1.2], [0.5, 0.6], [0.25, 0.3]], dtype=torch.float64))


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def labels(owner) -> list[str]:
    return [text.get_text() for text in owner.get_texts()]


def test_rates_show_means_intervals_exponents_and_bounds() -> None:
    figure = figures.rates({"up": RATE, "low": RATE}, {"a bound": [9.0, 5.0, 3.0]})
    left, right = figure.axes
    assert left.containers[0].lines[0].get_ydata().tolist() == RATE.mean.tolist()
    (bars,) = left.containers[0].lines[2]
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose((ends[:, 1] - ends[:, 0]) / 2, RATE.interval, rtol=1e-12)
    assert right.containers[1].lines[0].get_ydata().tolist() == pytest.approx([4.4, 4.4, 4.4])
    (bound,) = [line for line in left.lines if line.get_label() == "a bound"]
    assert bound.get_ydata().tolist() == [9.0, 5.0, 3.0]
    (legend,) = figure.legends
    assert any("up: $T^{-0.50" in label for label in labels(legend))
    assert len(labels(legend)) == 3
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["16", "64", "256"]


def test_fixed_steps_are_averaged_over_a_tenth_of_t() -> None:
    squares = torch.arange(1.0, 21.0, dtype=torch.float64)[:, None].expand(-1, 3)
    (ax,) = figures.fixed_steps({"maml": squares}, {"a bound": 50.0}).axes
    line, bound = ax.lines
    assert line.get_ydata().tolist() == [float(t) for t in range(1, 11)] + [t - 0.5 for t in range(11, 21)]
    assert set(bound.get_ydata()) == {50.0}


def test_floors_have_their_exponents_and_bounds() -> None:
    floors = Floors((0.1, 0.2), (1e-4, 1.6e-3), (1e-2, 4e-2))
    one, other = figures.floors({"x": {"first": floors}, "y": {"second": floors}}).axes
    assert labels(one.get_legend()) == ["first: exponent 4.00", "its bound: 2.00"]
    assert [list(line.get_ydata()) for line in other.lines] == [[1e-4, 1.6e-3], [1e-2, 4e-2]]
    assert other.get_xlabel() == "y"


def test_lemma_3_shows_every_draw() -> None:
    ones = torch.ones(4, dtype=torch.float64)
    ratio = torch.tensor([1e-9, 0.1, 0.5, 2.0], dtype=torch.float64)
    draws = Lemma3(0.1 * ones, ratio, ones, ones, 0.2 * ones, ones)
    left, right = figures.lemma3(draws).axes
    assert labels(left.get_legend()) == [
        "Eq. 31: largest 0.1, above 1 in 0.0%",
        "sharper: largest 0.1, above 1 in 0.0%",
    ]
    assert labels(right.get_legend())[0] == "Eq. 31: largest 2, above 1 in 25.0%"
    outline = right.patches[0].get_xy()
    assert outline[:, 1].max() == pytest.approx(0.25)
    assert (outline[:, 1] > 0).any()


def test_what_is_uncovered_has_three_panels() -> None:
    jacobians = [InnerJacobian(1.0, 0.9, 0.9), InnerJacobian(1e-3, 0.9, 5.0)]
    figure = figures.uncovered({"rough": ((0.1, 0.01), (0.3, 0.3))}, jacobians, ((0.1, 0.01), (0.02, 0.002)))
    bias, jacobian, drift = figure.axes
    assert list(bias.lines[0].get_ydata()) == [0.3, 0.3]
    assert [list(line.get_ydata()) for line in jacobian.lines] == [[0.9, 5.0], [0.9, 0.9]]
    assert labels(drift.get_legend()) == ["exponent 1.00"]
