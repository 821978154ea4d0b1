"""Gaussians of Appendix D: against torch.distributions, the exact chi-square, enumeration and Monte Carlo."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import seeded
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.distributions import Independent, Normal, kl_divergence

from sharp_maml_core import UserError
from sharp_maml_core.theory.gaussians import (
    ball_radius,
    ball_sigma,
    expected_length,
    kl_isotropic,
    laurent_massart_radius,
    log1p_square,
    prior_scale,
    tail,
)

CONV4 = 121_093


@pytest.mark.parametrize(("k", "sigma", "prior_sigma"), [(1, 0.3, 2.0), (7, 1.5, 0.4), (1000, 0.05, 0.06)])
def test_the_divergence_is_that_of_torch(k: int, sigma: float, prior_sigma: float) -> None:
    theta = torch.randn(k, generator=seeded(k), dtype=torch.float64)
    posterior = Independent(Normal(theta, sigma), 1)
    prior = Independent(Normal(torch.zeros(k, dtype=torch.float64), prior_sigma), 1)
    expected = float(kl_divergence(posterior, prior))
    assert float(kl_isotropic(k, float(theta.norm()), sigma, prior_sigma)) == pytest.approx(expected, rel=1e-12)


def test_the_divergence_is_the_mean_log_ratio() -> None:
    """By Monte Carlo: off by less than four standard errors, of which one is under a percent."""
    k, sigma, prior_sigma, draws = 5, 0.7, 1.1, 100_000
    theta = torch.randn(k, generator=seeded(1), dtype=torch.float64)
    x = theta + sigma * torch.randn(draws, k, generator=seeded(2), dtype=torch.float64)
    ratio = (Normal(theta, sigma).log_prob(x) - Normal(0.0, prior_sigma).log_prob(x)).sum(1)
    error = float(ratio.std()) / math.sqrt(draws)
    closed = float(kl_isotropic(k, float(theta.norm()), sigma, prior_sigma))
    assert abs(float(ratio.mean()) - closed) < 4 * error
    assert error < 0.01 * closed


@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0, 0.999), st.floats(1e-3, 1e3))
def test_the_proofs_choice_of_the_prior(k: int, n: int, share: float, sigma: float) -> None:
    """Any theta of the first case, ||theta||^2 <= k sigma^2 exp(4n/k)."""
    theta = share * sigma * math.sqrt(k) * math.exp(min(2 * n / k, 300))
    chosen = prior_scale(k, n, theta, sigma)
    log_s = 2 * math.log(sigma) + float(log1p_square(theta / sigma / math.sqrt(k)))
    step = k * (2 * math.log(float(chosen.sigma)) - log_s)
    rounding = 1e-12 * (1 + k * abs(log_s))
    assert -rounding <= step <= 1 + rounding
    assert chosen.j >= 1
    assert chosen.j == round(float(chosen.j))
    assert float(chosen.price) == pytest.approx(math.log(math.pi**2 * float(chosen.j) ** 2 / 6))
    best = 0.5 * k * float(log1p_square(theta / sigma / math.sqrt(k)))
    assert best - rounding <= float(chosen.kl) <= best + 1 / (4 * k) + rounding


def test_the_choice_is_the_smallest_grid_point_that_is_large_enough() -> None:
    k, n, sigma = 6, 20, 0.5
    grid = sigma**2 * (1 + math.exp(4 * n / k)) * np.exp((1 - np.arange(1, 1000)) / k)
    for theta in np.geomspace(1e-3, 0.99 * sigma * math.sqrt(k) * math.exp(2 * n / k), 50):
        s = sigma**2 + theta**2 / k
        chosen = prior_scale(k, n, theta, sigma)
        assert chosen.j == 1 + np.flatnonzero(grid >= s)[-1]
        assert float(chosen.sigma) == pytest.approx(math.sqrt(grid[int(chosen.j) - 1]), rel=1e-13)


def test_a_theta_of_the_second_case_is_beyond_the_grid() -> None:
    k, n, sigma = 50, 100, 0.1
    longest = sigma * math.sqrt(k) * math.exp(2 * n / k)
    assert prior_scale(k, n, 0.999 * longest, sigma).j >= 1
    beyond = prior_scale(k, n, 1.1 * longest, sigma)
    assert beyond.j < 1
    assert beyond.price == math.inf


def test_nothing_overflows() -> None:
    for k, n, sigma in ((CONV4, 38_400, 0.05), (1, 10_000_000, 1e-4), (CONV4, 10_000_000_000, 1e-4)):
        chosen = prior_scale(k, n, 18.6, sigma)
        assert all(np.isfinite(part) for part in chosen)
        assert chosen.j >= 1


@pytest.mark.parametrize("ratio", [0.0, 1e-9, 1e-3, 1.0, 37.0])
def test_log1p_square_where_it_is_easy(ratio: float) -> None:
    assert float(log1p_square(ratio)) == pytest.approx(math.log1p(ratio**2), rel=1e-14, abs=0)  # exp of up to -41


def test_log1p_square_where_the_square_overflows() -> None:
    assert float(log1p_square(1e200)) == pytest.approx(400 * math.log(10), rel=1e-15)


def test_expected_length_by_the_gamma_function_and_its_series() -> None:
    for k in range(1, 12):
        expected = 0.3 * math.sqrt(2) * math.gamma((k + 1) / 2) / math.gamma(k / 2)
        assert float(expected_length(k, 0.3)) == pytest.approx(expected, rel=1e-14)
    series = math.sqrt(CONV4) * (1 - 1 / (4 * CONV4) + 1 / (32 * CONV4**2))  # the next term is below 1e-16
    assert float(expected_length(CONV4, 1.0)) == pytest.approx(series, rel=1e-13)


def test_expected_length_is_the_mean_length() -> None:
    lengths = 0.05 * torch.randn(20_000, 100, generator=seeded(0), dtype=torch.float64).norm(dim=1)
    error = float(lengths.std()) / math.sqrt(len(lengths))
    assert abs(float(lengths.mean()) - float(expected_length(100, 0.05))) < 4 * error
    assert error < 1e-3 * float(lengths.mean())


def test_the_tail_is_the_chi_squares() -> None:
    k = np.array([[1], [10], [CONV4]])
    radius = 0.2 * np.sqrt(k) * np.linspace(0.5, 1.5, 11)
    np.testing.assert_allclose(tail(k, 0.2, radius), stats.chi2.sf((radius / 0.2) ** 2, k), rtol=1e-10, atol=1e-300)
    drawn = 0.2 * torch.randn(100_000, 10, generator=seeded(3), dtype=torch.float64).norm(dim=1)
    outside = float((drawn > 0.7).double().mean())
    assert outside == pytest.approx(float(tail(10, 0.2, 0.7)), abs=4 * math.sqrt(0.25 / 100_000))


@given(st.floats(1, 1e6), st.floats(0, 50))
def test_laurent_and_massart(k: float, t: float) -> None:
    assert float(tail(k, 1.0, laurent_massart_radius(k, 1.0, t))) <= math.exp(-t)


@given(st.floats(1, 1e6), st.floats(1, 1e9), st.floats(1e-6, 1e3))
def test_the_ball_holds_all_but_its_share(k: float, n: float, sigma: float) -> None:
    radius = float(ball_radius(k, n, sigma))
    assert radius == pytest.approx(sigma * math.sqrt(k) * (1 + math.sqrt(math.log(n) / k)), rel=1e-14)
    assert radius >= float(laurent_massart_radius(k, sigma, math.log(n) / 2)) * (1 - 1e-15)
    assert float(tail(k, sigma, radius)) <= n**-0.5
    assert float(ball_sigma(k, n, radius)) == pytest.approx(sigma, rel=1e-15)


GOOD = {
    "n_params": 5,
    "n_units": 10,
    "norm": 1.0,
    "sigma": 0.1,
    "prior_sigma": 0.2,
    "radius": 1.0,
    "t": 1.0,
    "alpha": 1,
}
BAD = {
    "n_params": (0, -3, math.nan, math.inf, [5, 0.5], "many", []),
    "n_units": (0, 0.9, math.nan),
    "norm": (-1e-9, math.inf, [0.0, -1.0]),
    "sigma": (0, -0.1, math.nan),
    "prior_sigma": (0, math.inf),
    "radius": (-1.0, math.nan),
    "t": (-0.5, math.inf),
    "alpha": (0.0, -0.05, math.nan),
}
ARGUMENTS = {
    kl_isotropic: ("n_params", "norm", "sigma", "prior_sigma"),
    prior_scale: ("n_params", "n_units", "norm", "sigma"),
    expected_length: ("n_params", "sigma"),
    tail: ("n_params", "sigma", "radius"),
    laurent_massart_radius: ("n_params", "sigma", "t"),
    ball_radius: ("n_params", "n_units", "sigma"),
    ball_sigma: ("n_params", "n_units", "alpha"),
}


@pytest.mark.parametrize("function", ARGUMENTS, ids=lambda function: function.__name__)
def test_bad_input_is_named(function) -> None:
    names = ARGUMENTS[function]
    assert np.all(np.isfinite(function(*(GOOD[name] for name in names))))
    for name in names:
        for value in BAD[name]:
            with pytest.raises(UserError, match=f"^{name}="):
                function(*((GOOD | {name: value})[argument] for argument in names))
