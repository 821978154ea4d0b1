"""What a GPU computes a convolution of float32 numbers with."""

from __future__ import annotations

import torch


def full_precision() -> None:
    """Have cuDNN convolve float32 numbers as such, not with the ten bits of TF32, which is PyTorch's default.

    A meta-gradient is a derivative of derivatives, and five inner steps carry an error of one to the next. The setting
    is the whole process's, so only whole experiments ask for it, never a learner.
    """
    torch.backends.cudnn.allow_tf32 = False
