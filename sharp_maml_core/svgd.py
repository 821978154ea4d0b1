r"""Stein variational gradient descent (Liu & Wang 2016): particles that follow the gradient and keep their distance.

With P particles x_i, a density p and a kernel k, each particle moves along

    d_i = (1 / P) sum_j [k(x_j, x_i) grad log p(x_j) + grad_{x_j} k(x_j, x_i)]

Here k(x, y) = exp(-||x - y||^2 / h), so that grad_{x_j} k = (2 / h) (x_i - x_j) k points away from x_j, and
h = median^2 / log P with the median over the distances between different particles. h is a constant for derivatives, as
in Yoon et al.'s code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def svgd_direction(particles: Tensor, score: Tensor) -> Tensor:
    """The directions d [P, n] of particles x [P, n] with grad log p(x_j) in the rows of score [P, n].

    One particle follows its own gradient: k = 1. Where the median distance is zero, the limit h -> 0 is taken:
    particles in one place have k = 1 and do not push each other, all others have k = 0.
    """
    m = len(particles)
    if m == 1:
        return score
    apart = particles[:, None] - particles[None]  # [i, j] = x_i - x_j
    squared = (apart**2).sum(-1)
    h = _bandwidth(squared.detach())
    safe = torch.where(h > 0, h, torch.ones_like(h))
    kernel = torch.where(h > 0, torch.exp(-squared / safe), (squared == 0).to(squared.dtype))
    push = torch.where(h > 0, 2 / safe, torch.zeros_like(h)) * (kernel[..., None] * apart).sum(1)
    return (kernel @ score + push) / m


def _bandwidth(squared: Tensor) -> Tensor:
    """Median^2 / log P of the squared distances [P, P]; of an even number of distances the mean of the middle two."""
    m = len(squared)
    above = torch.triu_indices(m, m, offset=1, device=squared.device)
    distances = squared[above[0], above[1]].sqrt().sort().values
    middle = len(distances) // 2
    median = distances[middle] if len(distances) % 2 else (distances[middle - 1] + distances[middle]) / 2
    return median**2 / math.log(m)
