"""Appendix C's right-hand sides: the arithmetic, what is proved of them, and that updates obey them."""

from __future__ import annotations

import math

import pytest
import torch
from cases import seeded
from hypothesis import given
from hypothesis import strategies as st

from sharp_maml_core.errors import UserError
from sharp_maml_core.theory import convergence_bounds as bounds
from sharp_maml_core.theory.biased_maml import same, sharp_gradient
from sharp_maml_core.theory.convergence_bounds import Biases, Steps, theorem_steps
from sharp_maml_core.theory.problems import SHAPES, Constants, Noise, random_problem

CONSTANTS = Constants(l0=2.0, l1=3.0, l2=5.0, sigma=0.5, sample_l1=4.0, sample_l2=6.0)
STEPS = Steps(outer_lr=0.1, inner_lr=0.5, alpha_low=0.25, alpha_up=0.125)
SIZES = st.floats(1e-3, 1e3)


def test_lemma_5s_biases():
    assert bounds.lemma5_biases(CONSTANTS, STEPS) == Biases(3 * 0.375 + 0.25, 5 * 0.375)


def test_the_right_sides_of_eq_31_and_34():
    """At b = 1/2, gamma_g = 1, gamma_h = 2, sigma_b = 1/2."""
    arguments = (CONSTANTS, 0.5, Biases(1.0, 2.0), 0.5)
    spread = 1 + 0.25
    eq31 = 4 * 9 * 0.25 * spread + 4 * 0.25 * (4 * 4 + 4 * (4 + 9) * 9 * 0.25 * spread)
    assert bounds.lemma3(*arguments) == pytest.approx(eq31, rel=1e-15)
    rest = 16 * (4 + 9) * 0.25 * 0.25 + 16 * 0.25 * 0.25 * (0.25 + 4)
    assert bounds.variance_printed(*arguments) == pytest.approx(4 * 9 * 0.25 + rest, rel=1e-15)
    assert bounds.variance_repaired(*arguments) == pytest.approx(4 * 0.25 + rest, rel=1e-15)
    sharper = ((1 + 0.5 * (3 + 2)) * 3 * 0.5 * math.sqrt(spread) + 0.5 * 2 * 2) ** 2
    assert bounds.lemma3_sharper(*arguments) == pytest.approx(sharper, rel=1e-15)


@given(SIZES, SIZES, SIZES, SIZES, SIZES, SIZES)
def test_the_sharper_bound_is_at_most_three_quarters_of_eq_31(l0, l1, b, gamma_g, gamma_h, sigma_b):
    arguments = (CONSTANTS._replace(l0=l0, l1=l1), b, Biases(gamma_g, gamma_h), sigma_b)
    assert bounds.lemma3_sharper(*arguments) <= 0.75 * bounds.lemma3(*arguments) * (1 + 1e-12)


def test_eq_35_is_its_four_terms():
    problem = random_problem(seeded(0), support_scale=0.5, query_scale=0.4, query_noise=Noise(0.3))
    steps = STEPS._replace(inner_lr=0.2)
    constants = problem.constants
    biases = bounds.lemma5_biases(constants, steps)
    arguments = (constants, 0.2, biases, constants.sigma)
    smoothness = problem.smoothness(0.2)
    for got, variance in (
        (bounds.eq35_printed(problem, 1.5, 100, steps), bounds.variance_printed(*arguments)),
        (bounds.eq35_repaired(problem, 1.5, 100, steps), bounds.variance_repaired(*arguments)),
    ):
        expected = 2 * 1.5 / (0.1 * 100) + smoothness * 0.1 * variance + bounds.lemma3(*arguments)
        assert got == pytest.approx(expected, rel=1e-14)


def random_case(generator, index):
    values = torch.exp(torch.randn(8, generator=generator, dtype=torch.float64)).tolist()
    problem = random_problem(
        generator,
        shape=list(SHAPES)[index % 3],
        n_tasks=1,
        dim=1 + index % 2,
        support_scale=values[0],
        query_scale=values[1],
        width=1 + values[2],
        support_noise=Noise(values[3] / 3, 0.5),
        query_noise=Noise(values[4] / 3, values[5], 0.5),
    )
    steps = Steps(1e-3, 0.3 * values[6], 0.3 * values[7], 0.1 * values[2])
    return problem, steps


