"""Losses on a plane: what is known of them in closed form, and their derivatives against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from sharp_maml_core import UserError
from sharp_maml_core.landscape.plane import PlaneLoss, TwoBowls, loss_at, spline
from tests.cases import draw

BOWLS = TwoBowls(((-0.4, 0.3), (1.0, 0.3)), ((16.0, 4.0), (0.5, 2.0)))
X, Y = torch.linspace(-1, 2, 9, dtype=torch.float64), torch.linspace(0, 3, 13, dtype=torch.float64)
VALUES = draw(9, 13, seed=0)
SPLINE = spline((X, Y), VALUES)
# Inside, on a knot, on the edge, in a corner, and beyond each side.
POINTS = [
    (0.31, 0.2),
    (0.5, 1.0),
    (-1.0, 0.6),
    (2.0, 3.0),
    (-1.7, 1.1),
    (2.4, 1.3),
    (0.1, -0.8),
    (0.7, 3.6),
    (3.1, 4.2),
]


def derivative(loss: PlaneLoss, x: float, y: float, order: int) -> np.ndarray:
    return np.array(loss.derivatives(x, y, order))


def hessian(loss: PlaneLoss, x: float, y: float) -> np.ndarray:
    xx, xy, yy = loss.derivatives(x, y, 2)
    return np.array([[xx, xy], [xy, yy]])


@pytest.mark.parametrize("loss", [BOWLS, SPLINE], ids=["bowls", "spline"])
@pytest.mark.parametrize("at", POINTS)
def test_both_derivatives_are_those_of_finite_differences(loss: PlaneLoss, at: tuple[float, float]) -> None:
    point = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: loss_at(loss, p), point, atol=1e-7)
    # Where the third derivative jumps by J, a central difference of the second is off by J eps / 4: by 1.01e-5 in the
    # corner, where J is 405. That is multiplied by what comes from above, which by default is drawn anew each time.
    above = torch.ones((), dtype=torch.float64, requires_grad=True)
    steps = {"eps": 1e-7, "atol": 1.1e-5} if loss is SPLINE else {"eps": 1e-6, "atol": 1e-7}
    assert torch.autograd.gradgradcheck(lambda p: loss_at(loss, p), point, above, **steps)


@pytest.mark.parametrize("centre", [0, 1])
def test_each_centre_of_the_bowls_is_a_minimum_of_known_curvature(centre: int) -> None:
    at = BOWLS.centres[centre]
    assert BOWLS.derivatives(*at, 0) == (0.0,)
    assert BOWLS.derivatives(*at, 1) == (0.0, 0.0)
    assert hessian(BOWLS, *at).tolist() == np.diag(BOWLS.curvatures[centre]).tolist()


def test_the_pass_between_the_bowls_is_where_the_cube_roots_put_it() -> None:
    (a, y), (b, _) = BOWLS.centres
    (sharp, _), (flat, _) = BOWLS.curvatures
    near, far = sharp ** (-1 / 3), flat ** (-1 / 3)
    x = a + (b - a) * near / (near + far)
    assert np.abs(derivative(BOWLS, x, y, 1)).max() < 1e-14
    low, high = np.linalg.eigvalsh(hessian(BOWLS, x, y))
    assert low < 0 < high


def test_the_bowls_grow_like_a_quadratic_far_away() -> None:
    assert derivative(BOWLS, 2e6, 1e6, 0) == pytest.approx(4 * derivative(BOWLS, 1e6, 5e5, 0), rel=1e-5)


def test_the_spline_goes_through_its_values() -> None:
    x, y = np.meshgrid(X.numpy(), Y.numpy(), indexing="ij")
    np.testing.assert_allclose(SPLINE.derivatives(x, y, 0)[0], VALUES.numpy(), atol=1e-13)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_along_a_line_of_the_grid_it_is_the_natural_cubic_spline_of_scipy(order: int) -> None:
    between = np.linspace(-1, 2, 50)
    row = CubicSpline(X.numpy(), VALUES[:, 4].numpy(), bc_type="natural")
    np.testing.assert_allclose(
        SPLINE.derivatives(between, np.full(50, float(Y[4])), order)[0], row(between, order), atol=1e-11
    )


def test_beyond_the_grid_it_goes_on_in_a_straight_line() -> None:
    (at_edge,), (slope, _) = SPLINE.derivatives(2.0, 1.1, 0), SPLINE.derivatives(2.0, 1.1, 1)
    assert SPLINE.derivatives(5.0, 1.1, 0)[0] == pytest.approx(at_edge + 3 * slope, rel=1e-13)
    assert SPLINE.derivatives(5.0, 1.1, 2)[0] == 0


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_spline_has_no_jump_up_to_the_second_derivative(order: int) -> None:
    for x, y in ((0.5, 0.83), (0.2, 1.5), (-1.0, 1.2), (0.4, 3.0)):
        below, above = (derivative(SPLINE, x + d, y + d, order) for d in (-1e-10, 1e-10))
        np.testing.assert_allclose(below, above, atol=1e-7)


@pytest.mark.parametrize("loss", [BOWLS, SPLINE], ids=["bowls", "spline"])
def test_points_mapped_by_vmap_are_the_points_one_by_one(loss: PlaneLoss) -> None:
    points = torch.tensor(POINTS, dtype=torch.float64)
    second = torch.func.jacrev(torch.func.grad(lambda point: loss_at(loss, point)))
    mapped = torch.func.vmap(second)(points)
    for point, found in zip(points, mapped, strict=True):
        assert torch.equal(found, torch.from_numpy(hessian(loss, *point.tolist())))


def test_a_third_derivative_is_refused_and_not_made_up() -> None:
    point = torch.tensor((0.1, 0.2), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss_at(BOWLS, point), point, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), point, create_graph=True)
    with pytest.raises(NotImplementedError, match="twice at most"):
        bend.sum().backward()


@pytest.mark.parametrize(
    ("values", "sentence"), [(VALUES[:2], "at least 3"), (VALUES * torch.nan, "finite numbers")], ids=["few", "nan"]
)
def test_a_spline_needs_three_points_and_finite_losses(values: torch.Tensor, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        spline((X[: len(values)], Y), values)
