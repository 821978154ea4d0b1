"""Implicit MAML against dense linear algebra, against the derivative of exact minimisers, and on quadratics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import Coordinates, classification, draw, equal, half_squares, moved, relative_error, seeded, setting
from torch import nn
from torch.func import functional_call

from sharp_maml_core import Episode, build_learner
from sharp_maml_core.errors import UserError
from sharp_maml_core.params import add_scaled, dot
from sharp_maml_core.sharpness import perturbation

LAMBDA, RATE, N_TASKS = 2.0, 0.2, 3
OFF = {"alpha_low": 0.0, "alpha_up": 0.0}


def imaml(model, loss=None, **changes):
    values = OFF | {"imaml_lambda": LAMBDA, "inner_lr": RATE, "inner_steps": 3} | changes
    return build_learner(setting("imaml", **values), model, loss)


# --- quadratics -----------------------------------------------------------------------------------------------------

R = 0.7 * draw(2, N_TASKS, 5, 5, seed=1)
C = draw(2, N_TASKS, 5, seed=2)
A, B = (R.transpose(-1, -2) @ R).numpy()  # Hessians of the support and of the query losses
THETA = draw(5, seed=3).numpy()
QUADRATIC = Episode(R[0], torch.einsum("tij,tj->ti", R[0], C[0]), R[1], torch.einsum("tij,tj->ti", R[1], C[1]))


def as_params(vector):
    vector = torch.as_tensor(vector)
    return {"first": vector[:2], "rest": vector[2:]}


def flat(params):
    return torch.cat([params["first"], params["rest"]]).numpy()


def minimiser(m):
    return np.linalg.solve(A[m] + LAMBDA * np.eye(5), A[m] @ C[0, m].numpy() + LAMBDA * THETA)


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
def test_on_quadratics_it_is_the_exact_implicit_gradient(task_map):
    """(I + A / lambda)^-1 B (phi* - c'), phi* = (A + lambda I)^-1 (A c + lambda theta)."""
    rate = 1 / (LAMBDA + np.linalg.eigvalsh(A).max())
    learner = imaml(Coordinates(), half_squares, inner_steps=200, inner_lr=rate, imaml_cg_steps=5, task_map=task_map)
    grads, metrics = learner.gradient(as_params(THETA), QUADRATIC)
    expected = np.mean(
        [np.linalg.solve(np.eye(5) + A[m] / LAMBDA, B[m] @ (minimiser(m) - C[1, m].numpy())) for m in range(N_TASKS)],
        axis=0,
    )
    np.testing.assert_allclose(flat(grads), expected, rtol=1e-11)
    assert metrics["cg_residual"] < 1e-11
    assert metrics["cg_stopped"] == 0
    fast = learner.adapt(as_params(THETA), QUADRATIC.support_x[1], QUADRATIC.support_y[1])
    np.testing.assert_allclose(flat(fast), minimiser(1), rtol=1e-12)


def test_damping_is_added_to_the_diagonal():
    learner = imaml(Coordinates(), half_squares, inner_steps=1, imaml_cg_steps=5, imaml_damping=0.7)
    grads, _ = learner.gradient(as_params(THETA), QUADRATIC)
    expected = np.mean(
        [
            np.linalg.solve(
                1.7 * np.eye(5) + A[m] / LAMBDA,
                B[m] @ (THETA - RATE * A[m] @ (THETA - C[0, m].numpy()) - C[1, m].numpy()),
            )
            for m in range(N_TASKS)
        ],
        axis=0,
    )
    np.testing.assert_allclose(flat(grads), expected, rtol=1e-10)


def test_a_strong_pull_gives_the_first_order_gradient_at_theta():
    """Lambda to infinity: phi* is theta, and so is its derivative the identity."""
    learner = imaml(Coordinates(), half_squares, imaml_lambda=1e12, inner_lr=1e-12, inner_steps=3)
    grads, _ = learner.gradient(as_params(THETA), QUADRATIC)
    expected = np.mean([B[m] @ (THETA - C[1, m].numpy()) for m in range(N_TASKS)], axis=0)
    np.testing.assert_allclose(flat(grads), expected, rtol=1e-9)


def test_without_any_positive_curvature_it_is_the_first_order_gradient():
    """A concave support loss: the conjugate gradients stop before their first step, and say so."""

    def concave(outputs, targets):
        return torch.where(targets[0] > 100, half_squares(outputs, targets), -10 * half_squares(outputs, targets))

    episode = QUADRATIC._replace(query_y=QUADRATIC.query_y + 1000)
    learner = imaml(Coordinates(), concave, inner_steps=1, inner_lr=1e-9)
    grads, metrics = learner.gradient(as_params(THETA), episode)
    assert metrics["cg_stopped"] == 1
    expected = np.mean(
        [R[1, m].T @ (R[1, m] @ torch.tensor(THETA) - episode.query_y[m]) for m in range(N_TASKS)], axis=0
    )
    np.testing.assert_allclose(flat(grads), expected, rtol=1e-6)


# --- a small smooth network -------------------------------------------------------------------------------------------


class Smooth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.hidden(x)))


MODEL = Smooth()
EPISODE = classification((3,), n_tasks=2)


def vector_of(params):
    return torch.cat([value.reshape(-1) for value in params.values()])


def params_of(vector, like):
    sizes = [value.numel() for value in like.values()]
    return {
        name: part.reshape(value.shape) for (name, value), part in zip(like.items(), vector.split(sizes), strict=True)
    }


