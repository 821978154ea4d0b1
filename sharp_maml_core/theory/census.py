"""How many stationary points MAML's loss has that the loss itself has not, by inner_lr (below Lemma 1, Section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap
from tqdm import tqdm

from ..checks import ABOVE_ZERO, Allowed, at_least, check, check_finite
from ..evaluate import BAR_SECONDS
from .lemma1 import composed
from .polynomials import exact, polynomial
from .stationary import DEGENERATE, KINDS, MINIMUM, Points, search
from .zoo import Function

_SAME = 1e-6  # share of the box within which a point of F is one of L


class Census(NamedTuple):
    """The stationary points of F(theta) = L(theta') in a box, compared with L's.

    points  all of them
    extra   of each, whether L does not have it
    lost    how many stationary points of L are none of F: 0, by Lemma 1 a)
    unmade  how many minimisers of L are none of F: 0, by b); where a Hessian that was searched for cannot tell, none
    """

    inner_lr: float
    points: Points
    extra: tuple[bool, ...]
    lost: int
    unmade: int

    @property
    def n_extra(self) -> int:
        return sum(self.extra)


class Plane(NamedTuple):
    """Values of a function of two variables: x [n], y [n], values [n, n], a row for each y."""

    x: Tensor
    y: Tensor
    values: Tensor


def composed_coefficients(coefficients: Sequence[Fraction], inner_lr: Fraction) -> tuple[Fraction, ...]:
    """F of a polynomial L, which is a polynomial too, exactly: sum_i coefficients[i] x^i."""
    loss = polynomial(coefficients)
    adapted = polynomial((Fraction(0), Fraction(1))) - loss.diff() * inner_lr
    return tuple(Fraction(int(c.p), int(c.q)) for c in reversed(loss.compose(adapted).all_coeffs()))


def census(function: Function, inner_lr: float | Fraction, own: Points | None = None) -> Census:
    """All stationary points of F in the function's box. A float is taken as it is written: 0.1 is 1/10.

    own  L's stationary points, if they are known already

    Raises UserError for an inner_lr that is not above 0.
    """
    check("inner_lr", inner_lr, ABOVE_ZERO)
    own = own or function.stationary_points()
    if function.coefficients:
        still = {MINIMUM}
        rate = Fraction(str(inner_lr))
        points = exact(composed_coefficients(function.coefficients, rate), *function.box[0])
    else:
        still = {MINIMUM, DEGENERATE}
        points = search(composed(function.loss, float(inner_lr)), function.box)
    kept: dict[int, str] = {}  # index in points -> what it is for L
    near = _SAME * max(high - low for low, high in function.box)
    for at, kind in zip(own.at, own.kinds, strict=True):
        away = (points.at - at).norm(dim=1)
        if len(away) and float(away.min()) <= near:
            kept[int(away.argmin())] = kind
    extra = tuple(i not in kept for i in range(len(points.kinds)))
    unmade = sum(kind == MINIMUM and points.kinds[i] not in still for i, kind in kept.items())
    return Census(float(inner_lr), points, extra, len(own.kinds) - len(kept), unmade)


def sweep(function: Function, relative_rates: Sequence[float], progress: bool = False) -> list[Census]:
    """The census at each inner_lr = rate / l1, so that the threshold is at rate 1.

    Raises UserError for a rate that is not above 0.
    """
    own = function.stationary_points()
    bar = tqdm(
        relative_rates, desc=function.name, unit="inner_lr", disable=not progress, leave=False, mininterval=BAR_SECONDS
    )
    return [census(function, rate / function.l1, own) for rate in bar]


def plane(function: Function, inner_lr: float, points: int = 81) -> Plane:
    """F on a grid over the function's box. Raises UserError for a function of one variable, or inner_lr not above 0."""
    check("function", function.name, Allowed("one of two variables", lambda _: function.dimension == 2))
    check("points", points, at_least(2))
    x, y = (torch.linspace(low, high, points, dtype=torch.float64) for low, high in function.box)
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    return Plane(x, y, vmap(vmap(composed(function.loss, inner_lr)))(grid))


def slider(function: Function, inner_lrs: Sequence[float], points: int = 161) -> dict[str, Any]:
    """What a slider over inner_lr shows of a function of one variable: numbers, text and lists, for JSON.

    x, loss      where, and the values of L
    inner_lr     the positions of the slider
    composed     the values of F at x, one list a position
    stationary   one list a position of [x, F(x), index into kinds, 1 if L does not have it]
    also         function, formula, l1, threshold (1 / l1), kinds, and `own`, L's stationary points in the same form

    Numbers have 5 significant digits: 60 positions and 161 points are about 100 KB.

    Raises UserError for a function of more variables, no position, fewer than 2 points, or a rate that is not above 0
    or so large that F overflows.
    """
    check("function", function.name, Allowed("one of one variable", lambda _: function.dimension == 1))
    check("points", points, at_least(2))
    check("inner_lrs", len(inner_lrs), Allowed("a list of one position or more", lambda n: n > 0))
    x = torch.linspace(*function.box[0], points, dtype=torch.float64)[:, None]
    own = function.stationary_points()
    own_value = vmap(function.loss)
    values = [vmap(composed(function.loss, rate)) for rate in inner_lrs]
    lines = [value(x) for value in values]
    check_finite("composed", torch.stack(lines))  # before the census, which takes forever with such numbers
    counts = [census(function, rate, own) for rate in inner_lrs]
    return {
        "function": function.name,
        "formula": function.formula,
        "l1": _short(function.l1),
        "threshold": _short(1 / function.l1),
        "kinds": list(KINDS),
        "x": _list(x[:, 0]),
        "loss": _list(own_value(x)),
        "own": _rows(own, own_value(own.at), (False,) * len(own.kinds)),
        "inner_lr": [_short(rate) for rate in inner_lrs],
        "composed": [_list(line) for line in lines],
        "stationary": [
            _rows(found.points, value(found.points.at), found.extra)
            for found, value in zip(counts, values, strict=True)
        ],
    }


def _rows(points: Points, values: Tensor, extra: tuple[bool, ...]) -> list[list[float]]:
    return [
        [_short(float(at)), _short(float(value)), KINDS.index(kind), int(new)]
        for at, value, kind, new in zip(points.at, values, points.kinds, extra, strict=True)
    ]


def _list(values: Tensor) -> list[float]:
    return [_short(value) for value in values.tolist()]


def _short(value: float) -> float:
    return float(f"{value:.5g}")
