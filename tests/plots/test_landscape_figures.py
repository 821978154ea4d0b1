"""Landscape figures show the grids that they are given, on one scale, with the ball where it is."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib import colors
from mpl_toolkits.mplot3d import Axes3D

from sharp_maml_core import UserError
from sharp_maml_core.landscape.directions import Trajectory
from sharp_maml_core.landscape.slices import Slice
from sharp_maml_core.plots import landscape


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def bowl(height=1.0, floor=0.5, points=11, **changes):
    axis = torch.linspace(-1, 1, points, dtype=torch.float64)
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    cut = Slice("x", ("u", "v"), (axis, axis), ((4.0, 0.0), (0.0, 4.0)), floor + height * (x**2 + 2 * y**2), floor, {})
    return cut._replace(**changes)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def flat_axes(figure):
    return [axes for axes in figure.axes if axes.name == "rectilinear" and axes.get_label() != "<colorbar>"]


def test_compared_slices_share_the_scale_of_colours_and_heights() -> None:
    low, high = bowl(height=0.2), bowl(height=1.0)
    figure = landscape.surfaces({"flat": low, "steep": high}, radius=0.5)
    reliefs = [axes for axes in figure.axes if axes.name == "3d"]
    assert len(reliefs) == len(flat_axes(figure)) == 2
    assert {axes.get_zlim() for axes in reliefs} == {(0.5, 3.5)}
    limits = {
        (c.norm.vmin, c.norm.vmax) for axes in flat_axes(figure) for c in axes.collections if c.get_array() is not None
    }
    assert limits == {(0.5, 3.5)}
    assert [axes.get_title().splitlines()[0] for axes in reliefs] == ["flat", "steep"]
    assert reliefs[0].get_title().splitlines()[1:] == [
        "0.500 at the centre",
        "1 local minimum, 1 deeper than 0.01",
    ]


def test_rows_of_the_losses_run_along_the_first_axis(monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(Axes3D, "plot_surface", lambda self, x, y, z, **style: drawn.append((x, y, z, style)))
    axis = torch.linspace(-1, 1, 5, dtype=torch.float64)
    tilted = bowl(points=5, losses=(axis[:, None] * 10 + 20).expand(5, 5).contiguous())  # rises with u alone
    figure = landscape.surfaces({"tilted": tilted})
    (axes,) = flat_axes(figure)
    paths = [path.vertices for path in axes.collections[0].get_paths() if len(path.vertices)]
    lowest = paths[0]
    assert lowest[:, 0].max() < -0.8  # the lowest band is a strip at the left, over the whole height
    assert np.ptp(lowest[:, 1]) == pytest.approx(2)
    ((x, y, z, style),) = drawn
    np.testing.assert_allclose(z, 10 * x + 20)
    assert np.ptp(y, axis=1).tolist() == [2] * 5
    assert style["facecolors"].shape == (5, 5, 4)


def test_losses_far_apart_are_drawn_on_a_logarithmic_scale() -> None:
    figure = landscape.surfaces({"deep": bowl(floor=0.01), "shallow": bowl(floor=0.5)})
    for axes in flat_axes(figure):
        assert isinstance(axes.collections[0].norm, colors.LogNorm)
    near = landscape.surfaces({"near": bowl(floor=0.5)})
    assert not isinstance(flat_axes(near)[0].collections[0].norm, colors.LogNorm)


def test_the_ball_is_drawn_where_it_is_and_named_where_it_is_too_small() -> None:
    figure = landscape.surfaces({"seen": bowl()}, radius=0.5)  # axes of length 2: half as wide in coordinates
    (axes,) = flat_axes(figure)
    edge = axes.lines[-1]
    np.testing.assert_allclose(np.hypot(edge.get_xdata(), edge.get_ydata()), 0.25, rtol=1e-12)
    assert texts(axes) == [r"$\alpha$-ball, $\alpha$ = 0.5"]
    (axes,) = flat_axes(landscape.surfaces({"too small": bowl()}, radius=0.01))
    assert texts(axes) == [r"$\alpha$-ball: radius 0.005, under the cross"]
    (axes,) = flat_axes(landscape.surfaces({"none": bowl()}))
    assert texts(axes) == []


def test_a_grid_with_a_hole_is_drawn_around_it() -> None:
    holed = bowl()
    holed.losses[2, 3] = math.nan
    figure = landscape.surfaces({"holed": holed})
    assert flat_axes(figure)[0].collections[0].norm.vmax == pytest.approx(3.5)
    figure.canvas.draw()


def test_minima_are_marked_where_they_are() -> None:
    figure = landscape.surfaces({"bowl": bowl(points=9)})
    (axes,) = flat_axes(figure)
    marked = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_xydata().tolist() for line in marked] == [[[0, 0]]]


def test_lines_lie_over_one_another_with_marks_and_the_ball() -> None:
    axis = torch.linspace(-1, 1, 21, dtype=torch.float64)
    first = Slice("a", ("towards b",), (axis,), ((4.0,),), axis**2, 0.0, {"a": (0.0,), "b": (0.5,)})
    figure = landscape.lines({"one": first, "two": first._replace(losses=axis**2 + 1)}, radius=0.5)
    (axes,) = figure.axes
    curves = [line for line in axes.lines if len(line.get_xdata()) == 21]
    np.testing.assert_array_equal(curves[1].get_ydata(), axis.numpy() ** 2 + 1)
    assert [text for text in texts(axes) if text == "b"] == ["b", "b"]
    (band,) = axes.patches
    assert (band.get_x(), band.get_width()) == pytest.approx((-0.25, 0.5))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "two", r"$\alpha$ = 0.5"]
    assert axes.get_xlabel() == "towards b"


def test_a_plane_names_its_solutions_where_they_lie() -> None:
    figure = landscape.plane(bowl(marks={"maml": (0.0, 0.0), "both": (0.5, -0.25)}))
    named = {text.get_text(): text.xy for text in figure.axes[0].texts}
    assert named == {"maml": (0.0, 0.0), "both": (0.5, -0.25)}


def test_a_way_shows_every_point_its_variance_and_its_distance() -> None:
    path = torch.tensor([[0.8, 0.3], [0.4, -0.2], [0.0, 0.0]], dtype=torch.float64)
    distances = torch.tensor([0.0, 0.3, 0.0], dtype=torch.float64)
    figure = landscape.way(bowl(), Trajectory((0, 100, 200), path, (0.7, 0.2), distances))
    left, right = figure.axes[:2]
    drawn = next(line for line in left.lines if len(line.get_xdata()) == 3)
    np.testing.assert_array_equal(drawn.get_xydata(), path.numpy())
    assert left.get_xlabel() == "u (70% of the variance)"
    assert left.get_ylabel() == "v (20% of the variance)"
    assert texts(left) == ["start, iteration 0", "end, iteration 200"]
    assert right.lines[0].get_ydata().tolist() == [0.0, 0.3, 0.0]


def test_a_note_is_under_the_figure() -> None:
    assert landscape.surfaces({"a": bowl()}, note="cifar-fs, task 0").get_supxlabel() == "cifar-fs, task 0"


def test_a_line_is_no_plane_and_a_plane_no_line() -> None:
    axis = torch.linspace(-1, 1, 5, dtype=torch.float64)
    line = Slice("a", ("x",), (axis,), ((1.0,),), axis**2, 0.0, {})
    with pytest.raises(UserError, match=r"slices\['b'\].axes=\('x',\) is not allowed: it must be two axes"):
        landscape.surfaces({"a": bowl(), "b": line})
    with pytest.raises(UserError, match="one axis: a line"):
        landscape.lines({"a": bowl()})


def test_a_slice_without_a_finite_loss_is_drawn_beside_others_and_refused_alone() -> None:
    nowhere = bowl(losses=torch.full((11, 11), math.nan, dtype=torch.float64), origin_loss=math.nan)
    figure = landscape.surfaces({"nowhere": nowhere, "bowl": bowl()}, radius=0.5)
    figure.canvas.draw()
    assert flat_axes(figure)[0].collections[0].norm.vmax == pytest.approx(3.5)
    path = Trajectory((0, 1, 2), torch.eye(3, 2, dtype=torch.float64), (0.7, 0.2), torch.zeros(3))
    for draw in (
        lambda: landscape.surfaces({"one": nowhere, "two": nowhere}),
        lambda: landscape.plane(nowhere),
        lambda: landscape.way(nowhere, path),
    ):
        with pytest.raises(UserError, match=r"slices='x.* is not allowed: it must be planes with a finite loss"):
            draw()


def test_a_slice_of_one_height_is_drawn() -> None:
    figure = landscape.surfaces({"flat": bowl(height=0.0, floor=2.0)})
    figure.canvas.draw()
    assert (flat_axes(figure)[0].collections[0].norm.vmin, figure.axes[0].get_zlim()) == (1.5, (1.5, 2.5))


def test_no_slice_makes_no_figure() -> None:
    for draw in (landscape.surfaces, landscape.lines):
        with pytest.raises(UserError, match=r"slices=\{\} is not allowed: it must be at least one"):
            draw({})


def test_lines_in_different_units_have_no_ball_in_common() -> None:
    axis = torch.linspace(-1, 1, 21, dtype=torch.float64)
    one = Slice("a", ("towards b",), (axis,), ((4.0,),), axis**2, 0.0, {})
    other = one._replace(axes=("random 1",), gram=((9.0,),))
    assert landscape.lines({"one": one, "other": other}).axes[0].get_xlabel() == "along the line"
    with pytest.raises(UserError, match=r"radius=0.5 .* different lengths \(\{'one': 2.0, 'other': 3.0\}\)"):
        landscape.lines({"one": one, "other": other}, radius=0.5)
