"""The data sets that are fetched: their files equal Torchmeta's own, and nothing half-done is left."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

if importlib.util.find_spec("torchmeta") is None:
    pytest.skip("Torchmeta is not installed", allow_module_level=True)
import h5py

from sharp_maml_core.data import _downloads, _fetch, torchmeta
from sharp_maml_core.data.benchmarks import load_benchmark
from sharp_maml_core.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def python2_pickle(value: object) -> bytes:
    """A pickle as Python 2 and NumPy 1 wrote it: the form of CIFAR-100's files."""

    def item(x: object) -> bytes:
        if isinstance(x, dict):
            return b"}(" + b"".join(item(k) + item(v) for k, v in x.items()) + b"u"
        if isinstance(x, list):
            return b"](" + b"".join(map(item, x)) + b"e"
        if isinstance(x, int):
            return b"J" + struct.pack("<i", x)
        if isinstance(x, str):
            return b"T" + struct.pack("<i", len(x)) + x.encode("latin1")
        assert isinstance(x, np.ndarray)
        assert x.dtype == np.uint8
        data = b"T" + struct.pack("<i", x.nbytes) + x.tobytes()
        dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        shape = b"(" + b"".join(map(item, x.shape)) + b"t"
        return b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + (
            shape + dtype + b"\x89" + data + b"tb"
        )

    return b"\x80\x02" + item(value) + b"."


def make_archives(folder: Path) -> None:
    """The files that the three servers would give, in small."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for group, alphabets in {"images_background": ["Greek", "N_Ko"], "images_evaluation": ["ULOG"]}.items():
        with zipfile.ZipFile(folder / f"{group}.zip", "w") as content:
            for alphabet in alphabets:
                for character in ("character01", "character02"):
                    for drawer in (3, 1, 2):
                        file = io.BytesIO()
                        Image.fromarray(rng.random((105, 105)) < 0.9).save(file, "png")
                        content.writestr(f"{group}/{alphabet}/{character}/0001_0{drawer}.png", file.getvalue())
    parts = {
        part: python2_pickle(
            {
                "data": rng.integers(0, 256, (n, 3 * 32 * 32), dtype=np.uint8),
                "fine_labels": [i % 4 for i in range(n)],
                "coarse_labels": [i % 2 for i in range(n)],
            }
        )
        for part, n in (("train", 20), ("test", 8))
    }
    names = {
        "fine_label_names": ["apple", "beaver", "pear", "seal"],
        "coarse_label_names": ["fruit", "aquatic_mammals"],
    }
    parts["meta"] = python2_pickle(names)
    write_tar(folder / "cifar-100-python.tar.gz", {f"cifar-100-python/{part}": data for part, data in parts.items()})
    caches = {}
    for split, wnids in {"train": ["n03", "n01"], "val": ["n02"], "test": ["n04"]}.items():
        cache = {
            "image_data": rng.integers(0, 256, (5 * len(wnids), 84, 84, 3), dtype=np.uint8),
            "class_dict": {wnid: list(range(5 * i, 5 * i + 5)) for i, wnid in enumerate(wnids)},
        }
        caches[f"mini-imagenet-cache-{split}.pkl"] = pickle.dumps(cache)
    write_tar(folder / "mini-imagenet.tar.gz", caches)


KINDS = {
    "omniglot": "OmniglotClassDataset",
    "cifar100.cifar_fs": "CIFARFSClassDataset",
    "miniimagenet": "MiniImagenetClassDataset",
}


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that stands for the three servers; Torchmeta's addresses and hashes are set to it."""
    folder = tmp_path / "servers"
    make_archives(folder)
    datasets = torchmeta.datasets
    omniglot = datasets.omniglot.OmniglotClassDataset
    monkeypatch.setattr(omniglot, "download_url_prefix", folder.as_uri())
    monkeypatch.setattr(omniglot, "zips_md5", {name: md5(folder / f"{name}.zip") for name in omniglot.zips_md5})
    cifar100 = datasets.cifar100.base.CIFAR100ClassDataset
    monkeypatch.setattr(cifar100, "download_url", (folder / "cifar-100-python.tar.gz").as_uri())
    monkeypatch.setattr(cifar100, "gz_md5", md5(folder / "cifar-100-python.tar.gz"))
    monkeypatch.setattr(_downloads, "GOOGLE_DRIVE", (folder / "mini-imagenet.tar.gz").as_uri())
    monkeypatch.setattr(datasets.miniimagenet.MiniImagenetClassDataset, "gz_md5", md5(folder / "mini-imagenet.tar.gz"))
    return folder


def class_dataset(name: str, root: Path):
    module = getattr(torchmeta.datasets, name.split(".")[0])
    module = module.cifar_fs if name == "cifar100.cifar_fs" else module
    return getattr(module, KINDS[name])(str(root), meta_train=True, download=True)


def content_of(folder: Path) -> dict[str, object]:
    """What the HDF5 and JSON files of a folder say; pictures of a class in the order of their pixels."""
    content: dict[str, object] = {}
    for path in sorted(folder.rglob("*.hdf5")):
        with h5py.File(path) as file:
            file.visititems(
                lambda name, node, path=path: (
                    content.update({f"{path.name}:{name}": sorted(map(bytes, node[()]))})
                    if isinstance(node, h5py.Dataset)
                    else None
                )
            )
    return content | {str(path.relative_to(folder)): json.loads(path.read_text()) for path in folder.rglob("*.json")}


