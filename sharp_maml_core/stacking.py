"""The training of a stack: `meta_train` for runs that differ in seed and radii only, their parameters in one tensor.

Element by element the outer step on stacked parameters is that of each run; only the meta-gradient, which `vmap` maps
over the runs, differs from a separate run's, and by rounding alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from tqdm import tqdm

from .config import Config
from .data.split import Split
from .episode import Episode
from .errors import Diverged
from .evaluate import BAR_SECONDS
from .interrupts import stop_requests
from .learners import Learner
from .meta import Metrics
from .outer import SCHEDULES, OuterStep
from .params import Params, norm
from .recorded import recorded
from .train import Row, TrainState, diverged, draw_training_tasks, validate

STEP = "step"  # Adam's count of its steps, as OuterStep keeps it


@dataclass
class Run:
    """One run of a stack. `keep` puts its state away; `failure` says how it ended, if it did not end well."""

    config: Config
    learner: Learner
    state: TrainState
    keep: Callable[[TrainState], None] = lambda state: None
    failure: Diverged | None = None


def train_stack(
    runs: Sequence[Run],
    train: Split,
    val: Split,
    build: Callable[[Config], Learner],
    *,
    at_once: int = 0,
    progress: bool = False,
) -> None:
    """Train every run to its last iteration, as `meta_train` does with one; their states are changed in place.

    build  the learner of settings whose radii are tensors (`Config.with_radii`)

    A run that diverges is left with its last good state and its `failure`. Raises KeyboardInterrupt, after checkpoints
    of all, when interrupted.
    """
    done = sum(run.state.iteration for run in runs)
    bar = tqdm(
        total=sum(run.config.iterations for run in runs),
        initial=done,
        desc=f"{len(runs)} runs",
        unit="it",
        disable=not progress,
        mininterval=BAR_SECONDS,
    )
    with bar, stop_requests() as stop:
        while waiting := [run for run in runs if run.failure is None and run.state.iteration < run.config.iterations]:
            levels = sorted({run.state.iteration for run in waiting})
            group = [run for run in waiting if run.state.iteration == levels[0]]
            until = levels[1] if len(levels) > 1 else group[0].config.iterations
            stack = Stack(group, build, at_once)
            while group[0].state.iteration < until and all(run.failure is None for run in group):
                stack.iterate(train, val)
                bar.update(sum(run.state.iteration for run in runs) - bar.n)
                config, iteration = group[0].config, group[0].state.iteration
                asked = bool(stop)
                if asked or iteration == until or iteration % config.checkpoint_every == 0:
                    stack.keep()
                if asked:
                    raise KeyboardInterrupt


class Stack:
    """Runs that have done equally many iterations, as one; for the arguments see `train_stack`."""

    def __init__(self, runs: Sequence[Run], build: Callable[[Config], Learner], at_once: int = 0) -> None:
        self._runs, self._config = runs, runs[0].config
        states = [run.state for run in runs]
        params = _stacked([state.params for state in states])
        moments = {name: _stacked([state.moments.get(name, {}) for state in states]) for name in params}
        self._outer = OuterStep(self._config.outer_optimizer, params, moments)
        self._drawn = [state.generator_state for state in states]  # after the last iteration that counts
        self._radii = _varying_radii([run.config for run in runs])

        config = self._config  # not self: a cycle would leave what is recorded to the garbage collector

        def gradient(params: Params, episode: Episode, radii: dict[str, Tensor]) -> tuple[Params, Metrics]:
            return build(config.with_radii(radii)).gradient(params, episode)

        mapped = torch.func.vmap(gradient, chunk_size=at_once or None, randomness="same")
        self._gradient = recorded(mapped, config, runs[0].learner)

    def iterate(self, train: Split, val: Split) -> None:
        """One iteration of every run; of none where one of them diverges, which is then marked as failed."""
        start, config, done = time.perf_counter(), self._config, self._runs[0].state.iteration
        try:
            episode, drawn = self._draw(train)
            grads, metrics = self._gradient(self._outer.params, episode, self._radii)
            rows = self._rows(done + 1, grads, metrics)
        except Exception:
            self.keep()
            raise
        if not all(math.isfinite(value) for row in rows for value in row.values()):
            self._part(rows)
            return
        lr = config.outer_lr * SCHEDULES[config.outer_schedule](done / config.iterations)
        self._outer(_clipped(grads, [row["gradient_norm"] for row in rows], config.clip), lr)
        self._drawn = drawn
        share = (time.perf_counter() - start) / len(rows)
        for run in self._runs:
            run.state.iteration += 1
            run.state.seconds += share
        if done + 1 == config.iterations or (done + 1) % config.eval_every == 0:
            self._put_back()
            for run, row in zip(self._runs, rows, strict=True):
                row |= validate(run.learner, run.config, val, run.state)
        for run, row in zip(self._runs, rows, strict=True):
            run.state.rows.append(row)

    def keep(self) -> None:
        """Put all states away."""
        self._put_back()
        for run in self._runs:
            run.keep(run.state)

    def _draw(self, train: Split) -> tuple[Episode, list[Tensor]]:
        """The next tasks of every run [R, T, ...], and the states of their generators after them."""
        episodes, drawn = [], []
        for run, before in zip(self._runs, self._drawn, strict=True):
            generator = torch.Generator()
            generator.set_state(before)
            episodes.append(draw_training_tasks(run.config, train, generator))
            drawn.append(generator.get_state())
        return pytree.tree_map(lambda *leaves: torch.stack(leaves), *episodes), drawn

    def _rows(self, iteration: int, grads: Params, metrics: Metrics) -> list[Row]:
        figures = metrics | {"gradient_norm": torch.func.vmap(norm)(grads)}
        table = torch.stack([value.detach().double() for value in figures.values()], 1).tolist()  # one wait
        rows = [{"iteration": iteration, **dict(zip(figures, values, strict=True))} for values in table]
        for run, row in zip(self._runs, rows, strict=True):
            if run.config.alpha_up == 0:  # alone, this run has no second pass to report
                row.pop("perturbed_loss", None)
        return rows

    def _part(self, rows: list[Row]) -> None:
        """Mark the runs that diverged, with the state before."""
        self._put_back()
        for run, row in zip(self._runs, rows, strict=True):
            if not all(math.isfinite(value) for value in row.values()):
                run.keep(run.state)
                run.failure = diverged(row, run.config)

    def _put_back(self) -> None:
        """Give each run its part of what is stacked."""
        params, moments = self._outer.params, self._outer.moments
        for i, run in enumerate(self._runs):
            run.state.params = {name: value[i] for name, value in params.items()}
            run.state.moments = {
                name: {key: value if key == STEP else value[i] for key, value in state.items()}
                for name, state in moments.items()
            }
            run.state.generator_state = self._drawn[i]


def _stacked(params: Sequence[Params]) -> Params:
    """[R, ...] of R dicts; Adam's step count is one number for all."""
    return {
        name: value if name == STEP else torch.stack([other[name] for other in params])
        for name, value in params[0].items()
    }


def _varying_radii(configs: Sequence[Config]) -> dict[str, Tensor]:
    """The radii [R] that differ between runs. One that all share stays a number, and off where it is 0."""
    values = {name: [getattr(config, name) for config in configs] for name in ("alpha_low", "alpha_up")}
    dtype, device = configs[0].torch_dtype, configs[0].torch_device
    return {
        name: torch.tensor(radii, dtype=dtype, device=device) for name, radii in values.items() if len(set(radii)) > 1
    }


def _clipped(grads: Params, lengths: Sequence[float], bound: float) -> Params:
    """The gradients [R, ...], those longer than the bound scaled down to it; 0: no bound."""
    factors = [bound / length if 0 < bound < length else 1.0 for length in lengths]
    if all(factor == 1.0 for factor in factors):
        return grads
    return {
        name: value * value.new_tensor(factors).reshape(-1, *[1] * (value.dim() - 1)) for name, value in grads.items()
    }
