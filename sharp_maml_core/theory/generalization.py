r"""Theorems 2 and 3: what bounds the loss on unseen tasks, term by term, and where that is below 1.

Eq. 18, with k parameters, M tasks of n samples and F(theta; D) the mean loss after adaptation:

    F(theta; P) <= max_{||eps|| <= alpha} F(theta + eps; D) + gamma_A + sqrt(B / (4nM)),
    B = k ln(1 + ||theta||^2 / alpha^2 (1 + sqrt(ln(nM) / k))^2) + 2 ln(1 / delta) + 5 ln(nM).

`theorem2` and `theorem3` are the paper's two forms. `repaired` is what its proof gives once every step is right. All
broadcast over arrays and compute in float64. A loss is at most 1, so a right-hand side above 1 says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import ABOVE_ZERO, PROBABILITY, Allowed, at_least, check
from ._numbers import Array, numbers
from .gaussians import ball_sigma, log1p_square

UNIT = Allowed("between 0 and 1", lambda value: 0 <= value <= 1)
THEOREM_3_CONSTANT = 14.0  # its proof's last lines; the statement has O(1), and (18) nothing
_LOG_LIMIT = 700.0  # exp(700) is within float64's range
_HALVINGS = 64  # of an interval of 1400: float64 has nothing in between any more
_FALLS_FROM = 3  # samples: from e on every term falls with n


class Bound(NamedTuple):
    """A right-hand side, term by term, each an array.

    empirical   max_{||eps|| <= alpha} F(theta + eps; D), as given
    stability   gamma_A, as given
    tail        what lies outside of the ball, (1 - empirical) / sqrt(n); 0 in the paper's forms
    norm        in the root: k ln(1 + ||theta||^2 / (k sigma^2)) / (4n), sigma the posterior's for this alpha
    confidence  in the root: 2 ln(1 / delta) / (4n)
    logarithm   in the root: what grows like ln n, over 4n
    constant    in the root: what is left, over 4n
    """

    empirical: Array
    stability: Array
    tail: Array
    norm: Array
    confidence: Array
    logarithm: Array
    constant: Array

    @property
    def root(self) -> Array:
        return np.sqrt(self.norm + self.confidence + self.logarithm + self.constant)

    @property
    def excess(self) -> Array:
        """What the bound adds to the empirical loss and to gamma_A."""
        return self.tail + self.root

    @property
    def total(self) -> Array:
        return self.empirical + self.stability + self.excess


def theorem2(
    alpha: ArrayLike,
    n_params: ArrayLike,
    n_samples: ArrayLike,
    n_tasks: ArrayLike,
    delta: ArrayLike,
    norm: ArrayLike,
    empirical: ArrayLike = 0.0,
    stability: ArrayLike = 0.0,
) -> Bound:
    """The right-hand side of (18), as printed.

    alpha      radius of the ball, in the units of the parameters
    n_params   k; n_samples  n, of each task; n_tasks  M
    delta      the bound may fail with this probability
    norm       ||theta||
    empirical  max_{||eps|| <= alpha} F(theta + eps; D) in [0, 1]; stability  gamma_A

    Raises UserError, naming the argument, for alpha <= 0, k, n or M < 1, delta outside (0, 1), a negative norm or
    gamma_A, an empirical loss outside [0, 1], and anything that is not finite.
    """
    n = numbers("n_samples", n_samples, at_least(1)) * numbers("n_tasks", n_tasks, at_least(1))
    return _bound(alpha, n_params, n, delta, norm, empirical, stability, _Rest(5 * np.log(n), 0.0, 0.0))


def theorem3(
    alpha: ArrayLike,
    n_params: ArrayLike,
    n_samples: ArrayLike,
    n_tasks: ArrayLike,
    delta: ArrayLike,
    norm: ArrayLike,
    empirical: ArrayLike = 0.0,
    stability: ArrayLike = 0.0,
) -> Bound:
    """The right-hand side that Theorem 3's proof ends with: (18) and 14 in the root. Its n is nM here.

    Arguments and errors are those of `theorem2`.
    """
    n = numbers("n_samples", n_samples, at_least(1)) * numbers("n_tasks", n_tasks, at_least(1))
    rest = _Rest(5 * np.log(n), THEOREM_3_CONSTANT, 0.0)
    return _bound(alpha, n_params, n, delta, norm, empirical, stability, rest)


def repaired(
    alpha: ArrayLike,
    n_params: ArrayLike,
    n_tasks: ArrayLike,
    delta: ArrayLike,
    norm: ArrayLike,
    empirical: ArrayLike = 0.0,
    stability: ArrayLike = 0.0,
) -> Bound:
    r"""Theorem 2 as its proof supports it.

    Let the M tasks be drawn independently, each with its support set D_m and its query set D'_m, and let
    F(theta; m) = L(theta'_m(theta; D_m); D'_m) be in [0, 1], F(theta; D) its mean over the M tasks and F(theta; P) its
    expectation. For alpha > 0 let sigma = alpha / (sqrt(k) + sqrt(ln M)). With probability at least 1 - delta, for all
    theta at once with F(theta; P) <= E_{eps ~ N(0, sigma^2 I)} F(theta + eps; P):

        F(theta; P) <= (1 - 1/sqrt(M)) max_{||eps|| <= alpha} F(theta + eps; D) + 1/sqrt(M) + sqrt(B / (4M)),
        B = k ln(1 + ||theta||^2 / (k sigma^2)) + 1/(2k) + 2 ln(2 sqrt(M) / delta) + 2 ln(pi^2 J^2 / 6),
        J = 1 + k ln(1 + exp(4M / k)).

    Proof. Let s = sigma^2 + ||theta||^2 / k and c = sigma^2 (1 + exp(4M / k)). If s > c, then ||theta||^2 / (k sigma^2)
    exceeds exp(4M / k), hence B > 4M, and the claim is trivial. If s <= c, Lemma 6 with n = M independent losses
    F(theta; m) holds for the prior of every grid point at once (a union bound), and the point j that
    `gaussians.prior_scale` chooses has 2 KL <= k ln(1 + ||theta||^2 / (k sigma^2)) + 1/(2k) and
    j <= 1 + k ln(c / s) <= J. That bounds E_eps F(theta + eps; P), and so F(theta; P), by E_eps F(theta + eps; D) plus
    the root. Of the former, ||eps|| > alpha has probability p <= 1/sqrt(M) and a loss of at most 1, the rest at most
    the maximum: (1 - p) max + p, which grows with p.

    alpha      fixed before the data are seen. The best of A radii holds with delta / A for delta.
    stability  0 where query sets are fresh: F's own data are then an unbiased sample of it. For a loss on the data
               that the task adapted to it is gamma_A, which is added.

    Other arguments and the errors are those of `theorem2`.
    """
    m = numbers("n_tasks", n_tasks, at_least(1))
    k = numbers("n_params", n_params, at_least(1))
    largest_index = 1 + k * np.logaddexp(0, 4 * m / k)
    logarithm = np.log(m) + 4 * np.log(largest_index)
    constant = 1 / (2 * k) + 2 * math.log(2) + 2 * math.log(math.pi**2 / 6)
    return _bound(alpha, k, m, delta, norm, empirical, stability, _Rest(logarithm, constant, 1 / np.sqrt(m)))


class _Rest(NamedTuple):
    """What of a form does not depend on theta: two parts of B, and the share of draws outside of the ball."""

    logarithm: Array
    constant: Array | float
    outside: Array | float


def _bound(
    alpha: ArrayLike,
    n_params: ArrayLike,
    n: Array,
    delta: ArrayLike,
    norm: ArrayLike,
    empirical: ArrayLike,
    stability: ArrayLike,
    rest: _Rest,
) -> Bound:
    k = numbers("n_params", n_params, at_least(1))
    loss = numbers("empirical", empirical, UNIT)
    sigma = ball_sigma(k, n, alpha)
    of_norm = k * log1p_square(numbers("norm", norm, at_least(0)) / (np.sqrt(k) * sigma))
    confidence = -2 * np.log(numbers("delta", delta, PROBABILITY))
    inside = [part / (4 * n) for part in (of_norm, confidence, rest.logarithm, rest.constant)]
    gamma = numbers("stability", stability, at_least(0))
    return Bound(*np.broadcast_arrays(loss, gamma, (1 - loss) * rest.outside, *inside))


# ---- where it is below 1


def smallest_alpha(bound: Callable[[Array], Bound], level: float = 1.0) -> Array:
    """The radius from which on the bound's excess is at most `level`; it falls with alpha.

    bound  alpha -> Bound, for example `lambda alpha: theorem2(alpha, k, n, M, 0.05, norm)`; arrays in it broadcast.

    Infinite where no radius is large enough, 0 where any is (theta = 0). Raises UserError for level <= 0.
    """
    check("level", level, ABOVE_ZERO)
    return _first_alpha(bound, np.asarray(level, dtype=np.float64))


def smallest_size(bound: Callable[[Array], Bound], level: float = 1.0) -> Array:
    """The number of samples, or of tasks, from which on the bound's excess is at most `level`: whole, at least 3.

    bound  size -> Bound, for example `lambda n: theorem2(alpha, k, n, 1, 0.05, norm)`; arrays in it broadcast.

    From e on each form's B / n falls with n: with u = ||theta||^2 / (k sigma^2) the derivative of k ln(1 + u) by ln n
    is at most sqrt(k / ln n) u / (1 + u) <= k ln(1 + u), and the logarithms' is at most their own value.
    Raises UserError for level <= 0.
    """
    check("level", level, ABOVE_ZERO)
    crossing = _crossing(lambda n: bound(n).excess <= level, math.log(_FALLS_FROM), _LOG_LIMIT)
    return np.where(bound(np.array(float(_FALLS_FROM))).excess <= level, _FALLS_FROM, np.ceil(crossing))


def _first_alpha(bound: Callable[[Array], Bound], level: Array) -> Array:
    least, most = np.exp(-_LOG_LIMIT), np.exp(_LOG_LIMIT)
    crossing = _crossing(lambda alpha: bound(alpha).excess <= level, -_LOG_LIMIT, _LOG_LIMIT)
    crossing = np.where(bound(np.asarray(least)).excess <= level, 0.0, crossing)
    return np.where(bound(np.asarray(most)).excess <= level, crossing, np.inf)


def _crossing(is_low: Callable[[Array], NDArray[np.bool_]], low: float, high: float) -> Array:
    """Halve [low, high], the logarithm of x, between where `is_low(x)` is false and where it is true."""
    shape = np.shape(is_low(np.exp(np.asarray(low))))
    lower, upper = np.full(shape, low), np.full(shape, high)
    for _ in range(_HALVINGS):
        middle = (lower + upper) / 2
        hit = is_low(np.exp(middle))
        lower, upper = np.where(hit, lower, middle), np.where(hit, middle, upper)
    return np.exp(upper)


# ---- Appendix D.1


class LargerRadius(NamedTuple):
    """D.1's question: is there a radius above alpha0 at which the bound is smaller?

    root0     the root at alpha0
    paper     D.1's alpha_1 is any above this one, where the root is sqrt(root0^2 - 1)
    proved    from here on the bound is smaller whatever the losses in [0, 1] are: the root is root0 - 1
    Both are infinite where there is no such radius.
    """

    root0: Array
    paper: Array
    proved: Array


def larger_radius(bound: Callable[[Array], Bound], alpha0: ArrayLike) -> LargerRadius:
    """Radii that D.1 compares with alpha0.

    D.1 needs 1 + sqrt(x - 1) <= sqrt(x) with x = root0^2, which is false for every x > 1. The claim itself needs no
    such step: the empirical terms differ by at most 1, so any radius whose root is at most root0 - 1 serves, and there
    is one as soon as root0 exceeds 1 by more than the root's limit for alpha -> infinity.

    bound  alpha -> Bound of `theorem2` or `theorem3`. Raises UserError for alpha0 <= 0.
    """
    root0 = bound(numbers("alpha0", alpha0, ABOVE_ZERO)).root
    paper = _first_alpha(bound, np.sqrt(np.maximum(root0**2 - 1, 0)))
    return LargerRadius(root0, paper, _first_alpha(bound, np.maximum(root0 - 1, 0)))
