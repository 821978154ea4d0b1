"""Each verdict on Theorem 2, Theorem 3 and their proof, from what makes it."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from sharp_maml_core.theory.errata import generalization as errata
from sharp_maml_core.theory.generalization import theorem2

CONV4, IMAGES = 121_093, 38_400


def test_lemma_6_fails_for_samples_of_one_task() -> None:
    """By hand: 2^-M sum over the shares of lost tasks that a root of sqrt(ln(2 sqrt(nM) / delta) / (2nM)) tells apart
    from 1/2.
    """
    found = errata.unit_of_lemma6()
    assert math.sqrt(math.log(2 * math.sqrt(1000) / 0.05) / 2000) < 0.25  # so shares of 0 and 1/4 are told apart
    assert found["one_task_of_1000_samples"] == 1 / 2
    assert found["four_tasks_of_1000_samples"] == (1 + 4) / 2**4
    assert found["four_tasks_counted_as_four"] == 0
    assert found["one_task_of_1000_samples"] > found["promised_at_most"] == 0.05


def test_lemma_6_holds_for_tasks() -> None:
    found = errata.lemma6_by_tasks()
    assert found["largest_moment_over_2_sqrt_n"] <= 1 + 1e-12
    assert found["largest_chance_of_a_violation"] <= found["promised_at_most"]
    # exactly, for the sizes that Maurer leaves out
    for n in range(1, 9):
        terms = (Fraction(math.comb(n, j)) * Fraction(j, n) ** j * Fraction(n - j, n) ** (n - j) for j in range(n + 1))
        assert sum(terms) ** 2 <= 4 * n


def test_a_query_loss_needs_no_stability() -> None:
    """All support and query sets one by one, in fractions."""
    p, half = Fraction(3, 10), Fraction(1, 2)
    support = population = query = Fraction(0)
    for drawn in itertools.product((0, 1), repeat=5):
        chance = p ** sum(drawn) * (1 - p) ** (5 - sum(drawn))
        theta = half + half * (Fraction(sum(drawn), 5) - half)
        support += chance * sum((x - theta) ** 2 for x in drawn) / 5
        population += chance * (p * (1 - theta) ** 2 + (1 - p) * theta**2)
        for asked in itertools.product((0, 1), repeat=2):
            chance_asked = p ** sum(asked) * (1 - p) ** (2 - sum(asked))
            query += chance * chance_asked * sum((x - theta) ** 2 for x in asked) / 2
    assert query == population
    found = errata.query_loss()
    assert found["population"] == pytest.approx(float(population), rel=1e-14)
    assert abs(found["on_query_minus_population"]) < 1e-15
    assert found["on_support_minus_population"] == pytest.approx(float(support - population), rel=1e-13)
    assert support - population == -2 * half * p * (1 - p) / 5  # twice the covariance of theta and the mean


def test_the_divergence_is_right() -> None:
    found = errata.kl_between_gaussians()
    by_hand = 0.5 * ((3 * 0.7**2 + 0.3**2 + 1.2**2 + 2.0**2) / 1.1**2 - 3 + 3 * math.log(1.1**2 / 0.7**2))
    assert found["closed_form"] == pytest.approx(by_hand, rel=1e-14)
    assert abs(found["error"]) < 1e-13


def test_the_prior_s_grid_is_right() -> None:
    found = errata.prior_grid()
    assert 0 <= found["smallest_step"] < found["largest_step"] <= 1
    assert 0.9 < found["largest_excess_over_1_2k"] <= 1
    assert found["smallest_j"] == 1


def test_the_index_is_always_above_what_replaces_it() -> None:
    found = errata.index_of_the_prior()
    assert 0 < found["smallest_j_minus_claim"] < found["largest_j_minus_claim"] <= 1
    assert found["j_for_the_longest"] == 1
    assert 0 < found["claim_for_the_longest"] < 0.05


def test_softplus_is_above_its_argument() -> None:
    found = errata.softplus()
    x = 4 * IMAGES / CONV4
    assert found["log_of_1_plus_exp_x"] == pytest.approx(math.log(1 + math.exp(x)), rel=1e-14)
    assert found["log_of_1_plus_exp_x"] > found["x"] == x
    largest = 1 + CONV4 * math.log(1 + math.exp(x))
    assert found["needed_for_the_shortest"] == pytest.approx(math.log(math.pi**2 * largest**2 / 6), rel=1e-14)
    assert found["needed_for_the_shortest"] > found["given"] == pytest.approx(2 * math.log(6 * IMAGES), rel=1e-15)
    ratio = found["enough_from_n_over_k"]
    for factor, enough in ((0.99, False), (1.01, True)):
        r = factor * ratio
        assert (math.pi / math.sqrt(6) * math.log(1 + math.exp(4 * r)) <= 6 * r) == enough


def test_neither_case_does_what_it_says() -> None:
    found = errata.two_cases()
    split = 0.1**2 * (math.exp(4) - 1)
    assert found["split_for_alpha_0_1"] == pytest.approx(split, rel=1e-14)
    assert found["theta_beyond"] > split
    inside = 1000 * math.log(1 + 0.55**2 / 0.1**2 * (1 + math.sqrt(math.log(1000) / 1000)) ** 2)
    inside += 14 + 2 * math.log(20) + 5 * math.log(1000)
    assert found["root_there"] == pytest.approx(math.sqrt(inside / 4000), rel=1e-14)
    assert found["root_there"] < 1  # where the second case says: above 1
    theta = 10**2 * (math.exp(4) - 1)
    assert found["first_case_off_by"] == pytest.approx((1e5 + theta**2) / (1e5 * (math.exp(4) + 1)), rel=1e-14)
    assert found["first_case_off_by"] > 1  # where the first says: at most 1
    assert found["second_begins_over_first_ends"] > 1


def test_the_ball_is_right() -> None:
    found = errata.ball()
    assert found["largest_tail_over_exp_minus_t"] <= 1
    assert found["largest_outside_over_claim"] <= 1
    radius = math.sqrt(CONV4) * (1 + math.sqrt(math.log(IMAGES) / CONV4))
    assert found["mini_imagenet_outside"] == pytest.approx(stats.chi2.sf(radius**2, CONV4), rel=1e-9)
    assert found["mini_imagenet_outside"] < found["mini_imagenet_claim"] == pytest.approx(1 / math.sqrt(IMAGES))


def test_the_tail_term_does_not_fit_into_the_root() -> None:
    found = errata.tail_term()
    assert found["left"] > found["right"]
    assert found["allowed"] == pytest.approx(13 - 2 * math.log(72), rel=1e-14)
    # (sqrt(B) + 2)^2 = B + 4 sqrt(B) + 4, and B >= 1 + 2 ln 72: never
    assert found["needed"] > found["least_needed"] > found["allowed"]
    inside = ((found["needed"] - 4) / 4) ** 2
    assert found["left"] == pytest.approx((math.sqrt(inside) + 2) / math.sqrt(4 * IMAGES), rel=1e-14)
    assert found["right"] == pytest.approx(math.sqrt((inside + found["allowed"]) / (4 * IMAGES)), rel=1e-14)


def test_14_is_missing() -> None:
    found = errata.omitted_constant()
    inside = 100 * math.log(1 + (1 + math.sqrt(math.log(100) / 100)) ** 2) + 2 * math.log(20) + 5 * math.log(100)
    small = math.sqrt((inside + 14) / 400) - math.sqrt(inside / 400)
    assert found["small_difference"] == pytest.approx(small, rel=1e-12)
    assert 0 < found["mini_imagenet_difference"] < 1e-4 < found["small_difference"]


def test_four_times_the_data_halve_the_root() -> None:
    assert errata.rate()["root_of_4n_over_root_of_n"] == pytest.approx(0.5, abs=1e-4)


def test_theorem_2_fails_for_one_task() -> None:
    found = errata.theorem2_for_new_tasks()
    by_hand = math.sqrt((2 * math.log(20) + 5 * math.log(1000)) / 4000)
    assert found["root_there"] == pytest.approx(by_hand, rel=1e-14)
    # A task with the loss 0 has a bound of the root alone, below the population loss of 1/2; it is every second task.
    drawn = np.random.default_rng(0).integers(0, 2, 1000)
    bounds = drawn + theorem2(1.0, CONV4, 1000, 1, 0.05, 0.0).total
    assert np.mean(bounds < 0.5) == np.mean(drawn == 0) > 0.4
    assert found["chance_of_a_violation"] == 0.5 > found["promised_at_most"] == 0.05
    assert found["excess_with_240000_tasks"] > 1
    assert found["tasks_needed"] > 240_000
    assert 0 < found["repair_adds_at_38400_units"] < 0.01
