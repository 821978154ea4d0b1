"""Several runs at once: each is what it would be alone, and nothing that happens to one of them touches the others."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import equal
from helpers import Joined, SmallNet, easy_data, easy_images, flags, small_config
from safetensors.torch import load_file

from sharp_maml_core import Config, Conv4, Diverged, UserError, metrics, models, run_experiment, rundir, stacking
from sharp_maml_core.__main__ import main
from sharp_maml_core.run import default_folder
from sharp_maml_core.stacked import STACKABLE, grid, run_stack

EXACT = {"rtol": 1e-10, "atol": 1e-12}
GIVEN = {"model": SmallNet(), "data": easy_data(), "progress": False}


def configs_of(variant: str = "both", seeds: Sequence[int] = (0, 1), **changes: Any) -> list[Config]:
    config = small_config(variant, **{"dtype": "float64", "iterations": 5, "checkpoint_every": 100} | changes)
    return grid(config, seeds, [0.05, 0.5])


def folder_of(root: Path, config: Config) -> Path:
    return root / default_folder(config).name


def assert_as_alone(config: Config, stacked: Path, alone: Path, **given: Any) -> None:
    """The run in the folder is what one by itself in `alone` becomes, which is done here."""
    run_experiment(config, alone, **GIVEN | given)
    states = [load_file(folder / rundir.CHECKPOINT) for folder in (stacked, alone)]
    assert torch.equal(states[0].pop("generator"), states[1].pop("generator"))
    torch.testing.assert_close(*states, **EXACT)
    rows = [metrics.read_rows(folder / rundir.METRICS) for folder in (stacked, alone)]
    assert [row.keys() for row in rows[0]] == [row.keys() for row in rows[1]]
    for mine, other in zip(*rows, strict=True):
        assert mine == pytest.approx(other, rel=1e-10)
    assert (stacked / rundir.SCORES).read_bytes() == (alone / rundir.SCORES).read_bytes()
    results = [json.loads((folder / rundir.RESULT).read_text()) for folder in (stacked, alone)]
    for name in ("best", "last", "iterations", "seed", "config", "data"):
        assert results[0][name] == results[1][name]


# --- as alone


@pytest.mark.parametrize("variant", STACKABLE)
def test_each_run_of_a_stack_is_what_it_would_be_alone(variant: str, tmp_path: Path) -> None:
    configs = configs_of(variant)
    assert len(run_stack(configs, tmp_path, **GIVEN)) == 4
    # The first and the last have neither the seed nor the radii in common.
    for config in (configs[0], configs[-1]):
        assert_as_alone(config, folder_of(tmp_path, config), tmp_path / str(config.seed))


@pytest.mark.parametrize(
    "changes",
    [
        {"adaptive": True, "perturbation_gradient": "through", "reuse_lower_perturbation": False, "task_map": "vmap"},
        {"clip": 0.05, "outer_optimizer": "sgd", "outer_schedule": "cosine", "rotations": True, "inner_steps": 2},
        {"zero_head": True, "train_way": 4, "rotations": True, "rotations_of": "tasks", "distortion": 0.1},
        {"variant": "up", "zero_head": True, "train_way": 4, "task_map": "vmap"},
    ],
    ids=["adaptive", "clip", "zero_head", "up"],
)
def test_other_settings_hold_in_a_stack_too(changes: dict[str, Any], tmp_path: Path) -> None:
    configs = configs_of(**changes)
    run_stack(configs, tmp_path, at_once=3, **GIVEN)
    assert_as_alone(configs[-1], folder_of(tmp_path, configs[-1]), tmp_path / "alone")


def test_a_convolutional_network_is_stacked(tmp_path: Path) -> None:
    data = {split: easy_images(side=16, seed=seed) for seed, split in enumerate(("train", "val", "test"))}
    given = {"model": Conv4((1, 16, 16), 3, filters=3), "data": data}
    configs = configs_of(iterations=3)[1:3]
    run_stack(configs, tmp_path, **GIVEN | given)
    for config in configs:
        assert_as_alone(config, folder_of(tmp_path, config), tmp_path / str(config.seed), **given)


def test_radius_0_beside_others_is_the_run_without_a_perturbation(tmp_path: Path) -> None:
    configs = grid(configs_of(iterations=3)[0], [0], [0.0, 0.5])
    run_stack(configs, tmp_path, **GIVEN)
    for config in configs:
        assert_as_alone(config, folder_of(tmp_path, config), tmp_path / str(config.alpha_up))


def test_the_result_names_the_stack(tmp_path: Path) -> None:
    configs = configs_of(iterations=2)
    results = run_stack(configs, tmp_path, command="a stack", **GIVEN)
    names = [folder_of(tmp_path, config).name for config in configs]
    assert [folder.name for folder in results] == names
    for result in results.values():
        assert result["command"] == "a stack"
        assert result["stack"] == {"runs": names, "seconds": "an equal share for each run"}
    assert len({result["seconds"] for result in results.values()}) == 1


def test_the_networks_that_are_made_are_not_more_the_longer_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plain = [], models.MLP
    monkeypatch.setattr(models, "MLP", lambda *sizes: made.append(sizes) or plain(*sizes))
    counts = []
    for iterations in (1, 3):
        configs = grid(small_config("up", dataset="sinusoid", iterations=iterations, eval_every=9), [0, 1])
        run_stack(configs, tmp_path, progress=False)
        counts.append(len(made))
        made.clear()
    assert 0 < counts[0] == counts[1]


# --- stopping and going on


def interrupt_at(iteration: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask this process to stop in the middle of that iteration of the next stack."""
    plain = stacking.Stack.iterate

    def iterate(stack: Any, *arguments: Any) -> None:
        if stack._runs[0].state.iteration + 1 == iteration:
            os.kill(os.getpid(), signal.SIGINT)
        plain(stack, *arguments)

    monkeypatch.setattr(stacking.Stack, "iterate", iterate)


