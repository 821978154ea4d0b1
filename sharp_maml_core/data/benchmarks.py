"""Torchmeta's benchmarks as tensors: Omniglot, mini-ImageNet, CIFAR-FS, FC100 and sinusoid regression.

Torchmeta reads one picture at a time, through PIL, whenever a task is drawn. Here a split is read once, in bulk, from
the HDF5 files that Torchmeta writes, with its own class lists; `images / 255` equals, to the last bit, what Torchmeta's
`datasets.helpers` give with their default transforms.

Classes made by turning characters are left to the sampler. Torchmeta's `Rotation(90 * k)` turns counter-clockwise, as
`torch.rot90(images, k, (-2, -1))` does; it turns before it scales 105 pixels to 28, and Pillow rounds between its
horizontal and its vertical pass, so that turns by 90 and 270 degrees differ from it by 1/255 in 2.6% of the pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sharp_maml_core.data._cache import cached_images, file_identity
from sharp_maml_core.data.roots import ENVIRONMENT_VARIABLE
from sharp_maml_core.data.split import SPLITS, ImageSplit, RegressionSplit, check_name
from sharp_maml_core.errors import MissingData, UserError, invalid


@dataclass(frozen=True)
class _Benchmark:
    title: str
    kind: str  # the name of Torchmeta's data set class in torchmeta.datasets
    folder: str  # below the data root
    data: str  # its HDF5 file, in that folder; {} is the split
    labels: str  # its list of classes, likewise
    others: tuple[str, ...]  # what else Torchmeta wants there
    group: str  # where in the HDF5 file the classes are
    size: int  # pixels per edge, as Torchmeta's helper scales them
    classes: tuple[int, int, int]  # in train, val, test


_BENCHMARKS = {
    "omniglot": _Benchmark(
        "Omniglot", "Omniglot", "omniglot", "data.hdf5", "vinyals_{}_labels.json", (), "/", 28, (1028, 172, 423)
    ),
    "miniimagenet": _Benchmark(
        "mini-ImageNet",
        "MiniImagenet",
        "miniimagenet",
        "{}_data.hdf5",
        "{}_labels.json",
        (),
        "/datasets",
        84,
        (64, 16, 20),
    ),
    "cifar-fs": _Benchmark(
        "CIFAR-FS",
        "CIFARFS",
        "cifar100",
        "data.hdf5",
        "cifar-fs/{}_labels.json",
        ("fine_names.json",),
        "/",
        32,
        (64, 16, 20),
    ),
    "fc100": _Benchmark(
        "FC100", "FC100", "cifar100", "data.hdf5", "fc100/{}_labels.json", ("fine_names.json",), "/", 32, (60, 20, 20)
    ),
}
BENCHMARKS = tuple(_BENCHMARKS)


def expected_classes(name: str, split: str) -> int:
    """How many classes the whole split has.

    >>> expected_classes("miniimagenet", "train")
    64
    """
    _check(name, split)
    return _BENCHMARKS[name].classes[SPLITS.index(split)]


def completeness_note(data: ImageSplit) -> str:
    """What is missing of a split from `load_benchmark`, e.g. "57 of 64 classes"; empty where nothing is.

    Every figure made with an incomplete split has to say so: put this beside it.
    """
    name, _, split = data.name.partition("/")
    expected = expected_classes(name, split)
    return "" if len(data.images) == expected else f"{len(data.images)} of {expected} classes"


def load_benchmark(name: str, split: str, *, data_root: Path, download: bool = False) -> ImageSplit:
    """One split of a benchmark, whole, on the CPU.

    name       one of `BENCHMARKS`
    split      "train", "val" or "test": classes that no other split has
    data_root  the folder below which Torchmeta's folders (omniglot/, miniimagenet/, cifar100/) are
    download   fetch what is missing, through Torchmeta, checked and unpacked safely

    Gives images uint8 [classes, instances, channels, H, W]: Omniglot [1028, 20, 1, 28, 28] (train), mini-ImageNet
    [64, 600, 3, 84, 84], CIFAR-FS [64, 600, 3, 32, 32], FC100 [60, 600, 3, 32, 32]; classes are named as Torchmeta
    does: "images_background/Greek/character01" without its first part, "coarse/fine", or the WordNet id. An
    incomplete data set is loaded as far as it goes; `completeness_note` tells.

    Raises
    ------
    MissingData
        The data are not there, and were not to be downloaded or could not be.
    UserError
        An unknown name or split; a file that is cut or damaged.
    MissingPackage
        Torchmeta is not installed.
    """
    _check(name, split)
    benchmark = _BENCHMARKS[name]
    classes = _class_dataset(name, benchmark, split, Path(data_root), download)
    data_file = Path(classes.root) / benchmark.data.format(split)
    labels = [label if isinstance(label, str) else "/".join(label) for label in classes.labels]

    def read() -> tuple[Tensor, Tensor]:
        return _read(data_file, benchmark, labels)

    if name == "omniglot":  # the only one whose pictures are scaled on the way
        identity = [file_identity(data_file), labels, benchmark.size, Image.__version__]
        images, counts = cached_images(Path(data_root), f"{name}-{split}-{benchmark.size}", identity, read)
    else:
        images, counts = read()
    names = tuple(label.split("/", 1)[1] if name == "omniglot" else label for label in labels)
    return ImageSplit.from_images(images, names, f"{name}/{split}", counts)


def load_sinusoid(split: str, *, seed: int = 0, n_functions: int = 10_000, n_points: int = 100) -> RegressionSplit:
    """Sinusoid regression tasks of Finn et al. (2017), drawn by `torchmeta.toy.Sinusoid`.

    Amplitudes are uniform in [0.1, 5], phases in [0, pi], inputs in [-5, 5]; there is no noise. Each split has its own
    stream of random numbers, derived from `seed` and its name, so that no function is in two of them.

    Gives inputs and targets float32 [n_functions, n_points, 1].
    """
    check_name(split)
    for parameter, value in {"n_functions": n_functions, "n_points": n_points}.items():
        if value < 1:
            raise invalid(parameter, value, "at least 1")
    if seed < 0:
        raise invalid("seed", seed, "at least 0")
    from sharp_maml_core.data import torchmeta

    tasks = torchmeta.toy.Sinusoid(num_samples_per_task=n_points, num_tasks=n_functions)
    tasks.seed(int(np.random.SeedSequence([seed, SPLITS.index(split)]).generate_state(1)[0]))
    inputs, targets = zip(*(tasks[i][:] for i in range(n_functions)), strict=True)
    return RegressionSplit.from_points(_float32(inputs), _float32(targets), f"sinusoid/{split}")


def _check(name: str, split: str) -> None:
    if name not in _BENCHMARKS:
        raise invalid("dataset", name, f"one of {', '.join(BENCHMARKS)}")
    check_name(split)


def _class_dataset(name: str, benchmark: _Benchmark, split: str, data_root: Path, download: bool) -> Any:
    """Torchmeta's data set of classes, its files known to be there (and nothing more)."""
    from sharp_maml_core.data import torchmeta

    folder = data_root.expanduser() / benchmark.folder
    needed = [folder / part.format(split) for part in (benchmark.data, benchmark.labels, *benchmark.others)]
    missing = [path for path in needed if not path.is_file()]
    if missing and not download:
        raise MissingData(
            f"{benchmark.title} ({split}) is not there: looked for {' and '.join(map(str, missing))}. "
            f'Fetch it with `load_split("{name}", "{split}", download=True)` (make: `DOWNLOAD=true`; a notebook: '
            "`-p download True`; on the command line: `--download true`), "
            f"put Torchmeta's files into {folder}, or set {ENVIRONMENT_VARIABLE} to the folder that has "
            f"{benchmark.folder}/ in it."
        )
    try:
        # A task of one class is the smallest there is: only the data set of classes behind it is wanted.
        kind = getattr(torchmeta.datasets, benchmark.kind)
        return kind(str(data_root), num_classes_per_task=1, meta_split=split, download=download).dataset
    except UserError:
        raise
    except ValueError as error:  # not JSON, or not text
        raise _damaged(needed[1], error) from error
    except OSError as error:
        raise UserError(f"{benchmark.title} cannot be put into {folder}: {error}.") from error


