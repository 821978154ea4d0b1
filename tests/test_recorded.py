"""When something is recorded and when replayed, on a stand-in for CUDA graphs; `test_gpu.py` has the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from helpers import SmallNet, small_config
from torch import Tensor

from sharp_maml_core import UserError, build_learner
from sharp_maml_core.recorded import Recorded, recorded

Tree = dict[str, Tensor]


class Doubling:
    """The function that is recorded: it knows how often it was called, and with what last."""

    def __init__(self) -> None:
        self.calls: list[Tree] = []

    def __call__(self, given: Tree, factor: float) -> Tree:
        self.calls.append(given)
        return {name: factor * value for name, value in given.items()}


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to graphs. A replay computes anew on the tensors that were recorded, into those that came out."""
    done: list[str] = []

    class Graph:
        def replay(self) -> None:
            done.append("replay")
            for name, value in self.owner._result.items():
                value.copy_(2.0 * self.given[name])

    @contextmanager
    def graph(made: Graph) -> Iterator[None]:
        done.append("record")
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return done


def call(function: Any, recording: Recorded, value: float, *shape: int) -> Tensor:
    """Doubles a tensor full of the value by way of the recording, whose stand-in is told what it recorded."""
    given = {"x": torch.full(shape or (2,), value)}
    made = recording._record

    def record(arguments: Any) -> Any:
        found = made(arguments)
        found.owner, found.given = recording, arguments[0]
        return found

    recording._record = record  # type: ignore[method-assign]
    found = recording(given, 2.0)["x"]
    recording._record = made  # type: ignore[method-assign]
    return found


def test_the_first_call_computes_the_second_records_and_the_others_replay(replays: list[str]) -> None:
    function = Doubling()
    recording = Recorded(function)
    results = [call(function, recording, value) for value in (1.0, 2.0, 3.0, 4.0)]
    assert [result.tolist() for result in results] == [[2 * value] * 2 for value in (1.0, 2.0, 3.0, 4.0)]
    assert len(function.calls) == 2
    assert replays == ["record", "replay", "replay", "replay"]


def test_other_shapes_and_other_constants_begin_anew(replays: list[str]) -> None:
    function = Doubling()
    recording = Recorded(function)
    for shape in ((2,), (2,), (3,)):
        assert call(function, recording, 1.0, *shape).tolist() == [2.0] * shape[0]
    assert replays == ["record", "replay"]
    assert recording({"x": torch.ones(3)}, 5.0)["x"].tolist() == [5.0] * 3
    assert replays == ["record", "replay"]


def test_what_cannot_be_recorded_is_told_by_what_went_wrong_first(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def graph(made: object) -> Iterator[None]:
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    calls = []

    def waiting(x: Tensor) -> Tensor:
        calls.append(x)
        if len(calls) > 1:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return x

    recording = Recorded(waiting)
    recording(torch.ones(1))
    with pytest.raises(UserError, match=r"record=True .* false for a model .* not permitted when stream is capturing$"):
        recording(torch.ones(1))


def test_memory_that_runs_out_is_not_the_models_fault(monkeypatch: pytest.MonkeyPatch, replays: list[str]) -> None:
    def greedy(x: Tensor) -> Tensor:
        if replays:
            raise torch.OutOfMemoryError("no")
        return x

    recording = Recorded(greedy)
    recording(torch.ones(1))
    with pytest.raises(torch.OutOfMemoryError):
        recording(torch.ones(1))


def test_only_what_says_so_is_recorded_and_only_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(variant: str, device: str, **changes: Any) -> type:
        config = small_config(variant, **changes)
        learner = build_learner(config, SmallNet())
        monkeypatch.setattr(type(config), "torch_device", torch.device(device))
        found = recorded(learner.gradient, config, learner)
        monkeypatch.undo()
        return type(found)

    assert kind("both", "cuda") is Recorded
    assert kind("both", "cpu") is not Recorded
    assert kind("both", "cuda", record=False) is not Recorded
    assert kind("e-low", "cuda") is not Recorded
    assert kind("maml++", "cuda") is not Recorded
    assert kind("reptile", "cuda", reptile_batch=0) is Recorded
    assert kind("reptile", "cuda", reptile_batch=2) is not Recorded
