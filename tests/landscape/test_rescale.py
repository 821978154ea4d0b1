"""Dinh et al. 2017: a change of scale does nothing to the function, and to each measure what its formula says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import classification, moved, seeded, setting
from torch import nn
from torch.func import functional_call

from sharp_maml_core import MLP, Conv4, UserError
from sharp_maml_core.derivatives import gradient
from sharp_maml_core.landscape.rescale import before_norm, between_relus, rescaled, sweep
from sharp_maml_core.landscape.sharpness import in_weight_units, maximise, one_step
from sharp_maml_core.landscape.spectrum import expand, flat
from sharp_maml_core.landscape.surfaces import erm_surface, maml_surface, plain_maml
from sharp_maml_core.params import norm

FACTORS = (0.5, 1.0, 8.0)
EFFORT = {"alpha": 0.2, "adaptive_alpha": 0.3, "products": 40, "probes": 4, "steps": 12}
CONVOLUTIONS = [f"features.{block}.conv" for block in range(4)]


def relu_net():
    """Convolution, ReLU, pooling, convolution, leaky ReLU, linear: biases everywhere, no norm layer."""
    layers = [nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 2, 3), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 3))


def of(model, shape, **settings):
    learner = plain_maml(setting("maml", **settings), model)
    params = moved(learner.init(seeded(0)))
    return learner, params, classification(shape, n_tasks=1)


def built(surface, params):
    expansion = expand(surface, params)
    return torch.stack([expansion.hvp(v) for v in torch.eye(len(expansion.gradient), dtype=torch.float64)])


def diagonal(params, scaling):
    """Of A, as a vector."""
    return flat({name: torch.full_like(value, scaling.get(name, 1.0)) for name, value in params.items()})


NETS = {
    "MLP": (lambda: MLP(5, 3, width=6), (5,), "features.0", "features.2"),
    "head": (lambda: MLP(5, 3, width=6), (5,), "features.2", "head"),
    "convolutions": (relu_net, (1, 8, 8), "0", "3"),
    "convolution to linear": (relu_net, (1, 8, 8), "3", "6"),
}


@pytest.fixture(params=NETS)
def net(request):
    model, shape, layer, following = NETS[request.param]
    learner, params, episode = of(model(), shape)
    return erm_surface(learner, episode), params, lambda c: between_relus(params, layer, following, c)


def test_a_power_of_two_between_relus_changes_no_bit_of_the_loss_nor_of_adaptive_sharpness(net) -> None:
    surface, params, scaling = net

    def adaptive(point):
        return maximise(*in_weight_units(surface, point), 0.3, steps=6, restarts=1, generator=seeded(0))

    other = rescaled(params, scaling(8.0))
    assert float(surface(other)) == float(surface(params))
    here, there = adaptive(params), adaptive(other)
    assert (here.rise, here.first.rise, here.first.linear) == (there.rise, there.first.rise, there.first.linear)
    assert here.rise > 0.01


def test_gradient_and_hessian_change_by_the_inverse_on_each_side(net) -> None:
    surface, params, scaling = net
    a = diagonal(params, scaling(3.0))
    other = rescaled(params, scaling(3.0))
    torch.testing.assert_close(
        expand(surface, other).gradient, expand(surface, params).gradient / a, rtol=1e-11, atol=1e-13
    )
    torch.testing.assert_close(built(surface, other), built(surface, params) / a / a[:, None], rtol=1e-10, atol=1e-12)


def test_the_sweep_shows_what_moves_and_what_does_not(net) -> None:
    surface, params, scaling = net
    found = sweep(surface, params, scaling, FACTORS, **EFFORT)
    here = found[1]
    for at in found:
        H = built(surface, rescaled(params, scaling(at.factor)))
        assert at.top_eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-6)
        assert at.loss == here.loss
        assert at.adaptive_sharpness == pytest.approx(here.adaptive_sharpness, rel=1e-12)
        assert at.adaptive_top_eigenvalue == pytest.approx(here.adaptive_top_eigenvalue, rel=1e-9)
    assert found[2].top_eigenvalue > 4 * here.top_eigenvalue
    assert found[2].sharpness > 1.5 * here.sharpness


def test_the_same_predictions_may_be_as_sharp_as_one_likes(net) -> None:
    """The second layer's gradient grows with c, its curvature with c^2."""
    surface, params, scaling = net
    tops = [float(torch.linalg.eigvalsh(built(surface, rescaled(params, scaling(c))))[-1]) for c in (64.0, 256.0)]
    assert tops[1] / tops[0] == pytest.approx(16, rel=0.02)


