"""Downloads: what is not checked is not kept, and pickles can make arrays and nothing else."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import tarfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from sharp_maml_core.data._downloads import download_url, load_arrays
from sharp_maml_core.errors import MissingData, UserError


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- one file -----------------------------------------------------------------------------------------------------


def test_a_download_is_checked_and_then_kept(tmp_path: Path):
    source = tmp_path / "source.bin"
    source.write_bytes(b"x" * 3_000_000)
    for _ in range(2):
        download_url(source.as_uri(), tmp_path / "data", "file.bin", md5(source))
        assert files_in(tmp_path / "data") == ["file.bin"]
    (tmp_path / "data/file.bin").write_bytes(b"cut")
    download_url(source.as_uri(), tmp_path / "data", "file.bin", md5(source))
    known = md5(source)
    source.unlink()
    download_url(source.as_uri(), tmp_path / "data", "file.bin", known)  # is there already: asks no server


def test_another_hash_leaves_nothing(tmp_path: Path):
    source = tmp_path / "source.tar.gz"
    source.write_bytes(b"not what was asked for")
    with pytest.raises(
        UserError, match=r"MD5 \w{32} where 0000 was expected.*fetch it by hand, save it as .*file\.tar"
    ):
        download_url(source.as_uri(), tmp_path / "data", "file.tar.gz", "0000")
    assert files_in(tmp_path / "data") == []


def test_a_server_that_cannot_be_reached(tmp_path: Path):
    with pytest.raises(MissingData, match=r"absent could not be fetched .*save it as .*file and repeat"):
        download_url((tmp_path / "absent").as_uri(), tmp_path / "data", "file", "0000")
    assert files_in(tmp_path / "data") == []


def test_a_connection_that_closes_early_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where no MD5 is known, nothing else tells a file that was cut."""

    class Cut(io.BytesIO):
        headers: ClassVar = {"Content-Length": "1000"}

    monkeypatch.setattr("urllib.request.urlopen", lambda request, timeout: Cut(b"x" * 400))
    with pytest.raises(MissingData, match=r"file\.bin could not be fetched \(400 of its 1000 bytes came\)"):
        download_url("https://example.org/file.bin", tmp_path / "data")
    assert files_in(tmp_path / "data") == []


@pytest.mark.parametrize("member", ["../evil", "link"])
def test_a_tar_that_points_outside_is_refused(tmp_path: Path, member: str):
    source = tmp_path / "source.tar"
    with tarfile.open(source, "w") as tar:
        info = tarfile.TarInfo(member)
        if member == "link":
            info.type, info.linkname = tarfile.SYMTYPE, "../../outside"
        tar.addfile(info)
    with pytest.raises(UserError, match="was refused, nothing of it was unpacked"):
        download_url(source.as_uri(), tmp_path / "data", "file.tar", md5(source))
    assert files_in(tmp_path / "data") == []


def test_a_tar_that_is_none_is_refused(tmp_path: Path):
    source = tmp_path / "source"
    source.write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(UserError, match="is not a readable tar archive"):
        download_url(source.as_uri(), tmp_path / "data", "file.tar.gz", None)


# --- pickles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_are_read(protocol: int):
    value = {
        "images": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "numbers": [1, 2.5, np.float32(3), None, True, b"\xff", "text", {4, 5}],
        "classes": OrderedDict(a=np.array(["x", "yz"])),
        "lists": defaultdict(list, b=[(1, 2)]),
    }
    read = load_arrays(io.BytesIO(pickle.dumps(value, protocol)), "it")
    np.testing.assert_equal(read, value)
    assert read["images"].dtype == np.uint8


@pytest.mark.parametrize(
    ("function", "argument"),
    [(os.system, "touch marker"), (eval, "1"), (np.load, "marker"), (getattr, "x"), (subprocess.Popen, "touch marker")],
)
def test_anything_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function, argument: str):
    class Evil:
        def __reduce__(self):
            return function, (argument,)

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^data\.pkl was refused: a pickle of arrays does not need `\w+\.\w+`"):
        load_arrays(io.BytesIO(pickle.dumps({"image_data": Evil()})), "data.pkl")
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    "damaged",
    [
        b"\x80\x04.",  # UnpicklingError: nothing on the stack
        b"\x80\x04]K\x01K\x02s.",  # IndexError: an item of an empty list
        b"\x80\x04K\x01K\x02a.",  # AttributeError: appends to a number
        b"\x80\x04K\x01)R.",  # TypeError: calls a number
        b"\x80\x04\x8a\xff",  # cut
    ],
)
def test_a_damaged_pickle_is_named_whatever_it_raises(damaged: bytes):
    with pytest.raises(UserError, match=r"^data\.pkl is not a readable pickle of arrays \(.*\): delete it"):
        load_arrays(io.BytesIO(damaged), "data.pkl")


def test_a_cut_pickle_is_named():
    with pytest.raises(UserError, match=r"data\.pkl is not a readable pickle"):
        load_arrays(io.BytesIO(pickle.dumps(np.zeros(1000))[:-500]), "data.pkl")
