"""What is allowed: ranges of values by name, and the check that raises for a value outside."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import Tensor

from .errors import invalid


@dataclass(frozen=True)
class Allowed:
    """A range of values: what it is called, and whether a value is in it."""

    text: str
    contains: Callable[[Any], bool]


def at_least(minimum: float) -> Allowed:
    return Allowed(f"at least {minimum}", lambda value: value >= minimum)


def count(minimum: int) -> Allowed:
    """Of whole numbers. The bound is beyond any use, and keeps sizes within what PyTorch's integers hold."""
    return Allowed(f"at least {minimum} and at most 10**9", lambda value: minimum <= value <= 10**9)


def between(low: float, high: float) -> Allowed:
    return Allowed(f"above {low} and at most {high}", lambda value: low < value <= high)


def one_of(*values: str) -> Allowed:
    return Allowed("one of " + ", ".join(values), lambda value: value in values)


ABOVE_ZERO = Allowed("above 0", lambda value: value > 0)
PROBABILITY = Allowed("above 0 and below 1", lambda value: 0 < value < 1)


def check(parameter: str, value: Any, allowed: Allowed, fix: str = "") -> None:
    """Raise UserError, naming the parameter, unless the value is allowed; a number also has to be finite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise invalid(parameter, value, f"finite and {allowed.text}", fix)
    if not allowed.contains(value):
        raise invalid(parameter, value, allowed.text, fix)


def check_whole(parameter: str, value: Any, allowed: Allowed) -> None:
    """Raise UserError, naming the parameter, unless the value is a whole number, and allowed."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise invalid(parameter, value, f"a whole number, {allowed.text}")
    check(parameter, value, allowed)


def switch(parameter: str, value: Any) -> bool:
    """True or false; papermill and the command line give the word as text. Raises UserError for anything else."""
    if str(value).lower() not in ("true", "false"):
        raise invalid(parameter, value, "true or false")
    return str(value).lower() == "true"


def check_finite(parameter: str, value: Tensor) -> None:
    """Raise UserError, naming the parameter, for a tensor with a NaN or an infinity in it."""
    if not value.isfinite().all():
        raise invalid(parameter, tuple(value.shape), "a tensor of finite numbers")
