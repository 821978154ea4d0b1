"""Theorem 1 measured: the learners' runs, the averages over T, their exponents, and the bounds above them."""

from __future__ import annotations

import math

import pytest
import torch
from cases import seeded

from sharp_maml_core.errors import UserError
from sharp_maml_core.theory import convergence
from sharp_maml_core.theory.biased_maml import independent_update, same_batch_update
from sharp_maml_core.theory.convergence import Rate, descend, erm_update, exponent, learner_update, rate
from sharp_maml_core.theory.convergence_bounds import VARIANTS, Steps, eq35_repaired, one_batch, theorem_steps
from sharp_maml_core.theory.problems import Noise, random_problem

PROBLEM = random_problem(
    seeded(0), shape="cosine", n_tasks=3, width=1.5, support_noise=Noise(0.3), query_noise=Noise(0.3)
)
START = torch.tensor([[2.0, -1.5]], dtype=torch.float64)
STEPS = Steps(outer_lr=0.3, inner_lr=0.4, alpha_low=0.5, alpha_up=0.3)
AT_ONE = Steps(outer_lr=5.0, inner_lr=1.0, alpha_low=1.0, alpha_up=1.0)


def starts(repetitions):
    return START.expand(repetitions, -1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_by_the_learner_is_the_run_in_closed_form(variant, monkeypatch):
    """Before, at and after the call that records it."""
    monkeypatch.setattr(convergence, "RECORD_AFTER", 4)
    update = learner_update(PROBLEM, variant, STEPS)
    learned = descend(PROBLEM, update, starts(5), STEPS, 10, seeded(1))
    closed = descend(PROBLEM, same_batch_update(PROBLEM, STEPS.of(variant)), starts(5), STEPS, 10, seeded(1))
    assert learned.shape == (10, 5)
    torch.testing.assert_close(learned, closed, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("gradient", ["stop", "through"])
def test_recording_changes_no_bit(gradient, monkeypatch):
    theta = torch.randn(7, 2, generator=seeded(2), dtype=torch.float64)
    updates = []
    for after in (1, 10**9):
        monkeypatch.setattr(convergence, "RECORD_AFTER", after)
        update = learner_update(PROBLEM, "both", STEPS, perturbation_gradient=gradient)
        updates.append([update(theta, seeded(seed)) for seed in (3, 4)])
    for recorded, plain in zip(*updates, strict=True):
        assert torch.equal(recorded, plain)
    assert not torch.equal(updates[0][0], updates[0][1])


def test_through_the_perturbation_is_another_gradient():
    theta = START + 0.3
    updates = (learner_update(PROBLEM, "both", STEPS, perturbation_gradient=how) for how in ("stop", "through"))
    stop, through = (update(theta, seeded(5)) for update in updates)
    assert float((stop - through).norm() / stop.norm()) > 1e-3


def test_descent_is_theta_minus_outer_lr_h():
    update = same_batch_update(PROBLEM, STEPS)
    squares = descend(PROBLEM, update, starts(3), STEPS, 4, seeded(6))
    theta, generator = starts(3), seeded(6)
    for t in range(4):
        expected = PROBLEM.objective_gradient(theta, STEPS.inner_lr).square().sum(-1)
        torch.testing.assert_close(squares[t], expected, rtol=1e-13, atol=0)
        theta = theta - STEPS.outer_lr * update(theta, generator)
    assert torch.equal(starts(3), START.expand(3, -1))  # the start is left alone


def test_adam_keeps_repetitions_apart():
    draws = torch.randn(6, 2, 2, generator=seeded(7), dtype=torch.float64)

    def updates(repetitions):
        rows = iter(draws[:, repetitions])
        return lambda theta, generator: next(rows)

    together = descend(PROBLEM, updates([0, 1]), starts(2), STEPS, 6, seeded(0), torch.optim.Adam)
    alone = [descend(PROBLEM, updates([i]), starts(1), STEPS, 6, seeded(0), torch.optim.Adam) for i in (0, 1)]
    torch.testing.assert_close(together, torch.cat(alone, 1), rtol=1e-14, atol=0)


def test_erms_gradients_are_unbiased_and_do_not_adapt():
    theta = START + 0.2
    updates = erm_update(PROBLEM)(theta.expand(20000, -1), seeded(8))
    error = updates.mean(0) - PROBLEM.objective_gradient(theta[0], 0.0)
    assert float(error.norm()) < 5 * 0.3 / math.sqrt(3 * 20000)


# --- averages and exponents ---------------------------------------------------------------------------------------


def test_the_exponent_of_a_power_is_its_exponent():
    horizons = (10, 40, 90, 1000)
    values = torch.tensor([3 * horizon**-0.7 for horizon in horizons], dtype=torch.float64)
    assert exponent(horizons, values.tolist()) == pytest.approx(-0.7, abs=1e-14)
    slope = Rate(horizons, values[:, None].expand(-1, 5)).slope
    assert slope.value == pytest.approx(-0.7, abs=1e-14)
    assert slope.interval == 0


def test_the_exponents_interval_covers_it_95_times_in_100():
    horizons, covered = (16, 64, 256, 1024), 0
    means = torch.tensor([horizon**-0.5 for horizon in horizons], dtype=torch.float64)[:, None]
    generator = seeded(9)
    for _ in range(1000):
        noise = 1 + 0.3 * torch.randn(4, 64, generator=generator, dtype=torch.float64)
        slope = Rate(horizons, means * noise).slope
        covered += abs(slope.value + 0.5) <= slope.interval
    assert 925 <= covered <= 970  # 950 with a standard deviation of 7, minus what 64 normal repetitions cost


def test_a_rate_runs_every_horizon_with_its_own_steps():
    seen = []

    def update_for(problem, steps):
        seen.append(steps)
        return same_batch_update(problem, steps)

    found = rate(PROBLEM, update_for, starts(4), (4, 9), AT_ONE, seed=3)
    assert seen == [theorem_steps(4, AT_ONE), theorem_steps(9, AT_ONE)]
    squares = descend(PROBLEM, same_batch_update(PROBLEM, seen[1]), starts(4), seen[1], 9, seeded(4))
    assert torch.equal(found.averages[1], squares.mean(0))
    assert found.mean.shape == found.interval.shape == (2,)


@pytest.mark.parametrize("update_for", [same_batch_update, independent_update], ids=["one batch", "independent"])
def test_theorem_1(update_for):
    """An exponent of -1/2, and the bound that is proved for each case above every average."""
    found = rate(PROBLEM, update_for, starts(64), (16, 64, 256), AT_ONE, seed=0)
    assert found.slope.value == pytest.approx(-0.5, abs=0.05)
    assert found.slope.interval < 0.03
    bound = one_batch if update_for is same_batch_update else eq35_repaired
    for horizon, mean in zip(found.horizons, found.mean.tolist(), strict=True):
        steps = theorem_steps(horizon, AT_ONE)
        first = float(PROBLEM.objective(START[0], steps.inner_lr))
        assert mean < bound(PROBLEM, first, horizon, steps) < 100 * mean


@pytest.mark.parametrize(("horizons", "repetitions"), [((16, 64), 32), ((16, 64, 256), 64)], ids=["quick", "longer"])
def test_adam_falls_faster_from_about_three_times_as_high(horizons, repetitions):
    """What the theory notebook says of its second figure."""
    sgd, adam = (
        rate(PROBLEM, same_batch_update, starts(repetitions), horizons, AT_ONE, seed=0, optimizer=optimizer)
        for optimizer in (torch.optim.SGD, torch.optim.Adam)
    )
    assert float(adam.mean[0] / sgd.mean[0]) == pytest.approx(3, abs=0.5)
    assert float(adam.mean[-1] / sgd.mean[-1]) > 2
    assert adam.slope.value < sgd.slope.value < -0.4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: learner_update(PROBLEM, "anli", STEPS), r"^variant='anli'"),
        (lambda: learner_update(PROBLEM, "both", STEPS._replace(inner_lr=-1.0)), r"^inner_lr=-1.0"),
        (lambda: learner_update(PROBLEM, "both", STEPS, perturbation_gradient="no"), r"^perturbation_gradient='no'"),
        (lambda: descend(PROBLEM, None, starts(2), STEPS, 0, seeded(0)), r"^horizon=0 .* at least 1"),
        (
            lambda: descend(PROBLEM, None, START[0], STEPS, 1, seeded(0)),
            r"^start=\(\(2,\), .* \[repetitions, 2\] in",
        ),
        (lambda: descend(PROBLEM, None, START[:, :1], STEPS, 1, seeded(0)), r"^start=\(\(1, 1\)"),
        (lambda: descend(PROBLEM, None, START.float(), STEPS, 1, seeded(0)), r"^start=.*float32"),
        (lambda: rate(PROBLEM, None, START, (4, 8), AT_ONE, seed=0), r"^repetitions=1 .* at least 2"),
        (lambda: descend(PROBLEM, None, START * math.nan, STEPS, 1, seeded(0)), r"^start=.* finite"),
        (lambda: rate(PROBLEM, None, starts(2), (4,), AT_ONE, seed=0), r"^horizons=\(4,\) .* at least two"),
        (lambda: rate(PROBLEM, None, starts(2), (4, 4), AT_ONE, seed=0), r"^horizons=\(4, 4\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(UserError, match=message):
        call()
