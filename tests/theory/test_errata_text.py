"""Each verdict on Sections 1 and 2, from what makes it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import optimize

from sharp_maml_core.theory.errata import text as errata


def test_the_step_of_eq_2_goes_beyond_the_solution_of_eq_1b() -> None:
    """(1b) minimised numerically for a = 2, beta = b / 2, c = 0, theta = 1."""
    found = errata.proximal_problem()

    def left(b: float) -> float:
        return float(optimize.minimize_scalar(lambda x: x**2 + (x - 1) ** 2 / b, tol=1e-12).x)

    assert found["left_by_the_problem"] == pytest.approx(left(0.1), abs=1e-7)
    assert found["loss_ratio_of_the_problem_beyond_2"] == pytest.approx(left(2.5) ** 2, abs=1e-7)
    travelled = (1 - found["left_by_one_step"]) / (1 - found["left_by_the_problem"])
    assert travelled == pytest.approx(1 + 0.1, rel=1e-14)
    assert found["loss_ratio_of_one_step_beyond_2"] > 1 > found["loss_ratio_of_the_problem_beyond_2"]
    theta = 1.0
    for _ in range(10):
        theta -= 0.05 * 2 * theta
    assert found["left_by_ten_steps"] == pytest.approx(theta, rel=1e-14)


def test_eq_3_and_the_marginal_are_two_expectations() -> None:
    """The adapted predictor is s x; a draw from the marginal has -s x as its target half of the time."""
    found = errata.marginal_distribution()
    assert found["right_side_of_eq_3"] == 0
    assert found["loss_under_the_marginal"] == (1 - (-1)) ** 2 / 2
    assert found["best_accuracy_under_the_marginal_5_way"] == pytest.approx(1 / 5, rel=1e-15)


def test_samples_of_a_task_are_correlated() -> None:
    found = errata.samples_of_a_task()
    rho = found["correlation_within_a_task"]
    assert found["variance_ratio"] == pytest.approx(1 + 79 * rho, rel=1e-14)
    assert found["independent_draws_worth"] * found["variance_ratio"] == pytest.approx(320, rel=1e-14)
    draw = np.random.default_rng(0)
    tasks = draw.choice([0.2, 0.8], size=(200_000, 4))
    variance = (draw.binomial(80, tasks).mean(1) / 80).var()
    assert variance / (0.25 / 320) == pytest.approx(found["variance_ratio"], rel=0.01)  # 3 standard errors are 1%


def test_with_permuted_labels_nothing_beats_equal_logits() -> None:
    found = errata.erm_of_permuted_labels()
    assert found["loss_at_equal_logits"] == pytest.approx(math.log(5), rel=1e-15)
    assert found["gradient_at_equal_logits"] < 1e-15  # and the loss is convex in the logits
    assert found["loss_of_a_sure_head"] == pytest.approx(math.log(math.exp(3) + 4) - 3 / 5, rel=1e-14)
    assert found["loss_of_a_sure_head"] > found["loss_at_equal_logits"]
    assert found["best_accuracy"] == 1 / 5


def test_sam_attains_the_maximum_of_the_linearisation() -> None:
    """On the circle, s = sin: 0.1 alpha s + alpha^2 (10 - 9.9 s^2) / 2, largest at s = min(1, 0.1 / (9.9 alpha))."""
    found = errata.sam_maximiser()
    assert found["share_of_the_linear_maximum"] == pytest.approx(1, rel=1e-15)

    def share(alpha: float) -> float:
        def rise(s: float) -> float:
            return 0.1 * alpha * s + alpha**2 * (10 - 9.9 * s**2) / 2

        return rise(1) / rise(min(1, 0.1 / (9.9 * alpha)))

    for alpha, name in ((0.01, "one_hundredth"), (0.05, "one_twentieth"), (0.5, "one_half")):
        assert found[f"share_of_the_sharpness_at_{name}"] == pytest.approx(share(alpha), rel=1e-5)  # a grid of angles
    assert share(0.01) == 1 > share(0.0102)


def test_a_minimiser_is_no_fixed_point_of_sam() -> None:
    found = errata.sam_at_a_minimiser()
    radius = 0.05 * 0.1 / (2 - 0.1)
    assert found["ends_at"] == pytest.approx(radius, rel=1e-12)
    assert radius - 0.1 * (radius + 0.05) == pytest.approx(-radius, rel=1e-12)
    assert found["jumps_by_times_r"] == pytest.approx(2, rel=1e-12)
    assert (found["eps_beside_the_minimiser"], found["eps_at_the_minimiser"]) == (0.05, 0)
    zero = torch.zeros(1)
    assert (0.05 * zero / zero.norm()).isnan().all()  # what (8a) says there


def test_the_rate_of_the_squared_norm_is_not_the_norms() -> None:
    found = errata.sample_complexity()
    eps = Fraction(1, 10)
    assert found["iterations_for_the_square"] == pytest.approx(float(eps**-2), rel=1e-12)
    assert found["iterations_for_the_norm"] == pytest.approx(float(eps**-4), rel=1e-12)
    assert found["iterations_for_the_norm"] ** -0.5 == pytest.approx(float(eps**2), rel=1e-12)
    assert found["beta_low_after_them"] == pytest.approx(float(eps**2), rel=1e-12)


def test_letters_count_different_things() -> None:
    found = errata.symbols()
    assert (found["fewest_support_samples"], found["most_support_samples"]) == (5, 100)
    assert found["most_support_samples"] > 5  # "usually 1-5 samples per task"
    assert found["query_samples_beside_the_fewest"] == 15 * found["fewest_support_samples"]
    convolutions = 9 * (3 + 3 * 64) * 64 + 4 * 64
    assert found["entries_of_the_mask"] == convolutions + 4 * 2 * 64 + (5 * 5 * 64 + 1) * 5
