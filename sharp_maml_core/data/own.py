"""Your own images: a folder with a folder per class, or an array [classes, instances, channels, H, W].

A folder may hold `train/`, `val/` and `test/` (or `Train/`, ...), each with its class folders; without `val/`, a fifth
of the training classes becomes the validation split. Otherwise its class folders are split 64 / 16 / 20 % by class.
Either way the division depends on nothing but the sorted class names and the seed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from ..errors import MissingData, UserError, invalid
from .split import SPLITS, ImageSplit, check_name

IMAGE_SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"])
# Files that commonly lie beside images and are passed over, as hidden files are; any other non-image is an error.
_COMPANION_SUFFIXES = frozenset([".txt", ".csv", ".tsv", ".json", ".md", ".rst", ".yml", ".yaml"])
_COMPANION_NAMES = frozenset(("thumbs.db", "desktop.ini", "readme", "license", "licence"))
_CHANNELS = {"1": 1, "L": 1, "LA": 1, "La": 1, "P": 3, "PA": 3, "RGB": 3, "RGBA": 3, "RGBa": 3}
_MOST_NAMED = 10
_ORIENTATION = 0x0112  # the EXIF tag; its values 5 to 8 swap width and height

Array = npt.NDArray[np.uint8] | Tensor
T = TypeVar("T")


def load_folder(
    path: str | os.PathLike[str],
    split: str,
    *,
    seed: int = 0,
    image_size: int | tuple[int, int] | None = None,
) -> ImageSplit:
    """One split of a folder of images: uint8 [classes, most instances, 1 or 3, H, W], padded with zeros.

    Every image of every split is opened to compare sizes and modes, the images of this split are decoded. Grey images
    give 1 channel, colour 3. An alpha channel is dropped if it is opaque everywhere, and refused otherwise: what lies
    behind is not ours to choose. Photographs are turned upright as their EXIF orientation says.

    Args:
        path: the folder; see the module for its layout.
        split: "train", "val" or "test".
        seed: of the division of classes where the folder does not make it, at least 0.
        image_size: None where all images have one size, else resize all to this, (height, width) or one number for
            both. Antialiased; proportions are not kept.

    Raises:
        UserError: no such folder, a layout that is not understood, images that cannot be read or do not fit together
            (the first ten are named), a class with fewer than 2 images, too few classes for the splits.
    """
    _check(split, seed)
    size = _height_width(image_size)
    root = Path(path).expanduser()
    if not root.is_dir():
        raise MissingData(f"dataset={str(path)!r}: there is no folder {root.absolute()}. Check the path.")
    problems: list[str] = []
    splits = _find(root, seed, problems)
    _report(problems, root, "Remove these, or put images into class folders.")
    files = [file for classes in splits.values() for one in classes for file in one.files]
    size, channels = _common_format(files, size, root)
    return _decode(splits[split], size, channels, f"{root.resolve().name}/{split}", root)


def load_array(array: Array | Mapping[str, Array], split: str, *, seed: int = 0) -> ImageSplit:
    """One split of a NumPy array or tensor, uint8 [classes, instances, channels, H, W].

    Classes are split 64 / 16 / 20 % by the seed, or as a dict {"train": array, "val": array, "test": array} says;
    without "val", a fifth of the training classes becomes the validation split.

    Raises:
        UserError: another shape or dtype, fewer than 2 instances, unknown keys, too few classes.
    """
    _check(split, seed)
    parts = dict(array) if isinstance(array, Mapping) else {"": array}
    if isinstance(array, Mapping) and not {"train", "test"} <= set(parts) <= set(SPLITS):
        raise invalid("array keys", sorted(parts), 'the keys "train", "test" and perhaps "val"')
    for key, part in parts.items():
        _check_array(f"array[{key!r}]" if key else "array", part)
    if len({tuple(part.shape[2:]) for part in parts.values()}) > 1:
        shapes = {key: tuple(part.shape) for key, part in parts.items()}
        raise invalid("array shapes", shapes, "equal in their last three numbers", "Resize the images of one split.")

    n_digits = len(str(max(len(part) for part in parts.values()) - 1))
    classes = {key: [(f"class {i:0{n_digits}}", key, i) for i in range(len(part))] for key, part in parts.items()}
    divided = _complete(classes, seed) if isinstance(array, Mapping) else _divide(classes[""], seed)
    names, keys, rows = zip(*divided[split], strict=True)
    part = parts[keys[0]][list(rows)]  # a copy: later changes to the caller's array change nothing here
    images = part.detach() if isinstance(part, Tensor) else torch.from_numpy(np.ascontiguousarray(part))
    return ImageSplit.from_images(images.contiguous(), names, f"array/{split}")


@dataclass(frozen=True)
class _Class:
    name: str
    files: tuple[Path, ...]


def _check(split: str, seed: int) -> None:
    check_name(split)
    if seed < 0:
        raise invalid("seed", seed, "an integer of at least 0")


def _height_width(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    pair = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(pair) != 2 or min(pair) < 1:
        raise invalid("image_size", image_size, "a positive number of pixels, or two: (height, width)")
    return pair[0], pair[1]


# --- the division into splits


def _shuffled(items: Sequence[T], seed: int) -> list[T]:
    keys = np.random.PCG64(seed).random_raw(len(items))  # raw bits: their stream never changes between NumPy versions
    return [items[i] for i in np.argsort(keys, kind="stable")]


def _divide(classes: Sequence[T], seed: int) -> dict[str, list[T]]:
    """64 / 16 / 20 % of the classes, at least one each, in the given order within each split."""
    if len(classes) < 3:
        raise invalid("number of classes", len(classes), "at least 3, one for each split", "Add classes.")
    n_test = max(1, (20 * len(classes) + 50) // 100)
    n_val = max(1, (16 * len(classes) + 50) // 100)
    order = _shuffled(range(len(classes)), seed)
    chosen = {"test": order[:n_test], "val": order[n_test : n_test + n_val], "train": order[n_test + n_val :]}
    return {split: [classes[i] for i in sorted(chosen[split])] for split in SPLITS}


def _complete(splits: Mapping[str, list[T]], seed: int) -> dict[str, list[T]]:
    """Carve a validation split out of the training classes, one class in five, if there is none."""
    if "val" in splits:
        return dict(splits)
    train = splits["train"]
    if len(train) < 2:
        fix = "Add classes, or give a validation split of your own."
        raise invalid("number of training classes", len(train), "at least 2, as one becomes the validation split", fix)
    n_val = max(1, (20 * len(train) + 50) // 100)
    order = _shuffled(range(len(train)), seed)
    val, rest = sorted(order[:n_val]), sorted(order[n_val:])
    return {"train": [train[i] for i in rest], "val": [train[i] for i in val], "test": splits["test"]}


# --- folders


def _find(root: Path, seed: int, problems: list[str]) -> dict[str, list[_Class]]:
    """The classes of each split; what does not belong where it lies is added to `problems`."""
    folders, files = _entries(root)
    if not folders:
        raise UserError(f"{root} has no class folders: make one folder per class, with its images in it.")
    named = {folder.name for folder in folders}
    lower = {name.lower() for name in named}  # Train/ and Test/ are splits too; a Train/ without them may be a vehicle
    if not named & set(SPLITS) and not {"train", "test"} <= lower:
        problems.extend(f"{file.name}: a file beside the class folders" for file in files)
        return _divide(_classes(folders, root, problems), seed)
    if not {"train", "test"} <= lower <= set(SPLITS) or len(lower) < len(named):
        found = ", ".join(sorted(named))
        raise UserError(
            f"{root} holds the folders {found}: give class folders only, or train/, test/ and perhaps val/ only."
        )
    splits = {}
    for folder in folders:
        inner, beside = _entries(folder)
        problems.extend(f"{file.relative_to(root)}: a file beside the class folders" for file in files + beside)
        files = []
        splits[folder.name.lower()] = _classes(inner, root, problems)
        if not inner:
            problems.append(f"{folder.name}: no class folders in it")
    uses = Counter(one.name for classes in splits.values() for one in classes)
    problems.extend(f"{name}: a class of more than one split" for name, count in sorted(uses.items()) if count > 1)
    return _complete(splits, seed) if not problems else splits


def _classes(folders: Iterable[Path], root: Path, problems: list[str]) -> list[_Class]:
    classes = []
    for folder in folders:
        inner, files = _entries(folder)
        at = folder.relative_to(root)
        problems.extend(f"{at / one.name}: a folder inside a class folder" for one in inner)
        problems.extend(f"{at / one.name}: not an image" for one in files if one.suffix.lower() not in IMAGE_SUFFIXES)
        images = tuple(one for one in files if one.suffix.lower() in IMAGE_SUFFIXES)
        if len(images) < 2:
            problems.append(f"{at}: {len(images)} images, but support and query need one each")
        classes.append(_Class(folder.name, images))
    return classes


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Folders and files, sorted by name, without hidden ones and the usual companions of images."""
    entries = sorted((e for e in folder.iterdir() if not e.name.startswith(".")), key=lambda e: e.name)
    files = [e for e in entries if not e.is_dir() and not _is_companion(e)]
    return [e for e in entries if e.is_dir()], files


