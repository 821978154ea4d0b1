"""The stationary points of polynomials of one variable, exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch

from ..checks import Allowed, check
from .stationary import DEGENERATE, MAXIMUM, MINIMUM, Points


def polynomial(coefficients: Sequence[Fraction]) -> Any:
    """sum_i coefficients[i] x^i as a sympy Poly over the rational numbers."""
    from sympy import QQ, Poly, Rational, Symbol  # torch brings it, and loads it late too

    terms = [Rational(c.numerator, c.denominator) for c in reversed(coefficients)]
    return Poly(terms or [0], Symbol("x"), domain=QQ)


def exact(coefficients: Sequence[Fraction], low: float = -math.inf, high: float = math.inf) -> Points:
    """The stationary points in [low, high] of the polynomial sum_i coefficients[i] x^i, float64 [n, 1].

    Real roots of the derivative are isolated with their multiplicities, and then found to the last bit,
    all in rational arithmetic. Between roots the derivative has one sign, and the signs on both sides say what a root
    is, also where the second derivative is zero: from - to + is a minimum, from + to - a maximum, no change degenerate.

    Raises UserError for a constant, of which every point is stationary.
    """
    derivative = polynomial(coefficients).diff()
    check("coefficients", list(coefficients), Allowed("of a polynomial that is not constant", lambda _: derivative))
    simple = derivative.quo(derivative.gcd(derivative.diff()))  # the same roots, each once
    terms, slope = _terms(simple), _terms(simple.diff())
    at: list[float] = []
    kinds: list[str] = []
    rising = bool(derivative.LC() > 0)  # to the right of all roots
    for (left, right), multiplicity in reversed(derivative.intervals()):
        turns = multiplicity % 2 == 1
        here = _root(terms, slope, _fraction(left), _fraction(right))
        if low <= here <= high:
            at.insert(0, here)
            kinds.insert(0, (MINIMUM if rising else MAXIMUM) if turns else DEGENERATE)
        rising ^= turns
    return Points(torch.tensor(at, dtype=torch.float64)[:, None], tuple(kinds), True)


def _root(terms: list[int], slope: list[int], left: Fraction, right: Fraction) -> float:
    """The root of a polynomial with simple roots in an open interval that has just one, rounded to the nearest float.

    The ends of the interval may be roots too; the sign beside one is that of the slope.
    """
    if left == right:
        return float(left)
    above_left = (_scaled_value(terms, left) or _scaled_value(slope, left)) > 0
    while math.nextafter(float(left), math.inf) < float(right):
        middle = (left + right) / 2
        value = _scaled_value(terms, middle)
        if value == 0:
            return float(middle)
        left, right = (middle, right) if (value > 0) == above_left else (left, middle)
    border = (Fraction(float(left)) + Fraction(float(right))) / 2
    return float(right) if (_scaled_value(terms, border) > 0) == above_left else float(left)


def _scaled_value(terms: list[int], x: Fraction) -> int:
    """The polynomial's value times a power of x's denominator: the sign is what counts, and integers are fast."""
    value, power = 0, 1
    for term in terms:
        value = value * x.numerator + term * power
        power *= x.denominator
    return value


def _terms(poly: Any) -> list[int]:
    """Of a positive multiple with whole coefficients, highest power first."""
    return [int(c) for c in poly.clear_denoms()[1].all_coeffs()]


def _fraction(rational: Any) -> Fraction:
    return Fraction(int(rational.p), int(rational.q))
