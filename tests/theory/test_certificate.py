"""Our own bound: each formula against its definition, each theorem against exact probabilities of a violation."""

from __future__ import annotations

import errno
import json
import math
import os
import types
from fractions import Fraction
from itertools import combinations
from math import comb
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from helpers import SmallNet, easy_split, small_config
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sharp_maml_core import UserError, build_learner, evaluate
from sharp_maml_core.learners import Learner
from sharp_maml_core.theory import certificate
from sharp_maml_core.theory.certificate import __main__ as command
from sharp_maml_core.theory.certificate import bounds, simulation

ROOT = Path(__file__).parents[2]
DELTAS = (0.01, 0.05, 0.2, 0.5, 0.9)
PROBABILITIES = st.one_of(st.floats(0, 1), st.floats(1e-12, 1e-3), st.floats(1e-12, 1e-3).map(lambda x: 1 - x))


def exact_kl(q: float, p: float) -> mpmath.mpf:
    """The definition, with 60 digits."""
    with mpmath.workdps(60):
        q, p = mpmath.mpf(q), mpmath.mpf(p)
        return (q * mpmath.log(q / p) if q else 0) + ((1 - q) * mpmath.log((1 - q) / (1 - p)) if q < 1 else 0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- kl and its inverse


@given(PROBABILITIES, PROBABILITIES)
def test_kl_is_its_definition_near_and_far(q: float, p: float) -> None:
    if 0 < p < 1:
        # Where the series ends, at |p - q| = q / 20, two terms 40 times the result cancel.
        assert float(bounds.kl(q, p)) == pytest.approx(float(exact_kl(q, p)), rel=3e-13, abs=1e-300)


def test_kl_at_the_ends() -> None:
    assert bounds.kl([0, 1, 0, 1, 0.5, 0.5], [0, 1, 1, 0, 0, 1]).tolist() == [0, 0, *[math.inf] * 4]
    assert float(bounds.kl(0, 0.25)) == pytest.approx(-math.log(0.75), rel=1e-15)


@given(PROBABILITIES, st.one_of(st.floats(0, 40), st.floats(1e-14, 1e-3)))
def test_the_inverse_is_the_largest_p_within_the_budget(q: float, budget: float) -> None:
    p = float(bounds.kl_inverse(q, budget))
    assert q <= p <= 1
    if q < p < 1:
        # kl(q || p) may be off by rounding of p: d kl = (p - q) / (p (1 - p)) dp.
        rounding = 8e-15 * p * (p - q) / (p * (1 - p)) + 3e-13 * budget
        assert abs(float(exact_kl(q, p)) - budget) <= rounding
    if p == q < 1 and budget > 0:
        assert exact_kl(q, float(np.nextafter(q, 1))) >= budget  # nothing lies in between


def test_the_inverse_at_the_ends() -> None:
    assert float(bounds.kl_inverse(0, 0.7)) == pytest.approx(-math.expm1(-0.7), rel=1e-15)
    assert float(bounds.kl_inverse(0, 1e-12)) == pytest.approx(1e-12, rel=1e-11)
    assert bounds.kl_inverse([1, 1, 0.3, 0], [0, 5, 0, 0]).tolist() == [1, 1, 0.3, 0]
    assert float(bounds.kl_inverse(0.3, 1e6)) == 1


# ---- the lemmas


@pytest.mark.parametrize("n", [1, 2, 3, 7, 12])
def test_the_moment_is_its_sum_and_what_every_bernoulli_attains(n: int) -> None:
    total = sum(comb(n, k) * Fraction(k, n) ** k * Fraction(n - k, n) ** (n - k) for k in range(n + 1))
    assert bounds.log_moment(n) == pytest.approx(math.log(total), rel=1e-13)
    for p in (0.1, 0.5):
        k = np.arange(n + 1)
        attained = stats.binom.pmf(k, n, p) @ np.exp(n * bounds.kl(k / n, p))
        assert attained == pytest.approx(float(total), rel=1e-12)


def test_the_moment_is_at_most_the_usual_form() -> None:
    for n in [*range(1, 100), 1000, 10_000]:
        assert bounds.log_moment(n) <= math.log(2 * math.sqrt(n)) + 1e-11  # of lgamma(n)'s rounding


def test_the_moment_bounds_other_variables_in_the_unit_interval() -> None:
    values, chances, n = np.array([0.0, 0.3, 1.0]), np.array([0.5, 0.3, 0.2]), 6
    grids = np.stack(np.meshgrid(*[np.arange(3)] * n), -1).reshape(-1, n)
    expected = chances[grids].prod(1) @ np.exp(n * bounds.kl(values[grids].mean(1), values @ chances))
    assert 1 < expected < math.exp(bounds.log_moment(n))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 3), (5, 4)])
