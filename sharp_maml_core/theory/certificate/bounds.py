r"""PAC-Bayes bounds on the error over new tasks, with relative-entropy inversion. Every step is proved here.

f(theta, task) in [0, 1] is the error of the learner on a task's queries after it adapted to the task's support: the
0-1 loss, not the cross-entropy that training descends. A posterior Q over meta-parameters stands for the randomised
learner that draws theta from Q anew for each task; a point mass is an ordinary learner. Between two probabilities,

    kl(q || p) = q ln(q / p) + (1 - q) ln((1 - q) / (1 - p)),

which is convex in (q, p) together, and for p >= q grows with p.

Lemma A (moment; Maurer 2004). X_1, ..., X_n in [0, 1] are independent with mean p each, Xbar is their average. Then
E exp(n kl(Xbar || p)) <= xi(n) = sum_k C(n, k) (k/n)^k (1 - k/n)^(n-k).
Proof. Given X draw B_i ~ Bernoulli(X_i) independently. E[B | X] = X, so by Jensen, for the convex function
g(x) = exp(n kl(mean x || p)): g(X) = g(E[B | X]) <= E[g(B) | X]. The B_i are independent Bernoulli(p). Their sum is
k with probability C(n, k) p^k (1-p)^(n-k), and exp(n kl(k/n || p)) = (k/n)^k (1-k/n)^(n-k) / (p^k (1-p)^(n-k)).

Lemma B (change of measure; Donsker and Varadhan). E_Q h <= KL(Q || P) + ln E_P exp(h).
Proof. With dP_h = exp(h) dP / E_P exp(h):  0 <= KL(Q || P_h) = KL(Q || P) - E_Q h + ln E_P exp(h).

Theorem T (tasks as units: `new_tasks`). M tasks are drawn independently; the prior P does not depend on them. With
probability at least 1 - delta, for all Q at once, whatever they were chosen by,
kl(E_Q fhat || E_Q f) <= (KL(Q || P) + ln(xi(M) / delta)) / M; fhat is the average over the M tasks, f the expectation.
Proof. Let h(theta) = M kl(fhat(theta) || f(theta)). By Lemma A, with the expectations exchanged as P is fixed,
E E_P exp(h) <= xi(M), so by Markov E_P exp(h) <= xi(M) / delta with probability at least 1 - delta. Then
M kl(E_Q fhat || E_Q f) <= E_Q h <= KL(Q || P) + ln(xi(M) / delta), by convexity and by Lemma B.

Theorem C (classes as units: `new_classes`). A pool of N (M + M') classes is dealt at random into a seen part S of N M
classes and an unseen part R; P does not depend on the deal. u(theta) and r(theta) are the expected errors over all
tasks of N distinct classes of S, and of R. With probability at least 1 - delta over the deal, for all Q at once,
D(E_Q u, E_Q r) <= KL(Q || P) + ln(xi(M, M') / delta), where D(u, r) = M kl(u || v) + M' kl(r || v) with
v = (M u + M' r) / (M + M'), and xi(M, M') = max_K sum_k C(M, k) C(M', K - k) / C(M + M', K) exp(D(k/M, (K - k)/M')).
Nothing is assumed of the classes: the chance is the dealer's.
Proof. Deal in two steps: cut the shuffled pool into M + M' blocks of N, then choose which M blocks are seen. Let X_i
be the error on block i, expected over all else that is drawn, and uhat, rhat the averages over seen and unseen blocks.
Given the blocks draw B_i ~ Bernoulli(X_i) independently of each other and of the choice. D is convex in (u, r), as kl
is and v is linear, so by Jensen E exp(D(uhat, rhat)) is at most the same of the averages of B; given that K of the B_i
are 1, the number of those that are seen is hypergeometric, and the expectation is at most xi(M, M'). Given which
classes are in S, the means of uhat and rhat over the blocks are u and r: by Jensen E exp(D(u, r)) <= xi(M, M'). The
rest is Theorem T's. (Transductive PAC-Bayes: Begin et al. 2014, with another D.)

Theorem D (draws: `draws`). X_1, ..., X_n in [0, 1] are independent, with means whose average is p (which may differ).
With probability at least 1 - delta, p <= sup {p : kl(Xbar || p) <= ln(1 / delta) / n}.
Proof. For t > 0, E exp(-t X_i) <= 1 - p_i + p_i exp(-t) as exp is convex, and the product over i is at most
(1 - p + p exp(-t))^n as ln is concave. So, for q <= p, P(Xbar <= q) <= inf_t exp(n (t q + ln(1 - p + p exp(-t)))),
which is exp(-n kl(q || p)). If the claim fails then Xbar is below the q < p with kl(q || p) = ln(1 / delta) / n (where
there is none, kl(0 || p) is below that and the claim does not fail).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...checks import ABOVE_ZERO, PROBABILITY, Allowed, at_least, check_whole
from .._numbers import Array, numbers

ANY = Allowed("any number", lambda value: True)
ERROR = Allowed("between 0 and 1", lambda value: 0 <= value <= 1)
_LARGEST = np.finfo(np.float64).max
_SERIES_BELOW, _SERIES_TERMS = 0.05, 12  # there the rest of ln's series is below rounding; above, nothing cancels badly


def kl(q: ArrayLike, p: ArrayLike) -> Array:
    """The relative entropy of two probabilities, in nats; infinite where p is 0 or 1 and q is not. Broadcasts.

    Near p = q, where the definition's two terms cancel, it is as exact as elsewhere. Raises UserError outside [0, 1].
    """
    return _kl(*np.broadcast_arrays(numbers("q", q, ERROR), numbers("p", p, ERROR)))


def kl_inverse(q: ArrayLike, budget: ArrayLike) -> Array:
    """The largest p with kl(q || p) <= budget, to the rounding of float64. Broadcasts.

    kl(q || p) is convex in p, so Newton's method from above stays above. It starts at the lesser of q + sqrt(budget/2)
    (Pinsker) and 1 - exp(-(budget + H(q)) / (1 - q)) (kl without its terms in ln p, H the entropy), and ends where
    rounding ends it. kl_inverse(0, c) = 1 - exp(-c), kl_inverse(1, c) = 1, kl_inverse(q, 0) = q.

    q  in [0, 1]; budget  at least 0, in nats. Raises UserError outside.
    """
    q, budget = np.broadcast_arrays(numbers("q", q, ERROR), numbers("budget", budget, at_least(0)))
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = _surprise(q) + _surprise(1 - q)
        p = np.where(q < 1, np.fmin(q + np.sqrt(budget / 2), -np.expm1(-(budget + entropy) / (1 - q))), 1.0)
        p = np.maximum(p, q)  # by rounding it may be below
        while True:
            step = (_kl(q, p) - budget) * p * (1 - p) / (p - q)
            lower = np.where((q < p) & (p < 1) & (step > 0), np.maximum(p - step, q), p)
            if np.all(lower == p):
                return p
            p = lower


def log_moment(n: int) -> float:
    """The logarithm of Lemma A's xi(n), as it is defined. At most the usual ln(2 sqrt(n)), by Maurer's Theorem 1."""
    check_whole("n", n, at_least(1))
    k = np.arange(n + 1)
    return float(np.logaddexp.reduce(_log_choose(n, k) - n * (_surprise(k / n) + _surprise(1 - k / n))))


def new_tasks(empirical: ArrayLike, divergence: ArrayLike, n_tasks: int, delta: ArrayLike) -> Array:
    """Theorem T: what E_Q f, the expected error on a new task of the same distribution, is at most.

    empirical   E_Q fhat, or an upper bound on it: the mean error on the M tasks, in [0, 1]
    divergence  KL(Q || P), in nats
    n_tasks     M, how many tasks were drawn; delta  the probability with which the bound may fail

    Broadcasts. Raises UserError for an error outside [0, 1], a negative divergence, M < 1 or delta outside (0, 1).
    """
    price = numbers("divergence", divergence, at_least(0)) - np.log(numbers("delta", delta, PROBABILITY))
    return kl_inverse(numbers("empirical", empirical, ERROR), (price + log_moment(n_tasks)) / n_tasks)


def new_classes(seen: ArrayLike, divergence: ArrayLike, n_seen: int, n_unseen: int, delta: ArrayLike) -> Array:
    """Theorem C: what E_Q r, the expected error on tasks of the unseen classes, is at most.

    seen      E_Q u, or an upper bound on it: the expected error over all tasks of the seen classes, in [0, 1]
    n_seen    M, the seen classes over n_way; n_unseen  M', the unseen ones over n_way

    An upper bound on u serves, because the largest r grows with u: v minimises D, so dD/du = M ln(odds(u) / odds(v)) is
    negative and dD/dr = M' ln(odds(r) / odds(v)) positive for u < v < r.

    Broadcasts. Raises UserError as `new_tasks` does, and for M' < 1.
    """
    price = numbers("divergence", divergence, at_least(0)) - np.log(numbers("delta", delta, PROBABILITY))
    u, budget = np.broadcast_arrays(numbers("seen", seen, ERROR), price + _log_dealt_moment(n_seen, n_unseen))
    low, high = u.copy(), np.ones_like(u)
    while True:
        middle = (low + high) / 2
        if not np.any((low < middle) & (middle < high)):
            return high
        inside = _deviation(u, middle, n_seen, n_unseen) <= budget
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)


def draws(mean: ArrayLike, n_draws: ArrayLike, delta: ArrayLike) -> Array:
    """Theorem D: what the expectation of independent draws in [0, 1] is at most, given their mean. Broadcasts.

    It serves where E_Q fhat cannot be computed: draw theta from Q anew for each task. Raises UserError for a mean
    outside [0, 1], fewer than 1 draw, or delta outside (0, 1).
    """
    n = numbers("n_draws", n_draws, at_least(1))
    return kl_inverse(numbers("mean", mean, ERROR), -np.log(numbers("delta", delta, PROBABILITY)) / n)


def gaussian_divergence(mean: ArrayLike, std: ArrayLike) -> float:
    """KL(N(mean, diag(std^2)) || N(0, I)) = sum (mean^2 + std^2 - 1 - 2 ln std) / 2, in nats.

    mean [d]; std [d], above 0. Raises UserError for a std that is not, or a number that is not finite.
    """
    m, s = numbers("mean", mean, ANY), numbers("std", std, ABOVE_ZERO)
    return float(np.sum(m**2 + s**2 - 1 - 2 * np.log(s)) / 2)


@lru_cache
def _log_dealt_moment(n_seen: int, n_unseen: int) -> float:
    """The logarithm of xi(M, M')."""
    for name, value in {"n_seen": n_seen, "n_unseen": n_unseen}.items():
        check_whole(name, value, at_least(1))
    ones, seen = np.ogrid[: n_seen + n_unseen + 1, : n_seen + 1]  # K, k
    unseen = ones - seen
    possible = (unseen >= 0) & (unseen <= n_unseen)
    unseen = np.where(possible, unseen, 0)
    chance = _log_choose(n_seen, seen) + _log_choose(n_unseen, unseen) - _log_choose(n_seen + n_unseen, ones)
    exponent = chance + _deviation(seen / n_seen, unseen / n_unseen, n_seen, n_unseen)
    return float(np.logaddexp.reduce(np.where(possible, exponent, -np.inf), axis=1).max())


def _deviation(u: Array, r: Array, n_seen: int, n_unseen: int) -> Array:
    """D(u, r) of Theorem C."""
    v = (n_seen * u + n_unseen * r) / (n_seen + n_unseen)
    return n_seen * _kl(u, v) + n_unseen * _kl(r, v)


def _log_choose(n: int, k: NDArray[np.int64]) -> Array:
    log_factorial = np.array([math.lgamma(i + 1) for i in range(n + 1)])
    return log_factorial[n] - log_factorial[k] - log_factorial[n - k]


def _kl(q: Array, p: Array) -> Array:
    """As q h(p/q - 1) + (1-q) h((1-p)/(1-q) - 1) with h(x) = x - ln(1 + x): the linear parts of the logarithms cancel.

    So it is exact near p = q, where the two terms of the definition cancel.
    """
    return _part(q, p, p - q) + _part(1 - q, 1 - p, q - p)


def _part(q: Array, p: Array, d: Array) -> Array:
    """Q h(d / q), where p = q + d; its limit d where q is 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        x, ratio = np.where(q > 0, d / q, 0.0), np.fmin(p / q, _LARGEST)  # q is subnormal where that overflows
        near = np.clip(x, -_SERIES_BELOW, _SERIES_BELOW)
        series = sum((-near) ** k / k for k in range(_SERIES_TERMS + 1, 1, -1))
        return np.where(np.abs(x) < _SERIES_BELOW, q * series, d - q * np.log(ratio)) + np.where(q > 0, 0.0, d)


def _surprise(q: Array) -> Array:
    return -q * np.log(np.where(q > 0, q, 1.0))
