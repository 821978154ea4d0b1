"""Slices of surfaces that are known, minima that were put there, and files that give back what was written."""

from __future__ import annotations

import json
import math

import pytest
import torch
from cases import SmoothNet, TanhNet, classification, draw, moved, seeded, setting

from sharp_maml_core import UserError
from sharp_maml_core.landscape.directions import Frame, along, random_frame
from sharp_maml_core.landscape.slices import (
    Slice,
    ball,
    covering,
    from_json,
    gram,
    local_minima,
    take_slice,
    to_json,
)
from sharp_maml_core.landscape.surfaces import maml_surface, plain_maml
from sharp_maml_core.params import add_scaled, dot, norm

ORIGIN = {"a": draw(2, 2, seed=1), "b": draw(3, seed=2)}


def frame_of(*seeds):
    axes = {f"axis {seed}": {"a": draw(2, 2, seed=seed), "b": draw(3, seed=seed + 1)} for seed in seeds}
    return Frame(ORIGIN, axes, {})


def quadratic(params):
    """1/2 theta^T A theta with A = diag(1, ..., 7)."""
    theta = torch.cat([params["a"].flatten(), params["b"]])
    return 0.5 * (torch.arange(1, 8) * theta**2).sum()


def plane_of(function, points=21, reach=1.0, **changes):
    """A slice whose losses are function(x, y), without a model."""
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    losses = function(*torch.meshgrid(axis, axis, indexing="ij"))
    values = ("made up", ("x", "y"), (axis, axis), ((1.0, 0.0), (0.0, 1.0)), losses, float(losses.min()), {})
    return Slice(*values)._replace(**changes)


# --- values ------------------------------------------------------------------------------------------------------


def test_a_slice_of_a_quadratic_is_the_quadratic() -> None:
    frame = frame_of(10, 20)
    A = torch.diag(torch.arange(1, 8, dtype=torch.float64))
    theta, u, v = (torch.cat([p["a"].flatten(), p["b"]]) for p in (ORIGIN, *frame.axes.values()))
    cut = take_slice(quadratic, frame, ranges=[(-2, 1), (0.5, 3)], points=7, centre="here")
    assert cut.centre == "here"
    assert cut.axes == ("axis 10", "axis 20")
    assert cut.coordinates[0].tolist() == pytest.approx([-2, -1.5, -1, -0.5, 0, 0.5, 1])
    for i, x in enumerate(cut.coordinates[0]):
        for j, y in enumerate(cut.coordinates[1]):
            point = theta + x * u + y * v
            assert float(cut.losses[i, j]) == pytest.approx(float(0.5 * point @ A @ point), rel=1e-14)
    assert cut.origin_loss == pytest.approx(float(0.5 * theta @ A @ theta), rel=1e-14)


def test_a_slice_on_a_line_is_a_parabola() -> None:
    frame = frame_of(10)
    cut = take_slice(quadratic, frame, points=9)
    assert cut.losses.shape == (9,)
    second = cut.losses.diff(n=2) / 0.25**2
    u = torch.cat([value.flatten() for value in frame.axes["axis 10"].values()])
    expected = float((torch.arange(1, 8) * u**2).sum())
    torch.testing.assert_close(second, torch.full_like(second, expected), rtol=1e-12, atol=0)


@pytest.fixture(scope="module")
def small():
    learner = plain_maml(setting("maml", inner_steps=1), SmoothNet())
    params = moved(learner.init(seeded(0)))
    return maml_surface(learner, classification((1, 8, 8), n_tasks=1)), random_frame(params)


def test_the_points_taken_at_once_do_not_change_the_numbers(small) -> None:
    one = take_slice(*small, points=4, chunk=1)
    for chunk in (3, 16, 100):
        some = take_slice(*small, points=4, chunk=chunk)
        torch.testing.assert_close(some.losses, one.losses, rtol=1e-12, atol=0)
    assert one.losses.std() > 1e-3  # there is something to agree on


