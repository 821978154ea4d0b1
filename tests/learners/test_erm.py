"""ERM and SAM, the single-level reference, against plain autograd, and what a literal Eq. 5 learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import TanhNet, classification, draw, equal, moved, relative_error, seeded, setting
from helpers import SIDE, SmallNet, easy_split, lines_split, small_config
from reference import conv4
from torch import Tensor, nn

from sharp_maml_core import (
    MLP,
    Config,
    Conv4,
    Episode,
    UserError,
    build_learner,
    evaluate,
    meta_train,
    run_experiment,
    sample_episodes,
)
from sharp_maml_core.models import model_for
from sharp_maml_core.params import Params

N_CLASSES = 8


def wide(width: int = 8) -> nn.Module:
    """`SmallNet` with an output for each class of the split."""
    model = SmallNet(width)
    model.head = nn.Linear(width, N_CLASSES)
    return model


def numbered(shape: tuple[int, ...] = (5,), n_classes: int = N_CLASSES) -> Episode:
    """Noise whose labels are classes of the split, other ones in each task."""
    episode = classification(shape)
    classes = torch.stack([torch.randperm(n_classes, generator=seeded(task))[:3] for task in range(episode.n_tasks)])
    return episode._replace(support_y=classes.gather(1, episode.support_y), query_y=classes.gather(1, episode.query_y))


def one_batch(forward, params: Params, episode: Episode) -> tuple[Tensor, Params]:
    """Cross-entropy of all images, one by one, and its gradient."""
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    images, labels = [], []
    for support_x, support_y, query_x, query_y in zip(*episode, strict=True):
        images += [*support_x, *query_x]
        labels += [*support_y, *query_y]
    outputs = forward(leaves, torch.stack(images))
    loss = sum(-output.log_softmax(0)[label] for output, label in zip(outputs, labels, strict=True)) / len(labels)
    return loss.detach(), dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def tanh(params: Params, x: Tensor) -> Tensor:
    return torch.func.functional_call(TanhNet(d_out=N_CLASSES), params, (x,))


NETWORKS = {
    "user": (TanhNet(d_out=N_CLASSES), tanh, (5,), 1e-14),
    # Four normalisations divide rounding errors by small deviations, as in test_maml_exact.
    "conv4": (Conv4((1, 16, 16), N_CLASSES, 4), conv4, (1, 16, 16), 5e-13),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_of_tasks_is_one_mini_batch_of_images(name: str) -> None:
    model, forward, shape, tolerance = NETWORKS[name]
    learner = build_learner(setting("erm", alpha_low=0, alpha_up=0), model)
    params, episode = moved(learner.init(seeded(1))), numbered(shape)
    loss, expected = one_batch(forward, params, episode)
    grads, metrics = learner.gradient(params, episode)
    assert relative_error(grads, expected) < tolerance
    assert float(metrics["query_loss"]) == pytest.approx(float(loss), rel=1e-13)
    y = torch.cat([episode.support_y, episode.query_y], 1).flatten()
    x = torch.cat([episode.support_x, episode.query_x], 1).flatten(0, 1)
    assert float(metrics["query_accuracy"]) == float((forward(params, x).argmax(-1) == y).double().mean())


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("variant", ["sam", "erm"])
def test_sam_is_two_such_batches(variant: str, adaptive: bool) -> None:
    """Eq. 8a and 8b, or ASAM's ball; `erm` with a radius is the same."""
    config = setting(variant, alpha_low=0, alpha_up=0.3, adaptive=adaptive)
    learner = build_learner(config, TanhNet(d_out=N_CLASSES))
    params, episode = moved(learner.init(seeded(1))), numbered()
    _, first = one_batch(tanh, params, episode)
    weight = {name: value.abs() if adaptive else torch.ones_like(value) for name, value in params.items()}
    length = sum(((weight[name] * value) ** 2).sum() for name, value in first.items()) ** 0.5
    peak = {name: value + 0.3 * weight[name] ** 2 * first[name] / length for name, value in params.items()}
    loss, expected = one_batch(tanh, peak, episode)
    grads, metrics = learner.gradient(params, episode)
    assert relative_error(grads, expected) < 1e-13
    assert float(metrics["perturbed_loss"]) == pytest.approx(float(loss), rel=1e-13)


