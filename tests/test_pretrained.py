"""Parameters that come with the package: what was trained is what is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import easy_data, small_config

from sharp_maml_core import Conv4, UserError, pretrained, run_experiment
from sharp_maml_core.pretrained.__main__ import main
from sharp_maml_core.rundir import load_model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    images = {split: value.repeat_interleave(3, -1).repeat_interleave(3, -2) for split, value in easy_data().items()}
    run_experiment(small_config("both"), folder, data=images, progress=False)
    return folder


def test_what_is_kept_is_the_run_in_half_precision(run: Path, tmp_path: Path) -> None:
    pretrained.keep(run, "small-both-seed0", tmp_path)
    found = pretrained.load("small-both-seed0", folder=tmp_path)
    trained = load_model(run)
    assert list(found.params) == list(trained)
    for name, value in found.params.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, trained[name].half().float())
    assert found.config.variant == "both"
    assert found.result == json.loads((run / "result.json").read_text())
    assert found.model.head.weight.shape == found.params["head.weight"].shape


def test_an_unfinished_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="finished run"):
        pretrained.keep(tmp_path, "x", tmp_path)
    assert main([str(tmp_path), "x"]) == 2
    assert "Train it to the end first" in capsys.readouterr().err


def test_a_network_that_is_not_conv4_is_refused(tmp_path: Path) -> None:
    images = {split: value.repeat_interleave(3, -1).repeat_interleave(3, -2) for split, value in easy_data().items()}
    run_experiment(small_config("maml", downsampling="stride"), tmp_path / "run", data=images, progress=False)
    with pytest.raises(UserError, match="downsampling='stride' is not allowed: it must be one of pool"):
        pretrained.keep(tmp_path / "run", "x", tmp_path)
    run_experiment(small_config("maml", feature_length=5), tmp_path / "unit", data=images, progress=False)
    with pytest.raises(UserError, match=r"feature_length=5\.0 is not allowed: it must be 0"):
        pretrained.keep(tmp_path / "unit", "x", tmp_path)


@pytest.mark.parametrize("variant", ["matching", "cavia", "bmaml", "maml++", "erm", "sam"])
def test_parameters_that_no_conv4_has_are_refused_and_nothing_is_kept(variant: str, tmp_path: Path) -> None:
    images = {split: value.repeat_interleave(3, -1).repeat_interleave(3, -2) for split, value in easy_data().items()}
    run_experiment(small_config(variant), tmp_path / "run", data=images, progress=False)
    with pytest.raises(UserError, match=r"^params.* is not allowed"):
        pretrained.keep(tmp_path / "run", "x", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_name_that_is_taken_is_refused_and_its_files_stay(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("kept")
    with pytest.raises(UserError, match=r"^name='a' is not allowed: it must be a name that is not taken yet"):
        pretrained.keep(run, "a", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "kept"


def test_an_unknown_name_lists_what_there_is(run: Path, tmp_path: Path) -> None:
    pretrained.keep(run, "a", tmp_path)
    with pytest.raises(UserError, match="name='b' is not allowed: it must be one of a"):
        pretrained.load("b", folder=tmp_path)


def test_parameters_of_another_network_are_refused() -> None:
    params = {name: value.detach() for name, value in Conv4((1, 28, 28), 5, 8).named_parameters()}
    assert pretrained.conv4_of(params, 5).head.weight.shape == (5, 8)
    with pytest.raises(UserError, match="parameters of a Conv4"):
        pretrained.conv4_of({"weight": torch.zeros(3)}, 5)
    with pytest.raises(UserError, match=r"params\['head.weight'\]=\(5, 8\) is not allowed: it must be \(3, 8\)"):
        pretrained.conv4_of(params, 3)
    with pytest.raises(UserError, match="absent"):
        pretrained.conv4_of(params | {"more": torch.zeros(1)}, 5)
    with pytest.raises(UserError, match="missing"):
        pretrained.conv4_of({name: value for name, value in params.items() if name != "features.3.norm.bias"}, 5)
