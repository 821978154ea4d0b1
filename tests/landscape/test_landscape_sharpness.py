"""Sharpness (7): quadratics whose maximum on the ball is known, and what ascent finds of it."""

from __future__ import annotations

import pytest
import torch
from cases import SmoothNet, classification, draw, equal, moved, seeded, setting
from hypothesis import given
from hypothesis import strategies as st
from trust_region import trust_region

from sharp_maml_core import MLP, UserError
from sharp_maml_core.landscape.sharpness import in_weight_units, maximise, one_step
from sharp_maml_core.landscape.spectrum import expand, flat, lanczos, top_eigenpairs
from sharp_maml_core.landscape.surfaces import erm_surface, maml_surface, plain_maml
from sharp_maml_core.params import add_scaled, norm
from sharp_maml_core.sharpness import adaptive_perturbation


def symmetric(eigenvalues, seed=0):
    turn = torch.linalg.qr(draw(len(eigenvalues), len(eigenvalues), seed=seed))[0]
    return turn @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ turn.T


def quadratic(A, c, height=0.7):
    """The surface height + <c, theta> + 1/2 <theta, A theta> of one tensor."""
    return lambda params: height + c @ params["x"] + 0.5 * params["x"] @ A @ params["x"]


CONVEX, SADDLE, CONCAVE = (9.0, 4.0, 1.0, 0.5), (9.0, 8.0, -1.0, -20.0), (-1.0, -2.0, -3.0, -4.0)


# --- the exact maximum of a quadratic -----------------------------------------------------------------------------


@pytest.mark.parametrize("eigenvalues", [CONVEX, SADDLE, CONCAVE], ids=["convex", "saddle", "concave"])
@pytest.mark.parametrize("alpha", [1e-3, 0.3, 50.0])
def test_the_exact_maximum_has_its_certificate(eigenvalues, alpha) -> None:
    """(mu - H) e = g, mu - H positive semidefinite, mu >= 0, mu (||e|| - alpha) = 0: together they prove it."""
    H, g = symmetric(eigenvalues), draw(4, seed=9)
    rise, epsilon, mu = trust_region(g, H, alpha)
    torch.testing.assert_close(mu * epsilon - H @ epsilon, g, rtol=1e-10, atol=1e-10)
    assert mu >= 0
    assert mu - max(eigenvalues) >= -1e-12
    assert float(epsilon.norm()) <= alpha * (1 + 1e-12)
    assert mu * (alpha - float(epsilon.norm())) < 1e-10 * (1 + mu) * alpha
    assert rise == pytest.approx(float(g @ epsilon + 0.5 * epsilon @ H @ epsilon), rel=1e-11)


def test_a_concave_quadratic_has_its_maximum_inside() -> None:
    H, g = symmetric(CONCAVE), draw(4, seed=9)
    found = trust_region(g, H, 50.0)
    torch.testing.assert_close(found.epsilon, -torch.linalg.solve(H, g), rtol=1e-13, atol=0)
    assert found.multiplier < 1e-13


@pytest.mark.parametrize("slope", [0.0, 1e-17, 0.01])
def test_the_hard_case_goes_on_along_the_top_eigenvector(slope) -> None:
    """No slope to speak of along the steepest axis: e = (sqrt(alpha^2 - 0.1^2), g_2 / (5 - 2))."""
    g = torch.tensor([0.3, slope], dtype=torch.float64)
    found = trust_region(g, torch.diag(torch.tensor([2.0, 5.0], dtype=torch.float64)), 1.0)
    if slope < 0.01:
        assert found.epsilon.abs().tolist() == pytest.approx([0.1, 0.99**0.5], rel=1e-14)
        assert found.rise == pytest.approx(0.5 * 5 + 0.5 * 0.3 * 0.1, rel=1e-14)
    assert float(found.epsilon.norm()) == pytest.approx(1, rel=1e-12)


def test_without_slope_and_curvature_nothing_rises() -> None:
    assert trust_region(torch.zeros(3).double(), torch.zeros(3, 3).double(), 1.0).rise == 0
    assert trust_region(torch.zeros(2).double(), symmetric((-1.0, -2.0)), 1.0).rise == 0
    linear = trust_region(torch.tensor([3.0, 4.0]).double(), torch.zeros(2, 2).double(), 2.0)
    assert linear.rise == pytest.approx(10, rel=1e-14)


