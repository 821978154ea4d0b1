"""The few names of torchvision that Torchmeta 1.8 imports, for machines where no torchvision works.

Torchmeta is a library of data sets and samplers; of torchvision it wants only this:

=========================== ============================================== ==========================================
name                        who asks                                       what for
=========================== ============================================== ==========================================
transforms.Compose          utils.data, transforms, datasets.helpers       chains of transforms
transforms.Resize           datasets.helpers, transforms                   Omniglot to 28, mini-ImageNet to 84 pixels
transforms.CenterCrop       datasets.helpers                               CUB
transforms.ToTensor         datasets.helpers, transforms                   picture -> float32 [channels, H, W] in [0, 1]
functional.rotate           transforms.Rotation                            new classes by turning characters
functional.hflip, vflip     transforms.HorizontalFlip, VerticalFlip        new classes by mirroring
datasets.utils.list_dir     datasets.omniglot, datasets.pascal5i           sub-folders
datasets.utils.download_url datasets.omniglot, cifar100, pascal5i          a file with a known MD5
  .check_integrity          datasets.cifar100                              is that MD5 right?
  ._get_confirm_token       datasets.utils                                 private, and gone (not in torchvision 0.28)
  ._save_response_content   datasets.utils                                 private, and gone (not in torchvision 0.28)
=========================== ============================================== ==========================================

Pictures are PIL images throughout, and torchvision hands those to Pillow as well, so that the numbers are the same
(every transform was compared with torchvision 0.28.0, to the last bit).
`provided()` makes the names importable while Torchmeta is being imported and not a moment longer: afterwards
`import torchvision` means what it meant before, whether that is the real library or a ModuleNotFoundError.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sharp_maml_core.data._downloads import check_integrity, download_url

_BILINEAR = Image.Resampling.BILINEAR
_NEAREST = Image.Resampling.NEAREST


class Compose:
    """Apply `transforms` one after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.transforms))})"


class Resize:
    """Scale a picture: `size` is (height, width), or the length of the shorter edge with the aspect kept."""

    def __init__(self, size: int | Sequence[int], interpolation: int = _BILINEAR) -> None:
        self.size = size
        self.interpolation = Image.Resampling(interpolation)

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.resize(self._target(*image.size), self.interpolation)

    def _target(self, width: int, height: int) -> tuple[int, int]:
        if not isinstance(self.size, int):
            target_height, target_width = self.size
            return target_width, target_height
        if width <= height:
            return self.size, int(self.size * height / width)
        return int(self.size * width / height), self.size

    def __repr__(self) -> str:
        return f"Resize({self.size})"


class CenterCrop:
    """The middle of a picture, `size` = one edge of a square or (height, width); beyond the picture it is black."""

    def __init__(self, size: int | Sequence[int]) -> None:
        self.height, self.width = (size, size) if isinstance(size, int) else size

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        left, top = _margin(width, self.width), _margin(height, self.height)
        return image.crop((left, top, left + self.width, top + self.height))

    def __repr__(self) -> str:
        return f"CenterCrop({(self.height, self.width)})"


def _margin(length: int, crop: int) -> int:
    # torchvision's roundings, one for cutting and one for padding
    return round((length - crop) / 2) if crop <= length else -((crop - length) // 2)


class ToTensor:
    """A picture or an array [H, W(, channels)] as a tensor [channels, H, W]; bytes become float32 in [0, 1]."""

    def __call__(self, picture: Image.Image | np.ndarray) -> Tensor:
        array = np.array(picture)  # a copy: a view of a PIL image is read-only
        if array.dtype == bool:
            array = array.astype(np.uint8) * 255
        if array.ndim == 2:
            array = array[:, :, None]
        tensor = torch.from_numpy(array).permute(2, 0, 1).contiguous()
        return tensor.to(torch.get_default_dtype()).div(255) if tensor.dtype == torch.uint8 else tensor

    def __repr__(self) -> str:
        return "ToTensor()"


def rotate(
    image: Image.Image,
    angle: float,
    interpolation: int = _NEAREST,
    expand: bool = False,
    center: tuple[float, float] | None = None,
    fill: Any = None,
) -> Image.Image:
    """Turn a picture by `angle` degrees, counter-clockwise."""
    return image.rotate(angle, Image.Resampling(int(interpolation)), expand, center, fillcolor=fill)


def hflip(image: Image.Image) -> Image.Image:
    """Mirror left and right."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def vflip(image: Image.Image) -> Image.Image:
    """Mirror top and bottom."""
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)


def list_dir(root: str, prefix: bool = False) -> list[str]:
    """Names (with `prefix`: paths) of the folders in `root`."""
    names = [name for name in os.listdir(root) if os.path.isdir(os.path.join(root, name))]
    return [os.path.join(root, name) for name in names] if prefix else names


def _replaced(*_: object, **__: object) -> None:
    # Torchmeta calls these two from `download_file_from_google_drive` only, and the bridge puts its own in that place.
    raise NotImplementedError("downloads from Google Drive go through sharp_maml_core.data._downloads")


_PRIVATE = {"_get_confirm_token": _replaced, "_save_response_content": _replaced}
_NAMES: dict[str, dict[str, object]] = {
    "torchvision": {},
    "torchvision.transforms": {"Compose": Compose, "Resize": Resize, "CenterCrop": CenterCrop, "ToTensor": ToTensor},
    "torchvision.transforms.functional": {"rotate": rotate, "hflip": hflip, "vflip": vflip},
    "torchvision.datasets": {},
    "torchvision.datasets.utils": {
        "list_dir": list_dir,
        "download_url": download_url,
        "check_integrity": check_integrity,
        **_PRIVATE,
    },
}


@contextmanager
def provided() -> Iterator[bool]:
    """Make what Torchmeta wants of torchvision importable inside the `with` block; True if the real one serves.

    The real torchvision only lacks private names, which it gets for as long as the block lasts.
    """
    utils = _working_torchvision_utils()
    if utils is None:
        with _swapped_modules(_stand_in()):
            yield False
        return
    missing = {name: value for name, value in _PRIVATE.items() if not hasattr(utils, name)}
    for name, value in missing.items():
        setattr(utils, name, value)
    try:
        yield True
    finally:
        for name in missing:
            delattr(utils, name)


def _working_torchvision_utils() -> ModuleType | None:
    before = set(sys.modules)
    try:
        importlib.import_module("torchvision.transforms.functional")
        return importlib.import_module("torchvision.datasets.utils")
    except Exception:  # one built for another PyTorch fails with RuntimeError, OSError, AttributeError, ...
        for name in [name for name in sys.modules if _is_torchvision(name) and name not in before]:
            del sys.modules[name]
        return None


def _stand_in() -> dict[str, ModuleType]:
    modules = {name: ModuleType(name, "Stand-in for Torchmeta.") for name in _NAMES}
    for name, module in modules.items():
        module.__dict__.update(_NAMES[name])
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    return modules


@contextmanager
def _swapped_modules(modules: dict[str, ModuleType]) -> Iterator[None]:
    saved = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_torchvision(name)}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in [name for name in sys.modules if _is_torchvision(name)]:
            del sys.modules[name]
        sys.modules.update(saved)


def _is_torchvision(name: str) -> bool:
    return name == "torchvision" or name.startswith("torchvision.")
