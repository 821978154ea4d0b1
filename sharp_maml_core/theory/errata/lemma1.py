"""Lemma 1 and what is said below it (Section 2.2, Appendix B). The proofs are in `theory.lemma1`."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor
from torch.func import grad, vmap

from ..census import census, composed_coefficients, sweep
from ..lemma1 import composed, errors, gradient, hessians, kept, two_tasks
from ..polynomials import exact, polynomial
from ..stationary import MINIMUM, search
from ..zoo import FUNCTIONS
from . import Figures


def gradient_formula() -> Figures:
    """Eq. 26, the gradient of L(theta') by the chain rule. Holds.

    Himmelblau's function at (0.7, -0.4), inner_lr 0.01: relative errors against autograd and central differences.
    """
    row = errors(FUNCTIONS["himmelblau"].loss, _vector(0.7, -0.4), 0.01)[0]
    return {"error_against_autograd": row.autograd, "error_against_differences": row.differences}


def hessian_order() -> Figures:
    """Eq. 27 has J J H(theta') where J H(theta') J is right, J = I - inner_lr H(theta). Slip.

    L = x^2/2 + x y^2/2 at (0, 1) with inner_lr 1: the Hessian of L(theta') is ((-1/2, 2), (2, -3/2)), and (27) as it is
    printed gives ((0, 2), (3/2, -2)). At a stationary point of L the two orders agree: then theta' = theta, and the
    factors commute.
    """

    def loss(theta: Tensor) -> Tensor:
        x, y = theta[0], theta[1]
        return x**2 / 2 + x * y**2 / 2

    at = _vector(0, 1)
    _, right, printed = errors(loss, at, 1.0)
    hessian = hessians(loss, at, 1.0).printed
    return {
        "sandwich_error": right.differences,
        "paper_error": printed.differences,
        "paper_asymmetry": float((hessian - hessian.T).abs().max()),
    }


def stationary_points_kept() -> Figures:
    """Lemma 1 a): stationary points of L are stationary points of L(theta'). Holds, at every inner_lr.

    The largest gradient of F = L(theta') at the 9 stationary points of Himmelblau's function over three inner_lr. For
    the double well the derivative of L divides that of F, as a polynomial: the remainder's largest coefficient.
    """
    function = FUNCTIONS["himmelblau"]
    at = search(function.loss, function.box, starts=12).at
    gradients = [vmap(grad(composed(function.loss, rate)))(at).norm(dim=1).max() for rate in (0.001, 0.003, 0.01)]
    coefficients = FUNCTIONS["double-well"].coefficients
    remainders = [
        polynomial(composed_coefficients(coefficients, rate)).diff().rem(polynomial(coefficients).diff())
        for rate in (Fraction(1, 10), Fraction(1, 2), Fraction(3))
    ]
    return {
        "points": float(len(at)),
        "largest_gradient": float(max(gradients)),
        "remainder": float(max(abs(c) for remainder in remainders for c in remainder.all_coeffs())),
    }


def minimisers_kept() -> Figures:
    """Lemma 1 b): minimisers of L are minimisers of L(theta'). True; the proof is incomplete.

    It ends with "gradient 0 and Hessian positive semidefinite, which implies a local minimizer". x^3 has both at 0 and
    no minimum there, before the inner step or after it. A proof in two lines is in `theory.lemma1`; the minimisers of
    four functions, one of them with a Hessian of 0, counted before and after a step below and above the threshold.
    """
    cubic = FUNCTIONS["cubic"].loss
    after = composed(cubic, 0.1)
    zero, left = _vector(0), _vector(-0.1)
    names = ("parabola", "quartic", "double-well", "washboard")
    counts = [found for name in names for found in sweep(FUNCTIONS[name], [0.5, 2.3])]
    return {
        "cubic_gradient": float(grad(after)(zero)),
        "cubic_hessian": float(hessians(cubic, zero, 0.1).right),
        "cubic_loss_left_of_0": float(cubic(left)),
        "cubic_loss_after_a_step_left_of_0": float(after(left)),
        "minimisers": float(2 * sum(FUNCTIONS[name].stationary_points().count(MINIMUM) for name in names)),
        "minimisers_that_are_none_after_a_step": float(sum(found.unmade + found.lost for found in counts)),
    }


def more_stationary_points() -> Figures:
    """Below Lemma 1: L has fewer stationary points and minimisers than L(theta'). False without a condition.

    What follows from the lemma is "not more". There are more only if inner_lr * l1 >= 1, and not always then: a
    parabola has one before and after a step at any inner_lr but 1 / l1. On x/4 - cos x - cos 3x, where l1 = 10, the
    count over a period is the same at 0.95 / l1, and triples by 1.2 / l1. On the whole line a polynomial of degree
    above 2 has l1 = infinity: the double well gets 8 more at any inner_lr below 1/2, the smaller the farther out.

    Repaired: if inner_lr * l1 < 1 on a convex set with all of L's, both have the same ones there.
    """
    washboard = FUNCTIONS["washboard"]
    below, above = sweep(washboard, [0.95, 1.2])
    parabola = FUNCTIONS["parabola"]
    well = exact(composed_coefficients(FUNCTIONS["double-well"].coefficients, Fraction(1, 1000)))
    return {
        "washboard": float(len(washboard.stationary_points().kinds)),
        "washboard_after_a_step_below": float(len(below.points.kinds)),
        "washboard_after_a_step_above": float(len(above.points.kinds)),
        "parabola_extra_below": float(census(parabola, 0.5).n_extra),
        "parabola_extra_above": float(census(parabola, 3).n_extra),
        "double_well_after_a_step_on_the_line": float(len(well.kinds)),
        "double_well_nearest_extra": float(well.at.abs()[well.at.abs() > 1.5].min()),
    }


def sharp_minimisers() -> Figures:
    """Below Lemma 1: among MAML's minimisers are sharp ones and effective ones. Holds, and (27) says which.

    A minimiser of L with an eigenvalue lambda has lambda (1 - inner_lr lambda)^2 for MAML: flatter below 2 / lambda,
    sharper above. One that is only MAML's is mostly (in one variable: where inner_lr L'' is not 1) a point that the
    step takes to a stationary point of L; it has J^2 times that point's curvature, and after the step the same loss.
    On the double well (L'' = 2 at both minima) with inner_lr 1/5 the new ones are up to 12 times as sharp as L's, and
    as good on the support set.
    """
    well = FUNCTIONS["double-well"]
    rate = Fraction(1, 5)
    found = exact(composed_coefficients(well.coefficients, rate))
    minima = [at for at, kind in zip(found.at, found.kinds, strict=True) if kind == MINIMUM]
    new = [at for at in minima if abs(abs(float(at)) - 1) > 1e-9]
    curvature = [float(kept(well.loss, at, float(rate)).after) for at in new]
    at_one = kept(well.loss, _vector(1), float(rate))
    return {
        "curvature_of_a_minimum": float(at_one.before),
        "the_same_after_a_step": float(at_one.after),
        "the_same_after_a_step_of_six_fifths": float(kept(well.loss, _vector(1), 1.2).after),
        "new_minima": float(len(new)),
        "flattest_new": min(curvature),
        "sharpest_new": max(curvature),
        "largest_loss_of_a_new_one": max(float(composed(well.loss, float(rate))(at)) for at in new),
    }


def sum_over_tasks() -> Figures:
    """Section 2.2's title, "local minimizer of ERM implies that of MAML", for the sums (5) and (2). False.

    The last lines of Appendix B need a theta that is stationary for every task at once. Two tasks with curvatures 1 and
    3 and minima at 1 and -1: ERM's minimiser is -1/2, MAML's at inner_lr 1/5 is 1/7, and at -1/2 its gradient is -9/25.
    """
    found = two_tasks((1, 3), (1, -1), Fraction(1, 5))

    def task(curvature: float, minimum: float) -> Tensor:
        return gradient(lambda theta: (curvature / 2 * (theta - minimum) ** 2).sum(), _vector(float(found.erm)), 0.2)

    return {
        "erm_minimiser": float(found.erm),
        "maml_minimiser": float(found.maml),
        "maml_gradient_at_erm_minimiser": float(task(1, 1) + task(3, -1)) / 2,
    }


def query_set() -> Figures:
    """Lemma 1 is about L(theta'; D) with the D of the step. Holds, but MAML's loss (2) is taken on D', and then not.

    One task, support loss (theta - 1)^2 / 2, query loss (theta + 1)^2 / 2, inner_lr 1/5: MAML's minimiser is -3/2,
    neither the one's minimum nor the other's, and at the support set's its gradient is 8/5.
    """

    def maml(theta: Tensor) -> Tensor:
        adapted = theta - 0.2 * (theta - 1)
        return ((adapted + 1) ** 2 / 2).sum()

    at_support, at_query = (float(grad(maml)(_vector(minimum))) for minimum in (1, -1))
    return {
        "gradient_at_support_minimum": at_support,
        "gradient_at_query_minimum": at_query,
        "maml_minimiser": 1 - 2 * at_support / (at_support - at_query),  # the gradient is linear
    }


def _vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
