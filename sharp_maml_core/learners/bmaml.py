r"""Bayesian MAML (Yoon et al. 2018): particles that adapt by Stein variational gradient descent, and chase leaders.

The meta-parameters are P initial particles. In the inner loop, with log p the negative mean loss of the support set (a
flat prior, and the likelihood of one sample), each moves along SVGD's direction (see `svgd`):

    theta_i <- theta_i + (inner_lr / P) sum_j [k(theta_j, theta_i) grad log p(theta_j)
                                               + grad_{theta_j} k(theta_j, theta_i)]

After n = inner_steps of them the leaders go s = bmaml_chaser_steps further, on the support and the query set together,
and the meta-objective of a task is how far the particles are behind, the leaders being constants:

    sum_i ||theta_i(n) - stop(theta_i(n + s))||^2

Where the model is head(features(x)), the particles are heads, and they share the features: those adapt along the plain
gradient of the particles' mean loss, and chase their leader too. Otherwise each particle is a whole network. Either way
one particle takes MAML's steps. A prediction is the logarithm of the particles' mean probabilities for cross-entropy,
and their mean output for any other loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Config
from ..data.split import Split
from ..derivatives import gradient, vjp
from ..episode import Episode
from ..meta import MetaGradient, Metrics, sharpen
from ..network import HEAD, Network
from ..params import Params, add_scaled, dot, scaled, select
from ..svgd import svgd_direction
from .common import mean_gradient, outer_gradient, task_metrics, trial
from .learner import Learner, Loss
from .settings import only

Step = Callable[[Params], Params]


def bmaml(config: Config, network: Network, loss: Loss) -> Learner:
    """Bayesian MAML; `alpha_up` > 0 sharpens it, which is new here.

    In `params`, what is a particle's own has the particles in front: [P, ...], under the network's names.

    Raises UserError for a lower perturbation, for parameters that do not adapt and for a query pass in bfloat16.
    """
    only(config, alpha_low=0.0, adapt_norm=True, query_precision="full")
    n_particles, shares = config.bmaml_particles, network.has_parts

    def own(name: str) -> bool:
        return name.startswith(HEAD) or not shares

    def outputs_of(params: Params, x: Tensor) -> Tensor:
        """The outputs of all particles, [P, n, ...]."""
        particles = [{name: value[i] for name, value in select(params, own).items()} for i in range(n_particles)]
        if not shares:
            return torch.stack([network.forward(particle, x) for particle in particles])
        features = network.features(params, x)
        return torch.stack([network.head(particle, features) for particle in particles])

    def step_on(x: Tensor, y: Tensor) -> Step:
        """One inner step of all particles on samples x, y."""

        def total(params: Params) -> Tensor:
            return torch.stack([loss(outputs, y) for outputs in outputs_of(params, x)]).sum()

        def step(params: Params) -> Params:
            slopes = gradient(total, params)
            particles, score = select(params, own), select(slopes, own)
            direction = svgd_direction(_rows(particles), -_rows(score))
            shared = scaled(select(slopes, lambda name: not own(name)), -1 / n_particles)
            return add_scaled(params, shared | _like(direction, particles), config.inner_lr)

        return step

    def predict(params: Params, x: Tensor) -> Tensor:
        outputs = outputs_of(params, x)
        if loss is F.cross_entropy:
            return torch.logsumexp(outputs.log_softmax(-1), dim=0) - math.log(n_particles)
        return outputs.mean(0)

    def one_task(params: Params, task: Episode) -> tuple[Params, Metrics]:
        support_x, support_y, query_x, query_y = task
        step, points = step_on(support_x, support_y), [params]
        for _ in range(config.inner_steps):
            points.append(step(points[-1]))
        leader, chaser = points[-1], points.pop()
        lead = step_on(torch.cat([support_x, query_x]), torch.cat([support_y, query_y]))
        for _ in range(config.bmaml_chaser_steps):
            leader = lead(leader)
        behind = {name: value - leader[name].detach() for name, value in chaser.items()}
        v = scaled(behind, 2.0)
        while points:
            (v,) = vjp(step, points.pop())[1](v)
        outputs = predict(chaser, query_x)
        return v, task_metrics(loss(outputs, query_y), outputs, query_y) | {"chaser_loss": dot(behind, behind)}

    def once(
        params: Params, episode: Episode, looks: Any = None, generator: torch.Generator | None = None
    ) -> MetaGradient:
        check_model(params, episode.support_x[0])
        return mean_gradient(config, partial(one_task, params), episode)

    whole = sharpen(once, config.alpha_up, adaptive=config.adaptive)

    def check_model(params: Params, x: Tensor) -> None:
        if shares:
            network.check_parts(params | {name: value[0] for name, value in select(params, own).items()}, x)

    def adapt_one(params: Params, support_x: Tensor, support_y: Tensor) -> Params:
        check_model(params, support_x)
        with torch.inference_mode(False):
            step = step_on(support_x, support_y)
            for _ in range(config.steps_of_test):
                params = step(params)
            return params

    def init(generator: torch.Generator) -> Params:
        drawn = [network.init(generator) for _ in range(n_particles)]
        return {
            name: torch.stack([each[name] for each in drawn]) if own(name) else value
            for name, value in drawn[0].items()
        }

    def check_split(split: Split) -> None:
        if shares:
            network.check_parts(*trial(config, network, split))

    return Learner(init, outer_gradient(whole), adapt_one, predict, check_split=check_split, recordable=True)


def _rows(particles: Params) -> Tensor:
    """Each particle as a row, [P, n]."""
    return torch.cat([value.flatten(1) for value in particles.values()], dim=1)


def _like(rows: Tensor, particles: Params) -> Params:
    parts = rows.split([value[0].numel() for value in particles.values()], dim=1)
    return {name: part.reshape(value.shape) for (name, value), part in zip(particles.items(), parts, strict=True)}
