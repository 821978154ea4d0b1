"""One run over several processes: the figures of one process, and an end in all where one ends."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
import torch
from cases import equal
from helpers import SmallNet, easy_split
from safetensors import safe_open
from safetensors.torch import load_file

from sharp_maml_core import UserError, build_learner, distributed, evaluate, metrics, rundir
from sharp_maml_core.meta import map_tasks

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


def launched(rank: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    here = Path(__file__).parent
    paths = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}
    return os.environ | paths | {name: str(value) for name, value in own.items()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes went through all scenarios of `ranks`."""
    root = tmp_path_factory.mktemp("ranks")
    ports = free_ports(len(ranks.SCENARIOS) + 2)
    command = [sys.executable, ranks.__file__, str(root), *map(str, ports)]
    both = [subprocess.Popen(command, env=launched(rank, ports[0]), stderr=subprocess.PIPE) for rank in (0, 1)]
    try:
        _, errors = both[0].communicate(timeout=300)
        assert both[0].returncode == 0, errors.decode()
    finally:
        for process in both:
            process.kill()
            process.communicate()
    return root


def said(root: Path, scenario: str) -> list[str]:
    return [(root / f"{scenario}-{rank}.txt").read_text() for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run `whole` of this process."""
    folder = tmp_path_factory.mktemp("alone")
    ranks.whole(folder, ranks.BOTH)
    return folder


def assert_close(one: Path, other: Path) -> None:
    """Equal parameters, moments, metrics and scores, to the rounding of a sum in another order."""
    states = [load_file(folder / rundir.CHECKPOINT) for folder in (one, other)]
    assert torch.equal(states[0].pop("generator"), states[1].pop("generator"))
    torch.testing.assert_close(states[0], states[1], **EXACT)
    rows = [metrics.read_rows(folder / rundir.METRICS) for folder in (one, other)]
    assert len(rows[0]) == 7
    for mine, theirs in zip(*rows, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-12)
    assert (one / rundir.SCORES).read_bytes() == (other / rundir.SCORES).read_bytes()


# --- the same figures


@pytest.mark.parametrize("variant", ranks.VARIANTS)
def test_two_processes_with_unequal_shares_train_as_one_does(root: Path, tmp_path: Path, variant: str) -> None:
    assert said(root, variant) == ["7", "7"]
    ranks.whole(tmp_path, ranks.of_variant(variant))
    assert_close(root / variant, tmp_path)


def test_the_result_says_how_many_processes_there_were(root: Path, alone: Path) -> None:
    results = [json.loads((folder / rundir.RESULT).read_text()) for folder in (root / "whole", alone)]
    assert [result["processes"] for result in results] == [2, 1]
    assert results[0]["best"] == results[1]["best"]


def test_tasks_that_cannot_be_shared_evenly_are_all_tested(root: Path) -> None:
    learner = build_learner(ranks.BOTH, SmallNet())
    params = learner.init(torch.Generator().manual_seed(0))
    here = evaluate(learner, params, easy_split(seed=2), ranks.BOTH, n_tasks=17)
    assert said(root, "tested") == [str(here.scores.tolist())] * 2


# --- stopping and going on


def test_a_request_to_one_stops_both_after_the_same_iteration(root: Path) -> None:
    assert said(root, "asked") == ["KeyboardInterrupt: "] * 2
    assert iteration(root / "asked.safetensors") == ranks.AT


def test_an_error_in_one_ends_both_with_the_last_good_state_kept(root: Path) -> None:
    assert said(root, "broken") == ["PeerFailed: ", "ValueError: the second process fails"]
    assert iteration(root / "broken.safetensors") == ranks.AT - 1


@pytest.mark.parametrize("scenario", ["asked", "broken"])
def test_going_on_with_as_many_processes_is_bit_identical(root: Path, scenario: str) -> None:
    assert said(root, f"{scenario}-again") == ["7", "7"]
    assert equal(load_file(root / scenario / rundir.CHECKPOINT), load_file(root / "whole" / rundir.CHECKPOINT))
    for name in (rundir.METRICS, rundir.SCORES, rundir.MODEL):
        assert (root / scenario / name).read_bytes() == (root / "whole" / name).read_bytes()


def test_one_process_goes_on_from_what_two_left(root: Path, alone: Path, tmp_path: Path) -> None:
    for name in (rundir.CONFIG, rundir.METRICS):
        (tmp_path / name).write_bytes((root / "asked" / name).read_bytes())
    (tmp_path / rundir.CHECKPOINT).write_bytes((root / "asked.safetensors").read_bytes())
    ranks.whole(tmp_path, ranks.BOTH)
    assert_close(tmp_path, alone)


def test_a_failure_of_the_first_where_only_it_works_ends_both(root: Path) -> None:
    first, second = said(root, "full")
    assert "could not be written (no room)" in first
    assert second == "PeerFailed: "


def test_more_processes_than_tasks_are_refused_in_one_message(root: Path) -> None:
    first, second = said(root, "few")
    assert first.startswith("UserError: n_tasks=1 is not allowed: it must be at least 2, the number of processes")
    assert second == "PeerFailed: "
    assert not (root / "few").exists()


def test_processes_that_do_not_see_one_folder_are_refused(root: Path) -> None:
    first, second = said(root, "apart")
    assert "a folder that all of them see" in first
    assert second == "PeerFailed: "


def test_a_process_that_does_not_answer_is_not_waited_for_for_ever(root: Path) -> None:
    assert (root / "silent-0.txt").read_text().startswith("Lost: Another process of this run was lost")


def test_a_killed_process_ends_the_other_with_the_last_good_state_kept(root: Path) -> None:
    said_first = (root / "killed-0.txt").read_text()
    assert re.fullmatch(r"Lost: Another process of this run was lost, .*\(.*\)\. The same command .*", said_first)
    assert iteration(root / "killed" / rundir.CHECKPOINT) == ranks.AT - 1


# --- an ordinary process


def test_in_an_ordinary_process_nothing_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *arguments, **options: pytest.fail("joined"))
    with distributed.together():
        assert distributed.first()
        assert distributed.size() == 1
        assert distributed.share(5) == slice(None)
        assert not distributed.agree()
        assert distributed.agree(True)
        distributed.check_tasks(1)
        distributed.check_device(torch.device("cuda", 7))
        distributed.check_same("a", "run_dir", "b")


def test_a_pass_maps_its_share_and_what_it_already_has_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_together", True)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 1)
    everything, looks = {"x": torch.arange(5)}, [torch.arange(3)]
    with distributed.splitting(5):
        assert torch.equal(
            map_tasks(lambda tree, looks: tree["x"], (everything, looks), "loop", None), everything["x"][2:]
        )
        assert distributed.mine(looks)[0] is looks[0]
    assert distributed.mine(everything) is everything


def test_shares_cover_all_tasks_once_and_differ_by_at_most_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_together", True)
    for size in (1, 2, 3, 7):
        monkeypatch.setattr(distributed.dist, "get_world_size", lambda size=size: size)
        for n_tasks in range(size, 20):
            parts = []
            for rank in range(size):
                monkeypatch.setattr(distributed.dist, "get_rank", lambda rank=rank: rank)
                parts.append(list(range(n_tasks))[distributed.share(n_tasks)])
            assert [task for part in parts for task in part] == list(range(n_tasks))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("device", "allowed"), [("cuda:0", "auto, cuda or cpu"), ("cuda", "at most 1, the GPUs")])
def test_two_processes_are_not_put_on_one_gpu(device: str, allowed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_together", True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    distributed.check_device(torch.device("cpu"))
    with pytest.raises(UserError, match=allowed):
        distributed.check_device(torch.device(device))


def iteration(checkpoint: Path) -> int:
    with safe_open(checkpoint, framework="pt") as file:
        return json.loads(file.metadata()["state"])["iteration"]
