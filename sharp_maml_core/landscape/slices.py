"""Slices: a surface evaluated on a grid of a line or of a plane, and what can be read off the grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..checks import at_least, check
from ..errors import invalid
from ..evaluate import BAR_SECONDS
from ..memory import keep_freed_memory
from ..params import Params, add_scaled, dot
from ..precision import full_precision
from ..pretrained import check_like
from .directions import Frame, Mark
from .surfaces import Surface

Range = tuple[float, float]


class Slice(NamedTuple):
    """Losses on a grid: losses[i] or losses[i, j] is the loss at origin + c[0][i] * axis 0 (+ c[1][j] * axis 1).

    centre       what lies at the origin, in words
    axes         the names of the axes, one or two
    coordinates  float64 [points], one an axis
    gram         the inner products of the axes: a point c is sqrt(c^T gram c) from the origin in parameter space
    losses       on the CPU, in the surface's type; NaN where the loss is not finite
    origin_loss  the loss at the origin itself, which need not be a grid point
    marks        name -> coordinates of a point worth showing
    """

    centre: str
    axes: tuple[str, ...]
    coordinates: tuple[Tensor, ...]
    gram: tuple[tuple[float, ...], ...]
    losses: Tensor
    origin_loss: float
    marks: dict[str, Mark]


def take_slice(
    surface: Surface,
    frame: Frame,
    *,
    centre: str = "origin",
    ranges: Sequence[Range] | None = None,
    points: int = 51,
    chunk: int | None = None,
    progress: bool = False,
) -> Slice:
    """Evaluate the surface on points x points of the frame's plane, or on `points` of its line.

    ranges  from, to along each axis; default `covering(frame)`
    chunk   grid points that vmap evaluates at once, 1 for one after the other; None for what suits the device. On a CPU
            that is 1: points together are grouped convolutions with weights of their own, and took 2 to 3 times as long

    No graph is kept. The process keeps the memory that it frees from here on (`keep_freed_memory`): on 75 images of
    32x32 pixels, 64 filters, that halved the time.

    Another chunk or device adds in another order. In float64 that is nothing; in float32 it may tip a ReLU or a maximum
    over in the inner loop, and a loss was seen to change by 2e-3 of 5 (Conv4, 64 filters, inner_lr 0.1).
    Raises UserError for fewer than two points, an empty range, a chunk below 1, and axes of another model's shape.
    """
    check("points", points, at_least(2))
    ranges = covering(frame) if ranges is None else ranges
    _check_frame(frame, ranges)
    chunk = _points_at_once(frame.origin) if chunk is None else chunk
    check("chunk", chunk, at_least(1))
    keep_freed_memory()
    full_precision()
    coordinates = tuple(torch.linspace(low, high, points, dtype=torch.float64) for low, high in ranges)
    grid = torch.cartesian_prod(*coordinates).view(-1, len(coordinates))  # [points^axes, axes], the last axis fastest
    bar = tqdm(total=len(grid), desc=centre, unit="point", disable=not progress, leave=False, mininterval=BAR_SECONDS)
    found = [_losses(surface, frame, torch.zeros(1, len(coordinates)))]
    with bar:
        for some in grid.split(chunk):
            found.append(_losses(surface, frame, some))
            bar.update(len(some))
    origin_loss, *losses = torch.cat(found).cpu().split([1, len(grid)])
    shape = tuple(len(c) for c in coordinates)
    return Slice(
        centre, tuple(frame.axes), coordinates, gram(frame), losses[0].view(shape), float(origin_loss), frame.marks
    )


def covering(frame: Frame, margin: float = 0.25) -> tuple[Range, ...]:
    """A range along each axis that holds the origin and all marks, with a margin; -1 to 1 where nothing is marked.

    margin  on either side, as a share of the longest of the ranges without it, so that planes keep their proportions
    """
    if not frame.marks:
        return ((-1.0, 1.0),) * len(frame.axes)
    columns = [[0.0, *(mark[i] for mark in frame.marks.values())] for i in range(len(frame.axes))]
    beyond = margin * max(max(column) - min(column) for column in columns)
    return tuple((min(column) - beyond, max(column) + beyond) for column in columns)


def local_minima(cut: Slice) -> Tensor:
    """The grid points whose loss is below that of all neighbours (8 of them, on a line 2): int64 [minima, axes].

    Points on the edge have neighbours that nobody knows and are not counted, nor are plateaus. That a grid point is a
    minimum of the slice says nothing of the directions that the slice leaves out.
    """
    losses = cut.losses
    n_axes = losses.dim()
    if min(losses.shape) < 3:
        return torch.zeros(0, n_axes, dtype=torch.int64)
    windows = losses
    for axis in range(n_axes):
        windows = windows.unfold(axis, 3, 1)
    windows = windows.flatten(n_axes)  # [points - 2, ..., 3^axes], the middle one is the point itself
    middle = windows.shape[-1] // 2
    around = torch.cat([windows[..., :middle], windows[..., middle + 1 :]], -1)
    return ((windows[..., middle : middle + 1] < around).all(-1)).nonzero() + 1  # NaN is below nothing


def finite_range(cut: Slice) -> tuple[float, float] | None:
    """The lowest and the highest of the losses that are finite; None where none is."""
    losses = cut.losses[cut.losses.isfinite()]
    return (float(losses.min()), float(losses.max())) if len(losses) else None


def describe_range(cut: Slice) -> str:
    """The same in words, as `0.1234 to 2.3456`, and how many losses are not finite, where some are not."""
    found, bad = finite_range(cut), int((~cut.losses.isfinite()).sum())
    if found is None:
        return "nowhere finite"
    return f"{found[0]:.4f} to {found[1]:.4f}" + (f" ({bad} not finite)" if bad else "")


def gram(frame: Frame) -> tuple[tuple[float, ...], ...]:
    """The inner products of the frame's axes, computed in float64."""
    axes = [{name: value.double() for name, value in axis.items()} for axis in frame.axes.values()]
    return tuple(tuple(float(dot(a, b)) for b in axes) for a in axes)