def test_a_slice_is_the_same_to_the_last_bit_each_time(small) -> None:
    first, second = (take_slice(*small, points=4) for _ in range(2))
    assert torch.equal(first.losses, second.losses)
    assert first.origin_loss == second.origin_loss


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("chunk", [1, 8])
def test_a_slice_is_the_same_on_a_gpu(small, chunk) -> None:
    surface, frame = small
    there = {name: value.cuda() for name, value in frame.origin.items()}
    learner = plain_maml(setting("maml", inner_steps=1, device="cuda"), SmoothNet())
    episode = classification((1, 8, 8), n_tasks=1)
    surface_there = maml_surface(learner, type(episode)(*(value.cuda() for value in episode)))
    found = take_slice(surface_there, random_frame(there), points=4, chunk=chunk)
    torch.testing.assert_close(found.losses, take_slice(surface, frame, points=4).losses, rtol=1e-10, atol=0)


def test_no_graph_is_kept_even_of_a_surface_with_parameters_of_its_own() -> None:
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    for chunk in (1, 4):
        cut = take_slice(lambda params: (weight * params["b"] ** 2).sum(), frame_of(10), points=4, chunk=chunk)
        assert not cut.losses.requires_grad


def test_a_loss_that_overflows_is_nan_and_the_others_stand() -> None:
    frame = Frame({"b": torch.zeros(1)}, {"x": {"b": torch.ones(1)}}, {})
    cut = take_slice(lambda params: torch.exp(params["b"].sum()), frame, ranges=[(0, 200)], points=3)
    assert cut.losses.dtype == torch.float32
    assert cut.losses[0] == 1
    assert cut.losses.isnan().tolist() == [False, True, True]


# --- what is read off --------------------------------------------------------------------------------------------


def test_the_minima_of_an_egg_crate_are_counted_where_they_are() -> None:
    period = 2 / 3  # three periods along each axis: minima at -2/3, 0, 2/3, all inside

    def crate(x, y):
        return 2 - torch.cos(2 * math.pi * x / period) - torch.cos(2 * math.pi * y / period)

    cut = plane_of(crate, points=25)
    found = local_minima(cut)
    assert sorted(map(tuple, found.tolist())) == [(i, j) for i in (4, 12, 20) for j in (4, 12, 20)]


def test_saddles_edges_plateaus_and_nans_are_no_minima() -> None:
    assert len(local_minima(plane_of(lambda x, y: x**2 - y**2))) == 0
    assert len(local_minima(plane_of(lambda x, y: x + 2 * y))) == 0
    assert len(local_minima(plane_of(lambda x, y: torch.zeros_like(x)))) == 0
    assert len(local_minima(plane_of(lambda x, y: x**2 + y**2, points=2))) == 0
    bowl = plane_of(lambda x, y: x**2 + y**2)
    assert local_minima(bowl).tolist() == [[10, 10]]
    holed = bowl.losses.clone()
    holed[9, 11] = math.nan
    assert len(local_minima(bowl._replace(losses=holed))) == 0


def test_all_eight_neighbours_count() -> None:
    # A valley along the diagonal: only the diagonal neighbour is lower.
    cut = plane_of(lambda x, y: (x - y) ** 2 + 0.1 * (x + y), points=5)
    assert len(local_minima(cut)) == 0


def test_the_minima_of_a_line_have_two_neighbours() -> None:
    axis = torch.linspace(-1, 1, 41, dtype=torch.float64)
    double_well = (axis**2 - 0.25) ** 2
    values = ("made up", ("x",), (axis,), ((1.0,),), double_well, 0.0625, {})
    assert local_minima(Slice(*values)).tolist() == [[10], [30]]