def test_the_dealt_moment_is_its_sum(n: int, m: int) -> None:
    def term(ones: int, k: int) -> float:
        v = ones / (n + m)
        d = n * exact_kl(k / n, v) + m * exact_kl((ones - k) / m, v) if 0 < v < 1 else 0
        return comb(n, k) * comb(m, ones - k) / comb(n + m, ones) * float(mpmath.exp(d))

    sums = [sum(term(ones, k) for k in range(max(0, ones - m), min(n, ones) + 1)) for ones in range(n + m + 1)]
    assert bounds._log_dealt_moment(n, m) == pytest.approx(math.log(max(sums)), rel=1e-12)


def test_the_divergence_of_gaussians_is_torchs() -> None:
    mean, std = torch.tensor([0.3, -1.2], dtype=torch.float64), torch.tensor([0.5, 1.7], dtype=torch.float64)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, std), normal(torch.zeros(2), torch.ones(2))).sum()
    assert certificate.gaussian_divergence(mean.numpy(), std.numpy()) == pytest.approx(float(expected), rel=1e-14)


# ---- the theorems, against exact probabilities


@pytest.mark.parametrize("n", [5, 30, 200])
@pytest.mark.parametrize("p", [0.02, 0.3, 0.8])
def test_theorems_t_and_d_fail_no_more_often_than_they_may(n: int, p: float) -> None:
    k = np.arange(n + 1)
    chance = stats.binom.pmf(k, n, p)
    for delta in DELTAS:
        by_draws, by_tasks = bounds.draws(k / n, n, delta), bounds.new_tasks(k / n, 0.0, n, delta)
        assert chance[p > by_draws].sum() <= delta
        assert chance[p > by_tasks].sum() <= delta
        assert (by_tasks >= by_draws).all()  # the price of choosing among all Q


def test_theorem_d_holds_for_draws_of_different_means() -> None:
    means = np.linspace(0, 0.6, 30)
    chance = np.ones(1)
    for p in means:
        chance = np.convolve(chance, [1 - p, p])
    k = np.arange(len(means) + 1)
    for delta in DELTAS:
        assert chance[means.mean() > bounds.draws(k / len(means), len(means), delta)].sum() <= delta


def test_theorem_d_is_no_looser_than_it_has_to_be() -> None:
    """Without an error in n draws, kl_inverse is the exact 1 - delta^(1/n): the violation probability is delta."""
    assert float(bounds.draws(0.0, 20, 0.05)) == pytest.approx(1 - 0.05 ** (1 / 20), rel=1e-14)


@pytest.mark.parametrize("n_hard", [1, 3, 8, 20])
def test_theorem_c_fails_no_more_often_than_it_may(n_hard: int) -> None:
    n_way, m, n = 3, 8, 6  # 24 classes are seen and 18 are not
    hard = np.arange(n_hard + 1)
    chance = stats.hypergeom.pmf(hard, n_way * (m + n), n_hard, n_way * m)
    seen = np.array([1 - comb(24 - h, n_way) / comb(24, n_way) for h in hard])
    unseen = np.array([1 - comb(max(0, 18 - (n_hard - h)), n_way) / comb(18, n_way) for h in hard])
    possible = chance > 0
    for delta in DELTAS:
        violated = unseen > bounds.new_classes(seen, 0.0, m, n, delta)
        assert chance[violated & possible].sum() <= delta
    moment = chance[possible] @ np.exp(bounds._deviation(seen, unseen, m, n))[possible]
    assert moment <= math.exp(bounds._log_dealt_moment(m, n))


