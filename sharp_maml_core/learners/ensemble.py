"""Several sets of parameters of one learner, that adapt each on its own and predict together.

Antoniou et al. 2019 test the five that scored best on validation like this. Their released code averages what the
members give, logits; here it is probabilities, in which no member can outvote the others by being more certain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..params import Params
from .learner import Tested


@dataclass(frozen=True)
class Ensemble:
    """What an evaluation needs; its parameters are those of all members, see `ensemble_params`.

    predict gives the logarithm of the members' mean probability, or, of functions, their mean.
    """

    adapt: Callable[[Params, Tensor, Tensor], Params]
    predict: Callable[[Params, Tensor], Tensor]


def ensemble_params(members: Sequence[Params]) -> Params:
    """The parameters of all members in one dict: those of member i are named i/NAME."""
    return {f"{i}/{name}": value for i, params in enumerate(members) for name, value in params.items()}


def ensemble(learner: Tested, classes: bool) -> Ensemble:
    """The learner, for the parameters of any number of members.

    classes  whether outputs are logits, whose probabilities are averaged, or values, which are averaged themselves
    """

    def adapt(params: Params, support_x: Tensor, support_y: Tensor) -> Params:
        return ensemble_params([learner.adapt(member, support_x, support_y) for member in _members(params)])

    def predict(fast: Params, query_x: Tensor) -> Tensor:
        outputs = torch.stack([learner.predict(member, query_x) for member in _members(fast)])
        return outputs.softmax(-1).mean(0).log() if classes else outputs.mean(0)

    return Ensemble(adapt, predict)


def _members(params: Params) -> list[Params]:
    members: dict[str, Params] = {}
    for name, value in params.items():
        member, _, rest = name.partition("/")
        members.setdefault(member, {})[rest] = value
    return list(members.values())
