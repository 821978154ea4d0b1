"""Perturbations: their length, their direction, and what is done where there is no direction."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from cases import draw, equal
from hypothesis import given
from hypothesis import strategies as st

from sharp_maml_core.params import dot, norm
from sharp_maml_core.sharpness import adaptive_perturbation, most_sensitive, on_random_weights, perturbation


def vectors(seed=0):
    return {"weight": draw(3, 4, seed=seed), "bias": 10 * draw(4, seed=seed + 1), "scalar": draw(seed=seed + 2)}


def flat(params):
    return torch.cat([value.flatten() for value in params.values()])


@pytest.mark.parametrize("radius", [5e-4, 1.0, 30.0])
def test_eq_11_one_norm_over_all_tensors(radius):
    g = vectors()
    eps = perturbation(g, radius)
    torch.testing.assert_close(flat(eps), radius * flat(g) / torch.linalg.norm(flat(g)), rtol=1e-15, atol=0)
    assert float(norm(eps)) == pytest.approx(radius, rel=1e-15)


def test_the_length_does_not_depend_on_the_gradients():
    for scale in (1e-150, 1e-8, 1e8, 1e150):
        eps = perturbation({name: scale * value for name, value in vectors().items()}, 0.1)
        assert float(norm(eps)) == pytest.approx(0.1, rel=1e-14)


def test_asam_is_the_steepest_point_of_its_ellipsoid():
    """On || eps / |w| || = radius no point has a larger <g, eps> than radius w^2 g / || |w| g ||."""
    g, w = vectors(), vectors(seed=5)
    eps = adaptive_perturbation(g, w, 0.3)
    on_sphere = {name: value / w[name].abs() for name, value in eps.items()}
    assert float(norm(on_sphere)) == pytest.approx(0.3, rel=1e-14)
    # Cauchy-Schwarz: <g, eps> = <|w| g, eps / |w|> is at most || |w| g || radius.
    steepest = 0.3 * float(norm({name: w[name] * value for name, value in g.items()}))
    assert float(dot(g, eps)) == pytest.approx(steepest, rel=1e-14)


def test_asam_with_weights_of_one_is_sam():
    g = vectors()
    ones = {name: torch.ones_like(value) for name, value in g.items()}
    assert equal(adaptive_perturbation(g, ones, 0.3), perturbation(g, 0.3))


def test_asam_does_not_see_a_change_of_scale():
    """W -> k w, g -> g / k leaves eps / w as it was (Kwon et al. 2021): a power of two changes no bit."""
    g, w = vectors(), vectors(seed=5)
    rescaled = adaptive_perturbation(
        {name: value / 8 for name, value in g.items()}, {name: 8 * value for name, value in w.items()}, 0.3
    )
    assert equal(rescaled, {name: 8 * value for name, value in adaptive_perturbation(g, w, 0.3).items()})


def test_a_zero_gradient_gives_zero_and_so_does_its_derivative():
    zero = {name: torch.zeros_like(value) for name, value in vectors().items()}
    assert equal(perturbation(zero, 0.1), zero)
    assert equal(adaptive_perturbation(zero, vectors(), 0.1), zero)
    assert equal(adaptive_perturbation(vectors(), zero, 0.1), zero)
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(perturbation({"x": x}, 0.1)["x"].sum(), x)
    assert torch.equal(slope, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("xi", [0.3, 0.5, 1.0])
def test_the_mean_over_esams_masks_is_the_perturbation(xi):
    """The exact expectation: all 2^n masks, each with its probability."""
    eps = {"x": draw(5, seed=1)}
    mean = torch.zeros(5, dtype=torch.float64)
    for bits in itertools.product((0.0, 1.0), repeat=5):
        probability = math.prod(xi if bit else 1 - xi for bit in bits)
        mask = torch.tensor(bits, dtype=torch.float64)
        mean += probability * on_random_weights(eps, {"x": mask}, xi)["x"]
    torch.testing.assert_close(mean, eps["x"], rtol=1e-14, atol=0)


@given(st.permutations(range(7)), st.integers(1, 100))
def test_selection_takes_the_largest_increases(order, percent):
    chosen = most_sensitive(torch.tensor(order, dtype=torch.float64), percent / 100)
    assert len(chosen) == len(set(chosen.tolist())) == -(-7 * percent // 100)
    assert {order[i] for i in chosen} == set(range(7 - len(chosen), 7))


@pytest.mark.parametrize(("n", "percent"), [(5, 50), (5, 1), (1, 50), (10, 70), (20, 55), (50, 14), (75, 28)])
def test_selection_counts_in_decimals(n, percent):
    """ceil(mu n) for mu as it is written: 0.14 * 50 is 7, though not in binary."""
    chosen = most_sensitive(torch.arange(n, dtype=torch.float64), percent / 100)
    assert len(chosen) == -(-percent * n // 100)


def test_selection_works_where_the_loss_falls_everywhere():
    """ESAM's threshold would select nothing; the count does not care for the sign."""
    assert most_sensitive(torch.tensor([-3.0, -1.0, -2.0]), 0.5).tolist() == [1, 2]
