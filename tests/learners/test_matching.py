"""Matching Networks against attention written out image by image, and against the nearest neighbour."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from cases import (
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
from reference import conv4, epsilon, tanh_net
from torch import nn

from sharp_maml_core import Episode, build_learner
from sharp_maml_core.checkpoint import load_params, save_params
from sharp_maml_core.errors import UserError
from sharp_maml_core.learners.matching import LABELS, LOG_SCALE, SUPPORT, log_attention
from sharp_maml_core.models import Conv4, OfLength

EPISODE = classification()
CASES = {
    # Model, the same network in the reference, its embedding's dimension, tasks, tolerance: ten times what was measured
    "user": (TanhNet(), tanh_net, 6, EPISODE, 1e-14),
    "conv4": (Conv4((1, 16, 16), 3, 4), conv4, 4, classification((1, 16, 16)), 5e-14),
}


def start(model=CASES["user"][0], **changes):
    learner = build_learner(setting("matching", **{"alpha_low": 0.0, "alpha_up": 0.0, "n_way": 3} | changes), model)
    return learner, moved(learner.init(seeded(1)))


def naive(forward, width, params, episode):
    """The mean over tasks of the mean of -log p(y | x), and its gradient."""
    theta = {name: value.clone().requires_grad_() for name, value in params.items()}
    head = {"head.weight": torch.eye(width, dtype=torch.float64), "head.bias": torch.zeros(width, dtype=torch.float64)}
    losses = []
    for support_x, support_y, query_x, query_y in zip(*episode, strict=True):
        f, g = forward(theta | head, query_x), forward(theta | head, support_x)
        for query, target in zip(f, query_y, strict=True):
            attention = [
                torch.exp(torch.exp(theta[LOG_SCALE]) * (query @ image) / (query.norm() * image.norm())) for image in g
            ]
            right = [a for a, label in zip(attention, support_y, strict=True) if label == target]
            losses.append(-torch.log(sum(right) / sum(attention)))
    loss = sum(losses) / len(losses)
    return dict(zip(theta, torch.autograd.grad(loss, list(theta.values()), materialize_grads=True), strict=True)), loss


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_attention_written_out(case, task_map):
    model, forward, width, episode, tolerance = CASES[case]
    learner, params = start(model, task_map=task_map)
    expected, loss = naive(forward, width, params, episode)
    grads, metrics = learner.gradient(params, episode)
    assert relative_error(grads, expected) < tolerance
    assert metrics.keys() == {"query_loss", "query_accuracy"}
    torch.testing.assert_close(metrics["query_loss"], loss.detach(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("task_map", ["loop", "vmap"])
def test_sharpened_it_is_the_gradient_at_the_peak(task_map, adaptive):
    learner, params = start(alpha_up=0.3, task_map=task_map, adaptive=adaptive)
    here, _ = naive(tanh_net, 6, params, EPISODE)
    rise = epsilon(here, params, 0.3, adaptive)
    expected, loss = naive(tanh_net, 6, {name: value + rise[name] for name, value in params.items()}, EPISODE)
    grads, metrics = learner.gradient(params, EPISODE)
    assert relative_error(grads, expected) < 1e-14
    torch.testing.assert_close(metrics["perturbed_loss"], loss.detach(), rtol=1e-14, atol=0)


def test_with_one_shot_it_becomes_the_nearest_neighbour_as_the_scale_grows():
    """Log p is then scale * (the cosine - the largest one), which no underflow spoils."""
    support_x, support_y, query_x, _ = (value[0] for value in classification(k_shot=1, n_query=20))
    head = {"head.weight": torch.eye(6, dtype=torch.float64), "head.bias": torch.zeros(6, dtype=torch.float64)}
    learner, params = start()
    f, g = (tanh_net(params | head, x) for x in (query_x, support_x))
    cosines = torch.stack([torch.stack([F.cosine_similarity(x, y, dim=0) for y in g]) for x in f])
    nearest = cosines.argmax(1)
    assert len(nearest.unique()) == 3
    farther = []
    for scale in (1.0, 1e2, 1e6):
        fast = learner.adapt(params | {LOG_SCALE: torch.tensor(scale, dtype=torch.float64).log()}, support_x, support_y)
        outputs = learner.predict(fast, query_x)
        torch.testing.assert_close(outputs.exp().sum(1), torch.ones(60, dtype=torch.float64), rtol=1e-9, atol=0)
        assert torch.equal(outputs.argmax(1), support_y[nearest])
        farther.append(float(1 - outputs.max(1).values.exp().min()))
    assert farther[0] > farther[1]
    assert farther[2] == 0
    excess = 1e6 * (cosines - cosines.max(1, keepdim=True).values)
    torch.testing.assert_close(outputs, excess, rtol=1e-9, atol=1e-7)  # 1e6 times the rounding of a cosine


def test_without_attention_every_class_is_as_likely_as_it_has_images():
    labels = F.one_hot(torch.tensor([0, 2, 2, 1, 2, 0]), 3).double()
    p = log_attention(torch.zeros(4, 6, dtype=torch.float64), labels).exp()
    torch.testing.assert_close(p, torch.tensor([[2, 1, 3]] * 4).double() / 6, rtol=1e-15, atol=0)


def test_a_class_without_an_image_has_no_probability_and_a_finite_gradient():
    scores = draw(4, 3, seed=1).requires_grad_()
    outputs = log_attention(scores, F.one_hot(torch.tensor([0, 2, 2]), 4).double())
    assert torch.equal(outputs.exp()[:, [1, 3]], torch.zeros(4, 2, dtype=torch.float64))
    F.cross_entropy(outputs, torch.tensor([0, 2, 2, 0])).backward()
    torch.testing.assert_close(scores.grad.sum(1), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-15)
    assert bool((scores.grad != 0).all())


def test_adapting_keeps_the_support_set_and_changes_nothing():
    learner, params = start()
    support_x, support_y = EPISODE.support_x[0], EPISODE.support_y[0]
    fast = learner.adapt(params, support_x, support_y)
    assert equal({name: fast[name] for name in params}, params)
    assert fast.keys() - params.keys() == {SUPPORT, LABELS}
    assert torch.equal(fast[LABELS].argmax(1), support_y)
    torch.testing.assert_close(fast[SUPPORT].norm(dim=1), torch.ones(6, dtype=torch.float64), rtol=2e-15, atol=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_metrics_are_those_of_adapt_and_predict_in_any_grad_mode(mode):
    learner, params = start()
    task = one_task(EPISODE, 1)
    _, metrics = learner.gradient(params, task)
    with mode():
        assert equal(learner.gradient(params, task)[1], metrics)
        outputs = learner.predict(learner.adapt(params, task.support_x[0], task.support_y[0]), task.query_x[0])
    torch.testing.assert_close(F.cross_entropy(outputs, task.query_y[0]), metrics["query_loss"], rtol=1e-14, atol=0)
    assert float((outputs.argmax(1) == task.query_y[0]).double().mean()) == float(metrics["query_accuracy"])


def test_its_parameters_are_the_features_and_the_scale():
    learner = build_learner(setting("matching", alpha_low=0.0, matching_scale=7.0), TanhNet())
    params = learner.init(seeded(1))
    assert {name for name in params if not name.startswith("features.")} == {LOG_SCALE}
    assert float(params[LOG_SCALE]) == math.log(7)
    grads, _ = learner.gradient(params, EPISODE)
    assert grads.keys() == params.keys()
    assert float(grads[LOG_SCALE]) != 0


def test_what_is_kept_comes_back(tmp_path):
    """The scale is a scalar, and its name no module's."""
    _, params = start()
    save_params(tmp_path / "params.safetensors", params)
    assert equal(load_params(tmp_path / "params.safetensors"), params)


