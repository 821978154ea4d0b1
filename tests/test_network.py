"""A module as a pure function: what is refused, and that parameters come from the generator alone."""

from __future__ import annotations

import pytest
import torch
from cases import TanhNet, classification, draw, equal, seeded, setting
from torch import Tensor, nn

from sharp_maml_core import build_learner
from sharp_maml_core.errors import UserError
from sharp_maml_core.models import MLP, Conv4
from sharp_maml_core.network import Network

CPU = torch.device("cpu")


def init(module, seed=0, dtype=torch.float64):
    return Network(module, dtype, CPU).init(seeded(seed))


# --- what is not a function of its parameters ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(4), nn.BatchNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True)]
)
def test_running_statistics_are_refused_with_the_fix(layer):
    with pytest.raises(UserError) as error:
        Network(nn.Sequential(nn.Linear(4, 4), layer))
    message = str(error.value)
    assert message.startswith("model.1.track_running_stats=True is not allowed")
    assert f"Build {type(layer).__name__} with track_running_stats=False" in message


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.Dropout2d(0.1), nn.AlphaDropout(0.2)])
def test_dropout_is_refused_with_the_fix(layer):
    with pytest.raises(UserError, match=r"^model\.body\.p=0\.\d is not allowed.*Remove the dropout\.$"):
        Network(nn.ModuleDict({"body": layer}))


@pytest.mark.parametrize("layer", [nn.MultiheadAttention(4, 2, dropout=0.1), nn.LSTM(4, 4, 2, dropout=0.1)])
def test_dropout_within_a_layer_is_refused_too(layer):
    with pytest.raises(UserError, match=r"^model\.dropout=0\.1 is not allowed.*Remove the dropout\.$"):
        Network(layer)


def test_a_frozen_parameter_is_refused_with_the_fix():
    """It would be drawn anew, adapted and learned like any other."""
    model = TanhNet()
    model.features[0].weight.requires_grad_(False)
    said = r"^model\.features\.0\.weight\.requires_grad=False is not allowed.* Make .* a buffer: `register_buffer`\.$"
    with pytest.raises(UserError, match=said):
        Network(model)


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(4, track_running_stats=False), nn.Dropout(0.0), nn.GroupNorm(2, 4), nn.LSTM(4, 4)]
)
def test_layers_without_state_and_chance_are_accepted(layer):
    Network(nn.Sequential(nn.Linear(4, 4), layer))


# --- init ---------------------------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_parameters_and_others_do_not():
    model = Conv4((1, 28, 28), 5, 4)
    assert equal(init(model, 3), init(model, 3))
    other = init(model, 4)
    assert not any(torch.equal(value, other[name]) for name, value in init(model, 3).items() if "norm" not in name)


def test_parameters_depend_on_the_generator_alone():
    """Neither on the values in the module, nor on the global generator, which is left as it was."""
    first = init(TanhNet(), 3)
    torch.manual_seed(99)
    assert equal(init(TanhNet(), 3), first)
    module = TanhNet()
    before = torch.get_rng_state()
    init(module)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_goes_on():
    generator, network = seeded(3), Network(MLP(1, 1))
    first, second = (network.init(generator) for _ in range(2))
    assert not any(torch.equal(value, second[name]) for name, value in first.items())


def test_dtypes_differ_by_rounding_only():
    single, double = init(TanhNet(), dtype=torch.float32), init(TanhNet())
    assert all(value.dtype == torch.float32 for value in single.values())
    assert equal({name: value.double() for name, value in single.items()}, double)


def test_names_and_shapes_are_the_modules():
    model = Conv4((1, 28, 28), 5, 4)
    expected = {name: value.shape for name, value in model.named_parameters()}
    assert {name: value.shape for name, value in init(model).items()} == expected