def test_sam_has_a_radius_and_without_one_it_is_erm() -> None:
    assert Config(variant="sam").alpha_up == 0.05
    model, episode = TanhNet(d_out=N_CLASSES), numbered()
    erm, sam = (build_learner(setting(variant, alpha_low=0, alpha_up=0), model) for variant in ("erm", "sam"))
    params = moved(erm.init(seeded(1)))
    assert equal(erm.gradient(params, episode)[0], sam.gradient(params, episode)[0])


# --- the fresh head


@pytest.mark.parametrize("steps", [0, 4])
def test_the_head_is_softmax_regression_on_frozen_features_from_zero(steps: int) -> None:
    """Its gradient in closed form: (p - y) features^T / n."""
    config = setting("erm", alpha_low=0, alpha_up=0, n_way=3, eval_inner_steps=steps)
    learner = build_learner(config, TanhNet(d_out=N_CLASSES))
    params, episode = moved(learner.init(seeded(1))), classification()
    support_x, support_y, query_x, _ = (value[0] for value in episode)
    features = {name[9:]: value for name, value in params.items() if name.startswith("features.")}
    phi, psi = (torch.func.functional_call(TanhNet().features, features, (x,)) for x in (support_x, query_x))
    weight, bias = torch.zeros(3, 6, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for _ in range(steps or 2):
        error = ((phi @ weight.T + bias).softmax(-1) - F.one_hot(support_y, 3)) / len(support_y)
        weight, bias = weight - 0.3 * error.T @ phi, bias - 0.3 * error.sum(0)
    fast = learner.adapt(params, support_x, support_y)
    assert fast.keys() == {f"features.{name}" for name in features} | {"task.weight", "task.bias"}
    torch.testing.assert_close(learner.predict(fast, query_x), psi @ weight.T + bias, rtol=1e-12, atol=1e-14)
    assert equal(
        {f"features.{name}": value for name, value in features.items()},
        {name: value for name, value in fast.items() if name.startswith("features.")},
    )


def test_a_task_does_not_depend_on_the_head_of_training() -> None:
    learner = build_learner(setting("erm", alpha_low=0, alpha_up=0, n_way=3), TanhNet(d_out=N_CLASSES))
    params, episode = learner.init(seeded(1)), classification()
    other = params | {name: draw(*value.shape, seed=3) for name, value in params.items() if name.startswith("head.")}
    task = episode.support_x[0], episode.support_y[0]
    assert equal(learner.adapt(params, *task), learner.adapt(other, *task))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_evaluation_needs_no_gradients_around_it(mode: type) -> None:
    learner = build_learner(setting("erm", alpha_low=0, alpha_up=0, n_way=3), TanhNet(d_out=N_CLASSES))
    params, episode = learner.init(seeded(1)), classification()
    expected = learner.adapt(params, episode.support_x[0], episode.support_y[0])
    with mode():
        assert equal(learner.adapt(params, episode.support_x[0], episode.support_y[0]), expected)


def test_testing_by_vmap_and_by_loop_is_the_same() -> None:
    config = small_config("erm", dtype="float64", alpha_low=0)
    learner = build_learner(config, wide())
    params = learner.init(seeded(1))
    loop, vmap = (
        evaluate(learner, params, easy_split(), config.replace(task_map=how, eval_tasks=40)) for how in ("loop", "vmap")
    )
    assert torch.equal(loop.scores, vmap.scores)


# --- what is learned


def accuracy(variant: str, literal: bool) -> tuple[float, float]:
    """On its training batches at the end of training, and of new tasks on classes that were trained on."""
    config = small_config(
        variant, iterations=150, n_tasks=4, outer_lr=1e-2, eval_every=150, val_tasks=40, inner_lr=0.5, alpha_low=0
    )
    split = easy_split(n_classes=N_CLASSES)
    if not literal:
        state = meta_train(build_learner(config, wide(32)), config, split, split)
        return sum(row["query_accuracy"] for row in state.rows[-20:]) / 20, state.best_score
    learner = build_learner(config, SmallNet(32))  # N outputs, and the labels of each task: Eq. 5 to the letter
    params, found = learner.init(seeded(0)), []
    adam = torch.optim.Adam(leaves := [value.requires_grad_() for value in params.values()], lr=1e-2)
    generator = seeded(0)
    for _ in range(150):
        episode = sample_episodes(split, n_way=3, k_shot=1, n_query=2, n_tasks=4, generator=generator)
        grads, metrics = learner.gradient({name: value.detach() for name, value in params.items()}, episode)
        for leaf, grad in zip(leaves, grads.values(), strict=True):
            leaf.grad = grad
        adam.step()
        found.append(float(metrics["query_accuracy"]))
    return sum(found[-100:]) / 100, float("nan")


@pytest.mark.parametrize("variant", ["erm", "sam"])
def test_it_learns_the_classes_of_the_split_and_tells_those_of_a_task_apart(variant: str) -> None:
    in_training, on_tasks = accuracy(variant, literal=False)
    assert in_training > 0.95  # chance is 1/8
    assert on_tasks > 0.95  # chance is 1/3


def test_eq_5_to_the_letter_learns_chance() -> None:
    """The labels of a task are a random numbering: one head for all of them is right a third of the time."""
    in_training, _ = accuracy("erm", literal=True)
    assert abs(in_training - 1 / 3) < 0.08


def test_a_whole_run_with_turned_classes(tmp_path) -> None:
    config = small_config("sam", dataset="glyphs", rotations=True, iterations=2, eval_every=2, checkpoint_every=1)
    result = run_experiment(config, tmp_path, progress=False)
    assert result["metric"] == "accuracy"


# --- refusals


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"alpha_low": 0.1}, "alpha_low=0.1 is not allowed: it must be 0.0 with variant erm"),
        (
            {"query_precision": "bfloat16"},
            "query_precision='bfloat16' is not allowed: it must be full with variant erm.*no query pass",
        ),
    ],
)
def test_settings_of_an_inner_loop_in_training_are_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build_learner(Config(variant="erm", device="cpu", **changes))


