"""The paper's network: its size, its order of operations, and the bias that has no effect."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import draw, moved
from reference import conv4, mlp, strided_conv4
from torch.func import functional_call

from sharp_maml_core.config import Config
from sharp_maml_core.errors import UserError
from sharp_maml_core.models import MLP, Conv4, ConvBlock, StridedConv4, model_for_images


def parameters(model):
    return moved({name: value.detach().double() for name, value in model.named_parameters()})


@pytest.mark.parametrize(
    ("shape", "n_way", "count"), [((3, 84, 84), 5, 121_093), ((1, 28, 28), 20, 113_236), ((1, 28, 28), 5, 112_261)]
)
def test_conv4_has_the_papers_number_of_parameters(shape, n_way, count):
    """K of Theorem 2; by hand, (9 c f + f) + 2 f a block, then the linear layer."""
    assert sum(p.numel() for p in Conv4(shape, n_way).parameters()) == count


@pytest.mark.parametrize(("shape", "filters"), [((1, 28, 28), 8), ((3, 20, 33), 4), ((3, 84, 84), 2)])
def test_conv4_computes_the_usual_network(shape, filters):
    """Convolution with its bias, batch norm, ReLU, pooling, in this order: the shortcuts change no value."""
    model = Conv4(shape, 5, filters)
    params, x = parameters(model), draw(3, *shape, seed=1)
    got = functional_call(model, params, x)
    assert got.shape == (3, 5)
    torch.testing.assert_close(got, conv4(params, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("shape", "filters"), [((1, 28, 28), 8), ((3, 20, 33), 4), ((2, 1, 5), 3)])
def test_a_stride_leaves_out_every_second_position(shape, filters):
    model = StridedConv4(shape, 5, filters)
    params, x = parameters(model), draw(3, *shape, seed=1)
    torch.testing.assert_close(functional_call(model, params, x), strided_conv4(params, x), rtol=1e-12, atol=1e-12)


def test_with_strides_the_network_for_omniglot_is_as_large():
    count = sum(p.numel() for p in StridedConv4((1, 28, 28), 20).parameters())
    assert count == sum(p.numel() for p in Conv4((1, 28, 28), 20).parameters())


@pytest.mark.parametrize(("downsampling", "reference"), [("pool", conv4), ("stride", strided_conv4)])
def test_features_of_one_length(downsampling, reference):
    config = Config(variant="maml", downsampling=downsampling, filters=8, feature_length=20, device="cpu")
    model, x = model_for_images(config, (1, 28, 28), 5), draw(6, 1, 28, 28, seed=1)
    params = parameters(model)
    identity = {"head.weight": torch.eye(8, dtype=torch.float64), "head.bias": torch.zeros(8, dtype=torch.float64)}
    phi, length = reference(params | identity, x), params["features.5.log_length"].exp()
    assert abs(length - 20) < 5  # about where it starts from, in `parameters` moved from there
    expected = F.linear(length * phi / phi.norm(dim=1, keepdim=True), params["head.weight"], params["head.bias"])
    torch.testing.assert_close(functional_call(model, params, x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("network", [Conv4, StridedConv4])
def test_features_and_head_are_the_whole(network):
    model, x = network((1, 28, 28), 5, 8), torch.rand(4, 1, 28, 28)
    assert model.features(x).shape == (4, 8)
    assert torch.equal(model.head(model.features(x)), model(x))


def test_pooling_before_relu_changes_no_bit_of_value_or_gradient():
    block = ConvBlock(2, 3).double()
    x = draw(4, 2, 7, 9, seed=2).requires_grad_()
    normalised = block.norm(F.conv2d(x, block.conv.weight, None, padding=1))
    usual, ours = F.max_pool2d(F.relu(normalised), 2), block(x)
    assert torch.equal(ours, usual)
    values, direction = [x, block.conv.weight, block.norm.weight, block.norm.bias], draw(*ours.shape, seed=3)
    by_usual, by_ours = (torch.autograd.grad(y, values, direction, retain_graph=True) for y in (usual, ours))
    assert all(torch.equal(a, b) for a, b in zip(by_usual, by_ours, strict=True))


def test_the_convolutions_bias_has_a_gradient_of_exactly_zero():
    model = Conv4((1, 16, 16), 3, 4)
    params, x = parameters(model), draw(6, 1, 16, 16, seed=4)
    grads = torch.func.grad(lambda params: functional_call(model, params, x).exp().sum())(params)
    for name, value in grads.items():
        assert bool((value == 0).all()) == name.endswith("conv.bias"), name


def test_a_conv4_refuses_images_that_four_poolings_leave_nothing_of():
    with pytest.raises(UserError, match="16"):
        Conv4((1, 15, 28), 5)


def test_mlp_is_two_hidden_layers_of_forty():
    model = MLP(1, 1)
    assert sum(p.numel() for p in model.parameters()) == 80 + 1640 + 41
    params, x = parameters(model), draw(7, 1, seed=5)
    torch.testing.assert_close(functional_call(model, params, x), mlp(params, x), rtol=1e-14, atol=1e-14)