# Torchmeta as it comes: it is imported with the stand-in and not mended.
TORCHMETAS_OWN = """if True:
    import hashlib, pathlib, shutil, sys
    sys.modules["torchvision"] = None  # where there is one: its download_url does not take file:// addresses
    from sharp_maml_core.data import _torchvision
    with _torchvision.provided():
        import torchmeta
    servers, root = map(pathlib.Path, sys.argv[1:])
    md5 = lambda name: hashlib.md5((servers / name).read_bytes()).hexdigest()
    datasets = torchmeta.datasets
    omniglot, cifar100 = datasets.omniglot.OmniglotClassDataset, datasets.cifar100.base.CIFAR100ClassDataset
    omniglot.download_url_prefix = servers.as_uri()
    omniglot.zips_md5 = {name: md5(f"{name}.zip") for name in omniglot.zips_md5}
    cifar100.download_url = (servers / "cifar-100-python.tar.gz").as_uri()
    cifar100.gz_md5 = md5("cifar-100-python.tar.gz")
    mini = datasets.miniimagenet
    mini.download_file_from_google_drive = lambda _, folder, name, md5: (
        pathlib.Path(folder).mkdir(parents=True), shutil.copy(servers / name, folder))
    for kind in (omniglot, datasets.cifar100.cifar_fs.CIFARFSClassDataset, mini.MiniImagenetClassDataset):
        kind(str(root), meta_train=True, download=True)
"""


def test_the_files_equal_torchmetas_own(servers: Path, tmp_path: Path):
    command = [sys.executable, "-c", TORCHMETAS_OWN, str(servers), str(tmp_path / "theirs")]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in KINDS:
        class_dataset(name, tmp_path / "ours")
    for folder in ("omniglot", "cifar100", "miniimagenet"):
        theirs, ours = content_of(tmp_path / "theirs" / folder), content_of(tmp_path / "ours" / folder)
        assert ours.keys() == theirs.keys()
        assert len(ours) > 4
        assert ours == theirs
        assert files_in(tmp_path / "ours" / folder) == files_in(tmp_path / "theirs" / folder)


@pytest.mark.parametrize("name", KINDS)
def test_an_interrupted_download_is_finished_by_the_next(servers: Path, tmp_path: Path, monkeypatch, name: str):
    folder = tmp_path / "data" / name.split(".")[0]
    with monkeypatch.context() as patch:
        patch.setattr(_fetch, "_move", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            class_dataset(name, tmp_path / "data")
    assert not [path for path in files_in(folder) if not path.endswith((".zip", ".gz"))]
    dataset = class_dataset(name, tmp_path / "data")
    assert len(dataset.labels) > 1
    assert not [path for path in files_in(folder) if Path(path).name.startswith(".")]


def test_load_benchmark_downloads(servers: Path, tmp_path: Path):
    data = load_benchmark("miniimagenet", "train", data_root=tmp_path / "data", download=True)
    assert data.class_names == ("n01", "n03")
    with tarfile.open(servers / "mini-imagenet.tar.gz") as tar:
        cache = pickle.load(tar.extractfile("mini-imagenet-cache-train.pkl"))
    assert np.array_equal(data.images[0], cache["image_data"][5:].transpose(0, 3, 1, 2))


def test_a_lost_side_file_is_fetched_again(servers: Path, tmp_path: Path):
    dataset = class_dataset("cifar100.cifar_fs", tmp_path)
    before = content_of(Path(dataset.root))
    (Path(dataset.root) / "fine_names.json").unlink()
    class_dataset("cifar100.cifar_fs", tmp_path)
    assert content_of(Path(dataset.root)) == before


def test_a_download_with_another_hash_is_not_unpacked(servers: Path, tmp_path: Path):
    (servers / "mini-imagenet.tar.gz").write_bytes(b"<html>sign in</html>")
    with pytest.raises(UserError, match="MD5"):
        load_benchmark("miniimagenet", "train", data_root=tmp_path / "data", download=True)
    assert files_in(tmp_path / "data") == ["miniimagenet"]


def test_an_archive_without_a_member_is_named(tmp_path: Path):
    archive = write_tar(tmp_path / "a.tar.gz", {"other": b""})
    with tarfile.open(archive) as tar, pytest.raises(UserError, match=r"^cifar/train in .*a\.tar\.gz is missing"):
        _fetch._unpickled(tar, archive, "cifar/train")


def test_nothing_is_fetched_where_the_files_are_there(tiny_data_root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_downloads.urllib, "request", SimpleNamespace())  # any use is an AttributeError
    for name in ("omniglot", "miniimagenet", "cifar-fs", "fc100"):
        load_benchmark(name, "val", data_root=tiny_data_root, download=True)


def test_tiered_imagenets_pickles_go_the_same_way(tmp_path: Path):
    path = tmp_path / "train_images_png.pkl"
    path.write_bytes(pickle.dumps(print))
    with path.open("rb") as file, pytest.raises(UserError, match=r"train_images_png\.pkl was refused"):
        torchmeta.datasets.tieredimagenet.pickle.load(file, encoding="bytes")
