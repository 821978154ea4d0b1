r"""Conjugate gradients on parameter dicts, for a fixed number of steps and without a branch on data.

For a symmetric positive definite A the k-th iterate minimises 1/2 x^T A x - b^T x over span{b, A b, ..., A^(k-1) b}.
Source: Hestenes & Stiefel 1952; the stop at a direction of non-positive curvature is Steihaug's (1983).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .params import Params, add_scaled, dot


class Solution(NamedTuple):
    """What conjugate gradients found.

    x         the last iterate
    residual  ||b - A x|| / ||b||, a scalar; 0 where b is zero
    stopped   1 where a direction p with p^T A p <= 0 was met, so that A is not positive definite; else 0
    """

    x: Params
    residual: Tensor
    stopped: Tensor


def conjugate_gradient(operator: Callable[[Params], Params], b: Params, steps: int) -> Solution:
    """At most `steps` steps of conjugate gradients for A x = b from x = 0.

    It ends early when the residual is down to rounding. Where the curvature p^T A p along a search direction is not
    positive, there is no minimum along it: x stays what it was before, or b where that was the first step. All of this
    is arithmetic, not control flow, so it may run under vmap.

    operator  x -> A x, A symmetric; called `steps` times
    steps     at least 1
    """
    x = {name: torch.zeros_like(value) for name, value in b.items()}
    residual, direction = b, b
    first = squared = dot(b, b)
    rounding = torch.finfo(first.dtype).eps ** 2 * first
    stopped, moved = torch.zeros_like(first, dtype=torch.bool), torch.zeros_like(first, dtype=torch.bool)
    for _ in range(steps):
        image = operator(direction)
        curvature = dot(direction, image)
        unfinished = squared > rounding
        stopped = stopped | (unfinished & (curvature <= 0))
        active = unfinished & ~stopped
        length = _ratio(squared, curvature, active)
        x, residual = add_scaled(x, direction, length), add_scaled(residual, image, -length)
        before, squared = squared, dot(residual, residual)
        direction = add_scaled(residual, direction, _ratio(squared, before, active))
        moved = moved | active
    nowhere = stopped & ~moved  # there the direction has been b all along, so that the image is A b
    x = {name: torch.where(nowhere, b[name], value) for name, value in x.items()}
    beside = add_scaled(b, image, -1.0)
    squared = torch.where(nowhere, dot(beside, beside), squared)
    return Solution(x, _ratio(squared, first, first > 0).sqrt(), stopped.to(first.dtype))


def _ratio(above: Tensor, below: Tensor, valid: Tensor) -> Tensor:
    """Above / below where that is valid, else 0; never a division by zero."""
    return torch.where(valid, above / torch.where(valid, below, torch.ones_like(below)), torch.zeros_like(above))
