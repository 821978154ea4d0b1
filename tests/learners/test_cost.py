"""Memory that does not grow with the inner steps, and lower precision where it is harmless."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from cases import TanhNet, classification, equal, seeded, setting

from sharp_maml_core import Episode, build_learner
from sharp_maml_core.models import Conv4


@pytest.mark.parametrize("task_map", ["loop", "vmap"])
@pytest.mark.parametrize("variant", ["maml", "both", "e-low-anil"])
def test_lower_precision_touches_the_query_pass_only(variant, task_map):
    """The meta-gradient turns a little and stays float32; the inner loop does not change by a bit."""
    model, episode = Conv4((1, 16, 16), 3, 8), classification((1, 16, 16))
    episode = Episode(*(value.float() if value.is_floating_point() else value for value in episode))
    settings = {"dtype": "float32", "task_map": task_map, "inner_lr": 0.05, "alpha_low": 5e-4, "alpha_up": 5e-4}
    full, lower = (
        build_learner(setting(variant, query_precision=precision, **settings), model)
        for precision in ("full", "bfloat16")
    )
    params, support = full.init(seeded(1)), (episode.support_x[0], episode.support_y[0])
    assert equal(full.adapt(params, *support), lower.adapt(params, *support))
    exact, rough = (
        torch.cat([value.flatten() for value in learner.gradient(params, episode)[0].values()])
        for learner in (full, lower)
    )
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert float(torch.cosine_similarity(rough, exact, dim=0)) > 0.95  # 0.975 to 0.997 measured


@pytest.mark.parametrize("variant", ["maml", "low"])
def test_memory_does_not_grow_with_the_inner_steps(variant):
    """Ten unrolled steps would keep ten graphs; the adjoint recursion keeps one, and a copy of theta a step."""
    episode = classification((20,), n_tasks=1, k_shot=100, n_query=100)

    def peak(inner_steps: int) -> int:
        learner = build_learner(setting(variant, inner_steps=inner_steps), TanhNet(20, 16, 3))
        params = learner.init(seeded(1))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            learner.gradient(params, episode)
        events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))

    assert peak(10) < 1.3 * peak(1)
