"""Floors are zeros of the exact mean update, and where the iterates of small steps end."""

from __future__ import annotations

import math

import pytest
import torch
from cases import seeded

from sharp_maml_core.errors import UserError
from sharp_maml_core.theory.biased_maml import same, same_batch_update, sharp_gradient
from sharp_maml_core.theory.convergence import descend, exponent
from sharp_maml_core.theory.convergence_bounds import Steps, one_batch_bias
from sharp_maml_core.theory.floors import floor, floors, mean_update, stationary_point
from sharp_maml_core.theory.problems import Noise, random_problem

ORIGIN = torch.zeros(2, dtype=torch.float64)
STEPS = Steps(outer_lr=0.6, inner_lr=0.2, alpha_low=0.3)


def problem(sigma, n_tasks=3):
    return random_problem(seeded(1), n_tasks=n_tasks, support_noise=Noise(sigma), query_noise=Noise(sigma))


def test_the_mean_update_is_the_mean_of_many():
    tasks, theta = problem(0.5), torch.tensor([0.5, -0.4], dtype=torch.float64)
    drawn = sharp_gradient(tasks, theta, STEPS, same(tasks.sample((40000,), seeded(2))))
    error = drawn.mean(0) - mean_update(tasks, theta, STEPS)
    assert float(error.norm()) < 5 * float(drawn.std(0).norm()) / math.sqrt(40000)


def test_the_mean_update_with_an_upper_perturbation_is_that_of_one_task():
    one, theta = problem(0.5, 1), torch.tensor([0.5, -0.4], dtype=torch.float64)
    steps = STEPS._replace(alpha_up=0.2)
    drawn = sharp_gradient(one, theta, steps, same(one.sample((40000,), seeded(3))))
    error = drawn.mean(0) - mean_update(one, theta, steps)
    assert float(error.norm()) < 5 * float(drawn.std(0).norm()) / math.sqrt(40000)


def test_iterates_with_small_steps_end_at_the_floor():
    """Without noise to average out: the last square is the floor's."""
    tasks = problem(0.0)
    start = torch.zeros(1, 2, dtype=torch.float64)
    squares = descend(tasks, same_batch_update(tasks, STEPS), start, STEPS, 400, seeded(0))
    assert float(squares[-1, 0]) == pytest.approx(floor(tasks, STEPS, ORIGIN), rel=1e-8)
    assert float(squares[-1, 0]) > 1e-6


def test_floors_lie_under_their_bounds_and_fall_as_eq_35_says():
    settings = (0.02, 0.01)
    found = floors(lambda radius: (problem(0.0), STEPS._replace(alpha_low=radius)), settings, ORIGIN)
    assert found.settings == settings
    assert found.squares[0] == floor(problem(0.0), STEPS._replace(alpha_low=0.02), ORIGIN)
    bound = one_batch_bias(problem(0.0).constants, STEPS._replace(alpha_low=0.01)) ** 2
    assert found.bounds[1] == bound
    assert all(square < limit for square, limit in zip(found.squares, found.bounds, strict=True))
    assert exponent(settings, found.squares) == pytest.approx(2, abs=0.02)


def test_stationary_points_are_those_of_f_and_of_erm():
    tasks = problem(0.0)
    for inner_lr in (0.3, 0.0):
        point = stationary_point(tasks, inner_lr, ORIGIN)
        assert float(tasks.objective_gradient(point, inner_lr).norm()) < 1e-12
    assert float(tasks.gradient(tasks.query, point[None]).mean(0).norm()) < 1e-12


def test_bad_input_is_named():
    with pytest.raises(UserError, match=r"^n_tasks=3 .* 1: with more"):
        floor(problem(0.1), STEPS._replace(alpha_up=0.1), ORIGIN)
    with pytest.raises(UserError, match=r"^alpha_low=-0.1"):
        floor(problem(0.1), STEPS._replace(alpha_low=-0.1), ORIGIN)
    with pytest.raises(UserError, match=r"^start=.* \[2\] in float64"):
        floor(problem(0.1), STEPS, ORIGIN[:1])
    with pytest.raises(UserError, match=r"^inner_lr=-1.0 .* at least 0"):
        stationary_point(problem(0.0), -1.0, ORIGIN)
    with pytest.raises(UserError, match=r"^No zero was found from start"):
        stationary_point(problem(0.0), 0.1, ORIGIN + 1e9)
