"""Lemma 6: its root, and what it promises where n counts tasks and where it counts samples."""

from __future__ import annotations

import math

import pytest
from cases import seeded
from scipy import stats

from sharp_maml_core import UserError
from sharp_maml_core.theory.lemma6 import HYPOTHESES, pac_bayes_root, violations

DELTA = 0.05


def test_the_root_as_it_is_printed() -> None:
    for kl, n, delta in ((0.0, 1, 0.5), (3.2, 100, 0.05), (2000.0, 38_400, 1e-6)):
        expected = math.sqrt((kl + math.log(2 * math.sqrt(n) / delta)) / (2 * n))
        assert float(pac_bayes_root(kl, n, delta)) == pytest.approx(expected, rel=1e-14)


def exact_chance(n_tasks: int, n_units: int) -> float:
    """Without noise a hypothesis' loss is the share of its hard tasks: eight independent binomials."""
    allowed = n_tasks * (0.5 - float(pac_bayes_root(math.log(HYPOTHESES), n_units, DELTA)))
    below = sum(stats.binom.pmf(hard, n_tasks, 0.5) for hard in range(n_tasks + 1) if hard < allowed)
    return 1 - (1 - below) ** HYPOTHESES


@pytest.mark.parametrize(("n_tasks", "n_samples"), [(1, 5), (1, 100), (4, 100), (16, 10), (16, 1000)])
def test_counts_are_those_of_the_exact_distribution(n_tasks: int, n_samples: int) -> None:
    draws = 2000
    found = violations(n_tasks, n_samples, DELTA, draws=draws, generator=seeded(n_tasks), noise=0.0)
    for count, n_units in ((found.by_samples, n_tasks * n_samples), (found.by_tasks, n_tasks)):
        chance = exact_chance(n_tasks, n_units)
        # four standard deviations; a chance of 0 or 1 allows none
        assert abs(count - draws * chance) <= 4 * math.sqrt(draws * chance * (1 - chance)) + 1e-6


@pytest.mark.parametrize("n_tasks", [1, 4, 16, 64])
def test_with_samples_for_n_the_promise_is_broken_and_with_tasks_it_is_kept(n_tasks: int) -> None:
    found = violations(n_tasks, 1000, DELTA, draws=500, generator=seeded(0))
    assert found.by_samples > 0.9 * found.draws
    assert found.by_tasks <= DELTA * found.draws


def test_with_one_sample_of_each_task_samples_are_independent() -> None:
    found = violations(64, 1, DELTA, draws=500, generator=seeded(0))
    assert found.by_samples == found.by_tasks <= DELTA * found.draws


def test_the_generator_decides() -> None:
    first, same, other = (violations(64, 10, DELTA, draws=300, generator=seeded(seed)) for seed in (0, 0, 1))
    assert first == same != other


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_tasks", 0), ("n_samples", 0), ("draws", 0), ("delta", 0.0), ("delta", 1.0), ("delta", math.nan),
     ("noise", 0.6), ("noise", -0.1)],
)  # fmt: skip
def test_bad_input_is_named(name: str, value: float) -> None:
    given = {"n_tasks": 2, "n_samples": 2, "delta": DELTA, "draws": 2, "generator": seeded(0)}
    with pytest.raises(UserError, match=f"^{name}="):
        violations(**given | {name: value})


@pytest.mark.parametrize(("name", "value"), [("kl", -1.0), ("n_units", 0), ("delta", 1.0), ("delta", [0.1, 0.0])])
def test_bad_input_of_the_root_is_named(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"^{name}="):
        pac_bayes_root(**{"kl": 1.0, "n_units": 10, "delta": 0.1} | {name: value})
