r"""Stochastic few-shot problems that satisfy Assumptions 1 and 2 with known constants, so that bounds are numbers.

The loss of one side (support or query) of one task, with orthogonal rows w_j of length 1/width and a shape phi,

    L(theta) = scale * sum_j phi(w_j . theta - c_j),    phi >= 0, |phi'| <= 1, |phi''| <= 1, |phi'''| <= third,

is Lipschitz with scale * sqrt(d) / width, its gradient with scale / width^2, its Hessian (operator norm) with
scale * third / width^3, and no smaller constants would do. A sample of it is L plus a wave of random phase along a
random axis, whose gradient has mean zero and variance sigma^2 at every theta. Shapes and waves are rows of the
episode's data, so that any learner of this package meets the noise where it does in practice: in its support and query
sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import ABOVE_ZERO, at_least, check, check_finite, one_of
from ..episode import Episode
from ..errors import invalid

PHASES = 5
"""Phases that a wave may have, evenly spaced. Five make mean, variance and covariances of two harmonics those of a
uniform phase, exactly, and every expectation a sum of five terms."""


class Shape(NamedTuple):
    """phi, phi', phi'', and the largest |phi'''|; the largest |phi'| and |phi''| are 1."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    curvature: Callable[[Tensor], Tensor]
    third: float


SHAPES = {
    "pseudo-huber": Shape(
        lambda u: torch.sqrt(1 + u**2) - 1,
        lambda u: u / torch.sqrt(1 + u**2),
        lambda u: (1 + u**2) ** -1.5,
        48 / (25 * math.sqrt(5)),  # at u = 1/2
    ),
    "log-cosh": Shape(
        lambda u: torch.logaddexp(u, -u) - math.log(2),
        torch.tanh,
        lambda u: 1 - torch.tanh(u) ** 2,
        4 / (3 * math.sqrt(3)),  # at tanh u = 1/sqrt(3)
    ),
    "cosine": Shape(lambda u: 1 - torch.cos(u), torch.sin, torch.cos, 1.0),
}


class Rows(NamedTuple):
    """One side of tasks as data: x [..., M, n, d]; y [..., M, n, 3], each row a shift c, a scale, a wave's amplitude.

    L(theta) = sum over rows of scale * phi(x . theta - c) + amplitude * cos(x . theta - c).
    """

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Noise:
    """A wave N(theta) with grad N = v n(frequency * v . theta + phase), along a random axis v, at a random phase.

    n(u) = sqrt(2) sigma (sin u + skew sin(2u + pi/12)) / sqrt(1 + skew^2) has mean zero and mean square sigma^2.
    Assumption 2 asks for no more: neither for a bound on the frequency nor, therefore, for Lipschitz samples.
    """

    sigma: float = 0.0
    frequency: float = 1.0
    skew: float = 0.0

    def __post_init__(self) -> None:
        check("sigma", self.sigma, at_least(0))
        check("frequency", self.frequency, ABOVE_ZERO)
        check("skew", self.skew, at_least(0))

    @property
    def harmonics(self) -> tuple[tuple[float, float, float], ...]:
        """(frequency, amplitude of the slope, offset) of each."""
        unit = math.sqrt(2 / (1 + self.skew**2)) * self.sigma
        waves = ((self.frequency, unit, 0.0), (2 * self.frequency, self.skew * unit, math.pi / 12))
        return waves[: 2 if self.skew else 1]

    def lipschitz(self, order: int) -> float:
        """A bound on derivative number `order` of n, by theta."""
        return sum(amplitude * frequency**order for frequency, amplitude, _ in self.harmonics)

    @property
    def hessian_sigma(self) -> float:
        """The standard deviation of the wave's Hessian."""
        return math.sqrt(sum((amplitude * frequency) ** 2 / 2 for frequency, amplitude, _ in self.harmonics))

    def rows(self, axis: Tensor, phase: Tensor, dim: int) -> Rows:
        """The wave along axis (whole numbers below dim) at phase (in radians), both [...], as rows [..., 1 or 2, dim].

        amplitude cos(x . theta - c) has the slope -amplitude sin(x . theta - c) along x.
        """
        direction = F.one_hot(axis, dim).to(phase.dtype)
        x = torch.stack([frequency * direction for frequency, *_ in self.harmonics], -2)
        y = [
            torch.stack(
                [
                    -(phase * frequency / self.frequency + offset),
                    torch.zeros_like(phase),
                    torch.full_like(phase, -amplitude / frequency),
                ],
                -1,
            )
            for frequency, amplitude, offset in self.harmonics
        ]
        return Rows(x, torch.stack(y, -2))


