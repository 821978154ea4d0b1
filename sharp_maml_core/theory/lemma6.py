r"""Lemma 6, the PAC-Bayes bound that Theorem 3 is built on, and a world in which its claim can be counted.

For a prior P fixed beforehand and n **independent** losses in [0, 1], with probability at least 1 - delta, for all Q:

    E_Q population <= E_Q empirical + sqrt((KL(Q || P) + ln(2 sqrt(n) / delta)) / (2n)) + gamma_A.

Source: Maurer 2004 for n >= 8; its moment inequality holds below 8 too. The paper's n counts samples from all tasks.
Samples of one task are not independent, as draws from the distribution over tasks they are copies of each other.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..checks import PROBABILITY, Allowed, at_least, check
from ._numbers import Array, numbers

HYPOTHESES = 8  # so many that choosing the best one has a price, so few that it is small


class Violations(NamedTuple):
    """How often the bound was below the population loss.

    draws       meta-training sets that were drawn
    by_samples  violations with n = samples of all tasks together, as the lemma is worded
    by_tasks    violations with n = tasks
    """

    draws: int
    by_samples: int
    by_tasks: int


def pac_bayes_root(kl: ArrayLike, n_units: ArrayLike, delta: ArrayLike) -> Array:
    """The root of Lemma 6, sqrt((KL + ln(2 sqrt(n) / delta)) / (2n)).

    kl  in nats; n_units  n, how many independent losses. Broadcasts.
    Raises UserError for kl < 0, n < 1 or a delta outside (0, 1).
    """
    n = numbers("n_units", n_units, at_least(1))
    price = math.log(2) + 0.5 * np.log(n) - np.log(numbers("delta", delta, PROBABILITY))
    return np.sqrt((numbers("kl", kl, at_least(0)) + price) / (2 * n))


def violations(
    n_tasks: int, n_samples: int, delta: float, *, draws: int, generator: torch.Generator, noise: float = 0.1
) -> Violations:
    """Count how often Lemma 6 fails for a learner that takes the best of eight hypotheses.

    A task is hard (a sample is lost with probability 1 - noise) or easy (probability noise), with even odds and
    independently for each hypothesis. So every hypothesis loses half of a new task's samples, whatever is chosen. The
    prior is uniform; the posterior is the hypothesis with the least empirical loss: KL = ln 8. Nothing adapts, which
    makes gamma_A = 0.

    n_tasks  M; n_samples  of each task; draws  repetitions; generator  on the CPU.
    Raises UserError for counts below 1, delta outside (0, 1) or noise outside [0, 1/2].
    """
    for name, value in {"n_tasks": n_tasks, "n_samples": n_samples, "draws": draws}.items():
        check(name, value, at_least(1))
    check("delta", delta, PROBABILITY)
    check("noise", noise, Allowed("between 0 and 0.5", lambda value: 0 <= value <= 0.5))
    shape = (draws, n_tasks, HYPOTHESES)
    is_hard = torch.rand(shape, generator=generator, dtype=torch.float64) < 0.5
    chance = torch.where(is_hard, 1 - noise, noise).to(torch.float64)
    lost = torch.binomial(torch.full_like(chance, n_samples), chance, generator=generator)
    empirical = (lost.mean(1) / n_samples).amin(-1).numpy()  # [draws]

    def count(n_units: int) -> int:
        return int((empirical + pac_bayes_root(math.log(HYPOTHESES), n_units, delta) < 0.5).sum())

    return Violations(draws, count(n_tasks * n_samples), count(n_tasks))