def test_the_ball_lies_at_its_radius_in_parameter_space() -> None:
    skew = frame_of(10, 12)
    assert abs(float(dot(*skew.axes.values()))) > 0.1
    for frame in (skew, along(ORIGIN, skew.axes), frame_of(10)):
        cut = take_slice(quadratic, frame, points=2)
        for point in ball(cut, 0.05, points=9):
            theta = ORIGIN
            for coordinate, axis in zip(point, frame.axes.values(), strict=True):
                theta = add_scaled(theta, axis, coordinate)
            assert float(norm(add_scaled(theta, ORIGIN, -1.0))) == pytest.approx(0.05, rel=1e-12)
    assert ball(take_slice(quadratic, along(ORIGIN, skew.axes), points=2), 0.3).norm(dim=1).tolist() == pytest.approx(
        [0.3] * 200
    )
    assert gram(frame_of(10)) == ((pytest.approx(float(norm(frame_of(10).axes["axis 10"])) ** 2),),)


def test_the_range_covers_the_marks_with_one_margin() -> None:
    frame = frame_of(10, 20)._replace(marks={"a": (0.0, 0.0), "b": (4.0, 0.0), "c": (-1.0, 2.0)})
    assert covering(frame, margin=0.2) == ((-2.0, 5.0), (-1.0, 3.0))
    assert covering(frame_of(10, 20)) == ((-1.0, 1.0), (-1.0, 1.0))


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("axes", [1, 2])
def test_json_gives_back_every_bit(dtype, axes) -> None:
    params = {"w": draw(3, 4, seed=0).to(dtype)}
    frame = random_frame(params, n_axes=axes)._replace(marks={"end": (0.1,) * axes})
    cut = take_slice(lambda params: params["w"].exp().sum() / 3, frame, points=5)
    if axes == 2:
        cut.losses[1, 2] = math.nan
    back = from_json(json.loads(json.dumps(to_json(cut), allow_nan=False)))
    assert back.losses.dtype == dtype
    assert torch.equal(back.losses.nan_to_num(-1), cut.losses.nan_to_num(-1))
    assert all(torch.equal(a, b) for a, b in zip(back.coordinates, cut.coordinates, strict=True))
    assert back._replace(losses=None, coordinates=None) == cut._replace(losses=None, coordinates=None)


def test_float32_losses_are_written_with_no_more_digits_than_they_have() -> None:
    cut = plane_of(lambda x, y: (x + y) / 3, points=5)
    text = json.dumps(to_json(cut._replace(losses=cut.losses.float()))["losses"])
    assert max(len(number.strip("[] -")) for number in text.split(",")) <= len("0.123456789")


@pytest.mark.parametrize("values", [{}, {"losses": [1]}, [], "text", None])
def test_what_is_no_slice_is_refused(values) -> None:
    with pytest.raises(UserError, match="slice="):
        from_json(values)


def test_a_slice_with_a_row_too_few_is_refused() -> None:
    values = to_json(plane_of(lambda x, y: x + y, points=5))
    values["losses"].pop()
    with pytest.raises(UserError, match="to_json"):
        from_json(values)


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"points": 1}, "points=1 is not allowed: it must be at least 2"),
        ({"chunk": 0}, "chunk=0"),
        ({"ranges": [(-1, 1)]}, "one for each of axis 10, axis 20"),
        ({"ranges": [(-1, 1), (1, 1)]}, "to a larger one"),
        ({"ranges": [(-1, 1), (0, math.inf)]}, "finite"),
        ({"ranges": [(-1, 1), (math.nan, 1)]}, "finite"),
    ],
)
def test_a_grid_that_is_none_is_refused_before_any_work(changes, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        take_slice(lambda params: pytest.fail("evaluated"), frame_of(10, 20), **changes)


def test_axes_of_another_model_and_planes_of_three_axes_are_refused() -> None:
    learner = plain_maml(setting("maml"), TanhNet())
    other = learner.init(seeded(0))
    with pytest.raises(UserError, match=r"is not allowed: it must be .* as in the origin of the axis 'theirs'"):
        take_slice(quadratic, Frame(ORIGIN, {"theirs": other}, {}))
    with pytest.raises(UserError, match=r"frame.axes=.*two \(a plane\)"):
        take_slice(quadratic, frame_of(10, 20, 30))
    with pytest.raises(UserError, match="radius=-1"):
        ball(plane_of(lambda x, y: x), -1)
