"""Arithmetic on parameter dicts: every method here is written on vectors, and these are the vectors.

A `Params` maps names to tensors, as `dict(module.named_parameters())` does. All functions are pure.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Params = dict[str, Tensor]


def add_scaled(x: Params, y: Params, scale: float | Tensor) -> Params:
    """X + scale * y, where names that y lacks keep their value in x."""
    return {name: value + scale * y[name] if name in y else value for name, value in x.items()}


def scaled(x: Params, scale: float | Tensor) -> Params:
    """Scale * x."""
    return {name: scale * value for name, value in x.items()}


def dot(x: Params, y: Params) -> Tensor:
    """The inner product over all tensors together, a scalar."""
    return torch.stack([(value * y[name]).sum() for name, value in x.items()]).sum()


def norm(x: Params) -> Tensor:
    """The Euclidean norm of all tensors together, a scalar."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(value) for value in x.values()]))


def select(x: Params, keep: Callable[[str], bool]) -> Params:
    """The entries whose name `keep` accepts."""
    return {name: value for name, value in x.items() if keep(name)}


def all_finite(x: Params) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in x.values())
