"""Stationary points before and after one inner step: nothing is lost, and nothing new comes below the threshold."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import grad, vmap

from sharp_maml_core import UserError
from sharp_maml_core.theory.census import census, composed_coefficients, plane, slider, sweep
from sharp_maml_core.theory.lemma1 import composed
from sharp_maml_core.theory.polynomials import exact
from sharp_maml_core.theory.stationary import MAXIMUM, MINIMUM
from sharp_maml_core.theory.zoo import FUNCTIONS

ROOT = Path(__file__).parents[2]
WELL, WASHBOARD = FUNCTIONS["double-well"], FUNCTIONS["washboard"]


def well_by_hand(b: Fraction) -> list[float]:
    """F' = (1 - b(3x^2 - 1)) (T^3 - T) with T = x - b(x^3 - x), and T = s has the roots below for s = 0, 1, -1."""
    b = float(b)
    fold = math.sqrt((1 + 1 / b) / 3)
    zero = math.sqrt(1 + 1 / b)
    one = [(-1 + sign * math.sqrt(1 + 4 / b)) / 2 for sign in (1, -1)]
    return sorted([-1, 0, 1, fold, -fold, zero, -zero, *one, *(-x for x in one)])


@pytest.mark.parametrize("page", ["lemma1", "try"])
def test_the_pages_name_the_window_of_the_slider_and_the_curvature_in_it(page):
    ((low, high),) = WELL.box
    largest = max(3 * x * x - 1 for x in (low, high))  # of (x^2 - 1)^2 / 4; the smallest is -1, at 0
    assert WELL.l1 == largest
    text = " ".join((ROOT / "book" / f"{page}.md").read_text(encoding="utf-8").split())
    assert f"In this window $\\ell_1 = {largest:g}$, the largest curvature between ${low:g}$ and ${high:g}$;" in text


# ---- counts


@pytest.mark.parametrize("b", [Fraction(1, 1000), Fraction(1, 11), Fraction(2, 5), Fraction(3, 5), Fraction(7)])
def test_the_double_well_on_the_whole_line_has_eight_more_at_every_inner_lr(b):
    found = exact(composed_coefficients(WELL.coefficients, b))
    np.testing.assert_allclose(found.at[:, 0], well_by_hand(b), rtol=1e-14, atol=1e-15)
    assert found.kinds == (MINIMUM, MAXIMUM) * 5 + (MINIMUM,)


def test_where_a_new_point_runs_into_a_minimum_the_minimum_stays():
    """At b = 1/2 the step is Newton's at +-1: a fold and a root of T = +-1 meet the minima, as triple roots."""
    found = census(WELL, Fraction(1, 2))
    assert found.points.at[:, 0].tolist() == [-2, -1.7320508075688772, -1, 0, 1, 1.7320508075688772, 2]
    assert found.points.kinds == (MINIMUM, MAXIMUM, MINIMUM, MAXIMUM, MINIMUM, MAXIMUM, MINIMUM)
    assert found.extra == (True, True, False, False, False, True, True)
    assert (found.lost, found.unmade) == (0, 0)


def test_composition_is_exact():
    """L(T(x)) in fractions, at more points than the degree."""
    coefficients = [Fraction(c, 7) for c in (3, -2, 0, 5, 1)]
    b = Fraction(3, 10)
    found = composed_coefficients(coefficients, b)
    assert len(found) == 4 * 3 + 1
    for x in (Fraction(i, 3) for i in range(-7, 8)):
        adapted = x - b * sum(i * c * x ** (i - 1) for i, c in enumerate(coefficients) if i)
        assert sum(c * x**i for i, c in enumerate(found)) == sum(c * adapted**i for i, c in enumerate(coefficients))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_below_the_threshold_the_points_are_the_same(name):
    own = FUNCTIONS[name].stationary_points()
    for found in sweep(FUNCTIONS[name], [0.3, 0.97]):
        assert found.points.complete
        assert found.n_extra == found.lost == found.unmade == 0
        torch.testing.assert_close(found.points.at, own.at, rtol=0, atol=1e-10)
        assert found.points.kinds == own.kinds


@pytest.mark.parametrize("name", FUNCTIONS)
def test_above_the_threshold_nothing_is_lost(name):
    for found in sweep(FUNCTIONS[name], [1.07, 2.7]):
        assert found.points.complete
        assert found.lost == found.unmade == 0


@pytest.mark.parametrize(
    ("name", "rate", "extra"), [("washboard", 1.001, 2), ("cubic", 1.001, 1), ("quartic", 1.001, 2)]
)
def test_in_one_variable_new_points_come_at_the_threshold(name, rate, extra):
    (found,) = sweep(FUNCTIONS[name], [rate])
    assert found.n_extra >= extra


@pytest.mark.parametrize("rate", [1.3, 2.2])
def test_new_points_of_periodic_functions_come_in_pairs(rate):
    """In a period no point can come in through the edge: minima and maxima, saddles and others, balance."""
    for name in ("washboard", "ripples"):
        (found,) = sweep(FUNCTIONS[name], [rate])
        signs = [-1 if kind == ("maximum" if name == "washboard" else "saddle") else 1 for kind in found.points.kinds]
        assert found.n_extra > 0
        assert sum(signs) == 0


