"""Reptile against torch.optim at work on a module, and its pseudo-gradient's meaning for the outer step."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from cases import (
    TanhNet,
    classification,
    equal,
    moved,
    one_task,
    regression,
    relative_error,
    seeded,
    setting,
)
from reference import epsilon, tanh_net
from torch import nn

from sharp_maml_core import Episode, build_learner
from sharp_maml_core.errors import UserError
from sharp_maml_core.learners.reptile import draw_batches
from sharp_maml_core.models import Conv4
from sharp_maml_core.outer import OuterStep

EPISODE, MODEL = classification(), TanhNet()
OPTIMIZERS = {
    "adam": lambda parameters, lr: torch.optim.Adam(parameters, lr, betas=(0.0, 0.999)),
    "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr),
}


def start(model=MODEL, loss=None, **changes):
    values = {"alpha_low": 0.0, "alpha_up": 0.0, "inner_lr": 0.03, "inner_steps": 3, "reptile_batch": 4}
    learner = build_learner(setting("reptile", **values | changes), model, loss)
    return learner, moved(learner.init(seeded(1)))


def trained(model, params, optimizer, lr, batches, loss=F.cross_entropy):
    """The parameters of a copy of the module after one optimiser step on each batch."""
    model = copy.deepcopy(model).double()
    model.load_state_dict(params)
    optimizer = OPTIMIZERS[optimizer](model.parameters(), lr)
    for x, y in batches:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    return {name: value.detach() for name, value in model.named_parameters()}


def naive(model, params, episode, optimizer, drawn, lr=0.03, loss=F.cross_entropy):
    """The mean of theta - phi_m. drawn [T, S, B], the images of each step; None: three steps on all of them"""
    total = {name: torch.zeros_like(value) for name, value in params.items()}
    for task, (support_x, support_y, query_x, query_y) in enumerate(zip(*episode, strict=True)):
        x, y = torch.cat([support_x, query_x]), torch.cat([support_y, query_y])
        batches = [(x, y)] * 3 if drawn is None else [(x[batch], y[batch]) for batch in drawn[task]]
        phi = trained(model, params, optimizer, lr, batches, loss)
        total = {name: value + (params[name] - phi[name]) / episode.n_tasks for name, value in total.items()}
    return total


# Tolerances are ten times what was measured: theta - phi cancels a digit or two in the reference, not here, and Adam
# divides each component of a gradient, however small, by itself.
@pytest.mark.parametrize("task_map", ["loop", "vmap"])
@pytest.mark.parametrize("size", [0, 4])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_pseudo_gradient_is_where_torchs_optimiser_leads(optimizer, size, task_map):
    learner, params = start(reptile_optimizer=optimizer, reptile_batch=size, task_map=task_map)
    drawn = draw_batches(EPISODE, 3, size, seeded(5))
    grads, _ = learner.gradient(params, EPISODE, seeded(5))
    assert relative_error(grads, naive(MODEL, params, EPISODE, optimizer, drawn)) < 7e-14


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
def test_the_same_for_the_papers_network(task_map):
    model, episode = Conv4((1, 16, 16), 3, 4), classification((1, 16, 16))
    learner, params = start(model, task_map=task_map)
    expected = naive(model, params, episode, "adam", draw_batches(episode, 3, 4, seeded(5)))
    assert relative_error(learner.gradient(params, episode, seeded(5))[0], expected) < 5e-14


def test_the_same_for_regression():
    learner, params = start(loss=F.mse_loss, reptile_optimizer="sgd", reptile_batch=0)
    grads, metrics = learner.gradient(params, regression())
    assert relative_error(grads, naive(MODEL, params, regression(), "sgd", None, loss=F.mse_loss)) < 7e-14
    assert metrics.keys() == {"query_loss"}


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
def test_one_plain_step_is_inner_lr_times_the_tasks_gradient(task_map):
    """Of the mean loss over all images of the task, to the last digits: nothing is lost to theta's rounding."""
    lr = 1e-9
    learner, params = start(inner_lr=lr, inner_steps=1, reptile_optimizer="sgd", reptile_batch=0, task_map=task_map)
    theta = {name: value.clone().requires_grad_() for name, value in params.items()}
    x, y = torch.cat([EPISODE.support_x, EPISODE.query_x], 1), torch.cat([EPISODE.support_y, EPISODE.query_y], 1)
    loss = F.cross_entropy(tanh_net(theta, x.flatten(0, 1)), y.flatten())
    expected = dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))
    grads, _ = learner.gradient(params, EPISODE)
    assert relative_error({name: value / lr for name, value in grads.items()}, expected) < 1e-14