def assert_same_runs(configs: list[Config], one: Path, other: Path) -> None:
    for config in configs:
        mine, theirs = folder_of(one, config), folder_of(other, config)
        assert equal(load_file(mine / rundir.CHECKPOINT), load_file(theirs / rundir.CHECKPOINT))
        for name in (rundir.METRICS, rundir.SCORES, rundir.MODEL):
            assert (mine / name).read_bytes() == (theirs / name).read_bytes()


def test_an_interrupted_stack_goes_on_bit_identically(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = configs_of()
    run_stack(configs, tmp_path / "whole", **GIVEN)
    with monkeypatch.context() as patched:
        interrupt_at(4, patched)
        with pytest.raises(KeyboardInterrupt):
            run_stack(configs, tmp_path / "stopped", **GIVEN)
    assert f"goes on from {tmp_path / 'stopped'}" in capsys.readouterr().err
    for config in configs:
        assert len(metrics.read_rows(folder_of(tmp_path / "stopped", config) / rundir.METRICS)) == 4
    for result in run_stack(configs, tmp_path / "stopped", **GIVEN).values():
        assert [session["from_iteration"] for session in result["sessions"]] == [0, 4]
        assert [session["stack"] for session in result["sessions"]] == [len(configs)] * 2
    assert_same_runs(configs, tmp_path / "stopped", tmp_path / "whole")


def test_runs_that_lag_behind_catch_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = configs_of()[:3]
    for config, at in zip(configs[:2], (2, 4), strict=True):
        with monkeypatch.context() as patched:
            interrupt_at(at, patched)
            with pytest.raises(KeyboardInterrupt):
                run_stack([config], tmp_path, **GIVEN)
    run_stack(configs, tmp_path, **GIVEN)
    for i, config in enumerate(configs):
        assert_as_alone(config, folder_of(tmp_path, config), tmp_path / str(i))


def test_a_separate_run_goes_on_with_what_a_stack_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = configs_of()
    with monkeypatch.context() as patched:
        interrupt_at(3, patched)
        with pytest.raises(KeyboardInterrupt):
            run_stack(configs, tmp_path, **GIVEN)
    for config in configs[:2]:
        run_experiment(config, folder_of(tmp_path, config), **GIVEN)
    assert_as_alone(configs[1], folder_of(tmp_path, configs[1]), tmp_path / "alone")


def test_finished_runs_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = configs_of(iterations=2)
    before = run_stack(configs, tmp_path, **GIVEN)
    monkeypatch.setattr(stacking.Stack, "iterate", lambda *arguments: pytest.fail("trained"))
    assert run_stack(configs, tmp_path, **GIVEN) == before


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"data": easy_data() | {"val": easy_images(seed=7)}}, r"same data \(val changed"),
        ({"model": SmallNet(9)}, r"same model \(features\.1\.weight \[8, 36\] is now \[9, 36\]"),
    ],
    ids=["data", "model"],
)
def test_finished_runs_are_not_given_out_for_other_data_or_another_model(
    given: dict[str, Any], says: str, tmp_path: Path
) -> None:
    configs = configs_of(iterations=2)
    run_stack(configs[:1], tmp_path, **GIVEN)
    with pytest.raises(UserError, match=f"^run_dir='{folder_of(tmp_path, configs[0])}' .*{says}"):
        run_stack(configs, tmp_path, **GIVEN | given)
    assert not (folder_of(tmp_path, configs[1]) / rundir.CHECKPOINT).exists()


