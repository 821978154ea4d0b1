"""Arrays of numbers at the boundary: float64, and every element in the range that the formula needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import Allowed, check
from ..errors import invalid

Array = NDArray[np.float64]


def numbers(parameter: str, value: ArrayLike, allowed: Allowed) -> Array:
    """The value as a float64 array. Raises UserError, naming the parameter, for an element outside or not finite.

    allowed  an interval: the least and the greatest element decide, and NaN is both.
    """
    try:
        array = np.asarray(value, dtype=np.float64)
        ends = array.min(), array.max()
    except (TypeError, ValueError):  # no number, a ragged list, or an empty one
        raise invalid(parameter, value, f"a number or an array of numbers, {allowed.text}") from None
    for end in ends:
        check(parameter, float(end), allowed)
    return array
