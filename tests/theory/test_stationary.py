"""Stationary points: exact ones against closed forms and sympy, searched ones against independent counts."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from cases import draw
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import polynomial as P

from sharp_maml_core import UserError
from sharp_maml_core.theory import stationary
from sharp_maml_core.theory.polynomials import exact, polynomial
from sharp_maml_core.theory.stationary import DEGENERATE, MAXIMUM, MINIMUM, SADDLE, Inertia, descend, inertia, search

UNIT = ((-1.0, 1.0), (-1.0, 1.0))


def integral(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients of a polynomial whose derivative is the product of (x - root)."""
    slope = [Fraction(1)]
    for root in roots:
        slope = [a - root * b for a, b in zip([Fraction(0), *slope], [*slope, Fraction(0)], strict=True)]
    return [Fraction(0), *(c / (i + 1) for i, c in enumerate(slope))]


# ---- polynomials


def test_multiple_roots_are_found_once_and_told_apart():
    found = exact(integral([Fraction(r) for r in (1, 2, 2, 3, 3, 3)]))
    assert found.at[:, 0].tolist() == [1, 2, 3]
    assert found.kinds == (MAXIMUM, DEGENERATE, MINIMUM)
    assert found.complete


def test_roots_that_floating_point_cannot_separate_are_separate():
    """1 and 1 + 1e-12 with numpy: a pair of complex numbers or one of wrong reals."""
    roots = [Fraction(1), 1 + Fraction(1, 10**12), Fraction(-1, 3)]
    found = exact(integral(roots))
    assert found.at[:, 0].tolist() == [float(root) for root in sorted(roots)]
    assert found.kinds == (MINIMUM, MAXIMUM, MINIMUM)


def test_a_wilkinson_polynomial():
    found = exact(integral([Fraction(i) for i in range(1, 16)]))
    assert found.at[:, 0].tolist() == list(range(1, 16))
    assert found.kinds == (MINIMUM, MAXIMUM) * 7 + (MINIMUM,)


@given(st.lists(st.fractions(-9, 9, max_denominator=40), min_size=2, max_size=9).filter(lambda c: any(c[1:])))
def test_real_roots_of_any_polynomial(coefficients):
    """As many as sympy counts (Sturm), the value changes sign there or not as the kind says, and none is skipped."""
    found = exact(coefficients)
    slope = polynomial(coefficients).diff()
    assert len(found.kinds) == (slope.count_roots() if slope.degree() else 0)
    at = [Fraction(x) for x in found.at[:, 0].tolist()]
    gaps = [b - a for a, b in pairwise(at)]
    probe = [at[0] - 1, *(a + gap / 2 for a, gap in zip(at[:-1], gaps, strict=True)), at[-1] + 1] if at else []
    signs = [slope.eval(x) > 0 for x in probe]
    expected = {(False, True): MINIMUM, (True, False): MAXIMUM}
    assert found.kinds == tuple(expected.get(pair, DEGENERATE) for pair in pairwise(signs))
    simple = slope.quo(slope.gcd(slope.diff()))
    for x in at:  # no float is nearer to the root
        low, high = ((x + Fraction(math.nextafter(float(x), end))) / 2 for end in (-math.inf, math.inf))
        assert simple.eval(low) * simple.eval(high) <= 0


def test_only_what_is_between_low_and_high():
    coefficients = integral([Fraction(r) for r in (1, 2, 3, 4)])
    found = exact(coefficients, 1.5, 3)
    assert found.at[:, 0].tolist() == [2, 3]
    assert found.kinds == (MINIMUM, MAXIMUM)


def test_a_line_has_no_stationary_point():
    assert exact([Fraction(1), Fraction(2)]).at.shape == (0, 1)


@pytest.mark.parametrize("coefficients", [[], [Fraction(3)], [Fraction(3), Fraction(0)]])
def test_a_constant_is_refused(coefficients):
    with pytest.raises(UserError, match=r"coefficients=.*not constant"):
        exact(coefficients)


# ---- search


def himmelblau(theta):
    x, y = theta[0], theta[1]
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def test_himmelblaus_nine_points():
    """Four minima, four saddles, one maximum; positions from the literature, to six digits."""
    found = search(himmelblau, ((-5.0, 5.0), (-5.0, 5.0)))
    assert found.complete
    known = {
        (-3.779310, -3.283186): MINIMUM,
        (-2.805118, 3.131313): MINIMUM,
        (3.0, 2.0): MINIMUM,
        (3.584428, -1.848127): MINIMUM,
        (-0.270845, -0.923039): MAXIMUM,
        (-3.073026, -0.081353): SADDLE,
        (-0.127961, -1.953715): SADDLE,
        (0.086678, 2.884255): SADDLE,
        (3.385154, 0.073852): SADDLE,
    }
    assert len(found.kinds) == len(known)
    for at, kind in zip(found.at.tolist(), found.kinds, strict=True):
        (near,) = [point for point in known if math.dist(point, at) < 2e-6]
        assert known[near] == kind


def test_one_variable_against_a_fine_sampling():
    """The derivative of x/4 - cos x - cos 3x after one step, in NumPy, changes its sign at every point."""
    rate = 0.137

    def after(theta):
        def loss(x):
            return x / 4 - torch.cos(x) - torch.cos(3 * x)

        x = theta[0]
        return loss(x - rate * (0.25 + torch.sin(x) + 3 * torch.sin(3 * x)))

    found = search(after, ((-math.pi, math.pi),))
    x = np.linspace(-math.pi, math.pi, 2_000_001)
    adapted = x - rate * (0.25 + np.sin(x) + 3 * np.sin(3 * x))
    slope = (1 - rate * (np.cos(x) + 9 * np.cos(3 * x))) * (0.25 + np.sin(adapted) + 3 * np.sin(3 * adapted))
    changes = np.flatnonzero(np.diff(np.sign(slope)))
    np.testing.assert_allclose(found.at[:, 0], x[changes], atol=4e-6)
    assert found.complete
    rising = slope[changes + 1] > 0
    assert found.kinds == tuple(MINIMUM if up else MAXIMUM for up in rising)


