"""The benchmark runs and reports what it measured; how fast is for a person to judge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import speed
from benchmarks.peer import Peer
from benchmarks.speed import Shape, config_of, episode_of, report
from sharp_maml_core import Conv4, build_learner

ROOT = Path(__file__).parents[2]
SHAPE = Shape((1, 16, 16), 5, n_tasks=2, inner_steps=2, inner_lr=0.1, n_query=2)


def test_the_benchmark_writes_its_figures_with_their_provenance(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.speed", "--quick", "--rounds", "1", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    (file,) = tmp_path.glob("speed-*.json")
    written = json.loads(file.read_text())
    assert {"command", "device", "commit", "packages", "rounds", "results"} <= set(written)
    (figures,) = written["results"].values()
    assert figures["relative_to_maml"]["maml"] == 1
    assert all(value["min"] <= value["median"] <= value["max"] for value in figures["seconds"].values())
    assert figures["gradient"]["float32"]["cosine"] > 0.999
    assert "| Torchmeta both |" in report(written["results"])


def test_memory_is_measured_on_a_mac_too(monkeypatch: pytest.MonkeyPatch) -> None:
    here = speed.most_resident()
    assert here > 10
    monkeypatch.setattr(speed.sys, "platform", "darwin")
    monkeypatch.setattr(speed.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=300 * 2**20))
    assert speed.most_resident() == 300


@pytest.mark.parametrize("benchmark", ["speed", "stacked"])
def test_a_device_that_is_not_there_is_said_in_a_sentence(benchmark: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--device", "cuda:99", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "device='cuda:99' is not allowed" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("benchmark", "option"), [("speed", "rounds"), ("stacked", "rounds"), ("stacked", "runs")])
def test_no_rounds_are_refused_before_any_work(benchmark: str, option: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        f"benchmarks.{benchmark}",
        "--quick",
        f"--{option}",
        "0",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert f"{option}=0 is not allowed: it must be at least 1." in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_the_peer_takes_the_same_step_as_our_both_with_a_recomputed_lower_perturbation() -> None:
    peer = Peer(SHAPE.image, SHAPE.n_way, SHAPE.inner_lr, SHAPE.inner_steps, alpha_low=0.05, alpha_up=0.05)
    peer.model.double()
    config = config_of(
        SHAPE, "both", "cpu", alpha_low=0.05, alpha_up=0.05, reuse_lower_perturbation=False, dtype="float64"
    )
    learner = build_learner(config, Conv4(SHAPE.image, SHAPE.n_way))
    ours = {
        name.replace("features.", "features.")
        .replace(".conv.", ".0.")
        .replace(".norm.", ".1.")
        .replace("head", "classifier"): name
        for name in learner.init(torch.Generator().manual_seed(0))
    }
    params = {ours[name]: value.detach().clone() for name, value in peer.model.named_parameters()}
    episode = episode_of(SHAPE, "cpu", torch.float64)
    grads, _ = learner.gradient(params, episode)
    peer.iteration(episode)
    for name, parameter in peer.model.named_parameters():
        # The conv bias: ours is exactly zero, theirs is rounding.
        torch.testing.assert_close(grads[ours[name]], parameter.grad, rtol=1e-9, atol=1e-13)