def ball(cut: Slice, radius: float, points: int = 200) -> Tensor:
    """The edge of the ball ||theta - origin|| <= radius in the slice's coordinates: float64 [points, axes].

    On a plane an ellipse, a circle where both axes are equally long and at right angles; on a line its two ends.
    Raises UserError for a radius below 0.
    """
    check("radius", radius, at_least(0))
    g = torch.tensor(cut.gram, dtype=torch.float64)
    if len(g) == 1:
        return torch.tensor([[-radius], [radius]], dtype=torch.float64) / g[0, 0].sqrt()
    angles = torch.linspace(0, 2 * math.pi, points, dtype=torch.float64)
    circle = radius * torch.stack([angles.cos(), angles.sin()])
    # c^T L L^T c = radius^2 for c = L^-T circle, with the Cholesky factor L of the Gram matrix.
    return torch.linalg.solve_triangular(torch.linalg.cholesky(g).T, circle, upper=True).T


def to_json(cut: Slice) -> dict[str, Any]:
    """The slice as plain numbers and texts: the shortest decimals that are the same number when read, null for NaN."""
    rows = cut.losses if cut.losses.dim() == 2 else cut.losses[None]
    losses = [[_shortest(value) for value in row] for row in rows.numpy()]
    return {
        "centre": cut.centre,
        "axes": list(cut.axes),
        "coordinates": [c.tolist() for c in cut.coordinates],
        "gram": [list(row) for row in cut.gram],
        "dtype": str(cut.losses.dtype).removeprefix("torch."),
        "losses": losses if cut.losses.dim() == 2 else losses[0],
        "origin_loss": _shortest(np.float64(cut.origin_loss)),
        "marks": {name: list(mark) for name, mark in cut.marks.items()},
    }


def from_json(values: dict[str, Any]) -> Slice:
    """The slice that `to_json` was given. Raises UserError for anything else."""
    try:
        coordinates = tuple(torch.tensor(c, dtype=torch.float64) for c in values["coordinates"])
        losses = np.array(values["losses"], dtype=values["dtype"])  # null becomes NaN
        return Slice(
            values["centre"],
            tuple(values["axes"]),
            coordinates,
            tuple(tuple(row) for row in values["gram"]),
            torch.from_numpy(losses.reshape([len(c) for c in coordinates])),
            math.nan if values["origin_loss"] is None else values["origin_loss"],
            {name: tuple(mark) for name, mark in values["marks"].items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise invalid("slice", type(values).__name__, f"what to_json makes, and this is not ({error!r})") from None


def _losses(surface: Surface, frame: Frame, some: Tensor) -> Tensor:
    """The losses at some points [n, axes], NaN where they are not finite."""
    like = next(iter(frame.origin.values()))

    def at(point: Tensor) -> Tensor:
        theta = frame.origin
        for coordinate, axis in zip(point.unbind(), frame.axes.values(), strict=True):
            theta = add_scaled(theta, axis, coordinate)
        return surface(theta)

    with torch.no_grad():
        some = some.to(like)
        losses = at(some[0])[None] if len(some) == 1 else torch.func.vmap(at)(some)
    return torch.where(losses.isfinite(), losses, torch.nan)


def _points_at_once(params: Params) -> int:
    return 1 if next(iter(params.values())).device.type == "cpu" else 32


def _check_frame(frame: Frame, ranges: Sequence[Range]) -> None:
    if len(frame.axes) not in (1, 2):
        raise invalid("frame.axes", tuple(frame.axes), "one axis (a line) or two (a plane)")
    for name, axis in frame.axes.items():
        check_like(axis, frame.origin, f"the origin of the axis {name!r}")
    if len(ranges) != len(frame.axes):
        raise invalid("ranges", ranges, f"one for each of {', '.join(frame.axes)}")
    for low, high in ranges:
        if not -math.inf < low < high < math.inf:
            raise invalid("ranges", ranges, "finite, each from a number to a larger one")


def _shortest(value: np.floating[Any]) -> float | None:
    return float(str(value)) if np.isfinite(value) else None
