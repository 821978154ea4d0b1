"""notebooks/landscapes.ipynb, run as its users run it: by papermill, at a shell."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "landscapes.ipynb"
STORED = ROOT / "book" / "results" / "landscapes"
MEASURED = ROOT / "book" / "results" / "sharpness"


def papermill(out: Path, *parameters: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "papermill", "notebooks/landscapes.ipynb", str(out), "--no-progress-bar"]
    return subprocess.run(
        [*command, *parameters], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500
    )


def test_the_notebook_is_stored_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, 4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


def check_drawn(cells: list[Any]) -> None:
    """Every figure is there, and what is stored is drawn again."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    stored = {path.stem for path in STORED.glob("cifar-fs-*.json")}
    groups = [
        {"cifar-fs-random-maml-at-maml", "cifar-fs-random-erm-at-erm"},
        {"cifar-fs-random-same-at-erm"},
        {"cifar-fs-random-maml-at-low"},
        {"cifar-fs-random-meta-at-maml"},
        {"cifar-fs-steep-maml-at-maml"},
    ]
    ways = [name for name in stored if name.startswith("cifar-fs-way-")]
    measured = len(list(MEASURED.glob("cifar-fs-*.json")))
    redrawn = sum(bool(group & stored) for group in groups) + len(ways) + 2 * (measured > 0) + (measured >= 4)
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) == 7 + redrawn
    shown = json.dumps(outputs)
    assert "...</td>" not in shown  # the classes of the task are named, all of them
    if "cifar-fs-minima" in stored:
        assert "local minima" in shown
    if not stored:
        assert "There are no stored slices" in shown


def test_the_book_run_draws_every_figure_and_what_is_stored(executed: Callable[[str], Any]) -> None:
    check_drawn(executed("landscapes").cells)


def test_so_does_a_quick_run(tmp_path: Path) -> None:
    done = papermill(tmp_path / "out.ipynb", "-p", "quick", "True")
    assert done.returncode == 0, done.stderr
    check_drawn(nbformat.read(tmp_path / "out.ipynb", 4).cells)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (["-p", "dataset", "imagenet"], "name='imagenet-maml-seed0' is not allowed: it must be one of"),
        (["-p", "points", "1"], "points=1 is not allowed: it must be at least 3"),
        (["-p", "point", "5"], "Did you mean points"),
    ],
    ids=["data set", "grid", "unknown name"],
)
def test_a_wrong_parameter_is_one_clear_sentence(tmp_path: Path, parameters: list[str], sentence: str) -> None:
    done = papermill(tmp_path / "out.ipynb", *parameters)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert 'File "' not in done.stderr.partition("Exception encountered")[2]  # no stack trace of ours
