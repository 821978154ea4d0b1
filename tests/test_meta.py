"""Mapping over tasks, and the upper-level SAM around a meta-gradient of which everything is known."""

from __future__ import annotations

import pytest
import torch
from cases import draw, equal

from sharp_maml_core.meta import MetaGradient, map_tasks, sharpen
from sharp_maml_core.params import norm


class Recorded:
    """A meta-gradient h(theta) = 2 theta + 1 that remembers how it was called; its looks are the theta it saw."""

    def __init__(self):
        self.calls = []

    def __call__(self, params, episode, looks=None, generator=None):
        self.calls.append((params, episode, looks, generator))
        grads = {name: 2 * value + 1 for name, value in params.items()}
        return MetaGradient(grads, {"query_loss": norm(params)}, ("looks at", params))


THETA = {"a": draw(2, seed=1), "b": draw(3, seed=2)}


def to_length(params, radius):
    length = torch.linalg.norm(torch.cat([value.flatten() for value in params.values()]))
    return {name: radius * value / length for name, value in params.items()}


@pytest.mark.parametrize("adaptive", [False, True])
def test_eq_13_15_the_second_gradient_at_the_peak_of_the_first(adaptive):
    h = Recorded()
    got = sharpen(h, 0.3, adaptive=adaptive)(THETA, "tasks", None, "generator")
    here, there = h.calls
    slope = {name: 2 * value + 1 for name, value in THETA.items()}
    epsilon = to_length(slope, 0.3)
    if adaptive:
        length = torch.linalg.norm(torch.cat([THETA[name] * value for name, value in slope.items()]))
        epsilon = {name: 0.3 * THETA[name] ** 2 * value / length for name, value in slope.items()}
    assert here == (THETA, "tasks", None, "generator")
    for name, value in THETA.items():
        torch.testing.assert_close(there[0][name], value + epsilon[name], rtol=1e-15, atol=1e-16)
        assert torch.equal(got.grads[name], 2 * there[0][name] + 1)
    assert there[1::2] == ("tasks", "generator")
    assert got.metrics == {"query_loss": norm(THETA), "perturbed_loss": norm(there[0])}


def test_eq_14_the_second_pass_looks_where_the_first_did():
    h = Recorded()
    sharpen(h, 0.3)(THETA, "tasks")
    assert h.calls[1][2] == ("looks at", THETA)


def test_without_reuse_the_second_pass_looks_anew():
    h = Recorded()
    sharpen(h, 0.3, reuse=False)(THETA, "tasks")
    assert h.calls[1][2] is None


def test_radius_zero_is_the_gradient_itself():
    h = Recorded()
    got = sharpen(h, 0.0)(THETA, "tasks", "looks", "generator")
    assert h.calls == [(THETA, "tasks", "looks", "generator")]
    assert equal(got.grads, h(THETA, "tasks").grads)
    assert got.metrics == {"query_loss": norm(THETA)}


def test_a_zero_meta_gradient_is_evaluated_twice_at_one_point():
    h = Recorded()
    stationary = {"a": torch.full((2,), -0.5)}
    assert equal(sharpen(h, 0.3)(stationary, "tasks").grads, {"a": torch.zeros(2)})
    assert equal(h.calls[1][0], stationary)


def test_sharpen_wraps_a_sharpened_gradient():
    """Composition: the inner wrapper is any gradient to the outer one, which asks it twice."""
    h = Recorded()
    sharpen(sharpen(h, 0.1), 0.2)(THETA, "tasks")
    assert len(h.calls) == 4


@pytest.mark.parametrize(("how", "chunk"), [("loop", None), ("vmap", None), ("vmap", 1), ("vmap", 2), ("vmap", 9)])
def test_map_tasks_goes_over_trees_in_order(how, chunk):
    """Arguments and results are trees with the tasks in front; an empty tree is an argument like another."""

    def function(pair, empty, more):
        x, y = pair
        return {"sum": x + y, "list": [(x * more["scale"]).sum()]}, empty

    x, y, scale = draw(5, 3, seed=1), draw(5, 3, seed=2), draw(5, seed=3)
    result, empty = map_tasks(function, ((x, y), [], {"scale": scale}), how, chunk)
    assert empty == []
    torch.testing.assert_close(result["sum"], x + y, rtol=0, atol=0)
    torch.testing.assert_close(result["list"][0], (x * scale[:, None]).sum(1), rtol=1e-14, atol=1e-15)
