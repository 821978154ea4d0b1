"""Central differences of the meta-objective on a smooth network.

Where Eq. 10 holds a perturbation constant, the gradient is not the derivative of the adapted loss as a function of
theta: eps_m(theta) moves with theta. It is the derivative with eps_m held at its value, and so it is differenced.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import SmoothNet, classification, draw, moved, one_task, seeded, setting
from reference import Method, fine_tune
from torch import Tensor, nn
from torch.func import functional_call

from sharp_maml_core import Config, build_learner
from sharp_maml_core.params import Params, add_scaled, dot, norm
from sharp_maml_core.sharpness import perturbation

MODEL = SmoothNet()
EPISODE = classification((1, 8, 8), n_tasks=2)
TASKS = [one_task(EPISODE, task) for task in range(2)]
# Three central differences, extrapolated to the sixth order of the step; rounding over the step is what is left, up to
# 4e-13 as measured with steps of 0.02, 0.01 and 0.005.
STEP, TOLERANCE = 0.01, 5e-12


def slope(objective: Callable[[Params], float], params: Params, direction: Params) -> float:
    """The directional derivative by Richardson's extrapolation of central differences."""

    def central(step: float) -> float:
        ahead, behind = (objective(add_scaled(params, direction, sign * step)) for sign in (1, -1))
        return (ahead - behind) / (2 * step)

    h, half, quarter = central(STEP), central(STEP / 2), central(STEP / 4)
    return (64 * quarter - 20 * half + h) / 45


def assert_slopes(
    grads: Params, objective: Callable[[Params], float], params: Params, tolerance: float = TOLERANCE
) -> None:
    for seed in (100, 200):
        direction = {name: draw(*value.shape, seed=seed + i) for i, (name, value) in enumerate(params.items())}
        direction = perturbation(direction, 1.0)
        expected = slope(objective, params, direction)
        assert abs(float(dot(grads, direction)) - expected) < tolerance * float(norm(grads))


def learner_and_params(config: Config):
    learner = build_learner(config, MODEL)
    return learner, moved(learner.init(seeded(1)))


def adapted_loss(learner) -> Callable[[Params], float]:
    """Theta -> the mean query loss of what `adapt` and `predict` make of it."""

    def objective(params: Params) -> float:
        losses = []
        for task in TASKS:
            fast = learner.adapt(params, task.support_x[0], task.support_y[0])
            losses.append(F.cross_entropy(learner.predict(fast, task.query_x[0]), task.query_y[0]))
        return float(sum(losses) / len(losses))

    return objective


def frozen(config: Config, at: Params) -> Callable[[Params], float]:
    """Theta -> the mean query loss after fine-tuning with the lower perturbations that belong to `at`."""
    method = Method(
        lambda params, x: functional_call(MODEL, params, (x,)),
        F.cross_entropy,
        tuple(at),
        config.inner_lr,
        config.inner_steps,
        alpha_low=config.alpha_low,
    )
    support = list(zip(EPISODE.support_x, EPISODE.support_y, strict=True))
    used = [fine_tune(method, at, x, y)[1] for x, y in support]

    def objective(params: Params) -> float:
        losses = []
        for (x, y), epsilons, query_x, query_y in zip(support, used, EPISODE.query_x, EPISODE.query_y, strict=True):
            fast, _ = fine_tune(method, params, x, y, epsilons)
            losses.append(F.cross_entropy(method.forward(fast, query_x), query_y).item())
        return sum(losses) / len(losses)

    return objective


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("maml", {"inner_steps": 1}),
        ("maml", {"inner_steps": 3}),
        ("maml", {"adapt_norm": False}),
        ("anil", {"inner_steps": 3}),
        ("low", {"perturbation_gradient": "through"}),
        ("low", {"perturbation_gradient": "through", "adaptive": True}),
        ("low-anil", {"perturbation_gradient": "through"}),
    ],
    ids=str,
)
def test_the_gradient_is_the_derivative_of_what_adapt_and_predict_do(variant, changes):
    learner, params = learner_and_params(setting(variant, **changes))
    grads, _ = learner.gradient(params, EPISODE)
    assert_slopes(grads, adapted_loss(learner), params)


