r"""The same function, other parameters: what that does to each measure of sharpness (Dinh et al. 2017).

Let A be diagonal, above 0, with f(A w) = f(w) for all w. Differentiating that gives, at the point A w,

    gradient A^-1 g(w),   Hessian A^-1 H(w) A^-1,

so eigenvalues, trace and sharpness (7) may be given almost any value without a prediction being changed, and adaptive
sharpness, whose ball is A times the other, keeps its value exactly. Two such A:

    `between_relus`   a layer times c, the next divided by c, where only ReLU and pooling lie between: relu(c x) is
                      c relu(x). The first layer's bias goes with it, the second's stays. Exact.
    `before_norm`     a layer times c, where batch norm follows. Exact but for the EPSILON that it adds to the variance:
                      f(A w) is f(w) with EPSILON / c^2. In the block of that layer the gradient scales with 1 / c, the
                      Hessian with 1 / c^2, and nothing makes up for it elsewhere.

The MAML loss is not such an f, even where its network is: the inner step is one in the parameters, and

    A w - b A^-1 g(w) = A (w - b A^-2 g(w))

is the step of a network that has inner_lr b / c^2 for the tensors that were multiplied by c. So of a meta-model the
scale of the weights is part of what it has learned, and the objection of Dinh et al. does not reach its own loss; it
reaches the loss of a task before adaptation, and after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from ..checks import ABOVE_ZERO, check
from ..errors import invalid
from ..params import Params
from .sharpness import in_weight_units, maximise
from .spectrum import eigenpairs, expand, lanczos, trace
from .surfaces import Surface

Scaling = dict[str, float]
"""Factors by the names of tensors; 1 for those that are not there. The diagonal of A."""


class Rescaled(NamedTuple):
    """What a surface is at A w: factor c, and the measures there. The loss tells whether it is the same function."""

    factor: float
    loss: float
    gradient_norm: float
    top_eigenvalue: float
    trace: float
    sharpness: float
    adaptive_sharpness: float
    adaptive_top_eigenvalue: float


def between_relus(params: Params, layer: str, following: str, c: float) -> Scaling:
    """A layer's weight and bias times c, the next layer's weight divided by c; both by the names of their modules.

    Between them there may be ReLU, leaky ReLU, pooling and reshaping, but no norm layer: that is the caller's to know.
    Raises UserError for layers that are not there, and for c that is not above 0.
    """
    check("c", c, ABOVE_ZERO)
    factors = dict.fromkeys(_tensors(params, layer), c)
    _tensors(params, following)
    return factors | {f"{following}.weight": 1 / c}


def before_norm(params: Params, layers: Sequence[str], c: float) -> Scaling:
    """The weights and biases of layers that batch norm follows, times c.

    Raises UserError for layers that are not there, and for c that is not above 0.
    """
    check("c", c, ABOVE_ZERO)
    return {name: c for layer in layers for name in _tensors(params, layer)}


def rescaled(params: Params, scaling: Scaling) -> Params:
    """A w. A power of two loses no bit. Raises UserError for a factor of a tensor that is not there."""
    for name in scaling:
        if name not in params:
            raise invalid("scaling", name, "factors of tensors among " + ", ".join(params))
    return {name: value * scaling.get(name, 1.0) for name, value in params.items()}


def sweep(
    surface: Surface,
    params: Params,
    scaling: Callable[[float], Scaling],
    factors: Sequence[float],
    *,
    alpha: float,
    adaptive_alpha: float,
    products: int,
    probes: int,
    steps: int,
    seed: int = 0,
) -> list[Rescaled]:
    """The measures of one function at differently scaled parameters, each with the same random vectors.

    scaling                 c -> A, as `lambda c: before_norm(params, layers, c)`
    products, probes, steps for Lanczos, for the trace, and of each ascent
    """

    def at(c: float) -> Rescaled:
        point = rescaled(params, scaling(c))
        weighted, origin = in_weight_units(surface, point)
        generator = torch.Generator().manual_seed(seed)
        expansion = expand(surface, point)
        krylov = lanczos(expansion, products, generator)
        weighted_krylov = lanczos(expand(weighted, origin), products, generator)
        return Rescaled(
            factor=c,
            loss=expansion.value,
            gradient_norm=float(expansion.gradient.norm()),
            top_eigenvalue=eigenpairs(krylov, 1, point).values[0],
            trace=trace(expansion, probes, generator, krylov).mean,
            sharpness=maximise(surface, point, alpha, steps=steps, restarts=0, generator=generator).rise,
            adaptive_sharpness=maximise(
                weighted, origin, adaptive_alpha, steps=steps, restarts=0, generator=generator
            ).rise,
            adaptive_top_eigenvalue=eigenpairs(weighted_krylov, 1, origin).values[0],
        )

    return [at(c) for c in factors]


def _tensors(params: Params, layer: str) -> list[str]:
    """The names of a layer's weight and, if it has one, bias."""
    names = [name for name in (f"{layer}.weight", f"{layer}.bias") if name in params]
    if f"{layer}.weight" not in names:
        layers = ", ".join(name.removesuffix(".weight") for name in params if name.endswith(".weight"))
        raise invalid("layer", layer, f"one of {layers}")
    return names
