"""Notebook pages show what the notebook computes: papermill runs it once, with the parameters that _config.yml names.

`executed_notebooks` maps a page to its parameters. What came out is kept under `book/.executed`, by a hash of the
notebook, the parameters and the package, so that a build in which none of them changed runs nothing.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import papermill
from sphinx.application import Sphinx
from sphinx.util import logging

from sharp_maml_core.results import source_hash

LOG = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    """Read the executed notebook instead of the stored one."""
    app.add_config_value("executed_notebooks", {}, "env", dict)
    app.connect("source-read", replace_by_executed)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def replace_by_executed(app: Sphinx, page: str, source: list[str]) -> None:
    """Give the page's source as executed, with a line on top that says how."""
    if page not in app.config.executed_notebooks:
        return
    parameters = app.config.executed_notebooks[page]
    path = Path(app.srcdir) / f"{page}.ipynb"
    key = hashlib.sha256(
        "\0".join([path.read_text(), json.dumps(parameters, sort_keys=True), source_hash()]).encode()
    ).hexdigest()
    kept = Path(app.srcdir) / ".executed" / f"{path.stem}-{key[:16]}.ipynb"
    if not kept.exists():
        LOG.info("running %s with %s", page, parameters)
        _run(path, parameters, kept)
    notebook = nbformat.read(kept, 4)
    _fold(notebook)
    command = " ".join([f"papermill notebooks/{path.name} out.ipynb", *(f"-p {k} {v}" for k, v in parameters.items())])
    note = f"```{{note}}\nExecuted for this page by `{command}`.\n```"
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(note, id="executed-by"))
    source[0] = nbformat.writes(notebook)


def _run(path: Path, parameters: dict[str, Any], kept: Path) -> None:
    kept.parent.mkdir(exist_ok=True)
    for old in kept.parent.glob(f"{path.stem}-*.ipynb"):
        old.unlink()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / path.name
        papermill.execute_notebook(path, out, parameters, cwd=path.resolve().parents[1], progress_bar=False)
        notebook = nbformat.read(out, 4)
    nbformat.write(notebook, kept)


def _fold(notebook: nbformat.NotebookNode) -> None:
    """What a reader may skip is folded away, what papermill put in is said above: leave it out."""
    tagged = [(cell, cell.metadata.get("tags", [])) for cell in notebook.cells]
    notebook.cells = [cell for cell, tags in tagged if "injected-parameters" not in tags]
    for cell, tags in tagged:
        if {"bootstrap", "parameters"} & set(tags):
            cell.metadata.tags = [*tags, "hide-cell"]
