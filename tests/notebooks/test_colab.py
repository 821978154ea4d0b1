"""A notebook in Colab: no checkout, torch already there, and a first cell that fetches the package from a repository.

Colab is simulated: a bare folder, a fresh virtual environment that sees the installed packages but not this one, and a
local repository of the sources as they lie here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("sharp_maml_core", "pyproject.toml", "README.md", "LICENSE")


def run(*line: str | Path, cwd: Path, **surroundings: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GIT_"))}
    done = subprocess.run(
        list(map(str, line)),
        cwd=cwd,
        env=clean | surroundings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("git") is None:
        assert "CI" not in os.environ, "git is missing"
        pytest.skip("git is not installed")
    folder = tmp_path_factory.mktemp("repository")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    run("git", "init", "-q", "-b", "main", cwd=folder)
    run("git", "add", "-A", cwd=folder)
    run("git", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-q", "-m", "all", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a virtual environment with what is installed here; a .pth file shows it no editable installation."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (own / "colab.pth").write_text(sysconfig.get_path("purelib") + "\n")
    found = folder / "bin" / "python"
    run(found, "-m", "pip", "uninstall", "-q", "-y", "setuptools", cwd=folder)  # Python 3.11 brings an old one
    finds = run(found, "-c", "import importlib.util as u; print(u.find_spec('sharp_maml_core'))", cwd=folder)
    assert finds.strip() == "None"
    return found


def test_the_first_cell_installs_the_package_and_no_torch_and_the_notebook_runs(
    repository: Path, python: Path, tmp_path: Path
) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "train.ipynb", 4)
    (cell,) = (cell for cell in notebook.cells if "bootstrap" in cell.metadata.get("tags", []))
    cell.source, changes = re.subn(
        r'^REPOSITORY = ".*?"', f'REPOSITORY = "git+{repository.as_uri()}"', cell.source, flags=re.M
    )
    assert changes == 1
    nbformat.write(notebook, tmp_path / "train.ipynb")
    # What is needed is there, as it is in Colab or after its first cell: no registry is asked, so none has to be near.
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "OMP_NUM_THREADS": "1"}
    offline |= {"JUPYTER_PATH": str(python.parents[1] / "share" / "jupyter"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    run(python, "-m", "ipykernel", "install", "--sys-prefix", cwd=tmp_path)
    settings = ["-p", "quick", "True", "-p", "run_dir", "run"]
    run(python, "-m", "papermill", "train.ipynb", "out.ipynb", *settings, "--no-progress-bar", cwd=tmp_path, **offline)
    assert (tmp_path / "run" / "result.json").is_file()
    where = "import sharp_maml_core, torch; print(sharp_maml_core.__file__, torch.__file__, sep='\\n')"
    ours, torchs = run(python, "-c", where, cwd=tmp_path).split()
    assert Path(ours).is_relative_to(python.parents[1])
    assert not Path(torchs).is_relative_to(python.parents[1])
    own = Path(ours).parents[1]
    assert {path.name.partition("-")[0] for path in own.glob("*.dist-info")} <= {"pip", "sharp_maml_core"}
