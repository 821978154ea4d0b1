"""A head that starts every task from zero: what it holds, what a step of it costs, and tasks of other sizes."""

from __future__ import annotations

import sys

import pytest
import torch
from cases import TanhNet, classification, equal, seeded, setting
from helpers import SmallNet, easy_split
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sharp_maml_core import Config, build_learner, evaluate, run_experiment, sample_episodes
from sharp_maml_core.config import FAMILY
from sharp_maml_core.data import RegressionSplit
from sharp_maml_core.errors import UserError
from sharp_maml_core.learners import Learner
from sharp_maml_core.models import MLP, Conv4
from sharp_maml_core.network import FEATURES, HEAD
from sharp_maml_core.params import Params, select

N_WAY, TRAIN_WAY = 3, 5
MORE = classification(n_way=TRAIN_WAY)
"""A task with more classes than those of the test."""


def zero_head(variant: str, n_way: int = N_WAY, **changes: object) -> Learner:
    return build_learner(setting(variant, n_way=n_way, k_shot=2, zero_head=True, **changes), TanhNet(d_out=n_way))


def parts(params: Params) -> tuple[Params, Params]:
    """Features and head."""
    return select(params, lambda name: name.startswith(FEATURES)), select(params, lambda name: name.startswith(HEAD))


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("variant", FAMILY)
def test_a_training_task_of_more_classes_is_as_if_all_tasks_had_them(variant, inner_steps, task_map):
    """The same as with n_way of that many, and the rate in proportion."""
    same = {"inner_steps": inner_steps, "task_map": task_map}
    mixed = zero_head(variant, train_way=TRAIN_WAY, inner_lr=0.3, **same)
    whole = zero_head(variant, TRAIN_WAY, inner_lr=0.3 * (TRAIN_WAY / N_WAY), **same)
    features, head = parts(mixed.init(seeded(1)))
    _, longer_head = parts(whole.init(seeded(1)))
    grads, metrics = mixed.gradient(features | head, MORE, seeded(2))
    expected, reported = whole.gradient(features | longer_head, MORE, seeded(2))
    by_features, by_head = parts(grads)
    assert equal(by_head, head)
    assert equal(by_features, parts(expected)[0])
    assert equal(metrics, reported)


@pytest.mark.parametrize("variant", FAMILY)
def test_a_test_task_is_of_n_way_classes_however_many_training_has(variant):
    params, task = zero_head(variant).init(seeded(1)), classification(n_way=N_WAY)
    one, other = (
        (learner.adapt(params, task.support_x[0], task.support_y[0]), learner.gradient(params, task, seeded(2))[0])
        for learner in (zero_head(variant), zero_head(variant, train_way=TRAIN_WAY))
    )
    assert one[0]["head.weight"].shape == (N_WAY, 6)
    assert equal(one[0], other[0])
    assert equal(one[1], other[1])


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
def test_a_test_task_may_have_other_shots_than_training(task_map):
    """Its classes are not guessed from the number of its images."""
    split = easy_split(n_classes=6, n_instances=8)
    config = setting("maml", n_way=N_WAY, k_shot=1, n_query=2, zero_head=True, eval_tasks=20, task_map=task_map)
    one, other = (build_learner(config.replace(train_way=way), SmallNet()) for way in (0, TRAIN_WAY))
    params = one.init(seeded(1))
    more = config.replace(k_shot=5)
    assert torch.equal(evaluate(other, params, split, more).scores, evaluate(one, params, split, more).scores)
    task = classification(n_way=N_WAY, k_shot=5)
    learner = zero_head("maml", train_way=TRAIN_WAY)
    assert learner.adapt(learner.init(seeded(1)), task.support_x[0], task.support_y[0])["head.weight"].shape[0] == N_WAY


def test_a_gradient_does_not_guess_the_classes_of_tasks_with_other_shots():
    learner = zero_head("maml", train_way=TRAIN_WAY)
    with pytest.raises(UserError, match=r"^episode='one of 9 support images a task' is not allowed: .* of k_shot=2 "):
        learner.gradient(learner.init(seeded(1)), classification(n_way=N_WAY, k_shot=3))


def test_what_a_head_holds_does_not_matter():
    task = classification(n_way=N_WAY)
    for variant in FAMILY:
        learner = zero_head(variant)
        params = learner.init(seeded(1))
        other = params | {name: value + 1 for name, value in parts(params)[1].items()}
        one, another = (learner.gradient(point, task, seeded(2))[0] for point in (params, other))
        assert equal(one, another), variant
        one, another = (learner.adapt(point, task.support_x[0], task.support_y[0]) for point in (params, other))
        assert equal(one, another), variant


