r"""Uniform stability of the adapted learner: how much one support example can change its loss.

gamma_A = sup |l(A(S); z) - l(A(S'); z)| over support sets S and S' of n examples that differ in one, and over queries z
(Hardt et al. 2016; Definition 1 means this). A(S) is S_steps steps from theta on L(.; S), the mean of l over S.

Lemma. Let gradients of l be at most l0 long and l1-Lipschitz in the parameters, and change the query loss by at most
l0' per unit of length. With the steps of Eq. 11-12, perturbations of length at most alpha_low (0 for MAML),

    gamma_A <= 2 inner_lr l0' (l0 / n + alpha_low l1) sum_{s < steps} (1 + inner_lr l1)^s,

which for one step of MAML and l0' = l0 is 2 inner_lr l0^2 / n, with no need of l1.
Proof. Let d_s be the distance between the two runs after s steps, from phi and phi' with perturbations eps and eps'.
||grad L(phi + eps; S) - grad L(phi' + eps'; S')|| is at most ||grad L(phi + eps; S) - grad L(phi' + eps'; S)||, which
is at most l1 (d_s + 2 alpha_low), plus ||grad L(.; S) - grad L(.; S')|| at one point, in which n - 1 examples cancel
and which is at most 2 l0 / n. So d_{s+1} <= (1 + inner_lr l1) d_s + 2 inner_lr (l0 / n + alpha_low l1), and d_0 = 0.
Leaving the example out instead changes the mean gradient by (its gradient - the others' mean) / n: at most 2 l0 / n.

For MAML that is O(1/n), and the constant grows exponentially with the steps. For the lower perturbation it is not: eps
has the length alpha_low however small the gradient is, so one example may turn it around. Nor is it for a network with
batch norm, whose loss is no mean over examples. `errata.stability` has an example of each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn
from tqdm import tqdm

from ..checks import ABOVE_ZERO, at_least, check
from ..config import Config
from ..data import ImageSplit, check_split, sample_episodes
from ..evaluate import BAR_SECONDS, Z95
from ..learners import Learner
from ..params import Params
from ._numbers import Array, numbers
from .convergence import Slope

NEIGHBOURS = ("same class", "other class", "left out")
"""What becomes of one support example: another of its class, one of another class with that label, or nothing."""


def stability_bound(
    inner_lr: float,
    n_samples: ArrayLike,
    lipschitz: float,
    *,
    query_lipschitz: float | None = None,
    smoothness: float = 0.0,
    steps: int = 1,
    alpha_low: float = 0.0,
) -> Array:
    """The lemma's right-hand side, for an array of n.

    lipschitz   l0, of the support loss by the adapted parameters; query_lipschitz  l0' (default: l0)
    smoothness  l1; matters from the second step on, and for alpha_low > 0

    Raises UserError for inner_lr <= 0, n or steps < 1, or negative constants.
    """
    check("inner_lr", inner_lr, ABOVE_ZERO)
    check("steps", steps, at_least(1))
    of_query = lipschitz if query_lipschitz is None else query_lipschitz
    constants = {"lipschitz": lipschitz, "query_lipschitz": of_query, "smoothness": smoothness, "alpha_low": alpha_low}
    for name, value in constants.items():
        check(name, value, at_least(0))
    growth = sum((1 + inner_lr * smoothness) ** step for step in range(steps))
    shift = lipschitz / numbers("n_samples", n_samples, at_least(1)) + alpha_low * smoothness
    return 2 * inner_lr * of_query * shift * growth


class UnitSoftmax(nn.Module):
    """Softmax regression on images scaled to length 1: a learner whose constants are known.

    By weights and biases together the cross-entropy's gradient is the outer product of p - e_y, of length at most
    sqrt(2), and (x, 1), of length sqrt(2): l0 = 2. Its Hessian is (diag p - p p^T) x (x, 1)(x, 1)^T, at most 1/2 times
    2: l1 = 1. The probability 1 - p_y has the gradient p_y (p - e_y) by the logits, of length at most
    sqrt(2) p_y (1 - p_y): l0' = 1/2.
    """

    LIPSCHITZ, PROBABILITY_LIPSCHITZ, SMOOTHNESS = 2.0, 0.5, 1.0

    def __init__(self, image_shape: tuple[int, int, int], n_way: int) -> None:
        super().__init__()
        self.head = nn.Linear(int(np.prod(image_shape)), n_way)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.normalize(x.flatten(1)))


class Changes(NamedTuple):
    """The largest change of a query's loss when one support example is replaced; lower bounds on gamma_A.

    n_samples      [K], n = n_way * k_shot
    cross_entropy  [3, K, T]: `NEIGHBOURS`, numbers of samples, tasks; the largest over queries and replaced examples
    probability    [3, K, T], the same of 1 - p_y, which is in [0, 1] as Theorem 2 asks
    flipped        [3, K, T], 1 where some query's answer changes: there the 0-1 loss changes by 1
    """

    n_samples: Array
    cross_entropy: Array
    probability: Array
    flipped: Array

    def slope(self, changes: Array) -> Slope:
        """The exponent in n of one kind's changes [K, T]: the mean of T log-log slopes, each of other tasks.

        Raises UserError for fewer than two numbers of samples or two tasks, and for a change of 0, which has no
        logarithm.
        """
        for name, value in zip(("n_samples", "n_tasks"), changes.shape, strict=True):
            check(name, value, at_least(2))
        numbers("changes", changes, ABOVE_ZERO)
        slopes = np.polyfit(np.log(self.n_samples), np.log(changes), 1)[0]
        return Slope(float(slopes.mean()), float(Z95 * slopes.std(ddof=1) / np.sqrt(len(slopes))))


def measure_changes(
    learner: Learner,
    params: Params,
    split: ImageSplit,
    config: Config,
    *,
    shots: tuple[int, ...] = (1, 2, 5, 10),
    n_query: int = 5,
    n_tasks: int = 20,
    replaced: int = 3,
    seed: int = 0,
    progress: bool = False,
) -> Changes:
    """Adapt to real tasks with and without one of their support examples, and see what that does to the queries.

    shots     images of a class, K; n_query  queries of a class, beside one that replaces
    replaced  how many support examples of a task are replaced in turn, at most n; the same for every K, because the
              largest of more is larger

    Raises UserError for numbers out of range, or a split with too few images of a class.
    """
    for name, value in {"n_tasks": n_tasks, "replaced": replaced, "n_query": n_query}.items():
        check(name, value, at_least(1))
    for k_shot in shots:
        check("shots", k_shot, at_least(1))
        check_split(split, n_way=config.n_way, k_shot=k_shot, n_query=n_query + 1)
    found = np.empty((3, len(NEIGHBOURS), len(shots), n_tasks))  # kinds of loss first
    bar = tqdm(
        total=len(shots) * n_tasks,
        desc="replacing examples",
        unit="task",
        disable=not progress,
        leave=False,
        mininterval=BAR_SECONDS,
    )
    with bar:
        for row, k_shot in enumerate(shots):
            generator = torch.Generator().manual_seed(seed)
            for task in range(n_tasks):
                episode = sample_episodes(
                    split,
                    n_way=config.n_way,
                    k_shot=k_shot,
                    n_query=n_query + 1,
                    n_tasks=1,
                    generator=generator,
                    dtype=config.torch_dtype,
                )
                chosen = torch.randperm(config.n_way * k_shot, generator=generator)[:replaced].tolist()
                support_x, support_y, query_x, query_y = (value[0] for value in episode)
                spare = torch.arange(len(query_y)) % (n_query + 1) == 0  # the first query of each class
                one = _Task(support_x, support_y, query_x[~spare], query_y[~spare], query_x[spare])
                found[:, :, row, task] = _largest_changes(learner, params, one, chosen)
                bar.update()
    return Changes(config.n_way * np.array(shots, dtype=np.float64), *found)


class _Task(NamedTuple):
    """One task, and for each class an image that is in neither set."""

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    spare_x: Tensor


def _largest_changes(learner: Learner, params: Params, task: _Task, chosen: list[int]) -> Array:
    """[losses, NEIGHBOURS]."""
    n_way = len(task.spare_x)

    def losses(support_x: Tensor, support_y: Tensor) -> Tensor:
        outputs = learner.predict(learner.adapt(params, support_x, support_y), task.query_x)
        cross_entropy = F.cross_entropy(outputs, task.query_y, reduction="none")
        wrong = (outputs.argmax(-1) != task.query_y).to(outputs.dtype)
        return torch.stack([cross_entropy, -torch.expm1(-cross_entropy), wrong])

    def neighbours(j: int) -> list[tuple[Tensor, Tensor]]:
        label = task.support_y[j]
        other = (label + 1) % n_way
        kept = torch.arange(len(task.support_y)) != j
        return [
            (_put(task.support_x, j, task.spare_x[label]), task.support_y),
            (_put(task.support_x, j, task.spare_x[other]), _put(task.support_y, j, other)),
            (task.support_x[kept], task.support_y[kept]),
        ]

    before = losses(task.support_x, task.support_y)
    changes = torch.stack(
        [torch.stack([(losses(*pair) - before).abs().amax(-1) for pair in neighbours(j)], -1) for j in chosen]
    )
    return changes.amax(0).double().numpy()


def _put(values: Tensor, j: int, value: Tensor) -> Tensor:
    changed = values.clone()
    changed[j] = value
    return changed