def test_more_starts_and_other_cells_find_the_same():
    generator = torch.Generator().manual_seed(3)
    waves = 3 * torch.randn(5, 2, generator=generator, dtype=torch.float64)
    phases = 6 * torch.rand(5, generator=generator, dtype=torch.float64)

    def loss(theta):
        return torch.cos(waves @ theta + phases).sum()

    found = search(loss, UNIT)
    finer = search(loss, UNIT, starts=64, cells=47, seed=9)
    assert found.complete
    assert finer.complete
    assert found.kinds == finer.kinds
    assert len(found.kinds) > 4
    torch.testing.assert_close(found.at, finer.at, rtol=0, atol=1e-12)


def test_two_points_that_annul_each_other_in_a_cell_are_found():
    """A minimum and a maximum 2e-3 apart: no cell's degree knows of them."""
    found = search(lambda theta: theta[0] ** 3 / 3 - 1e-6 * theta[0], ((-1.0, 1.3),), cells=1)
    torch.testing.assert_close(found.at[:, 0], torch.tensor([-1e-3, 1e-3], dtype=torch.float64), rtol=1e-10, atol=0)
    assert found.kinds == (MAXIMUM, MINIMUM)


def test_a_search_that_ends_too_early_says_so(monkeypatch):
    monkeypatch.setattr(stationary, "_CHECKS", 1)
    box = ((-5.0, 5.0), (-5.0, 5.0))
    assert not search(himmelblau, box, starts=2).complete


@pytest.mark.parametrize(
    ("loss", "at"),
    [
        (lambda theta: theta[0] ** 3 - 3 * theta[0] * theta[1] ** 2 + theta[0] ** 4, (0.0, 0.0)),  # index -2
        (lambda theta: (theta**4).sum(), (0.0, 0.0)),
    ],
)
def test_a_degenerate_point_is_found_and_called_so(loss, at):
    found = search(loss, ((-0.6, 1.0), (-0.7, 1.0)))
    assert found.kinds == (DEGENERATE,)
    torch.testing.assert_close(found.at, torch.tensor([at], dtype=torch.float64), rtol=0, atol=2e-5)


def test_nothing_to_find():
    found = search(lambda theta: theta[0] + 2 * theta[1], UNIT)
    assert found.at.shape == (0, 2)
    assert found.kinds == ()
    assert found.complete


@pytest.mark.parametrize(
    ("eigenvalues", "signs", "kind"),
    [
        ((1, 2), (0, 0, 2), MINIMUM),
        ((-1, 2), (1, 0, 1), SADDLE),
        ((-1, -2), (2, 0, 0), MAXIMUM),
        ((0, 2), (0, 1, 1), DEGENERATE),
        ((-1, 1e-9), (1, 1, 0), DEGENERATE),
        ((0, 0), (0, 2, 0), DEGENERATE),
    ],
)
def test_the_hessian_says_what_a_point_is(eigenvalues, signs, kind):
    rotation = torch.linalg.qr(draw(2, 2, seed=0)).Q
    matrix = rotation @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ rotation.T
    assert inertia(matrix) == Inertia(*signs)
    assert stationary.kind(inertia(matrix)) == kind


# ---- descent


def test_descent_leaves_a_saddle_and_ends_in_a_minimum():
    def loss(theta):
        return (theta[0] ** 2 - 1) ** 2 + theta[1:] @ theta[1:]

    start = torch.tensor([1e-3, 0.5, -0.5], dtype=torch.float64)
    end = descend(loss, start, small=1e-13)
    torch.testing.assert_close(end, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-13)


def test_descent_agrees_with_least_squares():
    x, y = draw(20, 4, seed=0), draw(20, seed=1)
    end = descend(lambda theta: ((x @ theta - y) ** 2).mean(), draw(4, seed=2), small=1e-13)
    np.testing.assert_allclose(end, np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0], rtol=1e-11)


def test_an_infimum_at_infinity_is_an_error():
    with pytest.raises(UserError, match="start='a point from which 30 steps lead to a gradient norm of"):
        descend(lambda theta: torch.exp(-theta).sum(), torch.zeros(2, dtype=torch.float64), small=1e-13, steps=30)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: search(himmelblau, ((-1.0, 1.0),) * 3), "box=.*one or two"),
        (lambda: search(himmelblau, ((-1.0, 1.0), (1.0, 1.0))), "box=0.0 .*positive width"),
        (lambda: search(himmelblau, ((-1.0, 1.0), (1.0, math.inf))), "box=inf .*finite"),
        (lambda: search(himmelblau, UNIT, starts=1), "starts=1 .*at least 2"),
        (lambda: search(himmelblau, UNIT, cells=0), "cells=0 .*at least 1"),
        (lambda: descend(himmelblau, torch.zeros(2), small=0.0), "small=0.0 .*above 0"),
    ],
)
def test_bad_input_is_named(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()


def test_numpys_roots_agree_where_they_are_well_separated():
    coefficients = [Fraction(c) for c in (3, -7, -4, 2, 1)]
    real = sorted(P.polyroots(P.polyder([float(c) for c in coefficients])).real)
    np.testing.assert_allclose(exact(coefficients).at[:, 0], real, rtol=1e-12)
