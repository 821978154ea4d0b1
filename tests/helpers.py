"""Data, a network and settings so small that whole runs take milliseconds, and the command line as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sharp_maml_core import Config
from sharp_maml_core.data import ImageSplit, RegressionSplit

SIDE = 6
N_WAY = 3
SMALL = {
    "n_way": N_WAY,
    "k_shot": 1,
    "n_query": 2,
    "n_tasks": 2,
    "inner_steps": 1,
    "iterations": 7,
    "eval_every": 3,
    "val_tasks": 4,
    "eval_tasks": 6,
    "checkpoint_every": 2,
    "filters": 2,
    "device": "cpu",
}


def small_config(variant: str = "maml", **changes: object) -> Config:
    return Config(**{"variant": variant, **SMALL, **changes})


class SmallNet(nn.Module):
    """Images of SIDE x SIDE pixels to N_WAY logits."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, width), nn.Tanh())
        self.head = nn.Linear(width, N_WAY)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Joined(SmallNet):
    """Features and a head, and more between them than their composition: a ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.features(x)))


def easy_images(n_classes: int = 8, n_instances: int = 6, side: int = SIDE, seed: int = 0) -> Tensor:
    """Each class has a pattern of its own; its instances differ from it by a little noise. uint8 [C, I, 1, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.randint(0, 2, (n_classes, 1, 1, side, side), generator=generator) * 200
    noise = torch.randint(0, 56, (n_classes, n_instances, 1, side, side), generator=generator)
    return (pattern + noise).to(torch.uint8)


def image_split(images: Tensor, counts: list[int] | None = None, name: str = "easy/train") -> ImageSplit:
    names = tuple(f"class {i}" for i in range(len(images)))
    return ImageSplit.from_images(images, names, name, None if counts is None else torch.tensor(counts))


def easy_split(seed: int = 0, **changes: int) -> ImageSplit:
    return image_split(easy_images(seed=seed, **changes))


def easy_data() -> dict[str, Tensor]:
    """What `run_experiment(data=...)` takes."""
    return {split: easy_images(seed=seed) for seed, split in enumerate(("train", "val", "test"))}


def lines_split(n_functions: int = 5, n_points: int = 8) -> RegressionSplit:
    """Lines y = slope * x: function i has slope i + 1, and its points x are numbered i * n_points + k."""
    x = torch.arange(n_functions * n_points, dtype=torch.float32).reshape(n_functions, n_points, 1)
    slope = torch.arange(1, n_functions + 1, dtype=torch.float32)[:, None, None]
    return RegressionSplit.from_points(x, slope * x, "lines/train")


def write_image_folder(folder: Path, n_classes: int = 4, n_instances: int = 4, side: int = 16) -> Path:
    """A folder dataset: train, val and test, each with class folders of PNG files."""
    for seed, split in enumerate(("train", "val", "test")):
        images = easy_images(n_classes, n_instances, side, seed).numpy()
        for c, k in np.ndindex(n_classes, n_instances):
            path = folder / split / f"{split} class {c}" / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[c, k, 0]).save(path)
    return folder


def flags(**values: object) -> list[str]:
    return [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sharp_maml_core", *arguments]


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """`python -m sharp_maml_core ARGUMENTS` in a process of its own, which runs in the folder `cwd`."""
    package = Path(__file__).resolve().parents[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(package)}
    return subprocess.Popen(
        command_line(*arguments),
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
