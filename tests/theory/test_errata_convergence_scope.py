"""What makes each verdict about what Theorem 1 covers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from sharp_maml_core.theory.errata import convergence_scope as errata


def test_theorem_1_as_repaired() -> None:
    figures = errata.theorem1()
    assert abs(figures["exponent"] + 0.5) < figures["interval"] + 0.02  # 0.02: T ends at 256
    assert figures["measured"] < figures["one_batch"]


@pytest.fixture(scope="module")
def one_batch() -> dict[str, float]:
    return errata.lemma5_one_batch()


def test_one_batch_breaks_what_independent_batches_obey(one_batch) -> None:
    figures = one_batch
    assert figures["independent"] < figures["eq35"] < figures["one_batch"]
    assert figures["rough_0.001"] == pytest.approx(figures["rough_0.1"], rel=1e-3)
    assert figures["rough_0.001"] > 0.25
    assert figures["smooth_0.001"] < 0.02 * figures["smooth_0.1"]


def test_the_rough_bias_by_quadrature(one_batch) -> None:
    """E n(u + 2 pi/3 sign n(u)) over a uniform phase, n the wave: what the average over a period approximates."""
    u = np.linspace(0, 2 * np.pi, 300_001)[:-1]

    def wave(u):
        return math.sqrt(2 / 1.49) * (np.sin(u) + 0.7 * np.sin(2 * u + np.pi / 12))

    bias = wave(u + 2 * np.pi / 3 * np.sign(wave(u))).mean()
    assert wave(u).mean() == pytest.approx(0, abs=1e-12)
    assert (wave(u) ** 2).mean() == pytest.approx(1, rel=1e-12)
    assert abs(bias) == pytest.approx(0.29, abs=0.005)
    assert one_batch["rough_0.001"] == pytest.approx(abs(bias), abs=0.03)


def test_a_perturbation_from_the_same_batch_is_not_bounded_by_l1() -> None:
    figures = errata.lemma5_gamma()
    assert figures["claimed"] == pytest.approx(0.01 * 2 * math.pi / 3)
    assert figures["claimed"] < figures["bias"] < figures["repaired"]


def test_through_the_perturbation_the_jacobian_is_b_alpha_l1_over_g() -> None:
    figures = errata.through_perturbation()
    assert figures["through_1e-6"] == pytest.approx(0.1 * 0.05 / 1e-6, rel=1e-3)
    assert figures["through_1e-6"] / figures["through_1e-4"] == pytest.approx(100, rel=0.02)
    assert figures["constant"] < 1


def test_adam_climbs_where_sgd_descends() -> None:
    figures = errata.adam()
    assert figures["adam"] > 0.1
    assert figures["sgd"] < 0 < figures["mean_gradient"]


def test_the_filters_are_adam() -> None:
    """The recursion that the figure runs by linear filters, against torch's Adam."""
    gradients = np.random.default_rng(1).normal(size=50)
    steps = np.arange(1, 51)
    first = lfilter([0.1], [1, -0.9], gradients) / (1 - 0.9**steps)
    second = lfilter([0.001], [1, -0.999], gradients**2) / (1 - 0.999**steps)
    theta = torch.zeros(1, dtype=torch.float64)
    outer = torch.optim.Adam([theta], lr=0.1)
    for gradient in gradients:
        theta.grad = torch.tensor([gradient], dtype=torch.float64)
        outer.step()
    assert float(theta) == pytest.approx(-0.1 * (first / (np.sqrt(second) + 1e-8)).sum(), rel=1e-10)


def test_f_goes_to_erm_and_sgd_without_adaptation_has_the_rate() -> None:
    figures = errata.vanishing_inner_lr()
    assert figures["distance_T100"] > 5 * figures["distance_T10000"] > 0
    assert figures["exponent"] == pytest.approx(1, abs=0.1)
    assert figures["erm_exponent"] == pytest.approx(-0.5, abs=0.05)


def test_floors_have_the_powers_of_eq_35_or_smaller_ones() -> None:
    figures = errata.fixed_steps()
    for name in ("alpha_low", "alpha_up", "inner_lr_at_alpha_low", "sigma_at_kink", "inner_lr_at_kink"):
        assert figures[name] == pytest.approx(2, abs=0.05), name
    for name in ("inner_lr_at_sigma", "sigma"):
        assert figures[name] == pytest.approx(4, abs=0.1), name


def test_sampled_tasks_vary_without_noise() -> None:
    figures = errata.task_sampling()
    assert figures["printed"] == 0
    assert 0 < figures["variance"] < figures["to_add"]


def test_the_gradient_of_a_relu_network_jumps() -> None:
    figures = errata.assumption1()
    assert figures["quotient_1e-6"] / figures["quotient_1e-2"] == pytest.approx(1e4, rel=0.05)
