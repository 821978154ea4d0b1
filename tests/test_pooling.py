"""max_pool2x2's derivatives against PyTorch's own pooling, and the layouts that they have."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import draw
from torch import Tensor

from sharp_maml_core.pooling import max_pool2x2

LAYOUTS = (torch.contiguous_format, torch.channels_last)
SIZES = ((6, 4), (5, 7), (2, 2))  # of odd sizes the last row or column is left out


def image(layout: torch.memory_format, size: tuple[int, int] = (6, 4)) -> Tensor:
    return draw(2, 3, *size, seed=1).to(memory_format=layout).requires_grad_()


def derivatives(pool, x: Tensor) -> list[Tensor]:
    """Those of order 0 to 3."""
    y = pool(x)
    found, scalar = [y], (y**4).sum()
    for order in range(1, 4):
        (grad,) = torch.autograd.grad(scalar, x, create_graph=True)
        found.append(grad)
        scalar = (grad**2 * draw(*grad.shape, seed=order)).sum()
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
def test_derivatives_equal_pytorchs_to_the_last_bit(layout, size):
    got = derivatives(max_pool2x2, image(layout, size))
    expected = derivatives(lambda x: F.max_pool2d(x, 2), image(layout, size))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(got, expected, strict=True))


def test_second_derivatives_keep_the_layout():
    x = image(torch.channels_last)
    y = max_pool2x2(x)
    upstream = torch.ones_like(y).requires_grad_()
    (by_x,) = torch.autograd.grad(y, x, upstream, create_graph=True)
    (by_upstream,) = torch.autograd.grad((by_x * x.detach()).sum(), upstream)
    for value in (y, by_x, by_upstream):
        assert value.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(by_upstream, y)  # the entries of x where the maxima were


def test_the_derivative_by_the_input_is_no_tensor_of_zeros():
    """It would have PyTorch's layout, and everything after it with it."""
    x = image(torch.channels_last)
    y = max_pool2x2(x)
    (by_x,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert torch.autograd.grad(by_x.sum(), x, allow_unused=True) == (None,)


def test_within_transforms_it_is_pytorchs():
    x = image(torch.contiguous_format).detach()
    found = torch.func.vmap(torch.func.grad(lambda one: max_pool2x2(one[None]).square().sum()))(x)
    expected = torch.func.grad(lambda every: F.max_pool2d(every, 2).square().sum())(x)
    assert torch.equal(found, expected)