def test_a_model_without_parts_is_refused() -> None:
    with pytest.raises(UserError, match=r"variant='sam' .* `features` and `head`"):
        build_learner(Config(variant="sam", device="cpu"), nn.Linear(5, 3))


@pytest.mark.parametrize(("rotations", "needed"), [(False, 8), (True, 32)])
def test_a_head_that_is_too_small_for_the_classes_is_refused_before_training(rotations: bool, needed: int) -> None:
    config = small_config("erm", rotations=rotations)
    learner = build_learner(config, SmallNet())
    with pytest.raises(
        UserError, match=rf"a head of 3 outputs.* at least {needed}, the classes of easy/train, for erm"
    ):
        meta_train(learner, config, easy_split(), easy_split(seed=1))


def test_functions_are_refused() -> None:
    config = small_config("erm")
    learner = build_learner(config, MLP(1, 1), F.mse_loss)
    with pytest.raises(UserError, match=r"variant='erm' .* functions have no classes"):
        meta_train(learner, config, lines_split(), lines_split())
    with pytest.raises(UserError, match=r"variant='erm' .* functions have no classes"):
        run_experiment(small_config("erm", dataset="sinusoid", k_shot=5, n_query=5), progress=False)


def test_the_network_for_a_split_has_an_output_for_each_class() -> None:
    split = easy_split(side=SIDE + 10)
    for rotations, outputs in ((False, 8), (True, 32)):
        model = model_for(small_config("sam", rotations=rotations), split)
        assert model(torch.zeros(1, *split.shape)).shape == (1, outputs)
