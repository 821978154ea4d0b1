"""Measurements of trained models: each figure is what its function gives, files go on where they stopped."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from cases import draw, seeded
from helpers import easy_data, image_split, small_config
from scipy import stats

from sharp_maml_core import Episode, UserError, build_learner, evaluate, pretrained, run_experiment, sample_episodes
from sharp_maml_core.landscape import measured, summary
from sharp_maml_core.landscape.__main__ import main
from sharp_maml_core.landscape.directions import random_frame
from sharp_maml_core.landscape.measure import Effort, Settings, identity, measure, measure_surface
from sharp_maml_core.landscape.sharpness import in_weight_units, one_step
from sharp_maml_core.landscape.slices import local_minima, take_slice
from sharp_maml_core.landscape.spectrum import expand
from sharp_maml_core.landscape.summary import Correlation, Mean, Row
from sharp_maml_core.landscape.surfaces import erm_surface, maml_surface, plain_maml

EFFORT = Effort(4, 2, 1, 0)
SETTINGS = Settings(
    n_tasks=2,
    meta_tasks=2,
    alpha=0.1,
    adaptive_alpha=0.2,
    top=2,
    erm=EFFORT,
    maml=EFFORT,
    meta=EFFORT,
    slice_tasks=1,
    slice_points=5,
    accuracy_tasks=4,
)
VARIANTS = ("maml", "both")


def images():
    return {split: value.repeat_interleave(3, -1).repeat_interleave(3, -2) for split, value in easy_data().items()}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for a few iterations, in a folder like `pretrained`."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for variant in VARIANTS:
        run = tmp_path_factory.mktemp(variant)
        run_experiment(small_config(variant, alpha_low=0.05, alpha_up=0.05), run, data=images(), progress=False)
        pretrained.keep(run, f"easy-{variant}-seed0", folder)
    return folder


@pytest.fixture(scope="module")
def splits():
    return {name: image_split(value, name=f"easy/{name}") for name, value in images().items()}


@pytest.fixture(scope="module")
def results(checkpoints: Path, splits) -> list[dict]:
    models = [pretrained.load(f"easy-{variant}-seed0", folder=checkpoints) for variant in VARIANTS]
    return [measure(model, splits, SETTINGS) for model in models]


# --- one surface --------------------------------------------------------------------------------------------------


def test_the_figures_of_a_quadratic_are_those_of_its_formula() -> None:
    d = torch.tensor([5.0, 2.0, -1.0], dtype=torch.float64)
    params = {"x": torch.tensor([0.3, -0.4, 0.2], dtype=torch.float64)}
    settings = dataclasses.replace(SETTINGS, alpha=0.5, adaptive_alpha=1.0)
    found = measure_surface(lambda p: 0.5 * (d * p["x"] ** 2).sum(), params, settings, Effort(3, 2, 40, 0), seeded(0))
    g = d * params["x"]
    assert found["loss"] == pytest.approx(0.5 * (5 * 0.09 + 2 * 0.16 - 0.04), rel=1e-5)
    assert found["gradient_norm"] == pytest.approx(float(g.norm()), rel=1e-5)
    assert found["top_eigenvalues"] == pytest.approx([5, 2], rel=1e-5)
    assert found["lowest_eigenvalue"] == pytest.approx(-1, rel=1e-5)
    assert found["trace"] == pytest.approx(6, rel=1e-5)
    assert sum(found["weights"]) == pytest.approx(1, abs=1e-5)
    assert found["linear"] == pytest.approx(0.5 * float(g.norm()), rel=1e-5)
    assert found["adaptive_linear"] == pytest.approx(float((params["x"].abs() * g).norm()), rel=1e-5)
    assert found["sharpness"] >= found["one_step"] > 0
    assert found["alignment"] == pytest.approx(1, abs=1e-3)


# --- one model ----------------------------------------------------------------------------------------------------


def test_each_task_has_the_figures_of_its_own_surfaces(results, checkpoints: Path, splits) -> None:
    model = pretrained.load("easy-both-seed0", folder=checkpoints)
    learner = plain_maml(model.config, model.model)
    tasks = sample_episodes(
        splits["test"], n_way=3, k_shot=1, n_query=2, n_tasks=2, generator=torch.Generator().manual_seed(0)
    )
    for name, build in (("erm", erm_surface), ("maml", maml_surface)):
        figures = results[1]["surfaces"][name]
        for index in range(2):
            surface = build(learner, Episode(*(value[index : index + 1] for value in tasks)))
            expansion = expand(surface, model.params)
            assert figures["loss"][index] == pytest.approx(expansion.value, rel=1e-5)
            assert figures["gradient_norm"][index] == pytest.approx(float(expansion.gradient.norm()), rel=1e-5)
            assert figures["one_step"][index] == pytest.approx(one_step(surface, model.params, 0.1).rise, rel=1e-4)
            weighted = one_step(*in_weight_units(surface, model.params), 0.2)
            assert figures["adaptive_one_step"][index] == pytest.approx(weighted.rise, rel=1e-3, abs=1e-6)
        assert {len(values) for key, values in figures.items() if key != "local_minima"} == {2}
        first = build(learner, Episode(*(value[:1] for value in tasks)))
        cut = take_slice(first, random_frame(model.params, 0), points=5)
        assert figures["local_minima"] == [len(local_minima(cut))]


def test_the_meta_objective_is_a_mean_over_tasks_of_the_training_classes(results, checkpoints: Path, splits) -> None:
    model = pretrained.load("easy-both-seed0", folder=checkpoints)
    seen = sample_episodes(
        splits["train"], n_way=3, k_shot=1, n_query=2, n_tasks=2, generator=torch.Generator().manual_seed(0)
    )
    expansion = expand(maml_surface(plain_maml(model.config, model.model), seen), model.params)
    figures = results[1]["surfaces"]["meta"]
    assert figures["loss"] == pytest.approx([expansion.value], rel=1e-5)
    assert figures["gradient_norm"] == pytest.approx([float(expansion.gradient.norm())], rel=1e-5)
    assert {len(values) for values in figures.values()} == {1}


def test_all_models_are_seen_by_the_same_function(results, checkpoints: Path, splits) -> None:
    """`both` perturbs its inner loop; the surface that it is measured on does not."""
    model = pretrained.load("easy-both-seed0", folder=checkpoints)
    as_maml = model._replace(config=model.config.replace(variant="maml"))
    again = measure(as_maml, splits, SETTINGS)
    assert again["surfaces"] == results[1]["surfaces"]


def test_the_gap_is_the_same_learners_accuracy_on_training_classes_minus_that_on_test_classes(
    results, checkpoints: Path, splits
) -> None:
    model = pretrained.load("easy-both-seed0", folder=checkpoints)
    learner = build_learner(model.config, model.model)
    seen = evaluate(learner, model.params, splits["train"], model.config, n_tasks=4, seed=0)
    test = model.result["best"]
    assert results[1]["accuracy"] == {
        "test": {"mean": test["mean"], "interval_95": test["interval_95"], "tasks": 6},
        "train": {"mean": seen.mean, "interval_95": seen.interval, "tasks": 4},
        "gap": {"mean": seen.mean - test["mean"], "interval_95": math.hypot(seen.interval, test["interval_95"])},
    }


def test_a_measurement_says_what_it_is_of_and_survives_json(results, checkpoints: Path) -> None:
    for variant, values in zip(VARIANTS, results, strict=True):
        model = pretrained.load(f"easy-{variant}-seed0", folder=checkpoints)
        assert json.loads(json.dumps(values, allow_nan=False)) == values
        assert identity(model, SETTINGS).items() <= values.items()
        assert values["variant"] == variant
        assert values["data"] == model.result["data"]
        assert {"commit", "device", "started", "finished", "command"} <= set(values["provenance"])
    assert results[0]["model_sha256"] != results[1]["model_sha256"]


def test_other_data_than_the_model_was_trained_on_are_refused(checkpoints: Path, splits) -> None:
    model = pretrained.load("easy-maml-seed0", folder=checkpoints)
    with pytest.raises(UserError, match="the data that easy-maml-seed0 was trained on"):
        measure(model, splits | {"test": splits["train"]}, SETTINGS)


# --- files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, results, splits) -> list[tuple]:
    """What `measure` was asked; it answers with what is known already."""
    asked = []

    def known(model, given, settings, *, progress):
        asked.append((model.name, given["train"], given["test"], settings))
        return results[VARIANTS.index(model.config.variant)] | identity(model, settings)

    monkeypatch.setattr(measured, "measure", known)
    monkeypatch.setattr(measured, "load_split", lambda dataset, split, root: splits[split])
    return asked


def names():
    return tuple(f"easy-{variant}-seed0" for variant in VARIANTS)


def test_what_is_there_is_not_measured_again(calls, splits, checkpoints: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    first = measured.measure_all(names()[:1], folder, SETTINGS, checkpoints=checkpoints)
    both = measured.measure_all(names(), folder, SETTINGS, checkpoints=checkpoints)
    assert calls == [(name, splits["train"], splits["test"], SETTINGS) for name in names()]
    assert both[0] == first[0] == measured.read(folder / "easy-maml-seed0.json")
    assert measured.read_all(folder, "easy") == both  # maml before both, as everywhere
    assert measured.read_all(folder, "other") == []
    assert len(list(folder.iterdir())) == 2


def test_other_settings_and_other_parameters_are_measured_anew(calls, checkpoints: Path, tmp_path: Path) -> None:
    measured.measure_all(names()[:1], tmp_path, SETTINGS, checkpoints=checkpoints)
    wider = dataclasses.replace(SETTINGS, alpha=0.2)
    measured.measure_all(names()[:1], tmp_path, wider, checkpoints=checkpoints)
    path = tmp_path / "easy-maml-seed0.json"
    values = measured.read(path)
    path.write_text(json.dumps(values | {"model_sha256": "of others"}))
    measured.measure_all(names()[:1], tmp_path, wider, checkpoints=checkpoints)
    assert [settings.alpha for *_, settings in calls] == [0.1, 0.2, 0.2]
    assert measured.read(path) == values


@pytest.mark.parametrize("text", ["{", "[]", '{"model": "x"}'])
def test_a_damaged_file_is_named(tmp_path: Path, text) -> None:
    (tmp_path / "easy-maml-seed0.json").write_text(text)
    with pytest.raises(UserError, match=r"easy-maml-seed0\.json.*Delete it to measure again"):
        measured.read_all(tmp_path, "easy")


def test_the_command_measures_the_models_of_a_data_set_and_says_what_it_found(
    checkpoints: Path, results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def known(names, folder, settings, **how):
        asked.append((names, folder, settings, how))
        return results

    monkeypatch.setattr(pretrained, "HERE", checkpoints)
    monkeypatch.setattr(measured, "measure_all", known)
    line = ["measure", "--dataset", "easy", "--data-root", "x", "--out", str(tmp_path), "--n-tasks", "4", "--quiet"]
    assert main([*line, "--alpha", "0.1"]) == 0
    models = ("easy-both-seed0", "easy-maml-seed0")
    assert asked == [(models, tmp_path, Settings(n_tasks=4, alpha=0.1), {"data_root": "x", "progress": False})]
    assert capsys.readouterr().out.splitlines() == [measured.describe(values) for values in results]
    assert main(["measure", "--dataset", "nothing", "--out", str(tmp_path)]) == 2
    assert "the data set of a pretrained model" in capsys.readouterr().err


def test_a_line_describes_a_model(results) -> None:
    values = results[1]
    top = sum(row[0] for row in values["surfaces"]["maml"]["top_eigenvalues"]) / 2
    assert measured.describe(values).startswith(f"easy-both-seed0: top eigenvalue {top:.1f}, sharpness ")


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_tasks", 1), ("alpha", 0.0), ("adaptive_alpha", -1.0), ("top", 0), ("slice_points", 2), ("slice_tasks", 17)],
)
def test_settings_out_of_range_are_refused(field, value) -> None:
    with pytest.raises(UserError, match=f"{field}={value} is not allowed"):
        Settings(**{field: value})


# --- summary ------------------------------------------------------------------------------------------------------


def table_of(variants: dict[str, list[float]], accuracy: dict[str, list[float]]) -> list[Row]:
    """Rows whose every figure is the given one."""
    keys = [f"{surface} {measure}" for surface in summary.SURFACES for measure in summary.MEASURES]
    return [
        Row(
            f"x-{variant}-seed{seed}",
            variant,
            seed,
            {key: Mean(value, 0.1, 5) for key in keys},
            {"accuracy": Mean(accuracy[variant][seed], 0.01, 9), "gap": Mean(1 - accuracy[variant][seed], 0.01, 9)},
        )
        for variant, values in variants.items()
        for seed, value in enumerate(values)
    ]


def test_the_interval_is_students() -> None:
    values = [1.0, 2.0, 4.0, 9.0]
    low, high = stats.t.interval(0.95, 3, loc=4.0, scale=stats.sem(values))
    found = summary.mean_of(values)
    assert found.mean == 4.0
    assert (found.mean - found.interval, found.mean + found.interval) == pytest.approx((low, high), rel=1e-12)
    assert summary.mean_of([3.0]) == (3.0, math.inf, 1)
    with pytest.raises(UserError, match="at least one"):
        summary.mean_of([])


def test_rows_are_means_over_tasks(results) -> None:
    table = summary.rows(results)
    assert [row.model for row in table] == list(names())
    figures = results[0]["surfaces"]["maml"]
    assert table[0].figures["maml sharpness"] == summary.mean_of(figures["sharpness"])
    assert table[0].figures["maml top_eigenvalue"] == summary.mean_of([row[0] for row in figures["top_eigenvalues"]])
    assert table[0].figures["erm local_minima"].n == 1
    assert table[1].outcomes["gap"].mean == results[1]["accuracy"]["gap"]["mean"]


def test_a_variant_is_judged_by_its_seeds() -> None:
    found = summary.over_seeds(table_of({"maml": [10.0, 12.0, 14.0]}, {"maml": [0.4, 0.5, 0.6]}))
    assert found["maml"]["erm trace"] == summary.mean_of([10.0, 12.0, 14.0])
    assert found["maml"]["accuracy"] == summary.mean_of([0.4, 0.5, 0.6])


def test_changes_are_paired_by_seed() -> None:
    table = table_of({"maml": [10.0, 100.0], "low": [8.0, 70.0]}, {"maml": [0.4, 0.8], "low": [0.5, 0.9]})
    found = summary.changes(table)
    assert list(found) == ["low"]
    assert found["low"]["maml sharpness"].mean == pytest.approx((-0.2 - 0.3) / 2)
    assert found["low"]["accuracy"].mean == pytest.approx(0.1)
    assert found["low"]["accuracy"].interval == pytest.approx(0, abs=1e-12)
    with pytest.raises(UserError, match="reference='up' is not allowed: it must be one of maml, low"):
        summary.changes(table, "up")


def test_the_rank_correlation_and_its_interval() -> None:
    """Bonett and Wright's interval holds rho in about 95 of 100 samples: of 400 within three standard errors."""
    rho, low, high = summary.rank_correlation([1, 2, 3, 4, 5], [1, 3, 2, 5, 4])
    assert rho == pytest.approx(0.8, abs=1e-12)
    assert -1 < low < 0.8 < high < 1
    truth = 6 / math.pi * math.asin(0.6 / 2)  # of a bivariate normal with correlation 0.6
    inside = 0
    for seed in range(400):
        x, noise = draw(2, 12, seed=seed)
        _, low, high = summary.rank_correlation(x.tolist(), (0.6 * x + 0.8 * noise).tolist())
        inside += low <= truth <= high
    assert inside / 400 == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 400))


