"""LLAMA against one big backward through everything, against central differences, and where it is MAML."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from cases import SmoothNet, TanhNet, classification, draw, equal, moved, relative_error, seeded, setting
from torch import nn
from torch.func import functional_call

from sharp_maml_core import build_learner
from sharp_maml_core.errors import UserError
from sharp_maml_core.models import Conv4
from sharp_maml_core.params import add_scaled, dot
from sharp_maml_core.sharpness import perturbation

OFF = {"alpha_low": 0.0, "alpha_up": 0.0}
ETA, TAU = 0.01, 0.05
EPISODE = classification((4,))


class Smooth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Sequential(nn.Linear(4, 5), nn.Tanh()), nn.Linear(5, 3, bias=False)

    def forward(self, x):
        return self.head(self.features(x))


def start(model, variant="llama", **changes):
    own = {"llama_eta": ETA, "llama_damping": TAU} if variant == "llama" else {}
    learner = build_learner(setting(variant, **(OFF | own | changes)), model)
    return learner, moved(learner.init(seeded(1)))


def naive(params, task, config):
    """The meta-objective of one task, its two layers written out, with the graph of everything."""
    support_x, support_y, query_x, query_y = task
    model, phi = Smooth(), dict(params)
    for _ in range(config.inner_steps):
        loss = F.cross_entropy(functional_call(model, phi, (support_x,)), support_y)
        grads = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
        phi = {name: value - config.inner_lr * g for (name, value), g in zip(phi.items(), grads, strict=True)}
    first = query_x @ phi["features.0.weight"].T + phi["features.0.bias"]
    hidden = first.tanh()
    second = hidden @ phi["head.weight"].T
    loss = F.cross_entropy(second, query_y)
    samples, log_det = len(query_x), 0.0
    slopes = torch.autograd.grad(samples * loss, [first, second], create_graph=True)
    homogeneous = torch.cat([query_x, torch.ones(samples, 1, dtype=query_x.dtype)], dim=1)
    for inputs, slope in ((homogeneous, slopes[0]), (hidden, slopes[1])):
        a = inputs.T @ inputs / samples + math.sqrt(TAU) * torch.eye(inputs.shape[1], dtype=inputs.dtype)
        g = slope.T @ slope / samples + math.sqrt(TAU) * torch.eye(slope.shape[1], dtype=inputs.dtype)
        log_det = log_det + torch.linalg.slogdet(torch.kron(g, a))[1]
    return loss + ETA * log_det, loss, log_det


@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("task_map", ["loop", "vmap"])
def test_it_is_one_big_backward(task_map, inner_steps):
    learner, params = start(Smooth(), task_map=task_map, inner_steps=inner_steps)
    grads, metrics = learner.gradient(params, EPISODE)
    live = {name: value.clone().requires_grad_() for name, value in params.items()}
    config = setting("llama", inner_steps=inner_steps)
    results = [naive(live, task, config) for task in zip(*EPISODE, strict=True)]
    objective, loss, log_det = (torch.stack(values).mean() for values in zip(*results, strict=True))
    expected = dict(zip(live, torch.autograd.grad(objective, list(live.values())), strict=True))
    assert relative_error(grads, expected) < 1e-13
    torch.testing.assert_close(metrics["query_loss"], loss.detach(), rtol=1e-14, atol=0)
    torch.testing.assert_close(metrics["log_det"], log_det.detach(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("adapt_norm", [True, False])
def test_it_is_the_derivative_of_the_objective_on_convolutions(adapt_norm):
    """Central differences, extrapolated to the sixth order; the objective from the metrics."""
    learner, params = start(SmoothNet(), adapt_norm=adapt_norm)
    episode = classification((1, 8, 8), n_tasks=2)
    grads, _ = learner.gradient(params, episode)
    direction = {name: draw(*value.shape, seed=100 + i) for i, (name, value) in enumerate(params.items())}
    direction = perturbation(direction, 1.0)

    def objective(step):
        metrics = learner.gradient(add_scaled(params, direction, step), episode)[1]
        return float(metrics["query_loss"] + ETA * metrics["log_det"])

    def central(step):
        return (objective(step) - objective(-step)) / (2 * step)

    expected = (64 * central(0.0025) - 20 * central(0.005) + central(0.01)) / 45
    assert float(dot(grads, direction)) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
def test_without_the_log_determinant_it_is_maml(task_map):
    """A product with zero is added at the end, so not to the last bit."""
    model, episode = Conv4((1, 16, 16), 3, 4), classification((1, 16, 16), n_tasks=2)
    learner, params = start(model, llama_eta=0.0, task_map=task_map)
    plain, _ = start(model, "maml", task_map=task_map)
    grads, metrics = learner.gradient(params, episode)
    expected, plain_metrics = plain.gradient(params, episode)
    assert relative_error(grads, expected) < 1e-13
    assert metrics["query_accuracy"] == plain_metrics["query_accuracy"]
    support = episode.support_x[0], episode.support_y[0]
    assert equal(learner.adapt(params, *support), plain.adapt(params, *support))


def test_loop_and_vmap_agree_on_the_papers_network():
    model, episode = Conv4((1, 16, 16), 3, 4), classification((1, 16, 16), n_tasks=2)
    looped, mapped = (start(model, task_map=how)[0] for how in ("loop", "vmap"))
    _, params = start(model)
    assert relative_error(mapped.gradient(params, episode)[0], looped.gradient(params, episode)[0]) < 1e-12


def test_sharp_llama_is_the_gradient_at_the_peak():
    learner, params = start(TanhNet(4))
    sharp, _ = start(TanhNet(4), alpha_up=0.3)
    peak = add_scaled(params, perturbation(learner.gradient(params, EPISODE)[0], 0.3), 1.0)
    grads, metrics = sharp.gradient(params, EPISODE)
    assert equal(grads, learner.gradient(peak, EPISODE)[0])
    assert metrics["perturbed_loss"] == learner.gradient(peak, EPISODE)[1]["query_loss"]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_grad_mode_does_not_matter(mode):
    learner, params = start(Smooth())
    grads = learner.gradient(params, EPISODE)[0]
    with mode():
        assert equal(learner.gradient(params, EPISODE)[0], grads)


@pytest.mark.parametrize(("name", "value"), [("alpha_low", 0.1), ("query_precision", "bfloat16")])
def test_what_it_cannot_use_is_refused(name, value):
    with pytest.raises(UserError, match=f"^{name}={value!r} is not allowed.*variant llama"):
        start(Smooth(), dtype="float32", **{name: value})


def test_a_model_without_linear_layers_is_refused():
    learner, params = start(nn.LayerNorm(4))
    with pytest.raises(UserError, match="a model with a Linear or Conv2d layer"):
        learner.gradient(params, EPISODE)
