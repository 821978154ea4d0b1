r"""Kronecker-factored curvature (K-FAC), layer by layer: what its log-determinant needs, and no more.

A linear layer maps inputs a (with a 1 appended where there is a bias) to s = W a. With g the derivative of a sample's
loss by s, that by W is g a^T, and the layer's block of the empirical Fisher matrix, with its factored form, is

    F = mean_n vec(g_n a_n^T) vec(g_n a_n^T)^T ~ A x G,   A = mean_n a_n a_n^T,   G = mean_n g_n g_n^T

(Martens & Grosse 2015). It is exact for one sample, for inputs that are all alike, for derivatives that are, and for
all data in which a_n and g_n vary independently. A convolution is such a layer at each of its T positions; with
derivatives taken as spatially uncorrelated (Grosse & Martens 2016), A is summed over the positions, and G averaged.

Which layers: every call of `F.linear` and `F.conv2d` whose weight is a parameter, so all of `nn.Linear` and
`nn.Conv2d`, and modules that call the functions themselves. Other parameters (norm layers) have no part. Where samples
are normalised together, g_n is the derivative of all samples' losses by the n-th sample's s.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .derivatives import gradient_and_beside
from .errors import invalid
from .params import Params

Shapes = dict[str, torch.Size]
"""The shape of each layer's output, under the name of its weight."""

Forward = Callable[[Params, Tensor], Tensor]


def layer_shapes(forward: Forward, params: Params, x: Tensor) -> Shapes:
    """The layers that have a part, found by one pass with inputs x [n, ...].

    Raises UserError where there is none, for a weight that is used twice, for convolutions with groups or with their
    padding in words, and for a layer whose inputs are not the n samples: the factors above are not theirs.
    """
    shapes: Shapes = {}

    def note(name: str, call: _Call, output: Tensor) -> Tensor:
        if name in shapes:
            raise invalid("model", name, "a model that uses each weight once, for K-FAC", "Choose another variant.")
        if call.groups != 1 or isinstance(call.padding, str):
            raise invalid("model", name, "a convolution with groups=1 and its padding in numbers, for K-FAC")
        if output.ndim < 2 or len(output) != len(x):
            raise invalid("model", name, "a layer whose inputs have the samples in front, [n, ...], for K-FAC")
        shapes[name] = output.shape
        return output

    with torch.no_grad(), _Taps(params, note):
        forward(params, x)
    if not shapes:
        raise invalid(
            "model", "no layer", "a model with a Linear or Conv2d layer, for K-FAC", "Choose another variant."
        )
    return shapes


def loss_and_log_det(
    forward: Forward,
    loss: Callable[[Tensor, Tensor], Tensor],
    params: Params,
    x: Tensor,
    y: Tensor,
    shapes: Shapes,
    damping: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean loss of samples x [n, ...], y [n, ...]; log det of their damped Fisher matrix; the outputs.

    It is the sum over layers of d_G log det A' + d_A log det G' = log det(A' x G'), A' = A + sqrt(damping) I and G'
    likewise; NaN where rounding has made one of them indefinite. Both scalars can be differentiated by `params`.

    loss     the mean over samples
    damping  above 0, in the units of F
    """
    n = len(x)

    def total(zeros: Params, params: Params) -> tuple[Tensor, tuple[Tensor, Tensor, Params]]:
        moments: Params = {}

        def tap(name: str, call: _Call, output: Tensor) -> Tensor:
            rows = call.rows()
            moments[name] = torch.einsum("ntd,nte->de", rows, rows) / n
            return output + zeros[name]  # the derivative by this zero is that by s

        with _Taps(params, tap):
            outputs = forward(params, x)
        value = loss(outputs, y)
        return n * value, (value, outputs, moments)

    zeros = {name: x.new_zeros(shape) for name, shape in shapes.items()}
    slopes, (_, (value, outputs, moments)) = gradient_and_beside(total, zeros, params)
    return value, _log_det(moments, slopes, damping), outputs


def _log_det(moments: Params, slopes: Params, damping: float) -> Tensor:
    terms = []
    for name, a in moments.items():
        g = slopes[name]
        g = (g.flatten(2).mT if g.ndim == 4 else g.reshape(len(g), -1, g.shape[-1])).flatten(0, 1)  # [n * t, d_G]
        g = g.mT @ g / len(g)
        terms.append(len(g) * _log_det_of(a, damping) + len(a) * _log_det_of(g, damping))
    return torch.stack(terms).sum()


def _log_det_of(factor: Tensor, damping: float) -> Tensor:
    eye = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    root, failed = torch.linalg.cholesky_ex(factor + math.sqrt(damping) * eye)
    log_det = 2 * root.diagonal().log().sum()
    return torch.where(failed == 0, log_det, torch.full_like(log_det, math.nan))


class _Call:
    """One call of `F.linear` or `F.conv2d`."""

    def __init__(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> None:
        self.input, self.weight, self.bias = input, weight, bias
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def rows(self) -> Tensor:
        """The inputs a of the layer, [n, t, d_A]: t positions of each sample, 1 for an ordinary linear layer."""
        if self.weight.ndim == 4:
            kernel = self.weight.shape[2:]
            rows = F.unfold(self.input, kernel, self.dilation, self.padding, self.stride).mT
        else:
            rows = self.input.reshape(len(self.input), -1, self.input.shape[-1])
        return rows if self.bias is None else torch.cat([rows, torch.ones_like(rows[..., :1])], dim=-1)


class _Taps(TorchFunctionMode):
    """While it is entered, `tap` may replace the output of each layer whose weight is one of the parameters.

    It sees functions, not modules: hooks would miss modules that call `F.conv2d` themselves, and need state.
    """

    def __init__(self, params: Params, tap: Callable[[str, _Call, Tensor], Tensor]) -> None:
        super().__init__()
        self._names = {id(value): name for name, value in params.items()}
        self._tap = tap

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is F.linear or func is F.conv2d:
            call = _Call(*args, **(kwargs or {}))
            name = self._names.get(id(call.weight))
            if name is not None:
                return self._tap(name, call, output)
        return output
