"""MAML++ against a naive reference with every graph kept, against MAML, and its annealing to the letter."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
import torch.nn.functional as F
from cases import SmoothNet, TanhNet, classification, equal, moved, regression, relative_error, seeded, setting
from helpers import SmallNet, easy_split, lines_split, small_config
from torch import nn
from torch.func import functional_call

from sharp_maml_core import MLP, Config, Episode, Learner, UserError, build_learner, evaluate, meta_train
from sharp_maml_core.learners import Loss
from sharp_maml_core.learners.mamlpp import plan_of, step_weights
from sharp_maml_core.params import Params

NORMS = ("features.1.weight", "features.1.bias")  # of TanhNet; SmoothNet's two are at 1 and 5
IMAGES = classification((1, 8, 8))


def mamlpp(**changes: object) -> Config:
    """Ten iterations: over the first five the weights move, and the first three have no second derivatives."""
    values = {"alpha_low": 0, "alpha_up": 0, "mamlpp_multi_step": 0.5, "mamlpp_first_order": 0.3, "iterations": 10}
    return setting("maml++", **values | changes)


def wandered(learner: Learner) -> Params:
    """Rates that differ from step to step and from tensor to tensor, and no parameter at its initial point."""
    params = moved(learner.init(seeded(1)))
    return {name: value.abs() + 0.05 if name.startswith("rate/") else value for name, value in params.items()}


def one_pass(
    model: nn.Module, loss: Loss, params: Params, episode: Episode, weights: list[float], first_order: bool
) -> Params:
    """The gradient of the objective: plain loops, the graph of every step kept, one big backward."""
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    rates = {name[5:]: value for name, value in leaves.items() if name.startswith("rate/")}
    own = [name for name, value in model.named_parameters() if leaves[name].dim() > value.dim()]
    total = torch.zeros((), dtype=torch.float64)
    for support_x, support_y, query_x, query_y in zip(*episode, strict=True):
        theta = {name: value for name, value in leaves.items() if not name.startswith("rate/")}
        for step, weight in enumerate(weights):
            now = {name: value[step] if name in own else value for name, value in theta.items()}
            value = loss(functional_call(model, now, (support_x,)), support_y)
            found = torch.autograd.grad(value, [now[name] for name in rates], create_graph=True)
            for (name, rate), direction in zip(rates.items(), found, strict=True):
                theta[name] = theta[name] - rate[step] * (direction.detach() if first_order else direction)
            query = {name: value[step] if name in own else value for name, value in theta.items()}
            total = total + weight * loss(functional_call(model, query, (query_x,)), query_y) / episode.n_tasks
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, grads, strict=True))


def by_hand(steps: int, iteration: int) -> tuple[list[float], bool]:
    """What `mamlpp()` is to do in an iteration: weights go from equal ones at 0 to the last alone at 5."""
    if iteration >= 5:
        return [0.0] * (steps - 1) + [1.0], False
    others = [max((1 - iteration / 5) / steps, 0.03 / steps)] * (steps - 1)
    return [*others, 1 - sum(others)], iteration < 3


CASES = {
    "norms": (TanhNet(), F.cross_entropy, classification(), {}),
    "no norms of their own": (TanhNet(), F.cross_entropy, classification(), {"mamlpp_step_norms": False}),
    "fixed norms": (TanhNet(), F.cross_entropy, classification(), {"mamlpp_step_norms": False, "adapt_norm": False}),
    "functions": (MLP(5, 3, width=8), F.mse_loss, regression(), {}),
    "images": (SmoothNet(), F.cross_entropy, IMAGES, {}),
    # The last two of four steps keep their graph, and the others make it anew.
    "many queries": (TanhNet(), F.cross_entropy, classification(k_shot=1, n_query=7), {"inner_steps": 4}),
}


@pytest.mark.parametrize(
    ("iteration", "task_map"), [(0, "loop"), (2, "loop"), (3, "loop"), (7, "loop"), (1, "vmap"), (4, "vmap")]
)
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_the_unrolled_one(case: str, iteration: int, task_map: str) -> None:
    """By the weights, the rates and the norms; of many steps and of the last one; first order and second."""
    model, loss, episode, changes = CASES[case]
    config = mamlpp(**{"inner_steps": 3, "task_map": task_map} | changes)
    learner = build_learner(config, model, loss)
    params = wandered(learner)
    expected = one_pass(model, loss, params, episode, *by_hand(config.inner_steps, iteration))
    grads, _ = learner.gradient_at(iteration)(params, episode)
    assert list(grads) == list(params)
    # 2e-15 was measured, of the images 2e-14: batch norms divide rounding errors by small deviations.
    assert relative_error(grads, expected) < (2e-13 if case == "images" else 2e-14)


@pytest.mark.parametrize("inner_steps", [1, 2, 5])
@pytest.mark.parametrize("adapt_norm", [True, False])
def test_with_equal_rates_and_nothing_else_it_is_maml(adapt_norm: bool, inner_steps: int) -> None:
    changes = {"inner_steps": inner_steps, "adapt_norm": adapt_norm, "n_way": 3}
    maml = build_learner(setting("maml", **changes), TanhNet())
    plusplus = build_learner(mamlpp(mamlpp_step_norms=False, **changes), TanhNet())
    theta, episode = moved(maml.init(seeded(1))), classification()
    params = plusplus.init(seeded(1)) | theta
    expected, usual = maml.gradient(theta, episode)
    grads, metrics = plusplus.gradient(params, episode)
    assert relative_error({name: grads[name] for name in theta}, expected) < 1e-15
    assert metrics == usual
    task = episode.support_x[0], episode.support_y[0]
    assert relative_error(plusplus.adapt(params, *task), maml.adapt(theta, *task)) < 1e-15


def test_it_starts_where_maml_starts() -> None:
    theta = build_learner(setting("maml"), TanhNet()).init(seeded(1))
    params = build_learner(mamlpp(inner_steps=3), TanhNet()).init(seeded(1))
    for name, value in theta.items():
        expected = value.expand(3, *value.shape) if name in NORMS else value
        assert torch.equal(params[name], expected)
    rates = {name: value for name, value in params.items() if name not in theta}
    assert rates.keys() == {f"rate/{name}" for name in theta if name not in NORMS}
    assert all(value.tolist() == [0.3] * 3 for value in rates.values())


def test_the_metrics_are_those_after_the_last_step() -> None:
    config = mamlpp(inner_steps=3, n_way=3)
    learner = build_learner(config, TanhNet())
    params, episode = wandered(learner), classification()
    _, metrics = learner.gradient_at(0)(params, episode)
    found = [
        (learner.predict(learner.adapt(params, support_x, support_y), query_x), query_y)
        for support_x, support_y, query_x, query_y in zip(*episode, strict=True)
    ]
    losses = torch.stack([F.cross_entropy(outputs, query_y) for outputs, query_y in found])
    accuracy = torch.stack([(outputs.argmax(-1) == query_y).double().mean() for outputs, query_y in found])
    assert float(metrics["query_loss"]) == pytest.approx(float(losses.mean()), rel=1e-14)
    assert float(metrics["query_accuracy"]) == pytest.approx(float(accuracy.mean()), rel=1e-14)


@pytest.mark.parametrize("eval_inner_steps", [0, 1, 2])
def test_a_new_task_uses_the_rates_and_norms_of_each_step(eval_inner_steps: int) -> None:
    model, episode = TanhNet(), classification()
    learner = build_learner(mamlpp(inner_steps=3, eval_inner_steps=eval_inner_steps), model)
    params = wandered(learner)
    support_x, support_y = episode.support_x[0], episode.support_y[0]
    theta = {name: value for name, value in params.items() if not name.startswith("rate/")}
    for step in range(eval_inner_steps or 3):
        now = {name: (params[name][step] if name in NORMS else value).detach() for name, value in theta.items()}
        leaves = {name: value.requires_grad_() for name, value in now.items()}
        F.cross_entropy(functional_call(model, leaves, (support_x,)), support_y).backward()
        theta = {
            name: value if name in NORMS else value.detach() - params[f"rate/{name}"][step] * leaves[name].grad
            for name, value in theta.items()
        }
    expected = theta | {name: params[name][(eval_inner_steps or 3) - 1] for name in NORMS}
    with torch.inference_mode():
        fast = learner.adapt(params, support_x, support_y)
    assert relative_error(fast, expected) < 1e-15


# --- sharpened


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("iteration", [1, 7])
def test_sharp_mamlpp_is_two_passes_over_all_meta_parameters(iteration: int, adaptive: bool) -> None:
    model, episode = TanhNet(), classification()
    config = mamlpp(inner_steps=2, alpha_up=0.1, adaptive=adaptive)
    learner = build_learner(config, model)
    params = wandered(learner)
    what = by_hand(2, iteration)
    first = one_pass(model, F.cross_entropy, params, episode, *what)
    weight = {name: value.abs() if adaptive else torch.ones_like(value) for name, value in params.items()}
    length = sum(((weight[name] * value) ** 2).sum() for name, value in first.items()) ** 0.5
    peak = {name: value + 0.1 * weight[name] ** 2 * first[name] / length for name, value in params.items()}
    expected = one_pass(model, F.cross_entropy, peak, episode, *what)
    grads, metrics = learner.gradient_at(iteration)(params, episode)
    assert relative_error(grads, expected) < 2e-14
    assert metrics.keys() == {"query_loss", "query_accuracy", "perturbed_loss"}


# --- the annealing


def test_weights_go_from_equal_ones_to_the_last_alone() -> None:
    assert step_weights(4, 0.0) == (0.25,) * 4
    assert step_weights(4, 0.5) == (0.125, 0.125, 0.125, 0.625)
    assert step_weights(4, 0.999) == pytest.approx((0.0075, 0.0075, 0.0075, 0.9775))  # 3% of a quarter
    assert step_weights(4, 1.0) == step_weights(4, 3.0) == (0, 0, 0, 1)
    assert step_weights(1, 0.0) == step_weights(1, 1.0) == (1,)


@pytest.mark.parametrize("done", [0.0, 0.1, 0.5, 0.969, 0.971, 0.9999])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_weights_are_the_released_codes_and_sum_to_one(steps: int, done: float) -> None:
    """There, after e of E epochs: max(1/S - e/(S E), 0.03/S), and min(1/S + e (S-1)/(S E), 1 - (S-1) 0.03/S)."""
    others = max(1 / steps - done / steps, 0.03 / steps)
    last = min(1 / steps + done * (steps - 1) / steps, 1 - (steps - 1) * 0.03 / steps)
    weights = step_weights(steps, done)
    assert weights == pytest.approx([others] * (steps - 1) + [last], rel=1e-14)
    assert sum(weights) == pytest.approx(1, rel=1e-15)


def test_the_shares_of_the_iterations_are_those_of_the_settings() -> None:
    plans = [plan_of(mamlpp(inner_steps=2), iteration) for iteration in range(10)]
    assert [plan.first_order for plan in plans] == [True] * 3 + [False] * 7
    assert [plan.weights[0] for plan in plans] == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0, 0, 0, 0, 0])
    never = plan_of(mamlpp(mamlpp_multi_step=0, mamlpp_first_order=0, inner_steps=2), 0)
    assert never == ((0.0, 1.0), False)
    always = plan_of(mamlpp(mamlpp_first_order=1), 9)
    assert always.first_order


def test_the_gradient_by_itself_is_that_of_the_end() -> None:
    learner = build_learner(mamlpp(inner_steps=2), TanhNet())
    params, episode = wandered(learner), classification()
    assert equal(learner.gradient(params, episode)[0], learner.gradient_at(9)(params, episode)[0])
    assert not equal(learner.gradient(params, episode)[0], learner.gradient_at(0)(params, episode)[0])


def test_a_learner_that_does_not_anneal_has_one_gradient() -> None:
    learner = build_learner(setting("maml"), TanhNet())
    assert learner.gradient_at(0) is learner.gradient_at(9) is learner.gradient


def test_memory_grows_by_points_only() -> None:
    """Of each step a point and a gradient are kept, here a hundredth of what a graph takes."""
    episode = classification((20,), n_tasks=1, k_shot=100, n_query=100)

    def peak(inner_steps: int) -> int:
        learner = build_learner(mamlpp(inner_steps=inner_steps, mamlpp_first_order=0), TanhNet(20, 16, 3))
        params = learner.init(seeded(1))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            learner.gradient_at(0)(params, episode)
        events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))

    assert peak(10) < 1.4 * peak(1)


# --- training


def test_it_learns_and_so_do_the_rates_and_norms() -> None:
    config = small_config(
        "maml++", iterations=40, n_tasks=8, inner_steps=2, inner_lr=0.5, outer_lr=1e-2, eval_every=40, val_tasks=30
    )
    state = meta_train(build_learner(config, SmallNet(32)), config, easy_split(n_classes=60), easy_split(seed=1))
    assert state.best_score > 0.9
    rates = torch.cat([value for name, value in state.params.items() if name.startswith("rate/")])
    assert (rates != 0.5).all()
    assert rates.unique().numel() == rates.numel()


def test_functions_are_learned_too() -> None:
    config = small_config("maml++", inner_lr=1e-4, outer_lr=1e-2, eval_every=1)
    state = meta_train(build_learner(config, MLP(1, 1), F.mse_loss), config, lines_split(), lines_split())
    scores = [row["val_score"] for row in state.rows]
    assert [leader.score for leader in state.leaders] == sorted(scores)[:5]


def test_testing_by_vmap_and_by_loop_is_the_same() -> None:
    config = small_config("maml++", dtype="float64", inner_steps=2)
    learner = build_learner(config, SmallNet())
    params = wandered(learner)
    loop, vmap = (
        evaluate(learner, params, easy_split(), config.replace(task_map=how, eval_tasks=20)) for how in ("loop", "vmap")
    )
    assert torch.equal(loop.scores, vmap.scores)


# --- refusals


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"eval_inner_steps": 6}, r"eval_inner_steps=6 .* at most inner_steps=5 for maml\+\+"),
        ({"alpha_low": 0.1}, r"alpha_low=0.1 .* 0.0 with variant maml\+\+.*alpha_up sharpens it"),
    ],
)
def test_what_it_has_no_use_for_is_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build_learner(Config(variant="maml++", device="cpu", **changes))
