"""Depths of minima that were put there."""

from __future__ import annotations

import math

import pytest
import torch

from sharp_maml_core.landscape.prominence import prominences
from sharp_maml_core.landscape.slices import Slice, local_minima


def line_of(losses):
    axis = torch.arange(len(losses), dtype=torch.float64)
    return Slice("made up", ("x",), (axis,), ((1.0,),), torch.as_tensor(losses, dtype=torch.float64), 0.0, {})


def plane_of(losses):
    axes = tuple(torch.arange(n, dtype=torch.float64) for n in losses.shape)
    return Slice("made up", ("x", "y"), axes, ((1.0, 0.0), (0.0, 1.0)), losses, 0.0, {})


def square(function, points):
    axis = torch.linspace(-1, 1, points, dtype=torch.float64)
    return plane_of(function(*torch.meshgrid(axis, axis, indexing="ij")))


def test_the_prominence_of_a_minimum_is_the_climb_to_the_pass_that_leads_lower() -> None:
    cut = line_of([2.0, 1.0, 1.3, 0.5, 1.7, 0.3, 2.0])
    assert local_minima(cut).tolist() == [[1], [3], [5]]
    assert prominences(cut) == pytest.approx([0.3, 1.2, math.inf])


def test_on_a_plane_the_lowest_pass_counts_not_the_straight_way() -> None:
    high, pass_ = 9.0, 2.0
    rows = [
        [high, high, high, high, high, high, high],
        [high, 1.0, high, high, high, 0.0, high],
        [high, 1.5, high, high, high, 1.5, high],
        [high, high, 1.6, pass_, 1.7, high, high],
        [high, high, high, high, high, high, high],
    ]
    cut = plane_of(torch.tensor(rows, dtype=torch.float64))
    assert local_minima(cut).tolist() == [[1, 1], [1, 5]]
    assert prominences(cut) == [pass_ - 1.0, math.inf]


def test_in_a_straight_valley_the_plane_has_the_lines_prominences() -> None:
    def along_the_line(x):  # minima near -1/3 and 1/3, and an edge at 1 that is lower than both
        return torch.cos(3 * math.pi * x) - x

    cut = square(lambda x, y: along_the_line(x) + y**2, points=41)
    line = line_of(along_the_line(torch.linspace(-1, 1, 41, dtype=torch.float64)))
    assert len(prominences(line)) == 2
    assert all(1.5 < climb < 1.8 for climb in prominences(line))
    assert prominences(cut) == pytest.approx(prominences(line), rel=1e-12)


def test_a_wall_of_nan_is_never_climbed() -> None:
    cut = square(lambda x, y: (x.abs() - 0.5) ** 2 + 0.01 * x + y**2, points=21)
    walled = cut.losses.clone()
    walled[9:12] = math.nan
    assert sorted(prominences(cut)) == [pytest.approx(0.25 - 0.005), math.inf]
    assert prominences(cut._replace(losses=walled)) == [math.inf, math.inf]
