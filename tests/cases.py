"""Small models, tasks and settings that several test files use. All in float64, on the CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharp_maml_core import Config, Episode
from sharp_maml_core.norm import EpisodeNorm
from sharp_maml_core.params import Params

LOW = ("low", "both", "low-anil", "e-low", "e-low-anil")
UP = ("up", "both")
EFFICIENT = ("e-low", "e-low-anil")
ANIL = ("anil", "low-anil", "e-low-anil")


def setting(variant: str, **changes: object) -> Config:
    """Radii and rates so large that a mistake in any of them is seen in the first digits."""
    values = {"inner_lr": 0.3, "inner_steps": 2, "alpha_low": 0.2, "alpha_up": 0.3, "dtype": "float64", "device": "cpu"}
    return Config(variant=variant, **values | changes)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def classification(
    shape: tuple[int, ...] = (5,), n_way: int = 3, k_shot: int = 2, n_query: int = 3, n_tasks: int = 3, seed: int = 0
) -> Episode:
    """Tasks of Gaussian noise: for exact derivatives nothing more is needed."""
    support_y = torch.arange(n_way).repeat_interleave(k_shot).repeat(n_tasks, 1)
    query_y = torch.arange(n_way).repeat_interleave(n_query).repeat(n_tasks, 1)
    return Episode(
        draw(*support_y.shape, *shape, seed=seed), support_y, draw(*query_y.shape, *shape, seed=seed + 1), query_y
    )


def regression(d_in: int = 5, d_out: int = 3, n_tasks: int = 3, seed: int = 0) -> Episode:
    x, y = draw(2, n_tasks, 6, d_in, seed=seed), draw(2, n_tasks, 6, d_out, seed=seed + 1)
    return Episode(x[0], y[0], x[1], y[1])


def one_task(episode: Episode, task: int) -> Episode:
    return Episode(*(value[task : task + 1] for value in episode))


def half_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * F.mse_loss(outputs, targets, reduction="sum")


def relative_error(got: Params, expected: Params) -> float:
    """||got - expected|| / ||expected||, over all tensors together; the names must be the same."""
    assert got.keys() == expected.keys()
    difference = sum(((got[name] - value) ** 2).sum() for name, value in expected.items())
    return float((difference / sum((value**2).sum() for value in expected.values())) ** 0.5)


def equal(x: Params, y: Params) -> bool:
    """Equal to the last bit."""
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


def moved(params: Params, seed: int = 7) -> Params:
    """Away from the initial point, where norm layers are all ones and zeros, and ASAM's |w| is zero on biases."""
    return {name: value + 0.1 * draw(*value.shape, seed=seed + i) for i, (name, value) in enumerate(params.items())}


class TanhNet(nn.Module):
    """A user's own network, with a norm layer."""

    def __init__(self, d_in: int = 5, width: int = 6, d_out: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(d_in, width), nn.LayerNorm(width), nn.Tanh())
        self.head = nn.Linear(width, d_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class SmoothNet(nn.Module):
    """Convolutions without a kink: finite differences of ReLU and max-pooling are off by a lot."""

    def __init__(self, filters: int = 3, n_way: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (1, filters):
            layers += [
                nn.Conv2d(channels, filters, 3, padding=1),
                EpisodeNorm(filters),
                nn.Softplus(),
                nn.AvgPool2d(2),
            ]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(4 * filters, n_way)  # for 8x8 images

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Coordinates(nn.Module):
    """theta in R^5 in two tensors, x @ theta: with half_squares, x = R and y = R c, the loss is
    1/2 (theta - c)^T A (theta - c) with A = R^T R.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(2))
        self.rest = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.cat([self.first, self.rest])
