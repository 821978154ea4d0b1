"""Where a number comes from, without saying where this machine keeps its files."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from sharp_maml_core import results

CPU = torch.device("cpu")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a package in it that is taken for ours."""
    package = tmp_path / "repository" / "package"
    package.mkdir(parents=True)
    (package / "results.py").write_text("x = 1\n")
    git(tmp_path / "repository", "init", "-q")
    git(tmp_path / "repository", "add", ".")
    git(tmp_path / "repository", "commit", "-qm", "one")
    monkeypatch.setattr(results, "SOURCE", package)
    return package


# --- the code


def test_the_commit_of_an_unchanged_checkout(checkout: Path) -> None:
    (checkout.parent / "notes.txt").write_text("not a part of the package")
    assert results.commit() == git(checkout, "rev-parse", "HEAD")


@pytest.mark.parametrize("file", ["results.py", "new.py"])
def test_changes_are_told(checkout: Path, file: str) -> None:
    (checkout / file).write_text("x = 2\n")
    assert results.commit() == git(checkout, "rev-parse", "HEAD") + "+changes"


def test_outside_a_checkout_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "SOURCE", tmp_path)
    assert results.commit() == "unknown"


def test_somebody_elses_checkout_around_us_is_not_ours(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = checkout / "site-packages"
    installed.mkdir()
    (installed / "results.py").write_text("x = 1\n")
    monkeypatch.setattr(results, "SOURCE", installed)
    assert results.commit() == "unknown"


def test_without_git_the_commit_is_unknown(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert results.commit() == "unknown"


def test_the_source_hash_changes_with_any_file_and_its_name(checkout: Path) -> None:
    hashes = {results.source_hash()}
    (checkout / "results.py").write_text("x = 2\n")
    hashes.add(results.source_hash())
    (checkout / "results.py").rename(checkout / "other.py")
    hashes.add(results.source_hash())
    assert len(hashes) == 3
    (checkout / "notes.txt").write_text("not code")
    assert results.source_hash() in hashes


# --- the command


def command_of(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    monkeypatch.setattr(sys, "orig_argv", [str(argument) for argument in arguments])
    return results.command_line()


def test_a_command_without_paths_is_told_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("python", "-m", "sharp_maml_core", "train", "--alpha-up", "-1", "--run-dir", "runs/x y")
    assert command_of(monkeypatch, *line) == "python -m sharp_maml_core train --alpha-up -1 --run-dir 'runs/x y'"


def test_folders_of_this_machine_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = command_of(
        monkeypatch,
        "/opt/somewhere/bin/python3",
        tmp_path / "train.py",
        tmp_path / "runs" / "x",
        f"--run-dir={tmp_path / 'runs'}",
        "/data/omniglot",
        "--data-root=/data/images",
    )
    assert told == "python3 train.py runs/x --run-dir=runs .../omniglot --data-root=.../images"


def test_a_given_command_is_told_instead() -> None:
    assert results.provenance(CPU, "papermill train.ipynb out.ipynb")["command"] == "papermill train.ipynb out.ipynb"
    assert results.provenance(CPU)["command"] == results.command_line()


# --- the machine


def test_who_only_tested_did_no_work() -> None:
    sessions = [{"device": name, "from_iteration": begun} for name, begun in (("a", 0), ("b", 4), ("c", 4), ("d", 9))]
    assert [each["device"] for each in results.worked(sessions, 9)] == ["a", "c"]
    assert results.worked([], 9) == []
    assert results.devices(sessions, 9) == "a and c"


def test_a_session_of_a_stack_says_how_many_runs_it_had() -> None:
    origin = results.provenance(CPU)
    alone = results.session(origin, 3)
    assert (alone["processes"], alone["from_iteration"]) == (1, 3)
    assert "stack" not in alone
    assert results.session(origin | {"stack": {"runs": ["a", "b"]}}, 3) == alone | {"stack": 2}


def test_packages_are_those_that_are_installed() -> None:
    packages = results.provenance(CPU)["packages"]
    assert packages["torch"] == version("torch")
    assert {"numpy", "safetensors"} <= packages.keys()


def test_the_time_is_utc() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", results.provenance(CPU)["started"])


def test_the_cpu_has_a_name_and_its_cores() -> None:
    assert re.fullmatch(r"\S.*, \d+ cores", results.device_name(CPU))
    assert results.provenance(CPU)["device"] == results.device_name(CPU)


def test_a_mac_is_named_by_its_chip_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    monkeypatch.setattr(subprocess, "run", lambda line, **options: subprocess.CompletedProcess(line, 0, "Apple M2\n"))
    assert results.device_name(CPU).startswith("Apple M2, ")

    def no_sysctl(*arguments: object, **options: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", no_sysctl)
    assert results.device_name(CPU).startswith("arm, ")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_has_a_name() -> None:
    assert results.device_name(torch.device("cuda")) == torch.cuda.get_device_name()
