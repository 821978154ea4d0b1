"""How the tests build the book."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
BOOK = ROOT / "book"


def build(source: Path, output: Path) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Build as `make book` does."""
    program = Path(sys.executable).parent / "jupyter-book"
    command = [program, "build", "-W", "-n", "--keep-going", "--path-output", output, source]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    run = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return run, output / "_build" / "html"
