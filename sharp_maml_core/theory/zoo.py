"""Losses on which Lemma 1 is tried: of one, two and a few more variables, with what is known about each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from .polynomials import exact
from .stationary import Box, Points, descend, search


@dataclass(frozen=True)
class Function:
    """A loss, [d] float64 to a scalar, and the box in which its stationary points are looked for.

    The box is convex and has all stationary points of the loss in it, or it is one period of the loss up to a linear
    term and `l1` holds everywhere: below inner_lr * l1 = 1 nothing can be new in the box (`lemma1`).

    l1            the largest modulus of an eigenvalue of the Hessian on the box; that eigenvalue is positive
    coefficients  of a polynomial of one variable, sum_i coefficients[i] x^i; else ()
    """

    name: str
    formula: str
    loss: Callable[[Tensor], Tensor]
    box: Box
    l1: float
    coefficients: tuple[Fraction, ...] = ()

    @property
    def dimension(self) -> int:
        return len(self.box)

    def stationary_points(self) -> Points:
        """Of the loss itself, in the box: exact for a polynomial."""
        if self.coefficients:
            return exact(self.coefficients, *self.box[0])
        return search(self.loss, self.box)


def _polynomial(name: str, formula: str, coefficients: tuple[Fraction | int, ...], half: int, l1: float) -> Function:
    """On [-half, half]."""
    exactly = tuple(Fraction(c) for c in coefficients)
    floats = tuple(float(c) for c in exactly)

    def loss(theta: Tensor) -> Tensor:
        value = torch.zeros_like(theta)
        for c in reversed(floats):
            value = value * theta + c
        return value.sum()

    return Function(name, formula, loss, ((-half, half),), l1, exactly)


def _ripples(name: str, formula: str, tilt: tuple[float, ...], waves: list[tuple[float, ...]], box: Box) -> Function:
    """The loss tilt . theta - sum_k cos(w_k . theta).

    The Hessian is sum_k cos(w_k . theta) w_k w_k^T, so no eigenvalue exceeds in modulus the largest one at theta = 0,
    where all cosines are 1. The tilt keeps the stationary points off that place.
    """
    slope = torch.tensor(tilt, dtype=torch.float64)
    w = torch.tensor(waves, dtype=torch.float64)  # [k, d]

    def loss(theta: Tensor) -> Tensor:
        return slope @ theta - torch.cos(w @ theta).sum()

    return Function(name, formula, loss, box, float(torch.linalg.eigvalsh(w.T @ w)[-1]))


def _himmelblau(theta: Tensor) -> Tensor:
    x, y = theta[0], theta[1]
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def _rosenbrock(theta: Tensor) -> Tensor:
    x, y = theta[0], theta[1]
    return (1 - x) ** 2 + 5 * (y - x**2) ** 2


def _largest(xx: float, xy: float, yy: float) -> float:
    """The larger eigenvalue of a symmetric 2x2 matrix."""
    return (xx + yy) / 2 + math.hypot((xx - yy) / 2, xy)


# For Himmelblau and Rosenbrock u^T H u is convex in (x, y) for every u, so the largest eigenvalue is too, and it is
# assumed at a corner of the box. No eigenvalue is as far below zero (Gershgorin: above -83 and -60).
FUNCTIONS = {
    f.name: f
    for f in (
        _polynomial("parabola", "x^2 / 2", (0, 0, Fraction(1, 2)), 2, 1),
        _polynomial("cubic", "x^3", (0, 0, 0, 1), 1, 6),
        _polynomial("quartic", "x^4", (0, 0, 0, 0, 1), 1, 12),
        _polynomial("double-well", "(x^2 - 1)^2 / 4", (Fraction(1, 4), 0, Fraction(-1, 2), 0, Fraction(1, 4)), 2, 11),
        _ripples("washboard", "x/4 - cos x - cos 3x", (0.25,), [(1.0,), (3.0,)], ((-math.pi, math.pi),)),
        Function(
            "himmelblau",
            "(x^2 + y - 11)^2 + (x + y^2 - 7)^2",
            _himmelblau,
            ((-5.0, 5.0), (-5.0, 5.0)),
            _largest(12 * 25 + 4 * 5 - 42, 4 * (5 + 5), 12 * 25 + 4 * 5 - 26),  # at (5, 5)
        ),
        Function(
            "rosenbrock",
            "(1 - x)^2 + 5 (y - x^2)^2",
            _rosenbrock,
            ((-2.0, 2.0), (-1.0, 3.0)),
            _largest(2 - 20 * -1 + 60 * 4, 20 * 2, 10),  # at (2, -1) and (-2, -1)
        ),
        _ripples(
            "ripples",
            "x/5 + y/10 - cos x - cos y - cos(x + 2y)",
            (0.2, 0.1),
            [(1.0, 0.0), (0.0, 1.0), (1.0, 2.0)],
            ((-math.pi, math.pi), (-math.pi, math.pi)),
        ),
    )
}


def names(dimension: int) -> tuple[str, ...]:
    """Of the functions of so many variables."""
    return tuple(name for name, function in FUNCTIONS.items() if function.dimension == dimension)


@dataclass(frozen=True)
class Network:
    """A small network's loss, a function of its parameters [d] float64, and a stationary point that training found."""

    loss: Callable[[Tensor], Tensor]
    theta: Tensor


def network(seed: int = 0) -> Network:
    """A tanh network 1-3-1 on 16 noisy points of a sine, mean squared error, trained to a gradient norm of 1e-12.

    seed  of the parameters that training starts from; the points are always the same

    Raises UserError where training does not come to a stationary point.
    """
    x = torch.linspace(-2, 2, 16, dtype=torch.float64)
    noise = torch.randn(16, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    y = torch.sin(2 * x) + 0.3 * noise

    def loss(theta: Tensor) -> Tensor:
        weights, biases, heights = theta[:-1].view(3, 3)
        hidden = torch.tanh(x[:, None] * weights + biases)  # [16, 3]
        return ((hidden @ heights + theta[-1] - y) ** 2).mean()

    start = torch.randn(10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Network(loss, descend(loss, start, small=1e-12))
