"""Theorems 2 and 3 and their repaired form: the formulas, the proof's steps, where they are below 1, and D.1."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import mpmath
import numpy as np
import pytest
import torch
from cases import seeded
from hypothesis import given
from hypothesis import strategies as st

from sharp_maml_core import UserError
from sharp_maml_core.theory.gaussians import ball_sigma, prior_scale, tail
from sharp_maml_core.theory.generalization import (
    Bound,
    larger_radius,
    repaired,
    smallest_alpha,
    smallest_size,
    theorem2,
    theorem3,
)
from sharp_maml_core.theory.lemma6 import pac_bayes_root

CONV4, IMAGES, NORM, DELTA = 121_093, 38_400, 18.56, 0.05
GRID = np.array([0.05, 0.005, 0.0005, 0.00005])


def at_alpha(alpha, constant: float = 0.0) -> Bound:
    return (theorem3 if constant else theorem2)(alpha, CONV4, IMAGES, 1, DELTA, NORM)


def equation_18(alpha: float, k: int, n: int, tasks: int, delta: float, norm: float, constant: float = 0.0) -> float:
    """The root as it is printed, in 50 digits."""
    with mpmath.workdps(50):
        size = mpmath.mpf(n * tasks)
        inside = 1 + mpmath.mpf(norm) ** 2 / mpmath.mpf(alpha) ** 2 * (1 + mpmath.sqrt(mpmath.log(size) / k)) ** 2
        total = k * mpmath.log(inside) + 2 * mpmath.log(1 / mpmath.mpf(delta)) + 5 * mpmath.log(size) + constant
        return float(mpmath.sqrt(total / (4 * size)))


@pytest.mark.parametrize(
    "sizes",
    [(0.05, CONV4, 600, 64, 0.05, 18.6), (5e-5, CONV4, 20, 1028, 1e-9, 30.0), (3.0, 1, 1, 1, 0.9, 0.0),
     (1e-150, 10, 5, 7, 0.5, 1e150), (1e3, CONV4, 600, 64, 0.05, 1e-6)],
)  # fmt: skip
def test_the_paper_s_root_to_the_last_digits(sizes: tuple[float, ...]) -> None:
    assert float(theorem2(*sizes).root) == pytest.approx(equation_18(*sizes), rel=1e-14)
    assert float(theorem3(*sizes).root) == pytest.approx(equation_18(*sizes, constant=14), rel=1e-14)


def test_the_terms_are_apart_and_add_up() -> None:
    bound = theorem3(0.05, CONV4, 600, 64, DELTA, NORM, empirical=0.3, stability=0.02)
    size = 4 * 600 * 64
    assert float(bound.confidence) == pytest.approx(2 * math.log(20) / size)
    assert float(bound.logarithm) == pytest.approx(5 * math.log(38_400) / size)
    assert float(bound.constant) == 14 / size
    assert float(bound.tail) == 0
    assert float(bound.total) == pytest.approx(0.3 + 0.02 + float(bound.root), rel=1e-15)
    assert float(bound.root) ** 2 == pytest.approx(float(sum(bound[3:])), rel=1e-14)
    assert float(bound.excess) == float(bound.root)


def test_everything_broadcasts() -> None:
    alpha, delta = GRID[:, None, None], np.array([0.01, 0.1])[:, None]
    tasks = np.array([10.0, 100.0, 1e4])
    for form in (partial(theorem2, n_samples=5), partial(theorem3, n_samples=5), repaired):
        whole = form(alpha, n_params=CONV4, n_tasks=tasks, delta=delta, norm=NORM, empirical=0.1)
        assert all(part.shape == (4, 2, 3) for part in whole)
        one = form(GRID[2], n_params=CONV4, n_tasks=100, delta=0.1, norm=NORM, empirical=0.1)
        assert [float(part[2, 1, 1]) for part in whole] == pytest.approx([float(part) for part in one], rel=1e-15)


# ---- the repaired theorem, against the steps of its proof


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(1e-4, 1e3), st.floats(0, 1e3), st.floats(1e-6, 0.999))
def test_the_repaired_root_covers_lemma_6_with_the_chosen_prior(
    k: int, tasks: int, alpha: float, norm: float, delta: float
) -> None:
    root = float(repaired(alpha, k, tasks, delta, norm).root)
    chosen = prior_scale(k, tasks, norm, ball_sigma(k, tasks, alpha))
    if chosen.j >= 1:
        # delta_j = 6 delta / (pi^2 j^2) adds the price to ln(1 / delta)
        assert float(pac_bayes_root(chosen.kl + chosen.price, tasks, delta)) <= root * (1 + 1e-12)
    else:
        assert root > 1


def test_the_repaired_terms_in_fifty_digits() -> None:
    alpha, k, tasks, delta, norm, loss = 0.05, CONV4, 240_000, 0.05, 18.6, 0.25
    with mpmath.workdps(50):
        sigma = mpmath.mpf(alpha) / (mpmath.sqrt(k) + mpmath.sqrt(mpmath.log(tasks)))
        largest = 1 + k * mpmath.log(1 + mpmath.exp(mpmath.mpf(4 * tasks) / k))
        inside = k * mpmath.log(1 + mpmath.mpf(norm) ** 2 / (k * sigma**2)) + mpmath.mpf(1) / (2 * k)
        inside += 2 * mpmath.log(2 * mpmath.sqrt(tasks) / mpmath.mpf(delta))
        inside += 2 * mpmath.log(mpmath.pi**2 * largest**2 / 6)
        share = 1 / mpmath.sqrt(tasks)
        expected = float((1 - share) * mpmath.mpf(loss) + share + mpmath.sqrt(inside / (4 * tasks)))
    assert float(repaired(alpha, k, tasks, delta, norm, loss).total) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(("k", "tasks"), [(1, 10), (50, 100), (CONV4, 240_000)])
def test_the_repaired_tail_is_what_may_lie_outside(k: int, tasks: int) -> None:
    """(1 - p) loss + p, with p = 1 / sqrt(M) no less than the exact share of draws outside of the ball."""
    bound = repaired(0.3, k, tasks, DELTA, 1.0, empirical=0.4)
    outside = float(tail(k, ball_sigma(k, tasks, 0.3), 0.3))
    assert 0 < outside <= tasks**-0.5
    assert float(bound.empirical + bound.tail) == pytest.approx(0.4 + 0.6 * tasks**-0.5, rel=1e-15)


def test_the_repaired_bound_holds_where_everything_is_known() -> None:
    """F(theta; z) = 1 - exp(-||theta - z||^2 / 2), z ~ N(0, I) in the plane: both sides of every step in closed form.

    theta is the mean of the tasks' z. The empirical loss there is below the maximum over the ball, so this asks for
    more than the theorem promises.
    """
    k, tasks, alpha, delta, draws = 2, 40, 2.0, 0.2, 2000
    z = torch.randn(draws, tasks, k, generator=seeded(0), dtype=torch.float64)
    theta = z.mean(1)
    empirical = (1 - torch.exp(-((theta[:, None] - z) ** 2).sum(-1) / 2)).mean(1).numpy()
    square = (theta**2).sum(-1).numpy()

    def population(variance: float) -> np.ndarray:
        """E F(theta + eps; P) for eps of this variance."""
        return 1 - (2 + variance) ** (-k / 2) * np.exp(-square / (2 * (2 + variance)))

    assumed = population(0.0) <= population(float(ball_sigma(k, tasks, alpha)) ** 2)
    assert assumed.mean() > 0.99
    bound = repaired(alpha, k, tasks, delta, np.sqrt(square), empirical).total
    assert bound.min() < 1  # it says something
    assert np.mean(assumed & (bound < population(0.0))) <= delta


# ---- where it is below 1


@pytest.mark.parametrize("constant", [0.0, 14.0])
def test_the_smallest_alpha_in_closed_form(constant: float) -> None:
    rest = 2 * math.log(1 / DELTA) + 5 * math.log(IMAGES) + constant
    for level in (0.5, 1.0, 3.0):
        ratio = math.expm1((4 * IMAGES * level**2 - rest) / CONV4)
        expected = NORM * (1 + math.sqrt(math.log(IMAGES) / CONV4)) / math.sqrt(ratio)
        found = smallest_alpha(partial(at_alpha, constant=constant), level)
        assert float(found) == pytest.approx(expected, rel=1e-12)
        assert float(at_alpha(found, constant).root) == pytest.approx(level, rel=1e-12)


def test_no_alpha_is_enough_for_three_tasks_and_any_is_for_theta_0() -> None:
    assert smallest_alpha(lambda alpha: repaired(alpha, CONV4, 3, DELTA, NORM)) == np.inf
    assert smallest_alpha(lambda alpha: theorem2(alpha, CONV4, IMAGES, 1, DELTA, 0.0)) == 0


@pytest.mark.parametrize(
    "form", [lambda n: theorem2(GRID, CONV4, n, 1, DELTA, NORM), lambda n: theorem3(GRID, CONV4, n, 1, DELTA, NORM),
             lambda n: repaired(GRID, CONV4, n, DELTA, NORM), lambda n: repaired(10.0, 3, n, DELTA, 0.1)]
)  # fmt: skip
def test_the_smallest_size_is_the_first_that_is_enough(form: Callable[[np.ndarray], Bound]) -> None:
    for level in (0.3, 1.0):
        found = smallest_size(form, level)
        assert np.all(found == np.round(found))
        assert np.all(form(found).excess <= level)
        assert np.all(form(found - 1).excess > level)


def test_three_samples_are_the_fewest() -> None:
    assert smallest_size(lambda n: theorem2(1e9, 1, n, 1, 0.9, 0.0), 5.0) == 3


@given(st.integers(1, 10**6), st.floats(0, 1e4), st.floats(1e-3, 0.999))
def test_every_form_falls_with_the_size_and_with_alpha(k: int, norm: float, delta: float) -> None:
    sizes, radii = np.geomspace(math.e, 1e9, 200), np.geomspace(1e-6, 1e6, 50)
    for form in (partial(theorem2, n_samples=1), partial(theorem3, n_samples=1), repaired):
        by_size = form(0.05, n_params=k, n_tasks=sizes, delta=delta, norm=norm).excess
        assert np.all(np.diff(by_size) < 0)
        by_alpha = form(radii, n_params=k, n_tasks=100, delta=delta, norm=norm).excess
        assert np.all(np.diff(by_alpha) <= 0)


# ---- D.1


def test_radii_that_d1_compares() -> None:
    found = larger_radius(at_alpha, GRID)
    roots = at_alpha(GRID).root
    np.testing.assert_allclose(found.root0, roots, rtol=1e-15)
    np.testing.assert_allclose(at_alpha(found.proved).root, roots - 1, rtol=1e-12)
    np.testing.assert_allclose(at_alpha(found.paper).root, np.sqrt(roots**2 - 1), rtol=1e-12)
    assert np.all(found.proved > found.paper)
    assert np.all(found.paper > GRID)
    # D.1's own formula for its infimum
    c = NORM**2 * (1 + math.sqrt(math.log(IMAGES) / CONV4)) ** 2
    formula = np.sqrt(c / ((1 + c / GRID**2) * math.exp(-4 * IMAGES / CONV4) - 1))
    np.testing.assert_allclose(found.paper, formula, rtol=1e-12)


def test_whatever_the_losses_the_proved_radius_has_the_smaller_bound_and_d1s_has_not() -> None:
    found = larger_radius(at_alpha, GRID)
    for loss0, loss1 in ((0.0, 0.0), (0.0, 1.0), (0.7, 0.9), (1.0, 1.0)):
        assert np.all(loss1 + at_alpha(1.001 * found.proved).root < loss0 + found.root0)
    assert np.all(1 + at_alpha(1.001 * found.paper).root > found.root0)


def test_a_root_below_1_has_no_such_radius() -> None:
    found = larger_radius(at_alpha, 100.0)
    assert found.root0 < 1
    assert found.paper == found.proved == np.inf


# ---- bad input

GOOD = {
    "alpha": 0.05, "n_params": 10, "n_samples": 5, "n_tasks": 3, "delta": 0.1, "norm": 1.0, "empirical": 0.2,
    "stability": 0.1,
}  # fmt: skip
BAD = {
    "alpha": (0.0, -0.05, math.nan, math.inf, [0.1, 0.0]),
    "n_params": (0, 0.5, -1, math.nan),
    "n_samples": (0, -2, math.inf),
    "n_tasks": (0, 0.9, math.nan),
    "delta": (0.0, 1.0, -0.1, 2, math.nan, [0.5, 1.0]),
    "norm": (-1e-3, math.nan, math.inf),
    "empirical": (-0.1, 1.1, math.nan),
    "stability": (-0.1, math.inf),
}


@pytest.mark.parametrize("form", [theorem2, theorem3, repaired])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(form: Callable[..., Bound], name: str) -> None:
    arguments = {key: value for key, value in GOOD.items() if form is not repaired or key != "n_samples"}
    assert np.isfinite(form(**arguments).total)
    if name in arguments:
        for value in BAD[name]:
            with pytest.raises(UserError, match=rf"^{name}=.* is not allowed: it must be .*(at least|above|between)"):
                form(**arguments | {name: value})


def test_bad_levels_and_radii_are_named() -> None:
    for solve in (smallest_alpha, smallest_size):
        for level in (0.0, -1.0, math.nan):
            with pytest.raises(UserError, match=r"^level="):
                solve(at_alpha, level)
    with pytest.raises(UserError, match=r"^alpha0="):
        larger_radius(at_alpha, [0.1, 0.0])
