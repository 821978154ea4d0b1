"""All stationary points of a function in a box, and what each of them is; `polynomials` does it exactly.

Newton's method is started from a grid, and the search is checked by a count that knows nothing of it: the degree of the
gradient around a cell (in 1-D half its change of sign, in 2-D its winding number) is the sum over the stationary points
inside of the sign of the Hessian's determinant (Poincaré-Hopf).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

from ..checks import Allowed, at_least, check
from ..errors import invalid

MINIMUM, SADDLE, MAXIMUM, DEGENERATE = KINDS = ("minimum", "saddle", "maximum", "degenerate")

Box = tuple[tuple[float, float], ...]
"""(low, high) of each coordinate."""

ZERO = 1e-7  # an eigenvalue is zero below this share of the largest: Newton finds double roots to about 1e-8
SAME = 1e-6  # two points are one below this share of the box
SMALL = 1e-11  # a gradient is zero below this share of the median gradient at the starts
_NEWTON_STEPS = 40  # a triple root comes nearer by a third each step
_CHECKS = 8
_STARTS_IN_CELL = 16  # per coordinate
_PIECES, _HALVINGS = 16, 40  # of the edge of a cell


class Inertia(NamedTuple):
    """How many eigenvalues of a Hessian are negative, zero and positive."""

    negative: int
    zero: int
    positive: int


class Points(NamedTuple):
    """The stationary points in a box.

    at        float64 [n, d], sorted by the first coordinate
    kinds     minimum, saddle, maximum or degenerate, of each
    complete  whether every cell's degree is the sum of the indices that were found in it; exact roots always are
    """

    at: Tensor
    kinds: tuple[str, ...]
    complete: bool

    def count(self, kind: str) -> int:
        return self.kinds.count(kind)


def inertia(hessian: Tensor, zero: float = ZERO) -> Inertia:
    """Of a symmetric matrix [d, d]; eigenvalues of at most `zero` times the largest in modulus count as zero."""
    return Inertia(*_signs(hessian[None], zero)[0].tolist())


def kind(signs: Inertia) -> str:
    """What a stationary point with this Hessian is; degenerate if the Hessian cannot tell."""
    if signs.zero:
        return DEGENERATE
    return SADDLE if signs.negative and signs.positive else MAXIMUM if signs.negative else MINIMUM


def search(loss: Callable[[Tensor], Tensor], box: Box, *, starts: int = 24, cells: int = 16, seed: int = 0) -> Points:
    """The stationary points in a box of a function of one or two variables, [d] float64 to a scalar.

    Newton's method starts from a grid, and again in every cell whose degree is not explained by what was found, until
    all are; each check draws the cells anew, because a line that runs through a stationary point decides nothing. Eight
    checks without an end make `complete` false. A cell with a degenerate point is taken for explained, for such a point
    may have any index; and two points of opposite index in one cell may be missed.

    starts  of the grid, per coordinate
    cells   per coordinate; `seed` moves their borders

    Raises UserError for a box of another dimension, an empty side, or fewer than one start or cell.
    """
    check("box", box, Allowed("one or two pairs (low, high)", lambda box: len(box) in (1, 2)))
    for low, high in box:
        check("box", high - low, Allowed("of positive width", lambda width: width > 0))
    check("starts", starts, at_least(1))
    check("cells", cells, at_least(1))
    gradient, hessian = vmap(grad(loss)), vmap(jacrev(grad(loss)))
    first = _grid([torch.linspace(low, high, starts, dtype=torch.float64) for low, high in box])
    scale = float(gradient(first).norm(dim=1).median())
    found = _newton(gradient, hessian, first, box, scale)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(_CHECKS):
        lines = [_lines(low, high, cells, generator) for low, high in box]
        degrees = _degrees_1d(gradient, *lines) if len(box) == 1 else _degrees_2d(gradient, *lines)
        missing = _unexplained(degrees, found, hessian, lines)
        if complete := not missing.any():
            break
        more = [_inside(lines, cell) for cell in (missing > 0).nonzero().tolist()]
        if more:
            found = _distinct(torch.cat([found, _newton(gradient, hessian, torch.cat(more), box, scale)]), box)
    kinds = tuple(kind(Inertia(*signs)) for signs in _signs(hessian(found), ZERO).tolist()) if len(found) else ()
    return Points(found, kinds, complete)


def descend(loss: Callable[[Tensor], Tensor], start: Tensor, *, small: float, steps: int = 500) -> Tensor:
    """A stationary point of a function of many variables, [d] float64: the end of a damped Newton descent.

    The step is -(|H| + mu)^-1 grad with the eigenvalues' moduli, so that saddles repel, and mu falls after a step that
    lowered the loss and grows after one that did not. Returns the first point with a gradient norm of at most `small`.

    Raises UserError if there is none within `steps` steps, as where the infimum is at infinity.
    """
    check("small", small, Allowed("above 0", lambda value: value > 0))
    slope, curvature = grad(loss), jacrev(grad(loss))
    theta, value, mu = start, float(loss(start)), 1e-2
    for _ in range(steps):
        g = slope(theta)
        if g.norm() <= small:
            return theta
        eigenvalues, vectors = torch.linalg.eigh(curvature(theta))
        along = vectors.T @ g
        while mu < 1e12:
            trial = theta - vectors @ (along / (eigenvalues.abs() + mu))
            reached = float(loss(trial))
            # Near the end the loss no longer falls in its last digit, but the gradient does.
            if reached < value or (reached <= value + 1e-14 * abs(value) and slope(trial).norm() < g.norm()):
                break
            mu *= 4
        theta, value, mu = trial, reached, max(mu / 10, 1e-15)
    raise invalid("start", f"a point with gradient norm {float(slope(theta).norm()):.1e} after {steps} steps",
                  f"near a stationary point: a gradient norm of at most {small}")  # fmt: skip


def _signs(hessians: Tensor, zero: float) -> Tensor:
    """Inertia of symmetric matrices [n, d, d]: int64 [n, 3]."""
    eigenvalues = torch.linalg.eigvalsh((hessians + hessians.mT) / 2)
    tolerance = zero * eigenvalues.abs().amax(1, keepdim=True)
    negative, positive = (eigenvalues < -tolerance).sum(1), (eigenvalues > tolerance).sum(1)
    return torch.stack([negative, hessians.shape[1] - negative - positive, positive], 1)


def _grid(axes: Sequence[Tensor]) -> Tensor:
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


def _newton(
    gradient: Callable[[Tensor], Tensor], hessian: Callable[[Tensor], Tensor], starts: Tensor, box: Box, scale: float
) -> Tensor:
    """Where Newton's method leads from the starts, as far as it is in the box and stationary."""
    low, high = torch.tensor(box, dtype=torch.float64).T
    longest = 0.1 * float((high - low).norm())
    ends: list[Tensor] = []
    x = starts
    for _ in range(_NEWTON_STEPS):
        g = gradient(x)
        step, info = torch.linalg.solve_ex(hessian(x), g)
        length = step.norm(dim=1, keepdim=True)
        moved = x - step * (longest / length).clamp(max=1)
        near = ((moved - x).norm(dim=1) <= 1e-14 * longest) | (g.norm(dim=1) == 0)
        ends.append(torch.where((g.norm(dim=1) == 0)[:, None], x, moved)[near])
        outside = ((moved < low - longest) | (moved > high + longest)).any(1)
        x = moved[~near & ~outside & (info == 0) & moved.isfinite().all(1)]
        if not len(x):
            break
    x = torch.cat([*ends, x])
    x = x[((x >= low) & (x <= high)).all(1)]
    return _distinct(x[gradient(x).norm(dim=1) <= SMALL * scale] if len(x) else x, box)