def test_a_parabola_has_nothing_new_on_either_side_and_a_constant_at_its_inverse_curvature():
    assert [found.n_extra for found in sweep(FUNCTIONS["parabola"], [0.5, 0.99, 1.01, 7])] == [0, 0, 0, 0]
    with pytest.raises(UserError, match="not constant"):
        census(FUNCTIONS["parabola"], 1)


def test_a_float_is_what_is_written():
    assert census(WELL, 0.3).points.at.equal(census(WELL, Fraction(3, 10)).points.at)


def test_new_minima_adapt_to_points_as_good_as_the_old_ones():
    found = census(WASHBOARD, 0.23)
    after = composed(WASHBOARD.loss, 0.23)
    values = vmap(after)(found.points.at)
    old = [
        float(v)
        for v, kind, new in zip(values, found.points.kinds, found.extra, strict=True)
        if kind == MINIMUM and not new
    ]
    new = [
        float(v)
        for v, kind, new in zip(values, found.points.kinds, found.extra, strict=True)
        if kind == MINIMUM and new
    ]
    assert len(new) == 6
    assert all(min(abs(value - other) for other in old) < 1e-12 for value in new)


# ---- what is drawn


def test_the_slider_survives_json_and_is_small():
    data = slider(WELL, [0.002 + 0.005 * i for i in range(60)])
    text = json.dumps(data, allow_nan=False)
    assert json.loads(text) == data
    assert len(text) < 300_000


def test_the_sliders_numbers_are_those_of_the_functions():
    data = slider(WASHBOARD, [0.05, 0.24], points=33)
    x = np.linspace(-math.pi, math.pi, 33)

    def loss(x):
        return x / 4 - np.cos(x) - np.cos(3 * x)

    def after(x, rate):
        return loss(x - rate * (0.25 + np.sin(x) + 3 * np.sin(3 * x)))

    np.testing.assert_allclose(data["x"], x, rtol=5e-5)  # five digits
    np.testing.assert_allclose(data["loss"], loss(x), rtol=5e-5)
    for rate, values, rows in zip(data["inner_lr"], data["composed"], data["stationary"], strict=True):
        np.testing.assert_allclose(values, after(x, rate), rtol=5e-5, atol=1e-12)
        at = np.array([row[0] for row in rows])
        np.testing.assert_allclose([row[1] for row in rows], after(at, rate), rtol=1e-4, atol=1e-6)
        slope = grad(composed(WASHBOARD.loss, rate))
        for place, _, kind, _ in rows:
            left, right = (float(slope(torch.tensor([place + step], dtype=torch.float64))) for step in (-1e-3, 1e-3))
            assert (left < 0 < right) == (data["kinds"][kind] == MINIMUM)
            assert (left > 0 > right) == (data["kinds"][kind] == MAXIMUM)
    assert [sum(row[3] for row in rows) for rows in data["stationary"]] == [0, 12]
    assert [row[0] for row in data["own"]] == [row[0] for row in data["stationary"][0]]
    assert data["threshold"] == 0.1
    assert data["l1"] == 10
    assert (data["function"], data["formula"]) == (WASHBOARD.name, WASHBOARD.formula)


def test_a_plane_has_a_row_for_each_y():
    found = plane(FUNCTIONS["rosenbrock"], 0.01, points=5)
    after = composed(FUNCTIONS["rosenbrock"].loss, 0.01)
    for i, y in enumerate(found.y):
        for j, x in enumerate(found.x):
            assert float(found.values[i, j]) == pytest.approx(float(after(torch.stack([x, y]))), rel=1e-14)
    assert (found.x[0], found.x[-1], found.y[0], found.y[-1]) == (-2, 2, -1, 3)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: census(WELL, 0), "inner_lr=0 .*above 0"),
        (lambda: sweep(WASHBOARD, [0.5, -0.5]), "inner_lr=-0.05 .*above 0"),
        (lambda: slider(FUNCTIONS["ripples"], [0.1]), "function='ripples' .*one variable"),
        (lambda: slider(WELL, []), "inner_lrs=0 .*one position or more"),
        (lambda: slider(WELL, [0.1], points=1), "points=1 .*at least 2"),
        (lambda: slider(WELL, [float("inf")]), "inner_lr=inf .*finite"),
        (lambda: slider(FUNCTIONS["parabola"], [1e200]), "composed=.*finite"),
        (lambda: slider(FUNCTIONS["double-well"], [1e200]), "composed=.*finite"),  # at once: its census would not end
        (lambda: plane(WELL, 0.1), "function='double-well' .*two variables"),
        (lambda: plane(FUNCTIONS["ripples"], 0.0), "inner_lr=0.0 .*above 0"),
        (lambda: plane(FUNCTIONS["ripples"], 0.1, points=1), "points=1 .*at least 2"),
    ],
)
def test_bad_input_is_named(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()
