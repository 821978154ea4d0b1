r"""Batch normalisation by the statistics of the batch, exact and fast in every derivative.

PyTorch's fused batch norm is fast in its first derivative, slow in its second (on CPU it takes half of a
Hessian-vector product of Conv4) and *wrong* from the third on, where it takes the saved mean and deviation for
constants. Here the first two derivatives are closed formulas and the rest follows by differentiating them.

With xhat = (x - mean) / sigma per channel, and the symmetric projection

    P u = u - mean(u) - xhat * mean(u * xhat)

the derivative of y = weight * xhat + bias is

    grad_x = weight / sigma * P grad_y,   grad_weight = sum(grad_y * xhat),   grad_bias = sum(grad_y)

and, because d xhat = P dx / sigma and d sigma = mean(xhat * dx), so is the derivative of *that*, see
`_BatchNormBackward.backward`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from .derivatives import on_plain_cpu, transforming

EPS = 1e-5  # added to the variance, PyTorch's and the paper's code's value


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalise each channel of x [N, C, H, W] over N, H, W, then scale and shift by weight [C] and bias [C]."""
    if x.dtype != weight.dtype and transforming():
        x = x.to(weight.dtype)  # under vmap PyTorch's kernels do not mix types, as autocast makes them
    return _BatchNorm.apply(x, weight, bias)[0]


class EpisodeNorm(nn.Module):
    """Batch norm with the statistics of the batch at hand, in training and at test time alike.

    This is what the paper's code does (`track_running_stats=False`): the query images of a task are normalised
    together, so predictions are transductive. Running statistics would need state, which a pure function has not.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(x, self.weight, self.bias)


class _BatchNorm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if x.dtype == torch.float32 and on_plain_cpu(x):
            return _carefully(x, weight, bias)
        return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, EPS)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _ = inputs
        _, mean, inverse_sigma = output
        ctx.mark_non_differentiable(mean, inverse_sigma)
        ctx.save_for_backward(x, weight, mean, inverse_sigma)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, mean, inverse_sigma = ctx.saved_tensors
        return _BatchNormBackward.apply(grad_y, x, weight, mean, inverse_sigma)


class _BatchNormBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad_y: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse_sigma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if on_plain_cpu(x) and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
            grad_y = grad_y.contiguous(memory_format=torch.channels_last)  # of two layouts it is thirty times slower
        return torch.ops.aten.native_batch_norm_backward(
            grad_y, x, weight, None, None, mean, inverse_sigma, True, EPS, [True, True, True]
        )

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:3])

    @staticmethod
    def backward(ctx: Any, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor | None, ...]:
        r"""Derivative of <a, grad_x> + <b, grad_weight> + <c, grad_bias>.

        With S = sum over N, H, W; n elements; k = weight / sigma; mean() = S() / n:

            d/d grad_y = k * P a + b * xhat + c
            d/d weight = S(a * P grad_y) / sigma
            d/d x      = P(b * grad_y - k * (a * mean(grad_y xhat) + grad_y * mean(a xhat))) / sigma
                         - k / sigma * mean(a * P grad_y) * xhat

        The statistics are taken from x anew, so that all of this can be differentiated again.
        """
        grad_y, x, weight = ctx.saved_tensors
        n = x.numel() // x.shape[1]
        centred = x - _column(_sum(x) / n)
        r = torch.rsqrt(_sum(centred * centred) / n + EPS)
        k = weight * r
        mean_a, mean_g = _sum(a) / n, _sum(grad_y) / n
        mean_ax, mean_gx = _sum(a * centred) * r / n, _sum(grad_y * centred) * r / n
        mean_apg = _sum(a * grad_y) / n - mean_a * mean_g - mean_ax * mean_gx  # mean(a * P grad_y)

        # d/d grad_y = k * a + (b - k mean_ax) xhat + (c - k mean_a)
        d_grad_y = _combine((a, k), (centred, (b - k * mean_ax) * r), c - k * mean_a)
        d_weight = n * r * mean_apg
        # u = b * grad_y - k * (mean_gx a + mean_ax grad_y);  P u = u - mean(u) - xhat mean(u xhat).
        # P xhat = (EPS r^2) xhat, not 0, because sigma^2 is the variance plus EPS: P is exact as written above.
        u_a, u_g = -k * mean_gx, b - k * mean_ax
        u_x = u_a * mean_ax + u_g * mean_gx + k * mean_apg
        d_x = _combine((a, r * u_a), (grad_y, r * u_g), (centred, -r * r * u_x), -r * (u_a * mean_a + u_g * mean_g))
        return d_grad_y, d_x, d_weight, None, None


def _carefully(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `native_batch_norm` gives, in float32 on a CPU: there it adds the values of a channel one by one where the
    channels lie last, and loses three digits of half a million; inner steps then make percents of that. PyTorch's sums
    are careful.
    """
    n = x.numel() // x.shape[1]
    mean = _sum(x) / n
    y = x - _column(mean)
    inverse_sigma = torch.rsqrt(_sum(y.square_()) / n + EPS)
    k = weight * inverse_sigma
    # one pass over x into memory that is there: a new tensor costs more than the arithmetic
    torch.addcmul(_column(bias - mean * k), x, _column(k), out=y)
    return y, mean, inverse_sigma


def _column(per_channel: Tensor) -> Tensor:
    return per_channel[:, None, None]


def _sum(x: Tensor) -> Tensor:
    """Sum of x [N, C, H, W] over all but the channels."""
    return x.sum((0, 2, 3))


def _combine(*terms: Any) -> Tensor:
    """Sum of tensor * per-channel factor over the pairs in `terms`, plus the last term, a per-channel constant."""
    *pairs, constant = terms
    total = _column(constant)
    for tensor, factor in pairs:
        total = torch.addcmul(total, tensor, _column(factor))
    return total