def test_a_perfect_order_of_four_proves_little_and_of_twelve_a_lot() -> None:
    rho, low, high = summary.rank_correlation([1, 2, 3, 4], [2, 4, 6, 8])
    assert (rho, high) == (pytest.approx(1), 1.0)
    assert low < 0
    rho, low, high = summary.rank_correlation(range(12), range(12, 0, -1))
    assert (rho, low) == (pytest.approx(-1), -1.0)
    assert high < -0.9


@pytest.mark.parametrize(("x", "y"), [([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, 3, 4], [1, 2, 3])])
def test_points_without_a_rank_correlation_are_refused(x, y) -> None:
    with pytest.raises(UserError, match="x, y="):
        summary.rank_correlation(x, y)


def test_the_verdict_says_which_way_and_how_sure() -> None:
    sharp = {"maml": [1.0, 2.0, 3.0, 4.0], "low": [5.0, 6.0, 7.0, 8.0]}
    falling = {"maml": [0.9, 0.8, 0.7, 0.6], "low": [0.5, 0.4, 0.3, 0.2]}
    found = summary.correlations(table_of(sharp, falling))
    assert len(found) == 30
    assert all(one.rho == pytest.approx(-1 if one.outcome == "accuracy" else 1) for one in found)
    first, second, *_ = summary.verdict(found, table_of(sharp, falling)).splitlines()
    flatter = "goes with a flatter surface by 15 (rho {0} to {0}) of 15 measures, and with a sharper one by none."
    assert first == f"Higher test accuracy {flatter.format('-1.00')}"
    assert second == f"A smaller gap {flatter.format('+1.00')}"
    mixed = table_of(sharp, {"maml": [0.5, 0.9, 0.4, 0.6], "low": [0.7, 0.3, 0.8, 0.2]})
    unsure = summary.verdict(summary.correlations(mixed), mixed)
    assert (
        "Higher test accuracy goes with a flatter surface by none of 15 measures, and with a sharper one by none"
        in unsure
    )
    assert "8 models" in unsure
    assert "Beside" not in unsure
    other = [Correlation("maml", "trace", "accuracy", 0.9, 0.5, 0.98, 9)]
    assert "by none of 1 measures, and with a sharper one by 1 (rho +0.90 to +0.90)" in summary.verdict(other, mixed)


