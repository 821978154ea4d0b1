"""What a learner is: four pure functions. The trainer and the evaluator see nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..episode import Episode
from ..meta import Metrics
from ..params import Params

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> their mean loss, a scalar."""


class Gradient(Protocol):
    """(params, episode) -> meta-gradient of the mean over tasks, and metrics of the batch.

    generator  where the method itself draws at random (ESAM's weights); None draws the same every time
    """

    def __call__(
        self, params: Params, episode: Episode, generator: torch.Generator | None = None
    ) -> tuple[Params, Metrics]: ...


@dataclass(frozen=True)
class Learner:
    """A method, bound to its settings, its model and its loss.

    init(generator) -> params                            drawn on the CPU, so equal on every device
    gradient(params, episode) -> (grads, metrics)
    adapt(params, support_x, support_y) -> fast_params   one task
    predict(fast_params, query_x) -> outputs             one task
    """

    init: Callable[[torch.Generator], Params]
    gradient: Gradient
    adapt: Callable[[Params, Tensor, Tensor], Params]
    predict: Callable[[Params, Tensor], Tensor]
