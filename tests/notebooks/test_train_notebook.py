"""notebooks/train.ipynb, run as its users run it: by papermill, at a shell."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from sharp_maml_core.config import FIELDS, config_from
from sharp_maml_core.notebook import SHORTER, papermill_command
from sharp_maml_core.rundir import RESULT, read_result

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "train.ipynb"
OWN = {"run_dir", "overwrite", "quick"}


def papermill(out: Path, *parameters: str, start_in: Path = ROOT) -> subprocess.CompletedProcess:
    notebook = NOTEBOOK.relative_to(start_in)
    command = [sys.executable, "-m", "papermill", str(notebook), str(out), "--no-progress-bar", *parameters]
    return subprocess.run(command, cwd=start_in, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)


def parameters_cell() -> dict[str, object]:
    cells = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1
    assignments = [node for node in ast.parse(cells[0].source).body if isinstance(node, ast.AnnAssign)]
    return {node.target.id: ast.literal_eval(node.value) for node in assignments if node.value}


def test_every_setting_is_a_parameter_with_the_default_of_config() -> None:
    values = parameters_cell()
    assert set(values) == {*FIELDS, *OWN}
    for name in set(FIELDS) - {*SHORTER}:
        assert values[name] == FIELDS[name].default, name


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"iterations": 1000, "eval_every": 250, "val_tasks": 200},  # Config's defaults, which are not the notebook's
        {"variant": "reptile", "alpha_up": 0.05, "dataset": "my letters"},
    ],
    ids=["as it is", "as Config", "a name with a space"],
)
def test_the_command_that_is_recorded_is_that_of_the_same_run(given: dict[str, object]) -> None:
    values = {name: value for name, value in parameters_cell().items() if name in FIELDS}
    config = config_from(values | given)
    words = shlex.split(papermill_command("notebooks/train.ipynb", config))
    assert words[:3] == ["papermill", "notebooks/train.ipynb", "out.ipynb"]
    assert words[3::3] == ["-p"] * (len(words[3:]) // 3)
    assert config_from(values | dict(zip(words[4::3], words[5::3], strict=True))) == config


def test_the_command_tells_a_folder_of_images_as_the_command_line_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, told in (("/data/grey", ".../grey"), (str(ROOT / "images"), "images"), ("/a=b/grey", ".../grey")):
        monkeypatch.chdir(ROOT)
        command = papermill_command("notebooks/train.ipynb", config_from({"dataset": folder}))
        assert f" -p dataset {told} " in f"{command} "


def test_a_folder_may_be_a_number_or_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Papermill hands over 2026 as a number, and nobody expands a `~` that no shell saw."""
    (cell,) = (cell for cell in nbformat.read(NOTEBOOK, 4).cells if "folder = " in cell.source)
    (source,) = re.findall(r"^run_dir = .*\nfolder = .*$", cell.source, re.MULTILINE)
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, meant in ((2026, Path("2026")), ("~/q", tmp_path / "q"), ("a", Path("a"))):
        names = {"run_dir": given, "Path": Path}
        exec(source, names)
        assert names["folder"] == meant


def test_a_switch_may_be_a_word_in_lower_case(tmp_path: Path) -> None:
    """Papermill knows `False`, and hands over `false` as text, which is true in Python: it would delete the run."""
    run = ("-p", "run_dir", str(tmp_path / "run"), "-p", "quick", "true", "-p", "variant", "maml")
    results = []
    for overwrite in ((), ("-p", "overwrite", "false")):
        done = papermill(tmp_path / "out.ipynb", *run, *overwrite)
        assert done.returncode == 0, done.stderr
        results.append(read_result(tmp_path / "run"))
    assert results[0] == results[1]  # with the time of its start
    assert results[0]["iterations"] == 8


def test_the_notebook_is_stored_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, 4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


@pytest.mark.parametrize("start_in", [ROOT, ROOT / "notebooks"], ids=["root", "notebooks"])
def test_a_quick_run_ends_with_figures_and_a_result(tmp_path: Path, start_in: Path) -> None:
    out = tmp_path / "out.ipynb"
    done = papermill(
        out, "-p", "variant", "both", "-p", "quick", "True", "-p", "run_dir", str(tmp_path / "run"), start_in=start_in
    )
    assert done.returncode == 0, done.stderr
    executed = nbformat.read(out, 4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    result = read_result(tmp_path / "run")
    assert result is not None
    assert result["config"]["variant"] == "both"
    assert 0 < result["best"]["mean"] < 1
    assert result["command"].startswith("papermill notebooks/train.ipynb")
    tables = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any(result["command"] in table for table in tables)  # whole: it is there to be copied
    assert any(f"{result['best']['mean']:.4f}" in output.get("data", {}).get("text/plain", "") for output in outputs)


def test_sinusoid_regression_runs_through_the_same_notebook(tmp_path: Path) -> None:
    settings = {
        "dataset": "sinusoid",
        "variant": "maml",
        "k_shot": "5",
        "n_query": "10",
        "inner_lr": "0.01",
        "quick": "True",
    }
    arguments = [text for name, value in settings.items() for text in ("-p", name, value)]
    done = papermill(tmp_path / "out.ipynb", *arguments, "-p", "run_dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    result = read_result(tmp_path / "run")
    assert result is not None
    assert result["metric"] == "mean squared error"


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (["-p", "variant", "bogus"], "variant='bogus' is not allowed: it must be one of maml, fomaml, low, up, both"),
        (["-p", "alpha_up", "-1"], "alpha_up=-1.0 is not allowed: it must be at least 0"),
        (["-p", "n_way", "5000"], "n_way=5000 is not allowed: it must be at most"),
        (["-p", "apha_up", "0.1"], "Did you mean alpha_up"),
        (["-p", "dataset", "omniglot", "-p", "data_root", "/nowhere"], "Omniglot"),
    ],
    ids=["variant", "radius", "ways", "unknown name", "missing data"],
)
def test_a_wrong_parameter_is_one_clear_sentence_before_any_training(
    tmp_path: Path, parameters: list[str], sentence: str
) -> None:
    run_dir = tmp_path / "run"
    done = papermill(tmp_path / "out.ipynb", *parameters, "-p", "run_dir", str(run_dir))
    assert done.returncode != 0
    assert sentence in done.stderr
    assert 'File "' not in done.stderr.partition("Exception encountered")[2]  # no stack trace of ours
    assert not run_dir.exists()


def test_an_unwritable_run_dir_is_named_and_left_alone(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("mine")
    done = papermill(tmp_path / "out.ipynb", "-p", "run_dir", str(in_the_way / "run"), "-p", "quick", "True")
    assert done.returncode != 0
    assert "run_dir=" in done.stderr
    assert "a folder that can be written" in done.stderr
    assert in_the_way.read_text() == "mine"
    assert not list(tmp_path.rglob(RESULT))
