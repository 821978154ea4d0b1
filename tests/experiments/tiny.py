"""Cells so small that a run takes moments, and where their files go."""

from __future__ import annotations

from pathlib import Path

from experiments import cells
from experiments.cells import Run
from experiments.store import Store

TINY = """
[schedule.tiny]
device = "cpu"
about = "for tests"

[[group]]
name = "g"
schedule = "tiny"
seeds = [0, 1]
settings = { dataset = "glyphs", filters = 2, n_way = 3, n_query = 2, n_tasks = 2, inner_steps = 1, iterations = 6, eval_every = 3, val_tasks = 4, eval_tasks = 20, checkpoint_every = 2 }
cell = [{ variant = "maml" }, { variant = "both", alpha = 0.05 }]

[[group]]
name = "long"
schedule = "tiny"
seeds = [0]
like = "g"
cell = [{ variant = "maml", iterations = 100000 }]
"""  # noqa: E501  an inline table is one line


def tiny(folder: Path) -> tuple[Store, dict[str, Run]]:
    """The store in a folder, and the runs by name."""
    path = folder / "cells.toml"
    path.write_text(TINY)
    return Store(folder / "runs", folder / "results", path), {run.name: run for run in cells.runs(cells.load(path))}
