"""One experiment and its folder: what it records, and that nothing short of a lost disk changes how it ends."""

from __future__ import annotations

import csv
import json
import math
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import equal
from helpers import SMALL, Joined, SmallNet, easy_data, easy_images, flags, small_config, start, write_image_folder
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from sharp_maml_core import (
    Config,
    DeviceLost,
    Diverged,
    Episode,
    UserError,
    evaluate,
    evaluate_run,
    metrics,
    results,
    run,
    run_experiment,
    rundir,
    sample_episodes,
)
from sharp_maml_core.__main__ import main
from sharp_maml_core.data import ImageSplit
from sharp_maml_core.learners import build_learner

FILES = {
    rundir.CONFIG,
    rundir.METRICS,
    rundir.CHECKPOINT,
    rundir.MODEL,
    rundir.SCORES,
    rundir.ENVIRONMENT,
    rundir.RESULT,
}
CONFIG = small_config("both")


def experiment(folder: Path, config: Config = CONFIG, **options: Any) -> dict[str, Any]:
    given = {"model": SmallNet(), "data": easy_data(), "progress": False}
    return run_experiment(config, folder, **given | options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def assert_same_outcome(one: Path, other: Path) -> None:
    """Parameters, checkpoint, metrics and scores equal to the last bit; the result too, but for times and places."""
    for name in (rundir.MODEL, rundir.METRICS, rundir.SCORES):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert equal(load_file(one / rundir.CHECKPOINT), load_file(other / rundir.CHECKPOINT))
    said = [json.loads((folder / rundir.RESULT).read_text()) for folder in (one, other)]
    for result in said:
        for name in ("seconds", "seconds_per_iteration", "started", "finished", "command", "commit", "source_sha256"):
            del result[name]
        del result["sessions"], result["device"]
    assert said[0] == said[1]
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}


