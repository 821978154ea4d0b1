r"""Appendix C's chain for biased MAML: the meta-gradient, ALSET, Lemmas 2 to 4, Eq. 35.

Expectations are finite sums, every sample being enumerated (`problems.Noise`), unless a docstring says otherwise.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..alset import alset_step, hypergradient, maml_as_bilevel, maml_lower_lr
from ..biased_maml import independent_update, same, sharp_gradient
from ..convergence import descend, learner_update
from ..convergence_bounds import (
    Biases,
    Steps,
    eq35_printed,
    eq35_repaired,
    variance_printed,
    variance_repaired,
)
from ..lemma3 import evaluate_lemma3, lemma3_draws
from ..problems import Noise, Problem, random_problem
from . import Figures

_THETA = torch.tensor([0.7, -0.3], dtype=torch.float64)


def meta_gradient() -> Figures:
    """Eq. 29-30, MAML as a bilevel problem and its gradient. Verdict: holds; the matrices above it lack three 1/M.

    f and g are means over M tasks, so grad f, grad_phi_theta g and grad_phi_phi g each have a factor 1/M. Put into
    -grad_theta_phi g (grad_phi_phi g)^-1 grad f as printed, without them, they give M grad F.

    identity_error  Eq. 30's second line, and the hypergradient with the right factors, against grad F by autograd
    printed_factor  what the printed matrices give, as a multiple of grad F; M = 3
    """
    problem, b = _three_tasks(), 0.3
    exact = torch.func.grad(lambda theta: problem.objective(theta, b))(_THETA)
    adapted = _THETA - b * problem.gradient(problem.support, _THETA[None])
    by_alset = hypergradient(maml_as_bilevel(problem, b), _THETA, adapted)
    by_formula = problem.objective_gradient(_THETA, b)
    identity = torch.eye(2, dtype=torch.float64)
    cross = (problem.hessian(problem.support, _THETA[None]) - identity / b).reshape(6, 2)
    printed = -cross.T @ (b * problem.gradient(problem.query, adapted).flatten())
    return {
        "identity_error": float(torch.stack([by_alset - exact, by_formula - exact]).norm(dim=1).max()),
        "printed_factor": float(printed @ exact / exact.square().sum()),
    }


def alset() -> Figures:
    """Lemma 2, MAML's rate as a case of ALSET's. Verdict: holds, given inf F > -infinity (see `infimum`).

    One ALSET iteration with lower step M beta_low is one of MAML, from any lower variable. (It is Lemma 4 without
    biases, too, so that ALSET's own theorem, whose constants would have to be followed as g changes with T, is not
    needed.)

    largest_difference  of 10 stochastic iterates from the learner's MAML, the same samples, the lower variable far off
    """
    problem, b = _three_tasks(), 0.3
    steps = Steps(outer_lr=0.1, inner_lr=b)
    update = learner_update(problem, "maml", steps)
    draws, again = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    theta, phi, maml = _THETA, torch.full((3, 2), 10.0, dtype=torch.float64), _THETA[None]
    differences = []
    for _ in range(10):
        bilevel = maml_as_bilevel(problem, b, problem.sample((), draws))
        theta, phi = alset_step(bilevel, theta, phi, lower_lr=maml_lower_lr(problem, b), outer_lr=steps.outer_lr)
        maml = maml - steps.outer_lr * update(maml, again)
        differences.append(float((maml[0] - theta).norm()))
    return {"largest_difference": max(differences)}


def lemma3() -> Figures:
    """Lemma 3, Eq. 31. Verdict: holds where psi is independent of xi. A third smaller right side is proved as well.

    The largest and the median share of the right side that the left side is, over 200 random problems, points, steps
    and radii; and the largest of `convergence_bounds.lemma3_sharper`, of which it is at most 1.
    """
    draws = lemma3_draws(200, seed=0)
    shares = draws.independent / draws.printed
    return {
        "largest_share": float(shares.max()),
        "median_share": float(shares.median()),
        "largest_share_sharper": float((draws.independent / draws.sharper).max()),
        "sharper_over_printed": float((draws.sharper / draws.printed).max()),
    }


def lemma3_one_batch() -> Figures:
    """Lemma 3 where psi = xi, as in Algorithm 1. Verdict: proof incomplete: it is proved for psi independent of xi.

    h_bar = E[h | theta_hat] then keeps the noise of the Hessian, b^2 sigma^2 ||grad L(theta'; D')||^2, and no l0^2
    sigma_b^2 stands on the right: nearly linear losses (l1 small) break it. Repaired: a proof that conditions on
    theta_t alone needs ||grad F - E h||, which is at most sqrt(`lemma3_sharper`) + b^2 l1 sigma_b^2.

    left, right              the two sides of Eq. 31, without perturbations
    squared_bias, its_bound  ||grad F - E h||^2 and the square of that
    """
    problem = _nearly_linear(sigma=1.0)
    nothing = torch.zeros(1, dtype=torch.float64)
    sides = evaluate_lemma3(problem, nothing, 0.1, nothing, nothing[None])
    return {
        "left": float(sides.one_batch),
        "right": float(sides.printed),
        "squared_bias": float(sides.bias),
        "its_bound": float(sides.bias_bound),
    }


def gradient_variance() -> Figures:
    """Lemma 4, Eq. 34. Verdict: slip: 4 l1^2 sigma^2 has to be 4 sigma^2.

    The first term bounds E ||grad L(theta_hat; D', xi') - grad L(theta_hat; D')||^2, which Assumption 2 bounds by
    sigma^2; l1 does not come in. (As it has another unit than sigma^2, no constant could save it.)

    variance           E ||h - h_bar||^2 of a nearly linear problem, exact
    printed, repaired  sigma~^2 with either term
    """
    problem, b = _nearly_linear(sigma=1.0), 0.01
    theta = torch.zeros(1, dtype=torch.float64)
    quiet = dataclasses.replace(problem, support_noise=Noise())
    updates = sharp_gradient(quiet, theta, Steps(1.0, b), same(quiet.every_sample()))
    arguments = (problem.constants, b, Biases(0.0, 0.0), problem.constants.sigma)
    return {
        "variance": float((updates - updates.mean(0)).square().sum(-1).mean()),
        "printed": variance_printed(*arguments),
        "repaired": variance_repaired(*arguments),
    }


def average_bound() -> Figures:
    """Eq. 35. Verdict: false as printed, by Eq. 34's slip and no other; with 4 sigma^2 it holds (independent batches).

    Started at the minimum of F, where F = 0, the iterates of biased MAML (here without a bias) are kept away from it
    by the noise of the query gradient, of which Eq. 35 counts only the share 4 l1^2.

    measured           1/T sum_t ||grad F||^2, T = 100, the mean of 200 repetitions
    standard_error     of that mean
    printed, repaired  the right-hand sides
    """
    problem, steps, horizon = _one_centre(sigma=0.3), Steps(outer_lr=5.0, inner_lr=0.01), 100
    start = torch.zeros(200, 1, dtype=torch.float64)
    update = independent_update(problem, steps)
    averages = descend(problem, update, start, steps, horizon, torch.Generator().manual_seed(0)).mean(0)
    first = float(problem.objective(start[0], steps.inner_lr))
    return {
        "measured": float(averages.mean()),
        "standard_error": float(averages.std(correction=1)) / 200**0.5,
        "printed": eq35_printed(problem, first, horizon, steps),
        "repaired": eq35_repaired(problem, first, horizon, steps),
    }


def infimum() -> Figures:
    """Theorem 1 and Eq. 35's 2 F(theta_1). Verdict: slip: F has to be bounded below, and F(theta_1) - inf F meant.

    Assumptions 1 and 2 do not know where zero is. With every loss lowered by 10, the right-hand side is negative; and
    of L(theta) = theta, which satisfies them with l0 = 1 and l1 = l2 = sigma = 0, no iterate is stationary.

    measured        1/T sum_t ||grad F||^2, T = 100, lowered losses (which changes no gradient)
    printed         Eq. 35 for them; repaired: with F(theta_1) - inf F
    linear_average  the same average for L(theta) = theta, at every T
    """
    problem, steps = _one_centre(sigma=0.0), Steps(outer_lr=0.1, inner_lr=0.1)
    start = torch.ones(1, 1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    squares = descend(problem, independent_update(problem, steps), start, steps, 100, generator)
    above = float(problem.objective(start[0], steps.inner_lr))  # its infimum is 0

    def linear(theta: Tensor) -> Tensor:
        return (theta - 0.1 * torch.func.grad(torch.sum)(theta)).sum()

    return {
        "measured": float(squares.mean()),
        "printed": eq35_printed(problem, above - 10, 100, steps),
        "repaired": eq35_repaired(problem, above, 100, steps),
        "linear_average": float(torch.func.grad(linear)(start[0]).square().sum()),
    }


def objective_smoothness() -> Figures:
    """Lemma 4's "F is smooth with L_F = O(1)". Verdict: holds, with L_F = b l0 l2 + (1 + b l1)^2 l1 (proof there).

    largest_share  of L_F that ||Hessian of F|| is, over 300 problems and points (by automatic differentiation)
    """
    generator = torch.Generator().manual_seed(0)
    shares = []
    for index in range(300):
        problem = random_problem(generator, shape=("pseudo-huber", "cosine")[index % 2], n_tasks=1, dim=1, spread=0.3)
        theta = torch.randn(1, generator=generator, dtype=torch.float64)
        b = 0.02 + float(torch.rand((), generator=generator))
        slope = torch.func.grad(lambda point, p=problem, b=b: p.objective_gradient(point, b).sum())(theta)
        shares.append(float(slope.norm()) / problem.smoothness(b))
    return {"largest_share": max(shares)}


def _three_tasks() -> Problem:
    return random_problem(torch.Generator().manual_seed(0), n_tasks=3, support_noise=Noise(0.5), query_noise=Noise(0.5))


def _nearly_linear(sigma: float) -> Problem:
    """One task in one dimension: l0 = 1 and l1 = 0.01, theta = 0 away from the minimum."""
    return random_problem(
        torch.Generator().manual_seed(1),
        n_tasks=1,
        dim=1,
        support_scale=100.0,
        query_scale=100.0,
        width=100.0,
        support_noise=Noise(sigma),
        query_noise=Noise(sigma),
    )


def _one_centre(sigma: float) -> Problem:
    """One task in one dimension, both losses 10 (sqrt(1 + theta^2 / 100) - 1): the minimum of F is 0."""
    generator = torch.Generator().manual_seed(0)
    task = random_problem(generator, n_tasks=1, dim=1, query_scale=10.0, width=10.0, spread=0.0)
    return Problem(task.shape, task.query, task.query, Noise(), Noise(sigma))
