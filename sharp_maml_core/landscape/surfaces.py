r"""Losses as functions of all parameters: what is sliced, what has a spectrum, what is sharp or flat.

    erm_surface     theta -> 1/T sum_m L(theta; D_m)                  Eq. 5
    maml_surface    theta -> 1/T sum_m L(theta'_m(theta); D'_m)       Eq. 2, its inner loop by Eq. 9

of the T tasks of an episode; with T = 1 the per-task losses of Figures 1 and 4 and of Lemma 1. A surface is composed
of a learner's own `adapt` and `predict`, so it is a plain function: its derivatives are the true ones, at every order,
by autograd or inside of `torch.func.grad`, `vjp` and `jacrev`, and nothing is kept for them where none are asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from ..episode import Episode
from ..errors import invalid
from ..learners import Learner, Loss, build_learner
from ..params import Params

Surface = Callable[[Params], Tensor]
"""theta -> its loss, a scalar. `theta` holds every parameter of the model."""


def erm_surface(learner: Learner, episode: Episode, loss: Loss = F.cross_entropy) -> Surface:
    """The loss without adaptation on the support sets, L(theta; D_m), a mean over the tasks (Eq. 5).

    For other data D_m put them in the place of the support set; `same_data` does it with the query set.
    Raises UserError for an episode without a task or without support samples.
    """
    _check_samples(episode, "support_y")

    def surface(params: Params) -> Tensor:
        tasks = zip(episode.support_x, episode.support_y, strict=True)
        return torch.stack([loss(learner.predict(params, x), y) for x, y in tasks]).mean()

    return surface


def maml_surface(learner: Learner, episode: Episode, loss: Loss = F.cross_entropy) -> Surface:
    """The query loss after adaptation to the support set, L(theta'_m(theta); D'_m), a mean over the tasks (Eq. 2).

    learner  adapts as it does at test time. To compare models give one `plain_maml` for all of them: then it is one
             function that is looked at from several points. A learner with alpha_low > 0 has a surface of its own;
             the derivative of that goes through its perturbation, which Eq. 10 takes for a constant.

    Raises UserError for an episode without a task, without support or without query samples.
    """
    _check_samples(episode, "support_y", "query_y")

    def surface(params: Params) -> Tensor:
        # A loop, also on a GPU: vmap has to be the outermost transform, and here somebody may differentiate around it.
        return torch.stack(
            [
                loss(learner.predict(learner.adapt(params, support_x, support_y), query_x), query_y)
                for support_x, support_y, query_x, query_y in zip(*episode, strict=True)
            ]
        ).mean()

    return surface


def plain_maml(config: Config, model: nn.Module | None = None, loss: Loss | None = None) -> Learner:
    """MAML without perturbation (Eq. 9), with the settings of a run of any variant: its inner_lr and inner_steps."""
    return build_learner(config.replace(variant="maml", eval_inner_steps=0), model, loss)


def same_data(episode: Episode) -> Episode:
    """D_m = D'_m as in Lemma 1: tasks whose query set is their support set too."""
    return episode._replace(support_x=episode.query_x, support_y=episode.query_y)


def _check_samples(episode: Episode, *sets: str) -> None:
    for name in sets:
        shape = tuple(getattr(episode, name).shape)
        if 0 in shape[:2]:
            raise invalid(f"episode.{name}", shape, "of at least one task with at least one sample")
