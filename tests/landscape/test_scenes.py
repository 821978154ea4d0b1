"""Scenes and walks: the core's way through a plane beside a loop written out by hand, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharp_maml_core import Config, Diverged, Episode, UserError, build_learner, load_split, sample_episodes
from sharp_maml_core.landscape.plane import PlaneLoss, TwoBowls, loss_at
from sharp_maml_core.landscape.scenes import PRECISION, SCENES, Scene, conv4, conv4_plane, double_well, scene
from sharp_maml_core.landscape.surfaces import plain_maml
from sharp_maml_core.landscape.walks import grid, inner_paths, losses, objective, radii, walk
from sharp_maml_core.params import Params, add_scaled
from tests.cases import seeded

WELL = double_well()


@pytest.fixture(scope="module")
def network() -> Scene:
    return conv4()


# --- the core's way, and a naive one ------------------------------------------------------------------------------


def exact(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def bowls(loss: PlaneLoss, point: Tensor) -> Tensor:
    """The double well once more, by operations that autograd differentiates itself."""
    assert isinstance(loss, TwoBowls)
    centres, curvatures = exact(loss.centres), exact(loss.curvatures)
    a, b = 0.5 * (curvatures * (point - centres) ** 2).sum(1)
    return a * b / (a + b)


def one_pass(theta: Tensor, lower: list[Tensor] | None, config: Config) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """The gradient of the adapted query loss by theta, that loss, the inner points, and the lower perturbations."""
    theta = theta.detach().requires_grad_()
    phi, path, used = theta, [theta.detach()], []
    for step in range(config.inner_steps):
        if lower is None:
            (g,) = torch.autograd.grad(bowls(WELL.support, phi), phi, retain_graph=True)
            used.append(config.alpha_low * g / g.norm())
        else:
            used.append(lower[step])
        (descent,) = torch.autograd.grad(bowls(WELL.support, phi + used[-1]), phi, create_graph=True)
        phi = phi - config.inner_lr * descent
        path.append(phi.detach())
    loss = bowls(WELL.query, phi)
    (gradient,) = torch.autograd.grad(loss, theta)
    return gradient, loss.detach(), torch.stack(path), used


@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize(
    ("low", "up"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.3), (0.2, 0.3)], ids=["maml", "low", "up", "both"]
)
def test_a_walk_is_that_of_a_naive_loop(low: float, up: float, inner_steps: int) -> None:
    config = WELL.config.replace(alpha_low=low, alpha_up=up, inner_steps=inner_steps, iterations=5)
    found = walk(WELL, config)
    theta = exact(WELL.start)
    for t in range(6):
        h, loss, inner, lower = one_pass(theta, None, config)
        upper = up * h / h.norm()
        gradient, perturbed, _, _ = one_pass(theta + upper, lower, config)
        expected = {
            "outer": theta,
            "inner": inner,
            "lower": torch.stack(lower),
            "upper": upper,
            "meta_loss": loss,
            "perturbed_loss": perturbed,
            "support_loss": torch.stack([bowls(WELL.support, phi) for phi in inner]),
            "query_loss": torch.stack([bowls(WELL.query, phi) for phi in inner]),
        }
        for name, value in expected.items():
            # Rounding errors grow from step to step.
            torch.testing.assert_close(getattr(found, name)[t], value, rtol=1e-12, atol=1e-12)
        theta = theta - config.outer_lr * gradient


class OnPlane(nn.Module):
    """A scene as a user's module: the input says which loss, 0 the support's, 1 the query's."""

    def __init__(self, of: Scene) -> None:
        super().__init__()
        self.point = nn.Parameter(exact(of.start))
        self._losses = (of.support, of.query)

    def forward(self, x: Tensor) -> Tensor:
        return loss_at(self._losses[int(x)], self.point)


@pytest.mark.parametrize(
    "changes",
    [
        {"variant": "maml"},
        {"variant": "low"},
        {"variant": "up"},
        {"variant": "both"},
        {"variant": "both", "adaptive": True},
        {"variant": "both", "perturbation_gradient": "through"},
        {"variant": "both", "reuse_lower_perturbation": False},
    ],
    ids=lambda changes: "-".join(str(value) for value in changes.values()),
)
def test_every_step_is_that_of_the_learner_to_the_last_bit(changes: dict[str, object]) -> None:
    config = WELL.config.replace(alpha_low=0.2, alpha_up=0.3, inner_steps=2, iterations=3, **changes)
    learner = build_learner(config, OnPlane(WELL), lambda outputs, targets: outputs)
    support, query = exact([[0]]), exact([[1]])
    episode = Episode(support, support, query, query)
    found = walk(WELL, config)
    for t in range(3):
        theta = {"point": found.outer[t]}
        grads, metrics = learner.gradient(theta, episode)
        assert torch.equal(found.outer[t + 1], add_scaled(theta, grads, -config.outer_lr)["point"])
        assert torch.equal(found.inner[t, -1], learner.adapt(theta, support[0], support[0])["point"])
        assert found.meta_loss[t] == metrics["query_loss"]
        assert found.perturbed_loss[t] == metrics.get("perturbed_loss", metrics["query_loss"])


