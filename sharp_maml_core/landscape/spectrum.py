r"""The Hessian of a surface, without ever building it: its largest eigenvalues, its trace, its density.

    f(theta + e) = f(theta) + <g, e> + 1/2 <e, H e> + o(||e||^2)

`expand` keeps the graph of g, and every product H v is one exact backward pass through it (Pearlmutter 1994; reverse
over reverse, which is all that batch norm's own derivatives allow). m products make Lanczos' decomposition

    H Q^T = Q^T T + r e_m^T,   Q [m, k] orthonormal rows, T [m, m] tridiagonal,

from which everything here is read. Vectors are float64 [k], in the order of the parameters; the products are computed
in the parameters' own type, so for float32 parameters no figure is better than about 1e-6 of the largest eigenvalue.

Conv4 has ReLU and max-pooling: it is smooth in pieces, and these are the Hessians of the piece that theta lies in,
which is almost everywhere. What the kinks add to the curvature over a distance no Hessian sees; sharpness does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import at_least, check
from ..errors import invalid
from ..params import Params
from .surfaces import Surface

BREAKDOWN = 1e-12  # a residual this much smaller than T is rounding: the space is invariant
ASYMMETRY = 1e-2  # far above what float32 does, far below what a wrong third derivative does


class Expansion(NamedTuple):
    """A surface at one point, to second order.

    value  float;  gradient  [k];  hvp  v [k] -> H v [k];  like  the parameters of that point
    """

    value: float
    gradient: Tensor
    hvp: Callable[[Tensor], Tensor]
    like: Params


class Krylov(NamedTuple):
    """Lanczos' decomposition: basis Q [m, k], projected T = Q H Q^T [m, m], residual ||r||."""

    basis: Tensor
    projected: Tensor
    residual: float


class Eigenpairs(NamedTuple):
    """values [n], largest first; vectors, each of length 1 and shaped like the parameters; residuals ||H v - value v||.

    There is an eigenvalue of H within a residual of its value.
    """

    values: tuple[float, ...]
    vectors: tuple[Params, ...]
    residuals: tuple[float, ...]


class Estimate(NamedTuple):
    """A mean over random samples, and its standard error."""

    mean: float
    standard_error: float


class Quadrature(NamedTuple):
    """A density as point masses: nodes [..., m], weights [..., m] that sum to 1 over the last axis."""

    nodes: Tensor
    weights: Tensor


