"""K-FAC's log-determinant against the dense Fisher matrix, where the factored form is exact, and its derivative."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import SmoothNet, classification, draw, moved, seeded
from torch import nn
from torch.func import functional_call

from sharp_maml_core.derivatives import value_and_gradients
from sharp_maml_core.errors import UserError
from sharp_maml_core.kfac import layer_shapes, loss_and_log_det
from sharp_maml_core.models import Conv4
from sharp_maml_core.network import Network
from sharp_maml_core.params import add_scaled, dot
from sharp_maml_core.sharpness import perturbation


def start(model, seed=1):
    return moved(Network(model, torch.float64).init(seeded(seed)))


def log_det(model, params, x, y, damping, loss=F.cross_entropy):
    forward = Network(model).forward
    return loss_and_log_det(forward, loss, params, x, y, layer_shapes(forward, params, x), damping)


def given_slopes(outputs, targets):
    """The derivative of a sample's loss by its outputs is its target, whatever the outputs are."""
    return (outputs * targets).flatten(1).sum(1).mean()


def fisher(model, params, x, y, loss, layer):
    """Mean over samples of the outer product of the gradient by [weight, bias] of a layer, one sample at a time."""
    total = 0.0
    for sample, target in zip(x, y, strict=True):
        live = {name: value.clone().requires_grad_() for name, value in params.items()}
        value = loss(functional_call(model, live, (sample[None],)), target[None])
        weight, bias = torch.autograd.grad(value, [live[f"{layer}.weight"], live[f"{layer}.bias"]])
        gradient = torch.cat([weight.flatten(1), bias[:, None]], dim=1).flatten().numpy()
        total = total + np.outer(gradient, gradient)
    return total / len(x)


def damped_log_det(a, g, damping):
    """Of the Kronecker product itself, with its factors damped."""
    root = math.sqrt(damping)
    sign, value = np.linalg.slogdet(np.kron(g + root * np.eye(len(g)), a + root * np.eye(len(a))))
    assert sign == 1
    return value


def test_on_a_linear_layer_with_independent_inputs_and_derivatives_it_is_exact():
    """Every input with every derivative: the Fisher matrix is a Kronecker product, of full rank without damping."""
    model = nn.Sequential(nn.Linear(3, 2))
    params = start(model)
    x, y = draw(5, 3, seed=2).repeat_interleave(4, 0), draw(4, 2, seed=3).repeat(5, 1)
    sign, expected = np.linalg.slogdet(fisher(model, params, x, y, given_slopes, "0"))
    assert sign == 1
    value, found, outputs = log_det(model, params, x, y, 1e-26, given_slopes)
    assert float(found) == pytest.approx(expected, rel=1e-11)
    assert torch.equal(outputs, functional_call(model, params, (x,)))
    assert value == given_slopes(outputs, y)


@pytest.mark.parametrize("damping", [1e-4, 1.0, 100.0])
def test_of_one_sample_each_layer_is_exact_and_they_are_summed(damping):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    params, x, y = start(model), draw(1, 3, seed=2), torch.tensor([1])
    hidden = torch.tanh(F.linear(x, params["0.weight"], params["0.bias"]))
    expected = 0.0
    for layer, inputs in (("0", x), ("2", hidden)):
        a = torch.cat([inputs[0], inputs.new_ones(1)]).numpy()
        block = fisher(model, params, x, y, F.cross_entropy, layer)
        g = np.sqrt(np.diag(block)[len(a) - 1 :: len(a)]) * np.sign(block[len(a) - 1, len(a) - 1 :: len(a)])
        np.testing.assert_allclose(np.kron(np.outer(g, g), np.outer(a, a)), block, rtol=1e-12, atol=1e-17)
        expected += damped_log_det(np.outer(a, a), np.outer(g, g), damping)
    assert float(log_det(model, params, x, y, damping)[1]) == pytest.approx(expected, rel=1e-12)


def test_a_convolution_with_one_position_is_a_linear_layer():
    convolution, linear = nn.Sequential(nn.Conv2d(2, 3, 4), nn.Flatten()), nn.Sequential(nn.Flatten(), nn.Linear(32, 3))
    params = start(convolution)
    same = {"1.weight": params["0.weight"].flatten(1), "1.bias": params["0.bias"]}
    x, y = draw(6, 2, 4, 4, seed=2), torch.arange(6) % 3
    one, other = log_det(convolution, params, x, y, 0.01)[1], log_det(linear, same, x, y, 0.01)[1]
    assert float(one) == pytest.approx(float(other), rel=1e-13)


def test_a_linear_layer_at_many_positions_is_a_convolution_of_one_pixel():
    params = {"weight": draw(3, 2, seed=1), "bias": draw(3, seed=2)}
    x, y = draw(4, 5, 2, seed=3), draw(4, 5, 3, seed=4)
    linear = log_det(nn.Linear(2, 3), params, x, y, 0.01, given_slopes)[1]
    pixel = params | {"weight": params["weight"][:, :, None, None]}
    convolution = log_det(nn.Conv2d(2, 3, 1), pixel, x.mT[..., None], y.mT[..., None], 0.01, given_slopes)[1]
    assert float(linear) == pytest.approx(float(convolution), rel=1e-13)


