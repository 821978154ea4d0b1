"""What the errata page says about stability and about the assumption (36), by other means than the code's."""

from __future__ import annotations

import math

import pytest

from sharp_maml_core.theory.errata import stability


def test_the_printed_definition_holds_for_an_algorithm_that_memorises() -> None:
    found = stability.definition_1()
    assert found["printed"] == 0
    assert found["uniform"] == 1
    assert found["population_minus_training_loss"] == pytest.approx((7 / 8) ** 2, rel=1e-14)


def test_one_step_attains_its_bound() -> None:
    found = stability.one_step()
    assert found["bound"] == pytest.approx(2 * 0.1 * 2**2 / 5, rel=1e-14)
    assert found["attained"] == pytest.approx(found["bound"], rel=1e-13)
    assert 2 * 0.1 * found["longest_gradient_for_a_tenth"] ** 2 / 5 == pytest.approx(0.1, rel=1e-14)


def test_the_constant_of_many_steps_is_exponential() -> None:
    found = stability.many_steps()
    assert found["five_steps_over_one"] == pytest.approx(2**5 - 1, rel=1e-13)
    assert found["ten_steps_over_one"] == pytest.approx(2**10 - 1, rel=1e-13)
    assert found["attained_over_bound"] == pytest.approx(1, rel=1e-13)


def test_with_batch_norm_stability_is_one_over_root_n() -> None:
    found = stability.batch_norm()
    assert found["exponent_with_norm"] == pytest.approx(-0.5, abs=0.02)
    assert found["exponent_without"] == pytest.approx(-1, abs=0.001)
    for n in (5, 501):
        # w = inner_lr sqrt(n - 1) / n, but for the 1e-5 that is added to the variance (n - 1) / n^2
        w = 0.1 * math.sqrt(n - 1) / n
        expected = math.log(2) - math.log1p(math.exp(-w))
        assert found[f"change_n_{n}"] == pytest.approx(expected, rel=0.004)
    w = 0.1 * 0.5 / 501
    assert found["change_n_501_without"] == pytest.approx(math.log(2) - math.log1p(math.exp(-w)), rel=1e-6)


def test_the_lower_perturbation_leaves_a_change_that_no_n_removes() -> None:
    found = stability.lower_perturbation()
    assert found["maml_exponent"] == pytest.approx(-1, rel=1e-12)
    assert found["limit"] == pytest.approx(2 * 0.1 * 0.05, rel=1e-15)
    for n in (5, 5001):
        assert found[f"low_n_{n}"] == pytest.approx(2 * 0.1 * (1 / n + 0.05), rel=1e-11)
    assert found["maml_n_5001"] == pytest.approx(2 * 0.1 / 5001, rel=1e-11)


def test_five_images_are_not_stable() -> None:
    found = stability.five_support_images()
    assert found["by_another_class"] > 0.95
    assert found["by_the_same_class"] > 0.3
    assert 0.1 < found["by_another_class_n_50"] < 0.5


def test_the_assumption_holds_where_alpha_is_a_deviation() -> None:
    found = stability.assumption_36()
    assert found["rise"] - found["interval"] > 0.3
    assert found["at_theta"] < 0.4
    assert 0.5 < found["length_of_eps_over_theta"] < 0.7
    assert abs(found["rise_at_the_radius"]) < found["interval_at_the_radius"] < 0.01
