"""What makes each verdict about Appendix C's chain."""

from __future__ import annotations

import pytest

from sharp_maml_core.theory.errata import convergence as errata


def test_eq_30_holds_and_the_printed_matrices_give_m_times_it() -> None:
    figures = errata.meta_gradient()
    assert figures["identity_error"] < 1e-15
    assert figures["printed_factor"] == pytest.approx(3, rel=1e-13)


def test_maml_is_a_run_of_alset() -> None:
    assert errata.alset()["largest_difference"] < 1e-13


def test_lemma_3_holds_with_room() -> None:
    figures = errata.lemma3()
    assert figures["median_share"] < figures["largest_share"] < 0.5
    assert 0.9 < figures["largest_share_sharper"] <= 1
    assert figures["sharper_over_printed"] <= 0.75


def test_lemma_3_does_not_hold_of_one_batch_and_its_repair_does() -> None:
    """The left side is b^2 sigma^2 cos^2 |grad L|^2 to first order: far above 4 l1^2 b^2 sigma^2."""
    figures = errata.lemma3_one_batch()
    assert figures["left"] > 100 * figures["right"]
    assert figures["right"] == pytest.approx(4 * 0.01**2 * 0.1**2 + 16 * 0.1**4 * 0.01**4, rel=1e-12)
    assert figures["squared_bias"] < figures["its_bound"] < figures["right"]


def test_lemma_4s_variance_bound_is_too_small_by_l1_squared() -> None:
    figures = errata.gradient_variance()
    assert figures["printed"] < figures["variance"] < figures["repaired"]
    assert figures["variance"] == pytest.approx(1, abs=2e-3)  # (1 - b H)^2 sigma^2, b H < 1e-3
    rest = figures["repaired"] - 4
    assert figures["printed"] == pytest.approx(4 * 0.01**2 + rest, rel=1e-12)


def test_eq_35_is_violated_as_printed_and_holds_repaired() -> None:
    figures = errata.average_bound()
    assert figures["measured"] - 10 * figures["standard_error"] > figures["printed"]
    assert figures["measured"] + 10 * figures["standard_error"] < figures["repaired"]


def test_eq_35_needs_the_infimum() -> None:
    figures = errata.infimum()
    assert figures["printed"] < 0 < figures["measured"] < figures["repaired"]
    assert figures["linear_average"] == 1


def test_the_objective_is_smooth() -> None:
    assert 0.5 < errata.objective_smoothness()["largest_share"] <= 1
