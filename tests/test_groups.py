"""A group's lines hold what its runs say, and its sentences say no more than the intervals do."""

from __future__ import annotations

import pytest
from made_results import QUESTIONS, TASKS, a_group, made

from sharp_maml_core import groups
from sharp_maml_core.errors import UserError

IMAGES = 4 * 5 * (1 + 10)  # of an iteration: n_tasks, n_way, k_shot and n_query of `made`


def by_name(lines: list[groups.Line]) -> dict[str, groups.Line]:
    return {line.name: line for line in lines}


def test_a_line_for_each_cell_baselines_first() -> None:
    lines = groups.lines(a_group(), "g")
    assert [line.name for line in lines] == ["maml", "maml-2x", "low", "up", "both"]
    found = by_name(lines)
    assert found["up"].ours.seeds == (0, 1, 2)
    assert sum(found["up"].means) / 3 == pytest.approx(found["up"].ours.mean)


def test_cost_is_counted_in_images_and_an_upper_perturbation_sees_them_twice() -> None:
    costs = {line.name: line.images for line in groups.lines(a_group(), "g")}
    once = 120 * IMAGES
    assert costs == {"maml": once, "maml-2x": 2 * once, "low": once, "up": 2 * once, "both": 2 * once}
    others = [made("reptile", 0, 40, variant="reptile", alpha_up=up, iterations=7) for up in (0.0, 0.1)]
    assert [groups.lines([run], "g")[0].images for run in others] == [7 * IMAGES, 14 * IMAGES]
    larger = made("maml", 0, 40, variant="maml", iterations=7, zero_head=True, train_way=15)
    assert groups.lines([larger], "g")[0].images == 3 * 7 * IMAGES


def test_differences_are_of_the_same_tasks_and_each_pair_is_there_once() -> None:
    found = by_name(groups.lines(a_group(), "g"))
    pairs = {(name, one.baseline) for name, line in found.items() for one in line.against}
    assert pairs == {("maml-2x", "maml"), *((n, b) for n in ("low", "up", "both") for b in ("maml", "maml-2x"))}
    (to_maml, _) = found["up"].against
    assert to_maml.difference.mean == pytest.approx(100 / QUESTIONS)  # one more right answer on every task
    assert to_maml.difference.tasks == TASKS


def test_sentences_say_what_stands_and_what_does_not() -> None:
    found = by_name(groups.lines(a_group(), "g"))
    said = {
        (name, one.baseline): groups.statement(line.name, one) for name, line in found.items() for one in line.against
    }
    assert said["up", "maml"].startswith("up is better than maml: +2.00 (")
    assert said["both", "maml"].startswith("both is worse than maml: -4.00 (")
    assert said["low", "maml"].endswith("no difference is seen.")


def test_what_only_the_correction_takes_away_is_said_so() -> None:
    line, against = groups.on_as_many_images(groups.lines(a_group(), "g"))[-1]
    assert against.difference.significant
    unclear = against._replace(adjusted_p=0.06)
    assert groups.finding(unclear) == "not clear after correction"
    assert groups.statement(line.name, unclear).endswith("points; not clear after correction.")


def test_the_comparisons_of_the_claim_are_a_family_of_their_own() -> None:
    """Each variant with the MAML that took as many meta-gradients: three p values, and not seven."""
    claim = groups.on_as_many_images(groups.lines(a_group(), "g"))
    assert [(line.name, one.baseline) for line, one in claim] == [
        ("low", "maml"),
        ("up", "maml-2x"),
        ("both", "maml-2x"),
    ]
    raw = sorted(one.difference.p for _, one in claim)
    assert sorted(one.adjusted_p for _, one in claim)[0] == pytest.approx(3 * raw[0])


def test_a_claim_counts_at_every_radius_and_of_the_papers_methods_alone() -> None:
    """A group of radii has its MAML lent. Other systems are compared with MAML too, but are no claim of the paper's."""
    radii = [made("up-far", s, 45, group="g-radii", variant="up", iterations=120, alpha_up=0.05) for s in range(3)]
    others = [made("anil", s, 45, group="g-others", variant="anil", iterations=120) for s in range(3)]
    results = [*a_group(), *radii, *others]
    assert [(line.name, one.baseline) for line, one in groups.on_as_many_images(groups.lines(results, "g-radii"))] == [
        ("up-far", "maml-2x")
    ]
    (anil,) = groups.lines(results, "g-others")
    assert [(one.baseline, one.as_many_images) for one in anil.against] == [("maml", True), ("maml-2x", False)]
    assert groups.on_as_many_images([anil]) == []


def test_few_seeds_say_nothing() -> None:
    found = by_name(groups.lines(a_group(seeds=2), "g"))
    assert all(
        groups.statement(line.name, one).endswith("of too few seeds to say anything.")
        for line in found.values()
        for one in line.against
    )
    assert not any(one.clear for line in found.values() for one in line.against)


def test_what_would_stand_alone_may_not_stand_among_many() -> None:
    one = next(line for line in groups.lines(a_group(), "g") if line.name == "up").against[0]
    assert one.clear
    assert not one._replace(adjusted_p=groups.SIGNIFICANCE).clear


def test_other_groups_and_runs_outside_of_groups_do_not_count() -> None:
    runs = [*a_group(), made("maml", 0, 10, group="h", variant="maml")]
    alone = {key: value for key, value in runs[0].items() if key != "cell"}
    assert groups.lines([*runs, alone], "g") == groups.lines(a_group(), "g")
    assert groups.names([*runs, alone]) == ["g", "h"]
    assert groups.lines(runs, "nothing") == []


