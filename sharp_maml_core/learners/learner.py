"""What a learner is: four pure functions. The trainer and the evaluator see nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..data.split import Split
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


class Tested(Protocol):
    """What an evaluation needs: adapt to a task, then predict. A `Learner` is one, and so is an `Ensemble`."""

    @property
    def adapt(self) -> Callable[[Params, Tensor, Tensor], Params]: ...

    @property
    def predict(self) -> Callable[[Params, Tensor], Tensor]: ...


@dataclass(frozen=True)
class Learner:
    """A method, bound to its settings, its model and its loss.

    init(generator) -> params                            drawn on the CPU, so equal on every device
    gradient(params, episode) -> (grads, metrics)
    adapt(params, support_x, support_y) -> fast_params   one task
    predict(fast_params, query_x) -> outputs             one task

    Most are done with these. What training has to know beside them:

    annealed(iteration) -> gradient  of a method whose objective changes as training goes on, counted from 0
    labels       what `gradient` is to be given: "task", the classes of a task from 0 to N-1, or "split", their places
                 among the classes of the split; see `sample_episodes`
    check_split  raises UserError for a split that it cannot be trained on
    ensemble     how many of the best parameters on validation are to be tested together; 1: no ensemble
    recordable   whether gradient, adapt and predict launch the same kernels each time: they draw nothing at random and
                 wait for no value, so that a GPU may replay them (`recorded`)
    """

    init: Callable[[torch.Generator], Params]
    gradient: Gradient
    adapt: Callable[[Params, Tensor, Tensor], Params]
    predict: Callable[[Params, Tensor], Tensor]
    annealed: Callable[[int], Gradient] | None = None
    labels: str = "task"
    check_split: Callable[[Split], None] = lambda split: None
    ensemble: int = 1
    recordable: bool = False

    def gradient_at(self, iteration: int) -> Gradient:
        """The gradient to use in the iteration, counted from 0."""
        return self.gradient if self.annealed is None else self.annealed(iteration)
