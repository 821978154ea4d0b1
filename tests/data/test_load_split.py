"""`load_split`: one door to every data set. What is behind each has tests of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import easy_images, write_image_folder

from sharp_maml_core import MissingData, UserError, load_split
from sharp_maml_core.data import ImageSplit, RegressionSplit


def test_a_folder_of_images(tmp_path: Path) -> None:
    split = load_split(write_image_folder(tmp_path / "pictures"), "val")
    assert isinstance(split, ImageSplit)
    assert split.name == "pictures/val"
    assert split.class_names == tuple(f"val class {i}" for i in range(4))
    assert torch.equal(split.images, easy_images(4, 4, 16, seed=1))


def test_a_folder_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image_folder(tmp_path / "pictures")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_split("~/pictures", "train").name == "pictures/train"


def test_a_folder_of_images_resized(tmp_path: Path) -> None:
    assert load_split(write_image_folder(tmp_path), "train", image_size=20).shape == (1, 20, 20)


def test_what_is_no_folder_is_not_resized() -> None:
    with pytest.raises(UserError, match="image_size=20 is not allowed: it must be left out for glyphs"):
        load_split("glyphs", "train", image_size=20)
    with pytest.raises(UserError, match="image_size=20 is not allowed: it must be left out for an array"):
        load_split(easy_images(10), "train", image_size=20)


def test_an_array_and_a_dict_of_arrays() -> None:
    images = easy_images(10)
    parts = [load_split(images, name) for name in ("train", "val", "test")]
    assert sum(len(part.images) for part in parts) == 10
    given = load_split({"train": images, "test": easy_images(seed=1)}, "test")
    assert torch.equal(given.images, easy_images(seed=1))


def test_the_seed_decides_how_classes_are_divided() -> None:
    names = [load_split(easy_images(30), "test", seed=seed).class_names for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("seed", [1.5, "0", None, True, -1, 2**63, float("nan")])
@pytest.mark.parametrize("name", ["glyphs", "sinusoid", "array"])
def test_a_seed_is_a_whole_number(name: str, seed: object) -> None:
    with pytest.raises(UserError, match=r"^seed=.* is not allowed: it must be .*at least 0 and below 2\*\*63\.$"):
        load_split(easy_images(10) if name == "array" else name, "train", seed=seed)


def test_sinusoid_is_a_regression_split() -> None:
    split = load_split("sinusoid", "train")
    assert isinstance(split, RegressionSplit)
    assert (
        split.identity == load_split("sinusoid", "train").identity != load_split("sinusoid", "train", seed=1).identity
    )


@pytest.mark.parametrize("name", ["omniglot", "miniimagenet", "cifar-fs", "fc100"])
def test_missing_data_say_where_they_were_looked_for(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingData) as caught:
        load_split(name, "train", root=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "download" in str(caught.value)


def test_the_environment_names_the_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARP_MAML_DATA", str(tmp_path / "mine"))
    with pytest.raises(MissingData, match="mine"):
        load_split("omniglot", "train")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"dataset='omniglott' .*glyphs, omniglot, .*folder"):
        load_split("omniglott", "train")


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UserError, match=r"split='valid' .*train, val, test"):
        load_split("glyphs", "valid")
