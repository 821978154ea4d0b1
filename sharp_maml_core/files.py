"""Files that are whole or not there: write beside, flush to disk, then rename."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` when the block ends well and vanishes when it does not.

    It lies in a folder of its own beside `path`, since a library that writes may put files of its own next to it
    (safetensors does): whoever is killed here leaves `.<name>-*` and nothing else, for `remove_halves`.
    """
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent, ignore_cleanup_errors=True) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)


def remove_halves(folder: Path, pattern: str) -> None:
    """Remove what processes that were killed had begun to write in `folder` under names like `pattern`."""
    for half in folder.glob(f".{pattern}-*"):
        remove(half)


def remove(path: Path) -> None:
    """Remove a file or a folder, where it is there. Of a link the link goes, and what it points to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
