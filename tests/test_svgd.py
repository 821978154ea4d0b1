"""Stein variational gradient descent against NumPy loops, and where its direction is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import draw

from sharp_maml_core.svgd import svgd_direction

MEAN, PRECISION = np.array([0.5, -1.0, 2.0]), np.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.5]])


def score(particles):
    """Of a Gaussian."""
    return -(particles - MEAN) @ PRECISION


def naive_direction(x, scores):
    m = len(x)
    distances = [np.linalg.norm(x[i] - x[j]) for i in range(m) for j in range(i)]
    h = np.median(distances) ** 2 / math.log(m)
    found = np.zeros_like(x)
    for i in range(m):
        for j in range(m):
            k = math.exp(-np.sum((x[j] - x[i]) ** 2) / h)
            found[i] += (k * scores[j] - 2 * (x[j] - x[i]) / h * k) / m
    return found


@pytest.mark.parametrize("m", [2, 3, 4, 5])
def test_steps_on_a_gaussian_are_those_of_numpy(m):
    particles = draw(m, 3, seed=m)
    expected = particles.numpy()
    for _ in range(10):
        particles = particles + 0.1 * svgd_direction(particles, torch.tensor(score(particles.numpy())))
        expected = expected + 0.1 * naive_direction(expected, score(expected))
        np.testing.assert_allclose(particles, expected, rtol=1e-12, atol=1e-14)


def test_two_particles_on_a_standard_normal_rest_at_the_root_of_log_two():
    """At -a and a: k = exp(-log 2) = 1/2, so the direction is (log(2) / a - a) / 4, by hand."""
    for a in (0.3, math.sqrt(math.log(2)), 2.0):
        particles = torch.tensor([[-a], [a]], dtype=torch.float64)
        found = svgd_direction(particles, -particles)
        expected = (math.log(2) / a - a) / 4
        np.testing.assert_allclose(found, [[-expected], [expected]], rtol=1e-14, atol=1e-16)


def test_one_particle_follows_its_gradient():
    particle, gradient = draw(1, 4, seed=1), draw(1, 4, seed=2)
    assert torch.equal(svgd_direction(particle, gradient), gradient)


def test_particles_in_one_place_move_together_along_their_mean_gradient():
    scores = draw(3, 4, seed=2)
    found = svgd_direction(torch.ones(3, 4, dtype=torch.float64), scores)
    torch.testing.assert_close(found, scores.mean(0).expand(3, 4), rtol=1e-15, atol=0)


def test_without_a_bandwidth_only_those_in_one_place_see_each_other():
    """Four of five in one place: six of ten distances are zero, and so is the median."""
    particles, scores = torch.zeros(5, 2, dtype=torch.float64), draw(5, 2, seed=2)
    particles[4] = 1e-3
    found = svgd_direction(particles, scores)
    expected = torch.cat([scores[:4].mean(0).expand(4, 2) * 4, scores[4:]]) / 5
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_derivatives_are_finite_and_hold_the_bandwidth(spread):
    particles, scores, v = spread * draw(3, 2, seed=1), draw(3, 2, seed=2), draw(3, 2, seed=3)
    _, pull = torch.func.vjp(svgd_direction, particles, scores)
    by_particles, by_scores = pull(v)
    assert by_particles.isfinite().all()
    if spread == 0:
        torch.testing.assert_close(by_scores, v.mean(0).expand(3, 2))
        return
    h = float(torch.pdist(particles).median() ** 2 / math.log(3))

    def held(particles):
        kernel = torch.exp(-((particles[:, None] - particles) ** 2).sum(-1) / h)
        push = torch.einsum("ij,ijn->in", kernel, particles[:, None] - particles) * 2 / h
        return (((kernel @ scores + push) / 3) * v).sum()

    torch.testing.assert_close(by_particles, torch.func.grad(held)(particles), rtol=1e-12, atol=1e-14)
