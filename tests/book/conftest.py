"""The book, built once for all tests, whichever process they run in."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from builder import BOOK, build


@pytest.fixture(scope="session")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("jupyter_book", reason="the extra `book` is not installed")
    everybodys = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        everybodys = everybodys.parent
    output = everybodys / "book"
    with (everybodys / "book.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = output / "_build" / "html"
        if not (output / "done").exists():
            run, _ = build(BOOK, output)
            assert run.returncode == 0, run.stdout + run.stderr
            (output / "done").touch()
    return built
