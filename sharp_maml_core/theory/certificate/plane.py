r"""A posterior over the few directions in which training itself still moved.

The last checkpoints of a training run have a mean and d principal axes, scaled to their spread. Meta-parameters are
theta(w) = centre + sum_i w_i axis_i, with the prior w ~ N(0, I_d) and the posterior w ~ N(mean, diag(std^2)).

Over all k parameters at once, N(theta, alpha^2 I) against N(centre, alpha^2 I) as in Theorem 2, a shift of length r
costs r^2 / (2 alpha^2) nats, and a network bears noise of length alpha sqrt(k) only where alpha is small. Here there is
noise along d axes only, and the prior is as wide as training's own steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ...checks import at_least, check, check_finite
from ...config import Config
from ...data import ImageSplit
from ...errors import invalid
from ...evaluate import BAR_SECONDS
from ...learners import Learner
from ...params import Params, dot
from .bounds import gaussian_divergence
from .tasks import batches

FIRST_STD = 0.5  # of the posterior before it is fitted, in units of the prior's
STEP = 0.1  # Adam's, on means and logarithms of deviations, which are of order 1


class Plane(NamedTuple):
    """centre  meta-parameters; axes  d of them, orthogonal, each as long as the run's spread along it."""

    centre: Params
    axes: tuple[Params, ...]

    def at(self, w: Tensor) -> Params:
        """theta(w), for w [d]."""
        return {
            name: value + sum(w[i] * axis[name] for i, axis in enumerate(self.axes))
            for name, value in self.centre.items()
        }


class Posterior(NamedTuple):
    """N(mean, diag(std^2)) over the plane's coordinates; mean [d], std [d], float64."""

    plane: Plane
    mean: Tensor
    std: Tensor

    @property
    def divergence(self) -> float:
        """KL to the prior N(0, I), in nats."""
        return gaussian_divergence(self.mean.numpy(), self.std.numpy())

    def draw(self, generator: torch.Generator) -> Params:
        return self.plane.at(self.mean + self.std * _normal(self.mean, generator))

    def at_mean(self, generator: torch.Generator) -> Params:
        """The meta-parameters in the middle, without noise; the generator is not used."""
        return self.plane.at(self.mean)


def plane_of(checkpoints: Sequence[Params], dimension: int) -> Plane:
    """The mean of the checkpoints and their first principal axes, scaled to the standard deviation along each.

    Raises UserError for fewer than 1 axis, or no more checkpoints than axes.
    """
    check("dimension", dimension, at_least(1))
    if len(checkpoints) <= dimension:
        raise invalid("checkpoints", len(checkpoints), f"more than {dimension}, the dimension")
    flat = torch.stack([torch.cat([value.flatten() for value in params.values()]) for params in checkpoints])
    check_finite("checkpoints", flat)
    centre = flat.mean(0)
    _, spread, directions = torch.linalg.svd(flat - centre, full_matrices=False)
    axes = spread[:dimension, None] / len(checkpoints) ** 0.5 * directions[:dimension]
    return Plane(_shaped(centre, checkpoints[0]), tuple(_shaped(axis, checkpoints[0]) for axis in axes))


def fit(
    learner: Learner,
    plane: Plane,
    split: ImageSplit,
    config: Config,
    n_tasks: int,
    seed: int,
    *,
    n_units: int,
    generator: torch.Generator,
    epochs: int = 1,
    progress: bool = False,
) -> Posterior:
    """The posterior that makes E_Q (mean query loss) + KL(Q || P) / n_units small on the tasks that `seed` stands for.

    Reparameterised stochastic gradients, one draw a batch of `config.n_tasks` tasks, and Adam. The loss is the
    cross-entropy, which has a gradient; a certificate is computed of the 0-1 error, and holds whatever Q is.

    n_units  of the certificate: how much evidence the data are, against the prior
    """
    check("epochs", epochs, at_least(1))
    mean = torch.zeros(len(plane.axes), dtype=torch.float64)
    log_std = torch.full_like(mean, FIRST_STD).log()
    adam = torch.optim.Adam([mean, log_std], lr=STEP)
    steps = epochs * math.ceil(n_tasks / config.n_tasks)
    fading = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, steps)  # so that the last draws do not decide
    bar = tqdm(
        total=epochs * n_tasks,
        desc="fitting the posterior",
        unit="task",
        disable=not progress,
        leave=False,
        mininterval=BAR_SECONDS,
    )
    with bar:
        for _ in range(epochs):
            for episode in batches(split, config, n_tasks, seed):
                noise, std = _normal(mean, generator), log_std.exp()
                grads, _ = learner.gradient(plane.at(mean + std * noise), episode)
                slope = torch.stack([dot(axis, grads) for axis in plane.axes]).double()
                mean.grad = slope + mean / n_units
                log_std.grad = slope * noise * std + (std**2 - 1) / n_units
                adam.step()
                fading.step()
                bar.update(episode.n_tasks)
    return Posterior(plane, mean, log_std.exp())


def _shaped(flat: Tensor, like: Params) -> Params:
    pieces = flat.split([value.numel() for value in like.values()])
    return {name: piece.view_as(like[name]) for name, piece in zip(like, pieces, strict=True)}


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)
