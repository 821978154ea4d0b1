"""The paper's networks. Any other `nn.Module` without running statistics serves as well.

A model that is to be used with ANIL has two submodules, `features` and `head`, and is their composition (Eq. 19).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from .config import SINGLE_LEVEL, Config
from .data.episodes import n_classes
from .data.split import RegressionSplit, Split
from .errors import invalid
from .norm import EpisodeNorm


class ConvBlock(nn.Module):
    """3x3 convolution, batch norm, ReLU, 2x2 max-pooling (Section 5.1; Vinyals et al. 2016)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = EpisodeNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        # Batch norm subtracts the convolution's bias again: its gradient is exactly zero, so it is not even added.
        # The parameter stays, so that counts, norms and checkpoints are those of the usual network (k = 121,093).
        x = F.conv2d(x, self.conv.weight, None, padding=1)
        # ReLU is monotone: pooling first gives the same numbers from a quarter of the work.
        return F.relu(F.max_pool2d(self.norm(x), 2))


class Conv4(nn.Module):
    """Four convolutional blocks and a linear layer: images [B, C, H, W] in [0, 1] to logits [B, n_way].

    Raises UserError for images under 16x16 pixels.
    """

    def __init__(self, image_shape: tuple[int, int, int], n_way: int, filters: int = 64) -> None:
        super().__init__()
        channels, height, width = image_shape
        if min(height, width) < 16:
            raise invalid("image_shape", image_shape, "of at least 16x16 pixels: four poolings leave nothing of less")
        blocks = [ConvBlock(channels if i == 0 else filters, filters) for i in range(4)]
        self.features = nn.Sequential(*blocks, nn.Flatten())
        self.head = nn.Linear(filters * (height // 16) * (width // 16), n_way)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class MLP(nn.Module):
    """Finn et al.'s network for regression: two hidden layers of 40 ReLU units, [B, d_in] to [B, d_out]."""

    def __init__(self, d_in: int, d_out: int, width: int = 40) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(d_in, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, d_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def model_for(config: Config, split: Split) -> nn.Module:
    """The network for the tasks of a split: Conv4 for images (of at least 16x16 pixels), the MLP for regression.

    Of erm and sam, which are trained on all classes of the split at once, it tells as many apart as there are.
    """
    if isinstance(split, RegressionSplit):
        return MLP(split.inputs.shape[-1], split.targets.shape[-1])
    outputs = n_classes(split, config.rotations) if config.variant in SINGLE_LEVEL else config.n_way
    return Conv4(split.shape, outputs, config.filters)


def loss_for(split: Split) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy for classes, the mean square for functions."""
    return F.mse_loss if isinstance(split, RegressionSplit) else F.cross_entropy
