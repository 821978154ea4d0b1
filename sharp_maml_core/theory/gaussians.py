r"""Isotropic Gaussians in k dimensions, as the proof of Theorem 3 uses them (Appendix D).

The posterior is Q = N(theta, sigma^2 I) and the prior P = N(0, sigma_P^2 I):

    KL(Q || P) = 1/2 [ (k sigma^2 + ||theta||^2) / sigma_P^2 - k + k ln(sigma_P^2 / sigma^2) ]

is least at sigma_P^2 = s with s = sigma^2 + ||theta||^2 / k. A prior may not look at the data, and theta does. So the
proof takes a grid, sigma_P^2 = c exp((1 - j) / k) for j = 1, 2, ..., gives its j-th point the share 6 / (pi^2 j^2) of
delta, and afterwards chooses the smallest point that is at least s.

Every function broadcasts over arrays, computes in float64 and, where exponentials would overflow, in logarithms.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaincc, poch

from ..checks import ABOVE_ZERO, at_least
from ._numbers import Array, numbers


class PriorScale(NamedTuple):
    """The point of the grid that the proof chooses for a theta.

    j      the index. Below 1 theta is too long for the grid: that is the proof's second case, where the bound exceeds 1
    sigma  sigma_P, the prior's standard deviation
    kl     KL(Q || P) with it
    price  ln(pi^2 j^2 / 6), what the union bound adds to ln(1 / delta); infinite for j below 1
    """

    j: Array
    sigma: Array
    kl: Array
    price: Array


def kl_isotropic(n_params: ArrayLike, norm: ArrayLike, sigma: ArrayLike, prior_sigma: ArrayLike) -> Array:
    """KL(N(theta, sigma^2 I) || N(0, prior_sigma^2 I)) in nats.

    n_params  k; norm  ||theta||; sigma, prior_sigma  standard deviations, in the units of the parameters.
    Raises UserError for k < 1, a negative norm, or a standard deviation that is not above 0.
    """
    k = numbers("n_params", n_params, at_least(1))
    theta = numbers("norm", norm, at_least(0))
    log_sigma = np.log(numbers("sigma", sigma, ABOVE_ZERO))
    prior = numbers("prior_sigma", prior_sigma, ABOVE_ZERO)
    log_ratio = 2 * (log_sigma - np.log(prior))
    return 0.5 * (k * (np.expm1(log_ratio) - log_ratio) + (theta / prior) ** 2)


def prior_scale(n_params: ArrayLike, n_units: ArrayLike, norm: ArrayLike, sigma: ArrayLike) -> PriorScale:
    r"""The choice of the proof: j = floor(1 - k ln(s / c)) with c = sigma^2 (1 + exp(4n / k)).

    It gives s <= sigma_P^2 <= exp(1/k) s, and so

        KL(Q || P) <= 1/2 [k ln(1 + ||theta||^2 / (k sigma^2)) + 1/(2k)].

    Proof of the second: with u = ln(sigma_P^2 / s) in [0, 1/k], twice the divergence is
    k ln(s / sigma^2) + k (exp(-u) - 1 + u), and exp(-u) - 1 + u <= u^2 / 2. (The paper has 1 in the place of 1/(2k).)

    n_units  n, which fixes the grid's largest scale. Raises UserError as `kl_isotropic` does, and for n < 1.
    """
    k = numbers("n_params", n_params, at_least(1))
    n = numbers("n_units", n_units, at_least(1))
    theta = numbers("norm", norm, at_least(0))
    sigma = numbers("sigma", sigma, ABOVE_ZERO)
    # c and s in units of sigma^2
    log_c = np.logaddexp(0, 4 * n / k)
    log_s = log1p_square(theta / (np.sqrt(k) * sigma))
    j = np.floor(1 + k * (log_c - log_s))
    prior_sigma = sigma * np.exp((log_c + (1 - j) / k) / 2)
    price = np.where(j < 1, np.inf, np.log(np.pi**2 * np.maximum(j, 1) ** 2 / 6))
    return PriorScale(j, prior_sigma, kl_isotropic(k, theta, sigma, prior_sigma), price)


def log1p_square(ratio: ArrayLike) -> Array:
    """ln(1 + ratio^2) for ratio >= 0, where the square may overflow or vanish beside 1."""
    with np.errstate(divide="ignore"):  # the logarithm of 0 is -inf, and exp(-inf) is the right 0
        return np.logaddexp(0, 2 * np.log(np.asarray(ratio, dtype=np.float64)))


def expected_length(n_params: ArrayLike, sigma: ArrayLike) -> Array:
    """E||eps|| for eps ~ N(0, sigma^2 I): sigma sqrt(2) Gamma((k + 1) / 2) / Gamma(k / 2), about sigma sqrt(k).

    Raises UserError for k < 1 or sigma <= 0.
    """
    k = numbers("n_params", n_params, at_least(1))
    return numbers("sigma", sigma, ABOVE_ZERO) * np.sqrt(2) * poch(k / 2, 0.5)


def tail(n_params: ArrayLike, sigma: ArrayLike, radius: ArrayLike) -> Array:
    """P(||eps|| > radius) for eps ~ N(0, sigma^2 I), exactly: ||eps||^2 / sigma^2 is chi-square with k degrees.

    Raises UserError for k < 1, sigma <= 0 or a negative radius.
    """
    k = numbers("n_params", n_params, at_least(1))
    ratio = numbers("radius", radius, at_least(0)) / numbers("sigma", sigma, ABOVE_ZERO)
    return gammaincc(k / 2, ratio**2 / 2)


def laurent_massart_radius(n_params: ArrayLike, sigma: ArrayLike, t: ArrayLike) -> Array:
    """A radius that ||eps|| exceeds with probability at most exp(-t): sigma sqrt(k + 2 sqrt(k t) + 2 t).

    Source: Laurent and Massart 2000, Lemma 1, as Appendix D quotes it. Raises UserError for k < 1, sigma <= 0, t < 0.
    """
    k = numbers("n_params", n_params, at_least(1))
    t = numbers("t", t, at_least(0))
    return numbers("sigma", sigma, ABOVE_ZERO) * np.sqrt(k + 2 * np.sqrt(k * t) + 2 * t)


def ball_radius(n_params: ArrayLike, n_units: ArrayLike, sigma: ArrayLike) -> Array:
    """The theorem's alpha for a posterior's sigma: sigma sqrt(k) (1 + sqrt(ln(n) / k)) = sigma (sqrt(k) + sqrt(ln n)).

    ||eps|| exceeds it with probability at most 1 / sqrt(n), by Laurent and Massart with t = ln(n) / 2.
    Raises UserError for k < 1, n < 1 or sigma <= 0.
    """
    return numbers("sigma", sigma, ABOVE_ZERO) * _radius_in_sigmas(n_params, n_units)


def ball_sigma(n_params: ArrayLike, n_units: ArrayLike, alpha: ArrayLike) -> Array:
    """The posterior's sigma for the theorem's alpha: the inverse of `ball_radius`.

    Raises UserError for k < 1, n < 1 or alpha <= 0.
    """
    return numbers("alpha", alpha, ABOVE_ZERO) / _radius_in_sigmas(n_params, n_units)


def _radius_in_sigmas(n_params: ArrayLike, n_units: ArrayLike) -> Array:
    k = numbers("n_params", n_params, at_least(1))
    return np.sqrt(k) + np.sqrt(np.log(numbers("n_units", n_units, at_least(1))))
