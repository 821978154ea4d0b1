"""Quadratic tasks 1/2 (theta - c)^T A (theta - c), where every equation of the paper has a closed form.

The right-hand sides are NumPy, written from the equations; the gradient is A (theta - c), the Hessian is A. theta is
kept in two tensors, so a norm that is taken tensor by tensor is not the norm of the paper.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import Coordinates, half_squares, setting

from sharp_maml_core import Episode, build_learner

RNG = np.random.default_rng(3)
N_TASKS, DIM = 3, 5
ROOTS = RNG.normal(size=(2, N_TASKS, DIM, DIM)) / 2
CENTRES = RNG.normal(size=(2, N_TASKS, DIM))
A, B = ROOTS.transpose(0, 1, 3, 2) @ ROOTS  # Hessians of the support losses and of the query losses
C, E = CENTRES
THETA = RNG.normal(size=DIM)
BETA, ALPHA_LOW, ALPHA_UP = 0.3, 0.2, 0.4
IDENTITY = np.eye(DIM)


def bgd(m, theta, epsilon, epsilon_m):
    """Eq. 9: theta + epsilon - beta grad L(theta + epsilon + epsilon_m; D_m)."""
    return theta + epsilon - BETA * A[m] @ (theta + epsilon + epsilon_m - C[m])


def lower_perturbation(m, theta):
    """Eq. 11."""
    gradient = A[m] @ (theta - C[m])
    return ALPHA_LOW * gradient / np.linalg.norm(gradient)


def query_gradient(m, adapted):
    return B[m] @ (adapted - E[m])


def differentiated(m, adapted):
    """Eq. 10, where the Hessian is A_m wherever it is taken."""
    return (IDENTITY - BETA * A[m]) @ query_gradient(m, adapted)


def to_length(vector, radius):
    return radius * vector / np.linalg.norm(vector)


def episode() -> Episode:
    x = torch.from_numpy(ROOTS)
    y = torch.from_numpy(np.einsum("smij,smj->smi", ROOTS, CENTRES))
    return Episode(x[0], y[0], x[1], y[1])


def theta_as_params():
    theta = torch.from_numpy(THETA)
    return {"first": theta[:2], "rest": theta[2:]}


def learner(variant, **changes):
    values = {"inner_lr": BETA, "inner_steps": 1, "alpha_low": ALPHA_LOW, "alpha_up": ALPHA_UP} | changes
    return build_learner(setting(variant, **values), Coordinates(), half_squares)


def assert_gradient(variant, expected, **changes):
    """The learner's gradient is `expected`, by loop and by vmap."""
    for task_map in ("loop", "vmap"):
        grads, _ = learner(variant, task_map=task_map, **changes).gradient(theta_as_params(), episode())
        np.testing.assert_allclose(torch.cat([grads["first"], grads["rest"]]), expected, rtol=1e-13, atol=1e-14)


def mean_over_tasks(function):
    return np.mean([function(m) for m in range(N_TASKS)], axis=0)


def adapted(variant, m, **changes):
    fast = learner(variant, **changes).adapt(theta_as_params(), *(value[m] for value in episode()[:2]))
    return torch.cat([fast["first"], fast["rest"]]).numpy()


def test_the_loss_is_the_quadratic():
    _, metrics = learner("maml", inner_lr=1e-300).gradient(theta_as_params(), episode())
    values = [0.5 * (THETA - E[m]) @ B[m] @ (THETA - E[m]) for m in range(N_TASKS)]
    assert float(metrics["query_loss"]) == pytest.approx(np.mean(values), rel=1e-14)


@pytest.mark.parametrize("m", range(N_TASKS))
def test_eq_9_without_perturbations_is_mamls_fine_tuning(m):
    np.testing.assert_allclose(adapted("maml", m), bgd(m, THETA, 0, 0), rtol=1e-13)


@pytest.mark.parametrize("m", range(N_TASKS))
def test_eq_11_12_22_fine_tuning_from_the_maximum_point(m):
    expected = bgd(m, THETA, 0, lower_perturbation(m, THETA))
    np.testing.assert_allclose(adapted("low", m), expected, rtol=1e-13)
    np.testing.assert_allclose(adapted("both", m), expected, rtol=1e-13)


def test_eq_10_maml():
    assert_gradient("maml", mean_over_tasks(lambda m: differentiated(m, bgd(m, THETA, 0, 0))))


def test_fomaml_leaves_the_hessian_out_of_eq_10():
    assert_gradient("fomaml", mean_over_tasks(lambda m: query_gradient(m, bgd(m, THETA, 0, 0))))


def test_eq_23_low():
    expected = mean_over_tasks(lambda m: differentiated(m, bgd(m, THETA, 0, lower_perturbation(m, THETA))))
    assert_gradient("low", expected)