def test_convolutions_sum_over_positions_in_one_factor_and_average_in_the_other():
    """With strides and padding: hooks on the modules and a loop over positions, nothing shared."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Softplus(), nn.Conv2d(2, 3, 2), nn.Flatten())
    params, x, y = start(model), draw(4, 1, 6, 6, seed=2), torch.arange(4)
    found = float(log_det(model, params, x, y, 0.01)[1])
    seen = {}
    for index in (0, 2):

        def hook(_, inputs, output, index=index):
            seen[index] = inputs[0], output

        model[index].register_forward_hook(hook)
    live = {name: value.clone().requires_grad_() for name, value in params.items()}
    loss = 4 * F.cross_entropy(functional_call(model, live, (x,)), y)
    expected = 0.0
    for index, (size, stride, padding) in {0: (3, 2, 1), 2: (2, 1, 0)}.items():
        inputs, output = seen[index]
        (slope,) = torch.autograd.grad(loss, output, retain_graph=True)
        inputs, slope = F.pad(inputs.detach(), [padding] * 4).numpy(), slope.numpy()
        a, g, (height, width) = 0.0, 0.0, slope.shape[2:]
        for n, i, j in np.ndindex(4, height, width):
            patch = inputs[n, :, i * stride : i * stride + size, j * stride : j * stride + size].ravel()
            patch = np.append(patch, 1.0)
            a = a + np.outer(patch, patch) / 4
            g = g + np.outer(slope[n, :, i, j], slope[n, :, i, j]) / (4 * height * width)
        expected += damped_log_det(a, g, 0.01)
    assert found == pytest.approx(expected, rel=1e-12)


def test_its_gradient_is_its_derivative_through_both_factors():
    """Central differences on a smooth network with norm layers, extrapolated to the sixth order."""
    model, task = SmoothNet(), classification((1, 8, 8), n_tasks=1)
    params, forward = start(model), Network(model).forward
    x, y = task.query_x[0], task.query_y[0]
    shapes = layer_shapes(forward, params, x)

    def value(params):
        loss, found, _ = loss_and_log_det(forward, F.cross_entropy, params, x, y, shapes, 1e-3)
        return found, loss

    (grads,), _ = value_and_gradients(value, params)
    for seed in (100, 200):
        direction = {name: draw(*tensor.shape, seed=seed + i) for i, (name, tensor) in enumerate(params.items())}
        direction = perturbation(direction, 1.0)

        def central(step, direction=direction):
            ahead, behind = (value(add_scaled(params, direction, sign * step))[0] for sign in (1, -1))
            return float(ahead - behind) / (2 * step)

        expected = (64 * central(0.0025) - 20 * central(0.005) + central(0.01)) / 45
        assert float(dot(grads, direction)) == pytest.approx(expected, rel=1e-8)


def test_the_layers_of_the_papers_network_have_a_part_though_its_blocks_call_the_function():
    model = Conv4((1, 16, 16), 3, 4)
    params = start(model)
    shapes = layer_shapes(Network(model).forward, params, draw(2, 1, 16, 16, seed=2))
    assert shapes == {
        **{f"features.{i}.conv.weight": (2, 4, 16 // 2**i, 16 // 2**i) for i in range(4)},
        "head.weight": (2, 3),
    }


def test_a_factor_that_is_not_positive_definite_gives_nan_and_no_number():
    model = nn.Sequential(nn.Linear(3, 2))
    x = draw(4, 3, seed=2).float() * 1e20  # squares overflow
    params = {name: value.float() for name, value in start(model).items()}
    assert log_det(model, params, x, torch.arange(4) % 2, 1e-3)[1].isnan()


class Apart(nn.Module):
    """A layer that sees no sample: `rows` makes its inputs."""

    def __init__(self, rows) -> None:
        super().__init__()
        self.layer, self.rows = nn.Linear(3, 3), rows

    def forward(self, x):
        return x + self.layer(self.rows(x))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


@pytest.mark.parametrize(
    ("model", "x", "says"),
    [
        (Twice(), (2, 3), "each weight once"),
        (nn.Conv2d(2, 2, 1, groups=2), (2, 2, 4, 4), "groups=1"),
        (nn.Conv2d(1, 2, 3, padding="same"), (2, 1, 4, 4), "padding in numbers"),
        (nn.LayerNorm(3), (2, 3), "a Linear or Conv2d layer"),
        (Apart(lambda x: x.mean(0)), (2, 3), "samples in front"),
        (Apart(lambda x: x[0]), (3, 3), "samples in front"),
        (Apart(lambda x: x[:1]), (2, 3), "samples in front"),
    ],
)
def test_models_that_it_cannot_read_are_refused(model, x, says):
    with pytest.raises(UserError, match=f"^model=.*is not allowed.*{says}"):
        layer_shapes(Network(model).forward, start(model), draw(*x, seed=1))