class Constants(NamedTuple):
    """Of Assumptions 1 and 2, and of the samples: l0 of the query losses, l1 of all gradients, l2 of support Hessians.

    sigma      bounds the standard deviations of support gradient, support Hessian and query gradient
    sample_l1  bounds the Lipschitz constants of all sample gradients; sample_l2 of the support samples' Hessians.
               The paper assumes neither.
    """

    l0: float
    l1: float
    l2: float
    sigma: float
    sample_l1: float
    sample_l2: float


@dataclass(frozen=True)
class Problem:
    """M distinct tasks, each with a support side and a query side, and the noise of their samples.

    All rows of a side have one scale and one length. F >= 0 at every inner_lr: 0 may stand in for the infimum of F.
    """

    shape: str
    support: Rows  # x [M, d, d], y [M, d, 3]
    query: Rows
    support_noise: Noise = Noise()
    query_noise: Noise = Noise()

    def __post_init__(self) -> None:
        check("shape", self.shape, one_of(*SHAPES))

    @property
    def n_tasks(self) -> int:
        return self.support.x.shape[0]

    @property
    def dim(self) -> int:
        return self.support.x.shape[-1]

    @property
    def constants(self) -> Constants:
        third = SHAPES[self.shape].third
        support, query = self.support, self.query
        noises = (self.support_noise, self.query_noise)
        gradients = [_largest(side, 2) for side in (support, query)]
        hessian = third * _largest(support, 3)
        return Constants(
            l0=_largest(query, 1) * math.sqrt(self.dim),
            l1=max(gradients),
            l2=hessian,
            sigma=max(self.support_noise.hessian_sigma, *(noise.sigma for noise in noises)),
            sample_l1=max(own + noise.lipschitz(1) for own, noise in zip(gradients, noises, strict=True)),
            sample_l2=hessian + self.support_noise.lipschitz(2),
        )

    def smoothness(self, inner_lr: float) -> float:
        """L_F = inner_lr l0 l2 + (1 + inner_lr l1)^2 l1, a Lipschitz constant of grad F.

        From |(I - b H) q - (I - b H') q'| <= b |H - H'| |q| + |I - b H'| |q - q'|, where q = grad L(theta'; D') is
        Lipschitz with l1 (1 + b l1). (The paper refers to a lemma of ALSET's.)
        """
        l0, l1, l2, *_ = self.constants
        return inner_lr * l0 * l2 + (1 + inner_lr * l1) ** 2 * l1

    def model(self) -> nn.Module:
        """A module: theta in R^d, outputs x . theta [n]."""
        return _Linear(self.dim)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """L(theta) of a task from the outputs [n] and the rows' y [n, 3], a scalar."""
        u = outputs - targets[..., 0]
        return (targets[..., 1] * SHAPES[self.shape].value(u) + targets[..., 2] * torch.cos(u)).sum(-1)

    def value(self, rows: Rows, theta: Tensor) -> Tensor:
        """L(theta) [..., M] in closed form; theta [..., M or 1, d]."""
        return self.loss((rows.x @ theta[..., None])[..., 0], rows.y)

    def gradient(self, rows: Rows, theta: Tensor) -> Tensor:
        """The gradient of L at theta [..., M, d]."""
        u = (rows.x @ theta[..., None])[..., 0] - rows.y[..., 0]
        slopes = rows.y[..., 1] * SHAPES[self.shape].slope(u) - rows.y[..., 2] * torch.sin(u)
        return (slopes[..., None, :] @ rows.x)[..., 0, :]

    def hessian(self, rows: Rows, theta: Tensor) -> Tensor:
        """The Hessian of L at theta [..., M, d, d]."""
        u = (rows.x @ theta[..., None])[..., 0] - rows.y[..., 0]
        curvatures = rows.y[..., 1] * SHAPES[self.shape].curvature(u) - rows.y[..., 2] * torch.cos(u)
        return rows.x.mT @ (curvatures[..., None] * rows.x)

    def objective(self, theta: Tensor, inner_lr: float) -> Tensor:
        """F(theta) = 1/M sum_m L(theta - inner_lr grad L(theta; D_m); D'_m) (Eq. 2, 28); theta [..., d] -> [...]."""
        theta = theta[..., None, :]
        return self.value(self.query, theta - inner_lr * self.gradient(self.support, theta)).mean(-1)

    def objective_gradient(self, theta: Tensor, inner_lr: float) -> Tensor:
        """The gradient of F at theta [..., d], by Eq. 30."""
        theta = theta[..., None, :]
        steep = self.gradient(self.query, theta - inner_lr * self.gradient(self.support, theta))
        curved = (self.hessian(self.support, theta) @ steep[..., None])[..., 0]
        return (steep - inner_lr * curved).mean(-2)

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Episode:
        """Independent samples of both sides of all tasks: an Episode with leaves [*shape, M, n, ...]."""
        sides: list[Tensor] = []
        for side, noise in ((self.support, self.support_noise), (self.query, self.query_noise)):
            axis = torch.randint(self.dim, (*shape, self.n_tasks), generator=generator)
            phase = torch.randint(PHASES, (*shape, self.n_tasks), generator=generator)
            sides += _with_noise(side, noise, axis, phase)
        return Episode(*sides)

    def every_sample(self) -> Episode:
        """All (d * PHASES)^2 samples of a task, equally likely, all tasks in step: leaves [(d * PHASES)^2, M, n, ...].

        The mean over them is the expectation of whatever is a mean over tasks, and with one task of anything.
        """
        one_side = torch.cartesian_prod(torch.arange(self.dim), torch.arange(PHASES))
        index = torch.cartesian_prod(*[torch.arange(len(one_side))] * 2)
        sides: list[Tensor] = []
        for side, noise, chosen in zip(
            (self.support, self.query), (self.support_noise, self.query_noise), index.unbind(1), strict=True
        ):
            axis, phase = one_side[chosen].T[..., None].expand(2, len(index), self.n_tasks)
            sides += _with_noise(side, noise, axis, phase)
        return Episode(*sides)


