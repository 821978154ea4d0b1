"""The paper's networks. Any other `nn.Module` without running statistics serves as well.

A model for a variant that takes its parts alone (ANIL, matching, erm, sam) has two submodules, `features` and `head`,
and is their composition (Eq. 19); the particles of bmaml share the features of one that is.
One that is to be used with CAVIA has a parameter called `context`, in itself or in a submodule.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import SINGLE_LEVEL, Config
from .convolution import conv3x3
from .data.episodes import n_classes
from .data.split import RegressionSplit, Split
from .errors import invalid
from .norm import EpisodeNorm
from .pooling import max_pool2x2


class ConvBlock(nn.Module):
    """3x3 convolution, batch norm, ReLU, 2x2 max-pooling (Section 5.1; Vinyals et al. 2016)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = EpisodeNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.pooled(x))

    def pooled(self, x: Tensor) -> Tensor:
        """What is given to the ReLU, [B, C', H // 2, W // 2]."""
        # Batch norm subtracts the convolution's bias again: its gradient is exactly zero, so it is not even added.
        # The parameter stays, so that counts, norms and checkpoints are those of the usual network (k = 121,093).
        x = conv3x3(x, self.conv.weight)
        # ReLU is monotone: pooling first gives the same numbers from a quarter of the work.
        return max_pool2x2(self.norm(x))


class StridedBlock(ConvBlock):
    """3x3 convolution at every second position, batch norm, ReLU: a quarter of the work (Finn et al. 2017)."""

    def pooled(self, x: Tensor) -> Tensor:
        """What is given to the ReLU, [B, C', (H + 1) // 2, (W + 1) // 2]."""
        return self.norm(conv3x3(x, self.conv.weight, stride=2))


class MeanOverPositions(nn.Module):
    """[B, C, H, W] to [B, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class OfLength(nn.Module):
    """x / ||x|| exp(log_length), for each row of x [B, n]: inner products of two are cosines but for a learned factor.

    The length is a parameter like any other. It starts from the one given.
    """

    def __init__(self, length: float) -> None:
        super().__init__()
        self.start = length
        self.log_length = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.log_length, math.log(self.start))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * self.log_length.exp()


class FilmBlock(ConvBlock):
    """A block whose channels the context c [n] scales and shifts before the ReLU (Zintgraf et al. 2019).

        h <- gamma(c) * h + delta(c),   (gamma, delta)(c) = weight @ c + bias

    c is a parameter called `context`, zero at first and in `cavia` at the start of every task. Both are drawn
    as in the released code, by He's rule without a gain and by PyTorch's own. At c = 0 channels are therefore scaled by
    small numbers, not by 1: what the next block normalises depends all the more on c.
    """

    def __init__(self, in_channels: int, out_channels: int, n_context: int) -> None:
        super().__init__(in_channels, out_channels)
        self.context = nn.Parameter(torch.zeros(n_context))
        self.film_weight = nn.Parameter(torch.empty(2 * out_channels, n_context))
        self.film_bias = nn.Parameter(torch.empty(2 * out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(max(len(self.context), 1))
        nn.init.uniform_(self.film_weight, -math.sqrt(3) * bound, math.sqrt(3) * bound)
        nn.init.uniform_(self.film_bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        gamma, delta = F.linear(self.context, self.film_weight, self.film_bias)[:, None, None].chunk(2)
        return F.relu(gamma * self.pooled(x) + delta)


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


class StridedConv4(nn.Module):
    """Finn et al.'s network for Omniglot: four blocks that halve by a stride, the mean over positions, a linear layer.

    Of 28x28 pixels it has as many parameters as `Conv4`, of larger images fewer.
    """

    def __init__(self, image_shape: tuple[int, int, int], n_way: int, filters: int = 64) -> None:
        super().__init__()
        blocks = [StridedBlock(image_shape[0] if i == 0 else filters, filters) for i in range(4)]
        self.features = nn.Sequential(*blocks, MeanOverPositions())
        self.head = nn.Linear(filters, n_way)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class FilmConv4(Conv4):
    """Conv4 with a context of n numbers in its third block: the network of `cavia`."""

    def __init__(self, image_shape: tuple[int, int, int], n_way: int, filters: int = 64, n_context: int = 100) -> None:
        super().__init__(image_shape, n_way, filters)
        self.features[2] = FilmBlock(filters, filters, n_context)


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
    return model_for_images(config, split.shape, outputs)


def model_for_images(config: Config, image_shape: tuple[int, int, int], outputs: int) -> nn.Module:
    """Conv4, for cavia with a context; with strides where these halve the images; its features of one length if set."""
    if config.downsampling == "stride":
        model: Conv4 | StridedConv4 = StridedConv4(image_shape, outputs, config.filters)
    elif config.variant == "cavia":
        model = FilmConv4(image_shape, outputs, config.filters, config.cavia_context)
    else:
        model = Conv4(image_shape, outputs, config.filters)
    if config.feature_length > 0:
        model.features.append(OfLength(config.feature_length))
    return model


def loss_for(split: Split) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy for classes, the mean square for functions."""
    return F.mse_loss if isinstance(split, RegressionSplit) else F.cross_entropy
