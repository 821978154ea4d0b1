"""First derivatives and vector-Jacobian products of functions of parameter dicts, to any order.

Two engines, one meaning. Outside of `torch.func` transforms this is plain `torch.autograd`: an iteration of tiny tasks,
nearly all overhead, took 0.85 s by it and 2.3 s by `torch.func` (both under a profiler). Inside of one (tasks mapped by
`vmap`, a user's own `hessian`) it is `torch.func`, the only one that works there. Either way a result can be
differentiated again exactly if the arguments are part of a graph, and costs nothing to keep if they are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree  # what torch.func itself is built on; there is no public name for it yet

from .params import Params

Gradients = tuple[Params, ...]
Pullback = Callable[[Params], Gradients]


def gradient(function: Callable[..., Tensor], x: Params, *rest: Any) -> Params:
    """The gradient by x of function(x, *rest), a scalar. `rest` are constants here, dicts or tensors or nothing."""
    if transforming():
        return torch.func.grad(function)(x, *rest)
    live = _live(x, *(value for value in rest if isinstance(value, dict)))
    with torch.enable_grad():
        (x,) = _leaves(x)
        return _back(function(x, *rest), (x,), live)[0]


def gradient_and_beside(
    function: Callable[..., tuple[Tensor, Any]], x: Params, *rest: Any
) -> tuple[Params, tuple[Tensor, Any]]:
    """The gradient by x of a scalar, and (the scalar, what `function` returns beside it, a tree of tensors).

    function(x, *rest) is called once; `rest` are constants here, as for `gradient`.
    """
    if transforming():
        return torch.func.grad_and_value(function, has_aux=True)(x, *rest)
    live = _live(x, *(value for value in rest if isinstance(value, dict)))
    with torch.enable_grad():
        (x,) = _leaves(x)
        value, beside = function(x, *rest)
        (found,) = _back(value, (x,), live)
    return found, (value, beside) if live else _without_graph((value, beside))


def value_and_gradients(
    function: Callable[..., tuple[Tensor, Any]], *arguments: Params
) -> tuple[Gradients, tuple[Tensor, Any]]:
    """The gradients of a scalar by each of its arguments, and (the scalar, what `function` returns beside it)."""
    if transforming():
        argnums = tuple(range(len(arguments)))
        return torch.func.grad_and_value(function, argnums=argnums, has_aux=True)(*arguments)
    live = _live(*arguments)
    with torch.enable_grad():
        arguments = _leaves(*arguments)
        value, beside = function(*arguments)
        gradients = _back(value, arguments, live)
    return gradients, (value, beside) if live else _without_graph((value, beside))


def vjp(function: Callable[..., Params], *arguments: Params) -> tuple[Params, Pullback]:
    """function(*arguments) and its pullback: v -> the gradients by each argument of <v, function(*arguments)>.

    The pullback may be called once; it frees the graph behind it.
    """
    if transforming():
        values, back = torch.func.vjp(function, *arguments)[:2]
        return values, back
    live = _live(*arguments)
    with torch.enable_grad():
        arguments = _leaves(*arguments)
        values = function(*arguments)

    def pullback(v: Params) -> Gradients:
        moving = [name for name, value in values.items() if value.requires_grad]
        with torch.enable_grad():
            return _back([values[name] for name in moving], arguments, live, [v[name] for name in moving])

    return values if live else {name: value.detach() for name, value in values.items()}, pullback


def hidden(values: Tensor) -> bool:
    """Whether values cannot be looked at now: within a transform, or while a GPU records (`recorded`)."""
    return transforming() or (values.is_cuda and torch.cuda.is_current_stream_capturing())


def on_plain_cpu(x: Tensor) -> bool:
    """Whether x is on a CPU and PyTorch alone computes with it: only there may functions be our own.

    A `torch.func` transform, autocast and a `TorchFunctionMode` (as K-FAC's, `kfac.py`) want to see PyTorch's.
    """
    watched = transforming() or torch.is_autocast_enabled("cpu") or torch._C._len_torch_function_stack() > 0
    return x.device.type == "cpu" and not watched


def transforming() -> bool:
    """Whether this is called within a `torch.func` transform."""
    # What autograd.Function itself asks; torch.func has no public name for it.
    return torch._C._are_functorch_transforms_active()


def _without_graph(tree: Any) -> Any:
    return pytree.tree_map(lambda leaf: leaf.detach(), tree)


def _live(*arguments: Params) -> bool:
    """Whether somebody may differentiate the result: whether an argument belongs to a graph."""
    return torch.is_grad_enabled() and any(value.requires_grad for argument in arguments for value in argument.values())


def _leaves(*arguments: Params) -> Gradients:
    """The arguments, each tensor of them part of a graph.

    A live one gets a node of its own: an argument may be upstream of another, and derivatives are partial ones.
    """
    return tuple(
        {
            name: value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
            for name, value in argument.items()
        }
        for argument in arguments
    )


def _back(
    outputs: Tensor | Sequence[Tensor], arguments: Gradients, live: bool, v: Sequence[Tensor] | None = None
) -> Gradients:
    flat = [value for argument in arguments for value in argument.values()]
    if (isinstance(outputs, Tensor) and not outputs.requires_grad) or (isinstance(outputs, list) and not outputs):
        found = iter([torch.zeros_like(value) for value in flat])  # a constant
    else:
        found = iter(
            torch.autograd.grad(outputs, flat, v, create_graph=live, allow_unused=True, materialize_grads=True)
        )
    return tuple({name: next(found) for name in argument} for argument in arguments)
