"""Evaluation: the same tasks for everyone, and the mean with its interval."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from cases import equal, seeded
from helpers import N_WAY, SmallNet, easy_split, image_split, lines_split, small_config
from torch import Tensor
from torch.nn.functional import mse_loss, one_hot

from sharp_maml_core import MLP, Config, Evaluation, Learner, UserError, build_learner, evaluate
from sharp_maml_core.params import Params

SPLIT = easy_split(n_classes=10)
NOTHING = {"w": torch.zeros(1)}


def trained(config: Config) -> tuple[Learner, Params]:
    learner = build_learner(config, SmallNet())
    return learner, learner.init(seeded(0))


def fixed(answer: Tensor) -> Learner:
    """A learner that gives the same answer for every task."""
    return Learner(
        lambda generator: NOTHING, lambda *arguments: None, lambda params, x, y: params, lambda params, x: answer
    )


def tasks_seen(config: Config, **options: object) -> list[Tensor]:
    """The support images of each task that a learner meets."""
    learner, params = trained(config)
    seen = []

    def adapt(params: Params, x: Tensor, y: Tensor) -> Params:
        seen.append(x.clone())
        return learner.adapt(params, x, y)

    evaluate(dataclasses.replace(learner, adapt=adapt), params, SPLIT, config, **options)
    return seen


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


# --- the figures


def test_the_mean_and_the_interval_of_known_scores() -> None:
    # Mean 0.5; deviations -0.3, -0.1, 0.1, 0.3: variance 0.2 / 3; standard error sqrt(0.2 / 3 / 4).
    result = Evaluation(torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64), "accuracy")
    assert result.mean == pytest.approx(0.5)
    assert result.interval == pytest.approx(1.959964 * math.sqrt(0.2 / 3 / 4))


def test_better_is_higher_accuracy_and_lower_error() -> None:
    scores = torch.tensor([0.4, 0.6], dtype=torch.float64)
    accuracy, error = Evaluation(scores, "accuracy"), Evaluation(scores, "mean squared error")
    assert accuracy.better_than(0.4)
    assert not accuracy.better_than(0.6)
    assert not accuracy.better_than(0.5)
    assert error.better_than(0.6)
    assert not error.better_than(0.4)


@pytest.mark.parametrize("n_tasks", [2, 16, 21])
def test_there_is_a_score_for_each_task(n_tasks: int) -> None:
    config = small_config()
    result = evaluate(*trained(config), SPLIT, config, n_tasks=n_tasks)
    assert result.scores.shape == (n_tasks,)
    assert result.scores.dtype == torch.float64


def test_right_answers_score_one_and_a_constant_answer_scores_one_in_n() -> None:
    config = small_config()
    labels = torch.arange(N_WAY).repeat_interleave(config.n_query)
    right = evaluate(fixed(one_hot(labels, N_WAY).float()), NOTHING, SPLIT, config)
    constant = evaluate(fixed(torch.tensor([1.0, 0.0, 0.0]).expand(len(labels), -1)), NOTHING, SPLIT, config)
    assert right.scores.tolist() == [1.0] * config.eval_tasks
    assert right.interval == 0.0
    assert constant.scores.tolist() == pytest.approx([1 / 3] * config.eval_tasks)


@pytest.mark.parametrize("how", ["loop", "vmap"])
@pytest.mark.parametrize("answer", [[math.nan] * 3, [1.0, math.nan, 0.0], [math.inf, 0.0, 0.0], [-math.inf] * 3])
def test_answers_that_overflowed_are_not_scored_as_chance(answer: list[float], how: str) -> None:
    """An argmax would take the first class of most of them, and score one in N."""
    config = small_config(task_map=how)
    answers = torch.eye(N_WAY).repeat_interleave(config.n_query, 0)
    answers[2] = torch.tensor(answer)  # of one query
    result = evaluate(fixed(answers), NOTHING, SPLIT, config)
    assert result.scores.isnan().all()
    assert not result.better_than(0.0)


def test_only_the_tasks_whose_answers_overflowed_have_no_score() -> None:
    config = small_config(eval_tasks=20)
    learner, params = trained(config)

    def predict(fast: Params, x: Tensor) -> Tensor:
        return learner.predict(fast, x).masked_fill(x.mean() > 0.5, math.nan)

    plain = evaluate(learner, params, SPLIT, config).scores
    for how in ("loop", "vmap"):
        some = evaluate(
            dataclasses.replace(learner, predict=predict), params, SPLIT, config.replace(task_map=how)
        ).scores
        assert 0 < some.isnan().sum() < 20
        assert torch.equal(some[~some.isnan()], plain[~some.isnan()])


def test_a_class_of_probability_0_beside_others_is_an_answer() -> None:
    """An ensemble gives the logarithms of its probabilities, and float32 rounds the smallest to 0."""
    config = small_config()
    sure = torch.eye(N_WAY).repeat_interleave(config.n_query, 0).log()
    assert evaluate(fixed(sure), NOTHING, SPLIT, config).scores.tolist() == [1.0] * config.eval_tasks


def test_scores_are_those_of_the_adapted_learner() -> None:
    config = small_config(inner_lr=3.0, inner_steps=3)
    learner, params = trained(config)
    adapted = evaluate(learner, params, SPLIT, config, n_tasks=40)
    untouched = evaluate(
        dataclasses.replace(learner, adapt=lambda params, x, y: params), params, SPLIT, config, n_tasks=40
    )
    assert adapted.mean > untouched.mean + 0.1


def test_regression_is_scored_by_the_mean_squared_error() -> None:
    config = small_config()
    split = lines_split()
    zeros = evaluate(fixed(torch.zeros(config.n_query, 1)), NOTHING, split, config, n_tasks=5)
    assert zeros.metric == "mean squared error"
    learner = build_learner(config, MLP(1, 1), mse_loss)
    params = {name: torch.zeros_like(value) for name, value in learner.init(seeded(0)).items()}
    still = dataclasses.replace(learner, adapt=lambda params, x, y: params)
    assert torch.equal(evaluate(still, params, split, config, n_tasks=5).scores, zeros.scores)


def test_the_true_function_has_no_error() -> None:
    lines = lines_split()
    lines = dataclasses.replace(lines, inputs=lines.inputs[1:], targets=lines.targets[1:])  # x = 0 tells no slope
    truth = Learner(
        lambda generator: NOTHING,
        lambda *arguments: None,
        lambda params, x, y: {"slope": (y / x)[0]},
        lambda fast, x: fast["slope"] * x,
    )
    assert evaluate(truth, NOTHING, lines, small_config()).scores.tolist() == pytest.approx([0.0] * 6, abs=1e-6)


# --- the tasks


@pytest.mark.parametrize(
    "changes", [{"variant": "both", "inner_steps": 3}, {"seed": 5}, {"n_tasks": 7}, {"rotations": True}]
)
def test_tasks_are_the_same_whatever_is_compared(changes: dict[str, object]) -> None:
    assert same(tasks_seen(small_config()), tasks_seen(small_config().replace(**changes)))


@pytest.mark.parametrize(("fewer", "shared"), [(32, 32), (21, 16)])
def test_of_more_tasks_the_first_are_the_same_but_for_a_last_batch_that_is_not_full(fewer: int, shared: int) -> None:
    few, many = (tasks_seen(small_config(), n_tasks=n_tasks) for n_tasks in (fewer, 48))
    assert same(few[:shared], many[:shared])
    assert not any(torch.equal(one, other) for one, other in zip(few[shared:], many[shared:], strict=False))


def test_the_seed_decides_the_tasks() -> None:
    config = small_config()
    assert same(tasks_seen(config), tasks_seen(config, seed=0))
    assert not same(tasks_seen(config), tasks_seen(config, seed=1))
    assert same(tasks_seen(config.replace(eval_seed=1)), tasks_seen(config, seed=1))


@pytest.mark.parametrize("variant", ["maml", "both", "anil", "e-low"])
def test_the_same_seed_gives_the_same_scores(variant: str) -> None:
    config = small_config(variant)
    one, other = (evaluate(*trained(config), SPLIT, config) for _ in range(2))
    assert torch.equal(one.scores, other.scores)


@pytest.mark.parametrize("variant", ["maml", "both", "anil", "e-low"])
def test_loop_and_vmap_give_the_same_scores(variant: str) -> None:
    config = small_config(variant, dtype="float64", inner_steps=2, eval_tasks=20)
    learner, params = trained(config)
    scores = [
        evaluate(learner, params, SPLIT, config.replace(task_map=how, task_chunk=chunk)).scores
        for how, chunk in (("loop", 0), ("vmap", 0), ("vmap", 3))
    ]
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])


def test_the_parameters_are_left_alone() -> None:
    config = small_config("both")
    learner, params = trained(config)
    before = {name: value.clone() for name, value in params.items()}
    evaluate(learner, params, SPLIT, config)
    assert equal(params, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_tasks": 1}, r"eval_tasks=1 .* at least 2"), ({"n_tasks": 0}, "eval_tasks=0"), ({"seed": -1}, "eval_seed=-1")],
)
def test_too_few_tasks_and_bad_seeds_are_refused(options: dict[str, int], message: str) -> None:
    config = small_config()
    with pytest.raises(UserError, match=message):
        evaluate(*trained(config), SPLIT, config, **options)


@pytest.mark.parametrize("three", ["3", 3.0, np.int64(3)])
def test_numbers_are_read_as_those_of_a_config(three: object) -> None:
    config = small_config()
    learner, params = trained(config)
    plain = evaluate(learner, params, SPLIT, config, n_tasks=3, seed=3).scores
    assert torch.equal(evaluate(learner, params, SPLIT, config, n_tasks=three, seed=three).scores, plain)


def test_a_split_that_is_too_small_is_refused() -> None:
    config = small_config()
    with pytest.raises(UserError, match="n_way=3"):
        evaluate(*trained(config), image_split(SPLIT.images[:2]), config)
