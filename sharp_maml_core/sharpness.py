"""Perturbations: where sharpness-aware minimisation looks for the worst point of a ball.

Source: Foret et al. 2021 (Eq. 8a of the paper), Kwon et al. 2021 (ASAM), Du et al. 2022 (ESAM's two strategies).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .params import Params, norm


def is_off(radius: float | Tensor) -> bool:
    """Whether there is nothing to perturb. A tensor is never off: `vmap` may hold many radii in it, one of them not 0.

    Radius 0 in a tensor gives a zero perturbation, at the price of one that is not.
    """
    return not isinstance(radius, Tensor) and radius == 0


def perturbation(gradient: Params, radius: float | Tensor) -> Params:
    """Radius * g / ||g||, one norm over all tensors (Eq. 8a, 11, 13, 20); zero where the gradient is zero.

    gradient  any shapes; radius  alpha >= 0, in the units of the parameters.
    """
    return _to_length(gradient, norm(gradient), radius)


def adaptive_perturbation(gradient: Params, params: Params, radius: float | Tensor) -> Params:
    """Radius * w^2 g / || |w| g ||: the step to the edge of ASAM's ball, whose axes scale with the weights |w|."""
    scaled_gradient = {name: params[name].abs() * value for name, value in gradient.items()}
    steep = {name: params[name].abs() * value for name, value in scaled_gradient.items()}
    return _to_length(steep, norm(scaled_gradient), radius)


def on_random_weights(epsilon: Params, mask: Params, fraction: float) -> Params:
    """ESAM's stochastic weight perturbation: epsilon on the weights of a Bernoulli(fraction) mask, scaled 1/fraction.

    The scale keeps the perturbation's mean equal to epsilon. mask  0/1, shaped like epsilon.
    """
    return {name: value * mask[name] / fraction for name, value in epsilon.items()}


def most_sensitive(increase: Tensor, fraction: float) -> Tensor:
    """ESAM's data selection: the indices of the samples whose loss rose most, ceil(fraction * n) of them, at least 1.

    increase  [n], l(w + eps) - l(w) per sample. The threshold tau is implied by the count, so that a batch of five
    always selects something; ties go to whichever `topk` prefers.
    """
    return torch.topk(increase, max(1, math.ceil(round(fraction * len(increase), 9)))).indices


def _to_length(direction: Params, length: Tensor, radius: float | Tensor) -> Params:
    # A zero gradient has no steepest direction: its perturbation is zero, and so is the derivative of that, not NaN.
    safe = torch.where(length > 0, length, torch.ones_like(length))
    scale = torch.where(length > 0, radius / safe, torch.zeros_like(length))
    return {name: value * scale for name, value in direction.items()}
