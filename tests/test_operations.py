"""The count of operations against PyTorch's own, of every operation that a meta-gradient calls."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sharp_maml_core import Config, operations
from sharp_maml_core.data.episodes import sample_episodes
from sharp_maml_core.run import prepare

ZERO = {"zero_head": True, "feature_length": 30.0}


def counted(config: Config) -> float:
    """Billions of multiplications and additions, each pair of them one operation."""
    prepared = prepare(config)
    shape = {name: getattr(config, name) for name in ("n_tasks", "n_way", "k_shot", "n_query")}
    episode = sample_episodes(prepared.splits["train"], **shape, generator=torch.Generator().manual_seed(0))
    params = prepared.learner.init(torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        prepared.learner.gradient(params, episode)
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize("settings", [{}, ZERO, ZERO | {"k_shot": 5}, ZERO | {"inner_steps": 2, "n_query": 15}])
@pytest.mark.parametrize("variant", ["maml", "low", "up", "both"])
def test_the_count_is_pytorchs(variant: str, settings: dict[str, float]) -> None:
    given = {"inner_steps": 1, "k_shot": 1, "n_query": 5, "n_tasks": 1} | settings
    config = Config(variant=variant, alpha_low=0.05, alpha_up=0.05, **given)
    # Three in a hundred: the first layer's images need no gradient, and the head is not counted.
    assert counted(config) == pytest.approx(operations.of_iteration(config), rel=0.03)


def test_steps_that_spare_memory_are_counted_low() -> None:
    config = Config(inner_steps=3, n_query=5, n_tasks=1)
    assert 1 < counted(config) / operations.of_iteration(config) < 1.2


def test_the_first_order_is_counted_without_the_way_back() -> None:
    config = Config(variant="fomaml", inner_steps=2, n_query=5, n_tasks=1)
    assert counted(config) == pytest.approx(operations.of_iteration(config), rel=0.03)


def test_a_run_is_its_iterations() -> None:
    config = Config(iterations=7)
    assert operations.of_run(config) == 7 * operations.of_iteration(config)
