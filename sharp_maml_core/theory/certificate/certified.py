"""A certificate: what is promised, of which learner, for which tasks, and what was then measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ...checks import PROBABILITY, at_least, check
from ...evaluate import ACCURACY, Evaluation
from .bounds import draws, new_classes, new_tasks

DRAWS_SHARE = 0.2  # of delta, for the error that is estimated from draws; the rest is for Theorem T or C


@dataclass(frozen=True)
class Certificate:
    """With probability at least 1 - delta, the expected error on new tasks is at most `bound`.

    learner     whose error it is
    unit        "tasks": new tasks of the classes that the certificate's own tasks were drawn from (Theorem T).
                "classes": tasks of classes that were dealt to the unseen part and never looked at (Theorem C).
    n_units     M, how many units it rests on; n_unseen  M' of Theorem C, 0 for tasks
    divergence  KL(Q || P), in nats
    empirical   the mean error on the seen tasks, in [0, 1]
    n_draws     how many draws that is the mean of, where it is an estimate, with `delta_draws` for Theorem D; else 0
    measured    the mean error on fresh tasks of what is certified, with half its 95% interval
    """

    learner: str
    unit: str
    n_units: int
    n_unseen: int
    divergence: float
    delta: float
    empirical: float
    n_draws: int
    delta_draws: float
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
    return _certificate(learner, "tasks", seen, 0, fresh, delta, DRAWS_SHARE * delta if random else 0.0)


def certify_classes(
    learner: str, seen: Seen, n_unseen: int, fresh: Tensor, delta: float, *, candidates: int = 1
) -> Certificate:
    """Theorem C. The errors are those of independent tasks of the seen classes that Q was not fitted to.

    n_unseen    M', the unseen classes over n_way; fresh  [n] errors of their tasks, to compare with
    candidates  how many learners are certified by the same tasks; Theorem D has to hold for all

    Raises UserError for a delta outside (0, 1), or less than one candidate or unseen task's worth of classes.
    """
    check("delta", delta, PROBABILITY)
    check("candidates", candidates, at_least(1))
    check("n_unseen", n_unseen, at_least(1))
    return _certificate(learner, "classes", seen, n_unseen, fresh, delta, DRAWS_SHARE * delta, candidates)


def _certificate(
    learner: str,
    unit: str,
    seen: Seen,
    n_unseen: int,
    fresh: Tensor,
    delta: float,
    for_draws: float,
    candidates: int = 1,
) -> Certificate:
    empirical, rest = float(seen.errors.mean()), delta - for_draws
    n_draws, delta_draws = (len(seen.errors), for_draws / candidates) if for_draws else (0, 0.0)
    upper = draws(empirical, n_draws, delta_draws) if n_draws else empirical
    if unit == "classes":
        bound = new_classes(upper, seen.divergence, seen.n_units, n_unseen, rest)
    else:
        bound = new_tasks(upper, seen.divergence, seen.n_units, rest)
    measured = Evaluation(1 - fresh, ACCURACY)
    return Certificate(
        learner=learner,
        unit=unit,
        n_units=seen.n_units,
        n_unseen=n_unseen,
        divergence=seen.divergence,
        delta=delta,
        empirical=empirical,
        n_draws=n_draws,
        delta_draws=delta_draws,
        bound=float(bound),
        measured=1 - measured.mean,
        interval=measured.interval,
    )