def test_a_run_that_diverges_leaves_and_the_others_go_on(tmp_path: Path) -> None:
    configs = configs_of()
    bad = configs[0].replace(alpha_low=1e308, alpha_up=1e308)
    with pytest.raises(Diverged, match=f"{folder_of(tmp_path, bad).name}: .*diverged at iteration 1") as caught:
        run_stack([*configs[:1], bad, *configs[3:]], tmp_path, **GIVEN)
    assert str(caught.value).count("diverged") == 1
    folder = folder_of(tmp_path, bad)
    assert caught.value.failures == {folder: str(caught.value).removeprefix(f"{folder.name}: ")}
    assert not (folder_of(tmp_path, bad) / rundir.RESULT).exists()
    assert all(value.isfinite().all() for value in load_file(folder_of(tmp_path, bad) / rundir.CHECKPOINT).values())
    for i, config in enumerate((configs[0], configs[3])):
        assert_as_alone(config, folder_of(tmp_path, config), tmp_path / str(i))


def test_a_run_whose_test_score_is_not_finite_does_not_keep_the_others_from_theirs(tmp_path: Path) -> None:
    """After one step from so far away the loss is finite yet, after the twenty of a test it is not."""
    config = small_config("low", dataset="sinusoid", dtype="float64", iterations=1, eval_inner_steps=20)
    bad, good = grid(config, [0], None, [1e3, 0.0])
    with pytest.raises(Diverged, match=f"^{folder_of(tmp_path, bad).name}: The mean squared error .* not finite"):
        run_stack([bad, good], tmp_path, progress=False)
    assert rundir.read_result(folder_of(tmp_path, bad)) is None
    assert_as_alone(good, folder_of(tmp_path, good), tmp_path / "alone", model=None, data=None)


