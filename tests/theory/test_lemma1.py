"""Lemma 1's formulas and what follows from them, against autograd, exact algebra and brute force."""

from __future__ import annotations

from fractions import Fraction

import pytest
import sympy
import torch
import torch.nn.functional as F
from cases import SmoothNet, classification, draw
from torch.func import functional_call, grad, jacrev

from sharp_maml_core import UserError
from sharp_maml_core.theory.lemma1 import as_vector, composed, errors, flattened, gradient, hessians, kept, two_tasks


def wavy(theta):
    """Not a polynomial, and its Hessians do not commute."""
    return torch.cos(theta[0] * theta[1]) + torch.exp(theta[2] / 2) * theta[0] + (theta**4).sum() / 8


def bilinear(theta):
    """L = x^2/2 + x y^2/2, whose derivatives are rational."""
    return theta[0] ** 2 / 2 + theta[0] * theta[1] ** 2 / 2


def by_algebra(inner_lr):
    """The Hessian of bilinear's composed loss at (0, 1), and (27) with its factors as printed, in fractions."""
    x, y = sympy.symbols("x y")
    L = x**2 / 2 + x * y**2 / 2
    g, H = sympy.Matrix([L]).jacobian([x, y]).T, sympy.hessian(L, [x, y])
    step = {x: x - inner_lr * g[0], y: y - inner_lr * g[1]}
    at = {x: 0, y: 1}
    true = sympy.hessian(L.subs(step, simultaneous=True), [x, y]).subs(at)
    J = (sympy.eye(2) - inner_lr * H).subs(at)
    there = {name: value.subs(at) for name, value in step.items()}
    u = g.subs(there, simultaneous=True)
    third = sum((H.diff(name) * u[i] for i, name in enumerate((x, y))), sympy.zeros(2)).subs(at)
    return true, J * J * H.subs(there, simultaneous=True) - inner_lr * third


