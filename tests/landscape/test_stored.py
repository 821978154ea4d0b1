"""What the figures compare, and the commands that store it: by the glyphs models that come with the package."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sharp_maml_core import Config, UserError, pretrained, run_experiment
from sharp_maml_core.landscape import compared, counted, stored, ways
from sharp_maml_core.landscape.__main__ import main
from sharp_maml_core.landscape.compared import compare, steep_frame
from sharp_maml_core.landscape.directions import random_frame
from sharp_maml_core.landscape.slices import Slice, take_slice
from sharp_maml_core.landscape.surfaces import plain_maml
from sharp_maml_core.params import dot, norm

NAME = "random-maml-at-maml"


@pytest.fixture(scope="module")
def glyphs():
    return compare("glyphs", ("maml", "both"), erm_steps=3)


def plane_of(losses: torch.Tensor) -> Slice:
    axes = tuple(torch.arange(n, dtype=torch.float64) for n in losses.shape)
    return Slice("made up", ("x", "y"), axes, ((1.0, 0.0), (0.0, 1.0)), losses, 0.0, {})


def slices(out: Path, *arguments: str) -> int:
    return main(["slices", "--dataset", "glyphs", "--points", "3", "--out", str(out), "--quiet", *arguments])


# --- what is compared --------------------------------------------------------------------------------------------


def test_every_model_is_seen_by_the_same_plain_functions(glyphs) -> None:
    model = pretrained.load("glyphs-both-seed0")
    assert glyphs.config.variant == "maml"
    learner = plain_maml(model.config, model.model)
    support_x, support_y, query_x, query_y = (value[0] for value in glyphs.task.episode)
    for name in ("maml", "both"):
        params = glyphs.models[name]
        adapted = learner.adapt(params, support_x, support_y)
        expected = {
            "maml": F.cross_entropy(learner.predict(adapted, query_x), query_y),
            "erm": F.cross_entropy(learner.predict(params, query_x), query_y),
            "same": F.cross_entropy(learner.predict(learner.adapt(params, query_x, query_y), query_x), query_y),
        }
        for function, value in expected.items():
            assert float(glyphs.functions[function](params)) == pytest.approx(float(value), rel=1e-6)
    assert set(glyphs.functions) == set(compared.FUNCTIONS)
    assert set(glyphs.models) == {"maml", "both", "erm"}
    assert len(glyphs.erm.losses) == 3


def test_the_steep_plane_holds_the_gradient_and_the_top_eigenvector(glyphs) -> None:
    surface, params = glyphs.functions["maml"], glyphs.models["maml"]
    along_gradient, across = steep_frame(surface, params).axes.values()
    gradient = torch.func.grad(surface)(params)
    assert float(dot(along_gradient, gradient)) == pytest.approx(float(norm(gradient)), rel=1e-5)
    assert abs(float(dot(along_gradient, across))) < 1e-6
    assert float(norm(across)) == pytest.approx(1, rel=1e-6)


def test_models_of_another_inner_loop_are_not_compared(monkeypatch) -> None:
    load = pretrained.load

    def other(name, device):
        model = load(name, device)
        return model._replace(config=dataclasses.replace(model.config, inner_steps=5)) if "both" in name else model

    monkeypatch.setattr(pretrained, "load", other)
    with pytest.raises(UserError, match="inner_steps=5 is not allowed: it must be 1, as maml was trained with: both"):
        compare("glyphs", ("maml", "both"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dataset": "imagenet"}, "name='imagenet-maml-seed0'"),
        ({"seed": -1}, "seed=-1"),
        ({"task_seed": -1}, "task_seed=-1"),
        ({"erm_steps": -1}, "erm_steps=-1"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        compare(**{"dataset": "glyphs", "variants": ("maml",)} | changes)


# --- slices ------------------------------------------------------------------------------------------------------


def test_a_stored_slice_is_the_slice_with_its_settings_and_provenance(tmp_path, glyphs) -> None:
    assert slices(tmp_path, "--only", NAME) == 0
    found = stored.read_all(tmp_path, "glyphs")[NAME]
    params = glyphs.models["maml"]
    expected = take_slice(glyphs.functions["maml"], random_frame(params, 0), points=3)
    torch.testing.assert_close(found.cut.losses, expected.losses, rtol=1e-6, atol=0)
    assert found.cut.gram == expected.gram
    assert found.recipe == stored.Recipe("figure 1", "random", "maml", "maml")
    assert found.settings["classes"] == list(glyphs.task.classes)
    assert found.settings["model_sha256"] == stored.digest(params)
    assert found.alpha == 0.05
    assert stored.stamp([found, found]) == stored.stamp([found])
    assert found.provenance["commit"][:7] in stored.stamp([found])
    values = json.loads((tmp_path / f"glyphs-{NAME}.json").read_text())
    assert values["shows"] == compared.FUNCTIONS["maml"]
    assert values["local_minima"] in (0, 1)


def test_the_command_goes_on_where_it_was_stopped(tmp_path, capsys) -> None:
    names = [NAME, "steep-maml-at-both"]
    assert slices(tmp_path, "--only", names[0]) == 0
    first = (tmp_path / f"glyphs-{names[0]}.json").stat()
    assert slices(tmp_path, "--only", *names) == 0
    assert (tmp_path / f"glyphs-{names[0]}.json").stat() == first
    both = stored.read_all(tmp_path, "glyphs")
    assert set(both) == set(names)
    assert float(both[names[1]].cut.coordinates[0][-1]) == pytest.approx(4 * 0.05)
    assert slices(tmp_path, "--only", names[0], "--points", "4") == 0  # other settings: computed again
    assert stored.read_all(tmp_path, "glyphs")[names[0]].cut.losses.shape == (4, 4)
    assert f"{names[0]}: loss" in capsys.readouterr().out


def test_alone_a_plane_is_as_large_as_among_others(tmp_path) -> None:
    assert slices(tmp_path, "--only", "steep-maml-at-maml") == 0
    found = stored.read(tmp_path / "glyphs-steep-maml-at-maml.json")
    assert found.alpha == compare("glyphs", stored.VARIANTS, erm_steps=0).alpha > 0
    assert found.cut.coordinates[0][-1] == stored.STEEP_RADII * found.alpha


def test_the_recipes_have_names_of_their_own_and_the_papers_planes() -> None:
    names = [recipe.name for recipe in stored.RECIPES]
    assert len(set(names)) == len(names)
    assert {"random-maml-at-maml", "random-erm-at-erm"} <= set(names)
    assert {f"random-maml-at-{variant}" for variant in ("maml", "low", "up", "both")} <= set(names)


@pytest.mark.parametrize("command", [["slices"], ["minima"], ["way", "runs/x"]], ids=lambda command: command[0])
def test_a_grid_of_one_point_is_refused_before_any_work(command, tmp_path, capsys) -> None:
    assert main([*command, "--points", "1", "--out", str(tmp_path / "out")]) == 2
    assert "points=1 is not allowed: it must be at least 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_stamp_says_whether_the_code_was_that_of_the_commit() -> None:
    values = {"device": "a CPU", "started": "2026-01-02T03:04:05+00:00", "commit": "0123456789abcdef"}
    assert stored.origin(values) == "a CPU, 2026-01-02, commit 0123456"
    assert stored.origin(values | {"commit": "0123456789abcdef+changes"}).endswith("commit 0123456 with changes")
    with pytest.raises(UserError, match="at least one"):
        stored.stamp([])


def test_what_cannot_be_stored_or_read_is_named(tmp_path, capsys) -> None:
    assert slices(tmp_path, "--only", "random-maml-at-nobody") == 2
    assert (
        "only='random-maml-at-nobody' is not allowed: it must be some of random-maml-at-maml" in capsys.readouterr().err
    )
    (tmp_path / f"glyphs-{NAME}.json").write_text("{}")
    with pytest.raises(UserError, match=f"glyphs-{NAME}.json' is not allowed: it must be a stored slice"):
        stored.read_all(tmp_path, "glyphs")
    assert stored.read_all(tmp_path / "nowhere", "glyphs") == {}


@pytest.mark.parametrize("command", [["slices", "--only", NAME], ["minima"], ["measure"], ["way", "runs/x"]])
def test_a_full_disk_is_one_sentence(command, tmp_path, monkeypatch, capsys) -> None:
    def mkdir(path, **options) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(ways.rundir, "read_config", lambda folder, device: Config(device=device))
    assert main([*command, "--out", str(tmp_path / "out"), "--quiet"]) == 2
    says = capsys.readouterr().err
    assert f"{tmp_path / 'out'} could not be written ([Errno 28] No space left on device). What was kept" in says
    assert "Traceback" not in says


def test_a_slice_that_a_full_disk_cuts_off_leaves_nothing_and_is_taken_by_the_same_command(
    tmp_path, monkeypatch, capsys
) -> None:
    def fsync(descriptor) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert slices(tmp_path, "--only", NAME) == 2
    assert f"{tmp_path} could not be written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert slices(tmp_path, "--only", NAME) == 0


def test_a_device_that_is_not_there_is_named(tmp_path, capsys) -> None:
    assert slices(tmp_path, "--only", NAME, "--device", "foo") == 2
    assert "device='foo' is not allowed" in capsys.readouterr().err


# --- minima ------------------------------------------------------------------------------------------------------


def test_minima_are_counted_by_task_and_added_up(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(counted, "ERM_STEPS", 2)
    command = ["minima", "--dataset", "glyphs", "--points", "3", "--out", str(tmp_path), "--quiet", "--tasks"]
    assert main([*command, "2"]) == 0
    values = counted.read(tmp_path, "glyphs")
    assert [task["task_seed"] for task in values["tasks"]] == [0, 1]
    count_task = counted.count_task
    monkeypatch.setattr(
        counted, "count_task", lambda *given: count_task(*given) if given[1] > 1 else pytest.fail("again")
    )
    assert main([*command, "3"]) == 0  # the first two are there
    assert len(counted.read(tmp_path, "glyphs")["tasks"]) == 3
    assert capsys.readouterr().out.count("maml-at-maml: ") == 2
    assert main([*command, "1"]) == 2
    for damaged in ("{", "[]", "null", '"text"', '{"settings": {}}'):
        (tmp_path / "glyphs-minima.json").write_text(damaged)
        with pytest.raises(UserError, match=r"glyphs-minima\.json"):
            counted.read(tmp_path, "glyphs")
    assert counted.read(tmp_path, "cifar-fs") is None


def test_the_lowest_minimum_counts_as_a_valley_and_dimples_do_not() -> None:
    def task(minima, prominences, low, high):
        return {"minima": minima, "prominences": prominences, "range": [low, high]}

    first, second = task(3, [0.001, 0.02], 1.0, 2.0), task(1, [0.005], 1.0, 4.0)
    values = {"tasks": [{f"{f}-at-{m}": one for f, m in counted.PAIRS} for one in (first, second)]}
    found = counted.counts(values)["maml-at-erm"]
    assert (found.minima.mean, found.valleys.mean, found.spread.mean) == (2.0, 1.0, 2.0)
    assert found.valleys.interval > 0


def test_the_range_is_that_of_the_finite_losses_and_says_where_there_are_none(monkeypatch, glyphs) -> None:
    monkeypatch.setattr(counted, "compare", lambda *given, **named: glyphs)

    def one_task(*losses):
        plane = torch.tensor(losses).reshape(2, 2)
        monkeypatch.setattr(counted, "take_slice", lambda *given, **named: plane_of(plane))
        return counted.count_task({"dataset": "glyphs", "points": 2, "model_seed": 0, "erm_steps": 3}, 0)

    holed, empty = one_task(1.0, math.nan, 3.5, 2.0), one_task(*[math.nan] * 4)
    json.dumps([holed, empty], allow_nan=False)  # as the file is written
    assert (holed["maml-at-maml"]["range"], empty["maml-at-maml"]["range"]) == ([1.0, 3.5], None)
    assert counted.counts({"tasks": [holed, empty]})["maml-at-maml"].spread == (2.5, math.inf, 1)
    nothing = counted.counts({"tasks": [empty, empty]})["maml-at-maml"].spread
    assert math.isnan(nothing.mean)
    assert nothing.n == 0


def test_a_stored_slice_with_losses_that_are_not_finite_is_described_by_the_others() -> None:
    found = stored.Stored(stored.RECIPES[0], plane_of(torch.tensor([[1.0, math.nan], [3.5, 2.0]])), 0.05, {}, {})
    assert "1.0000 to 3.5000 (1 not finite) on 2x2 points" in stored.describe(found)
    nowhere = found._replace(cut=plane_of(torch.full((2, 2), math.nan)))
    assert ", nowhere finite on 2x2 points" in stored.describe(nowhere)


# --- ways --------------------------------------------------------------------------------------------------------


def test_the_way_of_a_run_is_stored_and_read_again(tmp_path, capsys) -> None:
    config = Config(
        variant="both", n_way=3, n_query=2, n_tasks=2, inner_steps=1, filters=2, device="cpu",
        iterations=4, checkpoint_every=1, eval_every=4, val_tasks=2, eval_tasks=2, snapshots=True,
    )  # fmt: skip
    run_experiment(config, tmp_path / "run", progress=False)
    out = tmp_path / "out"
    assert main(["way", str(tmp_path / "run"), "--points", "3", "--out", str(out), "--quiet"]) == 0
    assert "glyphs-way-both-seed0: 5 points" in capsys.readouterr().out
    way = ways.read_all(out, "glyphs")["both-seed0"]
    cut, trajectory = ways.way_of(tmp_path / "run", points=3)
    assert torch.equal(way.trajectory.path, trajectory.path)
    assert torch.equal(way.cut.losses, cut.losses)
    assert way.trajectory.iterations == (0, 1, 2, 3, 4)
    assert way.trajectory.explained == trajectory.explained
    for axis, coordinates in enumerate(cut.coordinates):
        assert float(coordinates[0]) < float(trajectory.path[:, axis].min())
        assert float(coordinates[-1]) > float(trajectory.path[:, axis].max())
    assert way.settings["variant"] == "both"
    assert str(tmp_path) not in (out / "glyphs-way-both-seed0.json").read_text()


def test_a_run_without_snapshots_is_refused(tmp_path, capsys) -> None:
    assert main(["way", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "a run folder" in capsys.readouterr().err
    (tmp_path / "glyphs-way-both-seed0.json").write_text("[]")
    with pytest.raises(UserError, match=r"glyphs-way-both-seed0\.json' is not allowed: it must be a stored way"):
        ways.read_all(tmp_path, "glyphs")
