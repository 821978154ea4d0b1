"""Surfaces are the losses that they say they are, to second order, inside and outside of torch.func."""

from __future__ import annotations

import pytest
import reference
import torch
import torch.nn.functional as F
from cases import (
    Coordinates,
    SmoothNet,
    TanhNet,
    classification,
    draw,
    half_squares,
    moved,
    one_task,
    regression,
    relative_error,
    seeded,
    setting,
)

from sharp_maml_core import Conv4, UserError, build_learner
from sharp_maml_core.landscape.surfaces import erm_surface, maml_surface, plain_maml, same_data
from sharp_maml_core.params import add_scaled, dot

LR = 0.3


def tasks_of(episode):
    return list(zip(*episode, strict=True))


def naive(forward, params, **changes):
    return reference.Method(forward, F.cross_entropy, tuple(params), inner_lr=LR, inner_steps=2, **changes)


CASES = {
    "tanh": (TanhNet, reference.tanh_net, (5,)),
    "conv4": (lambda: Conv4((1, 16, 16), 3, 4), reference.conv4, (1, 16, 16)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_maml_surface_and_its_gradient_are_those_of_eq_2_and_10(case) -> None:
    model, forward, shape = CASES[case]
    config, episode = setting("maml", n_way=3), classification(shape)
    learner = build_learner(config, model())
    params = moved(learner.init(seeded(0)))
    expected, loss = reference.meta_gradient(naive(forward, params), params, tasks_of(episode))
    surface = maml_surface(learner, episode)
    assert float(surface(params)) == pytest.approx(loss, rel=1e-13)
    inside = torch.func.grad(surface)(params)
    assert relative_error(inside, expected) < 1e-12
    assert relative_error(inside, learner.gradient(params, episode)[0]) < 1e-12
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    outside = torch.autograd.grad(surface(leaves), list(leaves.values()), materialize_grads=True)
    assert relative_error(dict(zip(leaves, outside, strict=True)), expected) < 1e-12


@pytest.mark.parametrize("case", CASES)
def test_the_erm_surface_is_the_mean_loss_on_the_support_sets(case) -> None:
    model, forward, shape = CASES[case]
    learner, episode = build_learner(setting("maml", n_way=3), model()), classification(shape)
    params = moved(learner.init(seeded(0)))

    def by_hand(params):
        return sum(F.cross_entropy(forward(params, x), y) for x, y, _, _ in tasks_of(episode)) / 3

    surface = erm_surface(learner, episode)
    assert float(surface(params)) == pytest.approx(float(by_hand(params)), rel=1e-13)
    assert relative_error(torch.func.grad(surface)(params), torch.func.grad(by_hand)(params)) < 1e-12


def test_with_several_tasks_it_is_their_mean() -> None:
    learner, episode = build_learner(setting("maml"), TanhNet()), classification()
    params = moved(learner.init(seeded(0)))
    for kind in (erm_surface, maml_surface):
        each = [float(kind(learner, one_task(episode, task))(params)) for task in range(3)]
        assert float(kind(learner, episode)(params)) == pytest.approx(sum(each) / 3, rel=1e-14)


def test_second_derivatives_are_exact_through_the_inner_loop_and_batch_norm() -> None:
    learner, episode = build_learner(setting("maml"), SmoothNet()), classification((1, 8, 8), n_tasks=2)
    params = moved(learner.init(seeded(0)))
    u, v = ({name: draw(*value.shape, seed=seed) for name, value in params.items()} for seed in (20, 40))
    surface = maml_surface(learner, episode)
    gradient, times = torch.func.vjp(torch.func.grad(surface), params)
    hessian_v, hessian_u = times(v)[0], times(u)[0]
    step = 1e-5  # central differences of the exact gradient: an error of about step^2 of the third derivatives

    def beside(scale):
        return learner.gradient(add_scaled(params, v, scale), episode)[0]

    differences = add_scaled(beside(step), beside(-step), -1.0)
    assert relative_error(hessian_v, {name: value / (2 * step) for name, value in differences.items()}) < 1e-7
    assert float(dot(u, hessian_v)) == pytest.approx(float(dot(v, hessian_u)), rel=1e-11)
    assert relative_error(gradient, learner.gradient(params, episode)[0]) < 1e-12


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # PyTorch's own forward mode uses it
def test_the_hessian_of_quadratic_tasks_is_the_formula() -> None:
    episode = regression(d_out=1, n_tasks=1)
    episode = episode._replace(support_y=episode.support_y[..., 0], query_y=episode.query_y[..., 0])
    config = setting("maml", inner_steps=1, inner_lr=0.01)
    learner = build_learner(config, Coordinates(), half_squares)
    params = moved(learner.init(seeded(0)))
    A, B = (x[0].T @ x[0] for x in (episode.support_x, episode.query_x))
    J = torch.eye(5, dtype=torch.float64) - 0.01 * A

    def of_a_vector(surface):
        return lambda theta: surface({"first": theta[:2], "rest": theta[2:]})

    theta = torch.cat(list(params.values()))
    erm = of_a_vector(erm_surface(learner, episode, half_squares))
    maml = of_a_vector(maml_surface(learner, episode, half_squares))
    same = of_a_vector(maml_surface(learner, same_data(episode), half_squares))
    J_same = torch.eye(5, dtype=torch.float64) - 0.01 * B
    for surface, expected in ((erm, A), (maml, J @ B @ J), (same, J_same @ B @ J_same)):
        # Both orders of nesting: forward over reverse, and reverse over reverse.
        for hessian in (torch.func.hessian(surface), torch.func.jacrev(torch.func.grad(surface))):
            torch.testing.assert_close(hessian(theta), expected, rtol=1e-11, atol=1e-11)


def test_a_stationary_point_of_the_loss_is_one_of_mamls_on_the_same_data() -> None:
    """Lemma 1a."""
    episode = regression(d_out=1, n_tasks=1)
    episode = same_data(episode._replace(support_y=episode.support_y[..., 0], query_y=episode.query_y[..., 0]))
    learner = build_learner(setting("maml", inner_lr=0.01), Coordinates(), half_squares)
    best = torch.linalg.lstsq(episode.support_x[0], episode.support_y[0][:, None]).solution[:, 0]
    params = {"first": best[:2], "rest": best[2:]}
    for surface in (erm_surface(learner, episode, half_squares), maml_surface(learner, episode, half_squares)):
        assert all(value.abs().max() < 1e-12 for value in torch.func.grad(surface)(params).values())


def test_the_surface_of_a_sharp_learner_is_differentiated_through_its_perturbation() -> None:
    learner, episode = build_learner(setting("low"), TanhNet()), classification()
    params = moved(learner.init(seeded(0)))
    method = naive(reference.tanh_net, params, alpha_low=0.2, through=True)
    expected, loss = reference.meta_gradient(method, params, tasks_of(episode))
    surface = maml_surface(learner, episode)
    assert float(surface(params)) == pytest.approx(loss, rel=1e-13)
    assert relative_error(torch.func.grad(surface)(params), expected) < 1e-12
    assert relative_error(learner.gradient(params, episode)[0], expected) > 1e-3  # Eq. 10 takes it for a constant


@pytest.mark.parametrize("variant", ["both", "anil", "e-low"])
def test_plain_maml_is_one_function_for_the_models_of_every_variant(variant) -> None:
    episode = classification()
    plain = plain_maml(setting(variant, eval_inner_steps=5), TanhNet())
    maml = build_learner(setting("maml"), TanhNet())
    params = moved(maml.init(seeded(0)))
    assert torch.equal(maml_surface(plain, episode)(params), maml_surface(maml, episode)(params))


def test_no_graph_is_kept_unless_somebody_will_differentiate() -> None:
    learner, episode = build_learner(setting("maml"), TanhNet()), classification()
    params = learner.init(seeded(0))
    for surface in (erm_surface(learner, episode), maml_surface(learner, episode)):
        assert surface(params).grad_fn is None
        assert surface({name: value.clone().requires_grad_() for name, value in params.items()}).grad_fn is not None


def test_an_episode_without_samples_is_refused() -> None:
    learner, episode = build_learner(setting("maml"), TanhNet()), classification()
    no_queries = episode._replace(query_x=episode.query_x[:, :0], query_y=episode.query_y[:, :0])
    assert float(erm_surface(learner, no_queries)(learner.init(seeded(0)))) > 0
    with pytest.raises(UserError, match=r"episode.query_y=\(3, 0\) is not allowed: it must be of at least one task"):
        maml_surface(learner, no_queries)
    no_tasks = type(episode)(*(value[:0] for value in episode))
    with pytest.raises(UserError, match=r"episode\.support_y"):
        erm_surface(learner, no_tasks)
