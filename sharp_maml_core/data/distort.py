"""Images as a random affine map shows them: more of them to train with.

Affine distortions of characters are as old as one-shot learning from them (Koch et al. 2015).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def distorted(images: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Each of the images [..., H, W, C], floating point, through an affine map of its own.

    The pixel at u, in coordinates that run from -1 to 1, shows what was at A u + b. Each of the six numbers of A and b
    differs from the identity's by a uniform random one, at most `most`: at 0.1 an image is turned and sheared by up to
    6 degrees, stretched by 10% and moved by a twentieth of its size. Between pixels it is bilinear; beyond its edge is
    the nearest pixel. The numbers are drawn on the generator's device.
    """
    flat = images.flatten(0, -4).permute(0, 3, 1, 2)  # [n, C, H, W], channels last in memory
    moves = torch.rand((len(flat), 2, 3), generator=generator, device=generator.device, dtype=torch.float64) * 2 - 1
    maps = torch.eye(2, 3, dtype=torch.float64, device=moves.device) + most * moves
    grid = F.affine_grid(maps.to(images), list(flat.shape), align_corners=False)
    seen = F.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return seen.permute(0, 2, 3, 1).reshape(images.shape)
