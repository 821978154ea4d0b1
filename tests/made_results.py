"""Result files that nobody ran, for tests: one a cell and seed, with a score for each of a hundred test tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
GIVEN: dict[str, Any] = json.loads((ROOT / "book" / "results" / "glyphs-5way-1shot-both-seed0.json").read_text())
QUESTIONS = 50
TASKS = 100


def made(cell: str, seed: int, right: int, *, group: str = "g", schedule: str = "short", **settings: Any) -> dict:
    """A result of cell `GROUP-CELL`: `right` of 50 questions a task, give or take what the task and the seed add.

    The tasks are as hard for every cell: what they add is the same for all.
    """
    tasks = np.random.default_rng(0).integers(-8, 3, TASKS) + np.random.default_rng(seed + 1).integers(-1, 2, TASKS)
    correct = np.clip(right + tasks, 0, QUESTIONS).tolist()
    mean = sum(correct) / (QUESTIONS * TASKS)
    config = GIVEN["config"] | {"seed": seed, "n_query": 10, "eval_tasks": TASKS} | settings
    return GIVEN | {
        "seed": seed,
        "config": config,
        "iterations": config["iterations"],
        "eval_tasks": TASKS,
        "seconds": 0.5 * config["iterations"],
        "best": {"mean": mean, "interval_95": 0.01, "iteration": config["iterations"]},
        "validation": mean,
        "cell": {"name": f"{group}-{cell}", "group": group, "schedule": schedule},
        "test": {"questions": QUESTIONS, "correct": correct},
        "train": {"mean": mean + 0.05, "interval_95": 0.01, "tasks": TASKS},
    }


def a_group(seeds: int = 3) -> list[dict]:
    """MAML at T and 2 T, low equal to MAML, up better and both worse than MAML at T."""
    cells: dict[str, tuple[int, dict[str, Any]]] = {
        "maml": (40, {"variant": "maml"}),
        "maml-2x": (42, {"variant": "maml", "iterations": 240}),
        "low": (40, {"variant": "low"}),
        "up": (41, {"variant": "up"}),
        "both": (38, {"variant": "both"}),
    }
    return [
        made(cell, seed, right, **({"iterations": 120} | settings))
        for cell, (right, settings) in cells.items()
        for seed in range(seeds)
    ]