def test_the_verdict_names_the_variants_that_are_flatter_and_less_accurate_themselves() -> None:
    flat = {"maml": [10.0, 11.0, 12.0], "low": [10.0, 11.5, 11.5], "up": [1.0, 1.1, 1.2]}
    worse = {"maml": [0.90, 0.91, 0.92], "low": [0.90, 0.92, 0.91], "up": [0.50, 0.51, 0.52]}
    said = summary.verdict(summary.correlations(table_of(flat, worse)), table_of(flat, worse))
    assert "Beside `maml`, `up` is less accurate and flatter by 15 of 15 measures. Variants that differ in both" in said


def test_densities_integrate_to_one_and_are_means_over_models(results) -> None:
    grid, found = summary.densities(results, "maml", points=4000)
    assert list(found) == ["maml", "both"]
    for density in found.values():
        assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-4)  # 4 widths are 6e-5 of a Gaussian
    same = [results[0], results[1] | {"variant": "maml"}]
    width = float(grid[-1] - grid[0]) / 158
    _, together = summary.densities(same, "maml", points=4000, width=width)
    torch.testing.assert_close(together["maml"], (found["maml"] + found["both"]) / 2, rtol=1e-9, atol=1e-12)


def test_figures_that_were_not_taken_are_refused(results) -> None:
    with pytest.raises(UserError, match="surface='up' is not allowed: it must be one of erm, maml, meta"):
        summary.per_task(results[0], "up", "trace")
    with pytest.raises(UserError, match="measure='flatness' is not allowed: it must be one of top_eigenvalue, loss"):
        summary.per_task(results[0], "erm", "flatness")
