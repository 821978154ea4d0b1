"""Batch norm's derivatives of order 1 to 4 against mean and variance written out, and PyTorch's values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import draw
from reference import batch_norm as explicit
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sharp_maml_core.norm import EpisodeNorm, batch_norm

ORDERS = range(5)


def inputs(layout: torch.memory_format = torch.contiguous_format) -> list[Tensor]:
    """Channels of deviation 1, of variance 1e-5 = EPS around a large mean, and of variance 0."""
    deviation, mean = torch.tensor([1.0, 1e-5**0.5, 0.0]), torch.tensor([0.3, 20.0, -1.5])
    x = draw(4, 3, 2, 3, seed=1) * deviation[:, None, None].double() + mean[:, None, None].double()
    return [x.to(memory_format=layout), draw(3, seed=2), draw(3, seed=3)]


def derivatives(function, values: list[Tensor]) -> list[list[Tensor]]:
    """[order][argument]: s_0 = <y, c>, s_k = sum over the arguments of <d s_{k-1} / d argument, c>, c random."""
    values = [value.detach().requires_grad_() for value in values]
    scalar = (function(*values) * draw(*values[0].shape, seed=10)).sum()
    found = [[scalar]]
    for order in ORDERS[1:]:
        grads = torch.autograd.grad(scalar, values, create_graph=True, materialize_grads=True)
        found.append([grad.detach() for grad in grads])
        weights = [draw(*value.shape, seed=20 * order + i) for i, value in enumerate(values)]
        scalar = sum((grad * weight).sum() for grad, weight in zip(grads, weights, strict=True))
    return found


def errors(got: Tensor, expected: Tensor) -> Tensor:
    """Of each channel, relative to its largest derivative: those of a narrow channel are 1e5 times larger."""
    channels = 1 if got.ndim == 4 else 0
    got, expected = (value.movedim(channels, 0).reshape(3, -1) for value in (got, expected))
    return (got - expected).abs().amax(1) / expected.abs().amax(1).clamp_min(1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("order", ORDERS[1:])
def test_derivatives_of_each_order_equal_mean_and_variance_written_out(order, layout):
    got, expected = derivatives(batch_norm, inputs(layout)), derivatives(explicit, inputs())
    for mine, theirs in zip(got[order], expected[order], strict=True):
        # The narrow channel has lost four digits to its mean of 20 before anyone begins.
        assert (errors(mine, theirs) < torch.tensor([1e-14, 1e-11, 1e-14])).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_are_pytorchs_to_the_last_bit(layout):
    x, weight, bias = inputs(layout)
    assert torch.equal(batch_norm(x, weight, bias), F.batch_norm(x, None, None, weight, bias, training=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_float32_keeps_its_digits_over_many_values(layout):
    """PyTorch's own kernel errs by 1e-4 where the channels lie last."""
    x, weight, bias = draw(24, 3, 84, 84, seed=6) + 1, draw(3, seed=7), draw(3, seed=8)
    exact = batch_norm(x, weight, bias)
    found = batch_norm(x.float().to(memory_format=layout), weight.float(), bias.float())
    assert found.is_contiguous(memory_format=layout)
    assert (found - exact).abs().max() < 2e-6  # of values up to 4


def test_the_kernel_sees_one_layout_whatever_the_gradients_is():
    """Of two it is many times slower, and PyTorch's own pooling gives the other."""
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.native_batch_norm_backward.default:
                seen.extend(value.is_contiguous(memory_format=torch.channels_last) for value in args[:2])
            return func(*args, **(kwargs or {}))

    x, weight, bias = (value.requires_grad_() for value in inputs(torch.channels_last))
    y = batch_norm(x, weight, bias)
    with Watch():
        torch.autograd.grad(y, x, draw(*y.shape, seed=9))
    assert seen == [True, True]


def test_values_are_normalised_by_the_batch():
    x = draw(8, 3, 5, 5, seed=4)
    y = batch_norm(x, torch.tensor([1.0, 2.0, -3.0]).double(), torch.tensor([0.0, 5.0, 1.0]).double())
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.tensor([0.0, 5.0, 1.0]).double(), rtol=1e-14, atol=1e-14)
    deviations = torch.tensor([1.0, 2.0, 3.0]).double()
    torch.testing.assert_close(y.std((0, 2, 3), unbiased=False), deviations, rtol=2e-5, atol=0)  # EPS / 2 less than 1


@pytest.mark.parametrize("derivative", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_central_differences_agree(derivative):
    values = [draw(3, 2, 2, 2, seed=5), draw(2, seed=6), draw(2, seed=7)]
    assert derivative(batch_norm, [value.requires_grad_() for value in values])


@pytest.mark.parametrize("order", [1, 2])
def test_vmap_of_a_derivative_equals_the_derivative_of_each(order):
    """Tasks differ in x and in the parameters, as in an inner loop; torch.func nests as the learners nest it."""
    x, weight, bias = draw(3, 4, 2, 3, 3, seed=8), draw(3, 2, seed=9), draw(3, 2, seed=10)

    def derivative_of(norm):
        def scalar(x, weight, bias):
            return norm(x, weight, bias).tanh().sum()

        first = torch.func.grad(scalar, argnums=(0, 1, 2))
        if order == 1:
            return first
        return torch.func.grad(lambda *args: sum((g**2).sum() for g in first(*args)), argnums=(0, 1, 2))

    together = torch.func.vmap(derivative_of(batch_norm))(x, weight, bias)
    for task in range(3):
        alone = derivative_of(explicit)(x[task], weight[task], bias[task])
        for mine, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(mine[task], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shared", ["x", "parameters"])
def test_vmap_over_the_input_or_the_parameters_alone(shared):
    x, weight, bias = draw(3, 4, 2, 3, 3, seed=8), draw(3, 2, seed=9), draw(3, 2, seed=10)
    axes = (None, 0, 0) if shared == "x" else (0, None, None)
    values = [value[0] if axis is None else value for value, axis in zip((x, weight, bias), axes, strict=True)]
    second = torch.func.grad(lambda *v: (torch.func.grad(lambda *u: batch_norm(*u).exp().sum())(*v) ** 2).sum())
    together = torch.func.vmap(second, in_dims=axes)(*values)
    for task in range(3):
        one = [value if axis is None else value[task] for value, axis in zip(values, axes, strict=True)]
        torch.testing.assert_close(together[task], second(*one), rtol=1e-12, atol=1e-12)


def test_the_layer_has_no_state_and_no_test_mode():
    layer = EpisodeNorm(3).double()
    x = inputs()[0]
    assert not list(layer.buffers())
    assert [tuple(p.shape) for p in layer.parameters()] == [(3,), (3,)]
    before = layer(x)
    assert torch.equal(layer.eval()(x), before)
    assert torch.equal(before, F.batch_norm(x, None, None, torch.ones(3).double(), torch.zeros(3).double(), True))
