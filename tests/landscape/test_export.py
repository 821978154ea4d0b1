"""Scenes as JSON: what is written is what the core computes, small, and the same every time."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from sharp_maml_core import landscape
from sharp_maml_core.landscape import export as export_in_package
from sharp_maml_core.landscape.export import ALPHAS_LOW, ALPHAS_UP, FORMAT, Exported, export
from sharp_maml_core.landscape.scenes import SCENES, Scene, conv4, double_well
from sharp_maml_core.landscape.walks import grid, losses, objective, walk

COORDINATE, LOSS = {"atol": 5.1e-4, "rtol": 0}, {"atol": 0, "rtol": 5.1e-4}  # 3 decimals; 4 significant digits


@pytest.fixture(scope="module")
def well() -> tuple[Scene, str]:
    scene = double_well()
    return scene, export(scene)


@pytest.fixture(scope="module")
def read(well: tuple[Scene, str]) -> Exported:
    return Exported(**json.loads(well[1]))


def test_it_is_there_under_the_name_of_the_package() -> None:
    assert landscape.export is export_in_package is export


def test_every_scene_is_under_300_kilobytes(well: tuple[Scene, str]) -> None:
    # How well the network's losses are known does not change how many digits are written.
    texts = [well[1], export(conv4(points=5))]
    assert len(texts) == len(SCENES)
    for text in texts:
        assert 100_000 < len(text.encode()) < 300_000


def test_the_fields_are_written_in_their_order_and_without_spaces(well: tuple[Scene, str], read: Exported) -> None:
    assert json.dumps(read._asdict(), separators=(",", ":")) + "\n" == well[1]


def test_the_same_scene_gives_the_same_bytes_in_a_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("sharp_maml_core.landscape.export")  # in the package the function has its name
    monkeypatch.setattr(module, "ALPHAS_LOW", (0.2,))
    monkeypatch.setattr(module, "ALPHAS_UP", (0.0, 0.5))
    path = tmp_path / "well.json"
    text = export(double_well(), path)
    assert path.read_bytes() == text.encode() == export(double_well()).encode()


def test_the_losses_are_those_on_the_window(well: tuple[Scene, str], read: Exported) -> None:
    scene = well[0]
    points = grid(scene, len(read.support))
    np.testing.assert_allclose(read.support, losses(scene.support, points), **LOSS)
    np.testing.assert_allclose(read.query, losses(scene.query, points), **LOSS)
    for alpha_low, surface in zip(ALPHAS_LOW, read.objective, strict=True):
        config = scene.config.replace(alpha_low=alpha_low)
        np.testing.assert_allclose(surface, objective(scene, config, points), **LOSS)


@pytest.mark.parametrize(("low", "up"), [(0, 0), (0, -1), (2, 0), (3, 5)])
def test_each_walk_is_that_of_its_two_radii(well: tuple[Scene, str], read: Exported, low: int, up: int) -> None:
    scene = well[0]
    assert (read.alphas_low, read.alphas_up) == (list(ALPHAS_LOW), list(ALPHAS_UP))
    found = walk(scene, scene.config.replace(alpha_low=ALPHAS_LOW[low], alpha_up=ALPHAS_UP[up]))
    written = read.walks[low][up]
    for name in ("outer", "lower", "upper"):
        np.testing.assert_allclose(written[name], getattr(found, name), **COORDINATE)
    np.testing.assert_allclose(written["inner"], found.inner[:, 1:], **COORDINATE)
    np.testing.assert_allclose(written["query_loss"], found.query_loss[:, 0], **LOSS)
    np.testing.assert_allclose(written["meta_loss"], found.meta_loss, **LOSS)
    np.testing.assert_allclose(written["perturbed_loss"], found.perturbed_loss, **LOSS)


def test_it_says_what_a_page_needs_to_label_it(well: tuple[Scene, str], read: Exported) -> None:
    scene = well[0]
    assert (read.format, read.name, read.title, read.note) == (FORMAT, scene.name, scene.title, scene.note)
    assert (tuple(read.axes), [tuple(side) for side in read.window]) == (scene.axes, list(scene.window))
    assert read.marks == {name: list(mark) for name, mark in scene.marks.items()}
    assert read.settings == {"inner_lr": 0.1, "inner_steps": 1, "outer_lr": 0.7, "outer_steps": 10}
    assert len(read.walks[0][0]["outer"]) == read.settings["outer_steps"] + 1
