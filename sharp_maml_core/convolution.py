r"""3x3 convolution whose second derivatives cost on a CPU what the first do.

With y = x * W, the gradients of <g, y> are grad_x(g, W) and grad_W(g, x), and y, grad_x, grad_W are linear in each of
their two arguments. So are their own derivatives: of

    <a, grad_x(g, W)> + <b, grad_W(g, x)> = <g, a * W + x * b>

that by g is a * W + x * b, by W grad_W(g, a), by x grad_x(g, b). PyTorch takes grad_W(g, a) for a convolution of a with
a kernel as large as an image, which on a CPU takes three times as long as the routine that it has for grad_W.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .derivatives import on_plain_cpu

PADDING = 1


def conv3x3(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """Convolve x [N, C, H, W] with weight [C', C, 3, 3], zeros around the border, to [N, C', ~H / stride, ~W / stride].

    Where not `on_plain_cpu` it is PyTorch's own.
    """
    if not on_plain_cpu(x) or x.dtype != weight.dtype:
        return F.conv2d(x, weight, None, stride, PADDING)
    y: Tensor = _Conv.apply(x, weight, stride)
    return y


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, PADDING)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return *_gradients(g, x, weight, ctx.stride, ctx.needs_input_grad[:2]), None


class _ConvBackward(torch.autograd.Function):
    """(grad_x, grad_W), of which `wanted` says which to compute; the other is None."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor, stride: int, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(g, x, weight)
        ctx.stride = stride
        ctx.set_materialize_grads(False)
        found = torch.ops.aten.convolution_backward(
            g, x, weight, None, [stride] * 2, [PADDING] * 2, [1, 1], False, [0, 0], 1, [*wanted, False]
        )
        return tuple(value if asked else None for value, asked in zip(found, wanted, strict=False))

    @staticmethod
    def backward(ctx: Any, a: Tensor | None, b: Tensor | None) -> tuple[Tensor | None, ...]:
        g, x, weight = ctx.saved_tensors
        by_g, by_x, by_weight, *_ = ctx.needs_input_grad
        d_g = d_x = d_weight = None
        if a is not None:
            d_g = _Conv.apply(a, weight, ctx.stride) if by_g else None
            d_weight = _gradients(g, a, weight, ctx.stride, (False, by_weight))[1]
        if b is not None:
            if by_g:
                through_x = _Conv.apply(x, b, ctx.stride)
                d_g = through_x if d_g is None else d_g + through_x
            d_x = _gradients(g, x, b, ctx.stride, (by_x, False))[0]
        return d_g, d_x, d_weight, None, None


def _gradients(
    g: Tensor, x: Tensor, weight: Tensor, stride: int, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    found: tuple[Tensor | None, Tensor | None] = (None, None)
    if any(wanted):
        found = _ConvBackward.apply(g, x, weight, stride, wanted)
    return found
