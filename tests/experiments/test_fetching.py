"""`python -m experiments fetch`: the data of what is missing, once and before any run."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny

import experiments.__main__ as command_line
from sharp_maml_core.errors import UserError

CELLS = """
[[group]]
name = "real"
schedule = "tiny"
seeds = [0, 1]
like = "g"
cell = [{ variant = "maml", dataset = ["omniglot", "fc100"] }]
"""


def test_the_data_of_missing_runs_are_fetched_once_each_and_all_troubles_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, str]] = []

    def load_split(dataset: str, split: str, *, download: bool) -> None:
        assert download
        asked.append((dataset, split))
        if dataset == "omniglot":
            raise UserError("omniglot could not be fetched.")

    monkeypatch.setattr(command_line, "load_split", load_split)
    store, _ = tiny(tmp_path)
    store.cells.write_text(store.cells.read_text() + CELLS)
    assert command_line.main(["fetch", "real", *store.arguments]) == 2
    assert asked == [("omniglot", "train"), *(("fc100", split) for split in ("train", "val", "test"))]
    said = capsys.readouterr()
    assert said.out == "fc100: there\n"
    assert said.err == "experiments: omniglot could not be fetched.\n"


def test_glyphs_need_no_fetching(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, _ = tiny(tmp_path)
    assert command_line.main(["fetch", "g", *store.arguments]) == 0
    assert capsys.readouterr().out == "glyphs: there\n"
