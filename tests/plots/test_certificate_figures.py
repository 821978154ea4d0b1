"""The figures of certificates, stability and (36) show what they are given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sharp_maml_core.plots import certificate as figures
from sharp_maml_core.theory.assumption import Differences, readings
from sharp_maml_core.theory.certificate import Certificate, Coverage
from sharp_maml_core.theory.stability import NEIGHBOURS, Changes

GENERATOR = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def one(learner: str, unit: str, measured: float, bound: float) -> Certificate:
    return Certificate(learner, unit, 100, 0, 0.7, 0.05, measured, 0, 0.0, bound, measured, 0.01)


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_certificates_stand_beside_what_was_measured() -> None:
    found = [one(n, u, m, b) for n, m, b in (("maml", 0.08, 0.14), ("both", 0.09, 0.15)) for u in ("tasks", "classes")]
    figure = figures.certificates(found, 0.8, "small print")
    assert [ax.get_title() for ax in figure.axes] == list(figures.TITLES.values())
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["maml", "both"]
    for ax in figure.axes:
        assert texts(ax) == ["0.140", "0.150", "chance"]
        assert [float(bars.lines[0].get_xdata()[0]) for bars in ax.containers] == [0.08, 0.09]
    assert figure.get_supxlabel() == "small print"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == ["measured, 95% interval", "certified at 95%"]


def test_one_unit_is_one_panel() -> None:
    figure = figures.certificates([one("maml", "classes", 0.1, 0.5)], 0.8)
    assert [ax.get_title() for ax in figure.axes] == [figures.TITLES["classes"]]


def test_coverage_shows_violations_and_distances() -> None:
    deltas, truths = np.array([0.05, 0.5]), np.full((2, 100), 0.2)
    bounds = np.stack([np.full(100, 0.5), np.where(np.arange(100) < 10, 0.1, 0.4)])
    coverage = Coverage(deltas, bounds, truths, truths - 0.05)
    often, panel = figures.coverage({"a world": coverage}, shown=1).axes
    allowed, at_most, seen = often.lines
    assert allowed.get_ydata().tolist() == deltas.tolist()
    assert at_most.get_ydata().tolist() == coverage.violations_at_most().tolist()
    assert (seen.get_xdata().tolist(), seen.get_ydata().tolist()) == ([0.5], [0.1])
    assert panel.get_title() == "a world"
    *_, of_bounds = panel.containers
    heights = {round(bar.get_x(), 3): bar.get_height() for bar in of_bounds if bar.get_height()}
    assert heights == pytest.approx({0.1: 0.1 * figures.BINS, 0.4: 0.9 * figures.BINS})


def test_stability_shows_tasks_their_largest_and_the_bound() -> None:
    n = np.array([5.0, 10.0, 50.0])
    changes = (0.5 / n)[None, :, None] * GENERATOR.uniform(0.5, 1, (3, 3, 4))
    found = Changes(n, changes, changes, changes)
    with_bound, without = figures.stability({"softmax": found, "Conv4": found}, {"softmax": 2 / n}).axes
    for ax in (with_bound, without):
        assert len(ax.lines) == 3 * 4 + 3 + 1  # a kind of neighbour: four tasks and their largest; the bound
        largest = [line for line in ax.lines if str(line.get_label()).startswith(NEIGHBOURS)]
        assert [line.get_ydata().tolist() for line in largest] == changes.max(-1).tolist()
    assert with_bound.lines[-1].get_ydata().tolist() == (2 / n).tolist()
    assert without.lines[-1].get_ydata() == [1, 1]


def test_the_assumption_is_drawn_with_intervals_and_the_meanings_of_alpha() -> None:
    sigmas = np.array([1e-4, 1e-2, 1e-1])
    differences = sigmas[:, None] * GENERATOR.uniform(0.5, 1.5, (3, 8))
    found = Differences(sigmas, differences, differences / 2, (0.3, 0.1), 10_000)
    figure = figures.assumption({"maml": found, "both": found}, readings(0.05, 10_000))
    for ax, scale in zip(figure.axes, (1, 2), strict=True):
        assert [container.lines[0].get_ydata().tolist() for container in ax.containers] == [
            (differences / scale).mean(1).tolist()
        ] * 2
        assert [text.replace("\n", " ") for text in texts(ax)] == list(readings(0.05, 10_000))
    assert figure.axes[0].get_legend() is not None
