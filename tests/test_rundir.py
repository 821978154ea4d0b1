"""The run folder: what is in it, who may use it, and what becomes of files that are cut off or damaged."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cases import equal
from helpers import SmallNet, easy_data, easy_split, small_config

from sharp_maml_core import Config, TrainState, UserError, build_learner, meta_train, metrics, run_experiment, rundir
from sharp_maml_core.config import VARIANTS
from sharp_maml_core.results import unknown_session
from sharp_maml_core.train import fresh_state

CPU = torch.device("cpu")
TRAIN, VAL = easy_split(seed=0), easy_split(seed=1)
DATA = {"train": TRAIN.identity, "val": VAL.identity, "test": "abc"}
CONFIG = small_config("both")


def train(config: Config, **options: object) -> TrainState:
    return meta_train(build_learner(config, SmallNet()), config, TRAIN, VAL, **options)


def saved_run(folder: Path) -> TrainState:
    """A run whose last checkpoint is after iteration 7."""
    with rundir.open_run(folder, CONFIG):
        state = fresh_state(build_learner(CONFIG, SmallNet()), CONFIG)
        state.sessions = [unknown_session() | {"device": "a CPU"}]
        return train(CONFIG, state=state, checkpoint=lambda state: rundir.save_state(folder, state, DATA))


def load(folder: Path) -> TrainState | None:
    return rundir.load_state(folder, DATA, CPU)


# --- state out and in


def test_a_state_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    state, loaded = saved_run(tmp_path), load(tmp_path)
    assert loaded is not None
    assert equal(loaded.params, state.params)
    assert equal(loaded.best, state.best)
    assert loaded.moments.keys() == state.moments.keys()
    assert all(equal(loaded.moments[name], state.moments[name]) for name in state.moments)
    assert torch.equal(loaded.generator_state, state.generator_state)
    assert loaded.rows == state.rows
    for name in ("iteration", "best_iteration", "best_score", "seconds", "sessions"):
        assert getattr(loaded, name) == getattr(state, name)


@pytest.mark.parametrize("variant", ["both", "e-low", "maml++"])
def test_going_on_from_any_checkpoint_file_ends_bit_identically(variant: str, tmp_path: Path) -> None:
    config = small_config(variant)
    end = train(config)
    for stop in range(1, 7):
        folder = tmp_path / str(stop)
        folder.mkdir()

        def keep(state: TrainState, stop: int = stop, folder: Path = folder) -> None:
            if state.iteration == stop:
                rundir.save_state(folder, state, DATA)

        train(config.replace(checkpoint_every=1), checkpoint=keep)
        resumed = load(folder)
        assert resumed is not None
        assert resumed.iteration == stop
        state = train(
            config, state=resumed, checkpoint=lambda state, folder=folder: rundir.save_state(folder, state, DATA)
        )
        assert equal(state.params, end.params)
        assert equal(state.best, end.best)
        assert [leader[:2] for leader in state.leaders] == [leader[:2] for leader in end.leaders]
        assert all(equal(one.params, other.params) for one, other in zip(state.leaders, end.leaders, strict=True))
        assert state.rows == end.rows
        assert metrics.read_rows(folder / rundir.METRICS) == end.rows  # each row once, in order


def test_the_parameters_come_back_in_their_order_in_which_masks_are_drawn_and_norms_summed(tmp_path: Path) -> None:
    names = list(saved_run(tmp_path).params)
    assert names != sorted(names)  # as safetensors has them
    loaded = load(tmp_path)
    assert loaded is not None
    assert list(loaded.params) == list(loaded.best) == list(loaded.moments) == names
    rundir.save_model(tmp_path, loaded.best)
    assert list(rundir.load_model(tmp_path)) == names


def test_a_state_before_the_first_update_and_validation_can_be_kept(tmp_path: Path) -> None:
    learner = build_learner(CONFIG, SmallNet())
    state = fresh_state(learner, CONFIG)
    rundir.save_state(tmp_path, state, DATA)
    loaded = load(tmp_path)
    assert loaded is not None
    assert math.isnan(loaded.best_score)
    assert equal(train(CONFIG, state=loaded).params, train(CONFIG).params)


def test_without_a_checkpoint_there_is_no_state_and_no_rows(tmp_path: Path) -> None:
    saved_run(tmp_path)
    (tmp_path / rundir.CHECKPOINT).unlink()
    assert load(tmp_path) is None
    assert metrics.read_rows(tmp_path / rundir.METRICS) == []


# --- metrics.csv


def test_the_columns_are_filled_where_there_is_a_figure(tmp_path: Path) -> None:
    saved_run(tmp_path)
    head, *lines = (tmp_path / rundir.METRICS).read_text().splitlines()
    common = "iteration,query_loss,query_accuracy,perturbed_loss,gradient_norm,val_score,val_interval"
    assert head == common + ",cg_residual,cg_stopped,log_det,chaser_loss"
    assert [line.split(",")[0] for line in lines] == ["1", "2", "3", "4", "5", "6", "7"]
    validated = [line.split(",")[0] for line in lines if line.split(",")[5]]
    assert validated == ["3", "6", "7"]


@pytest.mark.parametrize(
    ("variant", "own"), [("imaml", {"cg_residual", "cg_stopped"}), ("llama", {"log_det"}), ("bmaml", {"chaser_loss"})]
)
def test_what_a_system_reports_of_its_own_is_kept(tmp_path: Path, variant: str, own: set[str]) -> None:
    config = CONFIG.replace(variant=variant)
    run_experiment(config, tmp_path / "run", model=SmallNet(), data=easy_data(), progress=False)
    rows = metrics.read_rows(tmp_path / "run" / rundir.METRICS)
    assert len(rows) == config.iterations
    assert all(own <= row.keys() for row in rows)


@pytest.mark.parametrize("tail", ["8,0.5,0.5", "8,0.5,0.5,0.5,0.5,,\n9,0.4", "8,0.5,0.5,0.5,0.5,,\n"])
def test_what_goes_beyond_the_checkpoint_is_cut_off(tmp_path: Path, tail: str) -> None:
    state = saved_run(tmp_path)
    path = tmp_path / rundir.METRICS
    whole = path.read_bytes()
    with path.open("a") as file:
        file.write(tail)
    loaded = load(tmp_path)
    assert loaded is not None
    assert loaded.rows == state.rows
    assert path.read_bytes() == whole


def test_half_a_line_is_not_read(tmp_path: Path) -> None:
    rows = saved_run(tmp_path).rows
    with (tmp_path / rundir.METRICS).open("a") as file:
        file.write("8,0.2")
    assert metrics.read_rows(tmp_path / rundir.METRICS) == rows


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda text: text[: len(text) // 2], "it has not each of the 7 iterations once"),
        (lambda text: text.replace("\n3,", "\n4,"), "it has not each of the 7 iterations once"),
        (lambda text: "", "it has not each of the 7 iterations once"),
        (lambda text: text.replace("\n3,", "\n3,abc"), "could not convert string to float"),
        (lambda text: text.replace("\n3,", "\n" + "3," * 12), "float"),
    ],
)
def test_damaged_metrics_are_named(tmp_path: Path, damage: Callable[[str], str], why: str) -> None:
    """What is gone on with without them would lack its validations in the end."""
    saved_run(tmp_path)
    path = tmp_path / rundir.METRICS
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=rf"metrics\.csv is damaged \(.*{why}.*restore a copy, or set overwrite=True"):
        load(tmp_path)


@pytest.mark.parametrize("batch", [7, 400])
def test_each_row_is_written_once_however_long_the_file_is(tmp_path: Path, batch: int) -> None:
    state = fresh_state(build_learner(CONFIG, SmallNet()), CONFIG)
    for iteration in range(1, 401):  # beyond 4096 bytes, which is how far the file's end is looked at
        state.iteration = iteration
        state.rows.append({"iteration": iteration, "query_loss": 1 / iteration, "gradient_norm": iteration / 3})
        if iteration % batch == 0 or iteration == 400:
            rundir.save_state(tmp_path, state, DATA)
    assert metrics.read_rows(tmp_path / rundir.METRICS) == state.rows
    assert (tmp_path / rundir.METRICS).stat().st_size > 2 * 4096


# --- damage


@pytest.mark.parametrize("damage", [lambda old: old[: len(old) // 2], lambda old: b"", lambda old: b"x" * len(old)])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: object) -> None:
    saved_run(tmp_path)
    path = tmp_path / rundir.CHECKPOINT
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"checkpoint\.safetensors is damaged .* delete it"):
        load(tmp_path)


@pytest.mark.parametrize("name", [rundir.CONFIG, rundir.RESULT])
def test_damaged_json_is_named(tmp_path: Path, name: str) -> None:
    saved_run(tmp_path)
    (tmp_path / name).write_text('{"variant": "bo')
    read = {
        rundir.CONFIG: lambda: rundir.read_config(tmp_path, "cpu"),
        rundir.RESULT: lambda: rundir.read_result(tmp_path),
    }
    with pytest.raises(UserError, match=f"{name} is damaged"):
        read[name]()


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    (tmp_path / rundir.MODEL).write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    for read in (rundir.load_model, rundir.model_shapes):
        with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
            read(tmp_path)


def test_a_damaged_snapshot_is_named(tmp_path: Path) -> None:
    (tmp_path / rundir.SNAPSHOTS).mkdir()
    (tmp_path / rundir.SNAPSHOTS / "0000001.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(UserError, match=r"0000001\.safetensors is damaged .*overwrite=True to begin again"):
        rundir.load_snapshots(tmp_path)


def test_the_shapes_of_a_model_are_those_of_its_parameters(tmp_path: Path) -> None:
    assert rundir.model_shapes(tmp_path) is None
    params = build_learner(CONFIG, SmallNet()).init(torch.Generator())
    rundir.save_model(tmp_path, params)
    assert rundir.model_shapes(tmp_path) == {name: list(value.shape) for name, value in params.items()}


def test_a_run_on_other_data_is_not_gone_on_with(tmp_path: Path) -> None:
    saved_run(tmp_path)
    with pytest.raises(UserError, match=r"same data \(val changed"):
        rundir.load_state(tmp_path, DATA | {"val": "other"}, CPU)


# --- the folder


def test_the_settings_are_kept_and_read(tmp_path: Path) -> None:
    with rundir.open_run(tmp_path / "deep" / "run", CONFIG) as folder:
        assert json.loads((folder / rundir.CONFIG).read_text()) == CONFIG.to_dict()
        assert rundir.read_config(folder, "cpu") == CONFIG


def test_a_run_from_a_machine_with_a_gpu_can_be_read_on_one_without(tmp_path: Path) -> None:
    (tmp_path / rundir.CONFIG).write_text(json.dumps(CONFIG.to_dict() | {"device": "cuda:7"}))
    assert rundir.read_config(tmp_path, "cpu").device == "cpu"
    with rundir.open_run(tmp_path, CONFIG):
        assert rundir.read_config(tmp_path, "cpu") == CONFIG


def test_a_run_of_other_settings_is_refused_with_the_differences(tmp_path: Path) -> None:
    saved_run(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with (
        pytest.raises(UserError, match=r"n_way 3 is now 2, seed 0 is now 1.*overwrite") as caught,
        rundir.open_run(tmp_path, CONFIG.replace(n_way=2, seed=1)),
    ):
        pytest.fail("opened")
    assert "k_shot" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "changes",
    [
        {"data_root": "elsewhere"},
        {"download": True},
        {"device": "auto"},
        {"checkpoint_every": 99},
        {"snapshots": True},
        {"tensorboard": True},
        {"record": False},
        {"task_map": "vmap"},
        {"task_chunk": 2},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_where_a_run_computes_may_change(tmp_path: Path, changes: dict[str, object]) -> None:
    saved_run(tmp_path)
    assert changes.keys() <= set(rundir.FREE_TO_CHANGE)
    with rundir.open_run(tmp_path, CONFIG.replace(**changes)):
        assert load(tmp_path) is not None


def test_every_other_setting_may_not() -> None:
    tested = {
        "data_root",
        "download",
        "device",
        "checkpoint_every",
        "snapshots",
        "tensorboard",
        "record",
        "task_map",
        "task_chunk",
    }
    assert set(rundir.FREE_TO_CHANGE) == tested


def test_a_finished_run_keeps_the_settings_it_was_finished_with(tmp_path: Path) -> None:
    saved_run(tmp_path)
    (tmp_path / rundir.RESULT).write_text("{}")
    with rundir.open_run(tmp_path, CONFIG.replace(task_map="vmap")):
        assert rundir.read_config(tmp_path, "cpu") == CONFIG


def test_overwriting_throws_the_run_away_and_nothing_else(tmp_path: Path) -> None:
    saved_run(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / rundir.SNAPSHOTS).mkdir()
    other = CONFIG.replace(seed=5)
    with rundir.open_run(tmp_path, other, overwrite=True):
        assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", rundir.CONFIG, rundir.LOCK}
        assert rundir.read_config(tmp_path, "cpu") == other


@pytest.mark.parametrize("name", [rundir.SNAPSHOTS, "tensorboard"])
def test_a_folder_of_the_old_run_that_does_not_go_is_not_taken_for_the_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    saved_run(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / name / "0000001.safetensors").write_bytes(b"old")
    unlink = os.unlink

    def stubborn(path: str | Path, **options: int) -> None:
        if Path(path).name == "0000001.safetensors":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        unlink(path, **options)

    other = CONFIG.replace(seed=5)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", stubborn)
        with (
            pytest.raises(UserError, match=r"run_dir=.* can be written\. Permission denied\."),
            rundir.open_run(tmp_path, other, overwrite=True),
        ):
            pytest.fail("opened")
    with pytest.raises(UserError, match="seed 0 is now 5"), rundir.open_run(tmp_path, other):
        pytest.fail("opened with what is left of the old run")
    with rundir.open_run(tmp_path, other, overwrite=True):
        assert not (tmp_path / name).exists()


def test_overwriting_leaves_what_a_link_points_to(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "run"
    elsewhere.mkdir()
    folder.mkdir()
    (elsewhere / "0000001.safetensors").write_bytes(b"old")
    (folder / rundir.SNAPSHOTS).symlink_to(elsewhere)
    with rundir.open_run(folder, CONFIG, overwrite=True):
        assert not (folder / rundir.SNAPSHOTS).exists()
    assert (elsewhere / "0000001.safetensors").exists()


def test_what_a_killed_process_was_writing_is_swept_up(tmp_path: Path) -> None:
    saved_run(tmp_path)
    (tmp_path / rundir.SNAPSHOTS).mkdir()
    for name in (rundir.CHECKPOINT, f"{rundir.SNAPSHOTS}/0000001.safetensors"):
        half = (tmp_path / name).with_name(f".{Path(name).name}-x1y2")
        half.mkdir()
        (half / "0000001.safetensors").write_bytes(b"half")
    (tmp_path / f".{rundir.MODEL}-x1y2").write_bytes(b"half of a version that wrote no folders")
    (tmp_path / ".notes").write_text("mine")
    with rundir.open_run(tmp_path, CONFIG):
        assert not list(tmp_path.rglob("*-x1y2"))
        assert (tmp_path / ".notes").exists()
        assert load(tmp_path) is not None


def test_a_folder_in_use_by_another_process_is_refused(tmp_path: Path) -> None:
    program = f"""