def random_problem(
    generator: torch.Generator,
    *,
    shape: str = "pseudo-huber",
    n_tasks: int = 2,
    dim: int = 2,
    support_scale: float = 1.0,
    query_scale: float = 1.0,
    width: float = 1.0,
    spread: float = 1.0,
    support_noise: Noise = Noise(),
    query_noise: Noise = Noise(),
) -> Problem:
    """Tasks with rows in random directions and Gaussian shifts of standard deviation `spread`, all float64.

    Raises UserError for an unknown shape, n_tasks or dim below 1, scales or width not above 0, or a negative spread.
    """
    check("shape", shape, one_of(*SHAPES))
    for name, count in (("n_tasks", n_tasks), ("dim", dim)):
        check(name, count, at_least(1))
    for name, scale in (("support_scale", support_scale), ("query_scale", query_scale), ("width", width)):
        check(name, scale, ABOVE_ZERO)
    check("spread", spread, at_least(0))
    sides = []
    for scale in (support_scale, query_scale):
        normal = torch.randn(n_tasks, dim, dim + 1, generator=generator, dtype=torch.float64)
        x = torch.linalg.qr(normal[..., :dim]).Q / width
        shift = spread * normal[..., dim]
        sides.append(Rows(x, torch.stack([shift, torch.full_like(shift, scale), torch.zeros_like(shift)], -1)))
    support, query = sides
    return Problem(shape, support, query, support_noise, query_noise)


def check_points(name: str, theta: Tensor, problem: Problem, *leading: str) -> None:
    """Raise UserError unless theta is float64, finite, and [*leading, d]; `leading` names other dimensions."""
    if theta.ndim != len(leading) + 1 or theta.shape[-1] != problem.dim or theta.dtype != torch.float64:
        wanted = ", ".join([*leading, str(problem.dim)])
        raise invalid(name, (tuple(theta.shape), theta.dtype), f"[{wanted}] in float64")
    check_finite(name, theta)


class _Linear(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(dim, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.theta


def _largest(side: Rows, order: int) -> float:
    """The largest scale * length^order of the rows."""
    return float((side.y[..., 1] * side.x.norm(dim=-1) ** order).max())


def _with_noise(side: Rows, noise: Noise, axis: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
    """The side's rows and its wave's, for axis and phase [..., M]."""
    radians = phase.to(side.x) * (2 * math.pi / PHASES)
    wave = noise.rows(axis, radians, side.x.shape[-1])
    own = (value.expand(*axis.shape[:-1], *value.shape) for value in side)
    x, y = (torch.cat(pair, -2) for pair in zip(own, wave, strict=True))
    return x, y
