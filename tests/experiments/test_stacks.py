"""A grid of cells is one launch: its runs are those of their cells, and what goes wrong with one costs no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import tiny

from experiments import __main__ as command_line
from experiments import cells, stacks
from experiments.store import DIVERGED, DONE, Store, collect
from sharp_maml_core import UserError, published, run_experiment, stacked
from sharp_maml_core.errors import Diverged


def test_seeds_and_radii_are_together_and_other_lengths_are_not(tmp_path: Path) -> None:
    store, runs = tiny(tmp_path)
    together = stacks.stacks(list(runs.values()), store)
    assert [[run.name for run in stack] for stack in together] == [
        ["g-maml-seed0", "g-maml-seed1"],
        ["g-both-seed0", "g-both-seed1"],
        ["long-maml-seed0"],
    ]


def test_what_cannot_be_one_stack_is_several(tmp_path: Path) -> None:
    path = tiny(tmp_path)[0].cells
    path.write_text(
        path.read_text().replace('{ variant = "maml" },', '{ variant = "maml", snapshots = [true, false] },')
    )
    store, runs = Store(tmp_path / "runs", tmp_path / "results", path), cells.runs(cells.load(path))
    for together in stacks.stacks(runs, store):
        stacked.check_stack([run.cell.config(run.seed, "cpu") for run in together])


def test_one_launch_makes_the_results_that_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, runs = tiny(tmp_path)
    first = runs["g-both-seed0"]
    run_experiment(first.cell.config(0, "cpu"), store.folder(first), progress=False)
    alone = collect(first, store)
    assert command_line.main(["stack", "g", "--device", "cpu", "--quiet", *store.arguments]) == 0
    assert [store.state(run) for run in runs.values() if run.cell.group == "g"] == 4 * [DONE]
    results = {f"{run['cell']['name']}-seed{run['seed']}": run for run in published.load(store.results)}
    assert results["g-both-seed0"] == alone  # it was there, and is as it was
    assert results["g-maml-seed1"]["stack"]["runs"] == ["g-maml-seed0", "g-maml-seed1"]
    assert results["g-both-seed1"]["stack"]["runs"] == ["g-both-seed1"]
    assert "begun    2 together: g-maml-seed0, g-maml-seed1" in capsys.readouterr().out
    assert command_line.main(["stack", "g", "--device", "cpu", *store.arguments]) == 0
    assert capsys.readouterr().out == ""


def test_a_run_that_diverges_is_noted_and_the_others_are_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, runs = tiny(tmp_path)
    bad, good = runs["g-maml-seed0"], runs["g-maml-seed1"]

    def run_stack(configs: object, *, folders: list[Path], **options: object) -> None:
        run_experiment(good.cell.config(1, "cpu"), folders[1], progress=False)
        raise Diverged("g-maml-seed0: not finite", {folders[0]: "not finite"})

    monkeypatch.setattr(stacks, "run_stack", run_stack)
    said: list[str] = []
    assert stacks.work([bad, good], store, device="cpu", progress=False, say=said.append) == ["g-maml-seed0"]
    assert (store.state(bad), store.state(good)) == (DIVERGED, DONE)
    assert [line.split()[0] for line in said] == ["begun", "diverged", "done"]


def test_a_note_that_cannot_be_written_costs_no_other_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, runs = tiny(tmp_path)
    bad, good = runs["g-maml-seed0"], runs["g-maml-seed1"]

    def run_stack(configs: object, *, folders: list[Path], **options: object) -> None:
        run_experiment(good.cell.config(1, "cpu"), folders[1], progress=False)
        raise Diverged("g-maml-seed0: not finite", {folders[0]: "not finite"})

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stacks, "run_stack", run_stack)
    monkeypatch.setattr(stacks, "note_partial", full)
    said: list[str] = []
    assert stacks.work([bad, good], store, device="cpu", progress=False, say=said.append) == ["g-maml-seed0"]
    assert store.state(good) == DONE
    assert [line.split()[0] for line in said] == ["begun", "diverged", "unnoted", "done"]


def test_each_of_several_that_diverge_is_noted_with_its_own_reason(tmp_path: Path) -> None:
    path = tiny(tmp_path)[0].cells
    path.write_text(path.read_text().replace("inner_steps = 1", "inner_steps = 1, inner_lr = 1e30"))
    store, runs = Store(tmp_path / "runs", tmp_path / "results", path), cells.runs(cells.load(path))
    bad, said = [run for run in runs if run.cell.name == "g-maml"], []
    assert stacks.work(bad, store, device="cpu", progress=False, say=said.append) == ["g-maml-seed0", "g-maml-seed1"]
    for run, line in zip(bad, said[1:], strict=True):
        reason = json.loads(store.partial_path(run).read_text())["diverged"]
        assert reason.startswith("Training diverged at iteration 1: ")
        assert reason.count("diverged") == 1
        assert line == f"diverged {run.name}: {reason}"


def test_an_interrupted_launch_names_the_folder_that_it_goes_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    store, runs = tiny(tmp_path)
    monkeypatch.setattr(stacked, "train_stack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stacks.work([runs["g-maml-seed0"]], store, device="cpu", progress=False)
    assert f"goes on from {store.runs}." in capsys.readouterr().err


def test_what_only_the_user_can_mend_is_said_and_costs_no_other(tmp_path: Path) -> None:
    store, runs = tiny(tmp_path)
    cut, broken, good = runs["g-maml-seed0"], runs["g-maml-seed1"], runs["g-both-seed0"]
    store.results.mkdir()
    store.path(cut).write_text("{")
    store.folder(broken).mkdir(parents=True)
    (store.folder(broken) / "result.json").write_text("{")
    said: list[str] = []
    failed = stacks.work([cut, broken, good], store, device="cpu", progress=False, say=said.append)
    assert failed == [cut.name, broken.name]
    assert said[0].startswith(f"{store.path(cut)} is damaged")
    assert said[2].startswith(f"failed   {broken.name}: {store.folder(broken) / 'result.json'} is damaged")
    assert store.state(good) == DONE


def test_what_cannot_be_stacked_is_refused_before_any_work(tmp_path: Path) -> None:
    store, _ = tiny(tmp_path)
    store.cells.write_text(store.cells.read_text().replace('variant = "both"', 'variant = "reptile"'))
    assert command_line.main(["stack", "g", *store.arguments]) == 2
    assert not store.runs.exists()
    config = command_line.cells.load(store.cells)[0].config(0, "cpu")
    with pytest.raises(UserError, match=r"folders=.* it must be 1 folders"):
        stacked.run_stack([config], folders=[tmp_path / "a", tmp_path / "b"])
