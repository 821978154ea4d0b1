"""The outer step against torch's own optimisers, and its schedules."""

from __future__ import annotations

import math

import pytest
import torch
from cases import equal

from sharp_maml_core.outer import OPTIMIZERS, SCHEDULES, OuterStep

PARAMS = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([[0.5]])}
GRADS = [{"a": torch.tensor([0.3, 1.0]) * k, "b": torch.tensor([[-2.0 / k]])} for k in (1, 2, 3)]
RATES = (0.1, 0.05, 0.2)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_torchs_with_the_rate_of_the_moment(name: str) -> None:
    outer = OuterStep(name, PARAMS, {})
    leaves = {key: value.clone().requires_grad_() for key, value in PARAMS.items()}
    theirs = OPTIMIZERS[name](leaves.values(), lr=1.0)
    for grads, lr in zip(GRADS, RATES, strict=True):
        outer(grads, lr)
        theirs.param_groups[0]["lr"] = lr
        for key, leaf in leaves.items():
            leaf.grad = grads[key]
        theirs.step()
    assert equal(outer.params, {key: leaf.detach() for key, leaf in leaves.items()})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_goes_on_from_its_moments(name: str) -> None:
    whole, first = OuterStep(name, PARAMS, {}), OuterStep(name, PARAMS, {})
    for grads, lr in zip(GRADS, RATES, strict=True):
        whole(grads, lr)
    first(GRADS[0], RATES[0])
    then = OuterStep(name, first.params, first.moments)
    for grads, lr in zip(GRADS[1:], RATES[1:], strict=True):
        then(grads, lr)
    assert equal(whole.params, then.params)


def test_the_given_parameters_stay_as_they_are() -> None:
    before = {name: value.clone() for name, value in PARAMS.items()}
    OuterStep("sgd", PARAMS, {})(GRADS[0], 1.0)
    assert equal(PARAMS, before)


def test_schedules_begin_at_the_rate_and_end_where_they_say() -> None:
    ends = {name: (schedule(0.0), schedule(0.25), schedule(1.0)) for name, schedule in SCHEDULES.items()}
    assert ends["constant"] == (1, 1, 1)
    assert ends["linear"] == (1, 0.75, 0)
    assert ends["cosine"] == pytest.approx((1, (1 + math.sqrt(0.5)) / 2, 0), abs=1e-15)
