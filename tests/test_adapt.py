"""The inner loop and its adjoint on a quadratic problem, against NumPy; what adapts is `u`, the context is `c`.

L(u, c; D) = 1/2 (u - M c)^T A (u - M c), so that derivatives by the context are not trivial either.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import equal

from sharp_maml_core.adapt import InnerRule, Look, Problem, adapt, task_gradient

RNG = np.random.default_rng(4)
ROOT, QUERY_ROOT, M, Q = RNG.normal(size=(4, 4, 4)) / 2
A, B = ROOT.T @ ROOT, QUERY_ROOT.T @ QUERY_ROOT
U, C = RNG.normal(size=(2, 4))
BETA, ALPHA = 0.3, 0.25
I = np.eye(4)  # noqa: E741


def tensor(value):
    return torch.from_numpy(np.asarray(value))


def residuals(fast, context, root, centre):
    return tensor(root) @ (torch.cat([fast["a"], fast["b"]]) - tensor(centre) @ context["c"])


def problem() -> Problem:
    def support_losses(fast, context):
        return 0.5 * residuals(fast, context, ROOT, M) ** 2

    def support_loss(fast, context, samples=None):
        losses = support_losses(fast, context)
        return losses.sum() if samples is None else losses[samples].sum()

    def query_loss(fast, context):
        outputs = residuals(fast, context, QUERY_ROOT, Q)
        return 0.5 * (outputs**2).sum(), outputs

    return Problem(support_loss, support_losses, query_loss)


def fast_and_context():
    u, c = tensor(U), tensor(C)
    return {"a": u[:1], "b": u[1:]}, {"c": c}


def vector(params):
    return torch.cat([params["a"], params["b"]]).numpy()


def run(rule, **given):
    return task_gradient(rule, problem(), *fast_and_context(), **given)


def gradient(u, hessian=A):
    return hessian @ (u - M @ C)


def epsilon(u):
    return ALPHA * gradient(u) / np.linalg.norm(gradient(u))


def test_looks_are_eq_11_at_every_step_and_their_norm_is_the_radius():
    outcome = run(InnerRule(BETA, 3, alpha_low=ALPHA))
    u = U
    for look in outcome.looks:
        np.testing.assert_allclose(vector(look.epsilon), epsilon(u), rtol=1e-13)
        assert np.linalg.norm(vector(look.epsilon)) == pytest.approx(ALPHA, rel=1e-15)
        assert look.samples == ()
        u = u - BETA * gradient(u + epsilon(u))
    assert len(outcome.looks) == 3


def test_no_perturbation_no_looks():
    assert run(InnerRule(BETA, 2)).looks == []


@pytest.mark.parametrize("steps", [1, 2, 6])
@pytest.mark.parametrize("radius", [0.0, ALPHA])
def test_the_derivative_by_the_context(steps, radius):
    """u_{s+1} = J u_s + (I - J) M c + const, J = I - beta A: d u_S / dc = (I - J^S) M, then the query's own c."""
    outcome = run(InnerRule(BETA, steps, alpha_low=radius))
    power = np.linalg.matrix_power(I - BETA * A, steps)
    u = vector(adapt(InnerRule(BETA, steps, alpha_low=radius), problem(), *fast_and_context()))
    query = B @ (u - Q @ C)
    np.testing.assert_allclose(vector(outcome.fast_gradient), power @ query, rtol=1e-12)
    by_context = ((I - power) @ M).T @ query - Q.T @ query
    np.testing.assert_allclose(outcome.context_gradient["c"], by_context, rtol=1e-12)


def test_first_order_keeps_the_querys_own_derivative_by_the_context():
    rule = InnerRule(BETA, 3, first_order=True)
    query = B @ (vector(adapt(rule, problem(), *fast_and_context())) - Q @ C)
    outcome = run(rule)
    np.testing.assert_allclose(vector(outcome.fast_gradient), query, rtol=1e-13)
    np.testing.assert_allclose(outcome.context_gradient["c"], -Q.T @ query, rtol=1e-13)


