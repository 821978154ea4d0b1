r"""Sharp-MAML itself: Eq. 9 to 15 (Section 3.2), Algorithms 1 to 4 (Appendix A), ANIL and ESAM (Section 5.4)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...adapt import InnerRule, Problem, task_gradient
from ...config import Config
from ...episode import Episode
from ...learners import build_learner
from ...models import MLP, Conv4
from ...network import FEATURES
from ...params import Params, add_scaled, dot, norm
from ...sharpness import most_sensitive, on_random_weights, perturbation
from ..convergence import exponent
from ..convergence_bounds import Steps
from ..floors import mean_update
from ..problems import Noise, random_problem
from . import Figures

Loss = Callable[[Tensor], Tensor]


def task_gradient_eq_10() -> Figures:
    r"""Eq. 10, (I - beta H(theta + eps + eps_m)) grad L(theta~_m; D'_m), with eps and eps_m as constants. Holds.

    On a small smooth network: the package's recursion, the formula with the full Hessian, and autograd with eps_m
    detached agree to rounding. eps_m is a function of theta; differentiating it too, as the released code does, gives
    another vector, so (10) is the gradient of the objective that (9) defines for a fixed eps_m, not of (P).
    """
    beta, alpha, theta, support, query = 0.3, 0.2, _theta(), _network_loss(1), _network_loss(2)

    def adapted(theta: Tensor, detach: bool) -> Tensor:
        gradient = _gradient(support, theta)
        eps = alpha * gradient / gradient.norm()
        return theta - beta * _gradient(support, theta + (eps.detach() if detach else eps))

    def meta_gradient(detach: bool) -> Tensor:
        return _gradient(lambda x: query(adapted(x, detach)), theta).detach()

    constant, through = meta_gradient(detach=True), meta_gradient(detach=False)
    at = theta + alpha * torch.nn.functional.normalize(_gradient(support, theta).detach(), dim=0)
    hessian = torch.autograd.functional.hessian(support, at)
    end = adapted(theta, detach=True).detach()
    formula = _gradient(query, end).detach()
    formula = formula - beta * hessian @ formula
    problem = Problem(
        support_loss=lambda fast, _: support(fast["theta"]),
        support_losses=lambda fast, _: support(fast["theta"])[None],
        query_loss=lambda fast, _: (query(fast["theta"]), fast["theta"]),
    )
    start = {"theta": theta.detach()}
    package = task_gradient(InnerRule(beta, 1, alpha), problem, start, {}).fast_gradient["theta"]
    return {
        "package_against_the_formula": float((package - formula).norm() / formula.norm()),
        "package_against_autograd": float((package - constant).norm() / constant.norm()),
        "difference_if_eps_is_differentiated": float((through - constant).norm() / constant.norm()),
    }


def special_cases() -> Figures:
    r"""Sharp-MAML_up and _low are Algorithm 1 with alpha_low = 0 and alpha_up = 0, MAML is both. Holds, to the bit.

    The largest differences between the package's meta-gradients, one program for all with the radii set to 0.
    """
    y = torch.arange(3).repeat(2, 1)
    x = torch.randn((2, 2, 3, 4), generator=_seeded(0), dtype=torch.float64)
    tasks = Episode(x[0], y, x[1], y)

    def meta_gradient(variant: str, alpha_low: float, alpha_up: float) -> Params:
        config = Config(variant=variant, alpha_low=alpha_low, alpha_up=alpha_up, dtype="float64", device="cpu")
        learner = build_learner(config, MLP(4, 3, width=5))
        return learner.gradient(learner.init(_seeded(1)), tasks)[0]

    def difference(variant: str, alpha_low: float, alpha_up: float) -> float:
        other, both = meta_gradient(variant, 0.2, 0.3), meta_gradient("both", alpha_low, alpha_up)
        return float(norm(add_scaled(both, other, -1.0)))

    return {
        "both_without_low_minus_up": difference("up", 0.0, 0.3),
        "both_without_up_minus_low": difference("low", 0.2, 0.0),
        "both_without_either_minus_maml": difference("maml", 0.0, 0.0),
        "both_minus_maml": difference("maml", 0.2, 0.3),
    }


def unbiased_estimator() -> Figures:
    r"""Section 3.2 calls the mini-batch gradient of the upper loss "an unbiased estimator". Slip.

    Eq. 9 puts a mini-batch inside of a nonlinear function. One of two support samples a_i/2 (theta - c_i)^2 is drawn;
    all expectations are sums over the draws. If the same draw serves the gradient and the Hessian, as in Algorithm 1,
    the bias is beta^2 Cov(a_i, a_i (theta - c_i)) times the curvature of the query loss, even where that is quadratic.
    With independent draws, as in Appendix C, it vanishes for a quadratic, and does not for 1 - cos. On three smooth
    tasks, with one batch, E h - grad F = O(beta^2 sigma^2), which is why Theorem 1 treats a biased MAML at all.

    relative_bias  ||E h - grad F|| / ||grad F|| at beta = 0.4; exponent_inner_lr, exponent_sigma  of the bias

    Repaired: unbiased given the inner samples, for the loss at the adapted parameters that they led to. What the bias
    does to the rate is Lemma 3's business.
    """
    beta, theta, target = 0.3, 1.0, 0.4
    samples = torch.tensor([[1.0, 0.5], [3.0, -0.2]], dtype=torch.float64)  # a_i, c_i
    curvature, gradient = samples[:, 0], samples[:, 0] * (theta - samples[:, 1])

    def estimate(hessian: Tensor, inner: Tensor, cosine: bool) -> Tensor:
        away = theta - beta * inner - target
        return (1 - beta * hessian) * (away.sin() if cosine else away)

    def bias(independent: bool, cosine: bool) -> float:
        inner = gradient[:, None] if independent else gradient
        drawn = estimate(curvature, inner, cosine).mean()
        return float(drawn - estimate(curvature.mean(), gradient.mean(), cosine))

    def smooth(b: float, sigma: float) -> tuple[float, float]:
        noise, point = Noise(sigma), torch.tensor([0.7, -0.3], dtype=torch.float64)
        problem = random_problem(_seeded(0), n_tasks=3, support_noise=noise, query_noise=Noise(0.5))
        exact = problem.objective_gradient(point, b)
        return float((mean_update(problem, point, Steps(1.0, b)) - exact).norm()), float(exact.norm())

    sizes, (off, length) = (0.02, 0.01), smooth(0.4, 1.0)
    return {
        "bias_one_draw_quadratic": bias(independent=False, cosine=False),
        "bias_two_draws_quadratic": bias(independent=True, cosine=False),
        "bias_two_draws_cosine": bias(independent=True, cosine=True),
        "exact_gradient_quadratic": float(estimate(curvature.mean(), gradient.mean(), cosine=False)),
        "relative_bias": off / length,
        "exponent_inner_lr": exponent(sizes, [smooth(b, 1.0)[0] for b in sizes]),
        "exponent_sigma": exponent(sizes, [smooth(0.1, sigma)[0] for sigma in sizes]),
    }


def reused_perturbation() -> Figures:
    r"""Eq. 14 uses eps_m(theta) at theta + eps, "the gradient at the maximum point theta + eps + eps_m". Slip.

    eps_m(theta) climbs at theta, (P) asks for the ball around theta + eps. On L = theta^2 / 2 at 1/8 with alpha_low
    1/8, where the query loss wants theta to grow and eps = -1/4, the point that (14) looks from is the minimum of L:
    the lowest value in the ball, not the highest.

    Repaired: eps_m(theta + eps) (`reuse_lower_perturbation = false`), for one support gradient a step more. Keeping
    eps_m costs at most |eps_m(theta + eps) - eps_m(theta)| <= 2 alpha_low l1 alpha_up / ||grad L(theta; D_m)||.
    """
    theta, alpha_low, alpha_up = torch.tensor(0.125, dtype=torch.float64), 0.125, 0.25
    eps_m = perturbation({"theta": theta}, alpha_low)["theta"]
    beta = 0.1
    upper = (1 - beta) * (theta - beta * (theta + eps_m) - 5)  # Eq. 10 for a query loss (theta' - 5)^2 / 2
    eps = perturbation({"theta": upper}, alpha_up)["theta"]
    centre = theta + eps
    anew = centre + perturbation({"theta": centre}, alpha_low)["theta"]

    def loss(at: Tensor) -> float:
        return float(at**2 / 2)

    return {
        "loss_at_theta_plus_eps": loss(centre),
        "loss_where_eq_14_looks": loss(centre + eps_m),
        "highest_loss_of_the_ball": loss(anew),
    }


def first_pass() -> Figures:
    r"""Algorithm 1, line 13, computes sum_m grad L(theta~1_m; D'_m), without the subscript theta of Eq. 13. Slip.

    By the convention stated after (8b) that is the gradient at theta~1_m, FOMAML's, without the factor I - beta H.
    It can have nothing in common with Eq. 13's: with Hessian diag(9, 1), beta = 0.2 and query gradient (1, 1), they
    are orthogonal. Line 12 of Algorithm 3 has the subscript.

    Repaired: line 13 with the subscript theta_t. Also: Section 3.2 announces Sharp-MAML_low as Algorithm 2, which is
    MAML (it is Algorithm 4); line 15 writes a hat for the tilde of (14); Algorithms 3 and 4 require both radii and
    use one.
    """
    hessian, query = torch.tensor([9.0, 1.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    problem = Problem(
        support_loss=lambda fast, _: (hessian * fast["theta"] ** 2).sum() / 2,
        support_losses=lambda fast, _: (hessian * fast["theta"] ** 2).sum()[None] / 2,
        query_loss=lambda fast, _: (query @ fast["theta"], fast["theta"]),
    )
    start = {"theta": torch.tensor([0.3, -0.4], dtype=torch.float64)}
    as_printed, as_meant = (
        task_gradient(InnerRule(0.2, 1, first_order=first_order), problem, start, {}).fast_gradient
        for first_order in (True, False)
    )
    return {"cosine": float(dot(as_printed, as_meant) / norm(as_printed) / norm(as_meant))}


def sum_over_tasks() -> Figures:
    r"""Eq. 15, (21), (23) and (P) sum over the M tasks, Eq. 1 and Appendix C take the mean. Slip.

    The two are one algorithm with beta_up differing by the factor M: plain descent on curvature a is stable for
    beta_up < 2 / a with the mean and 2 / (M a) with the sum, and so for Theorem 1's step sizes. Both radii are
    lengths, so eps is the same; and so are Adam's steps, but for the 1e-8 in its denominator, so that the
    experiments are not concerned.

    Repaired: 1/M in Eq. 15, 21, 23 and (P), as here and in the released code; in 13 and 20 it cancels.
    """
    n_tasks, curvature = 4, 1.0
    gradient = {"theta": torch.tensor([0.3, -2.0, 0.7], dtype=torch.float64)}
    mean = perturbation(gradient, 0.05)["theta"]
    summed = perturbation({"theta": n_tasks * gradient["theta"]}, 0.05)["theta"]

    def adam(scale: float) -> Tensor:
        theta = nn.Parameter(torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64))
        optimiser = torch.optim.Adam([theta], lr=1e-3)
        for _ in range(20):
            theta.grad = scale * curvature * theta.detach()
            optimiser.step()
        return theta.detach()

    return {
        "largest_stable_step_mean": 2 / curvature,
        "largest_stable_step_sum": 2 / (n_tasks * curvature),
        "difference_of_eps": float((mean - summed).norm()),
        "difference_after_20_steps_of_adam": float((adam(1.0) - adam(float(n_tasks))).norm()),
    }


def anil() -> Figures:
    r"""Eq. 19 defines ANIL by theta'_m = argmin over the head of the support loss, from theta_r fixed. Slip.

    Without the proximal term of (1b) the head's initial value theta_c is nowhere in it: the meta-gradient by theta_c is
    zero, here for the least squares of a head, whose argmin is a Newton step. And for cross-entropy there is no
    minimiser where features can be separated linearly, as those of five images in 1600 dimensions always can unless
    they are dependent: the loss of t times a separating head falls for all t. A gradient step, which is what ANIL
    takes, has neither fault. That theta_r "comprises most of the network" holds.

    Repaired: theta_c - beta_low grad_{theta_c} L([theta_r, theta_c]; D_m), a few times.
    """
    features, labels = torch.randn((4, 3), generator=_seeded(0), dtype=torch.float64), _theta().detach()[:4]
    support, query = features[:3], features[3]
    inverse_hessian = torch.linalg.inv(2 / 3 * support.T @ support)

    def by_the_initial_head(step: Tensor) -> float:
        head = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        adapted = head - step @ _gradient(lambda at: ((support @ at - labels[:3]) ** 2).mean(), head)
        return float(torch.autograd.grad((query @ adapted - labels[3]) ** 2, head)[0].norm())

    wide = torch.randn((5, 1600), generator=_seeded(1), dtype=torch.float64)
    separating = torch.linalg.pinv(wide)  # [1600, 5], each image's own logit 1, the others 0

    def cross_entropy(t: float) -> float:
        return float(nn.functional.cross_entropy(wide @ (t * separating), torch.arange(5)))

    weights = {name: p.numel() for name, p in Conv4((3, 84, 84), 5).named_parameters()}
    return {
        "gradient_by_theta_c_of_the_argmin": by_the_initial_head(inverse_hessian),
        "gradient_by_theta_c_of_a_step": by_the_initial_head(0.1 * torch.eye(3, dtype=torch.float64)),
        "cross_entropy_at_1_separating_head": cross_entropy(1.0),
        "cross_entropy_at_10": cross_entropy(10.0),
        "cross_entropy_at_20": cross_entropy(20.0),
        "share_of_theta_r": sum(n for name, n in weights.items() if name.startswith(FEATURES)) / sum(weights.values()),
    }


def esam() -> Figures:
    r"""ESAM's sets N+ (increase > tau) and N- (< tau), mu = |N+| / |N| "determines the exact value of tau". Slip.

    A sample whose increase equals tau is in neither set. mu fixes tau up to an interval if mu |N| is whole and the
    increases differ, and not at all otherwise: of five support images no share 1/2 can be chosen. And a mask
    Bern(xi) alone shrinks the mean perturbation to xi eps; ESAM's code divides by xi.

    Repaired: N- as the complement, the ceil(mu |N|) samples that rose most, and eps v / xi (`sharpness`).
    """
    increase, tau = torch.tensor([0.3, 0.1, 0.1, 0.0, -0.2], dtype=torch.float64), 0.1
    shares = sorted({int((increase > level).sum()) / len(increase) for level in increase - 1e-9} | {0.0})
    xi, eps = 0.5, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=len(eps))), dtype=torch.float64)  # equally likely
    scaled = torch.stack([on_random_weights({"w": eps}, {"w": mask}, xi)["w"] for mask in masks])
    return {
        "samples_in_neither_set": int((increase == tau).sum()),
        "attainable_share_nearest_to_a_half": min(shares, key=lambda share: abs(share - 0.5)),
        "samples_that_the_package_takes_for_a_half": len(most_sensitive(increase, 0.5)),
        "mean_of_the_masked_eps": float((masks * eps).mean(0) @ eps / (eps @ eps)),
        "mean_of_the_rescaled_eps": float(scaled.mean(0) @ eps / (eps @ eps)),
    }


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _theta() -> Tensor:
    return torch.randn(8, generator=_seeded(0), dtype=torch.float64).requires_grad_()


def _network_loss(seed: int) -> Loss:
    """The mean square of a network of two tanh units on six points, as a function of its eight weights."""
    x, y = torch.randn((2, 6, 3), generator=_seeded(seed), dtype=torch.float64)

    def loss(theta: Tensor) -> Tensor:
        return ((torch.tanh(x @ theta[:6].reshape(3, 2)) @ theta[6:] - y[:, 0]) ** 2).mean()

    return loss


def _gradient(function: Loss, at: Tensor) -> Tensor:
    at = at if at.requires_grad else at.detach().requires_grad_()
    return torch.autograd.grad(function(at), at, create_graph=True)[0]
