r"""Where to cut a surface: an origin and the directions that span the line or plane.

Random directions are filter-normalised (Li et al. 2018): a Gaussian draw whose every filter is given the length of the
model's own filter,

    d_f = z_f / ||z_f|| * ||theta_f||,

so that coordinate 1 is a change as large as the filter itself, and a filter that is rescaled (which batch norm does
not notice) gives the same picture. A filter is what makes one output of a layer: an index of the first dimension of a
tensor that has several. Tensors of one dimension, which are the biases and the norm layers' scales and shifts, do not
move; Li et al.'s code does so too, and the paper says no more than that it follows them.

All other directions have length 1, so that their coordinates are distances in parameter space. Everything is computed
in float64 on the CPU and only then given the model's type and device: the directions are the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import at_least, check
from ..config import SEED
from ..errors import invalid
from ..params import Params, add_scaled, dot, norm, scaled
from ..pretrained import check_like
from .spectrum import flat, unflat

PARALLEL = 1e-9  # what is left of a direction that has no part of its own, in float64 with room for rounding

Mark = tuple[float, ...]
"""Coordinates of a point, one an axis."""


class Frame(NamedTuple):
    """A line or a plane in parameter space: theta = origin + sum of coordinate * axis.

    axes   name -> direction, shaped like the origin; one or two of them
    marks  name -> coordinates of a point worth showing
    """

    origin: Params
    axes: dict[str, Params]
    marks: dict[str, Mark]


class Trajectory(NamedTuple):
    """A run's points in the coordinates of a plane.

    iterations  of each point
    path        float64 [points, 2], the points' coordinates in the plane
    explained   share of the path's variance along each axis
    distances   float64 [points], from the points to the plane: the loss drawn under them is that much beside theirs
    """

    iterations: tuple[int, ...]
    path: Tensor
    explained: tuple[float, float]
    distances: Tensor


def random_frame(params: Params, seed: int = 0, n_axes: int = 2) -> Frame:
    """Filter-normalised Gaussian directions. The Gaussian draw depends on the seed and the shapes only.

    So models of one architecture share it, and each scales it to its own filters.
    Raises UserError for a seed that is none, and for other than one or two axes.
    """
    check("seed", seed, SEED)
    _check_axes(n_axes)
    generator = torch.Generator().manual_seed(seed)
    draws = [
        {name: torch.randn(value.shape, generator=generator, dtype=torch.float64) for name, value in params.items()}
        for _ in range(n_axes)
    ]
    return Frame(params, {f"random {i + 1}": filter_normalised(draw, params) for i, draw in enumerate(draws)}, {})


def filter_normalised(direction: Params, params: Params) -> Params:
    """The direction with each filter as long as the model's; zero on tensors of one dimension.

    Raises UserError for a direction of another model's shape.
    """
    check_like(direction, params, "the model")
    return _like({name: _as_filters(direction[name], _exact(value)) for name, value in params.items()}, params)


def along(origin: Params, directions: Mapping[str, Params]) -> Frame:
    """The line or plane of one or two directions, as axes of length 1.

    The second axis is the part of the second direction that is at right angles to the first, so that distances in the
    plane are distances in parameter space.
    Raises UserError for another number of directions, other shapes, a zero direction, or two parallel ones.
    """
    _check_axes(len(directions))
    for name, direction in directions.items():
        check_like(direction, origin, f"the origin of the direction {name!r}")
    axes = _orthonormal({name: _exact_all(direction) for name, direction in directions.items()})
    return Frame(origin, {name: _like(axis, origin) for name, axis in axes.items()}, {})


def line_through(solutions: Mapping[str, Params]) -> Frame:
    """The line from the first of two solutions to the second, with both marked.

    Raises UserError for another number of solutions, other shapes, or the same point twice.
    """
    return _through(solutions, 2)


def plane_through(solutions: Mapping[str, Params]) -> Frame:
    """The plane through three solutions, with all marked. The first is the origin, the second on the first axis.

    Raises UserError for another number of solutions, other shapes, or three points of one line.
    """
    return _through(solutions, 3)


def principal_plane(snapshots: Mapping[int, Params]) -> tuple[Frame, Trajectory]:
    """The plane through a run's last point along the two directions in which its points vary most (their PCA).

    snapshots  the parameters by iteration, as `rundir.load_snapshots` gives them
    The axes point so that the run starts at coordinates that are not negative.
    Raises UserError for fewer than three points, other shapes, or points that all lie on one line.
    """
    check("len(snapshots)", len(snapshots), at_least(3))
    iterations = tuple(sorted(snapshots))
    last = snapshots[iterations[-1]]
    for iteration in iterations:
        check_like(snapshots[iteration], last, "the last snapshot")
    offsets = torch.stack([flat(_difference(snapshots[iteration], last)) for iteration in iterations])
    centred = offsets - offsets.mean(0)
    _, spread, directions = torch.linalg.svd(centred, full_matrices=False)
    if spread[1] <= PARALLEL * spread[0]:
        raise invalid("snapshots", iterations, "points that are not all on one line")
    axes = directions[:2] * torch.where(directions[:2] @ offsets[0] < 0, -1.0, 1.0)[:, None]
    path = offsets @ axes.T
    shares = spread**2 / (spread**2).sum()
    frame = Frame(last, {f"principal {i + 1}": unflat(axis, last) for i, axis in enumerate(axes)}, {})
    distances = torch.linalg.vector_norm(offsets - path @ axes, dim=1)
    return frame, Trajectory(iterations, path, (float(shares[0]), float(shares[1])), distances)


def _as_filters(direction: Tensor, weights: Tensor) -> Tensor:
    if weights.dim() < 2:
        return torch.zeros_like(weights)
    z, w = _exact(direction).flatten(1), weights.flatten(1)
    length = torch.linalg.vector_norm(z, dim=1, keepdim=True)
    z = z / torch.where(length > 0, length, 1.0)  # a filter of a given direction may be zero: then it stays
    return (z * torch.linalg.vector_norm(w, dim=1, keepdim=True)).view_as(weights)


def _through(solutions: Mapping[str, Params], count: int) -> Frame:
    if len(solutions) != count:
        raise invalid("solutions", tuple(solutions), f"{count} of them, by name")
    first, *others = solutions
    origin = solutions[first]
    for name in others:
        check_like(solutions[name], origin, f"{first!r}, with which {name!r} is compared")
    steps = {f"towards {name}": _difference(solutions[name], origin) for name in others}
    axes = _orthonormal(steps)
    marks = [tuple(float(dot(step, axis)) for axis in axes.values()) for step in steps.values()]
    return Frame(
        origin,
        {name: _like(axis, origin) for name, axis in axes.items()},
        dict(zip(solutions, [(0.0,) * len(others), *marks], strict=True)),
    )


def _orthonormal(directions: dict[str, Params]) -> dict[str, Params]:
    """Gram and Schmidt's: each direction less its parts along those before it, with length 1. In float64."""
    axes: dict[str, Params] = {}
    for name, direction in directions.items():
        rest = direction
        for axis in [*axes.values()] * 2:  # twice, for what rounding left of nearly parallel ones
            rest = add_scaled(rest, axis, -dot(rest, axis))
        length = float(norm(rest))
        if not PARALLEL * float(norm(direction)) < length < math.inf:
            raise invalid("direction", name, f"finite, longer than 0 and not on one line with {tuple(axes)}")
        axes[name] = scaled(rest, 1 / length)
    return axes


def _check_axes(n_axes: int) -> None:
    if n_axes not in (1, 2):
        raise invalid("n_axes", n_axes, "1 (a line) or 2 (a plane)")


def _difference(to: Params, start: Params) -> Params:
    return {name: _exact(to[name]) - _exact(value) for name, value in start.items()}


def _exact(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float64)


def _exact_all(params: Params) -> Params:
    return {name: _exact(value) for name, value in params.items()}


def _like(direction: Params, params: Params) -> Params:
    return {name: direction[name].to(value) for name, value in params.items()}
