"""Meta-training: outer steps, validation every so often, and a state that can be put away at any time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from . import distributed
from .config import Config
from .data.episodes import check_split, sample_episodes
from .data.split import Split
from .episode import Episode
from .errors import Diverged
from .evaluate import BAR_SECONDS, evaluate
from .interrupts import stop_requests
from .learners import Learner
from .outer import SCHEDULES, OuterStep
from .params import Params, norm, scaled
from .recorded import recorded

Row = dict[str, float]
"""One line of metrics.csv: the iteration, its training metrics, and validation figures where there was one."""


class Ranked(NamedTuple):
    """Parameters, the iteration that they are of, and their score on validation."""

    iteration: int
    score: float
    params: Params


@dataclass
class TrainState:
    """Everything that training needs to go on as if it had never stopped.

    params          the meta-parameters after `iteration` updates
    best            those that scored best on validation, with their iteration and score
    moments         the outer optimiser's state per parameter; Adam's: exp_avg, exp_avg_sq, step
    generator_state of the generator that draws the training tasks, after `iteration` draws
    seconds         time spent on iterations, over all sessions
    rows            metrics of the iterations of this session
    leaders         where the learner asks for an ensemble, its members: the best on validation, the best first
    sessions        who computed it: a `results.session` for each time that it was gone on with, the first first
    """

    params: Params
    best: Params
    moments: dict[str, Params]
    generator_state: Tensor
    iteration: int = 0
    best_iteration: int = 0
    best_score: float = float("nan")
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    leaders: list[Ranked] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)


def check_training_split(config: Config, train: Split) -> None:
    """Raise UserError if the tasks of the training cannot be drawn from the split."""
    check_split(
        train,
        n_way=config.way_of_training,
        k_shot=config.k_shot,
        n_query=config.n_query,
        rotations=config.rotations,
        rotations_of=config.rotations_of,
        distortion=config.distortion,
        way_is="train_way" if config.train_way else "n_way",
    )


def draw_training_tasks(config: Config, train: Split, generator: torch.Generator, labels: str = "task") -> Episode:
    """The tasks of one meta-iteration."""
    return sample_episodes(
        train,
        n_way=config.way_of_training,
        k_shot=config.k_shot,
        n_query=config.n_query,
        n_tasks=config.n_tasks,
        generator=generator,
        rotations=config.rotations,
        rotations_of=config.rotations_of,
        distortion=config.distortion,
        labels=labels,
        dtype=config.torch_dtype,
    )


def fresh_state(learner: Learner, config: Config) -> TrainState:
    """The state before the first iteration: parameters and tasks follow from `config.seed`."""
    params = learner.init(torch.Generator().manual_seed(config.seed))
    # The tasks have a stream of their own, so that a model with more layers sees the same ones.
    tasks = torch.Generator().manual_seed(config.seed)
    return TrainState(params, params, {}, tasks.get_state())


def meta_train(
    learner: Learner,
    config: Config,
    train: Split,
    val: Split,
    *,
    state: TrainState | None = None,
    checkpoint: Callable[[TrainState], None] = lambda state: None,
    progress: bool = False,
) -> TrainState:
    """Train up to `config.iterations` meta-iterations and return the state, with the best parameters on validation.

    state       where to go on, changed in place; None to begin
    checkpoint  called every `config.checkpoint_every` iterations, at the end, on Ctrl-C and divergence, and where a
                gradient or another process of the run fails; not where a validation does

    Raises Diverged, after a checkpoint of the last good state, when a loss or gradient is not finite, and
    KeyboardInterrupt, after a checkpoint, when interrupted or asked to terminate. The iteration at hand is finished
    first; a second Ctrl-C does not wait.
    """
    check_training_split(config, train)
    check_split(val, n_way=config.n_way, k_shot=config.k_shot, n_query=config.n_query)
    learner.check_split(train)
    distributed.check_tasks(config.n_tasks)
    state = state or fresh_state(learner, config)
    outer = OuterStep(config.outer_optimizer, state.params, state.moments)
    state.params, state.moments = outer.params, outer.moments
    schedule = SCHEDULES[config.outer_schedule]
    gradient = recorded(learner.gradient, config, learner)
    generator = torch.Generator()
    generator.set_state(state.generator_state)
    bar = tqdm(
        total=config.iterations,
        initial=state.iteration,
        desc=f"{config.variant} on {train.name.split('/')[0]}",
        unit="it",
        disable=not (progress and distributed.first()),
        mininterval=BAR_SECONDS,
    )
    with bar, stop_requests() as stop:
        while state.iteration < config.iterations:
            start = time.perf_counter()
            episode = draw_training_tasks(config, train, generator, learner.labels)
            with _kept_on_error(checkpoint, state):
                here = gradient if learner.annealed is None else learner.gradient_at(state.iteration)
                grads, metrics = here(state.params, episode, generator)
            row = _row(state.iteration + 1, grads, metrics)
            if not all(math.isfinite(value) for value in row.values()):
                checkpoint(state)
                raise diverged(row, config)
            lr = config.outer_lr * schedule(state.iteration / config.iterations)
            outer(_clipped(grads, row["gradient_norm"], config.clip), lr)
            state.params, state.moments = outer.params, outer.moments
            state.iteration += 1
            state.generator_state = generator.get_state()
            state.seconds += time.perf_counter() - start
            last = state.iteration == config.iterations
            if last or state.iteration % config.eval_every == 0:
                row |= validate(learner, config, val, state)
            state.rows.append(row)
            bar.set_postfix(_postfix(state.rows), refresh=False)
            bar.update()
            with _kept_on_error(checkpoint, state):
                asked = distributed.agree(bool(stop))
            if last or asked or state.iteration % config.checkpoint_every == 0:
                checkpoint(state)
            if asked:
                raise KeyboardInterrupt
    return state


@contextmanager
def _kept_on_error(checkpoint: Callable[[TrainState], None], state: TrainState) -> Iterator[None]:
    """Put the state away where the block fails, in this process or in another one of the run."""
    try:
        yield
    except Exception:
        checkpoint(state)
        raise


def _row(iteration: int, grads: Params, metrics: dict[str, Tensor]) -> Row:
    figures = metrics | {"gradient_norm": norm(grads)}
    values = torch.stack([value.detach().double() for value in figures.values()]).tolist()  # one wait for the device
    return {"iteration": iteration, **dict(zip(figures, values, strict=True))}


def diverged(row: Row, config: Config) -> Diverged:
    """What to raise for an iteration whose metrics are not all finite."""
    bad = ", ".join(name for name, value in row.items() if not math.isfinite(value))
    return Diverged(
        f"Training diverged at iteration {int(row['iteration'])}: not finite: {bad}. The state before it is kept. "
        f"Lower inner_lr (now {config.inner_lr}) or outer_lr (now {config.outer_lr}), "
        f"or bound the gradient with clip (now {config.clip}; 10 is common)."
    )


def _clipped(grads: Params, length: float, bound: float) -> Params:
    return scaled(grads, bound / length) if 0 < bound < length else grads


def validate(learner: Learner, config: Config, val: Split, state: TrainState) -> Row:
    """The validation figures of the state, which keeps its parameters if they are the best so far."""
    result = evaluate(learner, state.params, val, config, n_tasks=config.val_tasks)
    if math.isnan(state.best_score) or result.better_than(state.best_score):
        state.best = {name: value.clone() for name, value in state.params.items()}
        state.best_iteration, state.best_score = state.iteration, result.mean
    if learner.ensemble > 1 and math.isfinite(result.mean):
        # Behind all that are as good or better: of equally good ones the first is kept, as with the best one.
        place = sum(not result.better_than(leader.score) for leader in state.leaders)
        kept = {name: value.clone() for name, value in state.params.items()}
        state.leaders.insert(place, Ranked(state.iteration, result.mean, kept))
        del state.leaders[learner.ensemble :]
    return {"val_score": result.mean, "val_interval": result.interval}


def _postfix(rows: list[Row], window: int = 20) -> dict[str, str]:
    """Loss and accuracy, averaged over the last iterations: those of a single batch jump."""
    recent = rows[-window:]
    shown = {"loss": "query_loss", "accuracy": "query_accuracy"}
    return {
        label: f"{sum(row[key] for row in recent) / len(recent):.3f}"
        for label, key in shown.items()
        if key in recent[0]
    }
