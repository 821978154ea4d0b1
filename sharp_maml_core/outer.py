"""The outer step: torch's Adam or SGD on the meta-gradient, at a rate that may fall over the iterations."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from .params import Params

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}
"""The share of outer_lr that is left when a share `done` of the iterations lies behind."""


class OuterStep:
    """An optimiser whose parameters are leaves that are updated in place.

    params   the meta-parameters, which are copied
    moments  its state per parameter, {} before the first step: Adam's exp_avg, exp_avg_sq, step; none of plain SGD
    """

    def __init__(self, optimizer: str, params: Params, moments: dict[str, Params]) -> None:
        self._leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        self._optimizer = OPTIMIZERS[optimizer](list(self._leaves.values()), lr=0.0)
        for name, leaf in self._leaves.items():
            if moments.get(name):
                self._optimizer.state[leaf] = {key: value.clone() for key, value in moments[name].items()}

    def __call__(self, grads: Params, lr: float) -> None:
        """One step against `grads`."""
        self._optimizer.param_groups[0]["lr"] = lr
        for name, leaf in self._leaves.items():
            leaf.grad = grads[name]
        self._optimizer.step()

    @property
    def params(self) -> Params:
        """The parameters themselves: the next step changes them."""
        return {name: leaf.detach() for name, leaf in self._leaves.items()}

    @property
    def moments(self) -> dict[str, Params]:
        """The state per parameter, to be kept and given back."""
        states = self._optimizer.state
        return {
            name: {key: value for key, value in states[leaf].items() if value is not None}
            for name, leaf in self._leaves.items()
        }
