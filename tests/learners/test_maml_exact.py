"""Every variant and setting against the naive unrolled reference: the adjoint recursion agrees to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from cases import ANIL, EFFICIENT, LOW, UP, TanhNet, classification, moved, regression, relative_error, seeded, setting
from reference import Method, Tensors, conv4, meta_gradient, mlp, tanh_net
from torch import nn

from sharp_maml_core import Config, Episode, build_learner
from sharp_maml_core.config import FAMILY
from sharp_maml_core.learners.common import kept_graphs
from sharp_maml_core.models import MLP, Conv4


class Case(NamedTuple):
    model: nn.Module
    forward: Callable  # the same network in the reference
    norm: str  # what names of the norm layers' parameters contain
    loss: Callable
    episode: Episode
    tolerance: float  # relative; about ten times what was measured


CASES = {
    "user": Case(TanhNet(), tanh_net, "features.1.", F.cross_entropy, classification(), 1e-14),
    "mlp": Case(MLP(5, 3, width=8), mlp, "no norm", F.cross_entropy, classification(), 1e-14),
    "regression": Case(MLP(5, 3, width=8), mlp, "no norm", F.mse_loss, regression(), 1e-14),
    # Each of four normalisations divides rounding errors by a small deviation: 1e-15 to 4e-14 was measured.
    "conv4": Case(Conv4((1, 16, 16), 3, 4), conv4, ".norm.", F.cross_entropy, classification((1, 16, 16)), 5e-13),
    "rgb": Case(Conv4((3, 20, 28), 3, 8), conv4, ".norm.", F.cross_entropy, classification((3, 20, 28)), 5e-13),
}


def every_setting(variant: str) -> list[dict[str, object]]:
    """All combinations of the settings that mean something to the variant; the paper's choices come first."""
    found: list[dict[str, object]] = [{}]

    def times(name: str, *values: object) -> None:
        found[:] = [choice | {name: value} for value in values for choice in found]

    if variant not in ANIL:
        times("adapt_norm", True, False)
    if variant in LOW or variant in UP:
        times("adaptive", False, True)
    if variant in LOW:
        times("perturbation_gradient", "stop", "through")
    if variant == "both":
        times("reuse_lower_perturbation", True, False)
    return found


def first_and_last() -> list[tuple[str, dict[str, object]]]:
    """Of each variant, the paper's choices and the opposite of all of them."""
    pairs = []
    for variant in FAMILY:
        choices = every_setting(variant)
        pairs += [(variant, choice) for choice in (choices[0], choices[-1])[: len(choices)]]
    return pairs


def in_words(value: object) -> str | None:
    return "-".join(map(str, value.values())) or "default" if isinstance(value, dict) else None


def in_the_reference(config: Config, case: Case, names: list[str]) -> Method:
    """The reference's settings, read off the variant's name here and not by the core."""
    variant = config.variant
    if variant in ANIL:
        names = [name for name in names if name.startswith("head.")]
    elif not config.adapt_norm:
        names = [name for name in names if case.norm not in name]
    return Method(
        forward=case.forward,
        loss=case.loss,
        adapted=tuple(names),
        inner_lr=config.inner_lr,
        inner_steps=config.inner_steps,
        alpha_low=config.alpha_low if variant in LOW else 0.0,
        alpha_up=config.alpha_up if variant in UP else 0.0,
        adaptive=config.adaptive,
        through=config.perturbation_gradient == "through",
        reuse=config.reuse_lower_perturbation,
        first_order=variant == "fomaml",
        xi=config.esam_weights if variant in EFFICIENT else 1.0,
        mu=config.esam_samples if variant in EFFICIENT else 1.0,
        fixed=("head.weight", "head.bias") if config.zero_head else (),
        features_once=variant in ANIL,
    )


def bernoulli(method: Method, params: Tensors, n_tasks: int, generator: torch.Generator) -> list[list[Tensors]] | None:
    """ESAM's masks, [task][step], from the numbers that the generator gives: tensor by tensor, all tasks and steps."""
    if method.xi == 1:
        return None
    size = n_tasks, method.inner_steps
    drawn = {name: torch.rand((*size, *params[name].shape), generator=generator) for name in method.adapted}
    return [
        [{name: (value[task, step] < method.xi).double() for name, value in drawn.items()} for step in range(size[1])]
        for task in range(size[0])
    ]


