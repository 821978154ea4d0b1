"""Each verdict on the algorithms of Section 3.2, Appendix A and Section 5.4, from what makes it."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from cases import seeded

from sharp_maml_core.theory.biased_maml import same, sharp_gradient
from sharp_maml_core.theory.convergence_bounds import Steps
from sharp_maml_core.theory.errata import algorithms as errata
from sharp_maml_core.theory.problems import Noise, random_problem


def test_eq_10_is_the_gradient_for_a_fixed_perturbation() -> None:
    found = errata.task_gradient_eq_10()
    assert found["package_against_the_formula"] < 1e-14
    assert found["package_against_autograd"] < 1e-14
    assert found["difference_if_eps_is_differentiated"] > 0.01


def test_the_variants_are_one_algorithm() -> None:
    found = errata.special_cases()
    differences = [value for name, value in found.items() if name != "both_minus_maml"]
    assert differences == [0, 0, 0]
    assert found["both_minus_maml"] > 0.01  # or the zeros would say nothing


def test_one_draw_for_gradient_and_hessian_is_biased() -> None:
    """In fractions: a = (1, 3), c = (1/2, -1/5), theta = 1, beta = 3/10, query (theta' - 2/5)^2 / 2."""
    found = errata.unbiased_estimator()
    beta, theta, target = Fraction(3, 10), Fraction(1), Fraction(2, 5)
    a = (Fraction(1), Fraction(3))
    g = (a[0] * (theta - Fraction(1, 2)), a[1] * (theta + Fraction(1, 5)))
    mean_a, mean_g = sum(a) / 2, sum(g) / 2

    def estimate(hessian: Fraction, inner: Fraction) -> Fraction:
        return (1 - beta * hessian) * (theta - beta * inner - target)

    exact = estimate(mean_a, mean_g)
    one = sum(estimate(a[i], g[i]) for i in range(2)) / 2
    two = sum(estimate(a[i], g[j]) for i, j in itertools.product(range(2), repeat=2)) / 4
    assert two == exact
    assert one - exact == beta**2 * ((a[0] * g[0] + a[1] * g[1]) / 2 - mean_a * mean_g)
    assert found["exact_gradient_quadratic"] == pytest.approx(float(exact), abs=1e-15)
    assert found["bias_one_draw_quadratic"] == pytest.approx(float(one - exact), abs=1e-15)
    assert abs(found["bias_two_draws_quadratic"]) < 1e-15
    away = [float(theta - beta * inner - target) for inner in (*g, mean_g)]
    bias = float(1 - beta * mean_a) * ((math.sin(away[0]) + math.sin(away[1])) / 2 - math.sin(away[2]))
    assert found["bias_two_draws_cosine"] == pytest.approx(bias, abs=1e-15)
    assert abs(bias) > 1e-4


def test_on_smooth_tasks_the_upper_gradient_is_biased_by_b_squared_sigma_squared() -> None:
    """Against many draws, too: the mean of 10^5 updates of MAML is off by as much."""
    found = errata.unbiased_estimator()
    assert found["exponent_inner_lr"] == pytest.approx(2, abs=0.03)
    assert found["exponent_sigma"] == pytest.approx(2, abs=0.01)
    problem = random_problem(seeded(0), n_tasks=3, support_noise=Noise(1.0), query_noise=Noise(0.5))
    theta = torch.tensor([0.7, -0.3], dtype=torch.float64)
    draws = sharp_gradient(problem, theta, Steps(1.0, 0.4), same(problem.sample((100_000,), seeded(1))))
    exact = problem.objective_gradient(theta, 0.4)
    off = float((draws.mean(0) - exact).norm() / exact.norm())
    assert off == pytest.approx(found["relative_bias"], abs=0.02)
    assert found["relative_bias"] > 0.05


def test_eq_14_can_look_from_the_lowest_point_of_the_ball() -> None:
    found = errata.reused_perturbation()
    centre, radius = 1 / 8 - 1 / 4, 1 / 8
    losses = (np.linspace(centre - radius, centre + radius, 1001)) ** 2 / 2
    assert found["loss_at_theta_plus_eps"] == centre**2 / 2
    assert found["loss_where_eq_14_looks"] == losses.min() == 0
    assert found["highest_loss_of_the_ball"] == losses.max()


@pytest.mark.parametrize("seed", range(5))
def test_a_reused_perturbation_is_off_by_at_most_the_stated_bound(seed: int) -> None:
    draw = np.random.default_rng(seed)
    for _ in range(200):
        u, alpha_low, alpha_up, l1 = draw.normal(size=4), *draw.uniform(0.01, 2, size=3)
        change = draw.normal(size=4)
        v = u + l1 * alpha_up * draw.uniform() * change / np.linalg.norm(change)
        off = alpha_low * np.linalg.norm(v / np.linalg.norm(v) - u / np.linalg.norm(u))
        assert off <= 2 * alpha_low * l1 * alpha_up / np.linalg.norm(u) * (1 + 1e-12)


def test_line_13_without_its_subscript_is_another_direction() -> None:
    """(I - 0.2 diag(9, 1)) (1, 1) = (-0.8, 0.8)."""
    assert abs(errata.first_pass()["cosine"]) < 1e-15


def test_sum_and_mean_differ_in_the_outer_step_only() -> None:
    found = errata.sum_over_tasks()
    assert found["largest_stable_step_mean"] == 4 * found["largest_stable_step_sum"]
    assert found["difference_of_eps"] < 1e-16
    assert found["difference_after_20_steps_of_adam"] < 1e-8  # 20 steps of 1e-3 went 0.02 sqrt(3)
    for step, grows in ((0.49, False), (0.51, True)):  # four tasks of curvature 1, summed
        assert (abs(1 - step * 4) > 1) == grows == (step > found["largest_stable_step_sum"])


def test_eq_19_forgets_the_initial_head() -> None:
    found = errata.anil()
    assert found["gradient_by_theta_c_of_the_argmin"] < 1e-13
    assert found["gradient_by_theta_c_of_a_step"] > 0.1
    for t, name in ((1, "1_separating_head"), (10, "10"), (20, "20")):
        assert found[f"cross_entropy_at_{name}"] == pytest.approx(math.log1p(4 * math.exp(-t)), rel=1e-6)
    assert found["share_of_theta_r"] == pytest.approx(1 - (25 * 64 + 1) * 5 / 121_093, rel=1e-12)


def test_esams_two_sets_leave_samples_out() -> None:
    found = errata.esam()
    increase, tau = (0.3, 0.1, 0.1, 0.0, -0.2), 0.1
    more, less = [x for x in increase if x > tau], [x for x in increase if x < tau]
    assert len(increase) - len(more) - len(less) == found["samples_in_neither_set"] == 2
    shares = {sum(x > level for x in increase) / 5 for level in torch.linspace(-1, 1, 2001).tolist()}
    assert 0.5 not in shares
    assert min(abs(share - 0.5) for share in shares) == pytest.approx(
        abs(found["attainable_share_nearest_to_a_half"] - 0.5)
    )
    assert found["samples_that_the_package_takes_for_a_half"] == math.ceil(0.5 * 5)
    assert (found["mean_of_the_masked_eps"], found["mean_of_the_rescaled_eps"]) == (0.5, 1)
