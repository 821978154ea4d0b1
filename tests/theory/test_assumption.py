"""E F(theta + eps) - F(theta), against functions for which it is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import N_WAY, SmallNet, easy_split, small_config
from torch import Tensor

from sharp_maml_core import UserError, build_learner, sample_episodes
from sharp_maml_core.learners import Learner
from sharp_maml_core.params import Params
from sharp_maml_core.theory.assumption import mean_and_interval, measure_differences, readings, verdicts

SIGMAS = (0.001, 0.1, 1.0)


def learner_of(logits) -> Learner:
    """A learner that does not adapt, with logits(params, labels of the queries), which come ordered by class."""

    def predict(params: Params, query_x: Tensor) -> Tensor:
        return logits(params, torch.arange(N_WAY).repeat_interleave(len(query_x) // N_WAY))

    return Learner(None, None, lambda params, x, y: params, predict)


def zeros(n: int) -> Params:
    return {"z": torch.zeros(n, dtype=torch.float64)}


def measured(learner: Learner, params: Params, sigmas=SIGMAS, n_tasks: int = 400):
    return measure_differences(learner, params, easy_split(), small_config(dtype="float64"), sigmas, n_tasks=n_tasks)


def test_a_convex_loss_rises_by_half_the_trace_times_sigma_squared() -> None:
    """Cross-entropy of logits z, at z = 0: the trace of its Hessian is sum p (1 - p) = 2/3 for three classes."""
    found = measured(learner_of(lambda params, labels: params["z"].expand(len(labels), -1)), zeros(N_WAY))
    assert (found.loss >= -1e-15).all()  # eps and -eps: by convexity not even a single task falls
    mean, interval = mean_and_interval(found.loss)
    expected = 0.5 * 2 / 3 * np.array(SIGMAS) ** 2
    assert abs(mean[0] - expected[0]) < 2 * interval[0]
    assert interval[0] < 0.1 * expected[0]
    assert abs(mean[1] - expected[1]) < 2 * interval[1] + 0.1**4
    assert verdicts(found.loss) == ["holds"] * 3
    assert found.at_theta == pytest.approx((math.log(3), 2 / 3), rel=1e-14)  # ties go to the first class


def test_a_loss_at_its_maximum_violates_the_assumption() -> None:
    found = measured(
        learner_of(lambda params, labels: (params["z"] ** 2).sum() * F.one_hot(labels, N_WAY).double()), zeros(2)
    )
    assert verdicts(found.loss) == ["violated"] * 3


def test_a_constant_loss_decides_nothing() -> None:
    found = measured(learner_of(lambda params, labels: torch.zeros(len(labels), N_WAY)), zeros(2), n_tasks=5)
    assert verdicts(found.loss) == verdicts(found.error) == ["undecided"] * 3


def test_the_gradient_does_not_enter() -> None:
    """A loss that is linear in theta on both sides: log(1 + 2 e^-z) for a large z is 2 e^-z, for a small one -z."""
    steep = {"z": torch.tensor([-200.0], dtype=torch.float64)}
    found = measured(
        learner_of(lambda params, labels: params["z"] * F.one_hot(labels, N_WAY).double()), steep, n_tasks=5
    )
    assert np.abs(found.loss).max() < 1e-12


def test_each_task_has_its_own_noise_and_all_sigmas_share_it() -> None:
    config, split = small_config(dtype="float64", n_tasks=2), easy_split()
    learner = build_learner(config, SmallNet().double())
    params = learner.init(torch.Generator().manual_seed(0))
    found = measure_differences(learner, params, split, config, (0.1, 0.5), n_tasks=2, seed=3)

    episode = sample_episodes(
        split,
        n_way=config.n_way,
        k_shot=config.k_shot,
        n_query=config.n_query,
        n_tasks=2,
        generator=torch.Generator().manual_seed(3),
        dtype=torch.float64,
    )
    noise = torch.Generator().manual_seed(3)

    def loss(theta: Params, task: int) -> float:
        fast = learner.adapt(theta, episode.support_x[task], episode.support_y[task])
        return float(F.cross_entropy(learner.predict(fast, episode.query_x[task]), episode.query_y[task]))

    for task in range(2):
        eps = {name: torch.randn(value.shape, generator=noise, dtype=value.dtype) for name, value in params.items()}
        for row, sigma in enumerate((0.1, 0.5)):
            sides = [loss({name: params[name] + sign * sigma * eps[name] for name in params}, task) for sign in (1, -1)]
            assert found.loss[row, task] == pytest.approx(sum(sides) / 2 - loss(params, task), abs=1e-14)
    assert found.n_params == sum(value.numel() for value in params.values())
    assert found.lengths().tolist() == pytest.approx([s * math.sqrt(found.n_params) for s in (0.1, 0.5)], rel=1e-15)


def test_the_three_meanings_of_alpha() -> None:
    assert list(readings(0.05, 10_000).values()) == pytest.approx([0.05, 0.05 / 100, 0.05**2 / 100], rel=1e-15)


def test_verdicts_are_of_the_interval() -> None:
    plus = np.array([1.0, 1.1, 0.9, 1.0])
    assert verdicts(np.stack([plus, -plus, plus - 1])) == ["holds", "violated", "undecided"]
    mean, interval = mean_and_interval(plus[None])
    assert mean.tolist() == [1.0]
    assert interval.tolist() == pytest.approx([1.959963984540054 * math.sqrt(0.02 / 3) / 2], rel=1e-14)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: readings(0.0, 10), "alpha=0.0 is not allowed: it must be above 0"),
        (lambda: readings(0.1, 0), "n_params=0"),
        (lambda: measured(learner_of(None), zeros(1), sigmas=(0.1, 0.0)), "sigmas=0.0"),
        (lambda: measured(learner_of(None), zeros(1), sigmas=(math.nan,)), "sigmas=nan"),
        (lambda: measured(learner_of(None), zeros(1), n_tasks=1), "n_tasks=1"),
    ],
)
def test_bad_input_is_named(call, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        call()
