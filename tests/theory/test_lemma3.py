"""Both sides of Eq. 31: by hand on one problem, and over many draws."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import seeded

from sharp_maml_core.errors import UserError
from sharp_maml_core.theory.biased_maml import support_of
from sharp_maml_core.theory.convergence_bounds import Biases
from sharp_maml_core.theory.convergence_bounds import lemma3 as printed
from sharp_maml_core.theory.lemma3 import Lemma3, evaluate_lemma3, lemma3_draws
from sharp_maml_core.theory.problems import PHASES, Noise, random_problem


@pytest.fixture(scope="module")
def draws() -> Lemma3:
    return lemma3_draws(400, seed=1)


def test_both_sides_are_those_of_a_loop_over_all_pairs_of_samples():
    """Two tasks: every pair of support samples, the expectation as the paper writes it."""
    problem = random_problem(seeded(0), n_tasks=2, support_noise=Noise(0.8, 1.3))
    b, theta = 0.4, torch.tensor([0.6, -0.2], dtype=torch.float64)
    eps, eps_m = torch.tensor([0.1, 0.2]).double(), torch.tensor([[0.3, -0.1], [0.0, 0.2]]).double()
    point = theta + eps + eps_m
    every = problem.every_sample()
    support = support_of(every)
    gradients = problem.gradient(support, point)[:: 2 * PHASES] - eps / b  # each support sample once
    curvatures = problem.hessian(support, point)[:: 2 * PHASES]
    exact = problem.objective_gradient(theta, b)
    independent, one_batch, bars = [], [], []
    for i, j in itertools.product(range(2 * PHASES), repeat=2):
        h_bar, h_bar_one = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        for m, index in enumerate((i, j)):
            steep = problem.gradient(problem.query, (theta - b * gradients[index, m])[None])[m]
            h_bar += (steep - b * curvatures[:, m].mean(0) @ steep) / 2
            h_bar_one += (steep - b * curvatures[index, m] @ steep) / 2
        independent.append((exact - h_bar).square().sum())
        one_batch.append((exact - h_bar_one).square().sum())
        bars.append(h_bar_one)
    sides = evaluate_lemma3(problem, theta, b, eps, eps_m)
    torch.testing.assert_close(sides.independent, torch.stack(independent).mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(sides.one_batch, torch.stack(one_batch).mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(sides.bias, (exact - torch.stack(bars).mean(0)).square().sum(), rtol=1e-11, atol=0)
    here = theta[None]
    biases = Biases(
        float((gradients.mean(0) - problem.gradient(problem.support, here)).norm(dim=-1).max()),
        float(torch.linalg.matrix_norm(curvatures.mean(0) - problem.hessian(problem.support, here), 2).max()),
    )
    assert float(sides.printed) == pytest.approx(printed(problem.constants, b, biases, problem.constants.sigma))


def test_eq_31_is_never_violated_and_neither_is_the_sharper_bound(draws):
    assert bool((draws.independent <= draws.sharper).all())
    assert bool((draws.sharper <= 0.75 * draws.printed).all())


def test_neither_is_far_from_being_reached(draws):
    assert 0.2 < float((draws.independent / draws.printed).max()) < 0.75
    assert float((draws.independent / draws.sharper).max()) > 0.9


def test_one_batch_violates_eq_31_but_not_the_bound_of_its_bias(draws):
    assert int((draws.one_batch > draws.printed).sum()) >= 1
    assert bool((draws.bias <= draws.bias_bound).all())
    assert float((draws.bias / draws.bias_bound).max()) > 0.9


def test_draws_are_repeatable_and_all_different(draws):
    again = lemma3_draws(3, seed=1)
    assert torch.equal(again.independent, draws.independent[:3])
    assert len(draws.printed.unique()) == 400


def test_bad_input_is_named():
    with pytest.raises(UserError, match=r"^count=0 .* at least 1"):
        lemma3_draws(0, seed=0)
    problem, zero = random_problem(seeded(0), n_tasks=1), torch.zeros(2, dtype=torch.float64)
    with pytest.raises(UserError, match=r"^inner_lr=0.0 .* above 0"):
        evaluate_lemma3(problem, zero, 0.0, zero, zero[None])
    with pytest.raises(UserError, match=r"^eps_m=.* \[n_tasks, 2\]"):
        evaluate_lemma3(problem, zero, 0.1, zero, zero)
    with pytest.raises(UserError, match=r"^eps=.* finite"):
        evaluate_lemma3(problem, zero, 0.1, zero / 0, zero[None])