def _is_companion(file: Path) -> bool:
    return file.suffix.lower() in _COMPANION_SUFFIXES or file.name.lower() in _COMPANION_NAMES


def _report(problems: Sequence[str], root: Path, fix: str) -> None:
    if problems:
        more = f"; and {len(problems) - _MOST_NAMED} more" if len(problems) > _MOST_NAMED else ""
        raise UserError(f"{len(problems)} problems in {root}: {'; '.join(problems[:_MOST_NAMED])}{more}. {fix}")


# --- images


def _each(files: Sequence[Path], root: Path, what: str, read: Callable[[Path], T]) -> list[T]:
    """`read` every file, with a bar after two seconds; all that fail are reported together."""
    values, problems = [], []
    for file in tqdm(files, desc=what, unit="image", leave=False, delay=2):
        try:
            values.append(read(file))
        except UserError as error:
            problems.append(f"{file.relative_to(root)}: {error}")
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:  # Pillow's ways
            problems.append(f"{file.relative_to(root)}: cannot be read ({error})".replace(str(root), "..."))
    _report(problems, root, "Repair, convert or remove these files.")
    return values


def _format(file: Path) -> tuple[int, int, int]:
    """Height, width and channels, as far as the file's header tells."""
    with Image.open(file) as image:
        if image.mode not in _CHANNELS:
            raise UserError(f"mode {image.mode} is not 8-bit grey or RGB")
        if getattr(image, "n_frames", 1) > 1:
            raise UserError("has more than one frame")
        width, height = image.size
        if image.getexif().get(_ORIENTATION, 1) >= 5:
            width, height = height, width
        return height, width, _CHANNELS[image.mode]