def test_low_through_the_perturbation():
    """With eps_m differentiated, the Jacobian is I - beta A (I + d eps_m), d eps_m = alpha (I - u u^T) A / ||g||."""

    def task(m):
        gradient = A[m] @ (THETA - C[m])
        u = gradient / np.linalg.norm(gradient)
        d_epsilon = ALPHA_LOW * (IDENTITY - np.outer(u, u)) @ A[m] / np.linalg.norm(gradient)
        jacobian = IDENTITY - BETA * A[m] @ (IDENTITY + d_epsilon)
        return jacobian.T @ query_gradient(m, bgd(m, THETA, 0, lower_perturbation(m, THETA)))

    assert_gradient("low", mean_over_tasks(task), perturbation_gradient="through")


def test_eq_20_21_up():
    h = mean_over_tasks(lambda m: differentiated(m, bgd(m, THETA, 0, 0)))
    epsilon = to_length(h, ALPHA_UP)
    assert_gradient("up", mean_over_tasks(lambda m: differentiated(m, bgd(m, THETA, epsilon, 0))))


def both(reuse):
    """Eq. 13-15 with eps_m(theta), as Eq. 14 says, or with eps_m(theta + epsilon)."""
    h = mean_over_tasks(lambda m: differentiated(m, bgd(m, THETA, 0, lower_perturbation(m, THETA))))
    epsilon = to_length(h, ALPHA_UP)

    def task(m):
        epsilon_m = lower_perturbation(m, THETA if reuse else THETA + epsilon)
        return differentiated(m, bgd(m, THETA, epsilon, epsilon_m))

    return mean_over_tasks(task)


def test_eq_13_14_15_both():
    assert_gradient("both", both(reuse=True))


def test_both_with_the_lower_perturbation_computed_anew():
    assert_gradient("both", both(reuse=False), reuse_lower_perturbation=False)
    assert np.linalg.norm(both(reuse=False) - both(reuse=True)) > 1e-3  # or the two tests are one


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_several_steps_of_maml_are_a_matrix_power(steps):
    """phi_S = c + (I - beta A)^S (theta - c), whose derivative is the same power."""

    def task(m):
        power = np.linalg.matrix_power(IDENTITY - BETA * A[m], steps)
        return power @ query_gradient(m, C[m] + power @ (THETA - C[m]))

    assert_gradient("maml", mean_over_tasks(task), inner_steps=steps)


@pytest.mark.parametrize("steps", [2, 5])
def test_several_steps_of_low_perturb_each_step_at_its_own_point(steps):
    def task(m):
        phi = THETA
        for _ in range(steps):
            phi = bgd(m, phi, 0, lower_perturbation(m, phi))
        np.testing.assert_allclose(adapted("low", m, inner_steps=steps), phi, rtol=1e-13)
        return np.linalg.matrix_power(IDENTITY - BETA * A[m], steps) @ query_gradient(m, phi)

    assert_gradient("low", mean_over_tasks(task), inner_steps=steps)


def test_several_steps_of_both_use_each_steps_perturbation_again():
    """Eq. 14, three times: the second pass looks from phi_s(theta + epsilon) + eps_s, eps_s of the first."""
    steps, used, first = 3, [], []
    for m in range(N_TASKS):
        phi, epsilons = THETA, []
        for _ in range(steps):
            epsilons.append(lower_perturbation(m, phi))
            phi = bgd(m, phi, 0, epsilons[-1])
        used.append(epsilons)
        first.append(np.linalg.matrix_power(IDENTITY - BETA * A[m], steps) @ query_gradient(m, phi))
    epsilon = to_length(np.mean(first, axis=0), ALPHA_UP)

    def task(m):
        phi = THETA + epsilon
        for epsilon_s in used[m]:
            phi = bgd(m, phi, 0, epsilon_s)
        return np.linalg.matrix_power(IDENTITY - BETA * A[m], steps) @ query_gradient(m, phi)

    assert_gradient("both", mean_over_tasks(task), inner_steps=steps)


@pytest.mark.parametrize("variant", ["up", "both"])
def test_climbing_a_convex_meta_objective_raises_it(variant):
    """The meta-objective of a quadratic is a convex quadratic: a step along its gradient cannot lower it."""
    for radius in (1e-6, 0.4, 10.0):
        _, metrics = learner(variant, alpha_low=0.0, alpha_up=radius).gradient(theta_as_params(), episode())
        assert metrics["perturbed_loss"] > metrics["query_loss"]


def test_asam_scales_the_lower_perturbation_by_the_weights():
    """Eps = alpha w^2 g / || |w| g ||."""

    def task(m):
        gradient = A[m] @ (THETA - C[m])
        epsilon_m = ALPHA_LOW * THETA**2 * gradient / np.linalg.norm(THETA * gradient)
        return differentiated(m, bgd(m, THETA, 0, epsilon_m))

    assert_gradient("low", mean_over_tasks(task), adaptive=True)
