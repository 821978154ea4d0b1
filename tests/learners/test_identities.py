"""What must hold between variants, settings, tasks and the learner's own functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import (
    ANIL,
    EFFICIENT,
    UP,
    Coordinates,
    TanhNet,
    classification,
    draw,
    equal,
    moved,
    one_task,
    regression,
    relative_error,
    seeded,
    setting,
)
from torch import nn

from sharp_maml_core import Episode, build_learner
from sharp_maml_core.config import FAMILY, FIELDS
from sharp_maml_core.errors import UserError
from sharp_maml_core.models import Conv4

MODEL, EPISODE = TanhNet(), classification()
LINEAR_IN_TASKS = [variant for variant in FAMILY if variant not in (*UP, *EFFICIENT)]


def start(variant, model=MODEL, loss=None, **changes):
    learner = build_learner(setting(variant, **changes), model, loss)
    return learner, moved(learner.init(seeded(1)))


def gradient(variant, episode=EPISODE, model=MODEL, loss=None, **changes):
    learner, params = start(variant, model, loss, **changes)
    return learner.gradient(params, episode)[0]


# --- between variants ---------------------------------------------------------------------------------------------

OFF = {"alpha_low": 0.0, "alpha_up": 0.0}


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
@pytest.mark.parametrize(
    ("variant", "radii", "same_as"),
    [
        ("both", OFF, "maml"),
        ("low", OFF, "maml"),
        ("up", OFF, "maml"),
        ("e-low", OFF, "maml"),
        ("low-anil", OFF, "anil"),
        ("e-low-anil", OFF, "anil"),
        ("both", {"alpha_low": 0.0}, "up"),
        ("both", {"alpha_up": 0.0}, "low"),
        ("e-low", {"esam_weights": 1.0, "esam_samples": 1.0}, "low"),
        ("e-low-anil", {"esam_weights": 1.0, "esam_samples": 1.0}, "low-anil"),
    ],
)
def test_what_is_off_changes_no_bit(variant, radii, same_as, task_map):
    for model, episode in ((MODEL, EPISODE), (Conv4((1, 16, 16), 3, 4), classification((1, 16, 16)))):
        one, other = (gradient(kind, episode, model, task_map=task_map, **radii) for kind in (variant, same_as))
        assert equal(one, other)


def test_first_order_is_exact_where_the_support_loss_is_linear():
    """No Hessian, nothing to leave out."""
    episode = Episode(draw(2, 4, 5, seed=1), draw(2, 4, seed=2), draw(2, 4, 5, seed=3), draw(2, 4, seed=4))

    def linear(outputs, targets):
        return (outputs * targets).mean()

    one, other = (gradient(variant, episode, Coordinates(), linear) for variant in ("maml", "fomaml"))
    assert equal(one, other)


def test_every_variant_is_different_from_every_other():
    vectors = {variant: gradient(variant) for variant in FAMILY}
    for one in FAMILY:
        for other in FAMILY[: FAMILY.index(one)]:
            assert relative_error(vectors[one], vectors[other]) > 1e-3, (one, other)


# --- steps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["maml", "low", "anil", "low-anil"])
def test_two_steps_are_one_step_twice(variant):
    (once, params), (twice, _) = (start(variant, inner_steps=steps) for steps in (1, 2))
    support = EPISODE.support_x[0], EPISODE.support_y[0]
    assert equal(twice.adapt(params, *support), once.adapt(once.adapt(params, *support), *support))


def test_steps_and_perturbation_at_test_time_are_settings_of_their_own():
    support = EPISODE.support_x[0], EPISODE.support_y[0]
    learner, params = start("low", inner_steps=2, eval_inner_steps=3)
    assert equal(learner.adapt(params, *support), start("low", inner_steps=3)[0].adapt(params, *support))
    assert equal(gradient("low", inner_steps=2, eval_inner_steps=3), gradient("low", inner_steps=2))
    plain, _ = start("low", test_perturbation=False)
    assert equal(plain.adapt(params, *support), start("maml")[0].adapt(params, *support))
    assert equal(gradient("low", test_perturbation=False), gradient("low"))


def mean(alone):
    return {name: torch.stack([grads[name] for grads in alone]).mean(0) for name in alone[0]}


# --- tasks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", LINEAR_IN_TASKS)
def test_the_gradient_is_the_mean_of_the_tasks_gradients(variant):
    alone = [gradient(variant, one_task(EPISODE, task)) for task in range(EPISODE.n_tasks)]
    assert relative_error(gradient(variant), mean(alone)) < 5e-16


@pytest.mark.parametrize("variant", [variant for variant in FAMILY if variant not in EFFICIENT])
def test_the_order_of_tasks_does_not_matter(variant):
    turned = Episode(*(value[[2, 0, 1]] for value in EPISODE))
    assert relative_error(gradient(variant, turned), gradient(variant)) < 1e-14


@pytest.mark.parametrize("variant", UP)
def test_a_task_given_twice_counts_once(variant):
    """The upper radius is that of the mean, too."""
    twice = Episode(*(torch.cat([value, value]) for value in EPISODE))
    assert relative_error(gradient(variant, twice), gradient(variant)) < 1e-14


# --- gradient, adapt, predict and metrics -------------------------------------------------------------------------


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
@pytest.mark.parametrize("variant", FAMILY)
def test_metrics_are_those_of_adapt_and_predict(variant, task_map):
    """One task, so that ESAM's masks are the same in both; `query_loss` is that before the upper perturbation."""
    task = one_task(classification(n_query=20), 1)
    learner, params = start(variant, task_map=task_map)
    _, metrics = learner.gradient(params, task)
    outputs = learner.predict(learner.adapt(params, task.support_x[0], task.support_y[0]), task.query_x[0])
    names = {"query_loss", "query_accuracy"} | ({"perturbed_loss"} if variant in UP else set())
    assert metrics.keys() == names
    assert all(value.shape == () for value in metrics.values())
    loss = F.cross_entropy(outputs, task.query_y[0])
    torch.testing.assert_close(metrics["query_loss"], loss, rtol=1e-14, atol=0)
    right = (outputs.argmax(1) == task.query_y[0]).sum().item()
    assert float(metrics["query_accuracy"]) == pytest.approx(right / 60, rel=1e-15)