def interrupted(*arguments: Any, **options: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("finished")
    experiment(folder)
    return folder


# --- what is recorded


def test_the_folder_holds_what_it_should(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == FILES | {rundir.LOCK}
    assert rundir.read_config(finished, "cpu") == CONFIG


def test_the_result_says_what_where_and_how(finished: Path) -> None:
    result = json.loads((finished / rundir.RESULT).read_text())
    assert result["metric"] == "accuracy"
    assert result["iterations"] == result["last"]["iteration"] == 7
    assert result["best"]["iteration"] in (3, 6, 7)
    assert result["seconds"] > 0
    assert result["seconds_per_iteration"] == pytest.approx(result["seconds"] / 7)
    assert result["seed"] == 0
    assert result["eval_tasks"] == 6
    assert result["config"] == CONFIG.to_dict()
    assert all(len(result["data"][split]) == 64 for split in ("train", "val", "test"))
    assert len(result["source_sha256"]) == 64
    assert result["packages"]["torch"] == torch.__version__
    assert {"commit", "device", "threads", "system", "python", "command", "started", "finished"} <= result.keys()
    (session,) = result["sessions"]
    assert session == {name: result[name] for name in results.SESSION} | {"from_iteration": 0}
    environment = json.loads((finished / rundir.ENVIRONMENT).read_text())
    assert {name: result[name] for name in environment} == environment


def test_the_model_holds_the_best_parameters_and_the_scores_are_theirs(finished: Path) -> None:
    result = json.loads((finished / rundir.RESULT).read_text())
    state = rundir.load_state(finished, result["data"], torch.device("cpu"))
    assert state is not None
    assert equal(rundir.load_model(finished), state.best)
    with (finished / rundir.SCORES).open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    learner, test = build_learner(CONFIG, SmallNet()), run.load_split(easy_data(), "test")
    for which, params in (("best", state.best), ("last", state.params)):
        again = evaluate(learner, params, test, CONFIG)
        assert [float(row[which]) for row in rows] == again.scores.tolist()
        assert (result[which]["mean"], result[which]["interval_95"]) == (again.mean, again.interval)


def test_an_ensemble_of_the_best_is_tested_beside_the_best(tmp_path: Path) -> None:
    config = small_config("maml++", eval_every=2, mamlpp_ensemble=3)
    result = experiment(tmp_path, config)
    state = rundir.load_state(tmp_path, result["data"], torch.device("cpu"))
    assert state is not None
    learner, test = build_learner(config, SmallNet()), run.load_split(easy_data(), "test")
    answers = []
    for leader in state.leaders:
        generator, found = torch.Generator().manual_seed(config.eval_seed), []
        episode = run_episode(test, config, generator)
        for support_x, support_y, query_x, _ in zip(*episode, strict=True):
            found.append(learner.predict(learner.adapt(leader.params, support_x, support_y), query_x).softmax(-1))
        answers.append(torch.stack(found))
    right = (sum(answers).argmax(-1) == episode.query_y).double().mean(-1)
    assert result["ensemble"]["mean"] == pytest.approx(float(right.mean()), rel=1e-15)
    assert result["ensemble"]["interval_95"] > 0
    assert result["ensemble"]["iterations"] == [leader.iteration for leader in state.leaders]
    assert len(set(result["ensemble"]["iterations"])) == 3
    assert result["ensemble"]["iterations"][0] == result["best"]["iteration"]


def run_episode(split: ImageSplit, config: Config, generator: torch.Generator) -> Episode:
    """The test tasks of a run, which are few enough to be drawn at once."""
    return sample_episodes(
        split,
        n_way=config.n_way,
        k_shot=config.k_shot,
        n_query=config.n_query,
        n_tasks=config.eval_tasks,
        generator=generator,
    )


def test_without_an_ensemble_the_result_has_none(finished: Path) -> None:
    assert "ensemble" not in json.loads((finished / rundir.RESULT).read_text())


def test_no_folder_of_this_machine_is_in_the_result(tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images")
    config = CONFIG.replace(dataset=str(images), data_root=str(tmp_path), inner_steps=1, iterations=1)
    result = run_experiment(config, tmp_path / "run", progress=False, command="papermill train.ipynb out.ipynb")
    assert result["config"]["dataset"] == "images"
    assert result["config"]["data_root"] == ""
    assert result["command"] == "papermill train.ipynb out.ipynb"
    for name in (rundir.RESULT, rundir.ENVIRONMENT):
        assert str(tmp_path) not in (tmp_path / "run" / name).read_text()


def test_regression_runs_too(tmp_path: Path) -> None:
    config = CONFIG.replace(dataset="sinusoid", k_shot=5, n_query=5, inner_lr=0.01)
    result = run_experiment(config, tmp_path, progress=False)
    assert result["metric"] == "mean squared error"
    assert result["best"]["mean"] > 0
    assert evaluate_run(tmp_path, progress=False).mean == result["best"]["mean"]


def test_parameters_that_are_both_best_and_last_are_tested_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = []

    def counted(*arguments: Any, **options: Any) -> Any:
        tests.append(1)
        return evaluate(*arguments, **options)

    monkeypatch.setattr(run, "evaluate", counted)
    result = experiment(tmp_path, CONFIG.replace(eval_every=99))
    assert len(tests) == 1
    assert result["best"] == result["last"]


def test_snapshots_are_the_way_that_the_parameters_went(tmp_path: Path) -> None:
    experiment(tmp_path / "whole", CONFIG.replace(snapshots=True))
    kept = rundir.load_snapshots(tmp_path / "whole")
    assert list(kept) == [0, 2, 4, 6, 7]
    for iteration in (2, 7):
        experiment(tmp_path / str(iteration), CONFIG.replace(iterations=iteration))
        state = rundir.load_state(tmp_path / str(iteration), {}, torch.device("cpu"))
        assert state is not None
        assert list(kept[iteration]) == list(state.params)
        assert all(torch.equal(kept[iteration][name], value) for name, value in state.params.items())


def test_a_run_without_snapshots_says_how_to_get_them(tmp_path: Path) -> None:
    experiment(tmp_path)
    with pytest.raises(UserError, match="snapshots=True"):
        rundir.load_snapshots(tmp_path)


def test_tensorboard_files_are_written_when_asked(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    experiment(tmp_path, CONFIG.replace(tensorboard=True))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = {event.step: event.value for event in events.Scalars("query_loss")}
    rows = metrics.read_rows(tmp_path / rundir.METRICS)
    assert losses == pytest.approx({int(row["iteration"]): row["query_loss"] for row in rows})
    assert [event.step for event in events.Scalars("val_score")] == [3, 6, 7]


def test_tensorboard_that_is_not_installed_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install"):
        experiment(tmp_path / "run", CONFIG.replace(tensorboard=True))
    assert not (tmp_path / "run").exists()


def test_data_of_ones_own_are_no_part_of_the_benchmark_that_the_settings_name(tmp_path: Path) -> None:
    assert experiment(tmp_path, CONFIG.replace(dataset="omniglot", iterations=1))["data_notes"] == {}


# --- started again


def test_a_finished_run_is_read_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = experiment(tmp_path)
    before, times = contents(tmp_path), {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    monkeypatch.setattr(run, "meta_train", lambda *arguments, **options: pytest.fail("trained"))
    monkeypatch.setattr(run, "evaluate", lambda *arguments, **options: pytest.fail("tested"))
    assert experiment(tmp_path, progress=True) == first
    assert "is finished" in capsys.readouterr().err
    assert contents(tmp_path) == before
    del times[tmp_path / rundir.LOCK]
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_finished_run_is_repeated_when_asked(finished: Path, tmp_path: Path) -> None:
    experiment(tmp_path, CONFIG.replace(seed=9))
    with pytest.raises(UserError, match="seed 9 is now 0"):
        experiment(tmp_path)
    experiment(tmp_path, overwrite=True)
    assert_same_outcome(tmp_path, finished)


OTHER_TEST = easy_data() | {"test": easy_data()["val"]}
OTHERS = pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"data": OTHER_TEST}, r"^run_dir=.* the same data \(test changed since it was begun\)\."),
        ({"model": SmallNet(9)}, r"^run_dir=.* the same model \(features\.1\.weight \[8, 36\] is now \[9, 36\]\)\."),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(36, 3))}, r"\(features\.1\.weight \[8, 36\] is now missing\)"),
    ],
    ids=["data", "width", "names"],
)