def test_lower_precision_touches_the_queries_only():
    learner, params = start(Conv4((1, 16, 16), 3, 8), dtype="float32", query_precision="bfloat16")
    exact, _ = start(Conv4((1, 16, 16), 3, 8), dtype="float32")
    episode = Episode(*(x.float() if x.is_floating_point() else x for x in classification((1, 16, 16))))
    params = {name: value.float() for name, value in params.items()}
    rough, full = learner.gradient(params, episode)[0], exact.gradient(params, episode)[0]
    assert all(value.dtype == torch.float32 for value in rough.values())
    assert 1e-4 < relative_error(rough, full) < 0.2
    support = episode.support_x[0], episode.support_y[0]
    assert equal(learner.adapt(params, *support), exact.adapt(params, *support))


@pytest.mark.parametrize("model", [nn.Linear(5, 3), nn.Sequential(nn.Linear(5, 3))])
def test_it_needs_an_embedding(model):
    with pytest.raises(UserError, match=r"^variant='matching' is not allowed.*`features` and `head`"):
        start(model)


def test_it_refuses_what_it_could_only_ignore():
    with pytest.raises(UserError, match=r"^alpha_low=0\.2 is not allowed: it must be 0\.0 with variant matching"):
        start(alpha_low=0.2)
    with pytest.raises(UserError, match=r"^matching_scale=0\.0 is not allowed: it must be above 0"):
        start(matching_scale=0)


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
def test_it_is_for_classes(task_map):
    learner, params = start(task_map=task_map)
    with pytest.raises(UserError, match=r"^variant='matching' is not allowed.*no classes"):
        learner.gradient(params, regression())


def test_labels_are_those_of_the_task():
    learner, params = start(n_way=2)
    with pytest.raises(UserError, match=r"^n_way=2 is not allowed: it must be above 2"):
        learner.adapt(params, EPISODE.support_x[0], EPISODE.support_y[0])


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
def test_one_step_of_maml_from_a_head_of_zero_is_matching_with_a_scale(task_map):
    """The scale is beta s^2 / N: of one image a class loss and gradient by the features are the same."""
    rate, length, n_way = 0.3, 7.0, 3
    episode = classification((1, 16, 16), n_way=n_way, k_shot=1)
    learner, params = start(Conv4((1, 16, 16), n_way, 4), k_shot=1, task_map=task_map)
    params[LOG_SCALE] = torch.tensor(math.log(rate * length**2 / n_way), dtype=torch.float64)
    expected, reported = learner.gradient(params, episode)

    model = Conv4((1, 16, 16), n_way, 4)
    model.features.append(OfLength(length))
    maml = build_learner(
        setting("maml", inner_lr=rate, inner_steps=1, n_way=n_way, zero_head=True, task_map=task_map), model
    )
    features = {name: value for name, value in params.items() if name != LOG_SCALE}
    start_of_maml = maml.init(seeded(1)) | features
    start_of_maml["features.5.log_length"] = torch.tensor(
        math.log(length), dtype=torch.float64
    )  # not rounded to single
    grads, metrics = maml.gradient(start_of_maml, episode)
    heads = {name: grads.pop(name) for name in ("head.weight", "head.bias")}
    assert not any(value.any() for value in heads.values())
    log_length = grads.pop("features.5.log_length")
    torch.testing.assert_close(log_length, 2 * expected[LOG_SCALE], rtol=1e-13, atol=0)
    assert relative_error(grads, {name: expected[name] for name in features}) < 1e-13
    for name, value in reported.items():
        torch.testing.assert_close(metrics[name], value, rtol=1e-13, atol=0)