def test_without_radii_all_variants_are_maml_to_the_last_bit() -> None:
    off = WELL.config.replace(alpha_low=0.0, alpha_up=0.0, iterations=3)
    plain = walk(WELL, off.replace(variant="maml", alpha_low=0.5, alpha_up=0.5))
    for variant in ("low", "up", "both"):
        for found, expected in zip(walk(WELL, off.replace(variant=variant)), plain, strict=True):
            assert torch.equal(found, expected)


def test_a_variant_uses_its_own_radii_only() -> None:
    config = Config(alpha_low=0.2, alpha_up=0.3)
    found = {variant: radii(config.replace(variant=variant)) for variant in ("maml", "low", "up", "both")}
    assert found == {"maml": (0, 0), "low": (0.2, 0), "up": (0, 0.3), "both": (0.2, 0.3)}


@pytest.mark.parametrize("name", SCENES)
def test_the_objective_on_the_grid_is_the_loss_at_the_end_of_each_inner_path(name: str) -> None:
    place = scene(name)
    config = place.config.replace(alpha_low=0.1, inner_steps=2, iterations=1)
    points = grid(place, 4)
    assert points[0, 0].tolist() + points[-1, -1].tolist() == [side[i] for i in (0, 1) for side in place.window]
    found = objective(place, config, points)
    for i, j in ((0, 0), (1, 3), (3, 2)):
        assert found[i, j] == walk(place, config, tuple(points[i, j].tolist())).meta_loss[0]
    paths = inner_paths(place, config, points.view(-1, 2))
    assert torch.equal(losses(place.query, paths[:, -1]), found.flatten())


# --- what is said of the scenes -----------------------------------------------------------------------------------


def end(**changes: float) -> tuple[float, float]:
    """How far from the sharp and from the flat minimum of the query loss a walk in the double well ends."""
    assert isinstance(WELL.query, TwoBowls)
    last = walk(WELL, WELL.config.replace(**changes)).outer[-1]
    sharp, flat = (float((last - exact(centre)).norm()) for centre in WELL.query.centres)
    return sharp, flat


def test_the_two_minima_are_equally_deep_and_27_times_as_sharp_and_the_pass_is_where_it_is_said_to_be() -> None:
    sharp, flat = (WELL.support.derivatives(*WELL.marks[name], 2) for name in ("sharp", "flat"))
    assert (sharp[0] / flat[0], sharp[2] / flat[2]) == pytest.approx((27, 27), rel=1e-14)
    assert WELL.support.derivatives(0.25, 0.0, 1) == pytest.approx((0, 0), abs=1e-15)
    for name in ("sharp", "flat"):
        assert WELL.support.derivatives(*WELL.marks[name], 0) == (0,)
    assert isinstance(WELL.support, TwoBowls)
    assert isinstance(WELL.query, TwoBowls)
    apart = np.subtract(WELL.query.centres, WELL.support.centres)
    assert np.hypot(*apart.T) == pytest.approx(0.05, rel=1e-12)


def test_maml_ends_in_the_sharp_minimum() -> None:
    sharp, _ = end(alpha_low=0.0, alpha_up=0.0)
    assert sharp < 0.05


@pytest.mark.parametrize("alpha_up", [0.3, 0.4, 0.5, 0.6, 0.7])
def test_with_a_middle_radius_theta_hovers_that_far_from_the_sharp_minimum(alpha_up: float) -> None:
    sharp, flat = end(alpha_up=alpha_up)
    assert sharp == pytest.approx(alpha_up, abs=0.08)
    assert flat > 0.2


@pytest.mark.parametrize("alpha_up", [0.75, 0.8, 0.9, 1.0])
def test_with_a_large_one_it_ends_in_the_flat_minimum(alpha_up: float) -> None:
    _, flat = end(alpha_up=alpha_up)
    assert flat < 0.08


@pytest.mark.parametrize("alpha_low", [0.1, 0.3, 0.5, 1.0])
def test_the_lower_radius_alone_does_not_lead_out_of_the_sharp_one(alpha_low: float) -> None:
    sharp, _ = end(alpha_low=alpha_low, alpha_up=0.0)
    assert sharp < 0.15


def test_the_losses_of_the_network_are_those_of_the_network(network: Scene) -> None:
    trained, task, frame = conv4_plane()
    learner = plain_maml(trained.config, trained.model)
    along, across = frame.axes.values()
    for x, y in np.random.default_rng(0).uniform((-0.6, -1.5), (2.4, 1.5), (8, 2)):
        theta = add_scaled(add_scaled(trained.params, along, x), across, y)
        for spline, images, labels in (
            (network.support, task.support_x, task.support_y),
            (network.query, task.query_x, task.query_y),
        ):
            loss = F.cross_entropy(learner.predict(theta, images[0]), labels[0]).item()
            assert abs(spline.derivatives(x, y, 0)[0] - loss) < 0.02  # between grid points; losses are up to 9


