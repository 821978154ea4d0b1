"""Notebooks as the book executes them: once for the book and these tests, by papermill, in small settings."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
sys.path.insert(0, str(ROOT / "book" / "_ext"))


@pytest.fixture(scope="session")
def executed() -> Callable[[str], Any]:
    """A notebook by its name, executed with the parameters that book/_config.yml gives it."""
    execution = pytest.importorskip("execution", reason="the extra `notebooks` is not installed")
    config = yaml.safe_load((ROOT / "book" / "_config.yml").read_text())["sphinx"]["config"]["executed_notebooks"]

    def notebook(name: str) -> Any:
        return execution.executed(name, config[name])

    return notebook
