r"""The main text: what is minimised (Sections 2.1, 2.2), sharpness-aware minimisation (2.3), rates and symbols."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from ...models import Conv4
from ...sharpness import perturbation
from ..paper_tables import N_QUERY, TABLES
from . import Figures


def proximal_problem() -> Figures:
    r"""Eq. 1b, a proximal problem, is approximated by the one gradient step of Eq. 2. Holds, to first order in beta.

    On L = a/2 (theta - c)^2 with b = beta a, the minimiser of (1b) leaves 1 / (1 + b) of the distance to c, the step
    leaves 1 - b: it goes 1 + b times as far. The step solves (1b) exactly with L linearised at theta, which is (29b).
    Beyond b = 2 it raises the loss, which (1b) cannot; and the S steps of the experiments, without a proximal term,
    forget theta like (1 - b)^S.
    """
    small, large = 0.1, 2.5
    return {
        "left_by_the_problem": 1 / (1 + small),
        "left_by_one_step": 1 - small,
        "left_by_ten_steps": (1 - small) ** 10,
        "loss_ratio_of_the_problem_beyond_2": (1 / (1 + large)) ** 2,
        "loss_ratio_of_one_step_beyond_2": (1 - large) ** 2,
    }


def marginal_distribution() -> Figures:
    r"""Eq. 3 is written L(theta_m(theta); P) with the marginal P of Eq. 4, whose draws belong to no task. Slip.

    Tasks y = s x, s = +1 or -1, x = +1 or -1, squared loss, one support sample, a step of size 1/2: it adapts to
    exactly s. The expectation on the right of (3) is 0; the loss L(.; P) as Section 2.1 defines it, where (x, y) has a
    sign of its own, is 2. In N-way classification the labels are permuted by task, and a draw from P says nothing
    about its label: no parameters exceed 1/N.

    Repaired: E_T E_{D ~ P_T^n} E_{(x, y) ~ P_T} l(theta_T(theta; D), x, y), the task being the same in all three.
    """

    def adapted(theta: float, x: int, y: int) -> float:
        return theta - 0.5 * 2 * x * (theta * x - y)

    signs = (1, -1)
    draws = list(itertools.product(signs, repeat=4))  # the task's sign, support x, query x, the sign of another task
    same = [(adapted(0.3, x, s * x) * q - s * q) ** 2 for s, x, q, _ in draws]
    marginal = [(adapted(0.3, x, s * x) * q - other * q) ** 2 for s, x, q, other in draws]
    labels = torch.tensor(list(itertools.permutations(range(5))))  # [120, 5], the label of each class in each task
    shares = torch.nn.functional.one_hot(labels).double().mean(0)  # [5, 5], of each label for each class
    return {
        "right_side_of_eq_3": sum(same) / len(same),
        "loss_under_the_marginal": sum(marginal) / len(marginal),
        "best_accuracy_under_the_marginal_5_way": float(shares.max()),
    }


def samples_of_a_task() -> Figures:
    r"""Theorem 2 takes the nM samples of M tasks for a draw D ~ P. Slip: samples of one task share the task.

    A sample is wrong with probability 0.2 in half of the tasks and 0.8 in the others. The variance of the mean over
    M = 4 tasks of n = 80 samples is (Var p + E p (1 - p) / n) / M; of 320 independent draws from the marginal it would
    be 1/4 / 320. The ratio is 1 + (n - 1) rho, rho the correlation within a task, and grows with n without bound.

    Repaired: the tasks are the independent draws; what follows for the bound is said where Lemma 6 is.
    """
    n_tasks, n_samples = 4, 80
    p = torch.tensor([0.2, 0.8], dtype=torch.float64)
    between, within = p.var(correction=0), (p * (1 - p)).mean()
    true = (between + within / n_samples) / n_tasks
    claimed = p.mean() * (1 - p.mean()) / (n_tasks * n_samples)
    return {
        "variance_ratio": float(true / claimed),
        "correlation_within_a_task": float(between / (between + within)),
        "independent_draws_worth": n_tasks * n_samples * float(claimed / true),
    }


def erm_of_permuted_labels() -> Figures:
    r"""Eq. 5, ERM on all tasks with one theta, as the counterpart of MAML. Slip, where labels are permuted by task.

    Averaged over the N! assignments of labels, the cross-entropy of logits z is logsumexp(z) - mean(z) >= ln N, with
    equality for equal logits: the best theta predicts nothing, in 5-way tasks with a loss of ln 5. For a single task,
    as in Figure 1, (5) is sound.

    Repaired: one head over all training classes, as the usual ERM baseline has, or one head a task.
    """
    labels = torch.tensor([order[0] for order in itertools.permutations(range(5))])  # of one image, by task

    def loss(logits: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits.expand(len(labels), 5), labels)

    equal = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    at_equal = loss(equal)
    (gradient,) = torch.autograd.grad(at_equal, equal)
    return {
        "loss_at_equal_logits": at_equal.item(),
        "gradient_at_equal_logits": float(gradient.abs().max()),
        "loss_of_a_sure_head": float(loss(torch.tensor([3.0, 0, 0, 0, 0], dtype=torch.float64))),
        "best_accuracy": int(torch.bincount(labels).max()) / len(labels),
    }


def sam_maximiser() -> Figures:
    r"""Eq. 8a maximises the loss over the ball of Eq. 6, to first order. Holds.

    eps = alpha g / ||g|| attains the maximum alpha ||g|| of <g, eps> exactly. How much of the sharpness (7) that is
    depends on alpha: for L = (10 x^2 + 0.1 y^2) / 2 at (0, 1), where the gradient lies along the flat direction, it
    is all of it up to alpha = ||g|| / (10 - 0.1) = 0.0101, the length at which the sharp direction takes over, and a
    twentieth at 0.5.
    """
    hessian = torch.tensor([10.0, 0.1], dtype=torch.float64)
    theta = torch.tensor([0.0, 1.0], dtype=torch.float64)
    gradient = hessian * theta
    angle = torch.linspace(0, 2 * math.pi, 4001, dtype=torch.float64)  # contains the four axes
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)  # a convex function is largest on the edge of the ball

    def sharpness(eps: Tensor) -> Tensor:
        return (hessian * ((theta + eps) ** 2 - theta**2)).sum(-1) / 2

    def share(alpha: float) -> float:
        eps = perturbation({"theta": gradient}, alpha)["theta"]
        return float(sharpness(eps) / sharpness(alpha * circle).max())

    first_order = gradient @ perturbation({"theta": gradient}, 0.5)["theta"]
    return {
        "share_of_the_linear_maximum": float(first_order / (0.5 * circle @ gradient).max()),
        "share_of_the_sharpness_at_one_hundredth": share(0.01),
        "share_of_the_sharpness_at_one_twentieth": share(0.05),
        "share_of_the_sharpness_at_one_half": share(0.5),
    }


def sam_at_a_minimiser() -> Figures:
    r"""The perturbations (8a), (11), (13), (20) divide by the norm of a gradient. Slip: undefined where that is 0.

    Those are the stationary points that Lemma 1 and Theorem 1 are about. Beside one, eps has its full length, so that
    a minimiser is no fixed point of (8): on a/2 theta^2 with b = beta a the iterates end in a jump between +r and -r,
    r = alpha b / (2 - b), whatever the start, and the gradient there is a r. A step size that falls to 0 lets r fall.

    Repaired: eps = 0 for a zero gradient (`sharpness.perturbation`), and beta_t -> 0 in (8b).
    """
    alpha, b = 0.05, 0.1
    theta = torch.tensor(1.0, dtype=torch.float64)
    for _ in range(400):  # 0.9^400 is below 1e-18
        before, theta = theta, theta - b * (theta + perturbation({"theta": theta}, alpha)["theta"])
    return {
        "ends_at": float(theta.abs()),
        "jumps_by_times_r": float((theta - before).abs() / theta.abs()),
        "eps_beside_the_minimiser": float(perturbation({"theta": theta.new_tensor([1e-30])}, alpha)["theta"]),
        "eps_at_the_minimiser": float(perturbation({"theta": theta.new_zeros(1)}, alpha)["theta"]),
    }


def sample_complexity() -> Figures:
    r"""(C2): O(1/sqrt(T)) "corresponds to O(eps^-2)" and "improves the known O(eps^-3)" of MAML. Slip.

    (16) bounds the mean of ||grad F||^2 by C / sqrt(T). It is at most eps after (C / eps)^2 iterations, but its root
    is after C^2 / eps^4; Fallah et al. 2020, with whom the paper compares, call theta eps-stationary if the norm is
    at most eps. Nor is the objective the same: (16) needs beta_low = O(1 / sqrt(T)), so that F tends to the loss
    without adaptation, where Fallah et al. keep beta_low fixed and pay with the batch.

    Repaired: O(eps^-2) samples for E ||grad F||^2 <= eps, O(eps^-4) for E ||grad F|| <= eps, at beta_low = O(T^-1/2).
    """
    eps = 0.1
    return {
        "iterations_for_the_square": (1 / eps) ** 2,
        "iterations_for_the_norm": (1 / eps**2) ** 2,
        "beta_low_after_them": 1 / math.sqrt((1 / eps**2) ** 2),
    }


def symbols() -> Figures:
    r"""Letters with two meanings, and one count. Slip.

    n is the size of D_m and of D'_m (Section 2.1), of all data (Lemma 6, Theorem 3), and of all data is nM (Theorem
    2); in 5-way 1-shot the two sets have 5 and 75 samples. M is the number of tasks and of the entries of ESAM's mask
    (Section 5.4), which has one a weight. alpha is a radius and Adam's learning rate (5.1). "Usually 1-5 samples per
    task" (2.1) are per class: the tables' tasks have 5 to 100.
    """
    support = [table.n_way * table.k_shot for table in TABLES.values()]
    return {
        "fewest_support_samples": min(support),
        "most_support_samples": max(support),
        "query_samples_beside_the_fewest": 5 * N_QUERY,
        "entries_of_the_mask": sum(p.numel() for p in Conv4((3, 84, 84), 5).parameters()),
    }
