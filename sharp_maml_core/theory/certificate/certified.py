"""A certificate: what is promised, of which learner, for which tasks, and what was then measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ...checks import PROBABILITY, check
from ...evaluate import ACCURACY, Evaluation
from .bounds import draws, new_classes, new_tasks

DRAWS_SHARE = 0.2  # of delta, for the error that is estimated from draws; the rest is for Theorem T or C


@dataclass(frozen=True)
class Certificate:
    """With probability at least 1 - delta, the expected error on new tasks is at most `bound`.

    learner     whose error it is
    unit        "tasks": new tasks of the classes that the certificate's own tasks were drawn from (Theorem T).
                "classes": tasks of classes that were dealt to the unseen part and never looked at (Theorem C).
    n_units     M, how many independent units it rests on; divergence  KL(Q || P), in nats
    empirical   the mean error on the seen tasks, in [0, 1]
    measured    the mean error on fresh tasks of what is certified, with half its 95% interval
    """

    learner: str
    unit: str
    n_units: int
    divergence: float
    delta: float
    empirical: float
    bound: float
    measured: float
    interval: float


class Seen(NamedTuple):
    """What a certificate may use.

    errors      [n] of tasks of the seen classes, meta-parameters drawn anew for each, float64
    n_units     M: tasks, or the seen classes over n_way
    divergence  KL(Q || P), in nats
    """

    errors: Tensor
    n_units: int
    divergence: float


def certify_tasks(learner: str, seen: Seen, fresh: Tensor, delta: float, *, random: bool) -> Certificate:
    """Theorem T. The errors are those of the M tasks themselves, in any number of passes over them.

    fresh   [n] errors of other tasks of the same classes, to compare with
    random  whether meta-parameters are drawn: then the mean error is an estimate, which Theorem D accounts for

    Raises UserError for a delta outside (0, 1).
    """
    check("delta", delta, PROBABILITY)
    empirical = float(seen.errors.mean())
    for_draws = DRAWS_SHARE * delta if random else 0.0
    upper = draws(empirical, len(seen.errors), for_draws) if random else empirical
    bound = new_tasks(upper, seen.divergence, seen.n_units, delta - for_draws)
    return _certificate(learner, "tasks", seen, fresh, delta, float(bound))


def certify_classes(
    learner: str, seen: Seen, n_unseen: int, fresh: Tensor, delta: float, *, candidates: int = 1
) -> Certificate:
    """Theorem C. The errors are those of independent tasks of the seen classes that Q was not fitted to.

    n_unseen    M', the unseen classes over n_way; fresh  [n] errors of their tasks, to compare with
    candidates  how many learners are certified by the same tasks; Theorem D has to hold for all

    Raises UserError for a delta outside (0, 1).
    """
    check("delta", delta, PROBABILITY)
    upper = draws(float(seen.errors.mean()), len(seen.errors), DRAWS_SHARE * delta / candidates)
    bound = new_classes(upper, seen.divergence, seen.n_units, n_unseen, (1 - DRAWS_SHARE) * delta)
    return _certificate(learner, "classes", seen, fresh, delta, float(bound))


def _certificate(learner: str, unit: str, seen: Seen, fresh: Tensor, delta: float, bound: float) -> Certificate:
    measured = Evaluation(1 - fresh, ACCURACY)
    return Certificate(
        learner,
        unit,
        seen.n_units,
        seen.divergence,
        delta,
        float(seen.errors.mean()),
        bound,
        1 - measured.mean,
        measured.interval,
    )
