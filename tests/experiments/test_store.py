"""A result file is whole, of its cell, and there once; what is not finished is never among the results."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import tiny

from experiments import __main__ as command_line
from experiments import cells, worker
from experiments import store as stores
from experiments.cells import Run
from experiments.store import (
    BEGUN,
    DAMAGED,
    DIVERGED,
    DONE,
    MISSING,
    OTHER,
    Store,
    collect,
    in_use,
    note_partial,
    progress,
)
from sharp_maml_core import UserError, files, published, results, run_experiment, rundir
from sharp_maml_core.data import SPLITS


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Run]]:
    """A finished and collected run, g-maml-seed0, and one of which only the run folder is there, g-both-seed0."""
    store, runs = tiny(tmp_path_factory.mktemp("place"))
    for name in ("g-maml-seed0", "g-both-seed0"):
        run_experiment(runs[name].cell.config(0, "cpu"), store.folder(runs[name]), progress=False)
    collect(runs["g-maml-seed0"], store)
    return store, runs


def test_a_result_has_what_the_run_said_and_where_it_belongs(place: tuple[Store, dict[str, Run]]) -> None:
    store, runs = place
    (result,) = published.load(store.results)
    said = json.loads((store.folder(runs["g-maml-seed0"]) / rundir.RESULT).read_text())
    assert {name: result[name] for name in said} == said
    assert result["cell"] == {"name": "g-maml", "group": "g", "schedule": "tiny"}
    assert [iteration for iteration, _ in result["validations"]] == [3, 6]
    assert result["train"]["tasks"] == 20
    assert {name: result["train"][name] for name in ("commit", "source_sha256")} == {
        "commit": results.commit(),
        "source_sha256": results.source_hash(),
    }
    assert published.setting_of(result) == ("glyphs", 3, 1, "maml", "tiny")


def test_the_answers_are_the_test_scores(place: tuple[Store, dict[str, Run]]) -> None:
    store, runs = place
    (result,) = published.load(store.results)
    lines = (store.folder(runs["g-maml-seed0"]) / rundir.SCORES).read_text().splitlines()[1:]
    assert published.scores(result).tolist() == pytest.approx([100 * float(line.split(",")[1]) for line in lines])
    assert published.scores(result).mean() == pytest.approx(100 * result["best"]["mean"])


def test_states(place: tuple[Store, dict[str, Run]], tmp_path: Path) -> None:
    store, runs = place
    assert [store.state(runs[f"g-{name}"]) for name in ("maml-seed0", "both-seed0", "maml-seed1")] == [
        DONE,
        BEGUN,
        MISSING,
    ]
    text = store.path(runs["g-maml-seed0"]).read_text()
    elsewhere = Store(store.runs, tmp_path)
    elsewhere.path(runs["g-maml-seed0"]).write_text(text[: len(text) // 2])
    assert elsewhere.state(runs["g-maml-seed0"]) == DAMAGED
    elsewhere.path(runs["g-both-seed0"]).write_text(text)
    assert elsewhere.state(runs["g-both-seed0"]) == OTHER
    elsewhere.path(runs["g-maml-seed1"]).write_text(text)
    assert elsewhere.state(runs["g-maml-seed1"]) == OTHER  # it is seed 0's


def test_collecting_twice_gives_one_file(place: tuple[Store, dict[str, Run]]) -> None:
    store, runs = place
    before = store.path(runs["g-maml-seed0"]).read_bytes()
    collect(runs["g-maml-seed0"], store)
    assert [path.read_bytes() for path in store.results.glob("*.json")] == [before]


def test_only_a_finished_run_of_the_cell_is_collected(place: tuple[Store, dict[str, Run]], tmp_path: Path) -> None:
    store, runs = place
    with pytest.raises(UserError, match=r"g-maml-seed1.*finished"):
        collect(runs["g-maml-seed1"], store)
    folder = Store(tmp_path, store.results).folder(runs["g-maml-seed1"])
    folder.mkdir()
    for path in store.folder(runs["g-maml-seed0"]).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="seed 0 is now 1"):
        collect(runs["g-maml-seed1"], Store(tmp_path, store.results))
    (folder / rundir.RESULT).write_text('{"best": ')
    with pytest.raises(UserError, match="damaged"):
        collect(runs["g-maml-seed1"], Store(tmp_path, store.results))


def test_a_run_on_a_folder_of_images_is_collected_and_done(tmp_path: Path) -> None:
    """Its settings name the folder with the way to it, its result.json by its last name."""
    images, draw = tmp_path / "data" / "images", np.random.default_rng(0)
    for split in SPLITS:
        for name in "abc":
            (images / split / f"{split}-{name}").mkdir(parents=True)
            for number in range(4):
                pixels = draw.integers(0, 256, (28, 28), dtype=np.uint8)
                Image.fromarray(pixels).save(images / split / f"{split}-{name}" / f"{number}.png")
    store, _ = tiny(tmp_path)
    store.cells.write_text(store.cells.read_text().replace('"glyphs"', json.dumps(str(images))))
    run, *_ = cells.runs(cells.load(store.cells))
    run_experiment(run.cell.config(0, "cpu"), store.folder(run), progress=False)
    assert collect(run, store, "cpu")["config"]["dataset"] == "images"
    assert store.state(run) == DONE
    store.cells.write_text(store.cells.read_text().replace("images", "others"))
    run, *_ = cells.runs(cells.load(store.cells))
    assert store.state(run) == OTHER
    with pytest.raises(UserError, match="dataset 'images' is now 'others'"):
        collect(run, store, "cpu")


def test_scores_that_the_run_did_not_write_are_refused(place: tuple[Store, dict[str, Run]], tmp_path: Path) -> None:
    store, runs = place
    source, folder = store.folder(runs["g-both-seed0"]), tmp_path / "g-both-seed0"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    scores = folder / rundir.SCORES
    scores.write_text("\n".join(scores.read_text().splitlines()[:-3]) + "\n")
    with pytest.raises(UserError, match="not what the run wrote"):
        collect(runs["g-both-seed0"], Store(tmp_path, tmp_path / "results"))
    assert not (tmp_path / "results").exists()


def test_a_full_disk_loses_nothing(place: tuple[Store, dict[str, Run]], monkeypatch: pytest.MonkeyPatch) -> None:
    store, runs = place
    run = runs["g-maml-seed0"]
    before = store.path(run).read_bytes()

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", fsync)
        with pytest.raises(
            UserError, match=r"g-maml-seed0\.json could not be written \(No space left.*the same command"
        ):
            collect(run, store)
    assert [(path.name, path.read_bytes()) for path in store.results.iterdir()] == [("g-maml-seed0.json", before)]


def test_a_partial_run_is_marked_and_is_no_result(place: tuple[Store, dict[str, Run]], tmp_path: Path) -> None:
    store, runs = place
    run, other = runs["g-both-seed0"], Store(store.runs, tmp_path)
    assert note_partial(run, other, "cpu") == 6
    partial: dict[str, Any] = json.loads(other.partial_path(run).read_text())
    assert partial["partial"] is True
    assert (partial["iterations"], partial["of"]) == (6, 6)
    assert [each["from_iteration"] for each in partial["sessions"]] == [0]
    assert published.load(tmp_path) == []
    assert [found["cell"]["name"] for found in other.measured()] == ["g-both"]
    collect(run, other)
    assert not other.partial_path(run).exists()
    assert len(published.load(tmp_path)) == 1


@pytest.mark.parametrize(
    ("more", "counts"),
    [
        ({}, True),
        ({"sessions": [("this", 0)]}, True),
        ({"sessions": [("this", 0), ("this", 4), ("another", 6)]}, True),  # which has tested it, and no more
        ({"sessions": [("another", 0), ("this", 6)]}, False),
        ({"sessions": [("another", 0), ("this", 4)]}, False),
        ({"sessions": [("this", 0), ("another", 4), ("this", 5)]}, False),
        ({"stack": {"runs": ["g-maml-seed0", "g-maml-seed1"]}}, False),
        ({"sessions": [("this", 0), ("this", 4)], "begun": {"stack": 2}}, False),  # and gone on with alone
        ({"sessions": [("this", 0), ("this", 4)], "begun": {"processes": 2}}, False),
        ({"sessions": [("this", 0), ("this", 4)], "begun": {"processes": 1}}, True),
        ({"processes": 1}, True),
        ({"processes": 2}, False),
    ],
)
@pytest.mark.parametrize("folder", [".", stores.PARTIAL])
def test_what_an_iteration_takes_is_told_by_runs_of_one_device_alone(
    tmp_path: Path, folder: str, more: dict[str, Any], counts: bool
) -> None:
    store, runs = tiny(tmp_path)
    figures = {"cell": {"name": "g-maml"}, "iterations": 6, "seconds_per_iteration": 0.06, "device": "this"} | more
    if "sessions" in more:
        figures["sessions"] = [{"device": device, "from_iteration": start} for device, start in more["sessions"]]
        figures["sessions"][0] |= more.get("begun", {})
    (store.results / folder).mkdir(parents=True)
    config = runs["g-maml-seed0"].cell.config(0).to_dict()
    (store.results / folder / "g-maml-seed0.json").write_text(json.dumps(figures | {"config": config}))
    assert len(store.measured()) == counts


def test_a_partial_file_that_somebody_takes_away_meanwhile_tells_nothing(tmp_path: Path) -> None:
    store, runs = tiny(tmp_path)
    path = store.partial_path(runs["g-maml-seed0"])
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "gone")  # it is listed, and cannot be read
    assert store.measured() == []
    assert store.state(runs["g-maml-seed0"]) == MISSING


def test_settings_of_a_later_version_tell_no_times(tmp_path: Path) -> None:
    store, runs = tiny(tmp_path)
    config = runs["g-maml-seed0"].cell.config(0).to_dict() | {"later_setting": 1}
    figures = {"cell": {"name": "g-maml"}, "iterations": 6, "seconds_per_iteration": 0.06, "device": "this"}
    store.results.mkdir()
    (store.results / "g-maml-seed0.json").write_text(json.dumps(figures | {"config": config}))
    assert store.measured() == []


def test_who_collects_has_the_run_folder_alone(place: tuple[Store, dict[str, Run]], tmp_path: Path) -> None:
    store, runs = place
    run, other = runs["g-both-seed0"], Store(store.runs, tmp_path)
    with rundir.locked(store.folder(run)), pytest.raises(UserError, match="no other process is using now"):
        collect(run, other)


def test_a_run_without_a_checkpoint_leaves_no_partial_file(place: tuple[Store, dict[str, Run]], tmp_path: Path) -> None:
    _, runs = place
    store = Store(tmp_path / "runs", tmp_path)
    store.folder(runs["g-maml-seed0"]).mkdir(parents=True)
    (store.folder(runs["g-maml-seed0"]) / rundir.CHECKPOINT).write_bytes(b"half")
    assert progress(store.folder(runs["g-maml-seed0"])) == (0, 0.0)
    assert note_partial(runs["g-maml-seed0"], store, "cpu") == 0
    assert not (tmp_path / stores.PARTIAL).exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"config": {}}', '{"config": {"newer": 1, "seed": 0}}'])
def test_what_is_no_result_of_ours_is_damaged(tmp_path: Path, text: str) -> None:
    store, runs = tiny(tmp_path)
    store.results.mkdir()
    store.path(runs["g-maml-seed0"]).write_text(text)
    assert store.state(runs["g-maml-seed0"]) == DAMAGED


def test_a_run_that_diverged_is_not_tried_again_but_with_other_settings(tmp_path: Path) -> None:
    store, runs = tiny(tmp_path)
    run = runs["g-maml-seed0"]
    assert note_partial(run, store, "cpu", diverged="iteration 7: not finite") == 0
    assert store.state(run) == DIVERGED
    assert store.measured() == []  # it does not say what an iteration takes
    figures = json.loads(store.partial_path(run).read_text())
    assert figures["diverged"] == "iteration 7: not finite"
    store.partial_path(run).write_text(json.dumps(figures | {"config": figures["config"] | {"inner_lr": 0.7}}))
    assert store.state(run) == BEGUN


def test_training_classes_are_tested_on_the_device_of_the_run(
    place: tuple[Store, dict[str, Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, runs = place
    devices: list[str] = []
    evaluate = stores.evaluate_run

    def evaluate_run(*arguments: Any, device: str, **options: Any) -> Any:
        devices.append(device)
        return evaluate(*arguments, device="cpu", **options)

    monkeypatch.setattr(stores, "evaluate_run", evaluate_run)
    (_, (_, _, *arguments)) = worker.commands(runs["g-maml-seed0"], store, "cuda:1")
    assert arguments[:2] == ["collect", "g-maml-seed0"]
    assert command_line.main(arguments) == 0
    assert command_line.main(["collect", "g-maml-seed0", *store.arguments]) == 0
    assert devices == ["cuda:1", "auto"]


def test_a_run_is_in_use_while_its_lock_is_held(tmp_path: Path) -> None:
    assert not in_use(tmp_path)
    with (tmp_path / rundir.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert in_use(tmp_path)
    assert not in_use(tmp_path)


def test_a_folder_whose_lock_another_user_made_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / rundir.LOCK).touch()

    def open_(path: Path, mode: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", open_)
    assert in_use(tmp_path)


def test_the_command_line(place: tuple[Store, dict[str, Run]], capsys: pytest.CaptureFixture[str]) -> None:
    store, _ = place
    assert command_line.main(["status", *store.arguments]) == 0
    assert capsys.readouterr().out.startswith("g (tiny): 1 done, 1 begun, 2 missing; about ")
    assert command_line.main(["commands", "g-maml", *store.arguments]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("python -m sharp_maml_core train --quiet --run-dir ")
    assert command_line.main(["tables", *store.arguments]) == 0
    assert "## g (tiny)" in capsys.readouterr().out
    assert command_line.main(["status", "g-malm", *store.arguments]) == 2
    assert "Did you mean g-maml" in capsys.readouterr().err
    assert command_line.main(["run", "g", "--budget", "20", *store.arguments]) == 2
    assert "20m" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error(place: tuple[Store, dict[str, Run]]) -> None:
    store, _ = place
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "commands", *store.arguments],
        cwd=Path(__file__).resolve().parents[2],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