def _read(path: Path, benchmark: _Benchmark, labels: list[str]) -> tuple[Tensor, Tensor]:
    """Images uint8 [C, I, channels, size, size] of the classes `labels`, and how many of the I each class has."""
    with _hdf5(path) as file:
        sets = [file[f"{benchmark.group}/{label}"] for label in labels]
        counts = torch.tensor([len(images) for images in sets])
        channels = 1 if sets[0].ndim == 3 else sets[0].shape[3]
        result = torch.zeros(len(sets), int(counts.max()), channels, benchmark.size, benchmark.size, dtype=torch.uint8)
        for target, images in zip(result, sets, strict=True):
            scaled = _scaled(images[()], benchmark.size)  # [I, H, W] or [I, H, W, channels]
            target[: len(scaled)] = torch.from_numpy(scaled.reshape(*scaled.shape[:3], channels)).permute(0, 3, 1, 2)
    return result, counts


def _scaled(images: np.ndarray, size: int) -> np.ndarray:
    """Each picture [I, H, W(, 3)] as Torchmeta's Resize(size) makes it: by Pillow, bilinear."""
    if images.dtype != np.uint8:
        raise TypeError(f"pixels are {images.dtype}, not uint8")
    if images.shape[1:3] == (size, size):
        return images
    if images.shape[1] != images.shape[2]:
        raise ValueError(f"pictures are {images.shape[1]}x{images.shape[2]}, not square")
    bilinear = Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(image).resize((size, size), bilinear)) for image in images])


@contextmanager
def _hdf5(path: Path) -> Iterator[Any]:
    import h5py  # comes with the extra "torchmeta"

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, IndexError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    reason = str(error).strip("'\"")
    return UserError(f"{path} is cut or damaged ({reason}): delete it and fetch it again, e.g. with download=True.")


def _float32(points: tuple[np.ndarray, ...]) -> Tensor:
    return torch.from_numpy(np.stack(points)).to(torch.float32)
