"""ALSET on problems whose bilevel gradient is known, and MAML as a run of it."""

from __future__ import annotations

import pytest
import torch
from cases import seeded
from torch.func import grad

from sharp_maml_core import Config, Episode, build_learner
from sharp_maml_core.errors import UserError
from sharp_maml_core.theory.alset import Bilevel, alset_step, hypergradient, maml_as_bilevel, maml_lower_lr
from sharp_maml_core.theory.problems import SHAPES, Noise, random_problem

B = 0.3


def tasks(shape="cosine"):
    return random_problem(seeded(0), shape=shape, n_tasks=3, support_noise=Noise(0.4), query_noise=Noise(0.4))


def adapted(problem, theta):
    return theta - B * problem.gradient(problem.support, theta[None])


def test_the_hypergradient_of_quadratics_is_known():
    """With g = phi^T A phi / 2 - phi^T C theta, f = ||phi - c||^2 / 2: phi' = A^-1 C theta."""
    draws = torch.randn(4, 3, 3, generator=seeded(1), dtype=torch.float64)
    a, c, target = draws[0] @ draws[0].T + torch.eye(3).double(), draws[1][:, :2], draws[2][0]
    theta = draws[3][0, :2]
    bilevel = Bilevel(lambda phi: 0.5 * (phi - target).square().sum(), lambda x, y: 0.5 * y @ a @ y - y @ c @ x)
    phi = torch.linalg.solve(a, c @ theta)
    expected = c.T @ torch.linalg.solve(a, phi - target)
    torch.testing.assert_close(hypergradient(bilevel, theta, phi), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_eq_29_and_30(shape):
    """The lower problem's solution is the inner step; the hypergradient there, (30) and autograd are one vector."""
    problem = tasks(shape)
    bilevel = maml_as_bilevel(problem, B)
    for theta in torch.randn(5, 2, generator=seeded(2), dtype=torch.float64):
        phi = adapted(problem, theta)
        assert float(grad(bilevel.lower, argnums=1)(theta, phi).norm()) < 1e-15
        by_autograd = grad(lambda point: problem.objective(point, B))(theta)
        torch.testing.assert_close(hypergradient(bilevel, theta, phi), by_autograd, rtol=1e-14, atol=1e-15)
        torch.testing.assert_close(problem.objective_gradient(theta, B), by_autograd, rtol=1e-14, atol=1e-15)
        assert float(bilevel.upper(phi)) == pytest.approx(float(problem.objective(theta, B)), rel=1e-15)


def test_a_lower_step_of_m_beta_ends_at_the_solution_from_anywhere_and_another_does_not():
    problem, theta = tasks(), torch.tensor([0.3, -0.7], dtype=torch.float64)
    anywhere = 100 * torch.randn(3, 2, generator=seeded(3), dtype=torch.float64)
    assert maml_lower_lr(problem, B) == 3 * B
    _, phi = alset_step(maml_as_bilevel(problem, B), theta, anywhere, lower_lr=3 * B, outer_lr=0.1)
    torch.testing.assert_close(phi, adapted(problem, theta), rtol=1e-12, atol=1e-13)
    _, phi = alset_step(maml_as_bilevel(problem, B), theta, anywhere, lower_lr=B, outer_lr=0.1)
    assert float((phi - adapted(problem, theta)).norm()) > 1


def test_one_step_maml_is_a_run_of_alset_iterate_by_iterate():
    """The learner's stochastic MAML on the same episodes."""
    problem = tasks()
    config = Config(variant="maml", inner_lr=B, inner_steps=1, dtype="float64", device="cpu")
    learner = build_learner(config, problem.model(), problem.loss)
    generator = seeded(4)
    theta = maml = torch.tensor([1.2, -0.7], dtype=torch.float64)
    phi = torch.full((3, 2), 50.0, dtype=torch.float64)
    for _ in range(12):
        episode: Episode = problem.sample((), generator)
        theta, phi = alset_step(maml_as_bilevel(problem, B, episode), theta, phi, lower_lr=3 * B, outer_lr=0.2)
        maml = maml - 0.2 * learner.gradient({"theta": maml}, episode)[0]["theta"]
        assert float((theta - maml).norm()) < 1e-13
    assert float((theta - torch.tensor([1.2, -0.7])).norm()) > 0.1  # it went somewhere


def test_bad_input_is_named():
    bilevel, theta = maml_as_bilevel(tasks(), B), torch.zeros(2, dtype=torch.float64)
    phi = torch.zeros(3, 2, dtype=torch.float64)
    with pytest.raises(UserError, match=r"^lower_lr=0.0 .* above 0"):
        alset_step(bilevel, theta, phi, lower_lr=0.0, outer_lr=0.1)
    with pytest.raises(UserError, match=r"^outer_lr=-0.1"):
        alset_step(bilevel, theta, phi, lower_lr=0.1, outer_lr=-0.1)
    with pytest.raises(UserError, match=r"^inner_lr=nan .* finite"):
        maml_as_bilevel(tasks(), float("nan"))