def test_theorem_c_solves_its_inequality() -> None:
    u, m, n, delta, divergence = np.array([0.0, 0.1, 0.4]), 30, 20, 0.05, 0.3
    r = bounds.new_classes(u, divergence, m, n, delta)
    budget = divergence + bounds._log_dealt_moment(m, n) - math.log(delta)
    v = (m * u + n * r) / (m + n)
    left = [m * exact_kl(a, c) + n * exact_kl(b, c) for a, b, c in zip(u, r, v, strict=True)]
    assert [float(x) for x in left] == pytest.approx([budget] * 3, rel=1e-13)
    assert (np.diff(r) > 0).all()
    assert float(bounds.new_classes(0.9, divergence, 5, 5, delta)) == 1


def test_many_unseen_classes_are_a_population() -> None:
    """M' -> infinity: D(u, r) -> M kl(u || r), Theorem T's, for the same budget."""
    m, u = 12, 0.2
    budget = 1.0 + bounds._log_dealt_moment(m, 3000) - math.log(0.05)
    population = float(bounds.kl_inverse(u, budget / m))
    assert float(bounds.new_classes(u, 1.0, m, 3000, 0.05)) == pytest.approx(population, rel=2e-3)


# ---- the simulation


def test_the_simulated_truth_is_what_many_tasks_show() -> None:
    for random in (False, True):
        one = simulation.tasks_coverage(4000, (0.05,), repetitions=20, generator=seeded(), random=random)
        spread = 0.5 / math.sqrt(4000)  # of a mean of indicators, at most
        assert np.abs(one.seen - one.truths).max() < 5 * spread
        assert np.abs((one.seen - one.truths).mean()) < 5 * spread / math.sqrt(20)


def test_the_error_of_dealt_classes_is_that_of_all_their_tasks() -> None:
    hard = {0, 3}
    tasks = list(combinations(range(7), 3))
    share = sum(bool(hard & set(task)) for task in tasks) / len(tasks)
    assert simulation._some_hard(7, np.array([2.0]), 3)[0] == pytest.approx(share, rel=1e-14)


@pytest.mark.parametrize("random", [False, True])
def test_the_bound_for_tasks_holds_at_its_confidence_for_a_fitted_posterior(random: bool) -> None:
    found = simulation.tasks_coverage(20, DELTAS, repetitions=1000, generator=seeded(), random=random)
    assert (found.violations_at_most(1e-3) <= found.deltas).all()
    assert (found.seen < found.truths).mean() > 0.5  # it is fitted: what was seen looks better than it is


def test_the_bound_for_classes_holds_for_all_learners_at_once() -> None:
    found = simulation.classes_coverage(12, 12, 5, (0.05, 0.5, 0.9), repetitions=400, generator=seeded())
    assert (found.violations_at_most(1e-3) <= found.deltas).all()
    assert found.violations.max() > 0  # at 0.9 it fails now and then, so it can


# ---- tasks, plane, posterior


def test_classes_are_dealt_without_overlap() -> None:
    split = easy_split(n_classes=8)
    first, second = certificate.deal(split, (3, 4), seeded(1))
    names = [*first.class_names, *second.class_names]
    assert [len(first.class_names), len(second.class_names), len(set(names))] == [3, 4, 7]
    for part in (first, second):
        for images, name in zip(part.images, part.class_names, strict=True):
            assert torch.equal(images, split.images[split.class_names.index(name)])
    assert certificate.blocks(294, 5) == (29, 29)
    assert certificate.blocks(15, 5) == (1, 2)


def test_the_error_of_tasks_is_what_evaluate_says() -> None:
    config = small_config(n_tasks=16)
    split = easy_split()
    learner = build_learner(config, SmallNet())
    params = learner.init(seeded())
    errors = certificate.task_errors(learner, lambda _: params, split, config, 20, 3, generator=seeded())
    scores = evaluate(learner, params, split, config, n_tasks=20, seed=3).scores
    assert torch.allclose(errors, 1 - scores, rtol=0, atol=1e-15)


def test_meta_parameters_are_drawn_anew_for_each_task() -> None:
    drawn = []

    def draw(generator: torch.Generator) -> dict[str, torch.Tensor]:
        drawn.append(float(torch.rand((), generator=generator)))
        return {}

    learner = Learner(None, None, lambda params, x, y: params, lambda params, x: torch.zeros(len(x), 3))
    certificate.task_errors(learner, draw, easy_split(), small_config(), 5, 0, generator=seeded())
    assert len(set(drawn)) == 5