@OTHERS
def test_a_finished_run_is_not_given_out_for_other_data_or_another_model(
    given: dict[str, Any], says: str, finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(UserError, match=says) as caught:
        experiment(folder, **given)
    assert "overwrite=True" in str(caught.value)
    assert contents(folder) == contents(finished)
    assert experiment(folder, overwrite=True, **given) != json.loads((finished / rundir.RESULT).read_text())


def test_images_that_were_added_since_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the images nor arrays in their place are settings, from which the default folder has its name."""
    monkeypatch.chdir(tmp_path)
    images = write_image_folder(tmp_path / "images")
    config = CONFIG.replace(dataset="images", iterations=1)
    result = run_experiment(config, progress=False)
    assert run_experiment(config, progress=False) == result
    arrays = dict.fromkeys(("train", "val", "test"), easy_images(side=16))
    with pytest.raises(UserError, match=r"train and val and test changed"):
        run_experiment(config, data=arrays, progress=False)
    first = images / "train" / "train class 0"
    shutil.copy(first / "0.png", first / "another.png")
    with pytest.raises(UserError, match=r"run_dir='runs/both-images-.*\(train changed"):
        run_experiment(config)
    assert "is finished" not in capsys.readouterr().err


def test_a_finished_run_of_an_older_version_is_read_all_the_same(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    result = json.loads((folder / rundir.RESULT).read_text())
    del result["data"]
    (folder / rundir.RESULT).write_text(json.dumps(result))
    assert evaluate_run(folder, progress=False, model=SmallNet(), data=OTHER_TEST).mean > 0
    (folder / rundir.MODEL).unlink()
    assert experiment(folder, data=OTHER_TEST) == result


@OTHERS
def test_a_run_is_not_gone_on_with_on_other_data_or_with_another_model(
    given: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(4, patch)
        with pytest.raises(KeyboardInterrupt):
            experiment(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=says):
        experiment(tmp_path, **given)
    assert contents(tmp_path) == before


WHOLE = r"^model='Joined' is not allowed.*head\(features\(x\)\)"
FUNCTIONS = {"model": None, "data": None}
EIGHT_PIXELS = {split: easy_images(side=8) for split in ("train", "val", "test")}


@pytest.mark.parametrize(
    ("variant", "given", "says"),
    [
        *(
            (variant, {"model": Joined()}, WHOLE)
            for variant in ("anil", "low-anil", "e-low-anil", "bmaml", "erm", "sam")
        ),
        ("llama", {"model": nn.Sequential(nn.Flatten(), nn.LayerNorm(36))}, "a Linear or Conv2d layer"),
        *(
            (variant, {"model": nn.Sequential(nn.Flatten(), nn.Linear(36, 2))}, r"at least n_way=3, and not \[3, 2\]\.")
            for variant in ("both", "reptile", "imaml", "llama", "bmaml", "maml++")
        ),
        ("anil", {"model": SmallNet(), "data": EIGHT_PIXELS}, r"^model='SmallNet' .* inputs of shape \(3, 1, 8, 8\)"),
        ("erm", {"model": SmallNet(), "data": EIGHT_PIXELS}, "as those of .*/train. It says: mat1 and mat2 shapes"),
        ("matching", {"model": SmallNet(), "data": EIGHT_PIXELS}, "It says: mat1 and mat2 shapes"),
        ("maml", {"model": SmallNet}, "^model=<class .* is not allowed: it must be an instance of torch.nn.Module"),
        ("maml", {"model": nn.Flatten()}, "^model='Flatten' is not allowed: it must be a module with parameters"),
        ("maml", {"model": nn.Sequential()}, "^model='Sequential' is not allowed: it must be a module with parameters"),
        ("matching", FUNCTIONS, r"^variant='matching' is not allowed.*sinusoid/train are no classes"),
    ],
)
def test_what_a_variant_cannot_learn_is_refused_before_the_run_that_is_there_is_thrown_away(
    variant: str, given: dict[str, Any], says: str, finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(UserError, match=says):
        experiment(folder, small_config(variant, dataset="sinusoid"), overwrite=True, **given)
    assert contents(folder) == contents(finished)


def test_a_loss_of_ones_own_says_what_outputs_it_takes(tmp_path: Path) -> None:
    config = small_config("maml", iterations=1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    experiment(tmp_path, config, model=model, loss=lambda outputs, targets: outputs.square().mean())
    assert (tmp_path / rundir.RESULT).exists()


class Killed(BaseException):
    """Stands for the end of the process: nobody catches it."""


@pytest.mark.parametrize("renamed", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", range(1, 10))
def test_ended_at_any_write_the_run_goes_on_to_the_same_end(
    write: int, renamed: bool, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, rename = 0, Path.replace

    def dying(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == write and not renamed:
            raise Killed
        done = rename(self, target)
        if count == write:
            raise Killed
        return done

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(Killed):
            experiment(tmp_path)
    experiment(tmp_path)
    assert_same_outcome(tmp_path, finished)


def test_the_writes_above_are_all_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets, rename = [], Path.replace

    def noting(self: Path, target: Path) -> Path:
        targets.append(target.name)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", noting)
    experiment(tmp_path)
    end = [rundir.MODEL, rundir.SCORES, rundir.ENVIRONMENT, rundir.RESULT]
    assert targets == [rundir.CONFIG, *[rundir.CHECKPOINT] * 4, *end]


def interrupt_at(iteration: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a SIGINT when the learner is asked for that gradient."""

    def impatient(*arguments: Any) -> Any:
        learner, count = build_learner(*arguments), 0

        def gradient(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == iteration:
                signal.raise_signal(signal.SIGINT)
            return learner.gradient(*arguments)

        return replace(learner, gradient=gradient)

    monkeypatch.setattr(run, "build_learner", impatient)


@pytest.mark.parametrize("iteration", [1, 4, 7])
def test_an_interrupt_says_how_to_go_on_and_changes_nothing(
    iteration: int,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(iteration, patch)
        with pytest.raises(KeyboardInterrupt):
            experiment(tmp_path)
    assert f"The same command goes on from {tmp_path}." in capsys.readouterr().err
    assert not (tmp_path / rundir.RESULT).exists()
    experiment(tmp_path)
    assert_same_outcome(tmp_path, finished)


def test_each_session_of_a_run_is_in_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ends after iteration 2, two are interrupted while they test; the second of these trained nothing."""
    for code in ("first", "second", "third"):
        with monkeypatch.context() as patch:
            patch.setattr(results, "source_hash", lambda code=code: code)
            if code == "first":
                interrupt_at(2, patch)
            patch.setattr(run, "evaluate", interrupted)
            with pytest.raises(KeyboardInterrupt):
                experiment(tmp_path)
    result = experiment(tmp_path)
    found = [(session["source_sha256"], session["from_iteration"]) for session in result["sessions"]]
    assert found == [("first", 0), ("second", 2), (result["source_sha256"], 7)]
    assert {session["device"] for session in result["sessions"]} == {result["device"]}


def test_a_result_names_the_device_that_trained_it_and_not_one_that_only_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(results, "device_name", lambda device: "a GPU")
        patch.setattr(run, "evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            experiment(tmp_path)
    result = experiment(tmp_path)
    assert result["device"] == "a GPU"
    assert result["sessions"][-1]["device"] == results.device_name(torch.device("cpu"))


def test_a_checkpoint_from_before_sessions_were_kept_is_gone_on_with(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(4, patch)
        with pytest.raises(KeyboardInterrupt):
            experiment(tmp_path)
    path = tmp_path / rundir.CHECKPOINT
    with safe_open(path, framework="pt") as file:
        figures = json.loads(file.metadata()["state"])
    del figures["sessions"]
    save_file(load_file(path), path, metadata={"state": json.dumps(figures)})
    first, last = experiment(tmp_path)["sessions"]
    assert first == dict.fromkeys(results.SESSION, "unknown") | {"from_iteration": 0}
    assert last["from_iteration"] == 4
    assert_same_outcome(tmp_path, finished)


def test_an_interrupt_while_testing_says_how_to_go_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run, "evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            experiment(tmp_path)
    assert "The same command goes on" in capsys.readouterr().err
    experiment(tmp_path)
    assert_same_outcome(tmp_path, finished)


def test_a_run_goes_on_with_the_settings_that_may_change(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(4, patch)
        with pytest.raises(KeyboardInterrupt):
            experiment(tmp_path)
    experiment(tmp_path, CONFIG.replace(checkpoint_every=1))
    for name in (rundir.MODEL, rundir.METRICS, rundir.SCORES):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


# --- what goes wrong


def test_divergence_keeps_the_last_good_state(tmp_path: Path) -> None:
    config = CONFIG.replace(outer_lr=1e37, checkpoint_every=100)
    messages = []
    for _ in range(2):  # the same command meets the same fate
        with pytest.raises(Diverged, match="inner_lr") as caught:
            experiment(tmp_path, config)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    tensors = load_file(tmp_path / rundir.CHECKPOINT)
    assert all(value.isfinite().all() for value in tensors.values())
    assert not (tmp_path / rundir.RESULT).exists()
    assert not (tmp_path / rundir.MODEL).exists()
    for row in metrics.read_rows(tmp_path / rundir.METRICS):
        assert all(math.isfinite(value) for value in row.values())


def test_a_test_score_that_is_not_finite_is_said(tmp_path: Path) -> None:
    config = CONFIG.replace(dataset="sinusoid", k_shot=5, n_query=5, inner_lr=10.0, eval_inner_steps=60, iterations=1)
    with pytest.raises(Diverged, match=r"mean squared error .* not finite.*eval_inner_steps"):
        run_experiment(config, tmp_path, progress=False)
    assert not (tmp_path / rundir.RESULT).exists()


def test_answers_that_overflow_in_a_test_are_said_and_not_taken_for_chance(tmp_path: Path) -> None:
    """Linear layers, one after the other, grow with each inner step: after that of the training they are finite."""
    net = SmallNet()
    net.features[2] = nn.Identity()
    config = small_config("fomaml", inner_lr=1e6, eval_inner_steps=20, iterations=1)
    with pytest.raises(Diverged, match=r"^The accuracy on array/test is not finite. Lower inner_lr or eval_inner"):
        experiment(tmp_path, config, model=net)
    assert not (tmp_path / rundir.RESULT).exists()
    rundir.save_model(tmp_path, build_learner(config, net).init(torch.Generator().manual_seed(0)))
    with pytest.raises(Diverged, match=r"^The accuracy on array/train is not finite"):
        evaluate_run(tmp_path, split="train", progress=False, model=net, data=easy_data(), device="cpu")


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = rundir.save_state
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_state(folder: Path, state: Any, data: Any) -> None:
        if state.iteration == 4:  # no file may grow beyond 2000 bytes: a checkpoint is larger, the metrics are not
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        save(folder, state, data)

    with monkeypatch.context() as patch:
        patch.setattr(rundir, "save_state", save_state)
        try:
            with pytest.raises(UserError, match=r"could not be written .* goes on") as caught:
                experiment(tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path) in str(caught.value)
    kept = rundir.load_state(tmp_path, json.loads((finished / rundir.RESULT).read_text())["data"], torch.device("cpu"))
    assert kept is not None
    assert kept.iteration == 2
    experiment(tmp_path)
    assert_same_outcome(tmp_path, finished)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
)
def test_a_lost_gpu_is_said_and_costs_what_came_after_the_checkpoint(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    save = rundir.save_state

    def save_state(folder: Path, state: Any, data: Any) -> None:
        if state.iteration == 4:
            raise error
        save(folder, state, data)

    with monkeypatch.context() as patch:
        patch.setattr(rundir, "save_state", save_state)
        with pytest.raises(
            DeviceLost, match=r"The device failed \((CUDA|cuDNN) error: [^\n]*\)\. .* goes on"
        ) as caught:
            experiment(tmp_path)
    assert str(tmp_path) in str(caught.value)
    experiment(tmp_path)
    assert_same_outcome(tmp_path, finished)


def test_other_errors_are_not_taken_for_a_lost_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_state(folder: Path, state: Any, data: Any) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(rundir, "save_state", save_state)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        experiment(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_way": 5000}, "n_way=5000"),
        ({"n_query": 6}, r"k_shot \+ n_query=7"),
        ({"dataset": "omniglot"}, "omniglot"),
        ({"dataset": "no such thing"}, "dataset="),
    ],
)
def test_what_cannot_be_used_is_said_before_a_folder_is_made(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    config = CONFIG.replace(data_root=str(tmp_path), **changes)
    data = None if "dataset" in changes else easy_data()
    with pytest.raises(UserError, match=message):
        run_experiment(config, tmp_path / "run", data=data, progress=False)
    assert not (tmp_path / "run").exists()


# --- tested again


def test_a_run_tested_again_gives_the_same_scores(finished: Path) -> None:
    again = evaluate_run(finished, progress=False, model=SmallNet(), data=easy_data())
    result = json.loads((finished / rundir.RESULT).read_text())
    assert (again.mean, again.interval) == (result["best"]["mean"], result["best"]["interval_95"])


def test_a_run_tested_on_more_and_on_other_tasks(finished: Path) -> None:
    def test(**options: Any) -> list[float]:
        scores = evaluate_run(finished, progress=False, model=SmallNet(), data=easy_data(), **options).scores
        return scores.tolist()

    usual = test()
    assert len(test(n_tasks=40)) == 40
    assert test(n_tasks=40, seed=1) != test(n_tasks=40)
    assert test(n_tasks=40, split="train") != test(n_tasks=40)
    assert test() == usual


@OTHERS
def test_a_run_is_not_tested_again_on_other_data_or_with_another_model(
    given: dict[str, Any], says: str, finished: Path
) -> None:
    options = {"progress": False, "model": SmallNet(), "data": easy_data()} | given
    with pytest.raises(UserError, match=f"{says}.*Give the model and the data that it was run with"):
        evaluate_run(finished, **options)


def test_a_run_is_tested_again_though_a_split_that_this_does_not_need_is_another(finished: Path) -> None:
    again = evaluate_run(finished, progress=False, model=SmallNet(), data=OTHER_TEST, split="val")
    assert len(again.scores) == CONFIG.eval_tasks


def test_a_run_is_tested_again_where_tensorboard_is_not_installed(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    config = json.loads((folder / rundir.CONFIG).read_text())
    (folder / rundir.CONFIG).write_text(json.dumps(config | {"tensorboard": True}))
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    evaluate_run(folder, progress=False, model=SmallNet(), data=easy_data())


def test_what_cannot_be_tested_again_is_said(finished: Path) -> None:
    with pytest.raises(UserError, match="split='valid' is not allowed: it must be one of train, val, test"):
        evaluate_run(finished, split="valid", progress=False, model=SmallNet(), data=easy_data())
    with pytest.raises(UserError, match=r"run_dir='.*config.json' is not allowed: it must be a run folder"):
        evaluate_run(finished / rundir.CONFIG)


# --- really killed


ARGUMENTS = [
    *("train", "--quiet", "--dataset", "images", "--run-dir", "run"),
    *flags(
        **SMALL
        | {"variant": "e-low", "filters": 4, "iterations": 10, "checkpoint_every": 1, "eval_tasks": 2, "val_tasks": 2}
    ),
]


def command_here(folder: Path) -> int:
    """The command in this process, which saves the time to start another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return main(ARGUMENTS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, and in `run` a run of the command line that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_image_folder(folder / "images")
    assert command_here(folder) == 0
    return folder


def place(undisturbed: Path, tmp_path: Path) -> Path:
    (tmp_path / "images").symlink_to(undisturbed / "images")
    return tmp_path


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def changed(path: Path) -> Callable[[], bool]:
    """Whether the file has been written since now."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    return lambda: path.exists() and path.stat().st_mtime_ns != before


def test_killed_again_and_again_a_run_ends_bit_identically(undisturbed: Path, tmp_path: Path) -> None:
    folder = place(undisturbed, tmp_path)
    rng, kills = random.Random(0), 0
    while kills < 4:
        with start(*ARGUMENTS, cwd=folder) as process:
            wait_until(changed(folder / "run" / rundir.METRICS), process)
            time.sleep(rng.uniform(0, 0.15))  # an iteration takes about 0.1 s, much of it writing
            process.kill()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
    assert kills >= 3
    with start(*ARGUMENTS, cwd=folder) as process:
        _, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert_same_outcome(folder / "run", undisturbed / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_a_run_says_how_to_go_on_and_ends_bit_identically(
    number: signal.Signals, undisturbed: Path, tmp_path: Path
) -> None:
    folder = place(undisturbed, tmp_path)
    with start(*ARGUMENTS, cwd=folder) as process:
        wait_until(changed(folder / "run" / rundir.CHECKPOINT), process)
        process.send_signal(number)
        output, errors = process.communicate()
    assert process.returncode == 130
    assert (output, errors) == ("", "\nInterrupted. The same command goes on from run.\n")
    rows = metrics.read_rows(folder / "run" / rundir.METRICS)
    assert 0 < len(rows) < 10
    assert command_here(folder) == 0
    assert_same_outcome(folder / "run", undisturbed / "run")
