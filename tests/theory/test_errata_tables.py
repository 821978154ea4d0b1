"""Each verdict on what the text says about Tables 1 to 5. The tables' numbers are typed here once more."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from sharp_maml_core.theory.errata import tables as errata

MAML = {1: 47.13, 2: 62.20, 4: 91.77, 5: 96.16}
SHARP = {1: (49.72, 49.56, 50.28), 2: (63.18, 63.06, 65.04), 4: (92.89, 92.96, 93.47), 5: (96.59, 96.62, 96.64)}
QUERIES = {1: 600 * 75, 2: 600 * 75, 4: 600 * 300, 5: 600 * 300}


def close(value: float) -> object:
    return pytest.approx(value, abs=1e-9)


def test_three_points_over_their_own_maml() -> None:
    found = errata.gain_of_the_abstract()
    assert found["points_1_shot"] == close(3.15)
    assert found["points_5_shot"] == close(2.84)
    assert round(found["points_1_shot"]) == round(found["points_5_shot"]) == 3
    assert found["points_over_finn_1_shot"] == close(50.28 - 48.70)
    assert found["points_over_finn_1_shot"] < 1.84
    assert found["points_over_finn_5_shot"] == close(65.04 - 63.11)


def test_all_variants_are_above_maml_and_not_above_everything() -> None:
    found = errata.all_above_maml()
    gains = [accuracy - MAML[table] for table, row in SHARP.items() for accuracy in row]
    assert found["comparisons_won"] == sum(gain > 0 for gain in gains) == 12
    assert found["smallest_gain"] == close(min(gains))
    assert [found[f"place_of_both_in_table_{table}"] for table in (1, 2, 4, 5)] == [1, 2, 2, 4]


def test_most_differences_among_the_variants_are_within_chance() -> None:
    found = errata.no_intervals()

    def z(table: int, one: float, other: float) -> float:
        spread = (one * (100 - one) + other * (100 - other)) / QUERIES[table]
        return (one - other) / math.sqrt(spread)

    low, up, both = SHARP[1]
    assert found["z_low_minus_up_table_1"] == pytest.approx(z(1, low, up), rel=1e-9)
    assert found["z_both_minus_low_table_1"] == pytest.approx(z(1, both, low), rel=1e-9)
    assert found["z_both_minus_up_table_5"] == pytest.approx(z(5, SHARP[5][2], SHARP[5][1]), rel=1e-9)
    pairs = [abs(z(table, *pair)) for table, row in SHARP.items() for pair in itertools.combinations(row, 2)]
    assert found["differences_of_variants_below_1_96"] == sum(value < 1.96 for value in pairs) == 7
    gains = [z(table, accuracy, MAML[table]) for table, row in SHARP.items() for accuracy in row]
    assert found["gains_over_maml_below_1_96"] == sum(value < 1.96 for value in gains) == 0
    assert found["tasks_to_tell_low_from_up_table_1"] == pytest.approx(600 * (1.96 / z(1, low, up)) ** 2, rel=1e-9)


def test_equally_hard_tasks_have_the_smallest_variance() -> None:
    """What makes z an upper bound: for tasks whose accuracies differ about the same mean the variance is larger."""
    draw = np.random.default_rng(0)
    for spread in (0.0, 0.1, 0.2):
        tasks = draw.choice([0.5 - spread, 0.5 + spread], size=400_000)
        variance = (draw.binomial(75, tasks) / 75).var()
        assert variance == pytest.approx(0.25 / 75 + spread**2 * (1 - 1 / 75), rel=0.01)


def test_the_gain_on_omniglot_is_smaller_in_points_and_larger_in_errors() -> None:
    found = errata.gain_on_omniglot()
    names = {1: "miniimagenet_1_shot", 2: "miniimagenet_5_shot", 4: "omniglot_1_shot", 5: "omniglot_5_shot"}
    for table, name in names.items():
        gain = SHARP[table][2] - MAML[table]
        assert found[f"points_{name}"] == close(gain)
        assert found[f"percent_of_the_errors_{name}"] == close(100 * gain / (100 - MAML[table]))
    points, shares = (
        [found[f"{kind}_{name}"] for name in names.values()] for kind in ("points", "percent_of_the_errors")
    )
    assert max(points[2:]) < min(points[:2])
    assert min(shares[2:]) > max(shares[:2])


def test_the_generalisation_error_is_no_test_error() -> None:
    found = errata.generalization_error()
    for method, shots, printed, table in (
        ("maml", "1_shot", 37.46, 1),
        ("both", "1_shot", 34.58, 1),
        ("maml", "5_shot", 11.58, 2),
        ("both", "5_shot", 8.56, 2),
    ):
        accuracy = MAML[table] if method == "maml" else SHARP[table][2]
        assert found[f"test_error_{method}_{shots}"] == close(100 - accuracy)
        assert found[f"test_error_{method}_{shots}"] - printed > 15
        assert found[f"implied_training_{method}_{shots}"] == close(accuracy + printed)
    for shots in ("1_shot", "5_shot"):
        assert abs(found[f"implied_training_both_{shots}"] - found[f"implied_training_maml_{shots}"]) < 0.3
    for method in ("maml", "both"):
        assert found[f"implied_training_{method}_1_shot"] - found[f"implied_training_{method}_5_shot"] > 10


def test_two_rows_of_table_5_are_exchanged() -> None:
    found = errata.swapped_rows()
    assert found["printed_fomaml_minus_reported_fomaml"] == close(97.12 - 97.9)
    assert found["printed_reptile_minus_reported_reptile"] == close(97.90 - 97.12)
    zeros = [value for name, value in found.items() if name not in list(found)[:2]]
    assert zeros == [0, 0, 0, 0]


def test_quoted_numbers_are_the_sources() -> None:
    found = errata.quoted_baselines()
    assert found["largest_difference_to_the_source_table_1"] == 0
    sources = ((43.56, 0.84), (49.30, 1.88), (47.24, 0.65), (49.97, 0.32), (48.07, 1.75), (49.40, 1.83), (48.70, 1.84))
    assert found["both_within_their_interval_table_1"] == sum(abs(50.28 - a) <= i for a, i in sources) == 4
    assert found["intervals_known"] == len(sources)
    assert found["both_minus_reptile_not_transductive_1_shot"] == close(50.28 - 47.07)


def test_sam_itself_is_in_no_table() -> None:
    assert errata.ablation() == {"rows": 11 + 9 + 7 + 7 + 7, "rows_of_sam": 0}