def test_the_plane_has_the_checkpoints_principal_axes() -> None:
    x = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    checkpoints = [{"a": row[:1] + 5, "b": row[1:].view(1, 1)} for row in x]
    plane = certificate.plane_of(checkpoints, 2)
    assert plane.centre == {"a": torch.tensor([5.0], dtype=torch.float64), "b": torch.zeros(1, 1, dtype=torch.float64)}
    first, second = plane.axes
    assert first["a"].abs().item() == pytest.approx(math.sqrt(18 / 4), rel=1e-14)
    assert second["b"].abs().item() == pytest.approx(math.sqrt(2 / 4), rel=1e-14)
    assert max(first["b"].abs().item(), second["a"].abs().item()) < 1e-14
    moved = plane.at(torch.tensor([2.0, 0.0], dtype=torch.float64))
    assert moved["a"].item() == pytest.approx(5 + 2 * first["a"].item(), rel=1e-14)


def test_the_fitted_posterior_is_the_one_that_a_quadratic_loss_has_in_closed_form() -> None:
    """Of ||theta - target||^2 / 2 along an axis of length a: mean = a t / (a^2 + 1/M), std^2 = (1/M) / (a^2 + 1/M)."""
    lengths, target, n_units = torch.tensor([1.0, 0.5]), torch.tensor([0.8, -0.3]), 4
    plane = certificate.Plane({"w": torch.zeros(2)}, tuple({"w": axis} for axis in torch.diag(lengths)))
    learner = Learner(None, lambda params, episode: ({"w": params["w"] - target}, {}), None, None)
    posterior = certificate.fit(
        learner, plane, easy_split(), small_config(n_tasks=4), 400, 0, n_units=n_units, epochs=2, generator=seeded()
    )
    stiffness = lengths**2 + 1 / n_units
    # What is left of the noise of the last steps.
    assert posterior.mean.tolist() == pytest.approx((lengths * target / stiffness).tolist(), abs=0.1)
    assert posterior.std.tolist() == pytest.approx((1 / n_units / stiffness).sqrt().tolist(), abs=0.1)
    assert posterior.divergence == certificate.gaussian_divergence(posterior.mean.numpy(), posterior.std.numpy())


def test_draws_of_the_posterior_have_its_moments() -> None:
    plane = certificate.Plane({"w": torch.zeros(2)}, ({"w": torch.tensor([1.0, 0])}, {"w": torch.tensor([0, 2.0])}))
    mean, std = torch.tensor([1.0, -1.0], dtype=torch.float64), torch.tensor([0.1, 0.3], dtype=torch.float64)
    posterior, generator = certificate.Posterior(plane, mean, std), seeded()
    drawn = torch.stack([posterior.draw(generator)["w"] for _ in range(2000)])
    assert drawn.mean(0).tolist() == pytest.approx([1.0, -2.0], abs=0.05)
    assert drawn.std(0).tolist() == pytest.approx([0.1, 0.6], rel=0.08)
    assert posterior.at_mean(generator)["w"].tolist() == [1.0, -2.0]


# ---- certificates


def test_certificates_are_the_theorems_with_the_errors_put_in() -> None:
    errors, fresh = (
        torch.tensor([0.0, 0.2, 0.1, 0.1], dtype=torch.float64),
        torch.tensor([0.1, 0.3], dtype=torch.float64),
    )
    seen = certificate.Seen(errors, 4, 0.7)
    exact = certificate.certify_tasks("x", seen, fresh, 0.05, random=False)
    drawn = certificate.certify_tasks("x", seen, fresh, 0.05, random=True)
    classes = certificate.certify_classes("x", seen, 9, fresh, 0.05, candidates=3)
    mean = float(errors.mean())
    assert exact.bound == float(bounds.new_tasks(mean, 0.7, 4, 0.05))
    assert drawn.bound == float(bounds.new_tasks(bounds.draws(mean, 4, 0.01), 0.7, 4, 0.04))
    assert classes.bound == float(bounds.new_classes(bounds.draws(mean, 4, 0.01 / 3), 0.7, 4, 9, 0.04))
    assert exact.measured == pytest.approx(0.2, rel=1e-15)
    assert (exact.n_draws, drawn.n_draws, classes.n_unseen) == (0, 4, 9)


