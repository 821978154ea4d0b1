"""Each verdict on what Theorem 2 says about the radius and about the paper's experiments, from what makes it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import seeded
from scipy import stats

from sharp_maml_core import Conv4
from sharp_maml_core.theory.errata import radius as errata

CONV4, IMAGES, DELTA = 121_093, 38_400, 0.05


def root(alpha: float, norm: float, k: int = CONV4, n: int = IMAGES) -> float:
    """(18)'s as it is printed."""
    inside = k * math.log(1 + norm**2 / alpha**2 * (1 + math.sqrt(math.log(n) / k)) ** 2)
    return math.sqrt((inside + 2 * math.log(1 / DELTA) + 5 * math.log(n)) / (4 * n))


def test_alpha_has_two_meanings() -> None:
    found = errata.meanings_of_alpha()
    ratio = math.sqrt(CONV4) * (1 + math.sqrt(math.log(IMAGES) / CONV4))
    assert found["radius_over_sigma"] == pytest.approx(ratio, rel=1e-14)
    assert found["sigma_for_radius_0_05"] == pytest.approx(0.05 / ratio, rel=1e-14)
    assert found["radius_for_sigma_0_05"] == pytest.approx(0.05 * ratio, rel=1e-14)
    assert found["root_for_sigma_0_05"] == pytest.approx(root(0.05 * ratio, found["norm_of_theta"]), rel=1e-13)
    assert found["radius_for_sigma_0_05"] > 0.9 * found["norm_of_theta"]


def test_d1_argues_from_a_false_inequality() -> None:
    found = errata.larger_radius_argument()
    assert found["one_plus_root_of_3"] > found["root_of_4"] == 2
    norm = errata.meanings_of_alpha()["norm_of_theta"]
    alpha0, paper, proved = 0.05, found["d1_alpha1"], found["proved_alpha1"]
    assert root(paper, norm) ** 2 == pytest.approx(root(alpha0, norm) ** 2 - 1, rel=1e-12)
    assert root(proved, norm) == pytest.approx(root(alpha0, norm) - 1, rel=1e-12)
    assert found["bound_at_alpha0"] == pytest.approx(root(alpha0, norm), rel=1e-13)
    assert found["worst_bound_at_d1_alpha1"] == pytest.approx(1 + root(paper, norm), rel=1e-13)
    assert found["worst_bound_at_d1_alpha1"] > found["bound_at_alpha0"]
    # Between the two ends a loss of 0 in the ball of alpha0 and 1 beyond leaves no larger radius with a smaller bound.
    between = (found["proved_up_to"] + found["claimed_up_to"]) / 2
    assert found["proved_up_to"] < between < found["claimed_up_to"]
    assert all(1 + root(larger, norm) > root(between, norm) for larger in np.geomspace(between, 1e12, 500))


def test_d1_compares_what_says_nothing() -> None:
    found = errata.conclusion_of_d1()
    assert found["root_where_the_range_of_d1_ends"] > 1
    assert found["least_root_on_the_paper_grid"] > 3
    assert found["gain_once_capped_at_1"] == 0


def test_draws_are_far_longer_than_alpha_squared() -> None:
    found = errata.length_of_a_draw()
    drawn = 0.05 * torch.randn(200, CONV4, generator=seeded(0)).norm(dim=1)
    assert found["expected_length"] == pytest.approx(float(drawn.mean()), rel=6e-4)  # four standard errors
    assert float(drawn.min()) > 6000 * found["alpha_squared"]
    # The bound of the chance, for a k whose chance float64 holds: the same formula against the exact one.
    x, k = 0.05**2, 20
    bound = k / 2 * math.log(x / 2) - math.lgamma(k / 2 + 1)
    assert stats.chi2.logcdf(x, k) <= bound == pytest.approx(stats.chi2.logcdf(x, k), rel=1e-3)
    exact = CONV4 / 2 * math.log(x / 2) - math.lgamma(CONV4 / 2 + 1)
    assert found["log10_of_the_chance_at_most"] == pytest.approx(exact / math.log(10), rel=1e-12)


def test_a_minimum_can_be_above_the_mean_around_it() -> None:
    found = errata.minimum_and_mean()

    def loss(theta: torch.Tensor) -> torch.Tensor:
        square = (theta**2).sum(-1)
        return torch.exp(-square / 2) - 0.5 * torch.exp(-50 * square)

    zero = torch.zeros(3, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(loss, zero)
    torch.testing.assert_close(hessian, found["curvature_there"] * torch.eye(3, dtype=torch.float64), rtol=0, atol=0)
    assert float(loss(zero)) == found["at_the_minimum"] == 0.5
    drawn = loss(3 * torch.randn(200_000, 1, generator=seeded(0), dtype=torch.float64))
    assert float(drawn.mean()) == pytest.approx(found["mean_for_k_1_alpha_3"], abs=4 * float(drawn.std()) / 447)
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1
    assert found["mean_for_mini_imagenet"] < 1e-60 < found["mean_for_k_1_alpha_3"] < found["at_the_minimum"]


def test_five_points_are_not_stable() -> None:
    found = errata.stability_of_five_points()

    def trained(labels: list[int]) -> torch.Tensor:
        theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
        for _ in range(5):
            loss = torch.nn.functional.softplus(-torch.tensor(labels) * theta).mean()
            (gradient,) = torch.autograd.grad(loss, theta)
            theta = (theta - 0.1 * gradient).detach().requires_grad_()
        return theta.detach()

    softplus = torch.nn.functional.softplus
    change = softplus(-trained([1, 1, 1, 1, -1])) - softplus(-trained([1, 1, 1, 1, 1]))
    assert found["logistic_five_labels_one_flipped"] == pytest.approx(float(change), rel=1e-12)
    assert found["logistic_five_labels_one_flipped"] <= found["convex_bound"] == pytest.approx(0.2)
    assert trained([1, 1, 1, -1, -1]) > 0 > trained([1, 1, -1, -1, -1])
    assert found["zero_one_loss_n_5"] == found["zero_one_loss_n_501"] == 1


def test_18_says_nothing_about_the_papers_experiments() -> None:
    found = errata.the_papers_experiments()
    logits, labels = torch.zeros(4, 5, dtype=torch.float64), torch.arange(4)
    even = float(torch.nn.functional.cross_entropy(logits, labels))
    assert found["cross_entropy_of_even_odds"] == pytest.approx(even, rel=1e-14)
    for name, shape, n_way in (("mini_imagenet", (3, 84, 84), 5), ("omniglot", (1, 28, 28), 20)):
        k = sum(value.numel() for value in Conv4(shape, n_way).parameters())
        n, length = int(found[f"{name}_images"]), found[f"{name}_norm_of_theta"]
        assert found[f"{name}_parameters"] == k
        assert found[f"{name}_root_at_0_05"] == pytest.approx(root(0.05, length, k, n), rel=1e-13)
        assert found[f"{name}_root_at_0_0005"] == pytest.approx(root(0.0005, length, k, n), rel=1e-13)
        assert found[f"{name}_root_at_0_05"] > 3
        least = found[f"{name}_alpha_for_1"]
        assert root(least, length, k, n) == pytest.approx(1, rel=1e-12)
        assert found[f"{name}_alpha_for_1_over_0_05"] == pytest.approx(least / 0.05, rel=1e-14)
        for alpha, key in ((0.05, "0_05"), (0.0005, "0_0005")):
            needed = int(found[f"{name}_images_for_1_at_{key}"])
            assert root(alpha, length, k, needed) <= 1 < root(alpha, length, k, needed - 1)
