"""Results are shown with where they come from, or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sharp_maml_core import UserError, crossed, published
from sharp_maml_core.published import Ours

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
GIVEN: dict[str, Any] = json.loads((ROOT / "book" / "results" / "glyphs-5way-1shot-both-seed0.json").read_text())
SETTING = published.setting_of(GIVEN)


def run(seed: int, mean: float, **settings: Any) -> dict[str, Any]:
    config = GIVEN["config"] | {"seed": seed} | settings
    return GIVEN | {"seed": seed, "best": GIVEN["best"] | {"mean": mean}, "config": config}


def test_what_the_book_shows_can_be_loaded() -> None:
    results = published.load(ROOT / "book" / "results")
    assert len(results) == len(list((ROOT / "book" / "results").glob("*.json")))


@pytest.mark.parametrize("name", [*published.PROVENANCE, *published.FIGURES])
def test_a_result_without_its_provenance_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.json").write_text(json.dumps({key: value for key, value in GIVEN.items() if key != name}))
    with pytest.raises(UserError, match=f"x.json='a result without {name}'"):
        published.load(tmp_path)


def test_half_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(GIVEN)[:200])
    with pytest.raises(UserError, match=r"x\.json is damaged"):
        published.load(tmp_path)


def test_seeds_are_averaged_and_without_scores_of_tasks_their_interval_takes_the_tasks_error_for_known() -> None:
    found = published.ours([run(0, 0.4), run(2, 0.6), run(1, 0.5), run(0, 0.9, k_shot=9)], SETTING)
    assert found is not None
    assert found.mean == pytest.approx(50)
    of_seeds, of_tasks = 10**2 / 3, (100 * GIVEN["best"]["interval_95"] / 1.96) ** 2
    assert found.interval == pytest.approx(crossed.Estimate(50.0, of_seeds, of_tasks, 0.0, 2, math.inf).reach, rel=1e-4)
    assert found.interval > stats.t.ppf(0.975, 2) * math.sqrt(of_seeds)
    assert found.seeds == (0, 1, 2)


def test_with_scores_of_tasks_the_interval_is_of_the_crossed_table() -> None:
    correct = [[7, 9, 5, 9, 8], [6, 9, 5, 8, 8], [8, 9, 4, 9, 9]]
    runs = [
        run(seed, sum(right) / 50) | {"test": {"questions": 10, "correct": right}} for seed, right in enumerate(correct)
    ]
    found = published.average(runs)
    assert found.interval == pytest.approx(crossed.estimate(10 * np.array(correct, float)).reach)
    assert math.isnan(published.average(runs[:1]).interval)


def test_a_single_seed_has_no_interval() -> None:
    found = published.ours([run(0, 0.4)], SETTING)
    assert found is not None
    assert math.isnan(found.interval)


def test_runs_outside_the_cells_are_a_schedule_of_their_own() -> None:
    assert SETTING.schedule == "single"
    short = run(1, 0.5) | {"cell": {"name": "g-x", "group": "g", "schedule": "short"}}
    found = published.ours([run(0, 0.4), short], SETTING)
    assert found is not None
    assert found.seeds == (0,)
    assert published.setting_of(short) == SETTING._replace(schedule="short")


def test_runs_that_differ_in_more_than_their_seed_are_never_averaged() -> None:
    found = published.candidates([run(0, 0.4), run(1, 0.5, inner_lr=0.01), run(1, 0.6)], SETTING)
    assert [[one["best"]["mean"] for one in runs] for runs in found] == [[0.4, 0.6], [0.5]]
    other = run(1, 0.5) | {"data": GIVEN["data"] | {"train": "57 classes"}}
    assert len(published.candidates([run(0, 0.4), other], SETTING)) == 2


def test_validation_chooses_among_settings_and_the_test_does_not() -> None:
    worse = [run(seed, 0.9, inner_lr=0.01) | {"validation": 0.5} for seed in range(3)]
    better = [run(seed, 0.4) | {"validation": 0.6} for seed in range(3)]
    found = published.ours([*worse, *better], SETTING)
    assert found is not None
    assert (found.mean, found.candidates) == (pytest.approx(40), 2)
    assert published.chosen([*worse, *better], SETTING) == better


def test_fewer_seeds_than_three_are_chosen_only_where_nothing_else_is() -> None:
    single = [run(0, 0.9, inner_lr=0.01) | {"validation": 0.9}]
    three = [run(seed, 0.4) | {"validation": 0.6} for seed in range(3)]
    assert published.chosen([*single, *three], SETTING) == three
    assert published.chosen(single, SETTING) == single


def test_a_seed_is_not_counted_twice() -> None:
    with pytest.raises(UserError, match=r"seed 0.*there once"):
        published.ours([run(0, 0.4), run(0, 0.5)], SETTING)


def test_settings_that_came_later_have_their_defaults() -> None:
    old = run(0, 0.4)
    old["config"] = {name: value for name, value in old["config"].items() if name != "adaptive"}
    new = run(1, 0.5, adaptive=False, device="cpu", outer_schedule="constant")
    assert [len(runs) for runs in published.candidates([old, new], SETTING)] == [2]


def test_matching_networks_are_found_under_the_tables_name() -> None:
    assert published.setting_of(run(0, 0.4, variant="matching")).method == "matching-nets"


def test_what_was_not_run_is_not_run() -> None:
    assert published.ours([run(0, 0.4)], SETTING._replace(method="up")) is None


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "not run"),
        (Ours(50, math.nan, (0,), 1, 1, ()), "too few seeds"),
        (Ours(50, 1, (0, 1, 2), 1, 1, ()), "agrees"),
        (Ours(48, 1, (0, 1, 2), 1, 1, ()), "differs"),
    ],
)
def test_verdicts(found: Ours | None, said: str) -> None:
    assert published.verdict(50.5, found) == said
