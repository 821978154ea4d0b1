"""The MAML family once more, as naively as can be: plain loops, the graph of every inner step kept, one big backward.

Written from the paper alone. It imports nothing of the package that it is compared with, not even batch norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Method:
    """One member of the family. `adapted` names what the inner loop changes; radius 0 means no perturbation."""

    forward: Callable[[Tensors, Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    adapted: tuple[str, ...]
    inner_lr: float
    inner_steps: int
    alpha_low: float = 0.0
    alpha_up: float = 0.0
    adaptive: bool = False
    through: bool = False
    reuse: bool = True
    first_order: bool = False
    xi: float = 1.0  # ESAM: share of perturbed weights
    mu: float = 1.0  # ESAM: share of selected samples
    fixed: tuple[str, ...] = ()  # what the meta-gradient leaves alone
    features_once: bool = False  # ANIL: features of the whole support set, whatever samples are selected later


def meta_gradient(
    method: Method, theta: Tensors, tasks: list[tuple[Tensor, ...]], masks: list[list[Tensors]] | None = None
) -> tuple[Tensors, float]:
    """The gradient that the outer optimiser gets (Eq. 15 as a mean), and the query loss at the point where it is taken.

    tasks  (support_x, support_y, query_x, query_y) each
    masks  ESAM's random weights, [task][step]
    """
    h, loss, epsilons = _one_pass(method, theta, tasks, None, masks)
    if method.alpha_up == 0:
        return h, loss
    rise = epsilon(h, theta, method.alpha_up, method.adaptive)  # Eq. 13, 20
    moved = {name: value + rise[name] for name, value in theta.items()}
    grads, loss, _ = _one_pass(method, moved, tasks, epsilons if method.reuse else None, masks)  # Eq. 14-15, 21
    return grads, loss


def fine_tune(
    method: Method,
    theta: Tensors,
    x: Tensor,
    y: Tensor,
    given: list[Tensors] | None = None,
    masks: list[Tensors] | None = None,
) -> tuple[Tensors, list[Tensors]]:
    """Eq. 11-12 (or 14, where `given` are the epsilons to use), `inner_steps` times; also the epsilons it used."""
    phi, used = dict(theta), []
    for step in range(method.inner_steps):
        if method.alpha_low == 0:
            descent = _gradient(method, phi, x, y)
        else:
            if given is None:
                now = {name: phi[name] for name in method.adapted}
                eps = epsilon(_gradient(method, phi, x, y), now, method.alpha_low, method.adaptive)
                if masks is not None:
                    eps = {name: value * masks[step][name] / method.xi for name, value in eps.items()}
                if not method.through:
                    eps = {name: value.detach() for name, value in eps.items()}
            else:
                eps = given[step]
            used.append({name: value.detach() for name, value in eps.items()})
            peak = {name: value + eps[name] if name in eps else value for name, value in phi.items()}
            descent = _gradient(method, peak, x, y, _selected(method, phi, peak, x, y))
        if method.first_order:
            descent = {name: value.detach() for name, value in descent.items()}
        for name in method.adapted:
            phi[name] = phi[name] - method.inner_lr * descent[name]
    return phi, used


def epsilon(gradient: Tensors, at: Tensors, radius: float, adaptive: bool) -> Tensors:
    """Radius * g / ||g||, or ASAM's radius * w^2 g / || |w| g ||."""
    weight = {name: at[name].abs() if adaptive else torch.ones_like(value) for name, value in gradient.items()}
    length = sum(((weight[name] * value) ** 2).sum() for name, value in gradient.items()) ** 0.5
    return {name: radius * weight[name] ** 2 * value / length for name, value in gradient.items()}