def test_the_outer_step_of_size_one_goes_to_the_mean_of_the_adapted_parameters():
    learner, params = start(reptile_batch=0)
    outer = OuterStep("sgd", params, {})
    outer(learner.gradient(params, EPISODE)[0], 1.0)
    adapted = [
        learner.adapt(params, torch.cat([task[0], task[2]]), torch.cat([task[1], task[3]]))
        for task in zip(*EPISODE, strict=True)
    ]
    mean = {name: sum(phi[name] for phi in adapted) / 3 for name in params}
    assert relative_error(outer.params, mean) < 1e-15


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("task_map", ["loop", "vmap"])
def test_sharpened_it_is_taken_at_the_peak_with_the_same_batches(task_map, adaptive, reuse):
    learner, params = start(alpha_up=0.3, task_map=task_map, adaptive=adaptive, reuse_lower_perturbation=reuse)
    drawn = draw_batches(EPISODE, 3, 4, seeded(5))
    rise = epsilon(naive(MODEL, params, EPISODE, "adam", drawn), params, 0.3, adaptive)
    expected = naive(MODEL, {name: value + rise[name] for name, value in params.items()}, EPISODE, "adam", drawn)
    grads, metrics = learner.gradient(params, EPISODE, seeded(5))
    assert relative_error(grads, expected) < 5e-14
    assert metrics["perturbed_loss"] != metrics["query_loss"]


def test_a_generator_gives_the_same_batches_and_another_gives_others():
    learner, params = start()
    first, again, other = (learner.gradient(params, EPISODE, seeded(seed))[0] for seed in (1, 1, 2))
    assert equal(first, again)
    assert relative_error(first, other) > 1e-3
    assert equal(learner.gradient(params, EPISODE)[0], learner.gradient(params, EPISODE)[0])


def test_each_task_has_batches_of_its_own_and_goes_through_all_images_before_any_again():
    """15 images, 4 a batch: the fourth batch has the three that are left and one of the next round."""
    drawn = draw_batches(EPISODE, 8, 4, seeded(1))
    assert drawn.shape == (3, 8, 4)
    assert not torch.equal(drawn[0], drawn[1])
    for order in drawn.flatten(1):
        for part in (order[:15], order[15:30]):
            assert part.unique().tolist() == list(range(15))
    assert not torch.equal(drawn[0].flatten()[:15], drawn[0].flatten()[15:30])
    assert draw_batches(EPISODE, 1, 40, seeded(1)).shape == (3, 1, 40)
    assert draw_batches(EPISODE, 8, 0, seeded(1)) is None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_adapting_takes_all_support_images_in_every_step(optimizer):
    learner, params = start(reptile_optimizer=optimizer, eval_inner_steps=7)
    support = EPISODE.support_x[0], EPISODE.support_y[0]
    expected = trained(MODEL, params, optimizer, 0.03, [support] * 7)
    assert relative_error(learner.adapt(params, *support), expected) < 1e-14


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_callers_grad_mode_does_not_matter_and_no_graph_is_left(mode):
    learner, params = start()
    support = EPISODE.support_x[0], EPISODE.support_y[0]
    grads, fast = learner.gradient(params, EPISODE)[0], learner.adapt(params, *support)
    live = {name: value.clone().requires_grad_() for name, value in params.items()}
    with mode():
        for theta in (params, live):
            again, metrics = learner.gradient(theta, EPISODE)
            assert equal(again, grads)
            assert equal(learner.adapt(theta, *support), fast)
            assert not any(value.requires_grad for value in (*again.values(), *metrics.values()))


def test_metrics_are_of_the_adapted_parameters_on_the_queries():
    learner, params = start(reptile_batch=0)
    task = one_task(EPISODE, 1)
    grads, metrics = learner.gradient(params, task)
    outputs = tanh_net({name: value - grads[name] for name, value in params.items()}, task.query_x[0])
    torch.testing.assert_close(metrics["query_loss"], F.cross_entropy(outputs, task.query_y[0]), rtol=1e-14, atol=0)
    assert float(metrics["query_accuracy"]) == float((outputs.argmax(1) == task.query_y[0]).double().mean())


def test_single_precision_keeps_its_digits_where_theta_minus_phi_would_not():
    """Steps of 1e-6 on parameters near 1: their difference alone would have one digit."""
    learner, params = start(dtype="float32", inner_lr=1e-6, reptile_optimizer="sgd", reptile_batch=0)
    single = {name: value.float() for name, value in params.items()}
    episode = Episode(*(value.float() if value.is_floating_point() else value for value in EPISODE))
    grads, _ = learner.gradient(single, episode)
    exact, _ = start(inner_lr=1e-6, reptile_optimizer="sgd", reptile_batch=0)[0].gradient(
        {name: value.double() for name, value in single.items()},
        Episode(*(value.double() if value.is_floating_point() else value for value in episode)),
    )
    assert relative_error({name: value.double() for name, value in grads.items()}, exact) < 2e-6


def test_it_serves_any_model():
    learner, params = start(nn.Linear(5, 3))
    assert learner.gradient(params, EPISODE)[0].keys() == params.keys()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"alpha_low": 0.2}, r"^alpha_low=0\.2 is not allowed: it must be 0\.0 with variant reptile"),
        (
            {"adapt_norm": False},
            "^adapt_norm=False is not allowed: it must be True with variant reptile.*only what its inner steps move",
        ),
        ({"reptile_batch": -1}, "^reptile_batch=-1 is not allowed: it must be at least 0"),
        ({"reptile_optimizer": "rmsprop"}, "^reptile_optimizer='rmsprop' is not allowed: it must be one of adam, sgd"),
    ],
)
def test_it_refuses_what_it_cannot_use(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        start(**changes)
