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

ZERO = 1e-7  # an eigenvalue is zero below this share of the largest, or in a search of the median Hessian at the starts
SAME = 1e-6  # two points are one below this share of the box
SMALL = 1e-11  # a gradient is zero below this share of the median gradient at the starts
_NEWTON_STEPS, _FREE_STEPS = 40, 10  # a triple root comes nearer by a third each step
_STARTS, _CELLS = {1: 128, 2: 20}, {1: 256, 2: 32}
_CHECKS = 8
_MOST_DAMPING = 1e12
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


def inertia(hessian: Tensor) -> Inertia:
    """Of a symmetric matrix [d, d]; eigenvalues of at most `ZERO` times the largest in modulus count as zero."""
    return Inertia(*_signs(hessian[None])[0].tolist())


def kind(signs: Inertia) -> str:
    """What a stationary point with this Hessian is; degenerate if the Hessian cannot tell."""
    if signs.zero:
        return DEGENERATE
    return SADDLE if signs.negative and signs.positive else MAXIMUM if signs.negative else MINIMUM


def search(
    loss: Callable[[Tensor], Tensor], box: Box, *, starts: int | None = None, cells: int | None = None, seed: int = 0
) -> Points:
    """The stationary points in a box of a function of one or two variables, [d] float64 to a scalar.

    Newton's method starts from a grid, and again in every cell whose degree is not explained by what was found. Each
    check draws the cells anew, because a line that runs through a stationary point decides nothing. When all degrees
    are explained, starts twice as dense must find nothing new, for two points of opposite index in one cell annul each
    other there. Without such an end after eight checks `complete` is false. A cell with a degenerate point is taken
    for explained, for such a point may have any index.

    starts  of the first grid, per coordinate; default 128 in one variable, 20 in two
    cells   per coordinate; default 256 and 32; `seed` moves their borders

    Raises UserError for a box of another dimension, an empty side, or fewer than 2 starts or 1 cell.
    """
    check("box", box, Allowed("one or two pairs (low, high)", lambda box: len(box) in (1, 2)))
    for low, high in box:
        check("box", high - low, Allowed("of positive width", lambda width: width > 0))
    starts = _STARTS[len(box)] if starts is None else starts
    cells = _CELLS[len(box)] if cells is None else cells
    check("starts", starts, at_least(2))
    check("cells", cells, at_least(1))
    gradient, hessian = vmap(grad(loss)), vmap(jacrev(grad(loss)))
    first = _grid(box, starts)
    small = SMALL * float(gradient(first).norm(dim=1).median())
    flat = ZERO * float(hessian(first).norm(dim=(1, 2)).median())
    generator = torch.Generator().manual_seed(seed)

    def with_more(found: Tensor, starts: Tensor) -> Tensor:
        return _distinct(torch.cat([found, _newton(gradient, hessian, starts, box, small)]), box)

    def signs_at(found: Tensor) -> Tensor:
        return _signs(hessian(found), flat) if len(found) else torch.empty(0, 3, dtype=torch.int64)

    found = with_more(first[:0], first)
    complete = False
    for _ in range(_CHECKS):
        lines = [_lines(low, high, cells, generator) for low, high in box]
        degrees = _degrees_1d(gradient, *lines) if len(box) == 1 else _degrees_2d(gradient, *lines)
        missing = _unexplained(degrees, found, signs_at(found), lines)
        before = len(found)
        if not missing.any():
            starts *= 2
            found = with_more(found, _grid(box, starts))
            if complete := len(found) == before:
                break
        for cell in (missing > 0).nonzero().tolist():
            found = with_more(found, _grid([axis[i : i + 2].tolist() for axis, i in zip(lines, cell, strict=True)], 16))
    return Points(found, tuple(kind(Inertia(*signs)) for signs in signs_at(found).tolist()), complete)


