"""The benchmark of stacks runs and reports what it measured; how fast is for a person to judge."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import stacked


def test_the_benchmark_writes_its_figures_with_their_provenance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stacked, "keep_freed_memory", lambda: None)  # this process goes on after it
    monkeypatch.setattr(
        sys, "argv", ["stacked", "--quick", "--runs", "1", "2", "--rounds", "1", "--out", str(tmp_path)]
    )
    stacked.main()
    (file,) = tmp_path.glob("stacked-*.json")
    written = json.loads(file.read_text())
    assert {"command", "device", "commit", "packages", "rounds", "results"} <= set(written)
    (by_runs,) = written["results"].values()
    for figures in by_runs.values():
        assert figures["speed_up"] == figures["in turn"]["median"] / figures["stacked"]["median"]
    assert stacked.report(written["results"]) in file.with_suffix(".md").read_text()
    assert "| 2 |" in capsys.readouterr().out
