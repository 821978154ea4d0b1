"""What every data source returns: one split of a data set as tensors that sit on one device."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checks import check, one_of

SPLITS = ("train", "val", "test")


def check_name(split: str) -> None:
    """Raise UserError unless there is a split of that name."""
    check("split", split, one_of(*SPLITS))


@dataclass(frozen=True)
class ImageSplit:
    """Classes of images: the raw material of N-way classification tasks.

    images       uint8 [C, I, channels, H, W]; classes with fewer than I images are padded with zeros
    counts       int64 [C] on the CPU, how many of the I instances of each class are real
    class_names  one name per class, in the order of `images`
    name         e.g. "glyphs/train"
    identity     SHA-256 of shape, counts and pixels: equal identities mean equal data
    """

    images: Tensor
    counts: Tensor
    class_names: tuple[str, ...]
    name: str
    identity: str

    @classmethod
    def from_images(
        cls, images: Tensor, class_names: tuple[str, ...], name: str, counts: Tensor | None = None
    ) -> ImageSplit:
        """Wrap a uint8 tensor [C, I, channels, H, W] and compute its identity."""
        if counts is None:
            counts = torch.full((len(images),), images.shape[1], dtype=torch.int64)
        return cls(images, counts, tuple(class_names), name, _identity(images, counts))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.images.shape[2:]
        return channels, height, width

    def to(self, device: torch.device | str) -> ImageSplit:
        return replace(self, images=self.images.to(device))


@dataclass(frozen=True)
class RegressionSplit:
    """Functions to regress, each as a table of points: the raw material of regression tasks.

    inputs   float32 [tasks, I, d_in]
    targets  float32 [tasks, I, d_out]
    """

    inputs: Tensor
    targets: Tensor
    name: str
    identity: str

    @property
    def shape(self) -> tuple[int]:
        """The numbers of one input."""
        return (self.inputs.shape[-1],)

    @classmethod
    def from_points(cls, inputs: Tensor, targets: Tensor, name: str) -> RegressionSplit:
        return cls(inputs, targets, name, _identity(inputs, targets))

    def to(self, device: torch.device | str) -> RegressionSplit:
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))


Split = ImageSplit | RegressionSplit


def _identity(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
