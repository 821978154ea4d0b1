r"""What Theorem 2 says about the radius alpha and about the paper's experiments (Section 4.2, Appendix D.1 and D.2).

"mini-ImageNet" stands for the paper's experiment on it: Conv4 as it is initialised, 5-way, all 38,400 training images,
delta = 0.05 and the largest radius of the paper's grid, alpha = 0.05. Omniglot is 20-way, with 20,560 images.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from scipy import special

from ..experiments import ALPHAS, Experiment, paper_experiments
from ..gaussians import ball_radius, ball_sigma, expected_length
from ..generalization import larger_radius, smallest_alpha, smallest_size
from . import Figures


def meanings_of_alpha() -> Figures:
    """Theorem 2 uses alpha as the radius of a ball, and as a standard deviation in its assumption. Proof incomplete.

    The proof's own last lines set radius = sigma (sqrt(k) + sqrt(ln n)), a factor of 350. Read as a radius, alpha needs
    the assumption for N(0, sigma^2 I) with that smaller sigma. Read as a standard deviation, the maximum in (18) runs
    over a ball 350 times larger, nearly as large as theta is long.

    Repaired: the assumption with sigma = alpha / (sqrt(k) + sqrt(ln n)), as in `generalization.repaired`.
    """
    one, _ = paper_experiments()
    radius = float(ball_radius(one.n_params, one.n_images, ALPHAS[0]))
    return {
        "radius_over_sigma": radius / ALPHAS[0],
        "sigma_for_radius_0_05": float(ball_sigma(one.n_params, one.n_images, ALPHAS[0])),
        "radius_for_sigma_0_05": radius,
        "norm_of_theta": one.norm,
        "root_for_sigma_0_05": float(one.at(radius).root),
    }


def larger_radius_argument() -> Figures:
    """D.1: for any alpha0 below (c / (exp(4n/k) - 1))^(1/2) its alpha_1 > alpha0 has a smaller bound. Proof incomplete.

    The proof uses 1 + sqrt(x - 1) <= sqrt(x), false for every x > 1. With a loss of 0 in the ball of alpha0 and of 1
    somewhere in that of its alpha_1 the bound grows; near the end of the range no alpha_1 at all is sure to be better.
    For small alpha0 the claim is true at sight: the root goes to infinity as alpha0 -> 0, and the losses differ by at
    most 1.

    Repaired: for every alpha0 whose root exceeds 1 by more than the root's limit for alpha -> infinity, each alpha_1
    at which the root is less by 1 has a smaller bound.
    """
    one, _ = paper_experiments()
    x = 4.0
    found = larger_radius(one.at, ALPHAS[0])
    bound = one.at(ALPHAS[0])
    limit = float(np.sqrt(bound.confidence + bound.logarithm))
    return {
        "one_plus_root_of_3": 1 + math.sqrt(x - 1),
        "root_of_4": math.sqrt(x),
        "bound_at_alpha0": float(found.root0),
        "d1_alpha1": float(found.paper),
        "worst_bound_at_d1_alpha1": 1 + float(one.at(found.paper).root),
        "proved_alpha1": float(found.proved),
        "claimed_up_to": _end_of_d1(one),
        "proved_up_to": float(smallest_alpha(one.at, 1 + limit)),
    }


def conclusion_of_d1() -> Figures:
    """Section 4.2 concludes from D.1 that Sharp-MAML has a smaller upper bound than MAML. Proof incomplete.

    D.1 begins with radii below (c / (exp(4n/k) - 1))^(1/2). There the root alone exceeds 1, and no loss does: what is
    compared says nothing, and capped at 1 the bounds are equal. Nor does (18) know how theta was found: it holds for
    MAML's theta with any alpha at which the assumption does.

    Repaired: not by us. With the repaired D.1, a larger radius has a smaller bound for small alpha0, and that is all.
    """
    one, two = paper_experiments()
    roots = np.concatenate([one.at(ALPHAS).root, two.at(ALPHAS).root])
    return {
        "root_where_the_range_of_d1_ends": float(one.at(_end_of_d1(one)).root),
        "least_root_on_the_paper_grid": float(roots.min()),
        "gain_once_capped_at_1": float(np.ptp(np.minimum(roots, 1))),
    }


def length_of_a_draw() -> Figures:
    """D.2: for eps ~ N(0, alpha^2 I), ||eps|| <= alpha^2 "with high probability". False.

    E||eps|| = alpha sqrt(2) Gamma((k+1)/2) / Gamma(k/2), about alpha sqrt(k). P(||eps|| <= alpha^2) is that of a
    chi-square below alpha^2, at most (alpha^2 / 2)^(k/2) / Gamma(k/2 + 1).
    """
    one, _ = paper_experiments()
    alpha, half = ALPHAS[0], one.n_params / 2
    log_chance = half * math.log(alpha**2 / 2) - float(special.gammaln(half + 1))
    return {
        "expected_length": float(expected_length(one.n_params, alpha)),
        "alpha_squared": alpha**2,
        "norm_of_theta": one.norm,
        "log10_of_the_chance_at_most": log_chance / math.log(10),
    }


def minimum_and_mean() -> Figures:
    r"""D.2: a local minimiser has L(theta) <= E L(theta + eps). False; and as printed both sides are L(theta).

    A minimum is about a neighbourhood, and eps leaves it. Let L(theta) = exp(-||theta||^2 / 2) - 1/2 exp(-50
    ||theta||^2), between 0 and 1: a strict minimum at 0, in a dent on top of a hill. Means under N(0, alpha^2 I) are
    (1 + alpha^2)^(-k/2) - 1/2 (1 + 100 alpha^2)^(-k/2).

    Repaired: (36) has to be assumed, for a sigma as small as in `meanings_of_alpha`, or measured.
    """
    one, _ = paper_experiments()

    def mean(alpha: float, k: int) -> float:
        return math.exp(-k / 2 * math.log1p(alpha**2)) - 0.5 * math.exp(-k / 2 * math.log1p(100 * alpha**2))

    return {
        "at_the_minimum": mean(0.0, 1),
        "curvature_there": -1 + 0.5 * 100,
        "mean_for_k_1_alpha_3": mean(3.0, 1),
        "mean_for_mini_imagenet": mean(ALPHAS[0], one.n_params),
    }


def stability_of_five_points() -> Figures:
    """Section 4.2: gradient descent has gamma_A = O(1/n) (Hardt et al. 2016), so it is small. Proof incomplete.

    n is the support set of a task: five images in the paper's 1-shot tasks, however many tasks there are. For a convex,
    smooth loss that changes by at most 1 per unit of theta, T steps of b have gamma_A <= 2 b T / n: 0.2 for b = 0.1,
    T = 5. Shown is also what flipping one of five labels does: logistic regression on x = 1, the loss of a new (1, 1).
    Theorem 2 asks for a bounded loss only, as the 0-1 loss is. There a label decides the majority, gamma_A = 1, and no
    n helps. Definition 1 is garbled, too: the mean is over the algorithm's draws, the supremum over examples.

    Repaired: gamma_A is 0 for (18), see `generalization.query_loss`.
    """
    b, steps = 0.1, 5
    before, after = _descend(5, 5, b, steps), _descend(4, 5, b, steps)
    return {
        "convex_bound": 2 * b * steps / 5,
        "logistic_five_labels_one_flipped": float(np.logaddexp(0, -after) - np.logaddexp(0, -before)),
        "zero_one_loss_n_5": _flips(5, b, steps),
        "zero_one_loss_n_501": _flips(501, b, steps),
    }


def the_papers_experiments() -> Figures:
    """(18) for the paper's own experiments, with empirical loss and gamma_A taken as 0. Holds, and says nothing.

    The root is above 1 on the whole grid of radii, for an initialised Conv4; the trained parameters that come with
    this package are longer than initial ones. Losses have to be at most 1, moreover, and the cross-entropy of even odds
    among 5 is ln 5: the theorem is about a loss that was not trained, or one cut off at C, whose root is C times as
    large.
    """
    one, two = paper_experiments()
    figures = {"cross_entropy_of_even_odds": math.log(5)}
    for name, this in {"mini_imagenet": one, "omniglot": two}.items():
        root, least = this.at(ALPHAS).root, float(smallest_alpha(this.at))
        images = smallest_size(partial(this.with_images, alpha=ALPHAS))
        figures |= {
            f"{name}_parameters": float(this.n_params),
            f"{name}_images": float(this.n_images),
            f"{name}_norm_of_theta": this.norm,
            f"{name}_root_at_0_05": float(root[0]),
            f"{name}_root_at_0_0005": float(root[2]),
            f"{name}_alpha_for_1": least,
            f"{name}_alpha_for_1_over_0_05": least / ALPHAS[0],
            f"{name}_images_for_1_at_0_05": float(images[0]),
            f"{name}_images_for_1_at_0_0005": float(images[2]),
        }
    return figures


def _end_of_d1(one: Experiment) -> float:
    """(c / (exp(4n/k) - 1))^(1/2), up to where D.1 makes its claim."""
    length = one.norm * (1 + math.sqrt(math.log(one.n_images) / one.n_params))
    return length / math.sqrt(math.expm1(4 * one.n_images / one.n_params))


def _descend(n_positive: int, n: int, b: float, steps: int) -> float:
    """Logistic regression on n samples x = 1, n_positive of them with the label +1, by gradient descent from 0."""
    theta = 0.0
    for _ in range(steps):
        theta += b * (n_positive / n - 1 / (1 + math.exp(-theta)))
    return theta


def _flips(n: int, b: float, steps: int) -> float:
    """By how much the 0-1 loss of (1, +1) changes when a majority of one loses a vote."""
    majority = n // 2 + 1
    return float((_descend(majority - 1, n, b, steps) <= 0) - (_descend(majority, n, b, steps) <= 0))
