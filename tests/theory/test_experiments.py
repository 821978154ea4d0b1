"""What the theorem is told of an experiment, and what a page is told of the theorem."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from cases import seeded
from helpers import easy_split

from sharp_maml_core import Config, Conv4, UserError, build_learner, pretrained
from sharp_maml_core.params import norm
from sharp_maml_core.theory.experiments import ALPHAS, DELTA, experiment, on_split, paper_experiments, slider
from sharp_maml_core.theory.generalization import repaired, theorem2


def test_the_papers_experiments_are_counted() -> None:
    mini, omniglot = paper_experiments()
    # 3x3 convolutions with bias, scale and shift of the norm, and the last layer: counted by hand
    blocks = 3 * (64 * 64 * 9 + 64 + 128)
    assert mini.n_params == (3 * 64 * 9 + 64 + 128) + blocks + (64 * 5 * 5 + 1) * 5
    assert omniglot.n_params == (64 * 9 + 64 + 128) + blocks + (64 + 1) * 20
    assert (mini.n_images, omniglot.n_images) == (38_400, 20_560)
    assert (mini.n_disjoint_tasks, omniglot.n_disjoint_tasks) == (12, 51)


def test_the_norm_is_that_of_the_initial_parameters() -> None:
    for seed in (0, 3):
        params = build_learner(Config(device="cpu"), Conv4((3, 84, 84), 5)).init(seeded(seed))
        in_double = {name: value.double() for name, value in params.items()}
        assert paper_experiments(seed)[0].norm == pytest.approx(float(norm(in_double)), rel=1e-14)


def test_any_parameters_will_do() -> None:
    params = {"a": torch.full((2, 3), 2.0), "b": torch.tensor([5.0], dtype=torch.float16, requires_grad=True)}
    measured = on_split("mine", params, easy_split(), n_way=3)
    assert measured == ("mine", 7, 7.0, 8 * 6, 8, 3)
    assert measured.n_disjoint_tasks == 2


@pytest.mark.parametrize("name", pretrained.names())
def test_training_made_the_parameters_longer(name: str) -> None:
    found = pretrained.load(name)
    before = build_learner(found.config, found.model).init(seeded(found.config.seed))
    trained, initial = (experiment(name, params, 1, 1, 5) for params in (found.params, before))
    assert trained.n_params == initial.n_params
    assert trained.norm > initial.norm


@pytest.mark.parametrize(
    ("name", "given"),
    [("params", {"params": {}}), ("params", {"params": {"a": torch.tensor([math.nan])}}), ("n_images", {"n_images": 0}),
     ("n_classes", {"n_classes": 0}), ("n_way", {"n_way": 0})],
)  # fmt: skip
def test_bad_experiments_are_named(name: str, given: dict[str, object]) -> None:
    good = {"name": "x", "params": {"a": torch.ones(2)}, "n_images": 2, "n_classes": 2, "n_way": 2}
    with pytest.raises(UserError, match=f"^{name}="):
        experiment(**good | given)


def test_an_experiment_knows_its_bounds() -> None:
    one, _ = paper_experiments()
    sizes = {"n_params": one.n_params, "norm": one.norm}
    for bound, expected in (
        (one.at(ALPHAS), theorem2(ALPHAS, n_samples=one.n_images, n_tasks=1, delta=DELTA, **sizes)),
        (one.with_images(7, 0.3, 0.1), theorem2(0.3, n_samples=7, n_tasks=1, delta=0.1, **sizes)),
        (one.with_tasks([7, 9], 0.3, 0.1), repaired(0.3, n_tasks=[7, 9], delta=0.1, **sizes)),
    ):
        np.testing.assert_array_equal(bound, expected)


ALPHA_GRID, SIZE_GRID = np.geomspace(5e-5, 50, 41), np.geomspace(100, 1e7, 31)


def test_a_page_gets_the_same_numbers() -> None:
    data = slider(paper_experiments(), ALPHA_GRID, SIZE_GRID)
    text = json.dumps(data, allow_nan=False)
    assert len(text) < 100_000
    assert json.loads(text) == data
    assert np.shape(data["confidence"]) == np.shape(data["logarithm"]) == (31,)
    for one, shown in zip(paper_experiments(), data["experiments"], strict=True):
        assert (shown["name"], shown["n_params"], shown["n_images"]) == (one.name, one.n_params, one.n_images)
        assert shown["norm_of_theta"] == one.norm
        bound = theorem2(ALPHA_GRID[:, None], one.n_params, SIZE_GRID, 1, DELTA, one.norm)
        # six significant digits
        np.testing.assert_allclose(shown["root"], bound.root, rtol=5.1e-6)
        sums = np.add(shown["norm"], np.add(data["confidence"], data["logarithm"]))
        np.testing.assert_allclose(np.sqrt(sums), bound.root, rtol=5.1e-6)


@pytest.mark.parametrize(
    ("name", "given"),
    [("alphas", {"alphas": [0.0, 1.0]}), ("alphas", {"alphas": 0.1}), ("sizes", {"sizes": [[1.0, 2.0]]}),
     ("sizes", {"sizes": [0.5]}), ("delta", {"delta": 1.0}), ("experiments", {"experiments": ()})],
)  # fmt: skip
def test_bad_grids_are_named(name: str, given: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"^{name}="):
        slider(**{"experiments": paper_experiments(), "alphas": ALPHAS, "sizes": [10, 100]} | given)
