"""The command line: it says everything a setting is, and one sentence about whatever is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import SMALL, flags, start, write_image_folder

from sharp_maml_core import DeviceLost, memory, rundir
from sharp_maml_core.__main__ import main
from sharp_maml_core.config import FIELDS
from sharp_maml_core.evaluate import Evaluation


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, where a command would make its runs/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHARP_MAML_DATA", raising=False)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())  # this process goes on after the command


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert main(small("--run-dir", str(folder), dataset=images, filters=8)) == 0
    return folder


def small(*arguments: str, **changes: object) -> list[str]:
    return ["train", "--quiet", *flags(**SMALL | {"iterations": 2} | changes), *arguments]


# --- help


def test_help_tells_of_every_setting_what_it_is_may_be_and_comes_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])
    assert caught.value.code == 0
    _, *entries = re.split(r"\n  (?=--)", capsys.readouterr().out)
    told = {entry.split()[0]: " ".join(entry.split()) for entry in entries}
    for name, field in FIELDS.items():
        line = told["--" + name.replace("_", "-")]
        about = field.metadata
        assert about["help"] in line
        assert f"default {field.default!r}" in line
        assert about["allowed"].text in line
        assert about["source"] in line


def test_every_flag_reaches_its_setting(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {
        "variant": "e-low",
        "inner_lr": 0.2,
        "adaptive": "true",
        "rotations": True,
        "seed": 3,
        "dtype": "float64",
    }
    assert main(small("--run-dir", "run", dataset=images, **changes)) == 0
    config = rundir.read_config(Path("run"), "cpu")
    expected = SMALL | changes | {"adaptive": True, "dataset": str(images), "iterations": 2}
    assert {name: getattr(config, name) for name in expected} == expected


# --- what it prints


def test_a_run_ends_with_its_figures_and_its_folder(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(small(dataset=images)) == 0
    best, last, folder = capsys.readouterr().out.splitlines()
    (made,) = Path("runs").iterdir()
    result = json.loads((made / rundir.RESULT).read_text())
    for line, which in ((best, "best"), (last, "last")):
        mean, interval = result[which]["mean"], result[which]["interval_95"]
        assert line == f"{which}: accuracy {mean:.4f} +- {interval:.4f} on 6 tasks (iteration 2)"
    assert folder.endswith(f"everything is in {made}")
    assert made.name.startswith("both-images-3way-1shot-seed0-")


def test_an_ensemble_has_a_line_of_its_own(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(small(dataset=images, variant="maml++")) == 0
    line = capsys.readouterr().out.splitlines()[2]
    (made,) = Path("runs").iterdir()
    figures = json.loads((made / rundir.RESULT).read_text())["ensemble"]
    shown = f"{figures['mean']:.4f} +- {figures['interval_95']:.4f}"
    assert line == f"ensemble: accuracy {shown} of the {len(figures['iterations'])} best on validation"


def test_a_run_can_be_tested_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def test(*arguments: str) -> dict[str, object]:
        assert main(["evaluate", str(finished), "--quiet", *arguments]) == 0
        return json.loads(capsys.readouterr().out)

    result = json.loads((finished / rundir.RESULT).read_text())
    usual = test()
    assert usual == {
        "metric": "accuracy",
        "mean": result["best"]["mean"],
        "interval_95": result["best"]["interval_95"],
        "tasks": 6,
        "split": "test",
    }
    more = test("--eval-tasks", "30")
    assert more["tasks"] == 30
    assert test("--eval-tasks", "30", "--eval-seed", "1") != more
    assert test("--split", "val", "--eval-tasks", "30")["split"] == "val"


def test_a_run_is_tested_on_the_device_that_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    devices = []

    def evaluate_run(folder: str, *, device: str, **options: object) -> Evaluation:
        devices.append(device)
        return Evaluation(torch.tensor([0.5, 0.5]), "accuracy")

    monkeypatch.setattr("sharp_maml_core.__main__.evaluate_run", evaluate_run)
    assert main(["evaluate", "run", "--device", "cuda:1"]) == 0
    assert main(["evaluate", "run"]) == 0
    assert devices == ["cuda:1", "auto"]
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert "--device" in capsys.readouterr().out


def test_a_run_goes_on_and_is_tested_wherever_its_images_are(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What they show is compared, not how their folder is spelled."""
    shutil.copytree(images, tmp_path / "images")
    assert main(small("--run-dir", "run", dataset="images")) == 0
    for spelling in ("./images/", tmp_path / "images"):
        assert main(small("--run-dir", "run", dataset=spelling)) == 0
    before = json.loads((tmp_path / "run" / rundir.RESULT).read_text())
    assert main(small("--run-dir", "run", dataset="glyphs")) == 2
    (tmp_path / "images").rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    assert main(["evaluate", "../run", "--quiet"]) == 2
    assert_one_sentence(capsys.readouterr().err, "dataset='images'", "existing folder")
    assert main(["evaluate", "../run", "--quiet", "--dataset", "../moved"]) == 0
    assert json.loads(capsys.readouterr().out)["mean"] == before["best"]["mean"]
    write_image_folder(tmp_path / "others", n_classes=5)
    assert main(["evaluate", "../run", "--quiet", "--dataset", "../others"]) == 2
    assert_one_sentence(capsys.readouterr().err, "a run on the same data")
    assert main(small("--run-dir", "../run", dataset="../others")) == 2
    assert_one_sentence(capsys.readouterr().err, "a run on the same data")


