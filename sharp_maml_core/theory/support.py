r"""Lemma 1 on real few-shot tasks: a stationary point of the support loss of an image task, looked at as one of MAML's.

With plain cross-entropy there is nothing to find where the network gets the whole support set right: if the true
class has the largest output on every image, strictly, then making the linear head (weights W, biases c) larger lowers
the loss, <grad L, (W, c)> = mean_i sum_j p_ij (z_ij - z_iy) < 0, so the gradient is not zero. That is the case of
interest in few-shot learning; there Lemma 1 is true of no point at all. Label smoothing bounds the best outputs: the
loss is at its least where they are the logarithms of the smoothed labels, up to a constant an image. It is another
loss than the paper's, and an ordinary one.

At such a point the outputs' gradients vanish one by one, so the Hessian is Gauss-Newton's, B^T B with B of
n_images * n_way rows, and its nonzero eigenvalues are those of the small matrix B B^T.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev

from ..checks import ABOVE_ZERO, at_least, check
from ..config import Config
from ..data import ImageSplit, sample_episodes
from ..episode import Episode
from ..errors import invalid
from ..learners import build_learner
from ..models import Conv4
from ..network import Network
from ..params import Params, norm
from .lemma1 import as_vector, composed, flattened
from .stationary import ZERO, descend

N_WAY = 5
SMOOTHING = 0.1  # share of the label that is spread over all classes
STATIONARY = 1e-10  # norm of the gradient
_BEST = 1e-7  # difference of a probability from the smoothed label
_QUERIES = 5  # images of a class that are not in the support set


class Task(NamedTuple):
    """One task with other query images than support images, and a stationary point of its support loss."""

    model: nn.Module
    episode: Episode
    params: Params


class GradientNorms(NamedTuple):
    """Of MAML's loss with one inner step, at a stationary point of the support loss.

    same   query set = support set, D = D', as in Lemma 1
    other  other images of the same classes, D != D', as in Eq. 2
    """

    inner_lr: float
    same: float
    other: float


class Curvatures(NamedTuple):
    """What one inner step does to the Hessian at a stationary point.

    before    the positive eigenvalues lambda of the support loss's Hessian, ascending, [r]; all others are zero
    after     <v, H v> of MAML's loss (D = D') along the same eigenvectors v; lambda (1 - inner_lr lambda)^2, by c)
    residual  the largest ||H v - after v||, relative to the largest of `after`
    """

    before: Tensor
    after: Tensor
    residual: float


def smoothed_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of both tasks: (outputs [n, N], labels [n]) to a mean."""
    return F.cross_entropy(outputs, targets, label_smoothing=SMOOTHING)


def conv4_task(split: ImageSplit, *, k_shot: int = 1, filters: int = 64, seed: int = 0) -> Task:
    """The paper's Conv4 with its features as they are drawn and the head that makes every output the best one.

    The head solves n_images * n_way linear equations, with the least norm. Raises UserError where they have no
    solution, as for more images than features + 1.
    """
    episode = _episode(split, k_shot, seed)
    model = Conv4(split.shape, N_WAY, filters)
    network = Network(model, torch.float64)
    params = network.init(torch.Generator().manual_seed(seed))
    x, y = episode.support_x[0], episode.support_y[0]
    best = _smoothed(y).log()
    features = F.pad(network.features(params, x), (0, 1), value=1.0)  # [n, features + 1]
    head = torch.linalg.lstsq(features, best - best.mean(1, keepdim=True), driver="gelsd").solution.T
    params |= {"head.weight": head[:, :-1].contiguous(), "head.bias": head[:, -1].contiguous()}
    return _checked(Task(model, episode, params))


