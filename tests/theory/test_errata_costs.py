"""Each verdict on what the paper says about cost, from what makes it."""

from __future__ import annotations

import pytest

from sharp_maml_core.theory.errata import costs as errata

# Multiplications and additions of Conv4-64 on one 16x16 image, by hand: 3x3 convolutions on 16, 8, 4, 2, and the head
FIRST = 2 * 16**2 * 9 * 3 * 64
FORWARD = FIRST + 2 * (8**2 + 4**2 + 2**2) * 9 * 64 * 64 + 2 * 64 * 5
GRADIENT = 3 * FORWARD - FIRST  # forward, by the weights, by the inputs of all layers but the first
PRODUCT = 6 * FORWARD - 4 * FIRST  # the same backwards again, on what the gradient has kept; images have no derivative


def maml(steps: int = 5, support: int = 5, query: int = 75) -> int:
    return steps * support * (GRADIENT + PRODUCT) + query * GRADIENT


def test_low_costs_almost_the_same_and_up_twice_as_much() -> None:
    found = errata.cost_of_sharp_maml()
    low = 1 + 25 * GRADIENT / maml()
    assert found["operations_low"] == pytest.approx(
        low, rel=2e-3
    )  # a pass backwards through the head has its own count
    assert found["operations_up"] == 2
    assert found["operations_both"] == pytest.approx(found["operations_low"] + 1, rel=1e-15)
    assert found["operations_low"] < 1.2
    for variant, printed in (("low", 2.60), ("up", 3.60), ("both", 4.60)):
        assert found[f"table_3_{variant}"] == printed > 1.75 * found[f"operations_{variant}"]
    assert found["operations_low"] < found["operations_low_through_eps"] < found["table_3_low"]


def test_up_takes_twice_the_hessians_and_low_none_more() -> None:
    found = errata.additional_hessians()
    assert found == {"hessian_products_low": 1, "hessian_products_up": 2, "hessian_products_both": 2}


def test_twice_the_epochs_are_not_twice_the_cost_of_every_variant() -> None:
    found, cost = errata.doubled_epochs(), errata.cost_of_sharp_maml()
    for variant in ("low", "up", "both"):
        assert found[f"maml_time_over_{variant}"] == 2 / cost[f"table_3_{variant}"] < 1
        assert found[f"maml_operations_over_{variant}"] == pytest.approx(2 / cost[f"operations_{variant}"], rel=1e-14)
    assert found["maml_operations_over_low"] > 1.7
    assert found["maml_operations_over_up"] == 1


def test_86_percent_faster_is_46_percent_less() -> None:
    found = errata.almost_86_percent_less()
    assert round(found["percent_faster_low_anil"]) == 86  # the paper's figure, of another quantity
    assert round(found["percent_less_low_anil"]) == 46
    assert int(found["percent_faster_e_low_anil"]) == 116
    assert round(found["percent_less_e_low_anil"]) == 54
    assert round(found["points_above_maml_e_low_anil"], 6) == 1.90
    assert round(found["percent_time_above_maml_e_low_anil"], 6) == 20
    head = 2 * 64 * 5  # inner steps on features are free beside the features
    features = 80 * (3 * (FORWARD - head) - FIRST) / maml()
    assert features < found["operations_low_anil"] < features + 1e-4
    assert features < found["operations_e_low_anil"] < found["operations_low_anil"]


def test_the_efficient_variants_lose_to_low_and_win_over_maml() -> None:
    found = errata.without_sacrificing()
    assert [round(found[f"points_below_low_{v}"], 6) for v in ("low_anil", "e_low", "e_low_anil")] == [0.53, 0.82, 0.69]
    assert round(found["fewest_points_above_maml"], 6) == 1.77


def test_low_gains_most_for_its_time_of_the_three() -> None:
    found = errata.best_trade_off()
    by_hand = {"low": 2.59 / 1.6, "up": 2.43 / 2.6, "both": 3.15 / 3.6, "low_anil": 2.06 / 0.4}
    for variant, points in (by_hand | {"e_low": 1.77 / 1.2, "e_low_anil": 1.90 / 0.2}).items():
        assert found[f"points_per_maml_time_{variant}"] == pytest.approx(points, rel=1e-9)
    assert by_hand["low"] > max(by_hand["up"], by_hand["both"])
    assert by_hand["low_anil"] > by_hand["low"]
