"""The stand-in's transforms, against Pillow and arrays. (How it comes and goes is in test_torchmeta.py.)"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from sharp_maml_core.data import _torchvision


def test_the_stand_ins_transforms():
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8))  # 40 high, 30 wide
    assert _torchvision.Resize(15)(picture).size == (15, 20)
    assert _torchvision.Resize((8, 6))(picture).size == (6, 8)
    assert _torchvision.CenterCrop((20, 10))(picture).tobytes() == picture.crop((10, 10, 20, 30)).tobytes()
    assert _torchvision.CenterCrop(51)(picture).crop((10, 5, 40, 45)).tobytes() == picture.tobytes()  # padded
    tensor = _torchvision.ToTensor()(picture)
    assert tensor.shape == (3, 40, 30)
    assert torch.equal(tensor, torch.tensor(np.asarray(picture)).permute(2, 0, 1).float() / 255)
    assert torch.equal(_torchvision.ToTensor()(Image.new("1", (2, 3), 1)), torch.ones(1, 3, 2))
    array = np.asarray(picture)
    assert np.array_equal(_torchvision.hflip(picture), array[:, ::-1])
    assert np.array_equal(_torchvision.vflip(picture), array[::-1])
