"""What must hold of every other system: it is pure, repeatable, in any precision, and quiet where nothing slopes."""

from __future__ import annotations

import pytest
import torch
from cases import TanhNet, classification, equal, moved, relative_error, seeded, setting
from torch import nn

from sharp_maml_core import Episode, build_learner
from sharp_maml_core.config import OTHERS


class WithContext(TanhNet):
    """The same network, whose hidden layer a context shifts."""

    def __init__(self) -> None:
        super().__init__()
        self.context = nn.Parameter(torch.zeros(6))

    def forward(self, x):
        return self.head(self.features(x) * (1 + self.context))


EPISODE = classification()
SUPPORT = EPISODE.support_x[0], EPISODE.support_y[0]
MODELS = dict.fromkeys(OTHERS, TanhNet()) | {"cavia": WithContext()}
DRAWS = ("reptile",)
LEAVES_BEHIND = ("maml++", "erm", "sam")  # rates, or the head of training, are no parameters of a task
OF_ITS_OWN = {"imaml": {"cg_residual", "cg_stopped"}, "llama": {"log_det"}, "bmaml": {"chaser_loss"}}
SLOPES = [variant for variant in MODELS if variant not in ("llama", "bmaml")]  # these two have more than the loss's


def start(variant, loss=None, **changes):
    settings = {"n_way": 3, "alpha_low": 0.0, "inner_lr": 0.03} | changes
    learner = build_learner(setting(variant, **settings), MODELS[variant], loss)
    return learner, moved(learner.init(seeded(1)))


@pytest.mark.parametrize("variant", MODELS)
def test_nothing_given_is_changed_and_nothing_returned_has_a_graph(variant):
    learner, params = start(variant)
    before, data = {name: value.clone() for name, value in params.items()}, [value.clone() for value in EPISODE]
    grads, metrics = learner.gradient(params, EPISODE)
    fast = learner.adapt(params, *SUPPORT)
    assert equal(params, before)
    assert all(torch.equal(value, kept) for value, kept in zip(EPISODE, data, strict=True))
    assert not any(value.requires_grad for tree in (grads, metrics, fast) for value in tree.values())
    assert grads.keys() == params.keys()
    assert (params.keys() <= fast.keys()) is (variant not in LEAVES_BEHIND)
    assert metrics.keys() == {"query_loss", "query_accuracy", "perturbed_loss"} | OF_ITS_OWN.get(variant, set())


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
@pytest.mark.parametrize("variant", MODELS)
def test_parameters_that_require_grad_give_the_same_gradient(variant, task_map):
    learner, params = start(variant, task_map=task_map)
    live = {name: value.clone().requires_grad_() for name, value in params.items()}
    grads = {name: value.detach() for name, value in learner.gradient(live, EPISODE)[0].items()}
    assert relative_error(grads, learner.gradient(params, EPISODE)[0]) < 1e-15
    assert all(value.grad is None for value in live.values())


@pytest.mark.parametrize("variant", MODELS)
def test_chance_is_in_the_generator_alone(variant):
    learner, params = start(variant)
    first, again, other = (learner.gradient(params, EPISODE, seeded(seed))[0] for seed in (1, 1, 2))
    assert equal(first, again)
    assert equal(first, other) is (variant not in DRAWS)
    state = torch.get_rng_state()
    assert equal(learner.gradient(params, EPISODE)[0], learner.gradient(params, EPISODE)[0])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("variant", SLOPES)
def test_a_loss_without_slope_gives_a_gradient_of_zero(variant, adaptive, task_map):
    changes = {"adaptive": adaptive, "task_map": task_map, "mamlpp_step_norms": False}
    learner, params = start(variant, lambda outputs, _: 0 * outputs.sum(), **changes)
    grads, _ = learner.gradient(params, EPISODE)
    assert equal(grads, {name: torch.zeros_like(value) for name, value in params.items()})
    fast = learner.adapt(params, *SUPPORT)
    common = params.keys() & fast.keys()
    assert equal({name: fast[name] for name in common}, {name: params[name] for name in common})


@pytest.mark.parametrize("variant", MODELS)
def test_float32_is_float64_but_for_rounding(variant):
    """Up to five units in the last place (6e-8) were measured; ten are allowed, for other machines' sums.

    Of bmaml it was 3e-6, for what its particles are behind is the small difference of two points.
    """
    learner, params = start(variant, dtype="float32")
    single = {name: value.float() for name, value in params.items()}
    episode = Episode(*(value.float() if value.is_floating_point() else value for value in EPISODE))
    grads, metrics = learner.gradient(single, episode)
    assert all(value.dtype == torch.float32 for value in (*grads.values(), *metrics.values()))
    exact = start(variant)[0].gradient(
        {name: value.double() for name, value in single.items()},
        Episode(*(value.double() if value.is_floating_point() else value for value in episode)),
    )[0]
    assert relative_error({name: value.double() for name, value in grads.items()}, exact) < (
        3e-5 if variant == "bmaml" else 6e-7
    )
    fast = learner.adapt(single, episode.support_x[0], episode.support_y[0])
    assert all(value.dtype == torch.float32 for value in fast.values())