class Attends(nn.Module):
    """Rows of an 8x8 image attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True)
        self.features = nn.Sequential(nn.Flatten(1, 2), encoder, nn.Flatten())
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
def test_so_it_is_for_attention_whose_fused_kernels_have_no_second_derivatives(task_map):
    learner = build_learner(setting("maml", task_map=task_map), Attends())
    params = moved(learner.init(seeded(1)))
    grads, _ = learner.gradient(params, EPISODE)
    assert_slopes(grads, adapted_loss(learner), params, tolerance=1e-8)


@pytest.mark.parametrize("variant", ["both", "e-low", "imaml", "llama", "bmaml", "maml++"])
def test_other_variants_take_attention_too(variant):
    learner = build_learner(Config(variant, n_way=3, device="cpu", dtype="float64"), Attends())
    params = learner.init(seeded(1))
    grads, metrics = learner.gradient_at(2**20)(params, EPISODE, seeded(2))
    assert grads.keys() == params.keys()
    assert metrics["query_loss"].isfinite()


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_low_is_the_derivative_with_the_perturbation_held(inner_steps):
    config = setting("low", inner_steps=inner_steps)
    learner, params = learner_and_params(config)
    grads, _ = learner.gradient(params, EPISODE)
    assert_slopes(grads, frozen(config, params), params)
    with pytest.raises(AssertionError):  # and it is not the derivative with the perturbation free
        assert_slopes(grads, adapted_loss(learner), params)


def test_up_is_the_derivative_at_the_peak():
    config = setting("up")
    learner, params = learner_and_params(config)
    objective = adapted_loss(learner)
    grads, metrics = learner.gradient(params, EPISODE)
    h, _ = build_learner(config.replace(variant="maml"), MODEL).gradient(params, EPISODE)
    assert_slopes(h, objective, params)
    peak = add_scaled(params, perturbation(h, config.alpha_up), 1.0)
    assert_slopes(grads, objective, peak)
    assert float(metrics["query_loss"]) == pytest.approx(objective(params), rel=1e-14)
    assert float(metrics["perturbed_loss"]) == pytest.approx(objective(peak), rel=1e-14)


def test_both_is_the_derivative_at_the_peak_with_the_first_passs_lower_perturbations():
    config = setting("both")
    learner, params = learner_and_params(config)
    grads, _ = learner.gradient(params, EPISODE)
    h, _ = build_learner(config.replace(variant="low"), MODEL).gradient(params, EPISODE)
    peak = add_scaled(params, perturbation(h, config.alpha_up), 1.0)
    assert_slopes(grads, frozen(config, params), peak)


@pytest.mark.parametrize("engine", ["autograd", "torch.func"])
@pytest.mark.parametrize(
    ("variant", "changes"),
    [("maml", {}), ("anil", {}), ("low", {"perturbation_gradient": "through"}), ("fomaml", {})],
    ids=str,
)
def test_the_gradient_can_be_differentiated_again(variant, changes, engine):
    """A Hessian of the meta-objective (landscapes) needs third derivatives of the network, and these are exact too."""
    learner, params = learner_and_params(setting(variant, **changes))
    direction = perturbation({name: draw(*value.shape, seed=9) for name, value in params.items()}, 1.0)

    def along(params: Params) -> Tensor:
        return dot(learner.gradient(params, EPISODE)[0], direction)

    if engine == "autograd":
        live = {name: value.clone().requires_grad_() for name, value in params.items()}
        found = torch.autograd.grad(along(live), list(live.values()), materialize_grads=True)
        product = dict(zip(live, found, strict=True))
    else:
        product = torch.func.grad(along)(params)
    assert_slopes(product, lambda params: float(along(params)), params)
