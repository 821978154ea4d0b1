"""2x2 max-pooling whose second derivatives cost little on a CPU.

The derivative of the pooling's derivative picks, of what it is given, the entries where the maxima were. PyTorch adds
to that a tensor of zeros for the input, and both with the channels before the positions, whatever the input's layout:
all that follows then works on mixed layouts, batch norm thirty times more slowly.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .derivatives import on_plain_cpu

SIZE = [2, 2]


def max_pool2x2(x: Tensor) -> Tensor:
    """The maxima of x [N, C, H, W] over squares of two by two: [N, C, H // 2, W // 2].

    Where not `on_plain_cpu` it is PyTorch's own.
    """
    if not on_plain_cpu(x):
        return F.max_pool2d(x, SIZE)
    y: Tensor = _MaxPool.apply(x)
    return y


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y, where = torch.ops.aten.max_pool2d_with_indices(x, SIZE, SIZE)
        ctx.save_for_backward(x, where)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        found: Tensor = _MaxPoolBackward.apply(g, *ctx.saved_tensors)
        return found


class _MaxPoolBackward(torch.autograd.Function):
    """Puts g where the maxima of x were. It depends on x by these places alone, so its derivative by x is zero."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, where: Tensor) -> Tensor:
        ctx.save_for_backward(where)
        return torch.ops.aten.max_pool2d_with_indices_backward(g, x, SIZE, SIZE, [0, 0], [1, 1], False, where)

    @staticmethod
    def backward(ctx: Any, a: Tensor) -> tuple[Tensor | None, ...]:
        (where,) = ctx.saved_tensors
        return _picked(a, where), None, None


def _picked(a: Tensor, where: Tensor) -> Tensor:
    """The entries of a [N, C, H, W] at the positions `where` [N, C, H', W'], in the layout that a has."""
    if a.is_contiguous() or not a.is_contiguous(memory_format=torch.channels_last):
        return a.flatten(2).gather(2, where.flatten(2)).view_as(where)
    rows = a.permute(0, 2, 3, 1).flatten(1, 2)  # [N, HW, C]
    places = where.permute(0, 2, 3, 1)  # [N, H', W', C]
    return rows.gather(1, places.flatten(1, 2)).view(places.shape).permute(0, 3, 1, 2)
