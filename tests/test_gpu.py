"""On a GPU everything is what it is on the CPU: gradients, tasks, scores, runs, stacks, the command line."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from cases import classification, moved, relative_error, seeded
from helpers import SmallNet, easy_data, easy_split, flags, small_config, write_image_folder
from safetensors.torch import load_file

from sharp_maml_core import (
    Config,
    Learner,
    UserError,
    build_learner,
    evaluate,
    run_experiment,
    rundir,
    sample_episodes,
    train,
)
from sharp_maml_core.__main__ import main
from sharp_maml_core.config import FAMILY, VARIANTS
from sharp_maml_core.models import model_for_images
from sharp_maml_core.params import Params
from sharp_maml_core.recorded import Recorded, recorded
from sharp_maml_core.run import default_folder
from sharp_maml_core.stacked import grid, run_stack

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPU = "cuda"
IMAGES = (1, 16, 16)
GIVEN = {"model": SmallNet(), "data": easy_data(), "progress": False}
LOWER = {name: {"alpha_low": 0.2} for name in FAMILY if "low" in name} | {"both": {"alpha_low": 0.2}}
EXACT = 1e-10  # float64, sums in another order


def on(device: str, params: Params) -> Params:
    return {name: value.to(device) for name, value in params.items()}


def learner_of(config: Config) -> Learner:
    return build_learner(config, model_for_images(config, IMAGES, 3))


def gradient_of(variant: str, device: str, **changes: object) -> Params:
    sizes = {"n_way": 3, "k_shot": 2, "n_query": 3}
    values = {"dtype": "float64", "device": device, "inner_lr": 0.3, "inner_steps": 2, "alpha_up": 0.3, "filters": 4}
    config = Config(variant, **values | sizes | LOWER.get(variant, {}) | changes)
    learner = learner_of(config)
    params = on(device, moved(on("cpu", learner.init(seeded(0)))))
    episode = classification(IMAGES, n_tasks=2, **sizes)
    grads, _ = learner.gradient(params, type(episode)(*(value.to(device) for value in episode)), seeded(1))
    assert all(value.device.type == device for value in grads.values())
    return on("cpu", grads)


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_meta_gradient_is_that_of_the_cpu(variant: str, task_map: str) -> None:
    assert relative_error(gradient_of(variant, GPU, task_map=task_map), gradient_of(variant, "cpu")) < EXACT


@pytest.mark.parametrize("variant", [name for name in FAMILY if "anil" not in name])
def test_so_it_is_from_a_head_of_zero(variant: str) -> None:
    changes = {"zero_head": True, "feature_length": 3.0}
    assert relative_error(gradient_of(variant, GPU, **changes), gradient_of(variant, "cpu", **changes)) < EXACT


def test_the_tasks_are_the_same() -> None:
    sizes = {"n_way": 3, "k_shot": 1, "n_query": 2, "n_tasks": 4, "rotations": True, "dtype": torch.float64}
    here, there = (sample_episodes(easy_split().to(device), generator=seeded(0), **sizes) for device in ("cpu", GPU))
    for mine, other in zip(here, there, strict=True):
        torch.testing.assert_close(other.cpu(), mine, rtol=1e-15, atol=0)


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_scores_are_the_same(variant: str, task_map: str) -> None:
    found = []
    for device in ("cpu", GPU):
        config = small_config(variant, dtype="float64", device=device, task_map=task_map)
        learner, split = learner_of(config), easy_split(1, side=IMAGES[1]).to(device)
        # Three batches of tasks and a part of one: what is recorded is replayed, and then something else comes.
        found.append(evaluate(learner, learner.init(seeded(0)), split, config, n_tasks=50).scores)
    assert torch.equal(*found)


@pytest.mark.parametrize("variant", ["both", "e-low-anil", "matching", "reptile", "maml++"])
@pytest.mark.parametrize("devices", [("cpu", GPU), (GPU, "cpu")])
def test_a_run_goes_on_on_the_other(
    variant: str, devices: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(variant, dtype="float64")
    run_experiment(config, tmp_path / "whole", **GIVEN)
    draws, draw = itertools.count(), train.draw_training_tasks

    def failing(*arguments, **options):
        if next(draws) == 3:
            raise RuntimeError("cut")
        return draw(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(train, "draw_training_tasks", failing)
        with pytest.raises(RuntimeError, match="cut"):
            run_experiment(config.replace(device=devices[0]), tmp_path / "cut", **GIVEN)
    run_experiment(config.replace(device=devices[1]), tmp_path / "cut", **GIVEN)
    whole, cut = (rundir.read_result(tmp_path / name) for name in ("whole", "cut"))
    assert [stretch["from_iteration"] for stretch in cut["sessions"]] == [0, 2]  # the last checkpoint
    for which in ("best", "last"):
        assert cut[which]["mean"] == pytest.approx(whole[which]["mean"], abs=1e-12)


ALL_IMAGES = {"reptile": {"reptile_batch": 0}}  # it draws no mini-batches
RECORDABLE = [name for name in VARIANTS if not name.startswith("e-") and name != "maml++"]


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
@pytest.mark.parametrize("variant", RECORDABLE)
def test_a_recorded_gradient_is_the_gradient_of_whatever_it_is_given(variant: str, task_map: str) -> None:
    sizes = {"n_way": 3, "k_shot": 2, "n_query": 3}
    values = {"dtype": "float64", "device": GPU, "inner_lr": 0.3, "alpha_up": 0.3, "filters": 4, "task_map": task_map}
    config = Config(variant, **values | sizes | LOWER.get(variant, {}) | ALL_IMAGES.get(variant, {}))
    learner = learner_of(config)
    gradient, generator = recorded(learner.gradient, config, learner), seeded(0)
    assert isinstance(gradient, Recorded)
    kept = []
    for call in range(4):
        params = on(GPU, moved(on("cpu", learner.init(seeded(0))), seed=call))
        episode = classification(IMAGES, n_tasks=2, seed=call, **sizes)
        episode = type(episode)(*(value.to(GPU) for value in episode))
        kept.append((*gradient(params, episode, generator), *learner.gradient(params, episode, generator)))
    for found, metrics, expected, others in kept:  # only now: a later call must not overwrite what an earlier one gave
        assert relative_error(found, expected) < EXACT
        torch.testing.assert_close(metrics, others, rtol=1e-10, atol=0)


@pytest.mark.parametrize("changes", [{}, {"variant": "both"}, {"zero_head": True, "train_way": 4}])
def test_a_recorded_run_is_the_run(changes: dict[str, object], tmp_path: Path) -> None:
    config = small_config(**{"variant": "maml", "dtype": "float64", "device": GPU} | changes)
    folders = [tmp_path / str(record) for record in (False, True)]
    results = [run_experiment(config.replace(record=f.name == "True"), f, **GIVEN) for f in folders]
    states = [load_file(folder / rundir.CHECKPOINT) for folder in folders]
    torch.testing.assert_close(*states, rtol=1e-8, atol=1e-10)
    assert results[0]["last"]["mean"] == pytest.approx(results[1]["last"]["mean"], abs=1e-12)


def test_what_waits_for_the_gpu_cannot_be_recorded_and_says_so(tmp_path: Path) -> None:
    class Waiting(SmallNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = super().forward(x)
            return out if float(out.detach().sum()) < 1e9 else -out

    config, given = small_config("maml", device=GPU, task_map="loop"), GIVEN | {"model": Waiting()}
    with pytest.raises(UserError, match="record=True is not allowed"):
        run_experiment(config, tmp_path / "one", **given)
    torch.cuda.synchronize()  # the GPU can still be used
    assert run_experiment(config.replace(record=False), tmp_path / "two", **given)["iterations"] == 7


@pytest.mark.parametrize("variant", ["maml", "both"])
def test_a_stack_is_its_runs(variant: str, tmp_path: Path) -> None:
    config = small_config(variant, dtype="float64", device=GPU)
    configs = grid(config, [0, 1], [0.05, 0.5] if variant == "both" else [0.1])
    run_stack(configs, tmp_path / "stack", **GIVEN)
    for config in configs:
        name = default_folder(config).name
        stacked = rundir.read_result(tmp_path / "stack" / name)
        alone = run_experiment(config, tmp_path / "alone" / name, **GIVEN)
        assert stacked["best"]["mean"] == pytest.approx(alone["best"]["mean"], abs=1e-12)


def test_the_command_line_takes_it_by_itself(tmp_path: Path) -> None:
    images, folder = write_image_folder(tmp_path / "images"), tmp_path / "run"
    settings = {"n_way": 3, "n_query": 2, "n_tasks": 2, "filters": 2, "iterations": 4, "eval_every": 2, "val_tasks": 4}
    assert main(["train", "--quiet", *flags(dataset=images, run_dir=folder, eval_tasks=4, **settings)]) == 0
    assert rundir.read_result(folder)["device"] == torch.cuda.get_device_name()