def test_checkpoints_are_certified_on_classes_that_training_never_saw() -> None:
    names = ["glyphs-maml-seed0", "glyphs-both-seed0"]
    found = certificate.certify_checkpoints(names, n_tasks=6, n_fresh=4)
    assert [(one.learner, one.unit) for one in found] == [(n, u) for n in names for u in ("tasks", "classes")]
    assert {one.divergence for one in found} == {math.log(2)}
    assert [(one.n_units, one.n_unseen) for one in found[:2]] == [(6, 0), (29, 29)]
    assert all(one.empirical < 0.3 < one.bound for one in found)  # trained, and six tasks promise little


def test_the_command_writes_certificates_that_can_be_computed_again(tmp_path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "new" / "certificate.json"
    tiny = ["--iterations", "12", "--filters", "2", "--tasks", "8", "--fresh", "4", "--variant", "maml"]
    assert command.main([str(out), *tiny]) == 0
    record = json.loads(out.read_text())
    assert {"command", "commit", "source_sha256", "device", "packages", "finished", "data"} <= record.keys()
    assert record["classes"] == {"prior": 362, "seen": 180, "unseen": 180}
    for one in (certificate.Certificate(**values) for values in record["certificates"]):
        assert one.bound == pytest.approx(_again(one), rel=1e-13)
        posterior = record["posteriors"][one.unit]
        assert one.divergence == certificate.gaussian_divergence(posterior["mean"], posterior["std"])
    assert f"at most {record['certificates'][0]['bound']:.4f}" in capsys.readouterr().out


def test_the_published_certificates_follow_from_their_figures_and_say_something() -> None:
    record = json.loads((ROOT / "book" / "results" / "certificate" / "glyphs.json").read_text())
    found = {one.unit: one for one in (certificate.Certificate(**values) for values in record["certificates"])}
    for one in found.values():
        assert one.bound == pytest.approx(_again(one), rel=1e-13)
        assert one.measured + one.interval < one.bound
    assert found["tasks"].bound < found["tasks"].measured + 0.2
    assert found["classes"].bound < 0.8  # chance
    assert record["paper"]["theorem2"] > 1


def test_the_command_names_what_is_wrong(tmp_path, capsys: pytest.CaptureFixture) -> None:
    assert command.main([str(tmp_path / "x.json"), "--variant", "bogus"]) == 2
    assert "variant='bogus' is not allowed" in capsys.readouterr().err


def test_too_few_iterations_for_a_plane_are_refused_before_any_training(
    tmp_path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharp_maml_core.theory.certificate.trained._train", None)
    assert command.main([str(tmp_path / "x.json"), "--iterations", "8", "--tasks", "8", "--fresh", "4"]) == 2
    says = capsys.readouterr().err
    assert "iterations=8 is not allowed: it must be enough for more than 2 checkpoints in their last quarter" in says
    assert "There would be 2: train for longer." in says


def test_a_full_disk_is_one_sentence_and_a_place_that_cannot_be_written_costs_no_training(
    tmp_path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    nothing = types.SimpleNamespace(certificates=[])
    with monkeypatch.context() as patch:
        patch.setattr(command, "certify_trained", lambda *given, **options: nothing)
        patch.setattr(command, "report", lambda *given: {})
        patch.setattr(os, "fsync", full)
        assert command.main([str(tmp_path / "x.json")]) == 2
    says = capsys.readouterr().err
    assert f"{tmp_path / 'x.json'} could not be written ([Errno 28] No space left on device). Make room" in says
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setattr(command, "certify_trained", None)
    assert command.main([str(tmp_path)]) == 2
    assert f"out='{tmp_path}' is not allowed: it must be a file" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert command.main([str(tmp_path / "file" / "x.json")]) == 2
    assert f"{tmp_path / 'file' / 'x.json'} could not be written" in capsys.readouterr().err


def test_an_interrupted_command_says_so_by_its_status(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "certify_trained", interrupted)
    assert command.main([str(tmp_path / "x.json")]) == 130


def _again(one: certificate.Certificate) -> float:
    upper = bounds.draws(one.empirical, one.n_draws, one.delta_draws)
    rest = one.delta - one.delta_draws
    if one.unit == "classes":
        return float(bounds.new_classes(upper, one.divergence, one.n_units, one.n_unseen, rest))
    return float(bounds.new_tasks(upper, one.divergence, one.n_units, rest))


# ---- bad input


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: bounds.kl(1.2, 0.5), "q=1.2 is not allowed: it must be between 0 and 1"),
        (lambda: bounds.kl_inverse(0.5, -1e-9), "budget=-1e-09 is not allowed: it must be at least 0"),
        (lambda: bounds.kl_inverse(math.nan, 0.1), "q=nan is not allowed"),
        (lambda: bounds.new_tasks(0.1, 0.0, 0, 0.05), "n=0"),
        (lambda: bounds.new_tasks(0.1, 0.0, 2.5, 0.05), "n=2.5 is not allowed: it must be a whole number"),
        (lambda: bounds.new_classes(0.1, 0.0, 5, 2.5, 0.05), "n_unseen=2.5 is not allowed: it must be a whole number"),
        (lambda: bounds.new_tasks(0.1, -1.0, 10, 0.05), "divergence=-1.0"),
        (lambda: bounds.new_tasks(0.1, 0.0, 10, 1.0), "delta=1.0 is not allowed: it must be above 0 and below 1"),
        (lambda: bounds.new_classes(0.1, 0.0, 5, 0, 0.05), "n_unseen=0"),
        (lambda: bounds.draws(0.1, 0, 0.05), "n_draws=0"),
        (lambda: certificate.gaussian_divergence([0.0], [0.0]), "std=0.0"),
        (lambda: certificate.gaussian_divergence([math.nan], [1.0]), "mean=nan"),
        (lambda: certificate.deal(easy_split(n_classes=4), (3, 2), seeded()), r"sizes=\(3, 2\) .* at most 4"),
        (lambda: certificate.deal(easy_split(), (0,), seeded()), "sizes=0"),
        (lambda: certificate.blocks(9, 5), "n_classes=9 is not allowed: it must be at least 10"),
        (lambda: certificate.plane_of([{"w": torch.zeros(2)}], 1), "checkpoints=1 .* more than 1"),
        (lambda: certificate.plane_of([{"w": torch.zeros(2)}], 0), "dimension=0"),
        (lambda: certificate.plane_of([{"w": torch.tensor([math.nan])}] * 3, 1), "checkpoints"),
        (lambda: certificate.certify_checkpoints([], n_tasks=5, n_fresh=5), "names=0"),
        (lambda: certificate.certify_checkpoints(["nobody"], n_tasks=5, n_fresh=5), "name='nobody'"),
        (lambda: certificate.certify_checkpoints(["x"], n_tasks=5, n_fresh=5, delta=0.0), "delta=0.0"),
        (
            lambda: certificate.certify_checkpoints(["glyphs-maml-seed0", "cifar-fs-maml-seed0"], n_tasks=5, n_fresh=5),
            "cifar-fs-maml-seed0.dataset='cifar-fs' is not allowed: it must be 'glyphs', as in glyphs-maml-seed0",
        ),
        (lambda: certificate.certify_trained(small_config(), n_tasks=1, n_fresh=5), "n_tasks=1"),
        (lambda: certificate.certify_trained(small_config(), n_tasks=5, n_fresh=5, passes=0), "passes=0"),
        (
            lambda: certificate.certify_trained(small_config(dataset="sinusoid"), n_tasks=5, n_fresh=5),
            "dataset='sinusoid'",
        ),
        (lambda: simulation.tasks_coverage(5, (2.0,), repetitions=5, generator=seeded()), "deltas=2.0"),
        (lambda: simulation.tasks_coverage(0, (0.1,), repetitions=5, generator=seeded()), "n_tasks=0"),
        (lambda: simulation.classes_coverage(5, 0, 5, (0.1,), repetitions=5, generator=seeded()), "n_unseen=0"),
    ],
)
def test_bad_input_is_named(call, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        call()
