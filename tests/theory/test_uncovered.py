"""What the proof of Theorem 1 leaves out: the bias of one batch, and Jacobians through eps_m."""

from __future__ import annotations

import math

import pytest
import torch
from cases import seeded

from sharp_maml_core.errors import UserError
from sharp_maml_core.theory.biased_maml import Samples, same_batch_update, sharp_gradient
from sharp_maml_core.theory.convergence_bounds import Steps, one_batch_bias
from sharp_maml_core.theory.problems import Noise, random_problem
from sharp_maml_core.theory.uncovered import inner_jacobians, on_rough_noise, one_batch_gap, roughened

STEPS = Steps(outer_lr=0.1, inner_lr=0.2, alpha_low=0.1, alpha_up=0.3)
TASK = random_problem(seeded(0), n_tasks=1, support_noise=Noise(0.3), query_noise=Noise(0.5))
THETA = torch.tensor([[0.5, -0.4]], dtype=torch.float64)


def test_rough_noise_keeps_every_constant_of_the_assumptions():
    smooth, rough = TASK.constants, roughened(TASK, 1e-3).constants
    assert rough[:4] == smooth[:4]
    assert rough.sample_l2 == smooth.sample_l2
    assert rough.sample_l1 > 100 * smooth.sample_l1
    assert roughened(TASK, 0.06).query_noise.frequency == pytest.approx(2 * math.pi / 0.18)


def test_an_update_on_rough_noise_meets_its_own_radius():
    update = on_rough_noise(same_batch_update)(TASK, STEPS)
    expected = same_batch_update(roughened(TASK, STEPS.alpha_up), STEPS)
    assert torch.equal(update(THETA, seeded(1)), expected(THETA, seeded(1)))


def test_the_gap_is_that_of_many_draws():
    gap = one_batch_gap(TASK, THETA, STEPS)[0]
    theta, generator = THETA[0], seeded(2)
    first, second = (TASK.sample((100000,), generator) for _ in range(2))
    together = sharp_gradient(TASK, theta, STEPS, Samples(first, first, first, first))
    apart = sharp_gradient(TASK, theta, STEPS, Samples(first, first, first, second))
    drawn = together - apart
    error = (drawn.mean(0) - gap).norm()
    assert float(error) < 4 * float(drawn.std(0).norm()) / math.sqrt(100000) < 0.3 * float(gap.norm())


def test_without_noise_there_is_no_gap():
    still = random_problem(seeded(0), n_tasks=1)
    assert float(one_batch_gap(still, THETA, STEPS).norm()) < 1e-15


def test_with_lipschitz_samples_the_gap_falls_with_the_radius_and_on_rough_noise_it_does_not():
    line = random_problem(seeded(0), n_tasks=1, dim=1, query_noise=Noise(1.0))
    period = torch.linspace(0, 3, 13, dtype=torch.float64)[:-1, None]
    smooth, rough = [], []
    for radius in (1e-2, 1e-4):
        steps = Steps(0.1, 0.1, alpha_up=radius)
        smooth.append(float(one_batch_gap(line, 0.3 + radius * period, steps).norm(dim=1).mean()))
        rough.append(float(one_batch_gap(roughened(line, radius), 0.3 + radius * period, steps).norm(dim=1).mean()))
        # Each of the two updates is within D of one that both could be.
        moved = one_batch_bias(line.constants._replace(sigma=0.0), steps)
        assert smooth[-1] <= 2 * moved * (1 + line.constants.sigma)
    assert smooth[1] < 0.02 * smooth[0]
    assert rough[1] == pytest.approx(rough[0], rel=0.05)
    assert rough[1] > 0.2


def test_the_jacobian_through_eps_m_is_the_closed_form():
    """I - b H(theta + eps) (I + alpha (I - u u^T) H / ||g||), by hand."""
    plane = random_problem(seeded(4), n_tasks=1)
    x, y = (side[0] for side in plane.support)
    minimiser = torch.linalg.solve(x, y[:, 0])
    for jacobian, distance in zip(inner_jacobians(plane, STEPS, (1.0, 1e-3)), (1.0, 1e-3), strict=True):
        theta = minimiser + distance / math.sqrt(2)
        gradient = plane.gradient(plane.support, theta[None])[0]
        unit, length = gradient / gradient.norm(), gradient.norm()
        here, there = (
            plane.hessian(plane.support, point[None])[0] for point in (theta, theta + STEPS.alpha_low * unit)
        )
        identity = torch.eye(2, dtype=torch.float64)
        d_eps = STEPS.alpha_low * (identity - torch.outer(unit, unit)) @ here / length
        expected = identity - STEPS.inner_lr * there @ (identity + d_eps)
        assert jacobian.gradient == pytest.approx(float(length), rel=1e-12)
        assert jacobian.through == pytest.approx(float(torch.linalg.matrix_norm(expected, 2)), rel=1e-9)
        constant = identity - STEPS.inner_lr * there
        assert jacobian.constant == pytest.approx(float(torch.linalg.matrix_norm(constant, 2)), rel=1e-12)


def test_it_grows_like_one_over_the_gradient():
    far, near = inner_jacobians(random_problem(seeded(4), n_tasks=1), STEPS, (1e-5, 1e-6))
    assert near.through / far.through == pytest.approx(far.gradient / near.gradient, rel=1e-2)
    assert near.through > 1e4 > 1 > near.constant


def test_bad_input_is_named():
    two = random_problem(seeded(0), n_tasks=2)
    with pytest.raises(UserError, match=r"^n_tasks=2"):
        one_batch_gap(two, THETA, STEPS)
    with pytest.raises(UserError, match=r"^theta=.* \[n, 2\]"):
        one_batch_gap(TASK, THETA[0], STEPS)
    with pytest.raises(UserError, match=r"^alpha_up=0.0 .* above 0"):
        roughened(TASK, 0.0)
    with pytest.raises(UserError, match=r"^distances=0.0 .* above 0"):
        inner_jacobians(TASK, STEPS, (1.0, 0.0))
    with pytest.raises(UserError, match=r"^inner_lr=-1"):
        inner_jacobians(TASK, STEPS._replace(inner_lr=-1.0), (1.0,))