def _one_pass(method, theta, tasks, given, masks):
    theta = {name: value.detach().requires_grad_() for name, value in theta.items()}
    total, epsilons = 0.0, []
    for index, (support_x, support_y, query_x, query_y) in enumerate(tasks):
        used_before = given[index] if given else None
        mask = masks[index] if masks else None
        phi, used = fine_tune(method, theta, support_x, support_y, used_before, mask)
        total = total + method.loss(method.forward(phi, query_x), query_y)
        epsilons.append(used)
    mean = total / len(tasks)
    grads = torch.autograd.grad(mean, list(theta.values()), materialize_grads=True)
    grads = {name: value * (name not in method.fixed) for name, value in zip(theta, grads, strict=True)}
    return grads, mean.item(), epsilons


def _gradient(method: Method, phi: Tensors, x: Tensor, y: Tensor, samples: list[int] | None = None) -> Tensors:
    if samples is None:
        outputs = method.forward(phi, x)
    elif method.features_once:
        outputs, y = method.forward(phi, x)[samples], y[samples]
    else:
        outputs, y = method.forward(phi, x[samples]), y[samples]
    if not outputs.requires_grad:  # a caller who wants values only gives tensors without a graph
        phi = {name: value.detach().requires_grad_() for name, value in phi.items()}
        return _gradient(method, phi, x, y, samples)
    values = [phi[name] for name in method.adapted]
    grads = torch.autograd.grad(method.loss(outputs, y), values, create_graph=True, materialize_grads=True)
    return dict(zip(method.adapted, grads, strict=True))


def _selected(method: Method, phi: Tensors, peak: Tensors, x: Tensor, y: Tensor) -> list[int] | None:
    """ESAM's data selection: the ceil(mu n) samples, at least one, whose loss grew most from phi to the peak."""
    if method.mu == 1:
        return None
    here, there = method.forward(phi, x), method.forward(peak, x)
    each = [slice(i, i + 1) for i in range(len(x))]
    growth = [(method.loss(there[i], y[i]) - method.loss(here[i], y[i])).item() for i in each]
    order = sorted(range(len(x)), key=lambda i: -growth[i])
    return order[: max(1, math.ceil(method.mu * len(x)))]


# --- the same networks, without a module --------------------------------------------------------------------------


def conv4(params: Tensors, x: Tensor) -> Tensor:
    """Section 5.1's network in the usual order: convolution with its bias, normalise, ReLU, pool."""
    for block in range(4):
        name = f"features.{block}"
        x = F.conv2d(x, params[f"{name}.conv.weight"], params[f"{name}.conv.bias"], padding=1)
        x = batch_norm(x, params[f"{name}.norm.weight"], params[f"{name}.norm.bias"])
        x = F.max_pool2d(torch.relu(x), 2)
    return F.linear(x.flatten(1), params["head.weight"], params["head.bias"])


def strided_conv4(params: Tensors, x: Tensor) -> Tensor:
    """Finn et al.'s for Omniglot: the positions that a stride leaves out are computed, and thrown away."""
    for block in range(4):
        name = f"features.{block}"
        x = F.conv2d(x, params[f"{name}.conv.weight"], params[f"{name}.conv.bias"], padding=1)[:, :, ::2, ::2]
        x = torch.relu(batch_norm(x, params[f"{name}.norm.weight"], params[f"{name}.norm.bias"]))
    return F.linear(x.mean(3).mean(2), params["head.weight"], params["head.bias"])


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * weight[:, None, None] + bias[:, None, None]


def mlp(params: Tensors, x: Tensor) -> Tensor:
    x = torch.relu(x @ params["features.0.weight"].T + params["features.0.bias"])
    x = torch.relu(x @ params["features.2.weight"].T + params["features.2.bias"])
    return x @ params["head.weight"].T + params["head.bias"]


def tanh_net(params: Tensors, x: Tensor) -> Tensor:
    """`cases.TanhNet`: linear, layer norm, tanh, linear."""
    x = x @ params["features.0.weight"].T + params["features.0.bias"]
    mean = x.mean(1, keepdim=True)
    variance = ((x - mean) ** 2).mean(1, keepdim=True)
    x = (x - mean) / (variance + 1e-5).sqrt() * params["features.1.weight"] + params["features.1.bias"]
    return torch.tanh(x) @ params["head.weight"].T + params["head.bias"]
