"""Folders and arrays of the user's own: layouts, divisions, and errors that name what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from sharp_maml_core.data.own import load_array, load_folder
from sharp_maml_core.data.split import SPLITS, ImageSplit
from sharp_maml_core.errors import MissingData, UserError


def pixels(*shape: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, image: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def fill(root: Path, n_classes: int, *shape: int, n_images: int = 2, first: int = 0) -> None:
    """Class folders "class NN" of images 0.png, 1.png, ... of the given shape."""
    for i in range(first, first + n_classes):
        for k in range(n_images):
            write(root / f"class {i:02}" / f"{k}.png", pixels(*(shape or (5, 4)), seed=100 * i + k))


def names(source: Path | npt.NDArray[np.uint8], seed: int = 0) -> dict[str, tuple[str, ...]]:
    def load(split: str) -> ImageSplit:
        if isinstance(source, Path):
            return load_folder(source, split, seed=seed)
        return load_array(source, split, seed=seed)

    return {split: load(split).class_names for split in SPLITS}


# --- folders


def test_class_folders_are_divided_by_class(tmp_path: Path) -> None:
    fill(tmp_path, 25)
    divided = names(tmp_path)
    assert [len(divided[split]) for split in SPLITS] == [16, 4, 5]
    assert sorted(sum(divided.values(), ())) == [f"class {i:02}" for i in range(25)]
    assert all(list(part) == sorted(part) for part in divided.values())
    assert names(tmp_path) == divided
    assert names(tmp_path, seed=1) != divided


def test_the_division_is_the_same_everywhere(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    divided = names(tmp_path)
    assert divided["val"] == ("class 01", "class 08")
    assert divided["test"] == ("class 02", "class 03")


def test_grey_pixels_arrive_exactly(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    for split in SPLITS:
        loaded = load_folder(tmp_path, split)
        assert loaded.shape == (1, 5, 4)
        assert loaded.name == f"{tmp_path.name}/{split}"
        for name, images in zip(loaded.class_names, loaded.images, strict=True):
            for k in range(2):
                assert np.array_equal(images[k, 0].numpy(), pixels(5, 4, seed=100 * int(name[-2:]) + k))


def test_colour_gives_three_channels(tmp_path: Path) -> None:
    fill(tmp_path, 3, 5, 4, 3)
    loaded = load_folder(tmp_path, "train")
    assert loaded.shape == (3, 5, 4)
    expected = pixels(5, 4, 3, seed=100 * int(loaded.class_names[0][-2:])).transpose(2, 0, 1)
    assert np.array_equal(loaded.images[0, 0].numpy(), expected)


def test_classes_of_different_numbers_are_padded(tmp_path: Path) -> None:
    for split in SPLITS:
        fill(tmp_path / split, 1, first=SPLITS.index(split))
    fill(tmp_path / "train", 1, n_images=5, first=7)
    loaded = load_folder(tmp_path, "train")
    assert loaded.counts.tolist() == [2, 5]
    assert loaded.images.shape == (2, 5, 1, 5, 4)
    assert loaded.images[0, 2:].sum() == 0
    assert loaded.images[1, 4].sum() > 0


def test_splits_by_folder(tmp_path: Path) -> None:
    for i, split in enumerate(SPLITS):
        fill(tmp_path / split, 2, first=2 * i)
    assert names(tmp_path) == {
        "train": ("class 00", "class 01"),
        "val": ("class 02", "class 03"),
        "test": ("class 04", "class 05"),
    }
    assert names(tmp_path, seed=1) == names(tmp_path)


def test_splits_may_be_called_in_capitals_and_a_class_like_one_of_them(tmp_path: Path) -> None:
    for i, split in enumerate(SPLITS):
        fill(tmp_path / "data" / split.capitalize(), 2, first=2 * i)
    assert names(tmp_path / "data")["test"] == ("class 04", "class 05")
    fill(tmp_path / "data" / "train", 1, first=7)
    assert "holds the folders Test, Train, Val, train: give class folders only" in refused(tmp_path / "data")
    (tmp_path / "data" / "train").rename(tmp_path / "data" / "more")
    assert "holds the folders Test, Train, Val, more: give class folders only" in refused(tmp_path / "data")
    for vehicle in ("Bus", "Car", "Train"):
        write(tmp_path / "vehicles" / vehicle / "0.png", pixels(5, 4))
        write(tmp_path / "vehicles" / vehicle / "1.png", pixels(5, 4, seed=1))
    assert sorted(sum(names(tmp_path / "vehicles").values(), ())) == ["Bus", "Car", "Train"]


def test_without_val_a_fifth_of_the_training_classes_becomes_it(tmp_path: Path) -> None:
    fill(tmp_path / "train", 10)
    fill(tmp_path / "test", 2, first=10)
    divided = names(tmp_path)
    assert [len(divided[split]) for split in SPLITS] == [8, 2, 2]
    assert divided["test"] == ("class 10", "class 11")
    assert sorted(divided["train"] + divided["val"]) == [f"class {i:02}" for i in range(10)]
    assert names(tmp_path, seed=3)["val"] != divided["val"]


def test_hidden_files_and_companions_are_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    for name in ("README", "LICENSE", "labels.csv", ".DS_Store", "class 00/Thumbs.db", "class 01/notes.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".cache").mkdir()
    assert sum(map(len, names(tmp_path).values())) == 3


def test_resizing(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    write(tmp_path / "class 00" / "wide.png", pixels(8, 16))
    assert all(load_folder(tmp_path, split, image_size=(6, 7)).shape == (1, 6, 7) for split in SPLITS)
    assert load_folder(tmp_path, "train", image_size=6).shape == (1, 6, 6)


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(pixels(4, 5)).save(tmp_path / "class 00" / "0.png", exif=exif)
    loaded = next(s for s in (load_folder(tmp_path, split) for split in SPLITS) if "class 00" in s.class_names)
    turned = np.rot90(pixels(4, 5), -1)
    assert np.array_equal(loaded.images[0, 0, 0].numpy(), turned)


def test_opaque_alpha_is_dropped_and_a_transparent_one_refused(tmp_path: Path) -> None:
    for i in range(3):
        for k in range(2):
            image = pixels(5, 4, 4, seed=10 * i + k)
            image[..., 3] = 255
            write(tmp_path / f"class {i}" / f"{k}.png", image)
    assert load_folder(tmp_path, "train").shape == (3, 5, 4)
    for i in range(3):
        write(tmp_path / f"class {i}" / "1.png", pixels(5, 4, 4))
    with pytest.raises(UserError, match=r"1\.png: has transparent pixels: flatten"):
        load_folder(tmp_path, "train")


def refused(root: Path, **settings: int) -> str:
    with pytest.raises(UserError) as error:
        load_folder(root, "train", **settings)  # type: ignore[arg-type]
    return str(error.value)


def test_unreadable_files_of_any_split_are_named(tmp_path: Path) -> None:
    fill(tmp_path, 8)
    for i in range(8):
        for name in ("a.png", "b.jpg"):
            (tmp_path / f"class {i:02}" / name).write_bytes(b"not an image")
    says = refused(tmp_path)
    assert says.startswith("16 problems")
    assert str(Path("class 00/a.png")) in says
    assert says.count("cannot be read") == 10
    assert "and 6 more" in says


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    fill(tmp_path, 3, 40, 40)
    for i in range(3):
        file = tmp_path / f"class {i:02}" / "1.png"
        file.write_bytes(file.read_bytes()[:800])
    assert "1.png: cannot be read" in refused(tmp_path)


def test_odd_sizes_are_named_with_the_fix(tmp_path: Path) -> None:
    fill(tmp_path, 4)
    write(tmp_path / "class 02" / "odd.png", pixels(9, 7))
    says = refused(tmp_path)
    assert f"{Path('class 02/odd.png')}: 7x9 pixels, but most are 4x5" in says
    assert "image_size" in says


def test_odd_modes_are_named(tmp_path: Path) -> None:
    fill(tmp_path, 4)
    write(tmp_path / "class 01" / "odd.png", pixels(5, 4, 3))
    assert f"{Path('class 01/odd.png')}: colour, but most are grey" in refused(tmp_path)
    Image.fromarray(pixels(5, 4).astype(np.uint16)).save(tmp_path / "class 01" / "odd.png")
    assert "odd.png: mode I;16 is not 8-bit" in refused(tmp_path)


def test_animations_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    first, second = Image.fromarray(pixels(5, 4)), Image.fromarray(pixels(5, 4, seed=1))
    first.save(tmp_path / "class 00" / "moving.gif", save_all=True, append_images=[second])
    assert "moving.gif: has more than one frame" in refused(tmp_path)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    (tmp_path / "class 00" / "clip.mp4").write_bytes(b"")
    (tmp_path / "class 01" / "inner").mkdir()
    write(tmp_path / "stray.png", pixels(5, 4))
    says = refused(tmp_path)
    assert says.startswith("3 problems")
    for part in ("clip.mp4: not an image", "inner: a folder inside a class folder", "stray.png: a file beside"):
        assert part in says


def test_small_classes_are_named(tmp_path: Path) -> None:
    fill(tmp_path, 4)
    (tmp_path / "class 01" / "1.png").unlink()
    assert "class 01: 1 images" in refused(tmp_path)


def test_the_same_class_in_two_splits_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train", 3)
    fill(tmp_path / "test", 3, first=2)
    assert "class 02: a class of more than one split" in refused(tmp_path)


def test_layouts_that_are_not_understood(tmp_path: Path) -> None:
    assert "no class folders" in refused(tmp_path)
    fill(tmp_path, 2)
    assert "at least 3" in refused(tmp_path)
    fill(tmp_path / "train", 2)
    assert "class folders only, or train/, test/" in refused(tmp_path)
    fill(tmp_path / "other" / "train", 1)
    (tmp_path / "other" / "test").mkdir()
    assert "test: no class folders in it" in refused(tmp_path / "other")
    fill(tmp_path / "other" / "test", 1, first=1)
    assert "number of training classes=1" in refused(tmp_path / "other")


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="there is no folder"):
        load_folder(tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match="train, val, test"):
        load_folder(tmp_path, "valid")
    assert "at least 0" in refused(tmp_path, seed=-1)
    assert "image_size=0" in refused(tmp_path, image_size=0)


# --- arrays


def test_arrays_are_divided_by_class() -> None:
    array = pixels(25, 3, 1, 5, 4)
    parts = {split: load_array(array, split) for split in SPLITS}
    assert [len(parts[split].images) for split in SPLITS] == [16, 4, 5]
    for part in parts.values():
        rows = [int(name.split()[1]) for name in part.class_names]
        assert np.array_equal(part.images.numpy(), array[rows])
        assert part.counts.tolist() == [3] * len(rows)
    assert len({name for part in parts.values() for name in part.class_names}) == 25
    assert names(array, seed=1) != names(array)


def test_tensors_and_arrays_agree_and_neither_is_shared() -> None:
    array = pixels(6, 2, 3, 5, 4)
    tensor = torch.from_numpy(array.copy())
    a, b = load_array(array, "train"), load_array(tensor, "train")
    assert a.identity == b.identity
    before: ImageSplit = load_array(array, "train")
    array[:] = 0
    tensor[:] = 0
    assert torch.equal(a.images, b.images)
    assert before.images.any()


def test_read_only_and_reversed_arrays() -> None:
    array = pixels(6, 2, 1, 5, 4)
    array.flags.writeable = False
    assert load_array(array, "train").identity == load_array(array[:, :, :, ::-1][:, :, :, ::-1], "train").identity


def test_a_dict_says_the_splits() -> None:
    parts = {split: pixels(4, 2, 1, 5, 4, seed=i) for i, split in enumerate(SPLITS)}
    for split in SPLITS:
        assert np.array_equal(load_array(parts, split).images.numpy(), parts[split])
    del parts["val"]
    assert [len(load_array(parts, split).images) for split in SPLITS] == [3, 1, 4]


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (pixels(6, 2, 1, 5, 4) / np.float32(255), "multiply by 255"),
        (torch.zeros(6, 2, 1, 5, 4), "multiply by 255"),
        (pixels(6, 2, 5, 4), "five numbers"),
        (pixels(6, 2, 5, 4, 3), "Move the channels"),
        (pixels(6, 1, 1, 5, 4), "at least 2 instances"),
        (pixels(2, 2, 1, 5, 4), "at least 3"),
        ([[1]], "a NumPy array or a tensor"),
        ({"train": pixels(6, 2, 1, 5, 4)}, 'the keys "train", "test"'),
        ({"train": pixels(6, 2, 1, 5, 4), "test": pixels(6, 2, 1, 5, 5)}, "equal in their last three"),
        ({"train": pixels(6, 2, 1, 5, 4), "test": pixels(6, 2, 1, 5, 4) / 255}, r"array\['test'\]\.dtype"),
    ],
)
def test_arrays_that_cannot_be_used(array: object, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_array(array, "train")  # type: ignore[arg-type]
