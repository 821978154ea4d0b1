"""Notebooks as executed, kept as long as nothing that decides what comes out has changed.

`executed("lemma1", {"quick": True})` has papermill run it once and keeps it under `book/.executed`, with a hash of its
code, its parameters and the versions of what it computes with, and one of each file that it read: the modules that
were loaded and the results that were opened (watched.py). Prose of a notebook may change without a new run, and so may
a module that it does not use. Several processes may ask for one notebook: the first runs it, the others wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import nbformat
from papermill.inspection import inspect_notebook

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
KEPT = ROOT / "book" / ".executed"
COMPUTING = ("torch", "numpy", "scipy", "sympy", "pandas", "matplotlib", "seaborn", "pillow", "ipykernel", "papermill")
NOTES = "notes"  # the id of the cell that watched.end fills, and the name of what is kept of it


class FailedNotebook(RuntimeError):
    """A notebook that did not run to its end."""


def executed(name: str, parameters: Mapping[str, Any]) -> nbformat.NotebookNode:
    """The notebook of this name with outputs, and metadata["notes"] of how they came about; its prose is today's.

    Raises FailedNotebook, with what papermill said.
    """
    KEPT.mkdir(exist_ok=True)
    with (KEPT / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path, key = KEPT / f"{name}.ipynb", _key(name, parameters)
        if not _is_valid(path, key):
            _run(name, parameters, key, path)
        found = nbformat.read(path, 4)
    prose = {cell.id: cell for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells}
    outputs = {cell.id: cell for cell in found.cells}
    found.cells = [outputs[id_] if cell.cell_type == "code" else cell for id_, cell in prose.items()]
    for cell in found.cells:
        cell.metadata.tags = prose[cell.id].metadata.get("tags", [])
    return found


def command(name: str, parameters: Mapping[str, Any]) -> str:
    """The command that a reader gives to get the same."""
    return " ".join([f"papermill notebooks/{name}.ipynb out.ipynb", *(f"-p {k} {v}" for k, v in parameters.items())])


def environment() -> dict[str, str]:
    """Versions of what notebooks compute with."""
    return {"python": platform.python_version()} | {name: _version(name) for name in COMPUTING}


def _key(name: str, parameters: Mapping[str, Any]) -> str:
    cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells
    code = [[cell.id, cell.source] for cell in cells if cell.cell_type == "code"]
    own = [(Path(__file__).parent / file).read_text(encoding="utf-8") for file in ("execution.py", "watched.py")]
    return _sha256(json.dumps([code, dict(parameters), environment(), own], sort_keys=True).encode())


def _is_valid(path: Path, key: str) -> bool:
    if not path.exists():
        return False
    notes = nbformat.read(path, 4).metadata[NOTES]
    return notes["key"] == key and all(_state(ROOT / name) == state for name, state in notes["depends"].items())


def _state(path: Path) -> str:
    """A hash of a file, or of the names in a folder."""
    if path.is_dir():
        return _sha256("\n".join(sorted(one.name for one in path.iterdir())).encode())
    return _sha256(path.read_bytes()) if path.is_file() else "gone"


def _run(name: str, parameters: Mapping[str, Any], key: str, kept: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        prepared, out = Path(scratch) / "prepared.ipynb", Path(scratch) / "out.ipynb"
        nbformat.write(_prepared(name), prepared)
        line = [sys.executable, "-m", "papermill", prepared, out, "--no-progress-bar", "--cwd", ROOT]
        # One thread: the same numbers on every machine with the same processor, and room for another notebook.
        surroundings = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"} | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*map(str, line), "-y", json.dumps(dict(parameters))],
            env=surroundings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise FailedNotebook(f"{command(name, parameters)} failed:\n{done.stderr[-3000:]}")
        notebook = nbformat.read(out, 4)
    notebook.metadata[NOTES] = _notes(notebook, key)
    notebook.cells = [cell for cell in notebook.cells if cell.id not in ("watch", NOTES)]
    notebook.metadata.pop("papermill", None)  # it names folders of this machine
    temporary = kept.with_suffix(".part")
    nbformat.write(notebook, temporary)
    temporary.replace(kept)


def _prepared(name: str) -> nbformat.NotebookNode:
    """The notebook between two cells of ours, which watch it."""
    path = NOTEBOOKS / f"{name}.ipynb"
    notebook = nbformat.read(path, 4)
    folder = str(Path(__file__).parent)
    begin = f"import sys; sys.path.insert(0, {folder!r}); import watched; sys.path.pop(0); watched.begin({str(ROOT)!r})"
    end = f"watched.end({str(ROOT)!r}, {list(inspect_notebook(path))!r})"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(begin, id="watch"))
    notebook.cells.append(nbformat.v4.new_code_cell(end, id=NOTES))
    return notebook


def _notes(notebook: nbformat.NotebookNode, key: str) -> dict[str, Any]:
    (cell,) = (cell for cell in notebook.cells if cell.id == NOTES)
    found = cell.outputs[0].data["application/json"]
    depends = {name: _state(ROOT / name) for name in (*found.pop("files"), *found.pop("folders"))}
    seconds = {cell.id: cell.metadata.papermill.duration for cell in notebook.cells if cell.cell_type == "code"}
    return {**found, "key": key, "depends": depends, "seconds": seconds}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
