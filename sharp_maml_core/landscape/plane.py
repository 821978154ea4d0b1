r"""Losses on a plane: a closed form and a spline, with the two derivatives that Eq. 10 needs.

Value, gradient and Hessian are formulas, and autograd is told so: a dozen operations, and the graphs of their
derivatives, become one, and a walk can be computed anew while a slider moves. A third derivative is refused.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from ..checks import at_least, check, check_finite
from ..derivatives import transforming

Array = npt.NDArray[np.float64]
Entries = tuple[Any, ...]
"""The derivatives of one order, floats at one point or arrays at many: (f,), (f_x, f_y) or (f_xx, f_xy, f_yy)."""


class PlaneLoss(Protocol):
    """A loss at (x, y), two floats or two arrays of one shape; `order` is 0, 1 or 2."""

    def derivatives(self, x: Any, y: Any, order: int) -> Entries: ...


class TwoBowls(NamedTuple):
    r"""The harmonic sum of two quadratic bowls, f = a b / (a + b), with

        a = 1/2 (k_x (x - c_x)^2 + k_y (y - c_y)^2)

    around the first centre c with the first curvatures k, and b around the second likewise.

    Near one centre f is that bowl up to terms of fourth order, so both centres are minima of value 0, with exactly
    diag(k_x, k_y) of that bowl as Hessian. Where the centres have one y in common the only other stationary point in
    the plane is a saddle between them, whose distances to the two are as k_x^(-1/3) of the one to that of the other.
    Far away f grows like a quadratic.
    """

    centres: tuple[tuple[float, float], tuple[float, float]]
    curvatures: tuple[tuple[float, float], tuple[float, float]]

    def derivatives(self, x: Any, y: Any, order: int) -> Entries:
        (cx, cy), (dx, dy) = self.centres
        (kx, ky), (lx, ly) = self.curvatures
        ax, ay, bx, by = kx * (x - cx), ky * (y - cy), lx * (x - dx), ly * (y - dy)
        a, b = (ax * (x - cx) + ay * (y - cy)) / 2, (bx * (x - dx) + by * (y - dy)) / 2
        total = a + b
        if order == 0:
            return (a * b / total,)
        # Products instead of powers: of floats and of arrays they are the same to the last bit.
        by_a, by_b = (b / total) * (b / total), (a / total) * (a / total)
        if order == 1:
            return by_a * ax + by_b * bx, by_a * ay + by_b * by
        # f's second derivatives by a and b are -2/total^3 * (b^2, -a b, a^2): a square.
        ux, uy, bend = b * ax - a * bx, b * ay - a * by, -2 / (total * total * total)
        return by_a * kx + by_b * lx + bend * ux * ux, bend * ux * uy, by_a * ky + by_b * ly + bend * uy * uy


class Spline(NamedTuple):
    r"""The tensor product of natural cubic splines: twice continuously differentiable, everywhere.

    At its ends a natural spline has no curvature, so it can go on as a straight line, and beyond its grid it does.

    low, step  the first point of the grid and the distance to the next, one an axis
    pieces     [4, 4, cells in x, cells in y], in each cell the coefficients of (1, s, s^2, s^3) x (1, t, t^2, t^3),
               where s and t are the distances from the cell's lower corner
    """

    low: tuple[float, float]
    step: tuple[float, float]
    pieces: Array

    def derivatives(self, x: Any, y: Any, order: int) -> Entries:
        i, along_x = _powers(x, self.low[0], self.step[0], self.pieces.shape[2])
        j, along_y = _powers(y, self.low[1], self.step[1], self.pieces.shape[3])
        piece = self.pieces[:, :, i, j]  # [4, 4] or [4, 4, ...]
        rows = piece.tolist() if piece.ndim == 2 else piece  # Python's floats are a few times faster than NumPy's
        return tuple(_product(along_x[order - n], rows, along_y[n]) for n in range(order + 1))


def spline(coordinates: tuple[Tensor, ...], losses: Tensor) -> Spline:
    """The spline through the losses of a slice on a plane: [points, points], at those coordinates, one tensor an axis.

    Raises UserError for fewer than 3 points, and for a loss that is not finite.
    """
    check("points", min(losses.shape), at_least(3))
    check_finite("losses", losses)
    x, y = (c.numpy() for c in coordinates)
    pieces = CubicSpline(x, losses.double().numpy(), bc_type="natural").c[::-1]  # [4, cells in x, len(y)]
    pieces = CubicSpline(y, pieces, axis=2, bc_type="natural").c[::-1]  # [4, cells in y, 4, cells in x]
    return Spline(
        (float(x[0]), float(y[0])),
        (float(x[1] - x[0]), float(y[1] - y[0])),
        np.ascontiguousarray(pieces.transpose(2, 0, 3, 1)),
    )


def loss_at(loss: PlaneLoss, point: Tensor) -> Tensor:
    """The loss at a point, float64 [2] on the CPU: a scalar that can be differentiated twice, and mapped by vmap."""
    return _derivative(point, loss, 0)


def _powers(x: Any, low: float, step: float, cells: int) -> tuple[Any, tuple[list[Any], list[Any], list[Any]]]:
    """The cell of x, and there (1, s, s^2, s^3) with its first and its second derivative."""
    cell = _within((x - low) // step, cells - 1.0)
    s = x - low - cell * step
    inside = _within(s, step)
    beyond = s - inside
    slopes = [0.0, 1.0, 2 * inside, 3 * inside * inside]
    powers = [1.0, inside + beyond, inside * (inside + 2 * beyond), inside * inside * (inside + 3 * beyond)]
    curved = 1.0 * (beyond == 0)
    return np.int64(cell), (powers, slopes, [0.0, 0.0, 2 * curved, 6 * inside * curved])


def _within(x: Any, high: float) -> Any:
    """The value of [0, high] next to x, a float or an array."""
    return min(max(0.0, x), high) if isinstance(x, float) else np.clip(x, 0.0, high)


def _product(u: list[Any], rows: Any, v: list[Any]) -> Any:
    """u^T C v for C given by its rows; the entries are floats or arrays."""
    return sum(a * (b0 * v[0] + b1 * v[1] + b2 * v[2] + b3 * v[3]) for a, (b0, b1, b2, b3) in zip(u, rows, strict=True))


def _derivative(point: Tensor, loss: PlaneLoss, order: int) -> Tensor:
    """The derivatives of one order, as a tensor that can be differentiated: point [2] -> [], [2] or [2, 2]."""
    # Only the one kind can be mapped; binding its arguments by name alone took about a fifth of a walk's time.
    kind = _Mapped if transforming() else _Derivative
    return kind.apply(point, loss, order)


def _tensor(point: Tensor, loss: PlaneLoss, order: int) -> Tensor:
    """The same for points [..., 2], as numbers."""
    if order > 2:
        raise NotImplementedError("a loss on a plane is differentiated twice at most")
    x, y = point.tolist() if point.dim() == 1 else point.numpy().T
    entries: Any = loss.derivatives(x, y, order)
    if order == 0:
        return torch.from_numpy(np.array(entries[0]))
    if order == 1:
        return torch.from_numpy(np.array(entries).T)
    xx, xy, yy = entries
    return torch.from_numpy(np.array(((xx, xy), (xy, yy))).T)  # symmetric, so the order of its own axes is no matter


class _Derivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, point: Tensor, loss: PlaneLoss, order: int) -> Tensor:
        _Mapped.setup_context(ctx, (point, loss, order), point)
        return _tensor(point, loss, order)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None, None]:
        (point,) = ctx.saved_tensors
        slope = _derivative(point, ctx.loss, ctx.order + 1)
        return slope @ v if ctx.order else slope * v, None, None


class _Mapped(torch.autograd.Function):
    """The same in the form that vmap and torch.func.grad ask for."""

    @staticmethod
    def forward(point: Tensor, loss: PlaneLoss, order: int) -> Tensor:
        return _tensor(point, loss, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        point, ctx.loss, ctx.order = inputs
        ctx.save_for_backward(point)

    backward = _Derivative.backward

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], point: Tensor, loss: PlaneLoss, order: int) -> tuple[Tensor, int]:
        return _Mapped.apply(point.movedim(in_dims[0], 0), loss, order), 0
