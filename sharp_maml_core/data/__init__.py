"""Data sets as tensors on the device, and the episodes drawn from them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from ..checks import check_whole
from ..config import SEED
from ..errors import invalid
from .benchmarks import BENCHMARKS, load_benchmark, load_sinusoid
from .episodes import check_split, sample_episodes
from .roots import data_root
from .split import SPLITS, ImageSplit, RegressionSplit, Split, check_name

__all__ = ["SPLITS", "ImageSplit", "RegressionSplit", "Split", "check_split", "load_split", "sample_episodes"]

KNOWN = ("glyphs", *BENCHMARKS, "sinusoid")


def load_split(
    dataset: Any,
    split: str,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    seed: int = 0,
    image_size: int | None = None,
    device: torch.device | str = "cpu",
) -> Split:
    """One split of a data set, as uint8 images [classes, instances, C, H, W] on `device`.

    dataset     "glyphs" (drawn here, no download), "omniglot", "miniimagenet", "cifar-fs", "fc100", "sinusoid",
                a folder of class folders of images, an array [classes, instances, C, H, W], or a dict of three of them
    split       "train", "val" or "test"
    root        folder of the data sets; default $SHARP_MAML_DATA, else the user's cache folder
    download    fetch a missing data set through Torchmeta
    seed        of the drawing (glyphs), of the functions (sinusoid), or of the split by class (your own images); at
                least 0 and below 2**63
    image_size  pixels per edge to resize a folder's images to; None if they all have one size

    Raises UserError naming what is wrong; MissingData says what is missing, where it was looked for, and what gets it.
    """
    check_name(split)
    check_whole("seed", seed, SEED)
    return _load(dataset, split, root, download, seed, image_size).to(device)


def _load(
    dataset: Any, split: str, root: str | os.PathLike[str] | None, download: bool, seed: int, image_size: int | None
) -> Split:
    if not isinstance(dataset, str | os.PathLike):
        _as_they_are(image_size, "an array")
        from .own import load_array

        return load_array(dataset if not isinstance(dataset, Mapping) else dict(dataset), split, seed=seed)
    name = os.fspath(dataset)
    if name in KNOWN:
        _as_they_are(image_size, name)
    if name == "glyphs":
        from .glyphs import load_glyphs

        return load_glyphs(split, data_root=data_root(root), seed=seed)
    if name == "sinusoid":
        return load_sinusoid(split, seed=seed)
    if name in BENCHMARKS:
        return load_benchmark(name, split, data_root=data_root(root), download=download)
    if os.path.isdir(os.path.expanduser(name)):
        from .own import load_folder

        return load_folder(name, split, seed=seed, image_size=image_size)
    raise invalid("dataset", name, f"one of {', '.join(KNOWN)}, or an existing folder of class folders of images")


def _as_they_are(image_size: int | None, source: str) -> None:
    if image_size is not None:
        raise invalid("image_size", image_size, f"left out for {source}: only a folder's images are resized")