def test_an_error_leaves_the_last_good_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = configs_of()
    run_stack(configs, tmp_path / "whole", **GIVEN)
    plain, count = stacking.draw_training_tasks, 0

    def broken(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == 2 * len(configs) + 2:  # in the third iteration, when one run has drawn its tasks
            raise RuntimeError("broken")
        return plain(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(stacking, "draw_training_tasks", broken)
        with pytest.raises(RuntimeError, match="broken"):
            run_stack(configs, tmp_path / "broken", **GIVEN)
    for config in configs:
        assert len(metrics.read_rows(folder_of(tmp_path / "broken", config) / rundir.METRICS)) == 2
    run_stack(configs, tmp_path / "broken", **GIVEN)
    assert_same_runs(configs, tmp_path / "broken", tmp_path / "whole")


# --- what cannot be stacked


def test_a_grid_is_every_seed_with_every_radius() -> None:
    def radii(configs: list[Config]) -> list[tuple[int, float, float]]:
        return [(config.seed, config.alpha_low, config.alpha_up) for config in configs]

    config = small_config("both", alpha_up=0.3)
    assert radii(grid(config, [4, 5], [0.1, 0.2])) == [(4, 0.1, 0.1), (4, 0.2, 0.2), (5, 0.1, 0.1), (5, 0.2, 0.2)]
    assert radii(grid(config, [4], None, [0.1, 0.2])) == [(4, 0.1, 0.3), (4, 0.2, 0.3)]
    assert radii(grid(config, [4], None, [0.1, 0.2], [0.0])) == [(4, 0.1, 0.0), (4, 0.2, 0.0)]
    assert radii(grid(config, [4])) == [(4, 5e-4, 0.3)]
    with pytest.raises(UserError, match=r"alphas=.* given alone"):
        grid(config, [4], [0.1], [0.1])


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        ([], "at least one run"),
        ([small_config("e-low")], "variant='e-low' .* one of maml, .* in a stack"),
        ([small_config(), small_config(inner_lr=0.2)], "inner_lr=0.2 .* 0.1, as in the stack's first run"),
        ([small_config(), small_config(seed=1), small_config()], "'seed': 0.* given once"),
    ],
)
def test_runs_that_cannot_be_stacked_are_refused_before_any_work(
    configs: list[Config], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run_stack(configs, tmp_path, **GIVEN)
    assert not any(tmp_path.iterdir())


def test_a_run_that_another_process_has_is_refused(tmp_path: Path) -> None:
    configs = configs_of()
    with (
        rundir.open_run(folder_of(tmp_path, configs[2]), configs[2]),
        pytest.raises(UserError, match="no other process is using"),
    ):
        run_stack(configs, tmp_path, **GIVEN)
    run_stack(configs[:2], tmp_path, **GIVEN)  # it let go of those that it had


def test_overwriting_throws_nothing_away_where_a_run_is_in_use(tmp_path: Path) -> None:
    configs = configs_of(iterations=2)
    results = run_stack(configs, tmp_path, **GIVEN)
    with (
        rundir.locked(folder_of(tmp_path, configs[2])),
        pytest.raises(UserError, match="no other process is using"),
    ):
        run_stack(configs, tmp_path, overwrite=True, **GIVEN)
    assert {folder: rundir.read_result(folder) for folder in results} == results


def test_a_model_that_is_not_its_parts_is_refused_though_values_are_hidden_in_a_stack(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model='Joined' is not allowed.*head\(features\(x\)\)"):
        run_stack(configs_of("anil"), tmp_path, **GIVEN | {"model": Joined()})
    assert not any(tmp_path.iterdir())


# --- the command


def test_the_command_trains_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"dataset": "sinusoid", "inner_steps": 1, "n_tasks": 2, "iterations": 2, "eval_every": 2}
    settings |= {"val_tasks": 2, "eval_tasks": 4, "device": "cpu", "inner_lr": 0.01, "runs_dir": tmp_path / "grid"}
    command = ["stack", "--quiet", "--seeds", "0", "3", "--alphas-up", "0.1", "0.2", *flags(variant="up", **settings)]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    folders = {path.name: path for path in (tmp_path / "grid").iterdir()}
    assert len(lines) == len(folders) == 4
    for line, (seed, alpha) in zip(lines, [(0, 0.1), (0, 0.2), (3, 0.1), (3, 0.2)], strict=True):
        result = json.loads((folders[line.rpartition("/")[2]] / rundir.RESULT).read_text())
        assert line.startswith(f"seed {seed}, alpha_low 0.0005, alpha_up {alpha}: mean squared error")
        assert f" {result['best']['mean']:.4f} +- {result['best']['interval_95']:.4f} " in line
        assert (result["config"]["seed"], result["config"]["alpha_up"]) == (seed, alpha)
        with (folders[line.rpartition("/")[2]] / rundir.SCORES).open() as file:
            assert len(list(csv.DictReader(file))) == 4


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stack", "--seeds", "0", "0"]) == 2
    assert "given once" in capsys.readouterr().err
