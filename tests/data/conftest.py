"""Data for the tests: the real benchmarks where they can be had, and tiny ones in Torchmeta's layout."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import platformdirs
import pytest

REPOSITORY = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
FOLDERS = ("omniglot", "cifar100", "miniimagenet")


@pytest.fixture(scope="session")
def real_data_root() -> Path:
    """$SHARP_MAML_DATA, or the packed data beside the repository, unpacked once into the user's cache folder."""
    if given := os.environ.get("SHARP_MAML_DATA"):
        root = Path(given).expanduser()
    else:
        packed = REPOSITORY.parent / "shared" / "data"
        if not (packed / "unpack.py").is_file():
            pytest.skip("no real data: neither SHARP_MAML_DATA is set nor ../shared/data is there")
        version = hashlib.sha256((packed / "SHA256SUMS").read_bytes()).hexdigest()[:16]
        root = Path(platformdirs.user_cache_dir("sharp-maml-tests")) / version
        if not _complete(root):
            command = [sys.executable, str(packed / "unpack.py"), str(root)]
            unpacking = subprocess.run(command, capture_output=True, text=True)
            # It moves whole folders into place; where another run was first it fails, and all is there.
            assert _complete(root), unpacking.stderr
    if not _complete(root):
        pytest.skip(f"no real data: {', '.join(FOLDERS)} are not all in {root}")
    return root


def _complete(root: Path) -> bool:
    return all((root / folder).is_dir() for folder in FOLDERS)


@pytest.fixture
def tiny_data_root(tmp_path: Path) -> Path:
    """Four benchmarks of a few random pictures, with 3 classes in train and 2 in val and test, as Torchmeta keeps them.

    omniglot/ has 6 drawers, miniimagenet/ 6 pictures per class and cifar100/ 6, but one class of train has 5.
    """
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    root = tmp_path / "data"
    splits = {"train": 3, "val": 2, "test": 2}

    def pictures(count: int, *shape: int) -> np.ndarray:
        return rng.integers(0, 256, (count, *shape), dtype=np.uint8)

    for folder in ("omniglot", "miniimagenet", "cifar100/cifar-fs", "cifar100/fc100"):
        (root / folder).mkdir(parents=True)
    with h5py.File(root / "omniglot/data.hdf5", "w") as omniglot, h5py.File(root / "cifar100/data.hdf5", "w") as cifar:
        for split, n_classes in splits.items():
            characters = [["images_background", f"Alphabet_of_{split}", f"character0{i}"] for i in range(n_classes)]
            fine = [[f"coarse_{split}", f"fine_{i}"] for i in range(n_classes)]
            for label in characters:
                omniglot["/".join(label)] = pictures(6, 105, 105)
            for label in fine:
                cifar["/".join(label)] = pictures(5 if label == ["coarse_train", "fine_2"] else 6, 32, 32, 3)
            with h5py.File(root / f"miniimagenet/{split}_data.hdf5", "w") as mini:
                for i in range(n_classes):
                    mini[f"datasets/n0000000{i}"] = pictures(6, 84, 84, 3)
            for name, labels in {
                f"omniglot/vinyals_{split}_labels.json": characters,
                f"cifar100/cifar-fs/{split}_labels.json": fine,
                f"cifar100/fc100/{split}_labels.json": fine,
                f"miniimagenet/{split}_labels.json": [f"n0000000{i}" for i in range(n_classes)],
            }.items():
                (root / name).write_text(json.dumps(labels))
    (root / "cifar100/fine_names.json").write_text("{}")
    return root
