r"""Theorem 1 measured: 1/T sum_t ||grad F(theta_t)||^2 over T, with Sharp-MAML's gradients from the package's learners.

F depends on inner_lr, and with the theorem's step sizes so on T: each horizon is a run of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx  # torch.compile's own recorder; there is no public name for it
from tqdm import tqdm

from ..checks import at_least, check
from ..config import Config
from ..episode import Episode
from ..errors import invalid
from ..evaluate import Z95
from ..learners import build_learner
from .biased_maml import Update, query_of
from .convergence_bounds import Steps, checked, theorem_steps
from .problems import Problem, check_points

RECORD_AFTER = 70


class Slope(NamedTuple):
    """An exponent: the least-squares slope of a log-log plot, and half the width of its 95% interval."""

    value: float
    interval: float


class Rate(NamedTuple):
    """Averages of ||grad F||^2 over t < T: horizons T, and for each independent repetitions [len(horizons), R]."""

    horizons: tuple[int, ...]
    averages: Tensor

    @property
    def mean(self) -> Tensor:
        return self.averages.mean(1)

    @property
    def interval(self) -> Tensor:
        """Half the width of the 95% interval of the mean, from the spread over repetitions."""
        return Z95 * self.averages.std(1, correction=1) / math.sqrt(self.averages.shape[1])

    @property
    def slope(self) -> Slope:
        """The exponent of the mean in T.

        A linear function of the logarithms of independent means; each has the standard error of its mean, relative.
        """
        weights = _slope_weights(self.horizons)
        error = self.interval / self.mean
        return Slope(float(weights @ self.mean.log()), float((weights * error).norm()))


def learner_update(problem: Problem, variant: str, steps: Steps, *, perturbation_gradient: str = "stop") -> Update:
    """The gradient of the package's own learner, for all repetitions at once, each on a fresh episode of M tasks.

    One inner step, as the theorem has it. Raises UserError as `Config` does.
    """
    config = Config(
        variant=variant,
        inner_lr=checked(steps).inner_lr,
        inner_steps=1,
        alpha_low=steps.alpha_low,
        alpha_up=steps.alpha_up,
        perturbation_gradient=perturbation_gradient,
        dtype="float64",
        device="cpu",
        task_map="vmap",
    )
    learner = build_learner(config, problem.model(), problem.loss)

    def one(theta: Tensor, *task: Tensor) -> Tensor:
        return learner.gradient({"theta": theta}, Episode(*task))[0]["theta"]

    gradient = _recorded(torch.func.vmap(one))
    return lambda theta, generator: gradient(theta, *problem.sample(theta.shape[:-1], generator))


def erm_update(problem: Problem) -> Update:
    """Stochastic gradients of 1/M sum_m L(theta; D'_m) (Eq. 5 on D'): no adaptation at all."""

    def update(theta: Tensor, generator: torch.Generator) -> Tensor:
        episode = problem.sample(theta.shape[:-1], generator)
        return problem.gradient(query_of(episode), theta[..., None, :]).mean(-2)

    return update


def descend(
    problem: Problem,
    update: Update,
    start: Tensor,
    steps: Steps,
    horizon: int,
    generator: torch.Generator,
    optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
) -> Tensor:
    """||grad F(theta_t)||^2 for t = 0, ..., T - 1 of theta <- theta - outer_lr h: [T, R] from start [R, d].

    optimizer  SGD, or one that works on each coordinate apart, as Adam does: repetitions then stay independent

    Raises UserError for a horizon below 1, a start that is not [R, d] or not finite, and steps out of range.
    """
    check("horizon", horizon, at_least(1))
    check_points("start", start, problem, "repetitions")
    theta = start.clone()
    outer = optimizer([theta], lr=checked(steps).outer_lr)  # type: ignore[call-arg]
    squares = []
    with torch.no_grad():
        for _ in range(horizon):
            squares.append(problem.objective_gradient(theta, steps.inner_lr).square().sum(-1))
            theta.grad = update(theta, generator)
            outer.step()
    return torch.stack(squares)


def rate(
    problem: Problem,
    update_for: Callable[[Problem, Steps], Update],
    start: Tensor,
    horizons: Sequence[int],
    at_one: Steps,
    *,
    seed: int,
    optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
    progress: str = "",
) -> Rate:
    """Run every horizon with the theorem's steps for it.

    update_for  problem, steps -> the update to descend
    at_one      the steps at T = 1; see `theorem_steps`
    progress    what to call a progress bar; empty for none

    Raises UserError for fewer than two horizons or repetitions, and as `descend` and `theorem_steps`.
    """
    check_points("start", start, problem, "repetitions")
    check("repetitions", len(start), at_least(2))
    if len(set(horizons)) < 2:
        raise invalid("horizons", tuple(horizons), "at least two different ones")
    averages = []
    for index, horizon in enumerate(tqdm(horizons, desc=progress, unit="run", disable=not progress, leave=False)):
        steps = theorem_steps(horizon, at_one)
        generator = torch.Generator().manual_seed(seed + index)
        squares = descend(problem, update_for(problem, steps), start, steps, horizon, generator, optimizer)
        averages.append(squares.mean(0))
    return Rate(tuple(horizons), torch.stack(averages))


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The least-squares slope of log y over log x, for figures without noise."""
    return float(_slope_weights(x) @ torch.tensor(y, dtype=torch.float64).log())


def _slope_weights(x: Sequence[float]) -> Tensor:
    logarithms = torch.tensor(x, dtype=torch.float64).log()
    centred = logarithms - logarithms.mean()
    return centred / centred.square().sum()


def _recorded(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, from its call number RECORD_AFTER on as a list of tensor operations; shapes may not change then.

    Nested function transforms cost far more than arithmetic on a few numbers. Recorded, an update took a third to a
    half of the time, with bit-identical results; to record it takes as long as some dozens of calls.
    """
    calls, current = 0, function

    def call(*arguments: Tensor) -> Tensor:
        nonlocal calls, current
        calls += 1
        if calls == RECORD_AFTER:
            graph = make_fx(function)(*(torch.ones_like(value) for value in arguments))
            graph.graph.eliminate_dead_code()
            graph.recompile()
            current = graph
        return current(*arguments)

    return call
