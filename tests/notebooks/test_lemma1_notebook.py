"""notebooks/lemma1.ipynb, run as its users run it: by papermill, at a shell."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "lemma1.ipynb"


def papermill(out: Path, *parameters: str, start_in: Path = ROOT) -> subprocess.CompletedProcess:
    notebook = NOTEBOOK.relative_to(start_in)
    command = [sys.executable, "-m", "papermill", str(notebook), str(out), "--no-progress-bar", *parameters]
    return subprocess.run(command, cwd=start_in, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)


def test_the_notebook_is_stored_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, 4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


def test_a_quick_run_shows_every_figure_and_that_nothing_was_lost(executed: Callable[[str], Any]) -> None:
    outputs = [output for cell in executed("lemma1").cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 6
    texts = [output.get("data", {}).get("text/plain", "") for output in outputs]
    (table,) = [text for text in texts if "minimisers lost" in text]
    rows = [line.split() for line in table.splitlines() if line.startswith(("double-well", "washboard", "ripples"))]
    assert [row[2:5] for row in rows] == [["0", "0", "0"]] * 3  # lost, minimisers lost, new ones below the threshold
    assert all(row[-1] == "True" for row in rows)
    assert "inner_lr 1/5: ERM -1/2, MAML 1/7\n" in [output.get("text", "") for output in outputs]
    (inertia,) = [text for text in texts if "of MAML's loss" in text]
    for line in inertia.splitlines()[1:]:
        _, before, after = line.split()
        assert before == after


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (["-p", "function", "himmelblau"], "function='himmelblau' is not allowed: it must be one of parabola, cubic"),
        (["-p", "inner_lr", "-0.1"], "inner_lr=-0.1 is not allowed: it must be above 0"),
        (["-p", "quick", "no"], "quick='no' is not allowed: it must be true or false"),
        (["-p", "inner_rl", "0.1"], "Did you mean inner_lr"),
    ],
    ids=["function", "inner_lr", "quick", "unknown name"],
)
def test_a_wrong_parameter_is_one_clear_sentence(tmp_path: Path, parameters: list[str], sentence: str) -> None:
    done = papermill(tmp_path / "out.ipynb", *parameters, start_in=ROOT / "notebooks")
    assert done.returncode != 0
    assert sentence in done.stderr
    assert 'File "' not in done.stderr.partition("Exception encountered")[2]  # no stack trace of ours
