"""The small print under a figure names all that computed it, also of a run that went on elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from builder import BOOK

sys.path.insert(0, str(BOOK / "_ext"))
stamps: Any = pytest.importorskip("stamps", reason="the extra `notebooks` is not installed")

LAST = {"command": "python -m x", "seed": 0, "iterations": 600, "source_sha256": "b" * 64, "device": "a CPU, 2 cores"}


def session(iteration: int, device: str, source: str) -> dict[str, Any]:
    return {"from_iteration": iteration, "device": device, "source_sha256": 64 * source}


def stamp(folder: Path, *results: dict[str, Any]) -> str:
    for number, result in enumerate(results):
        (folder / f"run-{number}.json").write_text(json.dumps(result))
    said: str = stamps.of_results(folder, ["run-*"])
    return said.partition(". Stored")[0]


def test_a_run_is_credited_to_the_sessions_that_did_its_iterations(tmp_path: Path) -> None:
    sessions = [session(0, "a GPU", "a"), session(600, "a CPU, 2 cores", "b")]
    assert stamp(tmp_path, LAST | {"sessions": sessions}) == "`python -m x`; seed 0; source aaaaaaaa; a GPU"
    sessions = [session(0, "a GPU", "a"), session(300, "a GPU", "a"), session(400, "a CPU, 2 cores", "b")]
    told = "source aaaaaaaa, bbbbbbbb; a GPU and a CPU, 2 cores"
    assert stamp(tmp_path, LAST | {"sessions": sessions}) == f"`python -m x`; seed 0; {told}"


def test_seconds_are_added_up_on_one_device_only(tmp_path: Path) -> None:
    of_a_gpu = LAST | {"seconds": 2.0, "sessions": [session(0, "a GPU", "a")]}
    assert stamp(tmp_path, of_a_gpu, of_a_gpu).endswith("; a GPU; 4 s")
    assert stamp(tmp_path, of_a_gpu, LAST | {"seconds": 3.0}).endswith("; a GPU and a CPU, 2 cores")


def test_without_sessions_it_is_what_the_result_says_and_nothing_is_said_twice(tmp_path: Path) -> None:
    older, of_a_slice = LAST, {"provenance": LAST}
    newer = LAST | {"sessions": [session(0, "a GPU", "b")]}
    told = "source bbbbbbbb; a CPU, 2 cores and a GPU"
    assert stamp(tmp_path, older, of_a_slice, newer) == f"`python -m x`; seed 0; {told}"
