"""The error of a mean over seeds and tasks: what resampling says, and how often its intervals err."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sharp_maml_core.crossed import Estimate, chance, estimate


def a_table(seed: int, luck: float, ease: float, rest: float, n_seeds: int = 3, n_tasks: int = 200) -> np.ndarray:
    """D [S, T] of mean zero, with the given standard deviations."""
    draw = np.random.default_rng(seed).normal
    return draw(0, luck, (n_seeds, 1)) + draw(0, ease, (1, n_tasks)) + draw(0, rest, (n_seeds, n_tasks))


def test_the_variance_is_that_of_two_bootstraps_less_what_both_count() -> None:
    """20,000 draws know a variance to sqrt(2 / n) = 1%, of which five are allowed."""
    table, draw = a_table(0, 1.0, 1.0, 1.0, n_seeds=4, n_tasks=50), np.random.default_rng(1)
    n_seeds, n_tasks = table.shape
    rows = table.mean(1)[draw.integers(n_seeds, size=(20_000, n_seeds - 1))].mean(1)
    columns = table.mean(0)[draw.integers(n_tasks, size=(20_000, n_tasks - 1))].mean(1)
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    cells = rest.ravel()[draw.integers(table.size, size=(20_000, table.size))].mean(1).var()
    cells *= table.size / ((n_seeds - 1) * (n_tasks - 1))  # the rest has that many degrees of freedom
    found = estimate(table)
    assert found.error**2 == pytest.approx(rows.var() + columns.var() - cells, rel=0.05)
    assert found.mean == pytest.approx(table.mean())


def test_where_tasks_are_alike_it_is_the_t_test_of_the_seeds() -> None:
    table = np.repeat([[10.0], [20.0], [60.0]], 4, axis=1)
    found, exact = estimate(table), stats.ttest_1samp([10, 20, 60], 0)
    assert found.p == pytest.approx(exact.pvalue)
    low, high = exact.confidence_interval()
    assert [found.mean - found.reach, found.mean + found.reach] == pytest.approx([low, high])


def test_where_seeds_are_alike_and_of_one_seed_it_is_the_t_test_of_the_tasks() -> None:
    tasks = np.random.default_rng(0).normal(0.3, 1, 40)
    exact = stats.ttest_1samp(tasks, 0)
    for n_seeds in (1, 3):
        found = estimate(np.tile(tasks, (n_seeds, 1)))
        assert found.p == pytest.approx(exact.pvalue)


def test_a_table_of_nothing_and_one_that_is_constant() -> None:
    assert estimate(np.zeros((3, 5))).p == 1
    assert estimate(np.ones((3, 5))).p == 0
    assert estimate(np.ones((3, 5))).reach == 0


def test_a_variance_that_is_known_leaves_the_normal_law() -> None:
    known = Estimate(0.0, 1.0, 3.0, 0.0, np.inf, np.inf)
    assert known.reach == pytest.approx(2 * stats.norm.ppf(0.975))
    assert chance(known, 4.0) == pytest.approx(2 * stats.norm.sf(2))


@pytest.mark.parametrize(("freedom", "sizes"), [(1, [1, 63, 300, 1000]), (2, [1, 30, 100, 1000]), (9, [1, 5, 10])])
def test_far_out_too_it_is_students_t(freedom: int, sizes: list[float]) -> None:
    """Down to a p of 1e-6. With two seeds a difference of a thousand standard errors is p = 0.0006, and no less."""
    for size in sizes:
        exact = 2 * stats.t.sf(size, freedom)
        assert chance(Estimate(0.0, 1.0, 0.0, 0.0, freedom, np.inf), size) == pytest.approx(exact, rel=1e-4)


def test_the_chance_is_that_of_variances_drawn_given_the_data() -> None:
    """Of a million draws the mean is known to less than 0.05%, of which five are allowed."""
    found, draw = Estimate(3.0, 1.0, 2.0, 0.5, 2, 9), np.random.default_rng(0).chisquare
    of_tasks = 2.0 * 9 / draw(9, 1_000_000)
    variances = np.maximum(np.maximum(1.0 * 2 / draw(2, 1_000_000) + of_tasks - 0.5, of_tasks), 0.5)
    assert found.p == pytest.approx((2 * stats.norm.sf(3.0 / np.sqrt(variances))).mean(), rel=0.0025)


@pytest.mark.parametrize("n_seeds", [3, 5])
@pytest.mark.parametrize(
    ("luck", "ease", "rest", "least"),
    [
        (1.0, 0.5, 3.0, 0.03),  # the seeds' luck is most of the error, as in our short runs
        (0.5, 0.5, 3.0, 0.03),
        (0.3, 3.0, 1.0, 0.03),  # the tasks are
        (0.1, 3.0, 3.0, 0.01),  # and the seeds hardly, but three do not say so
        (0.2, 0.5, 3.0, 0.01),  # all three alike
        (0.0, 0.5, 3.0, 0.001),  # the rest is: nothing but chance within tasks, of which the interval keeps too much
    ],
)
def test_of_differences_of_nothing_one_in_twenty_is_called_one(
    luck: float, ease: float, rest: float, least: float, n_seeds: int
) -> None:
    """Of 1000 differences of nothing. At 5% their standard deviation is 0.7%; four of these are allowed above.

    Below, `least`: where the rest is most of it, an interval that is at least the tasks' is wider than 95%.
    """
    called = np.mean([estimate(a_table(seed, luck, ease, rest, n_seeds)).p < 0.05 for seed in range(1000)])
    assert least <= called < 0.078


@pytest.mark.parametrize("level", [0.05 / 7, 0.05 / 20])
@pytest.mark.parametrize(("luck", "ease", "rest"), [(1.0, 0.0, 1.0), (1.0, 0.5, 3.0), (0.5, 0.5, 3.0), (0.3, 3.0, 1.0)])
def test_so_it_is_at_the_levels_of_seven_and_of_twenty_comparisons(
    luck: float, ease: float, rest: float, level: float
) -> None:
    """Of 3000 differences of nothing, of three seeds: four standard deviations are allowed above."""
    called = np.mean([estimate(a_table(seed, luck, ease, rest, n_tasks=50)).p < level for seed in range(3000)])
    assert called < level + 4 * (level / 3000) ** 0.5
