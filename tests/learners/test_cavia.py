"""CAVIA against a graph of all inner steps, in networks written out, and against what it is without a context."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import TanhNet, classification, draw, equal, moved, one_task, relative_error, seeded, setting
from reference import batch_norm, epsilon
from torch import nn
from torch.func import functional_call

from sharp_maml_core import Config, build_learner
from sharp_maml_core.checkpoint import load_params, save_params
from sharp_maml_core.config import FIELDS
from sharp_maml_core.errors import UserError
from sharp_maml_core.models import Conv4, FilmConv4, model_for_images

OFF = {"alpha_low": 0.0, "alpha_up": 0.0}
FILM = "features.2.context"


class Conditioned(nn.Module):
    """A user's own: the context is a part of the hidden layer's input. Smooth, for exact derivatives."""

    def __init__(self) -> None:
        super().__init__()
        self.context = nn.Parameter(torch.zeros(4))
        self.features = nn.Linear(5 + 4, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.features(torch.cat([x, self.context.expand(len(x), -1)], 1))))


def conditioned(theta, c, x):
    h = x @ theta["features.weight"][:, :5].T + c @ theta["features.weight"][:, 5:].T + theta["features.bias"]
    return torch.tanh(h) @ theta["head.weight"].T + theta["head.bias"]


def film_conv4(theta, c, x):
    """The usual order: convolution with its bias, normalise, pool, in the third block scale and shift, ReLU."""
    for block in range(4):
        name = f"features.{block}"
        x = F.conv2d(x, theta[f"{name}.conv.weight"], theta[f"{name}.conv.bias"], padding=1)
        x = F.max_pool2d(batch_norm(x, theta[f"{name}.norm.weight"], theta[f"{name}.norm.bias"]), 2)
        if block == 2:
            film = theta[f"{name}.film_weight"] @ c + theta[f"{name}.film_bias"]
            gamma, delta = film[: x.shape[1], None, None], film[x.shape[1] :, None, None]
            x = gamma * x + delta
        x = torch.relu(x)
    return F.linear(x.flatten(1), theta["head.weight"], theta["head.bias"])


CASES = {
    # Model, the same network written out, the length of its context, tasks, tolerance: ten times what was measured.
    # Five steps of size 1 through four normalisations amplify rounding most: 3e-13, where one step has 5e-15.
    "user": (Conditioned(), conditioned, 4, classification(), 4e-15),
    "conv4": (FilmConv4((1, 16, 16), 3, 4, 5), film_conv4, 5, classification((1, 16, 16)), 3e-12),
}
MODEL, FORWARD, SIZE, EPISODE, _ = CASES["user"]


def start(model=MODEL, **changes):
    learner = build_learner(setting("cavia", **OFF | {"inner_lr": 1.0} | changes), model)
    return learner, moved(learner.init(seeded(1)))


def inner(forward, theta, size, x, y, config, given=None):
    """The context c after all inner steps, with their graph, and the perturbations that it looked from."""
    c, used = torch.zeros(size, dtype=torch.float64, requires_grad=True), []
    for step in range(config.inner_steps):
        there = c
        if config.alpha_low > 0:
            if given is None:
                (g,) = torch.autograd.grad(F.cross_entropy(forward(theta, c, x), y), c, create_graph=True)
                eps = config.alpha_low * g / g.norm()
                eps = eps if config.perturbation_gradient == "through" else eps.detach()
            else:
                eps = given[step]
            used.append(eps.detach())
            there = c + eps
        (g,) = torch.autograd.grad(F.cross_entropy(forward(theta, there, x), y), there, create_graph=True)
        c = c - config.inner_lr * g
    return c, used


def one_pass(forward, size, params, episode, config, given=None):
    theta = {name: value.clone().requires_grad_() for name, value in params.items()}
    losses, looked = [], []
    for task, (support_x, support_y, query_x, query_y) in enumerate(zip(*episode, strict=True)):
        c, used = inner(forward, theta, size, support_x, support_y, config, given[task] if given else None)
        losses.append(F.cross_entropy(forward(theta, c, query_x), query_y))
        looked.append(used)
    grads = torch.autograd.grad(sum(losses) / len(losses), list(theta.values()), materialize_grads=True)
    return dict(zip(theta, grads, strict=True)), looked


def naive(forward, size, params, episode, config):
    here, looked = one_pass(forward, size, params, episode, config)
    if config.alpha_up == 0:
        return here
    rise = epsilon(here, params, config.alpha_up, config.adaptive)
    peak = {name: value + rise[name] for name, value in params.items()}
    given = looked if config.reuse_lower_perturbation else None
    return one_pass(forward, size, peak, episode, config, given)[0]


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
@pytest.mark.parametrize("inner_steps", [1, 2, 5])
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_all_inner_steps_unrolled(case, inner_steps, task_map):
    model, forward, size, episode, tolerance = CASES[case]
    changes = OFF | {"inner_lr": 1.0, "inner_steps": inner_steps, "task_map": task_map}
    learner, params = start(model, **changes)
    expected = naive(forward, size, params, episode, setting("cavia", **changes))
    assert relative_error(learner.gradient(params, episode)[0], expected) < tolerance


SHARP = [
    {"alpha_up": 0.3},
    {"alpha_up": 0.3, "adaptive": True},
    {"alpha_low": 0.2},
    {"alpha_low": 0.2, "perturbation_gradient": "through"},
    {"alpha_low": 0.2, "alpha_up": 0.3},
    {"alpha_low": 0.2, "alpha_up": 0.3, "reuse_lower_perturbation": False},
]


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
@pytest.mark.parametrize("changes", SHARP, ids=lambda value: "-".join(map(str, value.values())))
def test_sharpened_below_in_the_context_and_above_in_the_network(changes, task_map):
    changes = OFF | changes | {"task_map": task_map, "inner_lr": 1.0}
    learner, params = start(**changes)
    expected = naive(FORWARD, SIZE, params, EPISODE, setting("cavia", **changes))
    grads, metrics = learner.gradient(params, EPISODE)
    assert relative_error(grads, expected) < 4e-15
    assert ("perturbed_loss" in metrics) is (changes["alpha_up"] > 0)


def test_asams_ball_about_a_context_of_zero_is_a_point_as_its_setting_says():
    for steps in (1, 2):
        changes = OFF | {"adaptive": True, "inner_steps": steps, "inner_lr": 1.0}
        learner, params = start(**changes)
        sharp = start(**changes | {"alpha_low": 0.2})[0].gradient(params, EPISODE)[0]
        difference = relative_error(sharp, learner.gradient(params, EPISODE)[0])
        assert difference < 1e-14 if steps == 1 else difference > 1e-6
    assert "and for cavia, whose context starts from zero" in FIELDS["adaptive"].metadata["help"]


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
def test_without_a_context_nothing_adapts(task_map):
    """What is left is the gradient of the query loss at theta, and a network that is the same for every task."""
    episode = classification((1, 16, 16))
    learner, params = start(FilmConv4((1, 16, 16), 3, 4, 0), task_map=task_map)
    grads, _ = learner.gradient(params, episode)
    theta = {name: value.clone().requires_grad_() for name, value in params.items()}
    nothing = torch.zeros(0, dtype=torch.float64)
    loss = sum(F.cross_entropy(film_conv4(theta, nothing, x), y) for x, y in zip(*episode[2:], strict=True)) / 3
    expected = torch.autograd.grad(loss, list(theta.values()), materialize_grads=True)
    assert relative_error(grads, dict(zip(theta, expected, strict=True))) < 5e-13
    fast = [learner.adapt(params, *support) for support in zip(*episode[:2], strict=True)]
    assert equal(fast[0], fast[1])
    assert equal({name: fast[0][name] for name in params}, params)


def test_what_is_kept_without_a_context_comes_back(tmp_path):
    """Tensors of no element among it."""
    _, params = start(FilmConv4((1, 16, 16), 3, 4, 0))
    save_params(tmp_path / "params.safetensors", params)
    assert equal(load_params(tmp_path / "params.safetensors"), params)


def test_adapting_changes_the_context_and_nothing_else_and_begins_anew_in_each_task():
    learner, params = start(eval_inner_steps=3)
    assert "context" not in params
    for support_x, support_y in zip(*EPISODE[:2], strict=True):
        fast = learner.adapt(params, support_x, support_y)
        assert equal({name: fast[name] for name in params}, params)
        assert fast.keys() - params.keys() == {"context"}
        config = setting("cavia", **OFF | {"inner_lr": 1.0, "inner_steps": 3})
        c, _ = inner(FORWARD, params, SIZE, support_x, support_y, config)
        torch.testing.assert_close(fast["context"], c.detach(), rtol=1e-14, atol=1e-16)
        assert equal(learner.adapt(fast, support_x, support_y), fast)


def test_the_perturbation_at_test_time_is_a_setting():
    support = EPISODE.support_x[0], EPISODE.support_y[0]
    plain, low, off = (
        start(**changes)[0] for changes in ({}, {"alpha_low": 0.2}, {"alpha_low": 0.2, "test_perturbation": False})
    )
    params = plain.init(seeded(1))
    assert equal(off.adapt(params, *support), plain.adapt(params, *support))
    assert not equal(low.adapt(params, *support), plain.adapt(params, *support))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_metrics_are_those_of_adapt_and_predict_in_any_grad_mode(mode):
    learner, params = start()
    task = one_task(EPISODE, 1)
    grads, metrics = learner.gradient(params, task)
    assert grads.keys() == params.keys()
    with mode():
        assert equal(learner.gradient(params, task)[0], grads)
        outputs = learner.predict(learner.adapt(params, task.support_x[0], task.support_y[0]), task.query_x[0])
    torch.testing.assert_close(F.cross_entropy(outputs, task.query_y[0]), metrics["query_loss"], rtol=1e-14, atol=0)
    assert float((outputs.argmax(1) == task.query_y[0]).double().mean()) == float(metrics["query_accuracy"])


def test_channels_are_scaled_and_shifted_before_the_third_relu():
    """With gamma = 1 and delta = 0 it is Conv4 itself."""
    model, plain = FilmConv4((3, 20, 28), 5, 4, 6), Conv4((3, 20, 28), 5, 4)
    params = moved({name: value.detach().double() for name, value in model.named_parameters()})
    x, c = draw(3, 3, 20, 28, seed=1), params[FILM]
    torch.testing.assert_close(functional_call(model, params, x), film_conv4(params, c, x), rtol=1e-12, atol=1e-12)
    film = params["features.2.film_weight"] @ c
    neutral = torch.cat([torch.ones(4), torch.zeros(4)]).double() - film
    same = functional_call(model, params | {"features.2.film_bias": neutral}, x)
    theirs = {name: value for name, value in params.items() if name in dict(plain.named_parameters())}
    torch.testing.assert_close(same, functional_call(plain, theirs, x), rtol=1e-12, atol=1e-12)


def test_the_film_layer_is_drawn_as_in_the_released_code():
    """Uniform, with a variance of 1/n for the weights and a third of that for the biases."""
    learner = build_learner(Config(variant="cavia", device="cpu", filters=512, cavia_context=16))
    params = learner.init(seeded(1))
    assert FILM not in params
    for name, count, bound in (("film_weight", 1024 * 16, (3 / 16) ** 0.5), ("film_bias", 1024, 0.25)):
        value = params[f"features.2.{name}"]
        assert value.numel() == count
        assert 0.99 * bound < float(value.max()) <= bound
        assert -bound <= float(value.min()) < -0.99 * bound
        assert abs(float(value.mean())) < bound / 3**0.5 / count**0.5 * 4  # four standard errors
    assert equal(params, learner.init(seeded(1)))


def test_the_variant_decides_on_the_network():
    variants = ("cavia", "maml")
    models = {variant: model_for_images(Config(variant=variant, device="cpu"), (1, 28, 28), 5) for variant in variants}
    assert {variant: type(model) for variant, model in models.items()} == {"cavia": FilmConv4, "maml": Conv4}
    assert models["cavia"].features[2].context.shape == (100,)


def test_it_needs_a_context():
    with pytest.raises(UserError, match=r"^variant='cavia' is not allowed.*called `context`.*FilmConv4"):
        start(TanhNet())
