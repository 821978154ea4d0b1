r"""What is left of ||grad F||^2 with fixed steps, and where F goes as inner_lr goes to zero.

With outer_lr -> 0 the iterates follow the mean update E h(theta), and stop where it is zero: at a point where grad F is
the update's bias. That floor is exact here, every sample being enumerated. (35) allows inner_lr^2 times a constant,
alpha_low^2, alpha_up^2 and sigma^2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from scipy.optimize import root
from torch import Tensor

from ..checks import Allowed, at_least, check
from ..errors import UserError
from .biased_maml import same, sharp_gradient
from .convergence_bounds import Steps, checked, one_batch_bias
from .problems import Problem, check_points

ONE_TASK = Allowed("1: with more, the perturbation depends on the samples of all tasks together", lambda n: n == 1)


class Floors(NamedTuple):
    """Floors over a setting: its values, ||grad F||^2 where E h = 0, and the square of `one_batch_bias`, a bound."""

    settings: tuple[float, ...]
    squares: tuple[float, ...]
    bounds: tuple[float, ...]


def mean_update(problem: Problem, theta: Tensor, steps: Steps) -> Tensor:
    """E h(theta) [d] of Algorithm 1, one batch for everything, by enumeration; theta [d].

    Raises UserError for several tasks with an upper perturbation.
    """
    if steps.alpha_up > 0:
        check("n_tasks", problem.n_tasks, ONE_TASK)
    return sharp_gradient(problem, theta, steps, same(problem.every_sample())).mean(0)


def floor(problem: Problem, steps: Steps, start: Tensor) -> float:
    """||grad F||^2 at the zero of the mean update that is found from start [d]: the floor for outer_lr -> 0.

    Raises UserError as `mean_update` and `checked` do, for a start that is not [d] or not finite, and where no zero is
    found.
    """
    checked(steps)
    check_points("start", start, problem)
    theta = _zero(lambda point: mean_update(problem, point, steps), start)
    return float(problem.objective_gradient(theta, steps.inner_lr).square().sum())


def floors(
    problem_and_steps: Callable[[float], tuple[Problem, Steps]], settings: Sequence[float], start: Tensor
) -> Floors:
    """The floor, and its bound, for each value of a setting. Raises UserError as `floor` does."""
    cases = [problem_and_steps(setting) for setting in settings]
    squares = tuple(floor(problem, steps, start) for problem, steps in cases)
    bounds = tuple(one_batch_bias(problem.constants, steps) ** 2 for problem, steps in cases)
    return Floors(tuple(settings), squares, bounds)


def stationary_point(problem: Problem, inner_lr: float, start: Tensor) -> Tensor:
    """The stationary point of F [d] that is found from start [d]; inner_lr = 0 gives that of ERM on D' (Eq. 5).

    Raises UserError for an inner_lr below 0, a start that is not [d] or not finite, and where none is found.
    """
    check("inner_lr", inner_lr, at_least(0))
    check_points("start", start, problem)
    return _zero(lambda point: problem.objective_gradient(point, inner_lr), start)


def _zero(function: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    found = root(lambda point: function(torch.from_numpy(point)).numpy(), start.numpy(), tol=1e-14)
    theta = torch.from_numpy(found.x)
    left = float(function(theta).norm())
    if not left < 1e-12:
        raise UserError(f"No zero was found from start={start.tolist()}: the norm is still {left:.1e}.")
    return theta