def assert_exact(config: Config, case: Case) -> None:
    """Gradient and loss equal the reference's, at a point where no parameter is zero but a head that has to be."""
    learner = build_learner(config, case.model, case.loss)
    params = moved(learner.init(seeded(1)))
    if config.zero_head:
        params |= {name: torch.zeros_like(value) for name, value in params.items() if name.startswith("head.")}
    method = in_the_reference(config, case, list(params))
    masks = bernoulli(method, params, case.episode.n_tasks, seeded(5))
    expected, loss = meta_gradient(method, params, list(zip(*case.episode, strict=True)), masks)
    grads, metrics = learner.gradient(params, case.episode, seeded(5))
    assert relative_error(grads, expected) < case.tolerance
    assert float(metrics["perturbed_loss" if config.variant in UP else "query_loss"]) == pytest.approx(loss, rel=1e-14)


@pytest.mark.parametrize("inner_steps", [1, 2, 5])
@pytest.mark.parametrize("variant", FAMILY)
def test_every_setting_on_a_users_network(variant, inner_steps):
    for choice in every_setting(variant):
        assert_exact(setting(variant, inner_steps=inner_steps, **choice), CASES["user"])


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
@pytest.mark.parametrize(("variant", "choice"), first_and_last(), ids=in_words)
def test_more_steps_than_graphs_that_are_kept(variant, choice, task_map):
    """With queries in plenty the last two of four steps keep their graph, and the others make it anew."""
    episode = classification(k_shot=1, n_query=7)
    assert kept_graphs(Episode(*(value[0] for value in episode))) == 2
    case = CASES["user"]._replace(episode=episode)
    assert_exact(setting(variant, inner_steps=4, task_map=task_map, **choice), case)


@pytest.mark.parametrize("name", ["mlp", "regression"])
@pytest.mark.parametrize(("variant", "choice"), first_and_last(), ids=in_words)
def test_the_papers_choices_and_their_opposites_on_an_mlp(variant, choice, name):
    assert_exact(setting(variant, inner_steps=3, **choice), CASES[name])


@pytest.mark.parametrize(("variant", "choice"), first_and_last(), ids=in_words)
def test_the_papers_choices_and_their_opposites_on_a_conv4(variant, choice):
    assert_exact(setting(variant, inner_steps=3, **choice), CASES["conv4"])


@pytest.mark.parametrize("variant", ["maml", "both", "e-low", "low-anil"])
def test_colour_images_with_odd_sides(variant):
    assert_exact(setting(variant, inner_steps=1), CASES["rgb"])


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("variant", FAMILY)
def test_a_head_that_starts_from_zero(variant, inner_steps, task_map):
    assert_exact(setting(variant, zero_head=True, inner_steps=inner_steps, task_map=task_map), CASES["user"])


@pytest.mark.parametrize("task_chunk", [0, 1, 2])
@pytest.mark.parametrize(("variant", "choice"), first_and_last(), ids=in_words)
def test_vmap_over_tasks_is_as_exact_as_the_loop(variant, choice, task_chunk):
    """Three tasks: all at once, one by one, and in chunks of which the last is not full."""
    assert_exact(setting(variant, task_map="vmap", task_chunk=task_chunk, **choice), CASES["user"])


@pytest.mark.parametrize("variant", ["fomaml", "both", "e-low", "low-anil"])
def test_vmap_is_exact_with_convolutions_and_batch_norm(variant):
    assert_exact(setting(variant, task_map="vmap", perturbation_gradient="through"), CASES["conv4"])


@pytest.mark.parametrize("variant", ["low", "both", "e-low"])
def test_paper_sized_radius_and_rate(variant):
    """Alpha = 5e-4, inner_lr = 0.1 and 5 steps, the defaults."""
    assert_exact(setting(variant, inner_lr=0.1, inner_steps=5, alpha_low=5e-4, alpha_up=5e-4), CASES["conv4"])


@pytest.mark.parametrize(("weights", "samples"), [(1.0, 0.4), (0.3, 1.0), (0.9, 0.01)])
@pytest.mark.parametrize("variant", EFFICIENT)
def test_each_of_esams_strategies_alone_and_a_single_sample(variant, weights, samples):
    assert_exact(setting(variant, esam_weights=weights, esam_samples=samples), CASES["user"])