def test_metrics_are_means_over_tasks():
    learner, params = start("maml")
    _, metrics = learner.gradient(params, EPISODE)
    alone = [learner.gradient(params, one_task(EPISODE, task))[1] for task in range(3)]
    for name, value in mean(alone).items():
        torch.testing.assert_close(metrics[name], value, rtol=1e-15, atol=0)


def test_regression_has_no_accuracy():
    learner, params = start("both", loss=F.mse_loss)
    _, metrics = learner.gradient(params, regression())
    assert metrics.keys() == {"query_loss", "perturbed_loss"}


@pytest.mark.parametrize("variant", ANIL)
def test_anil_adapts_the_head_and_nothing_else(variant):
    learner, params = start(variant)
    fast = learner.adapt(params, EPISODE.support_x[0], EPISODE.support_y[0])
    changed = {name for name, value in params.items() if not torch.equal(fast[name], value)}
    assert changed == {"head.weight", "head.bias"}


@pytest.mark.parametrize("adapt_norm", [True, False])
def test_norm_layers_adapt_only_if_told_to(adapt_norm):
    learner, params = start("low", adapt_norm=adapt_norm)
    fast = learner.adapt(params, EPISODE.support_x[0], EPISODE.support_y[0])
    kept = {name for name, value in params.items() if torch.equal(fast[name], value)}
    assert kept == (set() if adapt_norm else {"features.1.weight", "features.1.bias"})


@pytest.mark.parametrize("variant", ANIL)
def test_anil_needs_features_and_a_head(variant):
    with pytest.raises(UserError, match=rf"^variant='{variant}' is not allowed.*`features` and `head`"):
        build_learner(setting(variant), nn.Linear(5, 3))


class Joined(nn.Module):
    """Features and a head, but the whole is not head(features(x)): there is a ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.relu(self.features(x)))


def test_anil_never_computes_another_network_than_the_users():
    learner, params = start("anil", Joined())
    with pytest.raises(UserError, match="features"):
        learner.gradient(params, EPISODE)


# --- pure, repeatable, in any precision ---------------------------------------------------------------------------


@pytest.mark.parametrize("variant", FAMILY)
def test_nothing_given_is_changed_and_nothing_returned_has_a_graph(variant):
    learner, params = start(variant, perturbation_gradient="through")
    before = {name: value.clone() for name, value in params.items()}
    data = [value.clone() for value in EPISODE]
    grads, metrics = learner.gradient(params, EPISODE)
    fast = learner.adapt(params, EPISODE.support_x[0], EPISODE.support_y[0])
    assert equal(params, before)
    assert all(torch.equal(value, kept) for value, kept in zip(EPISODE, data, strict=True))
    assert not any(value.requires_grad for tree in (grads, metrics, fast) for value in tree.values())
    assert grads.keys() == fast.keys() == params.keys()


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
@pytest.mark.parametrize("adapt_norm", [True, False])
@pytest.mark.parametrize("variant", FAMILY)
def test_parameters_that_require_grad_give_the_same_gradient(variant, adapt_norm, task_map):
    """A caller may pass `dict(module.named_parameters())`: a graph behind theta changes no derivative."""
    learner, params = start(variant, adapt_norm=adapt_norm, task_map=task_map)
    live = {name: value.clone().requires_grad_() for name, value in params.items()}
    grads = {name: value.detach() for name, value in learner.gradient(live, EPISODE)[0].items()}
    assert relative_error(grads, learner.gradient(params, EPISODE)[0]) < 1e-15
    assert all(value.grad is None for value in live.values())


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_grad_mode_does_not_matter(mode, task_map):
    """Least of all in silence: an evaluation under inference_mode must not skip the adaptation."""
    learner, params = start("both", task_map=task_map)
    support = EPISODE.support_x[0], EPISODE.support_y[0]
    grads, fast = learner.gradient(params, EPISODE)[0], learner.adapt(params, *support)
    with mode():
        assert equal(learner.gradient(params, EPISODE)[0], grads)
        assert equal(learner.adapt(params, *support), fast)


@pytest.mark.parametrize("variant", FAMILY)
def test_chance_is_in_the_generator_alone(variant):
    """ESAM's weights come from it; None draws the same every time; nothing else draws at all."""
    learner, params = start(variant)
    first, again, other = (learner.gradient(params, EPISODE, seeded(seed))[0] for seed in (1, 1, 2))
    assert equal(first, again)
    assert equal(first, other) is (variant not in EFFICIENT)
    state = torch.get_rng_state()
    assert equal(learner.gradient(params, EPISODE)[0], learner.gradient(params, EPISODE)[0])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("variant", FAMILY)
