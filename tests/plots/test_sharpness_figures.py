"""Figures of sharpness show what they are given, and only that."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from sharp_maml_core import UserError
from sharp_maml_core.landscape.rescale import Rescaled
from sharp_maml_core.landscape.summary import MEASURES, SURFACES, Correlation, Mean, Row
from sharp_maml_core.plots import sharpness

VARIANTS = ("maml", "low", "both")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def table(seeds: int) -> list[Row]:
    names = [f"{surface} {measure}" for surface in SURFACES for measure in MEASURES]
    return [
        Row(
            f"x-{variant}-seed{seed}",
            variant,
            seed,
            {name: Mean(10 * place + seed + i, 1.0, 5) for i, name in enumerate(names)},
            {name: Mean(0.5 + 0.1 * seed, 0.01, 9) for name in ("accuracy", "train accuracy", "gap")},
        )
        for place, variant in enumerate(VARIANTS)
        for seed in range(seeds)
    ]


def panels(figure) -> dict[str, plt.Axes]:
    """By column and label."""
    drawn = [ax for ax in figure.axes if ax.get_xlabel()]
    return {(i % 3, ax.get_xlabel()): ax for i, ax in enumerate(drawn)}


def test_each_seed_is_a_dot_and_each_variant_a_mean_with_its_interval() -> None:
    figure = sharpness.measures(table(3))
    found = panels(figure)
    assert len(found) == 3 * len(MEASURES) + 3
    ax = found[1, "trace"]  # of the erm loss: number 1 of the names
    dots = [line.get_xdata().tolist() for line in ax.lines if line.get_fillstyle() == "none"]
    assert dots == [[10.0 * place + seed + 1 for seed in range(3)] for place in range(3)]
    assert [float(bar.lines[0].get_xdata()[0]) for bar in ax.containers] == [2.0, 12.0, 22.0]
    reach = 4.302652729911275 / math.sqrt(3)  # Student's quantile with 2 degrees of freedom, times 1 / sqrt(3)
    (segment,) = ax.containers[1].lines[2][0].get_segments()
    assert segment[:, 0].tolist() == pytest.approx([12 - reach, 12 + reach])
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(VARIANTS)
    assert [float(bar.lines[0].get_xdata()[0]) for bar in found[0, "test accuracy"].containers] == pytest.approx(
        [0.6] * 3
    )


def test_one_seed_has_its_interval_over_tasks_if_there_is_one() -> None:
    (first, *others) = table(1)
    single = first._replace(figures=first.figures | {"maml top_eigenvalue": Mean(4.0, math.inf, 1)})
    ax = panels(sharpness.measures([single, *others]))[0, "top eigenvalue"]
    assert [bar.has_xerr for bar in ax.containers] == [False, True, True]
    (segment,) = ax.containers[1].lines[2][0].get_segments()
    assert np.ptp(segment[:, 0]) == pytest.approx(2.0)


def test_densities_are_drawn_as_given() -> None:
    grid = torch.linspace(-1, 5, 50, dtype=torch.float64)
    curves = {
        surface: (grid, {variant: (i + 1) * torch.exp(-(grid**2)) for i, variant in enumerate(VARIANTS)})
        for surface in ("maml", "erm")
    }
    upper, lower = sharpness.densities(curves).axes
    assert upper.get_xlabel().endswith("MAML loss")
    assert lower.get_xlabel().endswith("ERM loss")
    for ax in (upper, lower):
        assert ax.get_yscale() == "log"
        for i, line in enumerate(ax.lines):
            assert np.asarray(line.get_xdata()).tolist() == grid.tolist()
            expected = ((i + 1) * torch.exp(-(grid**2))).clamp(min=sharpness.FLOOR / 10)
            assert np.asarray(line.get_ydata()).tolist() == expected.tolist()
    assert [text.get_text() for text in upper.get_legend().get_texts()] == list(VARIANTS)


def test_correlations_whose_interval_holds_zero_are_grey() -> None:
    found = [
        Correlation(surface, measure, outcome, rho, rho - 0.3, rho + 0.2, 12)
        for outcome in ("accuracy", "gap")
        for surface, rho in (("erm", -0.5), ("maml", 0.1))
        for measure in ("trace", "sharpness")
    ]
    left, right = sharpness.correlations(found).axes
    labels = [text.get_text() for text in left.get_yticklabels()]
    assert labels == [
        "trace, ERM loss",
        "sharpness, maximised, ERM loss",
        "trace, MAML loss",
        "sharpness, maximised, MAML loss",
    ]
    for ax, outcome in ((left, "test accuracy"), (right, "generalisation gap")):
        assert ax.get_xlabel() == f"rank correlation with {outcome}"
        assert ax.get_title(loc="right") == "12 models"
        bars = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 1.5]
        ends = [end for line in bars for end in line.get_xdata()]
        assert ends == pytest.approx([-0.8, -0.3] * 2 + [-0.2, 0.3] * 2)
        assert [line.get_color() == "0.55" for line in bars] == [False, False, True, True]


def test_a_change_of_scale_is_drawn_as_multiples_of_what_is_at_one() -> None:
    points = [Rescaled(c, 2.0, 3.0 * c, 5.0 * c**2, 7.0 / c, 11.0 + c, 13.0, 17.0) for c in (0.5, 1.0, 4.0)]
    figure = sharpness.rescaling({"one": points, "another": points})
    assert [ax.get_title() for ax in figure.axes] == ["one", "another"]
    lines = {line.get_label(): line for line in figure.axes[1].lines}
    assert lines["top eigenvalue"].get_ydata().tolist() == [0.25, 1, 16]
    assert lines["trace"].get_ydata().tolist() == [2, 1, 0.25]
    assert lines["gradient"].get_ydata().tolist() == [0.5, 1, 4]
    assert lines["sharpness"].get_ydata().tolist() == pytest.approx([11.5 / 12, 1, 15 / 12])
    for name in ("loss", "adaptive sharpness", "adaptive top eigenvalue"):
        assert lines[name].get_ydata().tolist() == [1, 1, 1]
        assert lines[name].get_linestyle() == "--"
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["1/2", "1", "4"]
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == set(lines)


def test_a_change_of_scale_needs_a_point_to_compare_with() -> None:
    points = [Rescaled(factor, *[1.0] * 7) for factor in (0.5, 2.0)]
    with pytest.raises(UserError, match=r"sweeps\['layer'\]=\[0.5, 2.0\] is not allowed: it must be factors with 1"):
        sharpness.rescaling({"layer": points})