def test_updates_from_one_batch_have_at_most_the_proved_bias_and_deviation():
    """Over all samples, exactly: the repaired theorem's two assumptions about the update."""
    generator, shares = seeded(0), []
    for index in range(300):
        problem, steps = random_case(generator, index)
        steps = steps.of(bounds.VARIANTS[index % 4])
        theta = 2 * torch.randn(problem.dim, generator=generator, dtype=torch.float64)
        updates = sharp_gradient(problem, theta, steps, same(problem.every_sample()))
        bias = (updates.mean(0) - problem.objective_gradient(theta, steps.inner_lr)).norm()
        deviation = (updates - updates.mean(0)).square().sum(-1).mean().sqrt()
        shares.append(
            (
                float(bias) / bounds.one_batch_bias(problem.constants, steps),
                float(deviation) / bounds.one_batch_deviation(problem.constants, steps, 1),
            )
        )
    largest = torch.tensor(shares).amax(0)
    assert bool((largest <= 1).all())
    assert bool((largest > 0.2).all())  # a bound of the right size, not any large number


def test_several_tasks_share_the_noise():
    """Two tasks: all pairs of samples; MAML, whose deviation is that of independent tasks."""
    problem = random_problem(seeded(3), n_tasks=2, dim=1, support_noise=Noise(0.4), query_noise=Noise(0.6))
    steps, theta = Steps(0.1, 0.2), torch.tensor([0.4], dtype=torch.float64)
    updates = []
    for task in range(2):
        alone = type(problem)(problem.shape, *_only(problem, task), problem.support_noise, problem.query_noise)
        updates.append(sharp_gradient(alone, theta, steps, same(alone.every_sample())))
    pairs = (updates[0][:, None] + updates[1][None]) / 2
    deviation = (pairs - pairs.mean((0, 1))).square().sum(-1).mean().sqrt()
    bound = bounds.one_batch_deviation(problem.constants, steps, 2)
    assert 0.5 * bound < float(deviation) <= bound
    assert bounds.one_batch_deviation(problem.constants, steps, 1) == pytest.approx(math.sqrt(2) * bound, rel=1e-14)


def _only(problem, task):
    return (type(side)(*(value[task : task + 1] for value in side)) for side in (problem.support, problem.query))


@pytest.mark.parametrize("bound", [bounds.eq35_repaired, bounds.one_batch])
def test_with_the_theorems_steps_a_bound_falls_like_one_over_root_t(bound):
    problem = random_problem(seeded(0), support_noise=Noise(0.3), query_noise=Noise(0.3))
    at_one = Steps(1.0, 1.0, 1.0, 1.0)
    late, later = (bound(problem, 1.0, horizon, theorem_steps(horizon, at_one)) for horizon in (10**12, 10**14))
    assert later / late == pytest.approx(0.1, rel=1e-4)


def test_the_theorems_steps():
    assert theorem_steps(4, Steps(2.0, 1.0, 0.5, 0.25)) == Steps(1.0, 0.5, 0.5, 0.125)


@pytest.mark.parametrize(
    ("variant", "radii"), [("maml", (0, 0)), ("low", (0.25, 0)), ("up", (0, 0.125)), ("both", (0.25, 0.125))]
)
def test_a_variant_has_its_radii(variant, radii):
    assert STEPS.of(variant) == Steps(0.1, 0.5, *radii)


def call(**changes):
    problem = random_problem(seeded(0), n_tasks=1)
    values = {"start": 1.0, "horizon": 10, "steps": STEPS} | changes
    return bounds.one_batch(problem, values["start"], values["horizon"], values["steps"])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: STEPS.of("anil"), r"^variant='anil' .* one of maml, low, up, both"),
        (lambda: theorem_steps(0, STEPS), r"^horizon=0 .* at least 1"),
        (lambda: theorem_steps(4, STEPS._replace(inner_lr=0.0)), r"^inner_lr=0.0 .* above 0"),
        (lambda: call(horizon=0), r"^horizon=0"),
        (lambda: call(steps=STEPS._replace(alpha_low=-1.0)), r"^alpha_low=-1.0 .* at least 0"),
        (lambda: call(steps=STEPS._replace(alpha_up=math.nan)), r"^alpha_up=nan .* finite"),
        (lambda: call(start=math.nan), r"^start=nan .* finite"),
        (lambda: bounds.lemma3(CONSTANTS, -0.1, Biases(1, 1), 1), r"^inner_lr=-0.1 .* at least 0"),
        (lambda: bounds.lemma3_sharper(CONSTANTS, 0.1, Biases(-1, 1), 1), r"^gamma_g=-1.0"),
        (lambda: bounds.variance_repaired(CONSTANTS, 0.1, Biases(1, 1), -1), r"^sigma_b=-1.0"),
        (lambda: bounds.one_batch_deviation(CONSTANTS, STEPS, 0), r"^n_tasks=0 .* at least 1"),
        (lambda: call(steps=STEPS._replace(outer_lr=5.0)), r"^outer_lr=5.0 .* at most 1/L_F"),
    ],
)
def test_what_is_out_of_range_is_refused(function, message):
    with pytest.raises(UserError, match=message):
        function()