def descend(loss: Callable[[Tensor], Tensor], start: Tensor, *, small: float, steps: int = 500) -> Tensor:
    """A stationary point of a function of many variables, [d] float64: the end of a damped Newton descent.

    The step is -(|H| + mu)^-1 grad with the eigenvalues' moduli, so that saddles repel; mu grows until the step lowers
    the loss, and falls after it did. Returns the first point with a gradient norm of at most `small`.

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
        while mu < _MOST_DAMPING:
            trial = theta - vectors @ (along / (eigenvalues.abs() + mu))
            reached = float(loss(trial))
            # Near the end the loss no longer falls in its last digit, but the gradient does.
            if reached < value or (reached <= value + 1e-14 * abs(value) and slope(trial).norm() < g.norm()):
                theta, value, mu = trial, reached, max(mu / 10, 1e-15)
                break
            mu *= 4
    found = f"a point from which {steps} steps lead to a gradient norm of {float(slope(theta).norm()):.1e}"
    raise invalid("start", found, f"near a stationary point, with one of at most {small}")


def _signs(hessians: Tensor, floor: float = 0.0) -> Tensor:
    """Inertia of symmetric matrices [n, d, d]: int64 [n, 3]; what is not above the floor counts as zero too."""
    eigenvalues = torch.linalg.eigvalsh((hessians + hessians.mT) / 2)
    tolerance = (ZERO * eigenvalues.abs().amax(1, keepdim=True)).clamp(min=floor)
    negative, positive = (eigenvalues < -tolerance).sum(1), (eigenvalues > tolerance).sum(1)
    return torch.stack([negative, hessians.shape[1] - negative - positive, positive], 1)


def _grid(box: Sequence[Sequence[float]], n: int) -> Tensor:
    """A grid of n points per coordinate, the ends among them, [n^d, d]."""
    axes = [torch.linspace(low, high, n, dtype=torch.float64) for low, high in box]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


def _newton(
    gradient: Callable[[Tensor], Tensor], hessian: Callable[[Tensor], Tensor], starts: Tensor, box: Box, small: float
) -> Tensor:
    """Where Newton's method leads from the starts, as far as it is in the box and stationary.

    After some free ones each step has to be shorter than the last. One that is not ends a point's way: it wanders, or
    rounding is all that is left of its steps; the gradient says which.
    """
    low, high = torch.tensor(box, dtype=torch.float64).T
    longest = 0.1 * float((high - low).norm())
    ends: list[Tensor] = []
    x, last = starts, torch.full((len(starts),), math.inf, dtype=torch.float64)
    for count in range(_NEWTON_STEPS):
        step, info = torch.linalg.solve_ex(hessian(x), gradient(x))
        length = step.norm(dim=1)
        moved = x - step * (longest / length).clamp(max=1)[:, None]
        away = ((moved < low - longest) | (moved > high + longest)).any(1) | (info != 0) | ~moved.isfinite().all(1)
        done = (length <= 1e-14 * longest) | (length > 0.9 * last if count > _FREE_STEPS else False)
        ends.append(moved[done & ~away])
        x, last = moved[~done & ~away], length[~done & ~away]
        if not len(x):
            break
    x = torch.cat([*ends, x])
    x = x[((x >= low) & (x <= high)).all(1)]
    return _distinct(x[gradient(x).norm(dim=1) <= small] if len(x) else x, box)


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


def _unexplained(degrees: Tensor, found: Tensor, signs: Tensor, lines: list[Tensor]) -> Tensor:
    """By how much the degree of each cell differs from the sum of the indices of the points in it; NaN: not known."""
    missing = degrees.clone()
    index = torch.where(signs[:, 0] % 2 == 0, 1.0, -1.0).double()
    cell = [torch.bucketize(found[:, i].contiguous(), axis[1:-1]) for i, axis in enumerate(lines)]
    missing.index_put_(tuple(cell), -index, accumulate=True)
    degenerate = signs[:, 1] > 0
    missing[tuple(axis[degenerate] for axis in cell)] = 0
    return missing.abs()
