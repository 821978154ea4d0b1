"""Each verdict on how the experiments were done, from what makes it."""

from __future__ import annotations

import numpy as np
import pytest

from sharp_maml_core.theory.errata import protocol as errata


def test_a_sum_over_k_has_n_times_the_rate() -> None:
    found = errata.finns_protocol()
    assert found["their_step_over_the_named_one_20_way"] == pytest.approx(20, rel=1e-12)
    assert found["their_step_against_n_times_the_rate"] < 1e-13

    def conv4(filters: int) -> int:
        return 9 * (3 + 3 * filters) * filters + 4 * filters * 3 + (25 * filters + 1) * 5

    assert found["weights_of_32_filters"] == conv4(32)
    assert found["weights_of_64_filters"] == conv4(64)


def test_one_step_is_not_in_the_grid() -> None:
    found = errata.inner_steps_on_omniglot()
    assert found["one_step_is_in_the_grid"] == 0
    left = [found[f"left_by_{name}"] for name in ("one_step", "the_fewest_of_the_grid", "the_most_of_the_grid")]
    assert left == pytest.approx([0.9, 0.9**3, 0.9**10], rel=1e-14)


def test_the_best_of_twice_the_trials_is_half_a_deviation_better_at_most() -> None:
    found = errata.best_of_a_grid()
    assert found["advantage_radii_against_lengths"] == pytest.approx(
        1.0293753730 - np.pi**-0.5, abs=1e-9
    )  # exact for 2
    trials = np.random.default_rng(0).standard_normal((100_000, 48))
    assert found["best_of_configurations_sharp"] == pytest.approx(trials.max(1).mean(), abs=0.006)  # 4 standard errors
    assert found["best_of_configurations_maml"] == pytest.approx(trials[:, :24].max(1).mean(), abs=0.006)
    advantages = [value for name, value in found.items() if name.startswith("advantage")]
    assert 0.2 < min(advantages) < max(advantages) < 0.5
    assert found["noise_that_would_explain_table_1"] == pytest.approx(3.15 / max(advantages), rel=1e-9)


def test_the_reproduced_maml_is_within_the_originals_interval() -> None:
    found = errata.reproduced_maml()
    for shots, original, interval, ours, other in (
        ("1_shot", 48.70, 1.84, 47.13, 44.70),
        ("5_shot", 63.11, 0.92, 62.20, 61.87),
    ):
        assert found[f"points_below_finn_{shots}"] == pytest.approx(original - ours, abs=1e-9)
        assert found[f"interval_of_finn_{shots}"] == interval > original - ours
        assert found[f"points_above_zintgraf_{shots}"] == pytest.approx(ours - other, abs=1e-9)


def test_on_omniglot_it_is_far_below_maml_and_maml_plus_plus() -> None:
    found = errata.reproduced_maml_on_omniglot()
    by_hand = (97.65 - 91.77, 95.8 - 91.77, 98.9 - 96.16, 95.8 - 93.47, 98.9 - 96.64)
    assert list(found.values()) == pytest.approx(by_hand, abs=1e-9)
    assert found["points_below_finn_1_shot"] > 10 * 0.3
    assert found["both_below_finn_1_shot"] > 93.47 - 91.77
    assert found["both_below_finn_5_shot"] > 96.64 - 96.16
