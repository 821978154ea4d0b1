"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sharp_maml_core.files import atomic, remove_halves, write_json, write_text


def test_the_file_holds_what_was_written(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "naïve\n")
    write_text(tmp_path / "a.txt", "ε\n")
    assert (tmp_path / "a.txt").read_bytes() == "ε\n".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_middle_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_killed_in_the_middle_the_old_file_is_whole_and_the_half_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    program = f"""
import os, signal
from pathlib import Path
from sharp_maml_core.files import atomic
with atomic(Path({str(path)!r})) as temporary:
    temporary.write_text("half of the n")
    (temporary.parent / ".tmpcwCQq9").write_text("what a library writes beside it")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    package = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(package)})
    assert done.returncode == -9
    assert path.read_text() == "old"
    remove_halves(tmp_path, "a.txt")
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "")
    finally:
        assert os.umask(before) == umask  # and it is left as it was
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    value = {"a": [1, 0.1, None, "ε"], "b": {}}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_json_has_not(tmp_path: Path, value: float) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": value})
    assert (tmp_path / "a.json").read_text() == "1\n"