@pytest.mark.parametrize("inner_lr", [1e-3, 0.3, 2.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_eq_26_and_27_are_the_derivatives_of_the_composed_loss(inner_lr, seed):
    theta = draw(3, seed=seed)
    whole = composed(wavy, inner_lr)
    torch.testing.assert_close(gradient(wavy, theta, inner_lr), grad(whole)(theta), rtol=1e-12, atol=1e-13)
    right, printed = hessians(wavy, theta, inner_lr)
    torch.testing.assert_close(right, jacrev(grad(whole))(theta), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(right, right.T, rtol=1e-12, atol=1e-13)
    assert (printed - printed.T).norm() > 1e-3 * inner_lr * printed.norm()


@pytest.mark.parametrize("inner_lr", [1, Fraction(1, 3)])
def test_eq_27_in_fractions(inner_lr):
    true, as_printed = by_algebra(sympy.Rational(inner_lr))
    found = hessians(bilinear, torch.tensor([0.0, 1.0], dtype=torch.float64), float(inner_lr))
    for matrix, expected in zip(found, (true, as_printed), strict=True):
        torch.testing.assert_close(matrix, torch.tensor(expected.tolist(), dtype=torch.float64), rtol=1e-15, atol=1e-15)
    assert true == true.T
    assert as_printed != as_printed.T


def test_both_orders_agree_where_the_factors_commute():
    one = hessians(lambda theta: theta[0] ** 4 - theta[0], torch.tensor([0.7], dtype=torch.float64), 0.2)
    torch.testing.assert_close(*one)
    stationary = hessians(bilinear, torch.zeros(2, dtype=torch.float64), 0.2)
    torch.testing.assert_close(*stationary)


def test_the_table_of_errors_tells_right_from_wrong():
    slope, right, printed = errors(wavy, draw(3, seed=0), 0.3)
    for row in (slope, right):
        assert row.autograd < 1e-14
        assert row.differences < 1e-9  # of fourth order with step 1e-3
    assert printed.autograd > 1e-2
    assert printed.differences == pytest.approx(printed.autograd, rel=1e-6)


def test_a_dict_of_parameters_is_one_vector():
    theta = {"first": draw(2, seed=1), "rest": draw(1, 1, seed=2)}
    vector, rebuild = flattened(theta)
    assert vector.tolist() == [*theta["first"].tolist(), theta["rest"].item()]
    assert all(torch.equal(rebuild(vector)[name], value) for name, value in theta.items())

    def of_dict(params):
        return wavy(torch.cat([params["first"], params["rest"][0]]))

    assert torch.equal(gradient(of_dict, theta, 0.3), gradient(wavy, vector, 0.3))
    assert torch.equal(hessians(of_dict, theta, 0.3).right, hessians(wavy, vector, 0.3).right)


def test_on_a_convolutional_network():
    """Also a test of EpisodeNorm's third derivative, which (27) needs and PyTorch's batch norm has wrong."""
    task = classification((1, 8, 8), k_shot=1, n_tasks=1)
    model = SmoothNet(filters=2)
    params = {name: value.detach().double() for name, value in model.named_parameters()}
    params = {name: draw(*value.shape, seed=i) / 2 for i, (name, value) in enumerate(params.items())}

    def loss(params):
        return F.cross_entropy(functional_call(model, params, (task.support_x[0],)), task.support_y[0])

    slope, right, printed = errors(loss, params, 0.5)
    assert slope.autograd < 1e-13
    assert right.autograd < 1e-13
    assert slope.differences < 1e-8
    assert right.differences < 1e-8
    assert printed.autograd > 1e-2


def test_at_a_stationary_point_eigenvalues_become_lambda_times_one_minus_beta_lambda_squared():
    root = draw(4, 4, seed=0)
    A = root + root.T

    def saddle(theta):
        return theta @ A @ theta / 2 + (theta**3).sum()

    found = kept(saddle, torch.zeros(4, dtype=torch.float64), 0.4)
    before = torch.linalg.eigvalsh(A)
    assert found.gradient_norm == 0
    torch.testing.assert_close(found.before, before, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found.after, (before * (1 - 0.4 * before) ** 2).sort().values, rtol=1e-12, atol=1e-12)
    assert found.inertia_before == found.inertia_after
    assert 0 < found.inertia_before.negative < 4


def test_where_the_step_is_newtons_the_hessian_vanishes_and_the_minimum_stays():
    """1/b is an eigenvalue: J is singular, inertia says nothing, and b) holds all the same."""
    found = kept(lambda theta: (theta**2).sum() / 2 + (theta**3).sum(), torch.zeros(1, dtype=torch.float64), 1.0)
    assert found.after.item() == 0
    whole = composed(lambda theta: (theta**2).sum() / 2 + (theta**3).sum(), 1.0)
    assert all(float(whole(torch.tensor([x], dtype=torch.float64))) > 0 for x in (-1e-2, -1e-3, 1e-3, 1e-2))


def test_two_tasks_move_the_minimiser_from_minus_a_half_to_a_seventh():
    assert two_tasks((1, 3), (1, -1), Fraction(1, 5)) == (Fraction(-1, 2), Fraction(1, 7))


@pytest.mark.parametrize("inner_lr", [Fraction(1, 10), Fraction(1, 2), 1])
def test_the_minimisers_of_many_tasks_against_algebra(inner_lr):
    curvatures, minima = (1, 3, Fraction(1, 2)), (1, -1, 4)
    found = two_tasks(curvatures, minima, inner_lr)
    x = sympy.Symbol("x")
    a_c = [(sympy.Rational(a), c) for a, c in zip(curvatures, minima, strict=True)]
    b = sympy.Rational(inner_lr)
    erm = sum(a * (x - c) ** 2 / 2 for a, c in a_c)
    maml = sum(a * (x - b * a * (x - c) - c) ** 2 / 2 for a, c in a_c)
    for loss, minimiser in ((erm, found.erm), (maml, found.maml)):
        assert sympy.solve(sympy.diff(loss, x), x) == [sympy.Rational(minimiser)]


def test_tasks_that_share_their_minimiser_keep_it():
    assert two_tasks((1, 3), (2, 2), Fraction(1, 5)) == (2, 2)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: gradient(wavy, draw(3, seed=0), 0.0), "inner_lr=0.0 .* above 0"),
        (lambda: hessians(wavy, draw(3, seed=0), -1.0), "inner_lr=-1.0 .* above 0"),
        (lambda: composed(wavy, float("nan")), "inner_lr=nan .* finite"),
        (lambda: as_vector(wavy, draw(3, seed=0).float()), "theta='torch.float32 .* float64"),
        (lambda: as_vector(wavy, draw(3, 1, seed=0)), "theta=.*one vector"),
        (lambda: as_vector(wavy, draw(3, seed=0) * float("inf")), "theta=.*finite"),
        (lambda: as_vector(wavy, {}), "theta=.*one at least"),
        (lambda: as_vector(lambda theta: theta, draw(3, seed=0)), r"loss\(theta\)=\(3,\) .* scalar"),
        (lambda: as_vector(lambda theta: theta.sum().log(), -torch.ones(1).double()), r"loss\(theta\)=.*finite"),
        (lambda: two_tasks((1, 0), (1, -1), 1), "curvatures=.*above 0"),
        (lambda: two_tasks((1, 3), (1,), 1), "curvatures=.*one a minimum"),
        (lambda: two_tasks((), (), 1), "curvatures=.*one a minimum"),
        (lambda: two_tasks((2, 2), (1, -1), Fraction(1, 2)), "inner_lr=.*1 / curvature"),
        (lambda: two_tasks((2, 2), (1, -1), 0), "inner_lr=0 .*above 0"),
    ],
)
def test_bad_input_is_named(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()