def start(model=MODEL, **changes):
    learner = imaml(model, **changes)
    return learner, moved(learner.init(seeded(1)))


def support_loss(vector, like, task):
    outputs = functional_call(MODEL, params_of(vector, like), (EPISODE.support_x[task],))
    return F.cross_entropy(outputs, EPISODE.support_y[task])


HESSIAN = torch.func.jacrev(torch.func.grad(support_loss))


def query_loss(vector, like, task):
    outputs = functional_call(MODEL, params_of(vector, like), (EPISODE.query_x[task],))
    return F.cross_entropy(outputs, EPISODE.query_y[task])


def exact_minimiser(theta, like, task):
    """By Newton's method, down to rounding."""
    phi = theta
    for _ in range(20):
        slope = torch.func.grad(support_loss)(phi, like, task) + LAMBDA * (phi - theta)
        hessian = HESSIAN(phi, like, task) + LAMBDA * torch.eye(len(phi), dtype=phi.dtype)
        phi = phi - torch.linalg.solve(hessian, slope)
    assert slope.norm() < 1e-13
    return phi


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
def test_it_is_the_dense_solution_at_the_point_that_the_steps_reach(task_map):
    """Few inner steps, so not at the minimum; plain autograd for the steps, a dense solve for the rest."""
    learner, params = start(imaml_cg_steps=31, task_map=task_map)
    grads, _ = learner.gradient(params, EPISODE)
    theta, found = vector_of(params), []
    for task in range(2):
        phi = theta
        for _ in range(3):
            phi = phi - RATE * (torch.func.grad(support_loss)(phi, params, task) + LAMBDA * (phi - theta))
        hessian = HESSIAN(phi, params, task)
        slope = torch.func.grad(query_loss)(phi, params, task)
        found.append(torch.linalg.solve(torch.eye(len(phi), dtype=phi.dtype) + hessian / LAMBDA, slope))
    assert relative_error(grads, params_of(torch.stack(found).mean(0), params)) < 1e-12


def test_it_is_the_derivative_of_the_exact_minimisers_query_loss():
    learner, params = start(imaml_cg_steps=31, inner_steps=100)
    grads, _ = learner.gradient(params, EPISODE)
    theta = vector_of(params)
    direction = perturbation(params_of(draw(len(theta), seed=5), params), 1.0)

    def objective(step):
        moved_theta = vector_of(add_scaled(params, direction, step))
        return sum(query_loss(exact_minimiser(moved_theta, params, task), params, task) for task in range(2)) / 2

    def central(step):
        return (objective(step) - objective(-step)) / (2 * step)

    slope = (64 * central(0.005) - 20 * central(0.01) + central(0.02)) / 45  # Richardson: of the sixth order
    assert abs(float(dot(grads, direction)) - float(slope)) < 1e-11


def test_five_steps_come_close():
    learner, params = start(imaml_cg_steps=5, inner_steps=100)
    exact, _ = start(imaml_cg_steps=31, inner_steps=100)
    _, metrics = learner.gradient(params, EPISODE)
    assert relative_error(learner.gradient(params, EPISODE)[0], exact.gradient(params, EPISODE)[0]) < 1e-3
    assert 0 < metrics["cg_residual"] < 1e-3


# --- the interface ----------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_adapt_and_predict():
    learner, params = start(inner_steps=4)
    _, metrics = learner.gradient(params, EPISODE)
    losses = [
        F.cross_entropy(learner.predict(learner.adapt(params, x, y), query_x), query_y)
        for x, y, query_x, query_y in zip(*EPISODE, strict=True)
    ]
    torch.testing.assert_close(metrics["query_loss"], torch.stack(losses).mean(), rtol=1e-14, atol=0)
    assert metrics.keys() == {"query_loss", "query_accuracy", "cg_residual", "cg_stopped"}


def test_sharp_imaml_is_the_gradient_at_the_peak():
    learner, params = start()
    sharp, _ = start(alpha_up=0.3)
    peak = add_scaled(params, perturbation(learner.gradient(params, EPISODE)[0], 0.3), 1.0)
    grads, metrics = sharp.gradient(params, EPISODE)
    assert equal(grads, learner.gradient(peak, EPISODE)[0])
    assert metrics["perturbed_loss"] == learner.gradient(peak, EPISODE)[1]["query_loss"]


def test_steps_at_test_time_are_a_setting_of_their_own():
    task = EPISODE.support_x[0], EPISODE.support_y[0]
    learner, params = start(inner_steps=2, eval_inner_steps=5)
    assert equal(learner.adapt(params, *task), start(inner_steps=5)[0].adapt(params, *task))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_grad_mode_does_not_matter(mode):
    learner, params = start()
    task = EPISODE.support_x[0], EPISODE.support_y[0]
    grads, fast = learner.gradient(params, EPISODE)[0], learner.adapt(params, *task)
    with mode():
        assert equal(learner.gradient(params, EPISODE)[0], grads)
        assert equal(learner.adapt(params, *task), fast)


@pytest.mark.parametrize(("name", "value"), [("alpha_low", 0.1), ("adapt_norm", False)])
def test_what_it_cannot_use_is_refused(name, value):
    with pytest.raises(UserError, match=f"^{name}={value} is not allowed.*variant imaml"):
        imaml(MODEL, **{name: value})
