"""notebooks/theory.ipynb, run as its users run it: by papermill, at a shell."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from sharp_maml_core import pretrained
from sharp_maml_core.theory import assumption

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "theory.ipynb"


def papermill(out: Path, *parameters: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "papermill", NOTEBOOK, out, "--no-progress-bar", *parameters]
    return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)


def test_a_quick_run_shows_every_figure(executed: Callable[[str], Any]) -> None:
    cells = [cell for cell in executed("theory").cells if cell.cell_type == "code"]
    drawing = [cell for cell in cells if "plt.show()" in cell.source]
    assert len(drawing) > 12
    for cell in drawing:
        assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source


def test_the_assumption_is_undecided_in_the_ball_and_about_on_its_edge(executed: Callable[[str], Any]) -> None:
    """With the deviations that the book's run has; `test_errata_stability` has the radius itself."""
    (table,) = executed("theory").cells[-1].outputs
    rows = table["data"]["text/plain"].splitlines()[2:]
    found = {float(row.split()[0]): row.split()[1:] for row in rows}
    params = pretrained.load("glyphs-both-seed0").params
    radius = assumption.readings(0.05, sum(value.numel() for value in params.values()))["α as radius"]
    inside = [verdicts for sigma, verdicts in found.items() if sigma < 1.05 * radius]
    assert inside == [["undecided", "undecided"]] * 2
    assert found[0.05] == ["holds", "holds"]


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (["-p", "seed", "-1"], "seed=-1 is not allowed: it must be at least 0"),
        (["-p", "quick", "no"], "quick='no' is not allowed: it must be true or false"),
        (["-p", "quik", "True"], "Did you mean quick"),
    ],
    ids=["seed", "quick", "unknown name"],
)
def test_a_wrong_parameter_is_one_clear_sentence(tmp_path: Path, parameters: list[str], sentence: str) -> None:
    done = papermill(tmp_path / "out.ipynb", *parameters)
    assert done.returncode != 0
    assert sentence in done.stderr


def test_every_notebook_begins_alike_and_is_stored_without_outputs() -> None:
    notebooks = {path.name: nbformat.read(path, 4) for path in (ROOT / "notebooks").glob("*.ipynb")}
    tagged = {
        tag: {
            name: [cell.source for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
            for name, notebook in notebooks.items()
        }
        for tag in ("bootstrap", "parameters")
    }
    assert {len(sources) for found in tagged.values() for sources in found.values()} == {1}
    assert len({sources[0] for sources in tagged["bootstrap"].values()}) == 1
    for notebook in notebooks.values():
        assert not any(cell.get("outputs") for cell in notebook.cells)