def test_a_seed_twice_and_runs_of_other_settings_are_refused() -> None:
    runs = a_group()
    with pytest.raises(UserError, match="seed 0"):
        groups.lines([*runs, runs[0]], "g")
    with pytest.raises(UserError, match=r"results of g-maml='3 runs of several settings or data'"):
        groups.lines([made("maml", 0, 40, variant="maml", iterations=120, inner_lr=0.5), *runs[1:]], "g")
    others = [run | {"data": run["data"] | {"train": "of 57 classes"}} for run in runs if run["cell"]["name"] == "g-up"]
    with pytest.raises(UserError, match="data and test tasks of what is compared"):
        groups.lines([*(run for run in runs if run["cell"]["name"] != "g-up"), *others], "g")


def test_a_group_without_maml_takes_that_of_the_group_whose_name_it_continues() -> None:
    radii = [made("up", seed, 41, group="g-radii", variant="up", iterations=120) for seed in range(3)]
    elsewhere = [made("maml", seed, 20, group="gr", variant="maml", iterations=120) for seed in range(3)]
    (line,) = groups.lines([*a_group(), *elsewhere, *radii], "g-radii")
    assert [one.baseline for one in line.against] == ["maml", "maml-2x"]
    assert line.against[0].difference.mean == pytest.approx(100 / QUESTIONS)
    (alone,) = groups.lines([*elsewhere, *radii], "g-radii")
    assert alone.against == ()


def test_a_sharp_variant_is_not_compared_with_a_maml_of_other_settings_which_would_be_their_difference() -> None:
    """Its own MAML diverged, or is yet to come: neither the group's other one nor a lent one stands in."""
    sharp = [made("up", seed, 45, variant="up", iterations=120, inner_lr=0.5) for seed in range(3)]
    plain = [made("maml-slow", seed, 20, variant="maml", iterations=240) for seed in range(3)]
    assert not by_name(groups.lines([*plain, *sharp], "g"))["up"].against
    elsewhere = [run | {"cell": {"name": "g-own-up", "group": "g-own", "schedule": "short"}} for run in sharp]
    (line,) = groups.lines([*a_group(), *elsewhere], "g-own")
    assert not line.against
    other = [made("cavia", seed, 30, variant="cavia", iterations=120, inner_lr=0.5) for seed in range(3)]
    assert by_name(groups.lines([*plain, *other], "g"))["cavia"].against


def test_a_lent_maml_is_of_the_same_schedule_and_test_tasks() -> None:
    radii = {"group": "g-radii", "variant": "up", "iterations": 120}
    longer = [made("up", seed, 41, schedule="hour", **radii) for seed in range(3)]
    other_tasks = [made("up", seed, 41, n_query=4, **radii) for seed in range(3)]
    for runs in (longer, other_tasks):
        (line,) = groups.lines([*a_group(), *runs], "g-radii")
        assert not line.against


def test_of_several_baselines_those_of_the_cells_own_settings_count() -> None:
    grid = [
        made(f"{variant}-{lr}", seed, right, variant=variant, iterations=120, inner_lr=lr)
        for variant, right in (("maml", 40), ("up", 41))
        for lr in (0.1, 0.5)
        for seed in range(3)
    ]
    found = by_name(groups.lines(grid, "g"))
    assert {name: [one.baseline for one in line.against] for name, line in found.items()} == {
        "maml-0.1": [],
        "maml-0.5": [],
        "up-0.1": ["maml-0.1"],
        "up-0.5": ["maml-0.5"],
    }


def test_cells_without_a_common_seed_are_not_compared() -> None:
    lines = groups.lines([made("maml", 0, 40, variant="maml"), made("low", 1, 40, variant="low")], "g")
    assert [line.against for line in lines] == [(), ()]


def with_the_papers() -> list[dict]:
    """The group with its MAML, and the variant `both`, by a plain recipe too: as many images in smaller tasks."""
    plain = {"inner_lr": 0.5, "n_tasks": 2}
    printed = [
        made(f"{cell}-as-printed", seed, right, variant=variant, iterations=iterations, **plain)
        for cell, variant, right, iterations in (("maml", "maml", 30, 240), ("maml-2x", "maml", 31, 480))
        for seed in range(3)
    ]
    return [
        *a_group(),
        *printed,
        *(made("both-as-printed", s, 30, variant="both", iterations=240, **plain) for s in range(3)),
    ]


def test_a_baseline_is_worth_its_difference_to_another_on_as_many_images() -> None:
    found = groups.worth_of_baseline(with_the_papers(), "g")
    assert [(name, against.baseline) for name, against in found] == [
        ("maml", "maml-as-printed"),
        ("maml-2x", "maml-2x-as-printed"),
    ]
    points = [100 * (40 - 30) / QUESTIONS, 100 * (42 - 31) / QUESTIONS]
    assert [against.difference.mean for _, against in found] == pytest.approx(points, abs=0.5)  # at most 50 of 50
    assert all(against.clear for _, against in found)
    assert groups.statement(*found[0]).startswith("maml is better than maml-as-printed: +")
    assert groups.worth_of_baseline(a_group(), "g") == groups.worth_of_baseline([], "g") == []


def test_a_recipe_is_compared_with_its_own_maml() -> None:
    """So the worth of the better recipe is never taken for that of the variant, nor the other way round."""
    claim = groups.on_as_many_images(groups.lines(with_the_papers(), "g"))
    pairs = {line.name: one.baseline for line, one in claim}
    assert pairs == {"low": "maml", "up": "maml-2x", "both": "maml-2x", "both-as-printed": "maml-2x-as-printed"}
