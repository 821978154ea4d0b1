"""The public interface, as it was promised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sharp_maml_core


def test_the_promised_lines_run() -> None:
    from sharp_maml_core import Config, Episode, build_learner

    config = Config(
        variant="both",
        n_way=5,
        k_shot=1,
        n_query=15,
        n_tasks=4,
        inner_lr=0.1,
        inner_steps=5,
        alpha_low=5e-4,
        alpha_up=5e-4,
    )
    assert config == Config(variant="both")  # these are the defaults

    config = config.replace(inner_steps=1, n_tasks=1, filters=4, device="cpu")
    episode = Episode(
        torch.rand(1, 5, 1, 28, 28), torch.arange(5)[None], torch.rand(1, 5, 1, 28, 28), torch.arange(5)[None]
    )
    learner = build_learner(config, model=None, loss=None)
    params = learner.init(torch.Generator().manual_seed(0))
    grads, metrics = learner.gradient(params, episode)
    fast = learner.adapt(params, episode.support_x[0], episode.support_y[0])
    logits = learner.predict(fast, episode.query_x[0])

    assert all(isinstance(value, torch.Tensor) for value in params.values())
    assert {name: value.shape for name, value in grads.items()} == {name: value.shape for name, value in params.items()}
    assert metrics["query_loss"].shape == metrics["query_accuracy"].shape == ()
    assert fast.keys() == params.keys()
    assert logits.shape == (5, 5)


def test_data_training_and_evaluation_fit_together(tmp_path: Path) -> None:
    from sharp_maml_core import Config, build_learner, evaluate, load_split, meta_train, sample_episodes
    from sharp_maml_core.models import loss_for, model_for

    config = Config(
        dataset="sinusoid", k_shot=5, n_query=5, inner_lr=0.01, inner_steps=1, iterations=3, val_tasks=2, device="cpu"
    )
    train, val, test = (load_split("sinusoid", split, root=tmp_path) for split in ("train", "val", "test"))
    episode = sample_episodes(
        train, n_way=5, k_shot=5, n_query=5, n_tasks=2, generator=torch.Generator().manual_seed(0)
    )
    assert episode.n_tasks == 2
    learner = build_learner(config, model_for(config, train), loss_for(train))
    state = meta_train(learner, config, train, val)
    assert state.iteration == 3
    result = evaluate(learner, state.best, test, config, n_tasks=20)
    assert result.mean > 0
    assert result.interval > 0


@pytest.mark.parametrize("name", sharp_maml_core.__all__)
def test_every_name_is_there_and_explained(name: str) -> None:
    assert getattr(sharp_maml_core, name).__doc__


@pytest.mark.parametrize("variant", sharp_maml_core.config.VARIANTS)
def test_every_variant_is_a_learner(variant: str) -> None:
    learner = sharp_maml_core.build_learner(sharp_maml_core.Config(variant=variant, filters=2, device="cpu"))
    assert isinstance(learner, sharp_maml_core.Learner)