@given(st.integers(0, 10_000))
def test_no_point_of_the_ball_is_higher(seed) -> None:
    numbers = draw(4, seed=seed)
    H, g = symmetric(tuple((5 * numbers).tolist()), seed), draw(4, seed=seed + 1)
    found = trust_region(g, H, 0.5)
    points = draw(500, 4, seed=seed + 2)
    points = 0.5 * points / points.norm(dim=1, keepdim=True) * torch.linspace(0, 1, 500)[:, None]
    rises = points @ g + 0.5 * (points @ H * points).sum(1)
    assert float(rises.max()) <= found.rise


# --- one step -----------------------------------------------------------------------------------------------------


def test_one_step_is_eq_8a() -> None:
    A, c, x = symmetric(SADDLE), draw(4, seed=1), draw(4, seed=2)
    found = one_step(quadratic(A, c), {"x": x}, 0.3)
    g = c + A @ x
    epsilon = 0.3 * g / g.norm()
    torch.testing.assert_close(found.epsilon["x"], epsilon, rtol=1e-14, atol=0)
    assert found.linear == pytest.approx(0.3 * float(g.norm()), rel=1e-14)
    assert found.rise == pytest.approx(float(g @ epsilon + 0.5 * epsilon @ A @ epsilon), rel=1e-12)


def test_one_step_sees_nothing_at_a_stationary_point_and_ascent_does() -> None:
    surface, zero = quadratic(symmetric(CONVEX), torch.zeros(4).double()), {"x": torch.zeros(4).double()}
    assert one_step(surface, zero, 0.2)[:2] == (0.0, 0.0)
    found = maximise(surface, zero, 0.2, steps=60, restarts=1, generator=seeded(0))
    assert found.rise == pytest.approx(0.5 * 9 * 0.2**2, rel=1e-9)


# --- ascent -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eigenvalues", [CONVEX, SADDLE, CONCAVE], ids=["convex", "saddle", "concave"])
@pytest.mark.parametrize("alpha", [0.01, 0.3, 3.0])
def test_ascent_finds_the_exact_maximum_of_a_quadratic(eigenvalues, alpha) -> None:
    A, c, x = symmetric(eigenvalues), draw(4, seed=1), draw(4, seed=2)
    found = maximise(quadratic(A, c), {"x": x}, alpha, steps=200, restarts=2, generator=seeded(0))
    exact = trust_region(c + A @ x, A, alpha)
    assert found.rise == pytest.approx(exact.rise, rel=1e-9)
    assert float(norm(found.epsilon)) <= alpha * (1 + 1e-15)
    if exact.multiplier > 1e-9:
        assert found.alignment == pytest.approx(1, abs=1e-7)
        assert found.multiplier == pytest.approx(exact.multiplier, rel=1e-3)
        assert found.multiplier >= max(eigenvalues)  # which certifies it


def test_more_steps_never_find_less_and_none_are_the_one_step() -> None:
    A, c, x = symmetric(CONVEX), 0.1 * draw(4, seed=1), 0.1 * draw(4, seed=2)
    rises = [
        maximise(quadratic(A, c), {"x": x}, 1.0, steps=steps, restarts=0, generator=seeded(0)).rise
        for steps in (0, 1, 2, 4, 8, 16)
    ]
    assert rises[0] == pytest.approx(one_step(quadratic(A, c), {"x": x}, 1.0).rise, rel=1e-14)
    assert rises == sorted(rises)
    assert rises[-1] > 1.02 * rises[0]


def test_a_restart_finds_the_higher_of_two_hills() -> None:
    """Two bumps, at distance 1: the gradient at 0 points to the low one."""

    def surface(params):
        at = params["x"]
        low, high = at - torch.tensor([1.0, 0.0]).double(), at - torch.tensor([-1.0, 0.0]).double()
        return torch.exp(-2 * low @ low) + 0.01 * at[0] + 3 * torch.exp(-20 * high @ high)

    zero = {"x": torch.zeros(2).double()}
    alone = maximise(surface, zero, 1.0, steps=40, restarts=0, generator=seeded(0))
    helped = maximise(surface, zero, 1.0, steps=40, restarts=6, generator=seeded(0))
    assert float(alone.epsilon["x"][0]) > 0.8
    assert float(helped.epsilon["x"][0]) < -0.8
    assert helped.rise > alone.rise + 1.5