def test_each_layer_starts_by_its_own_rule():
    """PyTorch's rule: uniform within 1 / sqrt(fan_in); scale 1 and shift 0 in norm layers."""
    params = init(Conv4((3, 28, 28), 5, 16))
    for name, fan_in in (("features.0.conv.weight", 27), ("features.3.conv.weight", 144), ("head.weight", 16)):
        bound = fan_in**-0.5
        assert 0.9 * bound < float(params[name].abs().max()) <= bound
    assert bool((params["features.2.norm.weight"] == 1).all())
    assert bool((params["features.2.norm.bias"] == 0).all())


class Scaled(nn.Module):
    """A parameter without a rule, and a rule of the whole that overrules its parts'."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.5]))
        self.linear = nn.Linear(3, 3)

    def reset_parameters(self) -> None:
        nn.init.eye_(self.linear.weight)


def test_a_parameter_without_a_rule_keeps_its_value():
    assert float(init(Scaled())["scale"]) == 2.5


def test_the_rule_of_the_whole_is_applied_after_its_parts():
    assert torch.equal(init(Scaled())["linear.weight"], torch.eye(3).double())


# --- pure functions -----------------------------------------------------------------------------------------------


def test_the_callers_module_is_not_shared():
    """Its values, mode and gradients stay the caller's; changing it later changes no result."""
    model = TanhNet().double()
    network = Network(model)
    params, x = init(model), draw(2, 5, seed=1)
    before = network.forward(params, x)
    with torch.no_grad():
        model.head.weight.zero_()
    model.features[1] = nn.Identity()
    assert torch.equal(network.forward(params, x), before)


def test_the_head_of_the_features_is_the_whole():
    network, x = Network(TanhNet()), draw(4, 5, seed=1)
    params = init(TanhNet())
    assert torch.equal(network.head(params, network.features(params, x)), network.forward(params, x))


class Projected(nn.Module):
    """Constants that are no parameters: numbers, and the places of those that it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.register_buffer("projection", torch.eye(5)[:, :4])
        self.register_buffer("taken", torch.tensor([0, 2]))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear((x @ self.projection)[:, self.taken])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_buffers_are_of_the_settings_type(dtype):
    model, episode = Projected(), classification()
    config = setting("maml", dtype=dtype)
    learner = build_learner(config, model)
    x, query_x = (value.to(config.torch_dtype) for value in (episode.support_x, episode.query_x))
    params = learner.init(seeded(0))
    grads, _ = learner.gradient(params, episode._replace(support_x=x, query_x=query_x))
    assert {value.dtype for value in grads.values()} == {config.torch_dtype}
    assert torch.equal(learner.predict(params, x[0]), nn.functional.linear(x[0][:, [0, 2]], *params.values()))
    assert (model.projection.dtype, model.taken.dtype) == (torch.float32, torch.int64)


def test_buffers_are_on_the_settings_device():
    network = Network(Projected(), torch.float64, torch.device("meta"))
    params = {name: value.to("meta") for name, value in init(Projected()).items()}
    assert network.forward(params, draw(4, 5, seed=1).to("meta")).device.type == "meta"


def test_a_buffer_moves_no_draw():
    stayed = Network(Projected()).init(seeded(0))
    assert equal(init(Projected()), {name: value.double() for name, value in stayed.items()})


class Headless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(2, 2), nn.Linear(2, 2)


class Extra(TanhNet):
    """A parameter that belongs to neither part."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))


@pytest.mark.parametrize(("module", "has"), [(TanhNet(), True), (Headless(), False), (Extra(), False)])
def test_parts_are_features_and_head_and_nothing_else(module, has):
    assert Network(module).has_parts is has


def test_norm_names_are_the_scales_and_shifts():
    assert Network(TanhNet()).norm_names == {"features.1.weight", "features.1.bias"}
    names = {f"features.{i}.norm.{kind}" for i in range(4) for kind in ("weight", "bias")}
    assert Network(Conv4((1, 28, 28), 5, 4)).norm_names == names
