"""notebooks/tables.ipynb, run as its users run it: by papermill, at a shell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from made_results import a_group

ROOT = Path(__file__).parents[2]


def papermill(out: Path, *parameters: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "papermill", "notebooks/tables.ipynb", str(out), "--no-progress-bar"]
    return subprocess.run(
        [*command, *parameters], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500
    )


def test_it_shows_the_results_that_it_is_given(tmp_path: Path) -> None:
    for run in a_group():
        (tmp_path / f"{run['cell']['name']}-seed{run['seed']}.json").write_text(json.dumps(run))
    out = tmp_path / "out.ipynb"
    done = papermill(out, "-p", "results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    outputs = [output for cell in nbformat.read(out, 4).cells for output in cell.get("outputs", [])]
    shown = json.dumps(outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5 + 1  # tables, and the group's
    assert "up is better than maml: +2.00 (" in shown
    assert "both is worse than maml: -4.00 (" in shown


def test_without_a_checkout_it_says_where_results_come_from_and_shows_what_the_paper_prints(tmp_path: Path) -> None:
    shutil.copy(ROOT / "notebooks" / "tables.ipynb", tmp_path)
    command = [sys.executable, "-m", "papermill", "tables.ipynb", "out.ipynb", "--no-progress-bar"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    shown = (tmp_path / "out.ipynb").read_text()
    assert "There are no results in book/results: they come with a checkout of the repository." in shown
    assert "Table 5" in shown


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (["-p", "resuls", "x"], "Did you mean results"),
        (["-p", "results", "nowhere"], "results='nowhere' is not allowed: it must be a folder of result files"),
    ],
    ids=["unknown name", "no results"],
)
def test_a_wrong_parameter_is_one_clear_sentence(tmp_path: Path, parameters: list[str], sentence: str) -> None:
    done = papermill(tmp_path / "out.ipynb", *parameters)
    assert done.returncode != 0
    assert sentence in done.stderr
