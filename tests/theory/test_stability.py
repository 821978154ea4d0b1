"""The stability of the adapted learner: the closed form, what is measured, and that the first is never below."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import N_WAY, SIDE, easy_images, image_split, small_config
from torch import Tensor

from sharp_maml_core import Config, UserError, build_learner, sample_episodes
from sharp_maml_core.learners import Learner
from sharp_maml_core.theory.stability import NEIGHBOURS, Changes, UnitSoftmax, measure_changes, stability_bound

SHAPE = (1, SIDE, SIDE)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def softmax_regression(variant: str = "maml", **changes: object) -> tuple[Learner, dict[str, Tensor], Config]:
    config = small_config(variant, dtype="float64", **changes)
    learner = build_learner(config, UnitSoftmax(SHAPE, N_WAY))
    return learner, learner.init(seeded(2)), config


# ---- the closed form


def test_one_step_is_the_formula_of_the_lemma() -> None:
    n = np.array([5, 50])
    assert stability_bound(0.1, n, 3.0).tolist() == pytest.approx([2 * 0.1 * 9 / 5, 2 * 0.1 * 9 / 50], rel=1e-15)
    assert float(stability_bound(0.1, 5, 3.0, query_lipschitz=0.5)) == pytest.approx(2 * 0.1 * 1.5 / 5, rel=1e-15)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_more_steps_follow_the_recursion_of_the_proof(steps: int) -> None:
    b, l0, l1, alpha, n = 0.3, 2.0, 1.5, 0.2, 10
    distance = 0.0
    for _ in range(steps):
        distance = (1 + b * l1) * distance + 2 * b * (l0 / n + alpha * l1)
    got = float(stability_bound(b, n, l0, smoothness=l1, steps=steps, alpha_low=alpha))
    assert got == pytest.approx(l0 * distance, rel=1e-14)


def test_the_constants_of_softmax_regression_are_bounds_and_nearly_attained() -> None:
    model = UnitSoftmax(SHAPE, N_WAY).double()
    x = torch.rand(SHAPE, generator=seeded(), dtype=torch.float64)[None]

    def logits(theta: Tensor) -> Tensor:
        weight, bias = theta[:-N_WAY].view(N_WAY, -1), theta[-N_WAY:]
        return torch.func.functional_call(model, {"head.weight": weight, "head.bias": bias}, (x,))

    def cross_entropy(theta: Tensor) -> Tensor:
        return F.cross_entropy(logits(theta), torch.tensor([0]))

    def wrong(theta: Tensor) -> Tensor:
        return 1 - logits(theta).softmax(-1)[0, 0]

    n_params = N_WAY * (SIDE * SIDE + 1)
    points = [
        scale * torch.randn(n_params, generator=seeded(i), dtype=torch.float64) for i, scale in enumerate((0, 1, 30))
    ]
    sure = torch.zeros(n_params, dtype=torch.float64)
    sure[-N_WAY:] = torch.tensor([-50.0, 50.0, 0.0])  # of the wrong class
    even = torch.zeros(n_params, dtype=torch.float64)
    even[-N_WAY:] = torch.tensor([0.0, 0.0, -50.0])  # between two

    def slopes(function) -> list[float]:
        return [float(torch.func.grad(function)(point).norm()) for point in (*points, sure, even)]

    hessians = [torch.autograd.functional.hessian(cross_entropy, point) for point in (*points, even)]
    for found, constant in (
        (slopes(cross_entropy), UnitSoftmax.LIPSCHITZ),
        (slopes(wrong), UnitSoftmax.PROBABILITY_LIPSCHITZ),
        ([float(torch.linalg.eigvalsh(hessian).max()) for hessian in hessians], UnitSoftmax.SMOOTHNESS),
    ):
        assert max(found) == pytest.approx(constant, rel=1e-12)


# ---- what is measured


@pytest.mark.parametrize(
    ("variant", "steps", "alpha"), [("maml", 1, 0.0), ("maml", 4, 0.0), ("low", 1, 0.3), ("low", 3, 0.3)]
)
def test_no_real_task_exceeds_the_bound(variant: str, steps: int, alpha: float) -> None:
    learner, params, config = softmax_regression(variant, inner_lr=1.0, inner_steps=steps, alpha_low=alpha)
    split = image_split(easy_images(n_instances=12))
    found = measure_changes(learner, params, split, config, shots=(1, 2, 6), n_query=3, n_tasks=10)
    for changes, of_query in (
        (found.cross_entropy, UnitSoftmax.LIPSCHITZ),
        (found.probability, UnitSoftmax.PROBABILITY_LIPSCHITZ),
    ):
        bound = stability_bound(
            1.0,
            found.n_samples,
            UnitSoftmax.LIPSCHITZ,
            query_lipschitz=of_query,
            smoothness=UnitSoftmax.SMOOTHNESS,
            steps=steps,
            alpha_low=alpha,
        )
        assert (changes.max(-1) <= bound).all()
        assert (changes.max((0, 2)) > bound / 100).all()  # it is the same quantity


def test_the_largest_change_is_that_of_a_loop_over_everything() -> None:
    learner, params, config = softmax_regression(inner_lr=2.0)
    split = image_split(easy_images(n_instances=8))
    k_shot, n_query, replaced = 2, 2, 2
    found = measure_changes(
        learner, params, split, config, shots=(k_shot,), n_query=n_query, n_tasks=1, replaced=replaced, seed=4
    )
    generator = seeded(4)
    episode = sample_episodes(
        split, n_way=N_WAY, k_shot=k_shot, n_query=n_query + 1, n_tasks=1, generator=generator, dtype=torch.float64
    )
    support_x, support_y, query_x, query_y = (value[0] for value in episode)
    chosen = torch.randperm(N_WAY * k_shot, generator=generator)[:replaced].tolist()
    spare = [query_x[label * (n_query + 1)] for label in range(N_WAY)]
    queries = [i for i in range(len(query_y)) if i % (n_query + 1)]

    def probabilities(examples: list[tuple[Tensor, int]]) -> list[float]:
        x, y = torch.stack([image for image, _ in examples]), torch.tensor([label for _, label in examples])
        fast = learner.adapt(params, x, y)
        return [float(learner.predict(fast, query_x[i][None]).softmax(-1)[0, query_y[i]]) for i in queries]

    examples = [(image, int(label)) for image, label in zip(support_x, support_y, strict=True)]
    before = probabilities(examples)
    expected = dict.fromkeys(NEIGHBOURS, 0.0)
    for j in chosen:
        label = examples[j][1]
        other = (label + 1) % N_WAY
        changed = {
            "same class": [*examples[:j], (spare[label], label), *examples[j + 1 :]],
            "other class": [*examples[:j], (spare[other], other), *examples[j + 1 :]],
            "left out": [*examples[:j], *examples[j + 1 :]],
        }
        for name, neighbour in changed.items():
            after = probabilities(neighbour)
            largest = max(abs(a - b) for a, b in zip(after, before, strict=True))
            expected[name] = max(expected[name], largest)
    assert found.probability[:, 0, 0].tolist() == pytest.approx(list(expected.values()), rel=1e-12)


def test_an_answer_that_changes_is_a_change_of_one() -> None:
    learner, params, config = softmax_regression(inner_lr=50.0)
    split = image_split(easy_images(n_instances=6))
    found = measure_changes(learner, params, split, config, shots=(1,), n_query=3, n_tasks=6)
    assert set(np.unique(found.flipped)) == {0.0, 1.0}
    assert (found.flipped[NEIGHBOURS.index("left out")] == 1).all()  # the only image of its class
    assert found.probability.max() > 0.9


def test_a_power_law_has_its_exponent() -> None:
    n = np.array([5.0, 10.0, 50.0])
    changes = np.stack([0.3 / n, 0.7 / n], -1)
    slope = Changes(n, changes[None], changes[None], changes[None]).slope(changes)
    assert slope.value == pytest.approx(-1, rel=1e-13)
    assert slope.interval == pytest.approx(0, abs=1e-13)
    steeper = Changes(n, changes[None], changes[None], changes[None]).slope(np.stack([1 / n, n**-2.0], -1))
    assert (steeper.value, steeper.interval) == pytest.approx((-1.5, 1.959963984540054 * math.sqrt(0.5) / math.sqrt(2)))


def changes_of(values: list[list[float]]) -> Changes:
    changes = np.array(values)
    return Changes(np.arange(1.0, 1 + len(changes)), *[changes[None]] * 3)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: changes_of([[1.0, 2.0]]).slope(np.array([[1.0, 2.0]])), "n_samples=1 .* at least 2"),
        (lambda: changes_of([[1.0], [2.0]]).slope(np.array([[1.0], [2.0]])), "n_tasks=1 .* at least 2"),
        (lambda: changes_of([[1.0] * 2] * 2).slope(np.array([[1.0, 0.0], [1.0, 1.0]])), "changes=0.0 .* above 0"),
        (lambda: stability_bound(0.0, 5, 1.0), "inner_lr=0.0 is not allowed: it must be above 0"),
        (lambda: stability_bound(0.1, 0, 1.0), "n_samples=0"),
        (lambda: stability_bound(0.1, 5, -1.0), "lipschitz=-1.0"),
        (lambda: stability_bound(0.1, 5, 1.0, smoothness=math.inf), "smoothness=inf is not allowed: it must be finite"),
        (lambda: stability_bound(0.1, 5, 1.0, steps=0), "steps=0"),
        (lambda: stability_bound(0.1, 5, 1.0, alpha_low=-0.1), "alpha_low=-0.1"),
        (lambda: measure_changes(*_arguments(), n_tasks=0), "n_tasks=0"),
        (lambda: measure_changes(*_arguments(), replaced=0), "replaced=0"),
        (lambda: measure_changes(*_arguments(), shots=(0,)), "shots=0"),
        (lambda: measure_changes(*_arguments(), shots=(1, 10), n_query=2), r"k_shot \+ n_query=13 .* at most 6"),
    ],
)
def test_bad_input_is_named(call, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        call()


def _arguments() -> tuple:
    learner, params, config = softmax_regression()
    return learner, params, image_split(easy_images()), config
