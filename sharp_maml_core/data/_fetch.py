"""The `download` of three of Torchmeta's class data sets, done safely; the files that come out are Torchmeta's own.

Where Torchmeta untars into the data folder, unpickles what it finds and writes its HDF5 file in place, these read the
checked archive member by member, unpickle arrays only, and move whole files into place, the one that Torchmeta looks
for last: whatever interrupts them, the next call starts afresh. Addresses, MD5s and splits are Torchmeta's.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from sharp_maml_core.data._downloads import download_file_from_google_drive, download_url, load_arrays
from sharp_maml_core.data.split import SPLITS
from sharp_maml_core.errors import UserError


def omniglot(dataset: Any) -> None:
    """Both zips of images -> data.hdf5 (group/alphabet/character -> uint8 [20, 105, 105], ink = 255) and label lists.

    Drawers are in the order of their files' names; Torchmeta leaves that order to the file system.
    """
    if dataset._check_integrity():
        return
    root = Path(dataset.root)
    for group, md5 in dataset.zips_md5.items():
        download_url(f"{dataset.download_url_prefix}/{group}.zip", root, f"{group}.zip", md5)
    with _scratch_folder(root) as scratch, _hdf5(scratch / dataset.filename) as file:
        for group in dataset.zips_md5:
            labels = []
            for label, images in _characters(root / f"{group}.zip", group):
                file["/".join(label)] = images
                labels.append(label)
            split = "train" if group == "images_background" else "test"
            _write_json(scratch / dataset.filename_labels.format("", split), sorted(labels))
        for split in SPLITS:
            members = _asset("omniglot", f"{split}.json")
            labels = [
                (f"images_{group}", alphabet, character)
                for group, alphabets in members.items()
                for alphabet, characters in alphabets.items()
                for character in characters
            ]
            _write_json(scratch / dataset.filename_labels.format("vinyals_", split), sorted(labels))
        file.close()
        _move(scratch, root, last=dataset.filename)


def cifar100(dataset: Any) -> None:
    """The tarball of pickles -> data.hdf5 (coarse/fine -> uint8 [600, 32, 32, 3]: train, test), fine_names.json."""
    root, folder = Path(dataset.root), dataset.gz_folder
    if dataset._check_integrity_data() and (root / dataset.filename_fine_names).is_file():
        return
    archive = root / f"{folder}.tar.gz"
    download_url(dataset.download_url, root, archive.name, dataset.gz_md5)
    with tarfile.open(archive) as tar:
        train, test = (_unpickled(tar, archive, f"{folder}/{part}", encoding="bytes") for part in ("train", "test"))
        meta = _unpickled(tar, archive, f"{folder}/meta", encoding="latin1")
    images, fine, coarse = (
        np.concatenate([np.asarray(part[key]) for part in (train, test)])
        for key in (b"data", b"fine_labels", b"coarse_labels")
    )
    images = images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # [60000, 32, 32, 3]
    fine_names = {}
    with _scratch_folder(root) as scratch, _hdf5(scratch / dataset.filename) as file:
        for i, coarse_name in enumerate(meta["coarse_label_names"]):
            members = np.unique(fine[coarse == i])
            for j in members:
                file[f"{coarse_name}/{meta['fine_label_names'][j]}"] = images[fine == j]
            fine_names[coarse_name] = [meta["fine_label_names"][j] for j in members]
        _write_json(scratch / dataset.filename_fine_names, fine_names)
        file.close()
        _move(scratch, root, last=dataset.filename)
    archive.unlink()  # as Torchmeta does


def miniimagenet(dataset: Any) -> None:
    """The tarball of pickles -> per split {split}_data.hdf5 (datasets/wnid -> uint8 [600, 84, 84, 3]) and labels."""
    if dataset._check_integrity():
        return
    root = Path(dataset.root)
    archive = root / dataset.gz_filename
    download_file_from_google_drive(dataset.gdrive_id, root, archive.name, dataset.gz_md5)
    with tarfile.open(archive) as tar:
        for split in SPLITS:
            content = _unpickled(tar, archive, dataset.pkl_filename.format(split))
            images, classes = content["image_data"], content["class_dict"]
            with _scratch_folder(root) as scratch, _hdf5(scratch / dataset.filename.format(split)) as file:
                for name, indices in classes.items():
                    file[f"datasets/{name}"] = images[indices]
                _write_json(scratch / dataset.filename_labels.format(split), sorted(classes))
                file.close()
                _move(scratch, root, last=dataset.filename.format(split))


def _characters(archive: Path, group: str) -> Iterator[tuple[tuple[str, str, str], np.ndarray]]:
    """Each character of a zip of Omniglot: its (group, alphabet, character) and its images [drawers, 105, 105]."""
    pattern = re.compile(rf"{group}/([^/]+)/(character\d+)/[^/]+\.png")
    files: dict[tuple[str, str, str], list[str]] = {}
    with zipfile.ZipFile(archive) as content:
        for name in sorted(content.namelist()):
            if match := pattern.fullmatch(name):
                files.setdefault((group, match[1], match[2]), []).append(name)
        for label, names in files.items():
            images = []
            for name in names:
                with content.open(name) as file, Image.open(file) as image:
                    images.append(np.asarray(ImageOps.invert(image.convert("L"))))
            yield label, np.stack(images)


def _unpickled(tar: tarfile.TarFile, archive: Path, member: str, encoding: str = "ASCII") -> Any:
    source = f"{member} in {archive}"
    try:
        file = tar.extractfile(member)
    except KeyError:
        file = None
    if file is None:
        raise UserError(f"{source} is missing: delete the archive and fetch it again.")
    with file:
        return load_arrays(file, source, encoding)


def _asset(*path: str) -> Any:
    from torchmeta.datasets.utils import get_asset

    return get_asset(*path)


def _hdf5(path: Path) -> Any:
    import h5py  # comes with the extra "torchmeta"

    return h5py.File(path, "w")


@contextmanager
def _scratch_folder(root: Path) -> Iterator[Path]:
    # Beside its destination, so that moving a file into place is one atomic rename.
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=root, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def _move(scratch: Path, root: Path, last: str) -> None:
    """Move every file of `scratch` to `root`, and `last` after the others, for it says that all are there."""
    for name in sorted(os.listdir(scratch), key=lambda name: name == last):
        os.replace(scratch / name, root / name)
