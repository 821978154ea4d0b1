"""Functions on a GPU whose kernels are recorded once, as a CUDA graph, and then replayed.

A meta-iteration is thousands of small kernels, of which Python and autograd launch one in the time that the GPU takes
for several. A graph launches all of them at once; they are the same kernels, on the same numbers.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree  # what torch.func itself is built on; there is no public name for it yet

from . import distributed
from .config import Config
from .errors import invalid


def recorded(function: Callable[..., Any], config: Config, learner: Any) -> Callable[..., Any]:
    """The function of this learner, recorded where that can be: on a GPU, in one process, if `config.record`.

    A learner that does not say so (`recordable`) is not: it may draw at random, or wait for the GPU.
    """
    can = getattr(learner, "recordable", False) and config.torch_device.type == "cuda" and distributed.size() == 1
    return Recorded(function) if can and config.record else function


class Recorded:
    """A function of trees of tensors, all on one GPU, to such a tree; what else is in the trees are constants.

    The first call with given shapes computes as usual, the second one records, those after it replay. Tensors that the
    function has by other ways than its arguments must stay where they are; they are read anew each time.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._known: Any = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *arguments: Any) -> Any:
        leaves, tree = pytree.tree_flatten(arguments)
        known = tree, [(leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        if known != self._known:
            self._known, self._graph = known, None
            return self._function(*arguments)
        tensors = [leaf.detach() for leaf in leaves if isinstance(leaf, Tensor)]
        if self._graph is None:
            self._given = [tensor.clone() for tensor in tensors]
            given = iter(self._given)
            mine = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            self._graph = self._record(pytree.tree_unflatten(mine, tree))
        else:
            torch._foreach_copy_(self._given, tensors)
        self._graph.replay()
        return pytree.tree_map(torch.clone, self._result)  # the next call overwrites it

    def _record(self, arguments: Any) -> torch.cuda.CUDAGraph:
        gc.collect()  # another graph that was left to the collector, and is freed while this one records, spoils it
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._result = self._function(*arguments)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise invalid(
                "record",
                True,
                "false for a model or loss that waits for the GPU (.item(), a branch on a value) or draws at random",
                _first_of(error),
            ) from error
        return graph


def _first_of(error: BaseException) -> str:
    """The first line of what went wrong first: the end of a recording that failed is an error of its own."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0]