def test_given_looks_replace_the_perturbations_eq_14():
    given = RNG.normal(size=(2, 4))
    looks = [Look({"a": tensor(eps[:1]), "b": tensor(eps[1:])}, ()) for eps in given]
    outcome = run(InnerRule(BETA, 2, alpha_low=ALPHA, through=True), looks=looks)
    u = U
    for eps in given:
        u = u - BETA * gradient(u + eps)
    # Even under `through` a perturbation that is given is a number: Eq. 10 as it stands.
    expected = np.linalg.matrix_power(I - BETA * A, 2) @ B @ (u - Q @ C)
    np.testing.assert_allclose(vector(outcome.fast_gradient), expected, rtol=1e-13)
    assert outcome.looks[0] is looks[0]
    assert outcome.looks[1] is looks[1]


def test_masks_act_on_the_perturbation_and_not_on_the_descent():
    """ESAM's weight perturbation: eps = mask * eps_m / xi; the step is that of all weights."""
    mask = np.array([1.0, 0.0, 1.0, 0.0])
    rule = InnerRule(BETA, 1, alpha_low=ALPHA, weight_fraction=0.5)
    masks = [{"a": tensor(mask[:1]), "b": tensor(mask[1:])}]
    expected = U - BETA * gradient(U + mask * epsilon(U) / 0.5)
    np.testing.assert_allclose(vector(adapt(rule, problem(), *fast_and_context(), masks)), expected, rtol=1e-13)
    np.testing.assert_allclose(vector(run(rule, masks=masks).looks[0].epsilon), mask * epsilon(U) / 0.5, rtol=1e-13)


def test_the_gradient_is_taken_of_the_samples_whose_loss_rose_most():
    """ESAM's data selection: the perturbation is that of all samples, the descent that of the selected."""
    rule = InnerRule(BETA, 1, alpha_low=ALPHA, sample_fraction=0.5)
    before, after = (0.5 * (ROOT @ (u - M @ C)) ** 2 for u in (U, U + epsilon(U)))
    chosen = np.argsort(before - after)[:2]
    part = ROOT[chosen].T @ ROOT[chosen]
    outcome = run(rule)
    assert set(outcome.looks[0].samples[0].tolist()) == set(chosen)
    adapted = U - BETA * gradient(U + epsilon(U), part)
    np.testing.assert_allclose(vector(adapt(rule, problem(), *fast_and_context())), adapted, rtol=1e-13)
    expected = (I - BETA * part) @ B @ (adapted - Q @ C)
    np.testing.assert_allclose(vector(outcome.fast_gradient), expected, rtol=1e-12)


@pytest.mark.parametrize("through", [False, True])
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_zero_gradient_perturbs_by_zero(through, adaptive):
    """At the minimum of the support loss nothing moves, and the derivative is the plain one; no NaN anywhere."""
    rule = InnerRule(BETA, 2, alpha_low=ALPHA, through=through, adaptive=adaptive)
    zero = {"a": torch.zeros(1).double(), "b": torch.zeros(3).double()}
    outcome = task_gradient(rule, problem(), zero, {"c": torch.zeros(4).double()})
    assert all(equal(look.epsilon, zero) for look in outcome.looks)
    assert equal(outcome.fast_gradient, zero)
    shifted = Problem(problem().support_loss, problem().support_losses, lambda fast, _: (fast["b"].sum(), fast["b"]))
    got = task_gradient(rule, shifted, zero, {"c": torch.zeros(4).double()}).fast_gradient
    ones = np.array([0.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(vector(got), np.linalg.matrix_power(I - BETA * A, 2) @ ones, rtol=1e-13)


@pytest.mark.parametrize("first_order", [False, True])
def test_no_steps_are_the_plain_gradient_of_the_query_loss(first_order):
    outcome = run(InnerRule(BETA, 0, alpha_low=ALPHA, first_order=first_order))
    query = B @ (U - Q @ C)
    np.testing.assert_allclose(vector(outcome.fast_gradient), query, rtol=1e-13)
    np.testing.assert_allclose(outcome.context_gradient["c"], -Q.T @ query, rtol=1e-13)
    np.testing.assert_allclose(outcome.outputs, QUERY_ROOT @ (U - Q @ C), rtol=1e-13)
    assert float(outcome.query_loss) == pytest.approx(0.5 * (U - Q @ C) @ query, rel=1e-14)


def test_nothing_given_is_changed():
    fast, context = fast_and_context()
    before = {name: value.clone() for name, value in (fast | context).items()}
    rule = InnerRule(BETA, 2, alpha_low=ALPHA, through=True)
    adapt(rule, problem(), fast, context)
    task_gradient(rule, problem(), fast, context)
    assert equal(fast | context, before)
