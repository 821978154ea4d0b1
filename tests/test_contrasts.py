"""The contrasts find their runs, and say nothing where these are not there."""

from __future__ import annotations

from typing import Any

import pytest

from sharp_maml_core import Config, contrasts
from sharp_maml_core.published import Result, Setting

SETTING = Setting("glyphs", 5, 1, "both", "short")


def runs(variant: str, accuracy: float, seeds: int = 3, **settings: Any) -> list[Result]:
    """Of the accuracy, a percent more with each seed; validation is the same."""
    found = []
    for seed in range(seeds):
        config = Config(variant=variant, seed=seed, eval_tasks=4, n_query=4, **settings)
        correct = round(20 * accuracy) + seed
        found.append(
            {
                "seed": seed,
                "config": config.to_dict(),
                "cell": {"name": "c", "group": "g", "schedule": "short"},
                "data": {"train": "a", "test": "b"},
                "best": {"mean": correct / 20, "interval_95": 0.0},
                "validation": correct / 20,
                "train": {"mean": 0.9, "interval_95": 0.0},
                "test": {"questions": 20, "correct": [correct] * 4},
                "eval_tasks": 4,
                "iterations": config.iterations,
                "seconds": config.iterations * (2.0 if variant == "both" else 1.0),
                "seconds_per_iteration": 2.0 + seed if variant == "both" else 1.0,
                "device": "CPU",
                "command": "",
            }
        )
    return found


def both(accuracy: float, alpha: float, **settings: Any) -> list[Result]:
    return runs("both", accuracy, alpha_low=alpha, alpha_up=alpha, **settings)


def test_the_generalisation_error_is_the_gap() -> None:
    found = contrasts.generalization_error(runs("maml", 0.5))
    assert found is not None
    assert found.mean == pytest.approx(90 - 55)
    assert found.interval == pytest.approx(4.302652729911275 * 5 / 3**0.5)  # Student's t of 2 degrees of freedom
    # Of seeds that agree, what the luck of the tasks leaves: 3 and 4 points of the two kinds are 5.
    lucky = [
        run | {"best": {"mean": 0.5, "interval_95": 0.03}, "train": {"mean": 0.9, "interval_95": 0.04}}
        for run in runs("maml", 0.5)
    ]
    found = contrasts.generalization_error(lucky)
    assert found is not None
    assert found.interval == pytest.approx(5, rel=1e-3)
    old = [{name: value for name, value in run.items() if name != "train"} for run in runs("maml", 0.5)]
    assert contrasts.generalization_error(old) is None
    assert contrasts.generalization_error([]) is None
