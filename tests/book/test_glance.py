"""What the table of the first page counts."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from builder import BOOK, ROOT
from made_results import a_group

from sharp_maml_core import published
from sharp_maml_core.landscape import summary
from sharp_maml_core.landscape.measure import SURFACES
from sharp_maml_core.theory.paper_tables import accuracy

sys.path.insert(0, str(BOOK / "_ext"))
glance: Any = pytest.importorskip("glance", reason="the extra `notebooks` is not installed")


def test_a_figure_that_two_tables_print_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the 41 figures Table 3 has four from Table 1; a result for one of those is one answer."""
    shared = published.Setting("miniimagenet", 5, 1, "maml")
    found = published.Ours(accuracy(1, "maml"), 0.5, (0, 1, 2), 1000, 60_000, ())
    monkeypatch.setattr(published, "ours", lambda results, setting: found if setting == shared else None)
    ((_, paper, here, _),) = glance._accuracies(BOOK)
    assert (paper, here) == ("37 figures", "1 agrees, 36 not run")


def test_a_row_of_gains_says_how_long_its_runs_were_and_at_which_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    def at(radius_of_low: float) -> list[dict[str, Any]]:
        radii = {"g-low": radius_of_low, "g-up": 0.05, "g-both": 0.05}
        return [
            run
            | {"config": run["config"] | dict.fromkeys(("alpha_low", "alpha_up"), radii.get(run["cell"]["name"], 0))}
            for run in a_group()
        ]

    monkeypatch.setattr(published, "load", lambda folder: at(0.05))
    ((question, *_),) = glance._gains(BOOK)
    assert "`short` runs are minutes of one core" in question
    assert "no radius was searched" in question
    assert question.endswith("g: `short` runs, radius 0.05")
    monkeypatch.setattr(published, "load", lambda folder: at(0.5))
    ((question, *_),) = glance._gains(BOOK)
    assert question.endswith("g: `short` runs, the radius by name")


def test_the_sharpness_is_said_of_its_data_loss_and_radius() -> None:
    ((question, *_),) = glance._flatness(BOOK)
    assert question.endswith("On CIFAR-FS, of MAML's loss of a task, within a radius of 0.05")


def test_sharpness_within_several_radii_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row a radius, of as many seeds as each variant has beside a MAML of that radius; without MAML there is none."""

    def at(alpha: float, variant: str, seed: int, sharpness: float) -> dict[str, Any]:
        figures = {name: [sharpness] for name in summary.MEASURES} | {"top_eigenvalues": [[1.0]], "local_minima": [1.0]}
        outcome = {"mean": 0.5, "interval_95": 0.1, "tasks": 2}
        return {
            "model": f"{variant}-{seed}",
            "variant": variant,
            "seed": seed,
            "settings": {"alpha": alpha},
            "surfaces": dict.fromkeys(SURFACES, figures),
            "accuracy": dict.fromkeys(("test", "train", "gap"), outcome),
        }

    results = [at(0.05, "maml", 0, 1.0), at(0.05, "maml", 1, 1.0), at(0.05, "low", 0, 0.9), at(0.05, "low", 1, 0.9)]
    results += [at(0.05, "up", 0, 0.5), at(0.5, "maml", 0, 10.0), at(0.5, "up", 0, 20.0), at(1.0, "up", 0, 7.0)]
    monkeypatch.setattr(glance.measured, "read_all", lambda folder, dataset: results)
    near, far = glance._flatness(BOOK)
    assert near[0].endswith("within a radius of 0.05")
    assert "of `low`, `up` differ" in near[0]
    assert near[2] == "-10% ± 0, -50% (2, 1 seeds)"
    assert far[0].endswith("within a radius of 0.5")
    assert far[2] == "+100% (1 seed)"
    monkeypatch.setattr(glance.measured, "read_all", lambda folder, dataset: [])
    assert list(glance._flatness(BOOK)) == []


def test_the_table_is_made_anew_where_any_of_its_files_changes() -> None:
    names = {str(path.relative_to(ROOT)) for path in glance._read(BOOK)}
    assert {
        "book/errata.md",
        "book/results/certificate/glyphs.json",
        "book/results/sharpness/cifar-fs-maml-seed0.json",
        "book/results/omniglot-5way-1shot-short-up-seed0.json",
        "benchmarks/results/speed-amd-epyc-2-cores.json",
    } <= names


def test_each_bound_is_said_of_the_letters_that_it_holds_for() -> None:
    """For tasks of letters seen, in brackets for letters of the same pool that were not; Eq. 18 for that network."""
    found = json.loads((BOOK / "results" / "certificate" / "glyphs.json").read_text(encoding="utf-8"))
    seen, unseen = found["certificates"]
    assert (seen["unit"], unseen["unit"]) == ("tasks", "classes")
    ((question, paper, here, _),) = glance._bounds(BOOK)
    assert "letters seen (of unseen ones" in question
    assert paper.startswith(f"{found['paper']['theorem2']:.2f} and more (Eq. 18, the same network, trained on half of ")
    classes = found["classes"]
    assert classes["prior"] == pytest.approx(sum(classes.values()) / 2, rel=0.01)
    said = [f"{seen[name]:.3f} ({unseen[name]:.3f})" for name in ("bound", "measured")]
    assert here == f"{said[0]} at 95%; measured: {said[1]}"