def test_with_tanh_it_is_another_function() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    learner, params, episode = of(model, (5,))
    surface = erm_surface(learner, episode)
    assert abs(float(surface(rescaled(params, between_relus(params, "0", "2", 2.0))) - surface(params))) > 0.01


# --- batch norm ---------------------------------------------------------------------------------------------------


def conv4():
    """Images of deviation 100: next to their variance the 1e-5 that batch norm adds is nothing."""
    learner, params, episode = of(Conv4((1, 16, 16), 3, 2), (1, 16, 16))
    episode = episode._replace(support_x=100 * episode.support_x, query_x=100 * episode.query_x)
    return learner, params, episode


@pytest.mark.parametrize("c", [0.5, 4.0])
def test_before_batch_norm_the_block_of_a_layer_scales_and_nothing_makes_up_for_it(c) -> None:
    learner, params, episode = conv4()
    surface = erm_surface(learner, episode)
    other = rescaled(params, before_norm(params, [CONVOLUTIONS[0]], c))
    assert float(surface(other)) == pytest.approx(float(surface(params)), rel=1e-8)
    g, scaled_g = (gradient(surface, point) for point in (params, other))
    H, scaled_H = (built(surface, point) for point in (params, other))
    block = slice(0, params["features.0.conv.weight"].numel())
    weight = "features.0.conv.weight"
    torch.testing.assert_close(c * scaled_g[weight], g[weight], rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(scaled_g["head.weight"], g["head.weight"], rtol=1e-5, atol=1e-8)
    assert float((c**2 * scaled_H[block, block] - H[block, block]).norm() / H[block, block].norm()) < 1e-6
    rest = slice(block.stop, None)
    assert float((scaled_H[rest, rest] - H[rest, rest]).norm() / H[rest, rest].norm()) < 1e-6
    assert float((c * scaled_H[block, rest] - H[block, rest]).norm() / H[block, rest].norm()) < 1e-6


def test_the_epsilon_of_batch_norm_is_what_is_left() -> None:
    """With images of deviation 0.01 the first layer's variance is near 1e-5, and the scale is seen in the loss."""
    learner, params, episode = of(Conv4((1, 16, 16), 3, 3), (1, 16, 16))
    for size, change in ((1e-2, 1e-3), (1.0, 0.0)):
        surface = erm_surface(learner, episode._replace(support_x=size * episode.support_x))
        other = rescaled(params, before_norm(params, CONVOLUTIONS[:1], 8.0))
        difference = abs(float(surface(other) - surface(params)))
        assert difference > change
        assert size < 1 or difference < 1e-4


def test_smaller_weights_before_batch_norm_are_sharper_by_every_measure_but_the_adaptive_ones() -> None:
    learner, params, episode = conv4()
    surface = erm_surface(learner, episode)
    half, one, eight = sweep(surface, params, lambda c: before_norm(params, CONVOLUTIONS, c), FACTORS, **EFFORT)
    assert half.top_eigenvalue > one.top_eigenvalue > eight.top_eigenvalue
    assert half.sharpness > one.sharpness > eight.sharpness
    assert half.gradient_norm > one.gradient_norm > eight.gradient_norm
    for other in (half, eight):
        # What the deeper layers add their 1e-5 to is a variance of 0.1 to 0.4, times c^2.
        assert other.loss == pytest.approx(one.loss, rel=1e-4)
        assert other.adaptive_sharpness == pytest.approx(one.adaptive_sharpness, rel=1e-3)
        assert other.adaptive_top_eigenvalue == pytest.approx(one.adaptive_top_eigenvalue, rel=1e-3)


# --- the MAML loss ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0.5, 2.0])
def test_the_maml_loss_of_rescaled_weights_is_that_of_another_inner_step(c) -> None:
    """inner_lr / a^2 for each tensor; so it is not the same function, though the network is."""
    learner, params, episode = of(MLP(5, 3, width=6), (5,), inner_steps=1, inner_lr=3.0)
    scaling = between_relus(params, "features.0", "features.2", c)
    surface = maml_surface(learner, episode)
    slope = gradient(erm_surface(learner, episode), params)
    stepped = {name: value - 3.0 / scaling.get(name, 1.0) ** 2 * slope[name] for name, value in params.items()}
    expected = F.cross_entropy(functional_call(MLP(5, 3, width=6), stepped, (episode.query_x[0],)), episode.query_y[0])
    found = float(surface(rescaled(params, scaling)))
    assert found == pytest.approx(float(expected), rel=1e-13)
    assert abs(found - float(surface(params))) > 1e-3


def test_a_meta_models_own_loss_sees_the_scale_before_batch_norm_too() -> None:
    learner, params, episode = conv4()
    erm, maml = erm_surface(learner, episode), maml_surface(learner, episode)
    other = rescaled(params, before_norm(params, CONVOLUTIONS, 0.25))
    assert float(erm(other)) == pytest.approx(float(erm(params)), rel=1e-3)  # as above, times 1 / c^2 = 16
    assert abs(float(maml(other) - maml(params))) > 0.05


# --- what cannot be used ------------------------------------------------------------------------------------------


def test_layers_that_are_not_there_are_refused() -> None:
    params = {name: value.detach() for name, value in MLP(5, 3).named_parameters()}
    with pytest.raises(
        UserError, match=r"layer='features\.1' is not allowed: it must be one of features\.0, features\.2"
    ):
        between_relus(params, "features.1", "head", 2.0)
    with pytest.raises(UserError, match="layer='tail'"):
        between_relus(params, "features.0", "tail", 2.0)
    with pytest.raises(UserError, match=r"layer='features\.0\.conv'"):
        before_norm(params, ["features.0.conv"], 2.0)
    with pytest.raises(UserError, match="scaling='nobody' is not allowed"):
        rescaled(params, {"nobody": 2.0})


@pytest.mark.parametrize("c", [0.0, -1.0])
def test_a_factor_that_is_not_above_zero_is_refused(c) -> None:
    params = {name: value.detach() for name, value in MLP(5, 3).named_parameters()}
    for scaling in (lambda: between_relus(params, "features.0", "head", c), lambda: before_norm(params, ["head"], c)):
        with pytest.raises(UserError, match=f"c={c} is not allowed: it must be above 0"):
            scaling()


def test_one_step_moves_with_the_scale_and_its_adaptive_form_does_not() -> None:
    """Of the linear terms: alpha || A^-1 g ||, and alpha || |A w| A^-1 g || = alpha || |w| g ||."""
    learner, params, episode = of(MLP(5, 3, width=6), (5,))
    surface = erm_surface(learner, episode)
    scaling = between_relus(params, "features.0", "features.2", 4.0)
    other = rescaled(params, scaling)
    slope = gradient(surface, params)
    expected = norm({name: value / scaling.get(name, 1.0) for name, value in slope.items()})
    assert one_step(surface, other, 0.1).linear == pytest.approx(0.1 * float(expected), rel=1e-13)
    weighted = [one_step(*in_weight_units(surface, point), 0.1) for point in (params, other)]
    assert weighted[0].linear == weighted[1].linear
