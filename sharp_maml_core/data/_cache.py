"""Images that took time to make, kept beside the data they were made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import atomic

FOLDER = "sharp-maml-cache"
Images = tuple[Tensor, Tensor]  # images uint8 [C, I, channels, H, W], counts int64 [C]


def file_identity(path: Path) -> list[int]:
    """What tells a file from another under its name: its size in bytes and when it was last written (ns)."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def cached_images(data_root: Path, name: str, identity: object, make: Callable[[], Images]) -> Images:
    """The images of `make`, or those that an earlier call kept for the same `identity`.

    The file <data_root>/sharp-maml-cache/<name>.safetensors holds a hash of its content and of `identity`: one that is
    cut, changed, or made from other files is made again. A data root that cannot be written is left as it is.
    """
    path = data_root.expanduser() / FOLDER / f"{name}.safetensors"
    key = json.dumps(identity)
    kept = _load(path, key)
    if kept is not None:
        return kept
    made = make()
    _save(path, key, made)
    return made


def _load(path: Path, key: str) -> Images | None:
    try:
        with safe_open(path, framework="pt") as file:
            kept = file.get_tensor("images"), file.get_tensor("counts")
            intact = (file.metadata() or {}).get("sha256") == _hash(key, kept)
    except (OSError, SafetensorError):
        return None
    return kept if intact else None


def _save(path: Path, key: str, images: Images) -> None:
    with suppress(OSError, SafetensorError):  # a read-only or a full disk: do without
        path.parent.mkdir(exist_ok=True)
        with atomic(path) as partial:
            save_file({"images": images[0], "counts": images[1]}, partial, metadata={"sha256": _hash(key, images)})


def _hash(key: str, images: Images) -> str:
    digest = hashlib.sha256(key.encode())
    for tensor in images:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
