"""The constants of the stochastic problems are what they are said to be, and the closed forms are the module's."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from cases import seeded
from torch.func import functional_call, grad, jacrev, vmap

from sharp_maml_core.errors import UserError
from sharp_maml_core.theory.problems import PHASES, SHAPES, Noise, Rows, random_problem

WAVES = (Noise(0.6), Noise(0.6, 2.5), Noise(0.6, 0.8, 0.7))
GRID = torch.linspace(-8, 8, 20001, dtype=torch.float64)


def problem(**changes):
    values = {"shape": "cosine", "n_tasks": 3, "dim": 2, "support_scale": 0.8, "query_scale": 1.3, "width": 1.7}
    noises = {"support_noise": WAVES[0], "query_noise": WAVES[2]}
    return random_problem(seeded(0), **values | noises | changes)


def hessian(function):
    return jacrev(grad(function))


def points(count, dim=2, seed=1):
    return 2 * torch.randn(count, dim, generator=seeded(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_the_derivatives_it_names(name):
    shape = SHAPES[name]
    slope, curvature = vmap(grad(shape.value)), vmap(grad(shape.slope))
    torch.testing.assert_close(slope(GRID), shape.slope(GRID), rtol=0, atol=1e-14)
    torch.testing.assert_close(curvature(GRID), shape.curvature(GRID), rtol=0, atol=1e-14)
    assert float(shape.value(GRID).min()) >= 0
    assert float(shape.value(torch.zeros(1, dtype=torch.float64))) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("name", SHAPES)
def test_the_largest_derivatives_are_one_one_and_third(name):
    shape = SHAPES[name]
    third = vmap(grad(shape.curvature))(GRID).abs().max()
    assert float(third) == pytest.approx(shape.third, rel=1e-6)
    assert float(third) <= shape.third * (1 + 1e-14)
    assert float(shape.curvature(GRID).abs().max()) == pytest.approx(1, rel=1e-12)
    far = torch.tensor([-1e9, 1e9], dtype=torch.float64) if name != "cosine" else GRID
    assert float(shape.slope(far).abs().max()) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_closed_forms_are_the_modules_loss(shape):
    tasks = problem(shape=shape)
    episode = tasks.sample((), seeded(2))
    model = tasks.model()
    theta = points(1)[0]
    for side in (Rows(*episode[:2]), Rows(*episode[2:]), tasks.support):
        values, gradients, hessians = (
            function(side, theta[None]) for function in (tasks.value, tasks.gradient, tasks.hessian)
        )
        for task, (x, y) in enumerate(zip(*side, strict=True)):

            def loss(theta, x=x, y=y):
                return tasks.loss(functional_call(model, {"theta": theta}, (x,)), y)

            torch.testing.assert_close(values[task], loss(theta), rtol=1e-14, atol=1e-15)
            torch.testing.assert_close(gradients[task], grad(loss)(theta), rtol=1e-13, atol=1e-14)
            torch.testing.assert_close(hessians[task], hessian(loss)(theta), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("inner_lr", [0.0, 0.3, 2.0])
def test_the_objectives_gradient_is_its_derivative(inner_lr):
    tasks = problem()
    at = points(20)
    by_autograd = vmap(grad(lambda theta: tasks.objective(theta, inner_lr)))(at)
    torch.testing.assert_close(tasks.objective_gradient(at, inner_lr), by_autograd, rtol=1e-12, atol=1e-14)
    adapted = at[:, None] - inner_lr * tasks.gradient(tasks.support, at[:, None])
    naive = tasks.value(tasks.query, adapted).sum(1) / 3
    torch.testing.assert_close(tasks.objective(at, inner_lr), naive, rtol=1e-14, atol=1e-15)


def norms(matrices):
    return torch.linalg.matrix_norm(matrices, 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_assumption_1_holds_with_the_constants_and_with_none_smaller(shape, dim):
    tasks = problem(shape=shape, dim=dim, n_tasks=1, spread=0.3)
    constants = tasks.constants
    at = torch.cat([points(4000, dim), 1e6 * points(4000, dim)])  # slopes of two shapes are largest far out
    assert 0.95 * constants.l0 < float(tasks.gradient(tasks.query, at[:, None]).norm(dim=-1).max())
    assert float(tasks.gradient(tasks.query, at[:, None]).norm(dim=-1).max()) <= constants.l0 * (1 + 1e-14)
    sides = [norms(tasks.hessian(side, at[:, None])).max() for side in (tasks.support, tasks.query)]
    assert 0.95 * constants.l1 < float(max(sides)) <= constants.l1 * (1 + 1e-15)
    near, ahead = points(4000, dim), 1e-4 * points(4000, dim, seed=2)
    change = tasks.hessian(tasks.support, (near + ahead)[:, None]) - tasks.hessian(tasks.support, near[:, None])
    quotient = norms(change)[:, 0] / ahead.norm(dim=-1)
    assert 0.9 * constants.l2 < float(quotient.max()) <= constants.l2 * (1 + 1e-4)


@pytest.mark.parametrize("noise", WAVES)
def test_assumption_2_holds_with_equality_at_every_theta(noise):
    """Means of samples over all of them: exact."""
    tasks = problem(support_noise=noise, query_noise=noise)
    episode = tasks.every_sample()
    for theta in points(5)[:, None]:
        for side, exact in ((Rows(*episode[:2]), tasks.support), (Rows(*episode[2:]), tasks.query)):
            away = tasks.gradient(side, theta) - tasks.gradient(exact, theta)
            assert float(away.mean(0).abs().max()) < 1e-14
            torch.testing.assert_close(
                away.square().sum(-1).mean(0), torch.full((3,), noise.sigma**2, dtype=torch.float64), rtol=1e-13, atol=0
            )
            curved = tasks.hessian(side, theta) - tasks.hessian(exact, theta)
            assert float(curved.mean(0).abs().max()) < 1e-13
            torch.testing.assert_close(
                norms(curved).square().mean(0),
                torch.full((3,), noise.hessian_sigma**2, dtype=torch.float64),
                rtol=1e-12,
                atol=0,
            )
    assert tasks.constants.sigma == max(noise.sigma, noise.hessian_sigma)


@pytest.mark.parametrize("noise", WAVES)
def test_samples_are_lipschitz_with_the_constants_of_the_samples(noise):
    tasks = problem(support_noise=noise, query_noise=noise, n_tasks=1, dim=1)
    episode = tasks.every_sample()
    grid = torch.linspace(-10, 10, 4001, dtype=torch.float64)[:, None, None, None]
    largest = []
    for side in (Rows(*episode[:2]), Rows(*episode[2:])):
        curvature = tasks.hessian(side, grid)[..., 0, 0, 0]
        largest.append((float(curvature.abs().max()), float(curvature.diff(dim=0).abs().max() / 0.005)))
    constants = tasks.constants
    assert 0.6 * constants.sample_l1 < max(first for first, _ in largest) <= constants.sample_l1
    assert 0.4 * constants.sample_l2 < largest[0][1] <= constants.sample_l2


def test_sampling_draws_each_sample_equally_often():
    tasks = problem(n_tasks=2)
    episode = tasks.sample((20000,), seeded(3))
    every = tasks.every_sample()
    n_samples = 2 * PHASES
    for x, y, all_x, all_y in (
        (episode.support_x, episode.support_y, every.support_x[::n_samples], every.support_y[::n_samples]),
        (episode.query_x, episode.query_y, every.query_x[:n_samples], every.query_y[:n_samples]),
    ):
        for task in range(2):
            rows, all_rows = (torch.cat([a, b], -1)[:, task].flatten(1) for a, b in ((x, y), (all_x, all_y)))
            matches = (rows[:, None] - all_rows).abs().amax(-1) < 1e-12
            assert bool((matches.sum(1) == 1).all())
            counts = matches.sum(0).double()
            assert len(counts) == n_samples
            assert float((counts - 2000).abs().max()) < 5 * math.sqrt(2000 * 0.9)
    first = torch.cat([episode.support_x, episode.support_y], -1)
    assert float((first[:, 0, 2:] == first[:, 1, 2:]).all(-1).all(-1).double().mean()) < 0.2  # tasks apart: 0.1


def test_every_pair_of_a_support_and_a_query_sample_is_there_once():
    episode = problem(n_tasks=1).every_sample()
    pairs = torch.cat([value.flatten(1) for value in episode], -1)
    assert len(pairs) == (2 * PHASES) ** 2
    distances = torch.cdist(pairs, pairs) + torch.eye(len(pairs))
    assert float(distances.min()) > 0.1


@pytest.mark.parametrize("shape", SHAPES)
def test_the_objectives_gradient_is_lipschitz_with_l_f(shape):
    for inner_lr, seed in itertools.product((0.05, 0.5, 2.0), range(3)):
        tasks = random_problem(seeded(seed), shape=shape, n_tasks=1, dim=2, support_scale=0.7, spread=0.3)
        curvature = vmap(hessian(lambda theta, tasks=tasks, b=inner_lr: tasks.objective(theta, b)))(points(300))
        share = float(norms(curvature).max()) / tasks.smoothness(inner_lr)
        assert share <= 1
        assert share > 0.5 or inner_lr > 0.05  # where F is nearly ERM's loss, L_F is nearly l1


def test_tasks_differ_and_rows_are_orthogonal_of_length_one_over_width():
    tasks = problem(dim=3, width=2.5)
    for side in (tasks.support, tasks.query):
        gram = side.x @ side.x.mT
        torch.testing.assert_close(gram, torch.eye(3, dtype=torch.float64).expand(3, 3, 3) / 2.5**2, rtol=0, atol=1e-15)
    shifts = torch.cat([tasks.support.y[..., 0], tasks.query.y[..., 0]])
    assert float((torch.cdist(shifts, shifts) + torch.eye(6)).min()) > 0.1
    again = problem(dim=3, width=2.5)
    assert torch.equal(again.query.x, tasks.query.x)
    assert torch.equal(again.support.y, tasks.support.y)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"shape": "square"}, "shape"),
        ({"n_tasks": 0}, "n_tasks"),
        ({"dim": 0}, "dim"),
        ({"support_scale": 0.0}, "support_scale"),
        ({"query_scale": -1.0}, "query_scale"),
        ({"query_scale": math.nan}, "query_scale"),
        ({"width": 0.0}, "width"),
        ({"width": math.inf}, "width"),
        ({"spread": -0.1}, "spread"),
    ],
)
def test_a_problem_that_cannot_be_is_refused(changes, name):
    with pytest.raises(UserError, match=rf"^{name}="):
        problem(**changes)


@pytest.mark.parametrize(
    ("field", "value"), [("sigma", -0.1), ("sigma", math.nan), ("frequency", 0.0), ("skew", -1.0), ("skew", math.inf)]
)
def test_a_wave_that_cannot_be_is_refused(field, value):
    with pytest.raises(UserError, match=rf"^{field}="):
        dataclasses.replace(Noise(1.0), **{field: value})
