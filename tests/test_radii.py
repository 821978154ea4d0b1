"""A curve over the radius holds all else fixed, whatever other runs of the same setting there are."""

from __future__ import annotations

from typing import Any

import pytest
from made_results import a_group, made

from sharp_maml_core import radii
from sharp_maml_core.published import average


def grid(group: str = "g-radii", **settings: Any) -> list[dict]:
    """Of `up` three radii more, of `both` two and of `low` one."""
    points = [
        ("up", 0.05, 30),
        ("up", 0.005, 41),
        ("up", 5e-5, 42),
        ("both", 0.05, 38),
        ("both", 0.005, 39),
        ("low", 0.05, 40),
    ]
    return [
        made(
            f"{variant}-alpha{alpha}",
            seed,
            right,
            group=group,
            variant=variant,
            iterations=120,
            alpha_low=alpha if variant != "up" else 0.0,
            alpha_up=alpha if variant != "low" else 0.0,
            **settings,
        )
        for variant, alpha, right in points
        for seed in range(3)
    ]


def of_the_cell(runs: list[dict], name: str) -> list[dict]:
    return [run for run in runs if run["cell"]["name"] == name]


def test_curves_are_sorted_and_hold_the_radius_of_the_group_that_they_continue() -> None:
    runs = [*a_group(), *grid()]
    found = radii.curves(runs, "g-radii")
    lent = of_the_cell(runs, "g-up")[0]["config"]["alpha_up"]
    assert [point.alpha for point in found.variants["up"]] == sorted([5e-5, lent, 0.005, 0.05])
    assert found.variants["up"][-1].ours == average(of_the_cell(runs, "g-radii-up-alpha0.05"))
    assert [len(points) for points in found.variants.values()] == [2, 4, 3]  # low, up, both, each with the lent one
    assert list(found.maml) == ["maml", "maml-2x"]
    assert found.maml["maml"] == average(of_the_cell(runs, "g-maml"))


def test_better_runs_of_the_setting_by_another_recipe_change_no_curve() -> None:
    """As those of a head from zero, which are better on validation and have a single radius."""
    runs = [*a_group(), *grid()]
    others = [
        made(variant, seed, 50, group="g-zero", variant=variant, iterations=120, zero_head=True)
        for variant in ("maml", "up", "both")
        for seed in range(3)
    ]
    assert radii.curves([*runs, *others], "g-radii") == radii.curves(runs, "g-radii")
    assert radii.curves([*runs, *others], "g-zero").variants == {}


def test_one_radius_is_no_curve() -> None:
    assert radii.curves(a_group(), "g").variants == {}
    assert radii.curves([made("maml", 0, 40, variant="maml")], "g") == radii.curves([], "g") == ({}, {})


def test_the_radius_of_a_curve_is_the_one_that_the_variant_uses() -> None:
    found = radii.curves(grid(), "g-radii").variants
    assert {name: [point.alpha for point in points] for name, points in found.items()} == {
        "up": [5e-5, 0.005, 0.05],
        "both": [0.005, 0.05],
    }
    assert found["both"][0].ours.mean == pytest.approx(average(of_the_cell(grid(), "g-radii-both-alpha0.005")).mean)