def _distinct(x: Tensor, box: Box) -> Tensor:
    """One of each cluster of points, sorted."""
    same = SAME * max(high - low for low, high in box)
    kept: list[Tensor] = []
    while len(x):
        near = (x - x[0]).norm(dim=1) <= same
        kept.append(x[0])
        x = x[~near]
    points = torch.stack(kept) if kept else x
    return points[points[:, 0].argsort()] if len(points) else points


def _lines(low: float, high: float, cells: int, generator: torch.Generator) -> Tensor:
    """Borders of the cells, [cells + 1], off the places where symmetric functions have their stationary points."""
    lines = torch.linspace(low, high, cells + 1, dtype=torch.float64)
    moves = torch.rand(cells - 1, generator=generator, dtype=torch.float64) - 0.5
    lines[1:-1] += 0.6 * moves * (high - low) / cells
    return lines


def _inside(lines: list[Tensor], cell: list[int]) -> Tensor:
    """A grid of starts in a cell."""
    t = torch.linspace(0, 1, _STARTS_IN_CELL, dtype=torch.float64)
    return _grid([torch.lerp(axis[i], axis[i + 1], t) for axis, i in zip(lines, cell, strict=True)])


def _degrees_1d(gradient: Callable[[Tensor], Tensor], lines: Tensor) -> Tensor:
    signs = gradient(lines[:, None])[:, 0].sign()
    return (signs[1:] - signs[:-1]) / 2