def test_at_the_trained_parameters_the_inner_step_is_the_network_s_own(network: Scene) -> None:
    trained, task, frame = conv4_plane()
    fast = plain_maml(trained.config, trained.model).adapt(trained.params, task.support_x[0], task.support_y[0])
    step = {name: fast[name] - value for name, value in trained.params.items()}
    coordinates = [sum((step[name] * axis[name]).sum() for name in step) for axis in frame.axes.values()]
    assert [float(c) for c in coordinates] == pytest.approx(network.marks["adapted"], abs=1e-12)
    inside = inner_paths(network, trained.config, exact([[0, 0]]))[0, 1]
    assert inside.tolist() == pytest.approx(network.marks["adapted"], rel=0.04, abs=0.005)  # the spline's slope


def test_the_network_has_a_valley_a_ridge_and_a_basin_that_is_flatter_and_not_lower(network: Scene) -> None:
    points = exact([[-0.07, 1.0], [0.3, 1.0], [1.4, 1.0]])
    valley, ridge, basin = objective(network, network.config, points).tolist()
    assert ridge > 2 * max(valley, basin)
    assert valley == pytest.approx(basin, rel=0.15)
    around = torch.stack([points[[0, 2]] - exact([0.3, 0]), points[[0, 2]] + exact([0.3, 0])])
    rise = objective(network, network.config, around).mean(0) - exact([valley, basin])
    assert rise[0] > 20 * rise[1] > 0
    before = losses(network.query, points)
    assert before[0] > 10 * valley
    assert before[2] == pytest.approx(basin, rel=0.05)


@pytest.mark.parametrize(
    ("alphas_up", "low", "high"),
    [((0.0, 0.05, 0.1), -0.15, 0.0), ((0.3, 0.5, 0.75), 0.25, 0.7), ((0.15, 0.2, 0.25, 0.8, 0.9, 1.0), 0.8, 1.6)],
    ids=["valley", "slope", "basin"],
)
def test_a_radius_above_a_tenth_leads_out_of_the_valley_to_the_basin_or_the_slope_before_it(
    network: Scene, alphas_up: tuple[float, ...], low: float, high: float
) -> None:
    for alpha_up in alphas_up:
        last = walk(network, network.config.replace(alpha_low=0.0, alpha_up=alpha_up)).outer[-1]
        assert low < last[0] < high


def test_the_basin_is_a_worse_beginning_for_other_tasks(network: Scene) -> None:
    trained, _, frame = conv4_plane()
    learner, along = plain_maml(trained.config, trained.model), frame.axes["inner step"]
    others = sample_episodes(
        load_split("glyphs", "test"), n_way=5, k_shot=1, n_query=5, n_tasks=20, generator=seeded(5), dtype=PRECISION
    )

    def accuracy(theta: Params) -> float:
        right = [
            learner.predict(learner.adapt(theta, support_x, support_y), query_x).argmax(-1) == query_y
            for support_x, support_y, query_x, query_y in zip(*others, strict=True)
        ]
        return torch.stack(right).double().mean().item()

    assert accuracy(trained.params) > accuracy(add_scaled(trained.params, along, 1.4)) + 0.1


# --- bad input ----------------------------------------------------------------------------------------------------


def test_an_unknown_scene_names_those_there_are() -> None:
    with pytest.raises(UserError, match="scene='triple-well' is not allowed: it must be one of double-well, conv4"):
        scene("triple-well")


@pytest.mark.parametrize("variant", ["anil", "e-low", "fomaml"])
def test_a_variant_that_has_no_meaning_on_a_plane_is_named(variant: str) -> None:
    with pytest.raises(UserError, match=f"variant='{variant}' is not allowed: it must be one of maml, low, up, both"):
        walk(WELL, WELL.config.replace(variant=variant))


def test_a_start_that_is_nowhere_is_named() -> None:
    with pytest.raises(UserError, match="start"):
        walk(WELL, WELL.config, (float("nan"), 0.0))


def test_a_grid_needs_two_points() -> None:
    with pytest.raises(UserError, match="points=1 is not allowed: it must be at least 2"):
        grid(WELL, 1)


@pytest.mark.parametrize("step", ["inner_lr", "outer_lr"])
@pytest.mark.parametrize("size", [1e30, 1e200])
def test_a_step_that_leads_beyond_all_numbers_says_so(step: str, size: float) -> None:
    with pytest.raises(Diverged, match="smaller inner_lr or outer_lr"):
        walk(WELL, WELL.config.replace(**{step: size}))
