"""Appendix C.2's update, and Lemma 5's reading of Sharp-MAML against the package's learners."""

from __future__ import annotations

import pytest
import torch
from cases import seeded

from sharp_maml_core import Config, Episode, build_learner
from sharp_maml_core.theory.biased_maml import (
    biased_gradient,
    estimates,
    independent,
    independent_update,
    perturbations,
    query_of,
    same,
    same_batch_update,
    sharp_gradient,
    support_of,
)
from sharp_maml_core.theory.convergence_bounds import VARIANTS, Steps
from sharp_maml_core.theory.problems import Noise, random_problem

STEPS = Steps(outer_lr=0.1, inner_lr=0.3, alpha_low=0.4, alpha_up=0.2)
PROBLEM = random_problem(seeded(0), n_tasks=3, support_noise=Noise(0.5), query_noise=Noise(0.7, 2.0, 0.5))
THETA = torch.randn(5, 2, generator=seeded(1), dtype=torch.float64)


def one(episode, index):
    return Episode(*(value[index] for value in episode))


@pytest.mark.parametrize("variant", VARIANTS)
def test_lemma_5_with_one_batch_is_the_learner(variant):
    config = Config(
        variant=variant,
        inner_lr=STEPS.inner_lr,
        inner_steps=1,
        alpha_low=STEPS.alpha_low,
        alpha_up=STEPS.alpha_up,
        dtype="float64",
        device="cpu",
    )
    learner = build_learner(config, PROBLEM.model(), PROBLEM.loss)
    episode = PROBLEM.sample((5,), seeded(2))
    learned = torch.stack(
        [learner.gradient({"theta": THETA[i]}, one(episode, i))[0]["theta"] for i in range(len(THETA))]
    )
    closed = sharp_gradient(PROBLEM, THETA, STEPS.of(variant), same(episode))
    torch.testing.assert_close(closed, learned, rtol=1e-13, atol=1e-14)


def test_the_update_is_c_2_task_by_task():
    episode = PROBLEM.sample((), seeded(3))
    gradient_hat = torch.randn(3, 2, generator=seeded(4), dtype=torch.float64)
    hessian_hat = torch.randn(3, 2, 2, generator=seeded(5), dtype=torch.float64)
    query, theta, b = query_of(episode), THETA[0], 0.3
    expected = torch.zeros(2, dtype=torch.float64)
    for m in range(3):
        theta_hat = theta - b * gradient_hat[m]
        steep = PROBLEM.gradient(query, theta_hat[None])[m]
        expected += (torch.eye(2, dtype=torch.float64) - b * hessian_hat[m]) @ steep / 3
    got = biased_gradient(PROBLEM, theta, b, gradient_hat, hessian_hat, query)
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-15)


def test_each_part_comes_from_its_own_samples():
    samples = independent(PROBLEM, (5,), seeded(6))
    eps, eps_m = perturbations(PROBLEM, THETA, STEPS, samples.perturbation)
    gradient_hat, hessian_hat = estimates(PROBLEM, THETA, STEPS.inner_lr, eps, eps_m, samples)
    point = THETA[:, None] + eps[:, None] + eps_m
    shifted = eps[:, None] / STEPS.inner_lr
    torch.testing.assert_close(gradient_hat, PROBLEM.gradient(support_of(samples.gradient), point) - shifted)
    assert torch.equal(hessian_hat, PROBLEM.hessian(support_of(samples.hessian), point))
    whole = sharp_gradient(PROBLEM, THETA, STEPS, samples)
    assert torch.equal(
        whole, biased_gradient(PROBLEM, THETA, STEPS.inner_lr, gradient_hat, hessian_hat, query_of(samples.query))
    )
    for field in samples._fields:
        others = samples._replace(**{field: PROBLEM.sample((5,), seeded(7))})
        assert not torch.equal(sharp_gradient(PROBLEM, THETA, STEPS, others), whole), field


def test_perturbations_have_the_radii_and_the_directions_of_eq_11_and_13():
    episode = PROBLEM.sample((5,), seeded(8))
    eps, eps_m = perturbations(PROBLEM, THETA, STEPS, episode)
    torch.testing.assert_close(eps_m.norm(dim=-1), torch.full((5, 3), 0.4, dtype=torch.float64))
    torch.testing.assert_close(eps.norm(dim=-1), torch.full((5,), 0.2, dtype=torch.float64))
    gradients = PROBLEM.gradient(support_of(episode), THETA[:, None])
    torch.testing.assert_close((eps_m * gradients).sum(-1), 0.4 * gradients.norm(dim=-1))
    low = sharp_gradient(PROBLEM, THETA, STEPS.of("low"), same(episode))
    torch.testing.assert_close((eps * low).sum(-1), 0.2 * low.norm(dim=-1))


def test_where_the_gradient_is_zero_there_is_no_perturbation():
    flat = random_problem(seeded(0), n_tasks=2, spread=0.0)
    zero = torch.zeros(2, dtype=torch.float64)
    eps, eps_m = perturbations(flat, zero, STEPS, flat.sample((), seeded(0)))
    assert not eps.any()
    assert not eps_m.any()


@pytest.mark.parametrize("update_for", [same_batch_update, independent_update])
def test_updates_are_repeatable_and_differ_between_repetitions(update_for):
    update = update_for(PROBLEM, STEPS)
    theta = THETA[:1].expand(6, -1)
    first, again, other = (update(theta, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first.unique(dim=0)) == 6
