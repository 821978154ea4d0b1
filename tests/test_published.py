"""Results are shown with where they come from, or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sharp_maml_core import UserError, published
from sharp_maml_core.published import Ours, Setting

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
GIVEN: dict[str, Any] = published.load(ROOT / "book" / "results")[0]
SETTING = Setting(*(GIVEN["config"][name] for name in ("dataset", "n_way", "k_shot", "variant")))


def run(seed: int, mean: float, **settings: Any) -> dict[str, Any]:
    config = GIVEN["config"] | {"seed": seed} | settings
    return GIVEN | {"seed": seed, "best": {"mean": mean}, "config": config}


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


def test_seeds_are_averaged_and_their_interval_is_students() -> None:
    found = published.ours([run(0, 0.4), run(2, 0.6), run(1, 0.5), run(0, 0.9, k_shot=9)], SETTING)
    assert found is not None
    assert found.mean == pytest.approx(50)
    assert found.interval == pytest.approx(4.302652729911275 * 10 / math.sqrt(3))  # t of 2 degrees of freedom
    assert found.seeds == (0, 1, 2)


def test_a_single_seed_has_no_interval() -> None:
    found = published.ours([run(0, 0.4)], SETTING)
    assert found is not None
    assert math.isnan(found.interval)


def test_runs_that_differ_in_more_than_their_seed_are_no_cell() -> None:
    with pytest.raises(UserError, match="inner_lr"):
        published.ours([run(0, 0.4), run(1, 0.5, inner_lr=0.01)], SETTING)


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