def test_a_tilde_is_the_home_folder(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell expands the one in --run-dir=~/q, and what is then called `~` here is removed by `rm -rf ~`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert main(small("--run-dir=~/q", dataset=images, variant="maml")) == 0
    assert main(["evaluate", "--quiet", "~/q"]) == 0
    stack = ["stack", "--quiet", "--seeds", "0", "1", "--runs-dir=~/runs"]
    small_stack = flags(**{name: value for name, value in SMALL.items() if name != "seed"} | {"dataset": images})
    assert main([*stack, *small_stack]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["q", "runs"]


def test_an_interrupted_command_ends_with_130(monkeypatch: pytest.MonkeyPatch, images: Path) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sharp_maml_core.__main__.run_experiment", interrupted)
    assert main(small(dataset=images)) == 130


# --- what is wrong


def assert_one_sentence(errors: str, *parts: str) -> None:
    assert errors.startswith("sharp_maml_core: ")
    assert errors.count("\n") == 1
    assert errors.rstrip().endswith(".")
    for part in parts:
        assert part in errors


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"variant": "bogus"}, ("variant='bogus'", "one of maml, fomaml")),
        ({"alpha_up": -1}, ("alpha_up=-1.0", "at least 0")),
        ({"alpha_up": "nan"}, ("alpha_up=nan", "finite")),
        ({"n_way": 5000}, ("n_way=5000", "at most 4")),
        ({"n_query": 99}, ("k_shot + n_query=100", "at most 4")),
        ({"iterations": 2.5}, ("iterations='2.5'", "whole number")),
        ({"rotations": "maybe"}, ("rotations='maybe'", "true or false")),
        ({"dataset": "omniglot"}, ("omniglot", "data", "download")),
        ({"dataset": "omniglott"}, ("dataset='omniglott'", "omniglot")),
        ({"device": "cuda:99"}, ("device='cuda:99'", "auto")),
        ({"device": "abacus"}, ("device='abacus'", "auto")),
        ({"device": "mps"}, ("device='mps'", "auto")),
        ({"device": "meta"}, ("device='meta'", "auto")),
    ],
    ids=lambda value: "-".join(f"{name} {what}" for name, what in value.items()) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_one_sentence_and_leaves_nothing(
    changes: dict[str, object], parts: tuple[str, ...], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(small(**{"dataset": images, "data_root": tmp_path} | changes)) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert_one_sentence(errors, *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_sentence(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(small(dataset=images, device="cuda")) == 2
    assert_one_sentence(capsys.readouterr().err, "device='cuda'", "0 CUDA devices", "device=auto")


def test_a_folder_that_cannot_be_written_is_one_sentence(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(small("--run-dir", "file/run", dataset=images)) == 2
    assert_one_sentence(capsys.readouterr().err, "run_dir='file/run'", "can be written")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_of_other_settings_is_one_sentence(
    finished: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(small("--run-dir", str(finished), dataset=images, seed=4)) == 2
    assert_one_sentence(capsys.readouterr().err, "seed 0 is now 4", "overwrite")


def test_divergence_is_one_line(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(small("--run-dir", "run", dataset=images, inner_lr=1e38)) == 3
    assert_one_sentence(capsys.readouterr().err, "diverged at iteration 1", "inner_lr")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["train", "--no-such-flag", "1"], "--no-such-flag"),
        (["train", "--variant"], "--variant"),
        (["evaluate"], "RUN_DIR"),
        (["evaluate", "run", "--split", "valid"], "'valid'"),
        (["evaluate", "run", "--eval-tasks", "many"], "'many'"),
        ([], "COMMAND"),
        (["tain"], "'tain'"),
    ],
)
def test_a_wrong_command_line_is_told(
    arguments: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert part in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["nowhere"], ("run_dir='nowhere'", "a run folder")),
        (["RUN", "--eval-tasks", "1"], ("eval_tasks=1", "at least 2")),
        (["RUN", "--eval-seed", "-1"], ("eval_seed=-1", "at least 0")),
        (["RUN", "--device", "abacus"], ("device='abacus'", "auto")),
    ],
)
def test_a_wrong_evaluation_is_one_sentence(
    arguments: list[str], parts: tuple[str, ...], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument.replace("RUN", str(finished)) for argument in arguments]
    assert main(["evaluate", "--quiet", *given]) == 2
    assert_one_sentence(capsys.readouterr().err, *parts)


def test_a_process_ends_with_these_codes_and_no_traceback(tmp_path: Path) -> None:
    with start("train", "--variant", "bogus", cwd=tmp_path) as process:
        output, errors = process.communicate()
    assert process.returncode == 2
    assert output == ""
    assert_one_sentence(errors, "variant='bogus'")
    assert list(tmp_path.iterdir()) == []


def test_a_lost_gpu_ends_with_75_which_asks_to_be_tried_again(monkeypatch: pytest.MonkeyPatch, images: Path) -> None:
    def lose(*arguments: object, **options: object) -> None:
        raise DeviceLost("gone")

    monkeypatch.setattr("sharp_maml_core.__main__.run_experiment", lose)
    assert main(small(dataset=images)) == 75


def test_a_reader_that_has_seen_enough_of_a_good_run_is_no_error(finished: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "sharp_maml_core", "evaluate", str(finished), "--quiet"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_where_stderr_is_full_the_status_still_says_what_went_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sharp_maml_core", "train", "--variant", "nothing"]
    with Path("/dev/full").open("w") as full:
        assert subprocess.run(command, stderr=full, stdout=full).returncode == 2
