"""The ensemble: members adapt on their own and their probabilities are averaged."""

from __future__ import annotations

import pytest
import torch
from cases import TanhNet, classification, equal, seeded, setting
from helpers import SmallNet, easy_split, lines_split, small_config

from sharp_maml_core import MLP, build_learner, evaluate
from sharp_maml_core.learners.ensemble import ensemble, ensemble_params


def test_the_mean_of_the_members_probabilities() -> None:
    learner, episode = build_learner(setting("maml"), TanhNet()), classification()
    members = [learner.init(seeded(seed)) for seed in range(3)]
    together = ensemble(learner, classes=True)
    support_x, support_y, query_x, _ = (value[0] for value in episode)
    fast = together.adapt(ensemble_params(members), support_x, support_y)
    outputs = together.predict(fast, query_x)
    expected = sum(
        learner.predict(learner.adapt(member, support_x, support_y), query_x).softmax(-1) for member in members
    )
    torch.testing.assert_close(outputs.exp(), expected / 3, rtol=1e-14, atol=0)


@pytest.mark.parametrize("classes", [True, False])
def test_of_one_member_it_is_the_learner(classes: bool) -> None:
    split = easy_split() if classes else lines_split()
    config = small_config(dtype="float64", inner_lr=1e-3)
    learner = build_learner(config, *((SmallNet(),) if classes else (MLP(1, 1), torch.nn.functional.mse_loss)))
    params = learner.init(seeded(0))
    alone = evaluate(learner, params, split, config)
    assert torch.equal(
        alone.scores, evaluate(ensemble(learner, classes), ensemble_params([params]), split, config).scores
    )


def test_of_functions_the_values_are_averaged() -> None:
    learner = build_learner(setting("maml"), MLP(5, 3, width=4), torch.nn.functional.mse_loss)
    members, x = [learner.init(seeded(seed)) for seed in range(2)], torch.ones(4, 5, dtype=torch.float64)
    expected = (learner.predict(members[0], x) + learner.predict(members[1], x)) / 2
    assert torch.equal(ensemble(learner, classes=False).predict(ensemble_params(members), x), expected)


def test_more_than_ten_members_keep_their_own_parameters() -> None:
    learner = build_learner(setting("maml"), TanhNet())
    members = [learner.init(seeded(seed)) for seed in range(12)]
    seen: list = []
    spy = ensemble(
        type("Spy", (), {"adapt": staticmethod(lambda params, x, y: seen.append(params) or params)})(), classes=True
    )
    spy.adapt(ensemble_params(members), torch.zeros(1), torch.zeros(1))
    assert len(seen) == 12
    assert all(equal(one, other) for one, other in zip(seen, members, strict=True))
