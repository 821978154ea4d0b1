"""A build goes on from the last one only where nothing but pages changed; else it starts from nothing.

Sphinx knows which pages depend on which text. It does not know what the directives of this book compute from, so
whenever one of these files changes, or one of these packages, all pages are made anew; executed notebooks are kept by
their own rule (execution.py). A build with a warning is not gone on from: the pages that were right would hide it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import execution
from sphinx.application import Sphinx

BUILDING = ("sphinx", "myst-parser", "myst-nb", "jupyter-book", "sphinx-book-theme", "pydata-sphinx-theme")
DECIDING = ("sharp_maml_core", "notebooks", "benchmarks", "pyproject.toml")
PAGES = (".md",)


def setup(app: Sphinx) -> dict[str, Any]:
    """Look before Sphinx reads what it knows of the last build."""
    app.connect("config-inited", begin)
    app.connect("build-finished", remember)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def begin(app: Sphinx, config: Any) -> None:
    """Away with what other sources made."""
    app.made_of = made_of(Path(app.srcdir))  # type: ignore[attr-defined]  # now: it may change while the book is built
    record = Path(app.doctreedir) / "made-of"
    if record.is_file() and record.read_text() == app.made_of:
        return
    for folder in (Path(app.outdir), Path(app.doctreedir)):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)


def remember(app: Sphinx, error: Exception | None) -> None:
    """Only a build without a warning is one to go on from."""
    record = Path(app.doctreedir) / "made-of"
    if error is None and not app._warncount:
        record.write_text(app.made_of)
    else:
        record.unlink(missing_ok=True)


def made_of(book: Path) -> str:
    """A hash of everything but the text of pages."""
    files = [path for name in DECIDING for path in _files(execution.ROOT / name)]
    files += [path for path in _files(book) if path.parent != book or path.suffix not in PAGES]
    digest = hashlib.sha256(json.dumps([execution.environment(), [version(name) for name in BUILDING]]).encode())
    for path in sorted(files):
        digest.update(str(path).encode() + b"\0" + path.read_bytes() + b"\0")
    for path in sorted((execution.ROOT / "tests").rglob("*.py")):  # pages name tests, and show nothing of them
        names = re.findall(r"^def \w+", path.read_text(encoding="utf-8"), re.MULTILINE)
        digest.update("\0".join([path.relative_to(execution.ROOT).as_posix(), *names]).encode())
    return digest.hexdigest()


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    found = (path for path in place.rglob("*") if path.is_file())
    return [path for path in found if not {"_build", ".executed", "__pycache__"} & set(path.relative_to(place).parts)]