def mlp_task(split: ImageSplit, *, k_shot: int = 5, hidden: int = 8, seed: int = 0) -> Task:
    """A tanh network on images pooled to 4x4 pixels a value, all of it trained by Newton's method to 1e-12.

    Raises UserError where training does not come to the least loss, as in a network that is too narrow for it.
    """
    episode = _episode(split, k_shot, seed)
    _, height, width = split.shape
    model = nn.Sequential(
        nn.AvgPool2d(4), nn.Flatten(), nn.Linear(split.shape[0] * (height // 4) * (width // 4), hidden),
        nn.Tanh(), nn.Linear(hidden, N_WAY),
    )  # fmt: skip
    start = Network(model, torch.float64).init(torch.Generator().manual_seed(seed))
    loss, vector = as_vector(support_loss(Task(model, episode, start)), start)
    _, rebuild = flattened(start)
    return _checked(Task(model, episode, rebuild(descend(loss, vector, small=1e-12))))


def support_loss(task: Task) -> Callable[[Params], Tensor]:
    """L(. ; D) of the task."""
    x, y = task.episode.support_x[0], task.episode.support_y[0]
    return lambda params: smoothed_cross_entropy(functional_call(task.model, params, (x,)), y)


def gradient_norms(task: Task, inner_lrs: Sequence[float]) -> list[GradientNorms]:
    """By the package's own MAML learner (Eq. 10 with one step, no perturbation), at each inner_lr."""
    support = task.episode._replace(query_x=task.episode.support_x, query_y=task.episode.support_y)
    found = []
    for inner_lr in inner_lrs:
        config = Config(variant="maml", inner_lr=inner_lr, inner_steps=1, n_way=N_WAY, dtype="float64", device="cpu")
        learner = build_learner(config, task.model, smoothed_cross_entropy)
        same, other = (float(norm(learner.gradient(task.params, episode)[0])) for episode in (support, task.episode))
        found.append(GradientNorms(inner_lr, same, other))
    return found


def curvatures(task: Task, inner_lr: float) -> Curvatures:
    """The eigenvalues before and after one inner step; the latter by Hessian-vector products of F itself."""
    check("inner_lr", inner_lr, ABOVE_ZERO)
    loss, at = as_vector(support_loss(task), task.params)
    before, vectors = _gauss_newton(task)
    slope = grad(composed(loss, inner_lr))
    products = torch.stack([grad(lambda x, v=v: v @ slope(x))(at) for v in vectors])  # [r, k]
    after = (products * vectors).sum(1)
    residual = (products - after[:, None] * vectors).norm(dim=1).max() / after.abs().max()
    return Curvatures(before, after, float(residual))


def _gauss_newton(task: Task) -> tuple[Tensor, Tensor]:
    """Positive eigenvalues [r] of B^T B and their eigenvectors [r, k], from B B^T."""
    x, y = task.episode.support_x[0], task.episode.support_y[0]
    at, rebuild = flattened(task.params)
    p = _smoothed(y)  # [n, N], which the outputs' softmax is
    root = p.sqrt()
    # diag(p) - p p^T = R R^T with R = diag(root) (I - root root^T), for p sums to 1
    R = torch.diag_embed(root) - p[:, :, None] * root[:, None, :]
    jacobian = jacrev(lambda theta: functional_call(task.model, rebuild(theta), (x,)))(at)  # [n, N, k]
    B = (torch.einsum("nji,njk->nik", R, jacobian) / len(x) ** 0.5).flatten(0, 1)  # [n N, k]
    eigenvalues, u = torch.linalg.eigh(B @ B.T)
    positive = eigenvalues > ZERO * eigenvalues[-1]
    return eigenvalues[positive], (u[:, positive] / eigenvalues[positive].sqrt()).T @ B


def _smoothed(labels: Tensor) -> Tensor:
    """The smoothed labels, float64 [n, N]."""
    return F.one_hot(labels, N_WAY).double() * (1 - SMOOTHING) + SMOOTHING / N_WAY


def _episode(split: ImageSplit, k_shot: int, seed: int) -> Episode:
    check("k_shot", k_shot, at_least(1))
    check("seed", seed, at_least(0))
    generator = torch.Generator().manual_seed(seed)
    return sample_episodes(
        split, n_way=N_WAY, k_shot=k_shot, n_query=_QUERIES, n_tasks=1, generator=generator, dtype=torch.float64
    )


def _checked(task: Task) -> Task:
    """The task, if the loss is at its least at its parameters, and stationary."""
    loss, at = as_vector(support_loss(task), task.params)
    slope = float(grad(loss)(at).norm())
    x, y = task.episode.support_x[0], task.episode.support_y[0]
    gap = float((functional_call(task.model, task.params, (x,)).softmax(1) - _smoothed(y)).abs().max())
    if slope > STATIONARY or gap > _BEST:
        raise invalid(
            "k_shot",
            len(y) // N_WAY,
            "such that the network can give every image its best output: the gradient norm that was reached is "
            f"{slope:.1e}, and a probability is off by {gap:.1e}",
            "Take fewer images or a wider network.",
        )
    return task
