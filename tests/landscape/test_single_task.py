"""The task of Figure 1 is what it says it is, and the ERM model is trained by what the formula says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import equal, seeded
from helpers import N_WAY, SmallNet, easy_split, image_split, small_config

from sharp_maml_core import Diverged, UserError, build_learner, sample_episodes
from sharp_maml_core.landscape.single_task import draw_task, train_erm
from sharp_maml_core.landscape.surfaces import erm_surface, same_data

TASK = {"n_way": 3, "k_shot": 1, "n_query": 2}


def learner_of(**changes):
    return build_learner(small_config(dtype="float64", **changes), SmallNet())


def drawn(seed=0, split=None):
    return draw_task(split or easy_split(), **TASK, seed=seed, dtype=torch.float64)


def test_labels_are_those_of_the_named_classes_in_the_episode_and_in_all_images() -> None:
    split = easy_split()
    task = drawn()
    assert task.images.shape[0] == 3 * 6
    for label, name in enumerate(task.classes):
        images = split.images[split.class_names.index(name)].double() / 255
        mine = {image.numpy().tobytes() for image in images}
        for x, y in (
            (task.images, task.labels),
            (task.episode.support_x[0], task.episode.support_y[0]),
            (task.episode.query_x[0], task.episode.query_y[0]),
        ):
            found = {image.contiguous().numpy().tobytes() for image in x[y == label]}
            assert found
            assert found <= mine
    assert task.episode.support_y.tolist() == [[0, 1, 2]]
    assert task.episode.query_y.tolist() == [[0, 0, 1, 1, 2, 2]]


def test_support_and_query_images_differ_and_all_are_in_the_training_set() -> None:
    task = drawn()
    support, query, everything = (
        {image.contiguous().numpy().tobytes() for image in x}
        for x in (task.episode.support_x[0], task.episode.query_x[0], task.images)
    )
    assert len(support) == 3
    assert len(query) == 6
    assert not support & query
    assert support | query <= everything


def test_padding_is_never_drawn() -> None:
    split = easy_split()
    counts = torch.full((8,), 6)
    counts[2:] = 4
    images = split.images.clone()
    for c, count in enumerate(counts.tolist()):
        images[c, count:] = 0
    padded = image_split(images, counts.tolist())
    for seed in range(5):
        task = drawn(seed, padded)
        assert len(task.images) == sum(int(counts[padded.class_names.index(name)]) for name in task.classes)
        assert task.images.flatten(1).amax(1).min() > 0


def test_images_lie_in_memory_as_the_samplers_do() -> None:
    # Of one channel, `contiguous(memory_format=torch.channels_last)` keeps another layout, 2.5 times as slow.
    from_sampler = sample_episodes(easy_split(), **TASK, n_tasks=1, generator=seeded(0)).query_x[0]
    task = drawn()
    for images in (task.images, task.images[[3, 1]], task.episode.support_x[0], task.episode.query_x[0]):
        assert images.stride() == from_sampler.stride() == (36, 1, 6, 1)


def test_the_seed_decides_the_task() -> None:
    first, again, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(a, b) for a, b in zip(first.episode, again.episode, strict=True))
    assert first.classes != other.classes or not torch.equal(first.episode.support_x, other.episode.support_x)


def test_erm_learns_the_task_and_its_surface_is_low_there() -> None:
    learner, task = learner_of(), drawn()
    trained = train_erm(learner, task, steps=300, batch=9, lr=0.01)
    assert trained.accuracies[-1] == 1
    assert trained.losses[-1] < 0.05 < trained.losses[0]
    surface = erm_surface(learner, same_data(task.episode))
    start = learner.init(seeded(0))
    assert float(surface(trained.params)) < 0.1 * float(surface(start))


def test_one_step_on_all_images_is_adams_first() -> None:
    learner, task = learner_of(), drawn()
    generator = seeded(5)
    start = learner.init(generator)

    def loss(params):
        return F.cross_entropy(learner.predict(params, task.images), task.labels)

    gradient = torch.func.grad(loss)(start)
    trained = train_erm(learner, task, seed=5, steps=1, batch=100, lr=0.01)
    assert trained.losses == [pytest.approx(float(loss(start)), rel=1e-12)]
    for name, value in start.items():
        # Both moments' bias corrections cancel at the first step: lr * g / (|g| + 1e-8).
        expected = value - 0.01 * gradient[name] / (gradient[name].abs() + 1e-8)
        torch.testing.assert_close(trained.params[name], expected, rtol=1e-9, atol=1e-9)


def test_every_pass_shows_every_image_once_in_a_new_order() -> None:
    shown = []

    class Looking(SmallNet):
        def forward(self, x):
            shown.append([image.contiguous().numpy().tobytes() for image in x])
            return super().forward(x)

    task = drawn()
    trained = train_erm(build_learner(small_config(dtype="float64"), Looking()), task, steps=5, batch=9)
    first, second = shown[0] + shown[1], shown[2] + shown[3]
    assert sorted(first) == sorted(second) == sorted(image.contiguous().numpy().tobytes() for image in task.images)
    assert first != second
    assert len(shown) == len(trained.losses) == len(trained.accuracies) == 5


def test_what_fills_no_batch_is_left_out() -> None:
    sizes = []

    class Counting(SmallNet):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    learner = build_learner(small_config(dtype="float64"), Counting())
    train_erm(learner, drawn(), steps=5, batch=7)
    train_erm(learner, drawn(), steps=2, batch=1000)
    assert sizes == [7] * 5 + [18] * 2


def test_training_is_seeded_and_leaves_no_graph() -> None:
    learner, task = learner_of(), drawn()
    first, again, other = (train_erm(learner, task, seed=seed, steps=5).params for seed in (0, 0, 1))
    assert equal(first, again)
    assert not equal(first, other)
    assert not any(value.requires_grad for value in first.values())


def test_bad_settings_are_refused_and_divergence_is_named() -> None:
    learner, task = learner_of(), drawn()
    for changes, sentence in (
        ({"steps": 0}, "steps=0"),
        ({"batch": 0}, "batch=0"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"seed": -1}, "seed=-1"),
    ):
        with pytest.raises(UserError, match=sentence):
            train_erm(learner, task, **changes)
    with pytest.raises(Diverged, match="Lower lr"):
        train_erm(learner, task, lr=1e308, steps=5)
    with pytest.raises(UserError, match="n_way=9 is not allowed: it must be at most 8"):
        draw_task(easy_split(), n_way=9, k_shot=1, n_query=1, seed=0)
    with pytest.raises(UserError, match="seed=-1"):
        drawn(-1)
    assert N_WAY == 3  # what SmallNet answers
