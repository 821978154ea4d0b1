r"""The right-hand sides of Appendix C, as printed and repaired, as numbers.

All follow from one inequality. If grad F is Lipschitz with L_F, outer_lr <= 1/L_F, and given theta_t an update h_t has
||E h_t - grad F(theta_t)|| <= bias and E ||h_t - E h_t||^2 <= variance, then

    1/T sum_t E ||grad F(theta_t)||^2  <=  2 (F(theta_1) - inf F) / (outer_lr T) + L_F outer_lr variance + bias^2.

Constants are `problems.Constants`; b is inner_lr.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from ..checks import ABOVE_ZERO, Allowed, at_least, check, one_of
from .problems import Constants, Problem

VARIANTS = ("maml", "low", "up", "both")


class Steps(NamedTuple):
    """Step sizes and radii: beta_up, beta_low, alpha_low, alpha_up."""

    outer_lr: float
    inner_lr: float
    alpha_low: float = 0.0
    alpha_up: float = 0.0

    def of(self, variant: str) -> Steps:
        """With the radii that the variant does not have set to 0. Raises UserError for an unknown variant."""
        check("variant", variant, one_of(*VARIANTS))
        low = self.alpha_low if variant in ("low", "both") else 0.0
        up = self.alpha_up if variant in ("up", "both") else 0.0
        return self._replace(alpha_low=low, alpha_up=up)


class Biases(NamedTuple):
    """Assumption 4: gamma_g bounds the bias of the gradient's estimator, gamma_h of the Hessian's (operator norm)."""

    gamma_g: float
    gamma_h: float


def checked(steps: Steps) -> Steps:
    """The steps. Raises UserError for a step size that is not above 0 or a radius below 0."""
    for name, value in steps._asdict().items():
        check(name, float(value), ABOVE_ZERO if name.endswith("lr") else at_least(0))
    return steps


def theorem_steps(horizon: int, at_one: Steps) -> Steps:
    """Theorem 1's: outer_lr, inner_lr and alpha_up shrink like 1/sqrt(T), alpha_low stays; `at_one` is T = 1.

    Raises UserError for a horizon below 1, and as `checked`.
    """
    check("horizon", horizon, at_least(1))
    shrunk = {name: getattr(at_one, name) / math.sqrt(horizon) for name in ("outer_lr", "inner_lr", "alpha_up")}
    return checked(at_one._replace(**shrunk))


def lemma5_biases(constants: Constants, steps: Steps) -> Biases:
    """Lemma 5: gamma_g = l1 (alpha_up + alpha_low) + alpha_up / b, gamma_h = l2 (alpha_up + alpha_low)."""
    reach = steps.alpha_up + steps.alpha_low
    return Biases(constants.l1 * reach + steps.alpha_up / steps.inner_lr, constants.l2 * reach)


def lemma3(constants: Constants, inner_lr: float, biases: Biases, sigma_b: float) -> float:
    """The right-hand side of Eq. 31, a bound on E ||grad F - h_bar||^2 where xi and psi are independent."""
    _check_terms(inner_lr, biases, sigma_b)
    (l0, l1, *_), b, (gamma_g, gamma_h) = constants, inner_lr, biases
    spread = gamma_g**2 + sigma_b**2
    return 4 * l1**2 * b**2 * spread + 4 * b**2 * (
        l0**2 * gamma_h**2 + 4 * (gamma_h**2 + l1**2) * l1**2 * b**2 * spread
    )


def lemma3_sharper(constants: Constants, inner_lr: float, biases: Biases, sigma_b: float) -> float:
    """((1 + b (l1 + gamma_h)) l1 b sqrt(gamma_g^2 + sigma_b^2) + b gamma_h l0)^2, never above 3/4 of Eq. 31.

    Minkowski's inequality for (I - b H_hat)(grad q(theta') - grad q(theta_hat)) - b (H - H_hat) grad q(theta'), and
    E ||theta' - theta_hat||^2 = b^2 (gamma_g^2 + sigma_b^2) at most, without the paper's factor 2.
    """
    _check_terms(inner_lr, biases, sigma_b)
    (l0, l1, *_), b, (gamma_g, gamma_h) = constants, inner_lr, biases
    moved = l1 * b * math.hypot(gamma_g, sigma_b)
    return ((1 + b * (l1 + gamma_h)) * moved + b * gamma_h * l0) ** 2


def variance_printed(constants: Constants, inner_lr: float, biases: Biases, sigma_b: float) -> float:
    """sigma~^2 of Eq. 34 as printed, with 4 l1^2 sigma^2 for the variance of the query gradient."""
    return _variance(constants, inner_lr, biases, sigma_b, constants.l1**2)


def variance_repaired(constants: Constants, inner_lr: float, biases: Biases, sigma_b: float) -> float:
    """Eq. 34 with 4 sigma^2 in place of 4 l1^2 sigma^2."""
    return _variance(constants, inner_lr, biases, sigma_b, 1.0)


def _variance(constants: Constants, b: float, biases: Biases, sigma_b: float, factor: float) -> float:
    _check_terms(b, biases, sigma_b)
    l0, l1, _, sigma, *_ = constants
    query = 4 * factor * sigma**2 + 16 * (biases.gamma_h**2 + l1**2) * b**2 * sigma**2
    return query + 16 * b**2 * sigma_b**2 * (sigma**2 + l0**2)


def _check_terms(inner_lr: float, biases: Biases, sigma_b: float) -> None:
    for name, value in (biases._asdict() | {"inner_lr": inner_lr, "sigma_b": sigma_b}).items():
        check(name, float(value), at_least(0))


def descent(problem: Problem, start: float, horizon: int, steps: Steps, variance: float, squared_bias: float) -> float:
    """2 start / (outer_lr T) + L_F outer_lr variance + bias^2; start is F(theta_1) - inf F, or F(theta_1) where F >= 0.

    Raises UserError where outer_lr is above 1/L_F, and the inequality is not proved; for a horizon below 1, steps out
    of range, and a start that is not finite.
    """
    check("horizon", horizon, at_least(1))
    check("start", float(start), Allowed("a number", math.isfinite))
    smoothness = problem.smoothness(steps.inner_lr)
    small = Allowed(f"at most 1/L_F = {1 / smoothness:.4g}", lambda value: value * smoothness <= 1)
    check("outer_lr", checked(steps).outer_lr, small)
    return 2 * start / (steps.outer_lr * horizon) + smoothness * steps.outer_lr * variance + squared_bias


def eq35_printed(problem: Problem, start: float, horizon: int, steps: Steps) -> float:
    """The right-hand side of Eq. 35 as printed, with Lemma 5's gamma_g and gamma_h and sigma_b = sigma."""
    return _eq35(problem, start, horizon, steps, variance_printed)


def eq35_repaired(problem: Problem, start: float, horizon: int, steps: Steps) -> float:
    """Eq. 35 with 4 sigma^2 in Eq. 34. It holds where all batches are independent."""
    return _eq35(problem, start, horizon, steps, variance_repaired)


def _eq35(problem: Problem, start: float, horizon: int, steps: Steps, variance: Callable[..., float]) -> float:
    constants, biases = problem.constants, lemma5_biases(problem.constants, checked(steps))
    arguments = (constants, steps.inner_lr, biases, constants.sigma)
    return descent(problem, start, horizon, steps, variance(*arguments), lemma3(*arguments))


def one_batch(problem: Problem, start: float, horizon: int, steps: Steps) -> float:
    """Theorem 1 repaired: a bound for Algorithm 1 as it is, one batch for eps, eps_m, xi, psi and xi'.

    It needs what the paper does not assume, Lipschitz samples: sample_l1 for their gradients, sample_l2 for the support
    samples' Hessians. With outer_lr, inner_lr and alpha_up of order 1/sqrt(T) it is O(1/sqrt(T)).
    """
    variance = one_batch_deviation(problem.constants, steps, problem.n_tasks) ** 2
    return descent(problem, start, horizon, steps, variance, one_batch_bias(problem.constants, steps) ** 2)


def one_batch_bias(constants: Constants, steps: Steps) -> float:
    r"""||E h - grad F|| <= D + (1 + b l1) l1 b sigma + b^2 l1 sigma^2, one batch for everything.

    The update is within D of MAML's from the same batch (`_moved`). MAML's has E h = E (I - b H_xi) q(theta_hat), where
    E (I - b H)(q(theta_hat) - q(theta')) is the second term and the covariance of H_xi and q(theta_hat) the third.
    """
    _, l1, _, sigma, *_ = constants
    b = steps.inner_lr
    return _moved(constants, steps) + (1 + b * l1) * l1 * b * sigma + b**2 * l1 * sigma**2


def one_batch_deviation(constants: Constants, steps: Steps, n_tasks: int) -> float:
    """sqrt(E ||h - E h||^2) <= D + (b sigma G + (1 + b l1) sigma sqrt(1 + b^2 l1^2)) / sqrt(M), G^2 = l0^2 + sigma^2.

    What D is the distance to, MAML's update, is a mean over tasks with independent samples.
    """
    l0, l1, _, sigma, *_ = constants
    check("n_tasks", n_tasks, at_least(1))
    b = steps.inner_lr
    one_task = b * sigma * math.hypot(l0, sigma) + (1 + b * l1) * sigma * math.hypot(1, b * l1)
    return _moved(constants, steps) + one_task / math.sqrt(n_tasks)


def _moved(constants: Constants, steps: Steps) -> float:
    """D = (1 + b sample_l1) sample_l1 (alpha_up + b sample_l1 r) + b sample_l2 r G, r = alpha_up + alpha_low.

    How far, in mean square, the perturbations move the update of one batch: theta_hat by alpha_up + b sample_l1 r, the
    Hessian by sample_l2 r, and E ||grad L(theta_hat; D', xi')||^2 <= G^2 for MAML's theta_hat.
    """
    l0, _, _, sigma, sample_l1, sample_l2 = constants
    b, reach = checked(steps).inner_lr, steps.alpha_up + steps.alpha_low
    by_adapted = (1 + b * sample_l1) * sample_l1 * (steps.alpha_up + b * sample_l1 * reach)
    return by_adapted + b * sample_l2 * reach * math.hypot(l0, sigma)