def _common_format(files: Sequence[Path], size: tuple[int, int] | None, root: Path) -> tuple[tuple[int, int], int]:
    """The size and number of channels that all images have (or will have, for the size); else name the odd ones."""
    formats = _each(files, root, "checking images", _format)
    usual = Counter(channels for *_, channels in formats).most_common(1)[0][0]
    kind = {1: "grey", 3: "colour"}
    odd = [
        f"{file.relative_to(root)}: {kind[channels]}, but most are {kind[usual]}"
        for file, (*_, channels) in zip(files, formats, strict=True)
        if channels != usual
    ]
    _report(odd, root, "Convert all images to grey, or all to colour.")
    if size is not None:
        return size, usual
    height, width = Counter((h, w) for h, w, _ in formats).most_common(1)[0][0]
    odd = [
        f"{file.relative_to(root)}: {w}x{h} pixels, but most are {width}x{height}"
        for file, (h, w, _) in zip(files, formats, strict=True)
        if (h, w) != (height, width)
    ]
    _report(odd, root, "Give image_size, the pixels per edge to which all are to be resized.")
    return (height, width), usual


def _decode(classes: Sequence[_Class], size: tuple[int, int], channels: int, name: str, root: Path) -> ImageSplit:
    counts = [len(one.files) for one in classes]
    images = torch.zeros((len(classes), max(counts), channels, *size), dtype=torch.uint8)
    files = [file for one in classes for file in one.files]
    places = [(i, k) for i, count in enumerate(counts) for k in range(count)]
    place = dict(zip(files, places, strict=True))

    def read(file: Path) -> None:
        images[place[file]] = torch.from_numpy(_pixels(file, size, channels))  # [channels, H, W]

    _each(files, root, "reading images", read)
    return ImageSplit.from_images(images, tuple(one.name for one in classes), name, torch.tensor(counts))


def _pixels(file: Path, size: tuple[int, int], channels: int) -> npt.NDArray[np.uint8]:
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened)
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            raise UserError("has transparent pixels: flatten it onto a background")
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = np.array(image)  # [H, W] or [H, W, 3]
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


# --- arrays


def _check_array(name: str, array: Array) -> None:
    if not isinstance(array, np.ndarray | Tensor):
        raise invalid(name, type(array).__name__, "a NumPy array or a tensor")
    if array.dtype not in (np.uint8, torch.uint8):
        fix = "For floats in [0, 1], multiply by 255, round and convert: (255 * array).round() as uint8."
        raise invalid(f"{name}.dtype", str(array.dtype), "uint8, so that pixels are kept exactly", fix)
    shape = tuple(array.shape)
    if len(shape) != 5 or min(shape) < 1:
        raise invalid(f"{name}.shape", shape, "five numbers: [classes, instances, channels, H, W]")
    if shape[2] not in (1, 3) and shape[4] in (1, 3):
        fix = "Move the channels: array.transpose(0, 1, 4, 2, 3), for a tensor array.permute(0, 1, 4, 2, 3)."
        raise invalid(f"{name}.shape", shape, "[classes, instances, channels, H, W]", fix)
    if shape[1] < 2:
        raise invalid(f"{name}.shape", shape, "at least 2 instances per class, as support and query need one each")