def expand(surface: Surface, params: Params) -> Expansion:
    """Value, gradient and Hessian-vector products of `surface` at `params`.

    The graph, and its memory, live as long as the result. Raises UserError for a surface that is not a differentiable
    scalar, or that is not finite here; so does a product that is not finite.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    theta = list(leaves.values())
    with torch.enable_grad():
        value = surface(leaves)
        _check_scalar(value)
        slopes = torch.autograd.grad(value, theta, create_graph=True, allow_unused=True, materialize_grads=True)
    curved = [index for index, slope in enumerate(slopes) if slope.requires_grad]
    gradient = flat(dict(zip(leaves, slopes, strict=True)))
    _check_finite("value", value)
    _check_finite("gradient", gradient)

    def hvp(v: Tensor) -> Tensor:
        if not curved:
            return torch.zeros_like(v)
        at = list(unflat(v, params).values())
        products = torch.autograd.grad(
            [slopes[index] for index in curved],
            theta,
            [at[index] for index in curved],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        product = flat(dict(zip(leaves, products, strict=True)))
        _check_finite("Hessian-vector product", product)
        return product

    return Expansion(float(value.detach()), gradient, hvp, params)


def lanczos(expansion: Expansion, steps: int, generator: torch.Generator) -> Krylov:
    """`steps` products (at most k) from a random vector of signs, every new one orthogonalised against all before it.

    Where the space closes before that, as it does for an eigenvalue with more than one eigenvector, it goes on from
    another random vector. Raises UserError for fewer than 1 step, and where the products are not those of a symmetric
    matrix: PyTorch's fused norm layers do that to a surface that has inner gradients in it, EpisodeNorm does not.
    """
    check("steps", steps, at_least(1))
    steps = min(steps, len(expansion.gradient))
    basis = expansion.gradient.new_zeros(steps, len(expansion.gradient))
    projected = basis.new_zeros(steps, steps)
    basis[0] = _unit(signs(expansion, generator))
    residual = 0.0
    for step in range(steps):
        product = expansion.hvp(basis[step])
        within = basis[: step + 1] @ product
        projected[step, step] = within[step]
        scale = float(projected.abs().max())
        _check_symmetric(within[: max(0, step - 1)], scale)
        remainder = _without(basis[: step + 1], product)
        residual = float(remainder.norm())
        if residual <= BREAKDOWN * scale:
            drawn = torch.randn(len(product), generator=generator, device=generator.device, dtype=torch.float64)
            remainder, residual = _without(basis[: step + 1], drawn.to(product)), 0.0
        if step + 1 < steps:
            basis[step + 1] = _unit(remainder)
            projected[step, step + 1] = projected[step + 1, step] = residual
    return Krylov(basis, projected, residual)


def eigenpairs(krylov: Krylov, n: int, like: Params, *, lowest: bool = False) -> Eigenpairs:
    """The `n` largest eigenvalues that Lanczos found, or the lowest, the lowest first.

    Each vector is turned so that it points with Lanczos' first one, on every machine.
    Raises UserError for more than it has steps.
    """
    found, mix = torch.linalg.eigh(krylov.projected)
    mix = mix * torch.where(mix[0] < 0, -1.0, 1.0)
    if not 1 <= n <= len(found):
        raise invalid("n", n, f"at least 1 and at most {len(found)}, Lanczos' steps")
    chosen = range(n) if lowest else range(len(found) - 1, len(found) - 1 - n, -1)
    return Eigenpairs(
        values=tuple(float(found[i]) for i in chosen),
        vectors=tuple(unflat(_unit(mix[:, i] @ krylov.basis), like) for i in chosen),
        residuals=tuple(krylov.residual * float(mix[-1, i].abs()) for i in chosen),
    )


def top_eigenpairs(surface: Surface, params: Params, n: int, *, steps: int, generator: torch.Generator) -> Eigenpairs:
    """The `n` largest eigenvalues of the Hessian, with their vectors, from `steps` products.

    The vectors serve as directions of a slice.
    """
    return eigenpairs(lanczos(expand(surface, params), steps, generator), n, params)


def trace(expansion: Expansion, probes: int, generator: torch.Generator, krylov: Krylov | None = None) -> Estimate:
    """The trace of H, unbiased: Hutchinson's mean of <z, H z> over random vectors of signs z, one product each.

    krylov  Lanczos' decomposition from other random vectors, if there is one: its part of the trace is known, tr T, and
            only the rest is estimated, from P z with P = I - Q^T Q (as Hutch++ does, Meyer et al. 2021; with a Krylov
            basis Chen and Hallman 2023). Of no use where no eigenvalue stands out.

    Raises UserError for fewer than 2 probes, which have no standard error.
    """
    check("probes", probes, at_least(2))
    known = 0.0 if krylov is None else float(krylov.projected.trace())
    samples = []
    for _ in range(probes):
        z = signs(expansion, generator)
        if krylov is not None:
            z = _without(krylov.basis, z)
        samples.append(known + float(z @ expansion.hvp(z)))
    values = torch.tensor(samples, dtype=torch.float64)
    return Estimate(float(values.mean()), float(values.std(correction=1)) / math.sqrt(probes))


def quadrature(krylov: Krylov) -> Quadrature:
    """Gauss' quadrature of the spectral density as seen from Lanczos' first vector q.

    Nodes are the eigenvalues of T, weights the squared first entries of its eigenvectors: sum_i w_i node_i^j is
    <q, H^j q> for every j < 2m, which has mean tr(H^j) / k over random q (Ghorbani et al. 2019).
    """
    nodes, mix = torch.linalg.eigh(krylov.projected)
    return Quadrature(nodes.cpu(), (mix[0] ** 2).cpu())


def density(masses: Quadrature, grid: Tensor, width: float) -> Tensor:
    """The spectral density at `grid` [n]: each point mass a Gaussian of standard deviation `width`.

    masses  of one probe [m] or of several [probes, m], whose mean it is; the integral is 1.

    Raises UserError unless width is above 0.
    """
    if not width > 0:
        raise invalid("width", width, "above 0")
    nodes, weights = masses.nodes.reshape(-1, 1), masses.weights.reshape(-1, 1)
    probes = masses.nodes[..., 0].numel()
    bells = torch.exp(-0.5 * ((grid - nodes) / width) ** 2) / (width * math.sqrt(2 * math.pi))
    return (weights * bells).sum(0) / probes


def signs(expansion: Expansion, generator: torch.Generator) -> Tensor:
    """A random vector of -1 and 1 [k], drawn on the generator's device: the same wherever it is used."""
    shape = (len(expansion.gradient),)
    drawn = torch.randint(2, shape, generator=generator, device=generator.device)
    return (2.0 * drawn - 1.0).to(expansion.gradient)


def flat(params: Params) -> Tensor:
    """All entries in one float64 vector [k]."""
    return torch.cat([value.detach().reshape(-1).double() for value in params.values()])


def unflat(vector: Tensor, like: Params) -> Params:
    """The inverse of `flat`: the entries in the shapes and the type of `like`."""
    parts = vector.split([value.numel() for value in like.values()])
    return {name: part.reshape(value.shape).to(value) for part, (name, value) in zip(parts, like.items(), strict=True)}


def _without(basis: Tensor, vector: Tensor) -> Tensor:
    """The part of the vector orthogonal to the rows of `basis`. Twice is enough (Giraud et al. 2005)."""
    for _ in range(2):
        vector = vector - (basis @ vector) @ basis
    return vector


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def _check_scalar(value: Tensor) -> None:
    if value.ndim:
        raise invalid("surface(params)", tuple(value.shape), "a scalar")
    if not value.requires_grad:
        raise invalid("surface", "a function without a gradient", "differentiable by its parameters")


def _check_symmetric(within: Tensor, scale: float) -> None:
    """A symmetric H takes no basis vector to one that lies more than one step before it."""
    if len(within) and float(within.abs().max()) > ASYMMETRY * scale:
        raise invalid(
            "surface",
            "a Hessian that is not symmetric",
            "exact in its derivatives up to the third",
            "PyTorch's fused norm layers are not: use sharp_maml_core.EpisodeNorm, or write them out.",
        )


def _check_finite(what: str, value: Tensor) -> None:
    if not value.isfinite().all():
        raise invalid("surface", f"a {what} with NaN or infinity", "finite at these parameters")