def test_a_loss_without_slope_gives_a_gradient_of_zero(variant, adaptive):
    """Norm 0 at both levels: no NaN, whatever is differentiated."""
    learner, params = start(
        variant, loss=lambda outputs, _: 0 * outputs.sum(), adaptive=adaptive, perturbation_gradient="through"
    )
    grads, _ = learner.gradient(params, EPISODE)
    assert equal(grads, {name: torch.zeros_like(value) for name, value in params.items()})
    assert equal(learner.adapt(params, EPISODE.support_x[0], EPISODE.support_y[0]), params)


@pytest.mark.parametrize("variant", FAMILY)
def test_float32_is_float64_but_for_rounding(variant):
    """Two to three units in the last place (6e-8) were measured; the test allows ten, for other machines' sums."""
    learner, params = start(variant, dtype="float32")
    single = {name: value.float() for name, value in params.items()}
    episode = Episode(*(value.float() if value.is_floating_point() else value for value in classification()))
    grads, metrics = learner.gradient(single, episode)
    assert all(value.dtype == torch.float32 for value in (*grads.values(), *metrics.values()))
    exact = start(variant)[0].gradient(
        {name: value.double() for name, value in single.items()},
        Episode(*(value.double() if value.is_floating_point() else value for value in episode)),
    )[0]
    assert relative_error({name: value.double() for name, value in grads.items()}, exact) < 6e-7
    fast = learner.adapt(single, episode.support_x[0], episode.support_y[0])
    assert all(value.dtype == torch.float32 for value in fast.values())


# --- a head that starts from zero ---------------------------------------------------------------------------------


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("variant", FAMILY)
def test_a_head_of_zero_is_drawn_as_zero_and_stays_there(variant, adaptive):
    """And nothing divides by a length of zero: ASAM's |w| g is one where the head is zero and the features' g."""
    learner = build_learner(setting(variant, zero_head=True, adaptive=adaptive), MODEL)
    params = learner.init(seeded(1))
    grads, _ = learner.gradient(params, EPISODE)
    for name, value in params.items():
        assert torch.isfinite(grads[name]).all(), name
        if name.startswith("head."):
            assert not value.any()
            assert not grads[name].any()
    assert all(value.any() for name, value in grads.items() if not name.startswith("head."))


@pytest.mark.parametrize("variant", ["low", "low-anil"])
def test_asams_ball_about_a_head_of_zero_is_a_point_as_its_setting_says(variant):
    """So one inner step of Sharp-MAML is one of MAML, and two are not."""
    plain = {"low": "maml", "low-anil": "anil"}[variant]
    for steps in (1, 2):
        changes = {"zero_head": True, "adaptive": True, "inner_steps": steps}
        sharp, flat = (build_learner(setting(name, **changes), MODEL) for name in (variant, plain))
        params = sharp.init(seeded(1))
        difference = relative_error(sharp.gradient(params, EPISODE)[0], flat.gradient(params, EPISODE)[0])
        assert difference < 1e-14 if steps == 1 else difference > 1e-3
    assert "first inner step is then zero with zero_head" in FIELDS["adaptive"].metadata["help"]


def test_the_first_step_from_a_head_of_zero_moves_the_head_alone():
    support_x, support_y = EPISODE.support_x[0], EPISODE.support_y[0]
    features = {"features.0.weight", "features.0.bias", "features.1.weight", "features.1.bias"}
    for steps, expected in ((1, set()), (2, features)):
        learner = build_learner(setting("maml", zero_head=True, inner_steps=steps), MODEL)
        params = learner.init(seeded(1))
        fast = learner.adapt(params, support_x, support_y)
        assert {name for name in features if not torch.equal(fast[name], params[name])} == expected
        assert fast["head.weight"].any()


def test_a_model_without_a_head_cannot_have_one_of_zero():
    with pytest.raises(
        UserError, match=r"^zero_head=True is not allowed: it must be false: this model has no submodules"
    ):
        build_learner(setting("maml", zero_head=True), Coordinates())
