"""conv3x3's derivatives of order 1 to 3 against PyTorch's own convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import draw
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sharp_maml_core.convolution import conv3x3

LAYOUTS = (torch.contiguous_format, torch.channels_last)
STRIDES = (1, 2)


def own(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return conv3x3(x, weight, stride)


def pytorchs(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return F.conv2d(x, weight, None, stride, 1)


def inputs(layout: torch.memory_format = torch.contiguous_format, side: int = 7) -> tuple[Tensor, Tensor]:
    return draw(3, 2, side, side - 1, seed=1).to(memory_format=layout), draw(4, 2, 3, 3, seed=2)


def derivatives(convolve, values, stride: int, moving: tuple[int, ...] = (0, 1)) -> list[Tensor]:
    """Those of order 0, 1, 2, 3 by the arguments that move: each order's, weighted, are summed up for the next."""
    values = [value.requires_grad_(i in moving) for i, value in enumerate(values)]
    arguments = [values[i] for i in moving]
    y = convolve(*values, stride)
    found, scalar = [y], (y**3).sum()
    for order in range(1, 4):
        grads = torch.autograd.grad(scalar, arguments, create_graph=True)
        found += grads
        scalar = sum((grad * draw(*grad.shape, seed=10 * order + i)).sum() for i, grad in enumerate(grads))
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("moving", [(0, 1), (0,), (1,)])
def test_derivatives_equal_pytorchs(layout, stride, moving):
    got, expected = (derivatives(convolve, inputs(layout), stride, moving) for convolve in (own, pytorchs))
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=1e-13 * theirs.detach().abs().max().item())


@pytest.mark.parametrize("stride", STRIDES)
def test_central_differences_agree(stride):
    values = [value.requires_grad_() for value in inputs(side=4)]
    assert torch.autograd.gradgradcheck(lambda *values: own(*values, stride), values)


def test_second_derivatives_keep_the_layout():
    x, weight = (value.requires_grad_() for value in inputs(torch.channels_last))
    y = own(x, weight, 1)
    by_x, by_weight = torch.autograd.grad((y**2).sum(), (x, weight), create_graph=True)
    (second,) = torch.autograd.grad((by_x**2).sum() + (by_weight**2).sum(), x)
    for value in (y, by_x, second):
        assert value.is_contiguous(memory_format=torch.channels_last)


def test_within_transforms_it_is_pytorchs():
    x, weight = inputs()
    mapped = torch.func.vmap(torch.func.grad(lambda one: own(one[None], weight, 1).square().sum()))(x)
    one_by_one = torch.stack([torch.func.grad(lambda one: own(one[None], weight, 1).square().sum())(one) for one in x])
    torch.testing.assert_close(mapped, one_by_one, rtol=1e-13, atol=1e-13)


def test_under_autocast_it_is_pytorchs():
    x, weight = (value.float().requires_grad_() for value in inputs())
    with torch.autocast("cpu", torch.bfloat16):
        y = own(x, weight, 1)
        expected = pytorchs(x, weight, 1)
    assert y.dtype is torch.bfloat16
    assert torch.equal(y, expected)
    assert torch.autograd.grad(y.float().sum(), weight)[0].dtype is torch.float32


def test_a_function_mode_sees_pytorchs():
    """K-FAC finds layers by the functions that they call."""
    seen = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x, weight = inputs()
    with Watch():
        y = own(x, weight, 1)
    assert F.conv2d in seen
    assert torch.equal(y, pytorchs(x, weight, 1))