def test_one_step_costs_what_matching_does():
    """Convolutions forwards and backwards, once for each set: their Hessian is zero there, and is not computed."""
    episode = classification((1, 16, 16), k_shot=1)
    model = Conv4((1, 16, 16), N_WAY, 4)

    def convolutions(variant: str, **changes: object) -> int:
        learner = build_learner(setting(variant, inner_steps=1, n_way=N_WAY, k_shot=1, **changes), model)
        params = learner.init(seeded(1))
        learner.gradient(params, episode)  # the first time the model is looked at
        with FlopCounterMode(display=False) as counter:
            learner.gradient(params, episode)
        return sum(count for op, count in counter.get_flop_counts()["Global"].items() if "conv" in str(op))

    expected = convolutions("matching", alpha_low=0.0, alpha_up=0.0)
    assert convolutions("maml", zero_head=True) == expected > 0
    assert convolutions("maml") > 1.4 * expected


class Residual(nn.Module):
    """A head that adds its input: of zeros it tells samples apart."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, N_WAY)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + x[:, :N_WAY]


@pytest.mark.parametrize("variant", FAMILY)
def test_a_head_that_tells_samples_apart_at_zero_is_refused(variant):
    """Its first step moves the features too, which `gradient_from_zero_head` takes for granted that none does."""
    model = TanhNet()
    model.head = Residual()
    learner = build_learner(setting(variant, n_way=N_WAY, zero_head=True), model)
    params, task = learner.init(seeded(1)), classification(n_way=N_WAY)
    said = r"^zero_head=True is not allowed: it must be false: the head of this TanhNet tells samples apart"
    with pytest.raises(UserError, match=said):
        learner.gradient(params, task)
    with pytest.raises(UserError, match=said):
        learner.adapt(params, task.support_x[0], task.support_y[0])
    with pytest.raises(UserError, match=said):
        learner.check_split(RegressionSplit.from_points(torch.zeros(2, 9, 5), torch.zeros(2, 9, 3), "points/train"))
    build_learner(setting(variant, n_way=N_WAY), model).gradient(params, task)


class Joined(TanhNet):
    """More than head(features(x)): a ReLU between them."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.features(x)))


@pytest.mark.parametrize("variant", FAMILY)
def test_a_whole_that_is_not_its_parts_is_refused_though_of_a_zero_head_both_are_zero(variant):
    learner = build_learner(setting(variant, n_way=N_WAY, zero_head=True), Joined())
    with pytest.raises(UserError, match=r"^model='Joined' is not allowed: it must be head\(features\(x\)\)"):
        learner.gradient(learner.init(seeded(1)), classification(n_way=N_WAY))


def test_a_head_without_a_row_for_each_class_cannot_have_more():
    deep = TanhNet()
    deep.head = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, N_WAY))
    for model, name in ((deep, "head.0.weight"), (MLP(5, 2), "head.weight")):
        rows = 4 if model is deep else 2
        with pytest.raises(UserError, match=rf"^train_way=5 is not allowed: it must be 0: this model's {name} is of "):
            build_learner(setting("maml", n_way=N_WAY, zero_head=True, train_way=TRAIN_WAY), model)
        learner = build_learner(setting("maml", n_way=N_WAY, zero_head=True), model)
        assert learner.init(seeded(1))[name].shape[0] == rows


def test_a_run_trains_with_more_classes_than_it_is_tested_with(tmp_path, monkeypatch):
    drawn = []

    def sample(*args, n_way, **more):
        drawn.append(n_way)
        return sample_episodes(*args, n_way=n_way, **more)

    for name in ("train", "evaluate"):
        monkeypatch.setattr(sys.modules[f"sharp_maml_core.{name}"], "sample_episodes", sample)
    settings = {"n_way": 3, "train_way": 6, "n_query": 2, "iterations": 2, "eval_every": 2, "val_tasks": 2}
    for variant, more in (("maml", {"zero_head": True}), ("matching", {})):
        drawn.clear()
        config = Config(variant, **settings, **more, eval_tasks=2, filters=4, device="cpu")
        run_experiment(config, tmp_path / variant, progress=False)
        assert drawn[:2] == [6, 6]
        assert set(drawn[2:]) == {3}


def test_more_classes_than_there_are_is_said_of_the_setting_that_asked_for_them(tmp_path):
    with pytest.raises(UserError, match=r"^train_way=9999 is not allowed: it must be at most "):
        run_experiment(Config("matching", train_way=9999, device="cpu"), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
