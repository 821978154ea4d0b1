"""What ascent in a ball has to find: the exact maximum of a quadratic, with its certificate."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.optimize import brentq
from torch import Tensor


class TrustRegion(NamedTuple):
    """The exact maximum of a quadratic on a ball: rise, epsilon [k], and the multiplier mu that certifies it."""

    rise: float
    epsilon: Tensor
    multiplier: float


def trust_region(gradient: Tensor, hessian: Tensor, alpha: float) -> TrustRegion:
    r"""The exact maximum of <g, e> + 1/2 <e, H e> on ||e|| <= alpha, H [k, k] symmetric, convex or not.

    It is global if and only if (mu - H) e = g with mu - H positive semidefinite, mu >= 0 and mu (||e|| - alpha) = 0
    (More and Sorensen 1983). mu is found as the root of ||(mu - H)^-1 g|| = alpha above the largest eigenvalue; where
    there is none, the rest of the length goes along that eigenvector ("hard case").
    """
    eigenvalues, vectors = torch.linalg.eigh(hessian)
    slopes = vectors.T @ gradient
    floor = max(0.0, float(eigenvalues[-1]))
    gaps = floor - eigenvalues  # mu is floor + excess, and the excess is what has to be found to its last digit

    def along(excess: float) -> Tensor:
        return slopes / (excess + gaps)

    ceiling = float(slopes.norm()) / alpha
    smallest = torch.finfo(slopes.dtype).eps * (floor + ceiling)
    excess, epsilon = smallest, along(smallest) if smallest else slopes
    if float(epsilon.norm()) > alpha:
        # Of 1 / ||e|| = 1 / alpha both sides are nearly linear in mu.
        excess = brentq(lambda excess: 1 / alpha - 1 / float(along(excess).norm()), smallest, 2 * ceiling, xtol=1e-300)
        epsilon = along(excess)
    elif floor > 0:
        rest = max(0.0, alpha**2 - float(epsilon[:-1].norm()) ** 2) ** 0.5
        epsilon[-1] = torch.copysign(epsilon.new_tensor(rest), slopes[-1])
    rise = float(slopes @ epsilon + 0.5 * (eigenvalues * epsilon**2).sum())
    return TrustRegion(rise, vectors @ epsilon, floor + excess)
