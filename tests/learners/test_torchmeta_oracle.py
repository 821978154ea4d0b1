"""An outside oracle: Torchmeta's own modules and `gradient_update_parameters`, for MAML and FOMAML."""

from __future__ import annotations

import importlib.util
from collections import OrderedDict

import pytest
import torch.nn.functional as F
from cases import classification, moved, regression, relative_error, seeded, setting
from torch import nn

from sharp_maml_core import build_learner
from sharp_maml_core.models import MLP, Conv4

if importlib.util.find_spec("torchmeta") is None:
    pytest.skip("Torchmeta is not installed", allow_module_level=True)
from sharp_maml_core.data import torchmeta

modules = torchmeta.modules


class Composed(modules.MetaModule):
    """Torchmeta's way to write head(features(x)); names of parameters are ours."""

    def __init__(self, features, head) -> None:
        super().__init__()
        self.features, self.head = features, head

    def forward(self, x, params=None):
        features = self.features(x, params=self.get_subdict(params, "features"))
        return self.head(features, params=self.get_subdict(params, "head"))


def block(channels: int, filters: int):
    """As in the paper's code: batch norm with the statistics of the batch, then ReLU, then pooling."""
    layers = OrderedDict(
        conv=modules.MetaConv2d(channels, filters, 3, padding=1),
        norm=modules.MetaBatchNorm2d(filters, momentum=1.0, track_running_stats=False),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(2),
    )
    return modules.MetaSequential(layers)


def their_conv4() -> Composed:
    blocks = [block(channels, 4) for channels in (3, 4, 4, 4)]
    return Composed(modules.MetaSequential(*blocks, nn.Flatten()), modules.MetaLinear(4, 3))


def their_mlp() -> Composed:
    linear = modules.MetaLinear
    return Composed(modules.MetaSequential(linear(5, 8), nn.ReLU(), linear(8, 8), nn.ReLU()), linear(8, 3))


def their_gradient(model, loss, params, episode, config):
    """The loop of Torchmeta's MAML example."""
    model = model.double()
    model.load_state_dict(params)
    outer_loss = 0.0
    for support_x, support_y, query_x, query_y in zip(*episode, strict=True):
        fast = None
        for _ in range(config.inner_steps):
            inner_loss = loss(model(support_x, params=fast), support_y)
            fast = torchmeta.utils.gradient_based.gradient_update_parameters(
                model, inner_loss, params=fast, step_size=config.inner_lr, first_order=config.variant == "fomaml"
            )
        outer_loss = outer_loss + loss(model(query_x, params=fast), query_y)
    (outer_loss / episode.n_tasks).backward()
    return {name: value.grad for name, value in model.named_parameters()}


CASES = {
    "conv4": (Conv4((3, 16, 16), 3, 4), their_conv4, F.cross_entropy, classification((3, 16, 16)), 5e-14),
    "mlp": (MLP(5, 3, width=8), their_mlp, F.cross_entropy, classification(), 2e-15),
    "regression": (MLP(5, 3, width=8), their_mlp, F.mse_loss, regression(), 2e-15),
}


@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("variant", ["maml", "fomaml"])
@pytest.mark.parametrize("case", CASES)
def test_torchmeta_gives_the_same_gradient(case, variant, inner_steps):
    ours, theirs, loss, episode, tolerance = CASES[case]
    config = setting(variant, inner_steps=inner_steps)
    learner = build_learner(config, ours, loss)
    params = moved(learner.init(seeded(1)))
    expected = their_gradient(theirs(), loss, params, episode, config)
    grads, _ = learner.gradient(params, episode)
    assert relative_error(grads, expected) < tolerance
