"""Meta-training: it learns, keeps the best, goes on as if it had never stopped, and stops well."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import signal
from collections.abc import Callable

import pytest
import torch
from cases import equal, seeded
from helpers import N_WAY, SIDE, SmallNet, easy_split, lines_split, small_config
from torch import Tensor, nn

from sharp_maml_core import (
    MLP,
    Config,
    Diverged,
    Episode,
    Learner,
    TrainState,
    UserError,
    build_learner,
    meta_train,
    sample_episodes,
)
from sharp_maml_core.params import Params, norm, scaled

TRAIN, VAL = easy_split(seed=0), easy_split(seed=1)


def train(config: Config, learner: Learner | None = None, **options: object) -> TrainState:
    return meta_train(learner or build_learner(config, SmallNet()), config, TRAIN, VAL, **options)


def snapshots(config: Config) -> list[TrainState]:
    """The state at every checkpoint."""
    kept: list[TrainState] = []
    train(config, checkpoint=lambda state: kept.append(copy.deepcopy(state)))
    return kept


def assert_equal(one: TrainState, other: TrainState) -> None:
    """Equal to the last bit, but for the time it took."""
    assert equal(one.params, other.params)
    assert equal(one.best, other.best)
    assert one.moments.keys() == other.moments.keys()
    assert all(equal(one.moments[name], other.moments[name]) for name in one.moments)
    assert torch.equal(one.generator_state, other.generator_state)
    assert [leader[:2] for leader in one.leaders] == [leader[:2] for leader in other.leaders]
    assert all(equal(x.params, y.params) for x, y in zip(one.leaders, other.leaders, strict=True))
    assert one.rows == other.rows
    assert (one.iteration, one.best_iteration, one.best_score) == (
        other.iteration,
        other.best_iteration,
        other.best_score,
    )


def before_gradient(learner: Learner, hook: Callable[[int], None]) -> Learner:
    """The learner, with `hook(iteration)` called before each gradient."""
    count = 0

    def gradient(*arguments: object) -> object:
        nonlocal count
        count += 1
        hook(count)
        return learner.gradient(*arguments)

    return dataclasses.replace(learner, gradient=gradient)


def staircase(slope: float = -1.0, peak: int | None = None) -> Learner:
    """One parameter that starts at 0, with the gradient `slope`; Adam moves it by outer_lr an iteration.

    With a `peak`, all its answers are right after that iteration, and fewer before and after.
    """

    def gradient(params: Params, episode: Episode, generator: object = None) -> tuple[Params, dict[str, Tensor]]:
        loss = torch.tensor(0.5)
        return {"w": torch.full((1,), slope)}, {"query_loss": loss, "query_accuracy": loss}

    def predict(params: Params, query_x: Tensor) -> Tensor:
        right = torch.arange(N_WAY).repeat_interleave(len(query_x) // N_WAY)  # queries are ordered by class
        wrong = torch.zeros_like(right)
        n_wrong = int((params["w"] / 1e-3 - peak).abs().round())
        answers = torch.where(torch.arange(len(right)) >= len(right) - n_wrong, wrong, right)
        return torch.nn.functional.one_hot(answers, N_WAY).float()

    return Learner(lambda generator: {"w": torch.zeros(1)}, gradient, lambda params, x, y: params, predict)


# --- it learns


def test_an_easy_problem_is_learned_and_new_classes_profit() -> None:
    config = small_config(iterations=60, n_tasks=8, inner_lr=0.5, outer_lr=1e-2, eval_every=60, val_tasks=30)
    state = meta_train(build_learner(config, SmallNet(32)), config, easy_split(n_classes=60), VAL)
    first, last = ([row["query_loss"] for row in rows] for rows in (state.rows[:10], state.rows[-10:]))
    assert sum(last) < 0.6 * sum(first)
    assert state.best_score > 0.9


def test_an_update_is_torchs_adam_on_the_meta_gradient() -> None:
    config = small_config("both", iterations=5)
    learner = build_learner(config, SmallNet())
    leaves = {name: value.requires_grad_() for name, value in learner.init(seeded(config.seed)).items()}
    adam, tasks = torch.optim.Adam(leaves.values(), lr=config.outer_lr), seeded(config.seed)
    for _ in range(5):
        episode = sample_episodes(TRAIN, n_way=3, k_shot=1, n_query=2, n_tasks=2, generator=tasks)
        grads, _ = learner.gradient({name: leaf.detach() for name, leaf in leaves.items()}, episode)
        for name, leaf in leaves.items():
            leaf.grad = grads[name]
        adam.step()
    assert equal(train(config, learner).params, {name: leaf.detach() for name, leaf in leaves.items()})


def test_regression_keeps_the_lowest_error() -> None:
    config = small_config(inner_lr=1e-4, outer_lr=1e-2, iterations=12)
    learner = build_learner(config, MLP(1, 1), torch.nn.functional.mse_loss)
    state = meta_train(learner, config, lines_split(), lines_split())
    scores = {row["iteration"]: row["val_score"] for row in state.rows if "val_score" in row}
    assert state.best_score == min(scores.values())
    assert scores[state.best_iteration] == state.best_score
    assert "query_accuracy" not in state.rows[0]


@pytest.mark.parametrize("length", [10.0, 0.25])
def test_clip_bounds_the_norm_of_the_gradient(length: float) -> None:
    config = small_config(iterations=1, clip=0.5)
    state = train(config, staircase(length, peak=0))
    # After one step Adam's first moment is a tenth of the gradient that it was given.
    assert state.moments["w"]["exp_avg"].item() == pytest.approx(0.1 * min(length, 0.5))
    assert state.rows[0]["gradient_norm"] == length  # the record tells how long it was


def test_without_clip_the_gradient_is_as_it_is() -> None:
    state = train(small_config(iterations=1), staircase(1000.0, peak=0))
    assert state.moments["w"]["exp_avg"].item() == pytest.approx(100.0)


# --- validation and checkpoints


def test_the_best_on_validation_is_kept_though_it_is_not_the_last() -> None:
    state = train(small_config(iterations=6, eval_every=1), staircase(peak=3))
    assert (state.best_iteration, state.best_score) == (3, 1.0)
    assert state.best["w"].item() == pytest.approx(3e-3)
    assert state.params["w"].item() == pytest.approx(6e-3)


def test_of_equally_good_ones_the_first_is_kept() -> None:
    state = train(small_config(iterations=6, eval_every=2), staircase(peak=3))  # 2 and 4 are one off
    assert state.best_iteration == 2


@pytest.mark.parametrize("overflows", [{1}, {3, 4}, {1, 2, 3, 5}])
def test_parameters_whose_answers_overflow_are_the_best_only_where_there_are_no_others(overflows: set[int]) -> None:
    """An argmax takes the first class of them, which scores one in N, as much as the first parameters here."""
    learner, finite = staircase(peak=5), {1, 2, 3, 4, 5} - overflows  # each better than the one before

    def predict(params: Params, query_x: Tensor) -> Tensor:
        answers = learner.predict(params, query_x)
        return answers * math.nan if round(params["w"].item() / 1e-3) in overflows else answers

    state = train(small_config(iterations=5, eval_every=1), dataclasses.replace(learner, predict=predict, ensemble=5))
    assert state.best_iteration == max(finite)
    assert {leader.iteration for leader in state.leaders} == finite
    assert [row["iteration"] for row in state.rows if math.isnan(row["val_score"])] == sorted(overflows)


def test_as_many_of_the_best_are_kept_as_the_learner_asks_for_the_best_first() -> None:
    learner = dataclasses.replace(staircase(peak=3), ensemble=4)
    state = train(small_config(iterations=7, eval_every=1), learner)
    assert [leader.iteration for leader in state.leaders] == [3, 2, 4, 1]  # 1 and 5 are two off
    assert [leader.score for leader in state.leaders] == pytest.approx([1.0, 5 / 6, 5 / 6, 4 / 6])
    assert [leader.params["w"].item() for leader in state.leaders] == pytest.approx([3e-3, 2e-3, 4e-3, 1e-3])
    assert equal(state.leaders[0].params, state.best)


def test_none_are_kept_for_a_learner_that_asks_for_no_ensemble() -> None:
    assert train(small_config(iterations=6, eval_every=1), staircase(peak=3)).leaders == []


def test_each_iteration_uses_its_own_gradient() -> None:
    """Before and after going on: iterations are counted from 0 over the whole training."""
    config, seen = small_config(checkpoint_every=3), []

    def annealed(iteration: int) -> Callable[..., object]:
        seen.append(iteration)
        return staircase().gradient

    learner = dataclasses.replace(staircase(peak=0), annealed=annealed)
    stopped: list[TrainState] = []
    train(config, learner, checkpoint=lambda state: stopped.append(copy.deepcopy(state)))
    assert seen == list(range(7))
    seen.clear()
    train(config, learner, state=stopped[0])
    assert seen == [3, 4, 5, 6]


def test_a_learner_gets_the_labels_that_it_asks_for() -> None:
    found: list[int] = []
    usual = staircase(peak=0)

    def gradient(params: Params, episode: Episode, generator: object = None) -> tuple[Params, dict[str, Tensor]]:
        found.extend(episode.query_y.flatten().tolist())
        return usual.gradient(params, episode)

    train(small_config(rotations=True, iterations=60), dataclasses.replace(usual, gradient=gradient, labels="split"))
    assert set(found) == set(range(4 * len(TRAIN.images)))
    found.clear()
    train(small_config(rotations=True), dataclasses.replace(usual, gradient=gradient))
    assert set(found) == set(range(N_WAY))


def test_validation_comes_every_so_often_and_at_the_end() -> None:
    rows = train(small_config(iterations=7, eval_every=3)).rows
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["iteration"] for row in rows if "val_score" in row] == [3, 6, 7]


def test_checkpoints_come_every_so_often_and_at_the_end() -> None:
    assert [state.iteration for state in snapshots(small_config(iterations=7, checkpoint_every=3))] == [3, 6, 7]


# --- going on


@pytest.mark.parametrize(
    "changes",
    [
        {"variant": "maml", "rotations": True, "clip": 0.5},
        {"variant": "both", "dtype": "float64"},
        {"variant": "up", "task_map": "vmap"},
        {"variant": "e-low"},
        {"variant": "e-low-anil"},
        {"variant": "maml++", "eval_every": 1, "mamlpp_ensemble": 3, "mamlpp_multi_step": 0.6, "inner_steps": 2},
    ],
    ids=lambda changes: changes["variant"],
)
def test_going_on_from_any_iteration_ends_bit_identically(changes: dict[str, object]) -> None:
    config = small_config(**changes, checkpoint_every=1)
    *stops, end = snapshots(config)
    assert end.iteration == 7
    assert len(stops) == 6
    for state in stops:
        assert_equal(train(config, state=copy.deepcopy(state)), end)


@pytest.mark.parametrize("every", [2, 3, 100])
def test_how_often_checkpoints_come_changes_nothing(every: int) -> None:
    assert_equal(train(small_config("both", checkpoint_every=every)), train(small_config("both", checkpoint_every=1)))


def test_a_finished_state_is_not_trained_again() -> None:
    config = small_config()
    state = train(config)

    def never(iteration: int) -> None:
        raise AssertionError(f"iteration {iteration}")

    again = train(config, before_gradient(build_learner(config, SmallNet()), never), state=copy.deepcopy(state))
    assert_equal(again, state)


def test_another_seed_gives_another_run() -> None:
    one, other = train(small_config()), train(small_config(seed=1))
    assert not equal(one.params, other.params)
    assert one.rows != other.rows


def test_tasks_are_the_same_for_every_network() -> None:
    config = small_config()
    states = [train(config, build_learner(config, SmallNet(width))) for width in (4, 8)]
    assert torch.equal(states[0].generator_state, states[1].generator_state)


# --- stopping


@pytest.mark.parametrize(("changes", "iteration"), [({"inner_lr": 1e30}, 1), ({"outer_lr": 1e30}, 2)])
def test_divergence_stops_at_once_and_says_where_and_what_to_change(changes: dict[str, float], iteration: int) -> None:
    config = small_config(**changes)
    learner = build_learner(config, nn.Sequential(nn.Flatten(), MLP(SIDE * SIDE, N_WAY)))
    kept: list[TrainState] = []
    with pytest.raises(Diverged, match=f"iteration {iteration}: not finite: .*gradient_norm") as caught:
        train(config, learner, checkpoint=lambda state: kept.append(copy.deepcopy(state)))
    for name in ("inner_lr", "outer_lr", "clip"):
        assert f"{name} (now {getattr(config, name)}" in str(caught.value)
    assert [state.iteration for state in kept] == [iteration - 1]
    assert all(value.isfinite().all() for value in kept[0].params.values())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["gradient", "loss"])
def test_after_divergence_the_last_good_state_is_kept_and_nothing_of_the_bad_one(bad: float, where: str) -> None:
    config = small_config(iterations=3, checkpoint_every=1)
    good = snapshots(config)[-1]

    learner = build_learner(config, SmallNet())
    count = 0

    def gradient(*arguments: object) -> object:
        nonlocal count
        count += 1
        grads, metrics = learner.gradient(*arguments)
        if count < 4:
            return grads, metrics
        if where == "loss":
            return grads, metrics | {"query_loss": torch.tensor(bad)}
        grads["head.bias"][0] = bad
        return grads, metrics

    kept: list[TrainState] = []
    endless = config.replace(iterations=9, checkpoint_every=100)
    with pytest.raises(Diverged, match="iteration 4"):
        train(
            endless,
            dataclasses.replace(learner, gradient=gradient),
            checkpoint=lambda state: kept.append(copy.deepcopy(state)),
        )
    assert len(kept) == 1
    assert_equal(kept[0], good)


def test_a_finite_gradient_that_is_merely_long_does_not_stop_a_clipped_run() -> None:
    config = small_config(clip=1.0)
    learner = build_learner(config, SmallNet())

    def long(*arguments: object) -> object:
        grads, metrics = learner.gradient(*arguments)
        return scaled(grads, 1e12 / norm(grads)), metrics

    assert train(config, dataclasses.replace(learner, gradient=long)).iteration == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [3, 7])  # 7 is the last iteration
def test_a_signal_stops_after_the_iteration_with_a_checkpoint(number: signal.Signals, at: int) -> None:
    config = small_config(checkpoint_every=100)
    end = train(config)
    kept: list[TrainState] = []
    learner = before_gradient(
        build_learner(config, SmallNet()), lambda iteration: iteration == at and os.kill(os.getpid(), number)
    )
    handler = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(config, learner, checkpoint=lambda state: kept.append(copy.deepcopy(state)))
    assert [state.iteration for state in kept] == [at]
    assert signal.getsignal(number) is handler
    assert_equal(train(config, state=kept[0]), end)


def test_a_second_signal_does_not_wait() -> None:
    kept: list[TrainState] = []

    def twice(iteration: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    config = small_config()
    with pytest.raises(KeyboardInterrupt):
        train(config, before_gradient(build_learner(config, SmallNet()), twice), checkpoint=kept.append)
    assert kept == []


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_that_is_too_small_is_refused_before_training(split: str) -> None:
    config = small_config()
    splits = {"train": TRAIN, "val": VAL} | {split: easy_split(n_classes=2)}
    never = before_gradient(build_learner(config, SmallNet()), lambda iteration: pytest.fail("trained"))
    with pytest.raises(UserError, match=r"n_way=3 .* at most 2"):
        meta_train(never, config, **splits)


# --- what is shown


def test_the_bar_shows_loss_and_accuracy_and_does_not_flood_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    train(small_config(iterations=30), staircase(peak=0), progress=True)
    shown = capsys.readouterr().err
    assert "30/30" in shown
    assert "loss=0.500, accuracy=0.500" in shown
    assert shown.count("\r") < 10


def test_nothing_is_shown_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    train(small_config())
    assert capsys.readouterr() == ("", "")