def _degrees_2d(gradient: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Winding number of the gradient around each cell, [cells, cells]; NaN where an edge comes too near to a zero."""
    corners = torch.stack(torch.meshgrid(x, y, indexing="ij"), -1)  # [c+1, c+1, 2]
    along_x = _turning(gradient, corners[:-1], corners[1:])  # [c, c+1]
    along_y = _turning(gradient, corners[:, :-1], corners[:, 1:])  # [c+1, c]
    return ((along_x[:, :-1] + along_y[1:] - along_x[:, 1:] - along_y[:-1]) / (2 * math.pi)).round()


def _turning(gradient: Callable[[Tensor], Tensor], start: Tensor, end: Tensor) -> Tensor:
    """The angle by which the gradient turns from start [..., 2] to end along the segment.

    Pieces over which it turns by more than a right angle's two thirds are halved, for it turns at once where a valley
    is crossed; NaN where that does not end.
    """
    shape = start.shape[:-1]
    start, end = start.reshape(-1, 2), end.reshape(-1, 2)
    t = torch.linspace(0, 1, _PIECES + 1, dtype=torch.float64)
    edge = torch.arange(len(start)).repeat_interleave(_PIECES)
    left, right = t[:-1].repeat(len(start)), t[1:].repeat(len(start))
    turned = torch.zeros(len(start), dtype=torch.float64)
    for _ in range(_HALVINGS):
        g = [gradient(torch.lerp(start[edge], end[edge], at[:, None])) for at in (left, right)]
        angle = torch.atan2(g[1][:, 1], g[1][:, 0]) - torch.atan2(g[0][:, 1], g[0][:, 0])
        angle = (angle + math.pi) % (2 * math.pi) - math.pi
        safe = angle.abs() < math.pi / 3
        turned.index_add_(0, edge[safe], angle[safe])
        edge, left, right = edge[~safe], left[~safe], right[~safe]
        if not len(edge):
            break
        middle = (left + right) / 2
        edge, left, right = edge.repeat(2), torch.cat([left, middle]), torch.cat([middle, right])
    turned[edge] = math.nan
    return turned.reshape(shape)


def _unexplained(degrees: Tensor, found: Tensor, hessian: Callable[[Tensor], Tensor], lines: list[Tensor]) -> Tensor:
    """By how much the degree of each cell differs from the sum of the indices of the points in it; NaN: not known."""
    missing = degrees.clone()
    if len(found):
        signs = _signs(hessian(found), ZERO)
        index = torch.where(signs[:, 0] % 2 == 0, 1.0, -1.0).double()
        cell = [torch.bucketize(found[:, i].contiguous(), axis[1:-1]) for i, axis in enumerate(lines)]
        missing.index_put_(tuple(cell), -index, accumulate=True)
        degenerate = signs[:, 1] > 0
        missing[tuple(axis[degenerate] for axis in cell)] = 0
    return missing.abs()
