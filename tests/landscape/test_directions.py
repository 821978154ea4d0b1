"""Directions and the planes that they span: lengths, angles, and who shares what."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import SmoothNet, TanhNet, classification, draw, equal, moved, seeded, setting

from sharp_maml_core import Conv4, UserError
from sharp_maml_core.landscape.directions import (
    along,
    filter_normalised,
    line_through,
    plane_through,
    principal_plane,
    random_frame,
)
from sharp_maml_core.landscape.surfaces import maml_surface, plain_maml
from sharp_maml_core.params import add_scaled, dot, norm, scaled


def fresh(model=None, seed=0):
    return moved(plain_maml(setting("maml"), model or SmoothNet()).init(seeded(seed)), seed)


def gaussian(params, seed):
    return {name: draw(*value.shape, seed=seed + i) for i, (name, value) in enumerate(params.items())}


def at(frame, point):
    theta = frame.origin
    for coordinate, axis in zip(point, frame.axes.values(), strict=True):
        theta = add_scaled(theta, axis, coordinate)
    return theta


def distance(x, y):
    return float(norm(add_scaled(x, y, -1.0)))


# --- random directions --------------------------------------------------------------------------------------------


def test_every_filter_is_as_long_as_the_models_and_vectors_stay() -> None:
    params = fresh(Conv4((3, 16, 16), 5, 4))
    for axis in random_frame(params).axes.values():
        for name, value in params.items():
            if value.dim() == 1:
                assert not axis[name].any()
                continue
            for index in range(len(value)):
                assert float(axis[name][index].norm()) == pytest.approx(float(value[index].norm()), rel=1e-14)


def test_a_rescaled_filter_rescales_its_direction_and_nothing_else() -> None:
    params = fresh()
    weights = params["features.0.weight"].clone()
    weights[1] *= 7.0
    here = random_frame(params).axes["random 1"]
    there = random_frame(params | {"features.0.weight": weights}).axes["random 1"]
    expected = here["features.0.weight"].clone()
    expected[1] *= 7.0
    torch.testing.assert_close(there["features.0.weight"], expected, rtol=1e-14, atol=0)
    assert all(torch.equal(there[name], value) for name, value in here.items() if name != "features.0.weight")


def test_a_rescaled_filter_before_batch_norm_gives_the_same_losses() -> None:
    learner, episode = plain_maml(setting("maml"), SmoothNet()), classification((1, 8, 8), n_tasks=1)
    params = fresh()
    weights = params["features.0.weight"].clone()
    weights[1] *= 7.0
    surface = maml_surface(plain_maml(setting("maml", inner_lr=1e-9), SmoothNet()), episode)
    for point in ((0.5, 0.0), (-0.3, 0.8)):
        here = surface(at(random_frame(params), point))
        there = surface(at(random_frame(params | {"features.0.weight": weights}), point))
        # Not exactly: batch norm adds 1e-5 to the variance. And not with a large inner_lr: a step of the inner loop
        # moves a filter that is 7 times as long 49 times less of its length.
        torch.testing.assert_close(there, here, rtol=1e-4, atol=0)
    plain = maml_surface(learner, episode)
    moved_there = plain(at(random_frame(params | {"features.0.weight": weights}), (0.5, 0.0)))
    assert abs(float(moved_there - plain(at(random_frame(params), (0.5, 0.0))))) > 1e-3


def test_models_that_are_compared_share_the_draw() -> None:
    first, second = (random_frame(fresh(seed=seed), seed=3).axes for seed in (0, 1))
    for axis in first:
        for name in ("features.0.weight", "features.4.weight", "head.weight"):
            a, b = (axes[axis][name].flatten(1) for axes in (first, second))
            cosines = torch.cosine_similarity(a, b, dim=1)
            torch.testing.assert_close(cosines, torch.ones_like(cosines), rtol=1e-14, atol=0)
    assert not torch.equal(first["random 1"]["head.weight"], second["random 1"]["head.weight"])


def test_the_seed_decides_and_both_axes_differ() -> None:
    params = fresh()
    frames = [random_frame(params, seed).axes for seed in (0, 0, 1)]
    assert equal(frames[0]["random 1"], frames[1]["random 1"])
    assert not equal(frames[0]["random 1"], frames[2]["random 1"])
    assert not equal(frames[0]["random 1"], frames[0]["random 2"])
    assert equal(random_frame(params, 0, n_axes=1).axes["random 1"], frames[0]["random 1"])


def test_directions_are_computed_in_float64_whatever_the_model_is() -> None:
    single = {name: value.float() for name, value in fresh().items()}
    double = {name: value.double() for name, value in single.items()}
    for name, axis in random_frame(single).axes.items():
        exact = random_frame(double).axes[name]
        assert equal(axis, {key: value.float() for key, value in exact.items()})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_directions_are_the_same_on_a_gpu() -> None:
    params = fresh()
    there = random_frame({name: value.cuda() for name, value in params.items()}).axes["random 1"]
    assert equal({name: value.cpu() for name, value in there.items()}, random_frame(params).axes["random 1"])


def test_a_zero_filter_of_a_given_direction_stays_zero() -> None:
    params = fresh()
    direction = gaussian(params, 5)
    direction["head.weight"][0] = 0
    found = filter_normalised(direction, params)
    assert not found["head.weight"][0].any()
    assert float(found["head.weight"][1].norm()) == pytest.approx(float(params["head.weight"][1].norm()), rel=1e-14)


# --- through directions and solutions ----------------------------------------------------------------------------


def test_axes_along_two_directions_are_orthonormal_and_span_both() -> None:
    params = fresh()
    first, second = gaussian(params, 1), add_scaled(gaussian(params, 1), gaussian(params, 30), 0.01)
    u, v = along(params, {"first": first, "second": second}).axes.values()
    assert float(norm(u)) == pytest.approx(1, rel=1e-14)
    assert float(norm(v)) == pytest.approx(1, rel=1e-14)
    assert abs(float(dot(u, v))) < 1e-14
    assert float(dot(u, first)) == pytest.approx(float(norm(first)), rel=1e-14)
    rest = add_scaled(add_scaled(second, u, -dot(second, u)), v, -dot(second, v))
    assert float(norm(rest)) < 1e-13 * float(norm(second))


def test_a_line_reaches_its_second_solution_at_its_mark() -> None:
    first, second = fresh(seed=0), fresh(seed=1)
    frame = line_through({"maml": first, "low": second})
    assert frame.marks["maml"] == (0.0,)
    assert frame.marks["low"][0] == pytest.approx(distance(first, second), rel=1e-14)
    assert distance(at(frame, frame.marks["low"]), second) < 1e-13


def test_a_plane_holds_its_three_solutions_at_their_marks_and_keeps_distances() -> None:
    solutions = {name: fresh(seed=seed) for seed, name in enumerate(("maml", "low", "both"))}
    frame = plane_through(solutions)
    for name, params in solutions.items():
        assert distance(at(frame, frame.marks[name]), params) < 1e-13
    assert frame.marks["low"][1] == pytest.approx(0, abs=1e-13)
    between = np.subtract(frame.marks["low"], frame.marks["both"])
    assert np.hypot(*between) == pytest.approx(distance(solutions["low"], solutions["both"]), rel=1e-13)


# --- the way of a run --------------------------------------------------------------------------------------------


def test_the_principal_plane_of_a_path_in_a_plane_is_that_plane() -> None:
    end = fresh()
    frame = along(end, {"a": gaussian(end, 1), "b": gaussian(end, 30)})
    coordinates = [(3.0, 1.0), (2.0, -1.5), (1.5, 0.7), (0.5, 0.1), (0.0, 0.0)]
    snapshots = {100 * i: at(frame, point) for i, point in enumerate(coordinates)}
    plane, found = principal_plane(snapshots)
    assert found.iterations == (0, 100, 200, 300, 400)
    assert sum(found.explained) == pytest.approx(1, rel=1e-12)
    assert float(found.distances.max()) < 1e-12
    for point, snapshot in zip(found.path.tolist(), snapshots.values(), strict=True):
        assert distance(at(plane, point), snapshot) < 1e-12
    assert min(found.path[0].tolist()) >= 0
    assert equal(plane.origin, end)


def test_the_explained_variance_is_that_of_the_covariance_matrix() -> None:
    snapshots = {i: fresh(TanhNet(), seed) for i, seed in enumerate((4, 2, 7, 1))}
    plane, found = principal_plane(snapshots)
    matrix = np.stack([np.concatenate([value.numpy().ravel() for value in p.values()]) for p in snapshots.values()])
    eigenvalues = np.linalg.eigvalsh(np.cov(matrix.T))[::-1]
    assert found.explained == pytest.approx(tuple(eigenvalues[:2] / eigenvalues.sum()), rel=1e-10)
    for point, beside, snapshot in zip(found.path.tolist(), found.distances.tolist(), snapshots.values(), strict=True):
        assert distance(at(plane, point), snapshot) == pytest.approx(beside, rel=1e-10, abs=1e-12)


# --- what is refused ---------------------------------------------------------------------------------------------


def test_directions_of_another_model_are_refused_by_name() -> None:
    params, other = fresh(TanhNet(width=6)), fresh(TanhNet(width=7))
    for call in (
        lambda: filter_normalised(other, params),
        lambda: along(params, {"x": other}),
        lambda: line_through({"a": params, "b": other}),
        lambda: principal_plane({0: params, 1: other, 2: params}),
    ):
        with pytest.raises(UserError, match=r"params\['features.0.weight'\]=\(.*\) is not allowed: it must be \("):
            call()


def test_directions_that_span_nothing_are_refused() -> None:
    params = fresh(TanhNet())
    direction = gaussian(params, 1)
    zero = scaled(direction, 0.0)
    refused = [
        (lambda: along(params, {"flat": zero}), "direction='flat' is not allowed"),
        (lambda: along(params, {"a": direction, "b": scaled(direction, -2.0)}), "not on one line"),
        (lambda: along(params, {"a": scaled(direction, float("nan"))}), "finite"),
        (lambda: along(params, {}), "n_axes=0"),
        (lambda: line_through({"a": params, "b": params}), "towards b"),
        (lambda: line_through({"a": params}), "2 of them"),
        (lambda: plane_through({"a": params, "b": direction}), "3 of them"),
        (
            lambda: plane_through({"a": params, "b": direction, "c": scaled(add_scaled(params, direction, 1.0), 0.5)}),
            "not on one line",
        ),
        (lambda: principal_plane({0: params, 1: direction}), "len"),
        (lambda: principal_plane({i: scaled(direction, float(i)) for i in range(4)}), "not all on one line"),
        (lambda: random_frame(params, seed=-1), "seed=-1"),
        (lambda: random_frame(params, n_axes=3), "n_axes=3"),
    ]
    for call, sentence in refused:
        with pytest.raises(UserError, match=sentence):
            call()
