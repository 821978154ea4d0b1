"""How deep the local minima of a slice are: a count alone makes a valley of every dimple."""

from __future__ import annotations

import itertools
import math

import numpy as np

from .slices import Slice, local_minima

Point = tuple[int, ...]


def prominences(cut: Slice) -> list[float]:
    """How far one has to climb, from each of `local_minima`, before the grid leads down to a lower point.

    Infinite for the lowest point of the grid. Steps go to all neighbours that `local_minima` looks at, also along the
    edge, and never through a point where the loss is not finite. In topology this is the persistence of a minimum.
    """
    losses = {point: float(loss) for point, loss in np.ndenumerate(cut.losses.numpy()) if math.isfinite(loss)}
    depths = _spills(losses)
    return [depths[tuple(point)] for point in local_minima(cut).tolist()]


def _spills(losses: dict[Point, float]) -> dict[Point, float]:
    """The water rises over the grid: how deep each point's pool is when it spills into one that goes deeper."""
    pool = {point: point for point in losses}  # a forest, whose roots are the lowest points of the pools
    depth = dict.fromkeys(losses, math.inf)
    wet: set[Point] = set()

    def root(point: Point) -> Point:
        while pool[point] != point:
            pool[point] = pool[pool[point]]
            point = pool[point]
        return point

    for point in sorted(losses, key=losses.__getitem__):
        for neighbour in itertools.product(*(range(i - 1, i + 2) for i in point)):
            if neighbour in wet:
                # Two pools meet here, and the shallower one spills; the point itself is a pool of no depth.
                deep, shallow = sorted((root(neighbour), root(point)), key=losses.__getitem__)
                if deep != shallow:
                    depth[shallow] = losses[point] - losses[shallow]
                    pool[shallow] = deep
        wet.add(point)
    return depth
