"""Downloads that are checked before they are used: MD5 first, then the archive's members, then arrays only.

An archive may name files outside its folder, and a pickle may run any code when it is read. So: a download gets its
final name only when its hash is right and, if it is a tar, no member points outside; and pickles are read by an
unpickler that can build arrays and plain containers and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tarfile
import urllib.error
import urllib.request
from collections import OrderedDict, defaultdict
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from sharp_maml_core.errors import MissingData, UserError
from sharp_maml_core.files import atomic

GOOGLE_DRIVE = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"
_TIMEOUT = 60  # seconds without a byte
_CHUNK = 1 << 20  # bytes


def check_integrity(fpath: str | os.PathLike[str], md5: str | None = None) -> bool:
    """Whether `fpath` is a file and, where `md5` is given, has this MD5 (torchvision's function of that name)."""
    return os.path.isfile(fpath) and (md5 is None or _md5(Path(fpath)) == md5)


def download_url(
    url: str,
    root: str | os.PathLike[str],
    filename: str | None = None,
    md5: str | None = None,
    max_redirect_hops: int = 3,
) -> None:
    """Fetch `url` into the folder `root`, or keep the file that is there if its MD5 is right.

    Takes the place of torchvision's function of that name, with its signature. The file appears under its name only
    when it is whole and checked.

    Raises
    ------
    MissingData
        The download did not succeed.
    UserError
        What arrived has another MD5, or is a tar with members that point outside its folder.
    """
    path = Path(root).expanduser() / (filename or os.path.basename(url))
    if check_integrity(path, md5):
        _refuse_unsafe_members(path, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial:
        with partial.open("wb") as file:
            _stream(url, file, path)
        arrived = _md5(partial)
        if md5 is not None and arrived != md5:
            raise UserError(
                f"{url} gave a file with MD5 {arrived} where {md5} was expected, and it was thrown away: the server "
                f"may have sent an error page. Try again later, or fetch it by hand, save it as {path} and repeat."
            )
        _refuse_unsafe_members(partial, path)


def download_file_from_google_drive(
    file_id: str, root: str | os.PathLike[str], filename: str | None = None, md5: str | None = None
) -> None:
    """Fetch a file from Google Drive as `download_url` does.

    Takes the place of Torchmeta's function of that name, which never looks at the MD5 of what it fetched and which
    stops with a NameError where the file exists already (its `check_integrity` is not imported, pytorch-meta #160).
    """
    download_url(GOOGLE_DRIVE.format(file_id), root, filename or file_id, md5)


def load_arrays(file: IO[bytes], source: str, encoding: str = "ASCII") -> Any:
    """Read a pickle of arrays, numbers, text and containers of them; `source` names it in errors.

    Raises
    ------
    UserError
        The pickle asks for anything else, or is damaged.
    """
    try:
        return _ArraysOnly(file, encoding=encoding).load()
    except UserError as error:
        raise UserError(f"{source} was refused: {error}") from None
    except OSError:  # a disk that cannot be read is not the pickle's fault
        raise
    except Exception as error:  # damaged bytes are instructions too: they may raise whatever Python has
        raise UserError(
            f"{source} is not a readable pickle of arrays ({error!r}): delete it and fetch it again."
        ) from error


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = module.replace("numpy.core", "numpy._core").replace("__builtin__", "builtins")
        try:
            return _ALLOWED[known, name]
        except KeyError:
            raise UserError(f"a pickle of arrays does not need `{module}.{name}`.") from None


def _dtype(spec: Any, align: Any = False, copy: Any = False) -> np.dtype:
    # Old pickles, CIFAR-100's among them, carry 0 and 1 here, about which NumPy 2.4.0 to 2.4.4 warn (numpy #31177).
    return np.dtype(spec, align=bool(align), copy=bool(copy))


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # How Python 3 writes bytes in the old pickle protocols.
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    # NumPy's own functions for the job, taken from where they are sure to be: the pickles of an array and a number.
    ("numpy._core.multiarray", "_reconstruct"): np.zeros(1).__reduce__()[0],
    ("numpy._core.multiarray", "scalar"): np.float64(0).__reduce__()[0],
    ("numpy._core.numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    **{("builtins", kind.__name__): kind for kind in (list, dict, set, frozenset, tuple, bytes, bytearray, int, float)},
}


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _stream(url: str, file: IO[bytes], path: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "sharp-maml-core"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            told = response.headers.get("Content-Length")
            expected = int(told) if told else None
            # `disable=None`: a bar at a terminal, silence in files and notebooks' logs
            with tqdm(total=expected, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
    except (urllib.error.URLError, TimeoutError, ConnectionError, HTTPException) as error:
        raise _not_fetched(url, path, getattr(error, "reason", error)) from error
    # `read` with a number of bytes takes a connection that closes early for the end of the file.
    if expected is not None and file.tell() != expected:
        raise _not_fetched(url, path, f"{file.tell()} of its {expected} bytes came")


def _not_fetched(url: str, path: Path, reason: object) -> MissingData:
    return MissingData(
        f"{url} could not be fetched ({reason}). Try again later, or fetch it by hand, save it as {path} and repeat."
    )


def _refuse_unsafe_members(archive: Path, name: Path) -> None:
    """Refuse a tar with members that would be written outside its folder, or that are devices; other files pass."""
    if not name.name.endswith((".tar", ".tar.gz", ".tgz")):
        return
    if not hasattr(tarfile, "data_filter"):  # Python 3.11.0 to 3.11.3
        raise UserError("unpacking a download safely needs Python 3.11.4 or newer.")
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                tarfile.data_filter(member, str(name.parent))
    except tarfile.FilterError as error:
        raise UserError(f"{name} was refused, nothing of it was unpacked: {error}.") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{name} is not a readable tar archive ({error}): delete it and fetch it again.") from error