def test_a_summit_under_the_feet_leaves_nothing_to_find() -> None:
    surface, zero = quadratic(symmetric(CONCAVE), torch.zeros(4).double()), {"x": torch.zeros(4).double()}
    found = maximise(surface, zero, 0.5, steps=3, restarts=2, generator=seeded(0))
    assert (found.rise, found.alignment, found.multiplier) == (0.0, 0.0, 0.0)
    assert float(norm(found.epsilon)) == 0


def test_ascent_on_a_maml_loss_reports_what_the_loss_is_there() -> None:
    learner = plain_maml(setting("maml"), SmoothNet())
    params = moved(learner.init(seeded(0)))
    surface = maml_surface(learner, classification((1, 8, 8), n_tasks=1))
    step = one_step(surface, params, 0.1)
    found = maximise(surface, params, 0.1, steps=10, restarts=0, generator=seeded(0))
    there = float(surface(add_scaled(params, found.epsilon, 1.0)) - surface(params))
    assert found.rise == pytest.approx(there, rel=1e-13)
    assert found.rise > 1.02 * step.rise
    assert found.alignment == pytest.approx(1, abs=1e-8)
    assert float(norm(found.epsilon)) == pytest.approx(0.1, rel=1e-14)


def test_the_same_seed_gives_the_same_bits() -> None:
    surface, at = quadratic(symmetric(SADDLE), draw(4, seed=1)), {"x": draw(4, seed=2)}
    first, again = (maximise(surface, at, 1.0, steps=5, restarts=2, generator=seeded(3)) for _ in range(2))
    assert first.rise == again.rise
    assert equal(first.epsilon, again.epsilon)


# --- in units of the weights --------------------------------------------------------------------------------------


def test_adaptive_sharpness_takes_the_step_of_asam() -> None:
    learner = plain_maml(setting("maml"), MLP(5, 3, width=6))
    params = moved(learner.init(seeded(0)))
    surface = erm_surface(learner, classification(n_tasks=1))
    gradient = torch.func.grad(surface)(params)
    expected = adaptive_perturbation(gradient, params, 0.3)
    found = one_step(*in_weight_units(surface, params), 0.3)
    epsilon = {name: params[name].abs() * value for name, value in found.epsilon.items()}
    torch.testing.assert_close(flat(epsilon), flat(expected), rtol=1e-13, atol=1e-16)
    rise = float(surface(add_scaled(params, expected, 1.0)) - surface(params))
    assert found.rise == pytest.approx(rise, rel=1e-12)


def test_the_hessian_in_weight_units_is_scaled_on_both_sides() -> None:
    A, x = symmetric(SADDLE), draw(4, seed=2)
    surface, zero = in_weight_units(quadratic(A, draw(4, seed=1)), {"x": x})
    expansion = expand(surface, zero)
    built = torch.stack([expansion.hvp(v) for v in torch.eye(4).double()])
    torch.testing.assert_close(built, x.abs()[:, None] * A * x.abs(), rtol=1e-14, atol=1e-14)
    top = top_eigenpairs(surface, zero, 1, steps=4, generator=seeded(0)).values[0]
    assert top == pytest.approx(float(torch.linalg.eigvalsh(built)[-1]), rel=1e-13)
    assert lanczos(expansion, 4, seeded(0)).residual < 1e-12


# --- what cannot be used ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_a_radius_that_is_none_is_refused(alpha) -> None:
    surface, at = quadratic(symmetric(SADDLE), draw(4, seed=1)), {"x": draw(4, seed=2)}
    for measure in (
        lambda: one_step(surface, at, alpha),
        lambda: maximise(surface, at, alpha, steps=1, restarts=0, generator=seeded(0)),
    ):
        with pytest.raises(UserError, match=f"alpha={alpha} is not allowed: it must be .*above 0"):
            measure()


def test_other_numbers_out_of_range_are_refused() -> None:
    surface, at = quadratic(symmetric(SADDLE), draw(4, seed=1)), {"x": draw(4, seed=2)}
    with pytest.raises(UserError, match="steps=-1"):
        maximise(surface, at, 1.0, steps=-1, restarts=0, generator=seeded(0))
    with pytest.raises(UserError, match="restarts=-1"):
        maximise(surface, at, 1.0, steps=1, restarts=-1, generator=seeded(0))


def test_a_ball_that_leaves_the_domain_is_refused() -> None:
    at = {"x": torch.full((3,), 0.5).double()}
    with pytest.raises(UserError, match=r"in the whole ball\. Lower alpha"):
        maximise(lambda p: -p["x"].log().sum(), at, 1.0, steps=3, restarts=0, generator=seeded(0))