import fcntl, sys
with open({str(tmp_path / rundir.LOCK)!r}, "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="no other process is using"), rundir.open_run(tmp_path, CONFIG):
            pytest.fail("opened")
        other.communicate()
    with rundir.open_run(tmp_path, CONFIG):  # and it is free again
        pass


def test_a_folder_at_which_another_process_only_looked_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / rundir.LOCK).open("w") as looking:
        assert rundir.take(looking)
        monkeypatch.setattr(rundir.time, "sleep", lambda seconds: looking.close())
        with rundir.open_run(tmp_path, CONFIG):
            assert (tmp_path / rundir.CONFIG).exists()


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=r"run_dir=.* can be written"), rundir.open_run(folder, CONFIG):
            pytest.fail("opened")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_gives_no_file_up_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    saved_run(tmp_path)
    (tmp_path / f".{rundir.CHECKPOINT}-x1y2").write_bytes(b"half")

    def unlink(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "unlink", unlink)
    with (
        pytest.raises(UserError, match=r"run_dir=.* can be written\. Permission denied\."),
        rundir.open_run(tmp_path, CONFIG, overwrite=overwrite),
    ):
        pytest.fail("opened")


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run_dir=.* a run folder, with a config\.json"):
        rundir.read_config(tmp_path, "cpu")
    with pytest.raises(UserError, match=r"run_dir=.* a finished run, with a model\.safetensors"):
        rundir.load_model(tmp_path)
    assert rundir.read_result(tmp_path) is None


def test_the_digest_tells_settings_apart_that_decide_the_outcome() -> None:
    assert rundir.digest(CONFIG) == rundir.digest(copy.copy(CONFIG).replace(task_map="vmap", data_root="/x"))
    assert rundir.digest(CONFIG) != rundir.digest(CONFIG.replace(inner_lr=0.2))
    assert len({rundir.digest(Config(variant, device="cpu")) for variant in VARIANTS}) == len(VARIANTS)


def test_the_digest_is_of_what_is_not_the_default() -> None:
    """A setting that is new and left alone changes no digest; the one of these settings is written down here."""
    config = Config("maml", alpha_low=5e-4, inner_lr=0.25, seed=3, device="cpu")
    expected = hashlib.sha256(b'{"inner_lr": 0.25, "seed": 3, "variant": "maml"}').hexdigest()[:6]
    assert rundir.digest(config) == expected


def test_a_file_system_without_locks_is_named_and_not_taken_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(lock: object, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(rundir.fcntl, "flock", flock)
    with (
        pytest.raises(UserError, match=r"run_dir=.* it must be on a file system that can lock files \(No locks"),
        rundir.locked(tmp_path),
    ):
        pass
