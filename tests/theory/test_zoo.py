"""What the zoo says about its functions is so."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import grad, jacrev, vmap

from sharp_maml_core.theory.stationary import search
from sharp_maml_core.theory.zoo import FUNCTIONS, names, network

PERIODIC = ("washboard", "ripples")
ALL = pytest.mark.parametrize("name", FUNCTIONS)


def grid(box, n):
    axes = [torch.linspace(low, high, n, dtype=torch.float64) for low, high in box]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


@ALL
def test_l1_is_the_largest_curvature_of_the_box(name):
    function = FUNCTIONS[name]
    at = grid(function.box, 2001 if function.dimension == 1 else 101)  # the ends and the middle among them
    eigenvalues = torch.linalg.eigvalsh(vmap(jacrev(grad(function.loss)))(at))
    assert float(eigenvalues.max()) == pytest.approx(function.l1, rel=1e-14)
    assert float(-eigenvalues.min()) <= function.l1 * (1 + 1e-14)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in PERIODIC])
def test_all_stationary_points_are_in_the_box(name):
    """None more in the box of three times the size; beyond, the highest powers rule."""
    function = FUNCTIONS[name]
    found = function.stationary_points()
    wide = tuple((low - (high - low), high + (high - low)) for low, high in function.box)
    wider = search(function.loss, wide)
    assert wider.complete
    assert len(wider.kinds) == len(found.kinds)
    torch.testing.assert_close(wider.at, found.at, rtol=0, atol=1e-4)  # x^4 at 0, which Newton's method nears slowly


@pytest.mark.parametrize("name", PERIODIC)
def test_the_box_is_one_period_of_the_gradient(name):
    function = FUNCTIONS[name]
    at = grid(function.box, 7)
    for axis, (low, high) in enumerate(function.box):
        moved = at.clone()
        moved[:, axis] += high - low
        torch.testing.assert_close(vmap(grad(function.loss))(moved), vmap(grad(function.loss))(at), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("parabola", {"minimum": 1}),
        ("cubic", {"degenerate": 1}),
        ("quartic", {"minimum": 1}),
        ("double-well", {"minimum": 2, "maximum": 1}),
        ("washboard", {"minimum": 3, "maximum": 3}),
        ("himmelblau", {"minimum": 4, "saddle": 4, "maximum": 1}),
        ("rosenbrock", {"minimum": 1}),
        ("ripples", {"minimum": 2, "saddle": 4, "maximum": 2}),
    ],
)
def test_stationary_points_of_each(name, counts):
    """On a circle and on a torus the indices sum to 0, as the counts of washboard and ripples do."""
    found = FUNCTIONS[name].stationary_points()
    assert found.complete
    assert {kind: found.count(kind) for kind in set(found.kinds)} == counts
    gradients = vmap(grad(FUNCTIONS[name].loss))(found.at)
    assert float(gradients.norm(dim=1).max()) < 1e-12


@pytest.mark.parametrize("name", [name for name, function in FUNCTIONS.items() if function.coefficients])
def test_coefficients_are_those_of_the_loss(name):
    function = FUNCTIONS[name]
    for x in (-1.5, 0.25, 2.0):
        exactly = sum(float(c) * x**i for i, c in enumerate(function.coefficients))
        assert float(function.loss(torch.tensor([x], dtype=torch.float64))) == pytest.approx(exactly, rel=1e-14)


def test_formulas_are_those_of_the_losses():
    scope = {"cos": math.cos}
    for name, function in FUNCTIONS.items():
        spoken = function.formula.replace("^", "**").replace("cos x", "cos(x)").replace("cos 3x", "cos(3*x)")
        spoken = spoken.replace("cos y", "cos(y)").replace("2y", "2*y").replace("5 (", "5*(")
        value = eval(spoken, scope | {"x": 0.7, "y": -0.4})
        theta = torch.tensor([0.7, -0.4][: function.dimension], dtype=torch.float64)
        assert float(function.loss(theta)) == pytest.approx(value, rel=1e-14), name


def test_names_by_dimension():
    assert sorted(names(1) + names(2)) == sorted(FUNCTIONS)
    assert "himmelblau" in names(2)
    assert "washboard" in names(1)


@pytest.mark.parametrize("seed", [0, 2])
def test_training_finds_a_minimum_of_the_network(seed):
    found = network(seed)
    assert float(grad(found.loss)(found.theta).norm()) <= 1e-12
    eigenvalues = torch.linalg.eigvalsh(jacrev(grad(found.loss))(found.theta))
    assert eigenvalues.min() > 0
    assert torch.equal(network(seed).theta, found.theta)
    # The points are the same whatever the seed: minimisers of one loss, up to the order and the signs of the units.
    assert float(found.loss(network(0).theta)) == pytest.approx(float(network(0).loss(network(0).theta)), rel=1e-14)
