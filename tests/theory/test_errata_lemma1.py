"""What decides about Lemma 1's statements, by other means than the functions' own."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import sympy

from sharp_maml_core.theory.errata import lemma1

x, y = sympy.symbols("x y")


def after_one_step(loss, rate):
    return loss.subs(x, x - rate * sympy.diff(loss, x))


def washboard_slope(points, rate):
    """F' of x/4 - cos x - cos 3x in NumPy."""
    adapted = points - rate * (0.25 + np.sin(points) + 3 * np.sin(3 * points))
    return (1 - rate * (np.cos(points) + 9 * np.cos(3 * points))) * (0.25 + np.sin(adapted) + 3 * np.sin(3 * adapted))


def test_gradient_formula():
    found = lemma1.gradient_formula()
    assert found["error_against_autograd"] < 1e-15
    assert found["error_against_differences"] < 1e-11


def test_hessian_order():
    """The two matrices of the docstring, by sympy, and their distance in exact numbers: sqrt(1/14)."""
    found = lemma1.hessian_order()
    loss = x**2 / 2 + x * y**2 / 2
    g = [sympy.diff(loss, v) for v in (x, y)]
    whole = loss.subs({x: x - g[0], y: y - g[1]}, simultaneous=True)
    right = sympy.hessian(whole, (x, y)).subs({x: 0, y: 1})
    assert right == sympy.Matrix([[Fraction(-1, 2), 2], [2, Fraction(-3, 2)]])
    printed = sympy.Matrix([[0, 2], [Fraction(3, 2), -2]])
    assert (printed - right).norm() / right.norm() == 1 / sympy.sqrt(14)
    assert found["paper_error"] == pytest.approx(1 / math.sqrt(14), rel=1e-12)
    assert found["paper_asymmetry"] == 0.5
    assert found["sandwich_error"] < 1e-11


def test_stationary_points_kept():
    found = lemma1.stationary_points_kept()
    assert found["points"] == 9
    assert found["largest_gradient"] < 1e-12
    assert found["remainder"] == 0
    b = sympy.Symbol("b")  # for every inner_lr at once
    loss = (x**2 - 1) ** 2 / 4
    _, remainder = sympy.div(sympy.diff(after_one_step(loss, b), x), sympy.diff(loss, x), x)
    assert sympy.expand(remainder) == 0


def test_minimisers_kept():
    found = lemma1.minimisers_kept()
    assert found["cubic_gradient"] == found["cubic_hessian"] == 0
    after = after_one_step(x**3, sympy.Rational(1, 10))
    assert [sympy.diff(after, x, order).subs(x, 0) for order in (1, 2)] == [0, 0]
    assert found["cubic_loss_left_of_0"] == pytest.approx(-0.001, rel=1e-14)
    assert found["cubic_loss_after_a_step_left_of_0"] == pytest.approx(float(after.subs(x, -0.1)), rel=1e-14)
    assert found["cubic_loss_after_a_step_left_of_0"] < 0
    assert found["minimisers"] == 2 * (1 + 1 + 2 + 3)
    assert found["minimisers_that_are_none_after_a_step"] == 0


def test_more_stationary_points():
    found = lemma1.more_stationary_points()
    points = np.linspace(-math.pi, math.pi, 1_000_001)
    rates = {"washboard": 0.0, "washboard_after_a_step_below": 0.095, "washboard_after_a_step_above": 0.12}
    for name, rate in rates.items():
        changes = np.count_nonzero(np.diff(np.sign(washboard_slope(points, rate))))
        assert found[name] == changes, name
    assert found["washboard"] == found["washboard_after_a_step_below"] == 6
    assert found["washboard_after_a_step_above"] == 18
    assert found["parabola_extra_below"] == found["parabola_extra_above"] == 0
    slope = sympy.Poly(sympy.diff(after_one_step((x**2 - 1) ** 2 / 4, sympy.Rational(1, 1000)), x), x)
    assert found["double_well_after_a_step_on_the_line"] == 11
    assert int(slope.count_roots()) == slope.degree() == 11
    assert found["double_well_nearest_extra"] == pytest.approx(math.sqrt((1 + 1000) / 3), rel=1e-14)


def test_sharp_minimisers():
    """With b = 1/5 the step takes x to 1 also where x^2 + x = 5, so at (-1 +- sqrt 21) / 2; J^2 * 2, exactly."""
    found = lemma1.sharp_minimisers()
    roots = [(-1 + sign * sympy.sqrt(21)) / 2 for sign in (1, -1)]
    flat, sharp = sorted(2 * (1 - (3 * root**2 - 1) / 5) ** 2 for root in roots)
    assert found["curvature_of_a_minimum"] == 2
    assert found["the_same_after_a_step"] == pytest.approx(2 * 0.6**2, rel=1e-14)
    assert found["the_same_after_a_step_of_six_fifths"] == pytest.approx(2 * 1.4**2, rel=1e-14)
    assert found["new_minima"] == 4
    assert found["flattest_new"] == pytest.approx(float(flat), rel=1e-12)
    assert found["sharpest_new"] == pytest.approx(float(sharp), rel=1e-12)
    assert abs(found["largest_loss_of_a_new_one"]) < 1e-15
    assert found["the_same_after_a_step"] < found["curvature_of_a_minimum"] < found["sharpest_new"]


def test_sum_over_tasks():
    found = lemma1.sum_over_tasks()
    tasks = [(x - 1) ** 2 / 2, 3 * (x + 1) ** 2 / 2]
    maml = sum(after_one_step(task, sympy.Rational(1, 5)) for task in tasks) / 2
    assert sympy.solve(sympy.diff(sum(tasks), x), x) == [sympy.Rational(-1, 2)]
    assert sympy.solve(sympy.diff(maml, x), x) == [sympy.Rational(1, 7)]
    assert found["erm_minimiser"] == -0.5
    assert found["maml_minimiser"] == 1 / 7
    slope = sympy.diff(maml, x).subs(x, sympy.Rational(-1, 2))
    assert found["maml_gradient_at_erm_minimiser"] == pytest.approx(float(slope), rel=1e-14)
    assert slope == sympy.Rational(-9, 25)


def test_query_set():
    found = lemma1.query_set()
    maml = ((x + 1) ** 2 / 2).subs(x, x - (x - 1) / 5)
    slope = sympy.diff(maml, x)
    assert sympy.solve(slope, x) == [sympy.Rational(-3, 2)]
    assert found["maml_minimiser"] == pytest.approx(-1.5, rel=1e-14)
    assert found["gradient_at_support_minimum"] == pytest.approx(float(slope.subs(x, 1)), rel=1e-14)
    assert found["gradient_at_query_minimum"] == pytest.approx(float(slope.subs(x, -1)), rel=1e-14)
