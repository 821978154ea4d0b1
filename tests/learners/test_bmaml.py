"""Bayesian MAML against plain loops with the graph of everything kept, and with one particle against MAML."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from cases import TanhNet, classification, equal, moved, regression, relative_error, seeded, setting
from torch import nn
from torch.func import functional_call

from sharp_maml_core import Episode, build_learner
from sharp_maml_core.errors import UserError
from sharp_maml_core.params import add_scaled
from sharp_maml_core.sharpness import perturbation

OFF = {"alpha_low": 0.0, "alpha_up": 0.0}
EPISODE = classification()


class Whole(nn.Module):
    """Nothing to share: no features and no head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


MODELS = {"heads": TanhNet, "whole networks": Whole}


def start(model, variant="bmaml", loss=None, **changes):
    learner = build_learner(setting(variant, **(OFF | changes)), model, loss)
    return learner, moved(learner.init(seeded(1)))


# --- the reference ------------------------------------------------------------------------------------------------


def naive_step(model, shared, particles, x, y, rate):
    """All of it in loops over particles and over pairs, one vector for each particle."""
    m, losses = len(particles), []
    for particle in particles:
        losses.append(F.cross_entropy(functional_call(model, shared | particle, (x,)), y))
    slopes = [
        torch.autograd.grad(value, list(particle.values()), create_graph=True)
        for value, particle in zip(losses, particles, strict=True)
    ]
    scores = [-torch.cat([slope.flatten() for slope in each]) for each in slopes]
    vectors = [torch.cat([value.flatten() for value in particle.values()]) for particle in particles]
    distances = sorted(float((vectors[i] - vectors[j]).detach().norm()) for i in range(m) for j in range(i))
    if m > 1:
        median = (distances[(len(distances) - 1) // 2] + distances[len(distances) // 2]) / 2
        h = median**2 / math.log(m)
    moved_particles = []
    for i, particle in enumerate(particles):
        direction = 0.0
        for j in range(m):
            k = torch.exp(-((vectors[j] - vectors[i]) ** 2).sum() / h) if m > 1 else 1.0
            repulsion = -2 * (vectors[j] - vectors[i]) / h * k if m > 1 else 0.0
            direction = direction + (k * scores[j] + repulsion) / m
        parts = direction.split([value.numel() for value in particle.values()])
        moved_particles.append(
            {
                name: value + rate * part.reshape(value.shape)
                for (name, value), part in zip(particle.items(), parts, strict=True)
            }
        )
    if shared:
        grads = torch.autograd.grad(sum(losses) / m, list(shared.values()), create_graph=True)
        shared = {name: value - rate * g for (name, value), g in zip(shared.items(), grads, strict=True)}
    return shared, moved_particles


def naive_chaser_loss(model, shared, particles, task, config):
    support_x, support_y, query_x, query_y = task
    for _ in range(config.inner_steps):
        shared, particles = naive_step(model, shared, particles, support_x, support_y, config.inner_lr)
    leading = (shared, particles)
    both = torch.cat([support_x, query_x]), torch.cat([support_y, query_y])
    for _ in range(config.bmaml_chaser_steps):
        leading = naive_step(model, *leading, *both, config.inner_lr)
    pairs = [(shared, leading[0]), *zip(particles, leading[1], strict=True)]
    return sum(((own[name] - lead[name].detach()) ** 2).sum() for own, lead in pairs for name in own)


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
@pytest.mark.parametrize(("n_particles", "inner_steps", "chaser_steps"), [(1, 2, 1), (3, 1, 2), (4, 3, 1)])
@pytest.mark.parametrize("kind", MODELS)
def test_the_gradient_is_one_big_backward_through_plain_loops(kind, n_particles, inner_steps, chaser_steps, task_map):
    model = MODELS[kind]()
    changes = {"bmaml_particles": n_particles, "inner_steps": inner_steps, "bmaml_chaser_steps": chaser_steps}
    learner, params = start(model, task_map=task_map, **changes)
    grads, metrics = learner.gradient(params, EPISODE)
    live = {name: value.clone().requires_grad_() for name, value in params.items()}
    own = [name for name in params if name.startswith("head.") or kind == "whole networks"]
    shared = {name: value for name, value in live.items() if name not in own}
    particles = [{name: live[name][i] for name in own} for i in range(n_particles)]
    config = setting("bmaml", **changes)
    losses = [naive_chaser_loss(model, shared, particles, task, config) for task in zip(*EPISODE, strict=True)]
    loss = sum(losses) / len(losses)
    expected = dict(zip(live, torch.autograd.grad(loss, list(live.values())), strict=True))
    assert relative_error(grads, expected) < 1e-13
    torch.testing.assert_close(metrics["chaser_loss"], loss.detach(), rtol=1e-13, atol=0)


# --- one particle ---------------------------------------------------------------------------------------------------


def alone(params, model):
    """The parameters of the only particle, as the network has them."""
    shapes = {name: value.shape for name, value in model.named_parameters()}
    return {name: value.reshape(shapes[name]) for name, value in params.items()}


@pytest.mark.parametrize("kind", MODELS)
def test_one_particle_takes_mamls_steps(kind):
    model = MODELS[kind]()
    learner, params = start(model, bmaml_particles=1, inner_steps=3)
    plain, _ = start(model, "maml", inner_steps=3)
    support = EPISODE.support_x[0], EPISODE.support_y[0]
    fast, expected = learner.adapt(params, *support), plain.adapt(alone(params, model), *support)
    assert relative_error(alone(fast, model), expected) < 1e-15
    query = EPISODE.query_x[0]
    torch.testing.assert_close(learner.predict(fast, query), plain.predict(expected, query).log_softmax(-1))


@pytest.mark.parametrize("kind", MODELS)
def test_one_particle_with_a_leader_one_step_ahead_has_mamls_gradient_of_both_sets(kind):
    """Theta(n) - leader = inner_lr * grad L(theta(n); D and D'): its square has MAML's gradient, times 2 inner_lr."""
    model = MODELS[kind]()
    learner, params = start(model, bmaml_particles=1)
    plain, _ = start(model, "maml")
    both = Episode(
        EPISODE.support_x,
        EPISODE.support_y,
        torch.cat([EPISODE.support_x, EPISODE.query_x], dim=1),
        torch.cat([EPISODE.support_y, EPISODE.query_y], dim=1),
    )
    expected, _ = plain.gradient(alone(params, model), both)
    grads = alone(learner.gradient(params, EPISODE)[0], model)
    assert relative_error(grads, {name: 2 * 0.3 * value for name, value in expected.items()}) < 1e-14


def test_particles_in_one_place_stay_together_and_take_mamls_steps():
    model = TanhNet()
    learner, params = start(model, bmaml_particles=3)
    params = {name: value[:1].expand_as(value) if name.startswith("head.") else value for name, value in params.items()}
    fast = learner.adapt(params, EPISODE.support_x[0], EPISODE.support_y[0])
    plain, _ = start(model, "maml")
    first = {name: value[0] if name.startswith("head.") else value for name, value in params.items()}
    expected = plain.adapt(first, EPISODE.support_x[0], EPISODE.support_y[0])
    for particle in range(3):
        found = {name: value[particle] if name.startswith("head.") else value for name, value in fast.items()}
        assert relative_error(found, expected) < 1e-15
    assert all(value.isfinite().all() for value in learner.gradient(params, EPISODE)[0].values())


# --- the interface --------------------------------------------------------------------------------------------------


def test_particles_are_heads_that_begin_apart_and_share_the_features():
    learner, _ = start(TanhNet(), bmaml_particles=4)
    params = learner.init(seeded(1))
    shapes = {name: value.shape for name, value in TanhNet().named_parameters()}
    assert {name: value.shape for name, value in params.items()} == {
        name: (4, *shape) if name.startswith("head.") else shape for name, shape in shapes.items()
    }
    assert len({float(value) for value in params["head.weight"].sum((1, 2))}) == 4
    whole, _ = start(Whole(), bmaml_particles=4)
    assert all(value.shape[0] == 4 for value in whole.init(seeded(1)).values())


@pytest.mark.parametrize("kind", MODELS)
def test_a_prediction_is_the_mean_of_the_particles_probabilities(kind):
    learner, params = start(MODELS[kind](), bmaml_particles=3)
    model, x = MODELS[kind](), EPISODE.query_x[0]
    own = [name for name in params if name.startswith("head.") or kind == "whole networks"]
    probabilities = [
        functional_call(model, params | {name: params[name][i] for name in own}, (x,)).softmax(-1) for i in range(3)
    ]
    torch.testing.assert_close(learner.predict(params, x).exp(), sum(probabilities) / 3, rtol=1e-14, atol=0)


def test_in_regression_it_is_their_mean_output():
    learner, params = start(TanhNet(), loss=F.mse_loss, bmaml_particles=2)
    x = regression().query_x[0]
    outputs = [
        functional_call(TanhNet(), params | {name: params[name][i] for name in ("head.weight", "head.bias")}, (x,))
        for i in range(2)
    ]
    torch.testing.assert_close(learner.predict(params, x), sum(outputs) / 2, rtol=1e-14, atol=0)
    assert learner.gradient(params, regression())[1].keys() == {"query_loss", "chaser_loss"}


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
def test_metrics_are_those_of_adapt_and_predict(task_map):
    learner, params = start(TanhNet(), task_map=task_map)
    _, metrics = learner.gradient(params, EPISODE)
    losses = [
        F.cross_entropy(learner.predict(learner.adapt(params, x, y), query_x), query_y)
        for x, y, query_x, query_y in zip(*EPISODE, strict=True)
    ]
    torch.testing.assert_close(metrics["query_loss"], torch.stack(losses).mean(), rtol=1e-13, atol=0)
    assert metrics.keys() == {"query_loss", "query_accuracy", "chaser_loss"}


def test_sharp_bmaml_is_the_gradient_at_the_peak():
    learner, params = start(TanhNet())
    sharp, _ = start(TanhNet(), alpha_up=0.3)
    peak = add_scaled(params, perturbation(learner.gradient(params, EPISODE)[0], 0.3), 1.0)
    grads, metrics = sharp.gradient(params, EPISODE)
    assert equal(grads, learner.gradient(peak, EPISODE)[0])
    assert metrics["perturbed_loss"] == learner.gradient(peak, EPISODE)[1]["query_loss"]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_grad_mode_does_not_matter(mode):
    learner, params = start(TanhNet())
    support = EPISODE.support_x[0], EPISODE.support_y[0]
    grads, fast = learner.gradient(params, EPISODE)[0], learner.adapt(params, *support)
    with mode():
        assert equal(learner.gradient(params, EPISODE)[0], grads)
        assert equal(learner.adapt(params, *support), fast)


@pytest.mark.parametrize(
    ("name", "value"), [("alpha_low", 0.1), ("adapt_norm", False), ("query_precision", "bfloat16")]
)
def test_what_it_cannot_use_is_refused(name, value):
    with pytest.raises(UserError, match=f"^{name}={value!r} is not allowed.*variant bmaml"):
        start(TanhNet(), dtype="float32", **{name: value})


class Joined(nn.Module):
    """Features and a head, with more between them than their composition."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.relu(self.features(x)))


def test_it_never_computes_another_network_than_the_users():
    learner, params = start(Joined())
    with pytest.raises(UserError, match="features"):
        learner.gradient(params, EPISODE)
