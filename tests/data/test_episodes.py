"""The episode sampler. Chi-square tests draw with a fixed seed: one right sampler in 10,000 would fail each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import seeded
from helpers import easy_split, image_split, lines_split
from PIL import Image
from scipy import stats
from torch import Tensor

from sharp_maml_core import Episode, UserError, sample_episodes
from sharp_maml_core.data import ImageSplit, RegressionSplit
from sharp_maml_core.data.episodes import _turned, n_classes

FALSE_ALARMS = 1e-4
N_CLASSES, N_INSTANCES = 7, 6


def coded_split(
    n_classes: int = N_CLASSES, n_instances: int = N_INSTANCES, counts: list[int] | None = None
) -> ImageSplit:
    """2x2 images that say who they are: [[class, instance], [255, 0]]."""
    images = torch.zeros(n_classes, n_instances, 1, 2, 2, dtype=torch.uint8)
    images[..., 0, 0, 0] = torch.arange(n_classes, dtype=torch.uint8)[:, None]
    images[..., 0, 0, 1] = torch.arange(n_instances, dtype=torch.uint8)
    images[..., 0, 1, 0] = 255
    return image_split(images, counts)


def draw(split: ImageSplit | RegressionSplit, generator: torch.Generator | None = None, **changes: object) -> Episode:
    settings = {"n_way": 3, "k_shot": 2, "n_query": 3, "n_tasks": 4, "generator": generator or seeded(0)}
    return sample_episodes(split, **settings | changes)


def codes(x: Tensor, n_way: int = 3) -> tuple[Tensor, Tensor]:
    """Class and instance of each image of a coded split that was not turned: two tensors [T, N, images a class]."""
    pixels = (x * 255).round().long()
    assert (pixels[..., 0, 1, 0] == 255).all()
    pixels = pixels.unflatten(1, (n_way, -1))
    return pixels[..., 0, 0, 0], pixels[..., 0, 0, 1]


def uniform(counts: Tensor) -> bool:
    return stats.chisquare(counts.flatten().numpy()).pvalue > FALSE_ALARMS


# --- what an episode looks like


def test_shapes_types_and_labels() -> None:
    episode = draw(easy_split(side=5))
    assert episode.n_tasks == 4
    assert episode.support_x.shape == (4, 3 * 2, 1, 5, 5)
    assert episode.query_x.shape == (4, 3 * 3, 1, 5, 5)
    assert episode.support_x.dtype == episode.query_x.dtype == torch.float32
    assert episode.support_y.dtype == episode.query_y.dtype == torch.int64
    assert episode.support_y.tolist() == [[0, 0, 1, 1, 2, 2]] * 4
    assert episode.query_y.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2]] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_are_divided_by_255_in_the_asked_type(dtype: torch.dtype) -> None:
    split = easy_split(n_classes=3, n_instances=5)  # every image is in every task
    episode = draw(split, dtype=dtype)
    drawn = torch.cat([episode.support_x, episode.query_x], 1)[0]
    assert drawn.dtype == dtype
    expected = split.images.flatten(0, 1).to(dtype) / 255
    assert sorted(drawn.flatten(1).tolist()) == sorted(expected.flatten(1).tolist())


def test_memory_is_channels_last() -> None:
    images = torch.randint(0, 256, (4, 5, 3, 6, 6), generator=seeded(0)).to(torch.uint8)
    episode = draw(image_split(images), rotations=True)
    for x in (episode.support_x, episode.query_x):
        assert x[0].is_contiguous(memory_format=torch.channels_last)
        assert not x[0].is_contiguous()


def test_all_images_of_a_label_are_of_one_class_and_labels_agree_between_support_and_query() -> None:
    episode = draw(coded_split(), n_tasks=50)
    support, query = codes(episode.support_x)[0], codes(episode.query_x)[0]
    assert (support == support[..., :1]).all()
    assert (query == support[..., :1]).all()


# --- what is drawn


def test_no_support_image_among_the_queries_and_none_twice() -> None:
    episode = draw(coded_split(), n_tasks=200)
    instances = torch.cat([codes(episode.support_x)[1], codes(episode.query_x)[1]], -1)  # [T, N, K+Q]
    assert (instances.sort().values.diff() > 0).all()


def test_classes_of_a_task_are_distinct() -> None:
    classes = codes(draw(coded_split(), n_way=N_CLASSES, n_tasks=50).support_x, N_CLASSES)[0][..., 0]
    assert classes.sort().values.tolist() == [list(range(N_CLASSES))] * 50


def test_each_label_gets_each_class_equally_often() -> None:
    classes = codes(draw(coded_split(), n_tasks=7000).support_x)[0][..., 0]  # [T, N]
    for label in range(3):
        assert uniform(torch.bincount(classes[:, label], minlength=N_CLASSES))


def test_each_pair_of_classes_meets_equally_often() -> None:
    classes = codes(draw(coded_split(), n_way=2, n_tasks=8400).support_x, 2)[0][..., 0]
    pairs = torch.bincount(classes[:, 0] * N_CLASSES + classes[:, 1], minlength=N_CLASSES**2)
    off_diagonal = ~torch.eye(N_CLASSES, dtype=torch.bool)
    assert uniform(pairs.reshape(N_CLASSES, N_CLASSES)[off_diagonal])


@pytest.mark.parametrize("part", ["support_x", "query_x"])
def test_each_place_gets_each_instance_equally_often(part: str) -> None:
    instances = codes(getattr(draw(coded_split(), n_tasks=3000), part))[1]
    for place in range(instances.shape[-1]):
        assert uniform(torch.bincount(instances[..., place].flatten(), minlength=N_INSTANCES))


def test_tasks_of_a_batch_are_independent() -> None:
    classes = codes(draw(coded_split(), n_tasks=9800).support_x)[0][:, 0, 0]
    meetings = torch.bincount(classes[0::2] * N_CLASSES + classes[1::2], minlength=N_CLASSES**2)
    assert uniform(meetings)


def test_padding_is_never_drawn_and_what_is_there_is_drawn_uniformly() -> None:
    counts = [6, 5, 6, 5, 6, 6, 5]
    split = coded_split(counts=counts)
    episode = draw(split, n_tasks=3000)
    classes, instances = codes(episode.support_x)
    for c, count in enumerate(counts):
        drawn = torch.bincount(instances[classes == c], minlength=N_INSTANCES)
        assert (drawn[count:] == 0).all()
        assert uniform(drawn[:count])


# --- turned classes


def turns_of(x: Tensor) -> Tensor:
    """How often a coded image was turned: where its corner of 255 went, counter-clockwise from the lower left."""
    corners = x[..., 0, :, :].flatten(-2)[..., [2, 3, 1, 0]]  # lower left, lower right, upper right, upper left
    return (corners == 1).long().argmax(-1)


def test_each_turned_class_is_drawn_equally_often() -> None:
    x = draw(coded_split(), n_tasks=5600, rotations=True).support_x.unflatten(1, (3, -1))[:, 0, 0]
    turns = turns_of(x)
    upright = torch.stack([torch.rot90(x[i], -int(turn), (-2, -1)) for i, turn in enumerate(turns)])
    classes = (upright[:, 0, 0, 0] * 255).round().long()
    assert uniform(torch.bincount(classes * 4 + turns, minlength=4 * N_CLASSES))


def test_all_images_of_a_label_are_turned_alike() -> None:
    episode = draw(coded_split(), n_tasks=100, rotations=True)
    support, query = (turns_of(x).unflatten(1, (3, -1)) for x in (episode.support_x, episode.query_x))
    assert (support == support[..., :1]).all()
    assert (query == support[..., :1]).all()
    assert set(support.flatten().tolist()) == {0, 1, 2, 3}


def test_turned_copies_of_one_class_count_as_distinct_classes() -> None:
    one_class = easy_split(n_classes=1)
    episode = draw(one_class, n_way=4, k_shot=1, n_query=1, n_tasks=1, rotations=True)
    image = torch.cat([episode.support_x, episode.query_x])[:, :, 0]  # [2, 4, H, W]
    upright = one_class.images[0, :, 0].float() / 255
    found = {
        (turn, label)
        for turn in range(4)
        for label in range(4)
        if any(torch.equal(image[0, label], torch.rot90(candidate, turn)) for candidate in upright)
    }
    assert sorted(turn for turn, _ in found) == sorted(label for _, label in found) == [0, 1, 2, 3]


def test_a_task_that_is_turned_as_a_whole_is_of_distinct_classes_of_one_turn() -> None:
    episode = draw(coded_split(), n_way=N_CLASSES, n_tasks=2800, rotations=True, rotations_of="tasks")
    turns = turns_of(torch.cat([episode.support_x, episode.query_x], 1))  # [T, images]
    assert (turns == turns[:, :1]).all()
    assert uniform(torch.bincount(turns[:, 0], minlength=4))
    upright = torch.stack(
        [torch.rot90(x, -int(turn), (-2, -1)) for x, turn in zip(episode.support_x, turns[:, 0], strict=True)]
    )
    classes = codes(upright, N_CLASSES)[0][..., 0]
    assert classes.sort().values.tolist() == [list(range(N_CLASSES))] * 2800
    assert uniform(torch.bincount(classes[:, 0] * 4 + turns[:, 0], minlength=4 * N_CLASSES))


@pytest.mark.parametrize("turn", range(4))
def test_turning_is_counter_clockwise_as_pillow_does_it(turn: int) -> None:
    image = np.arange(9, dtype=np.uint8).reshape(3, 3)
    batch = torch.from_numpy(image).reshape(1, 1, 1, 3, 3, 1)  # [T, N, I, H, W, C]
    turned = _turned(batch, torch.tensor([[turn]]))
    assert turned.squeeze().tolist() == np.asarray(Image.fromarray(image).rotate(90 * turn)).tolist()


def test_without_rotations_nothing_is_turned() -> None:
    for of in ("classes", "tasks"):
        assert (turns_of(draw(coded_split(), n_tasks=100, rotations_of=of).support_x) == 0).all()


# --- what the labels stand for


@pytest.mark.parametrize(("rotations", "of"), [(False, "classes"), (True, "classes"), (True, "tasks")])
def test_labels_of_the_split_name_the_class_and_its_turn_and_change_nothing_else(rotations: bool, of: str) -> None:
    usual, named = (
        draw(coded_split(), n_tasks=100, rotations=rotations, rotations_of=of, labels=labels)
        for labels in ("task", "split")
    )
    for part in ("support", "query"):
        x, y = getattr(named, f"{part}_x"), getattr(named, f"{part}_y")
        assert torch.equal(x, getattr(usual, f"{part}_x"))
        assert y.dtype == torch.int64
        turns = turns_of(x)
        upright = torch.stack([torch.rot90(x[i], -int(turn), (-2, -1)) for i, turn in np.ndenumerate(turns.numpy())])
        classes = (upright[..., 0, 0, 0] * 255).round().long().reshape(y.shape)
        assert torch.equal(y, classes + N_CLASSES * turns)
    assert n_classes(coded_split(), rotations) == (4 if rotations else 1) * N_CLASSES > int(named.query_y.max())


def test_labels_are_of_one_kind_or_the_other() -> None:
    with pytest.raises(UserError, match=r"labels='global' .* one of task, split"):
        draw(coded_split(), labels="global")


# --- the generator


def same(one: Episode, other: Episode) -> bool:
    return all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("split", [coded_split(), lines_split()], ids=["images", "regression"])
def test_the_generators_state_is_all_that_decides(split: ImageSplit | RegressionSplit) -> None:
    generator = seeded(3)
    first = draw(split, generator)
    state = generator.get_state()
    second = draw(split, generator)
    assert not same(first, second)
    resumed = torch.Generator()
    resumed.set_state(state)
    assert same(draw(split, resumed), second)
    assert same(draw(split, seeded(3)), first)


def test_the_type_does_not_change_the_tasks() -> None:
    single, double = (draw(coded_split(), dtype=dtype) for dtype in (torch.float32, torch.float64))
    for one, other in zip(codes(single.query_x), codes(double.query_x), strict=True):
        assert torch.equal(one, other)


# --- regression


def test_a_regression_task_is_points_of_one_function() -> None:
    split = lines_split()
    episode = draw(split, n_tasks=100, dtype=torch.float64)
    x, y = torch.cat([episode.support_x, episode.query_x], 1), torch.cat([episode.support_y, episode.query_y], 1)
    assert episode.support_x.shape == episode.support_y.shape == (100, 2, 1)
    assert episode.query_x.shape == episode.query_y.shape == (100, 3, 1)
    assert x.dtype == y.dtype == torch.float64
    function = x.long() // split.inputs.shape[1]
    assert (function == function[:, :1]).all()
    assert torch.equal(y, x * (function + 1))
    assert (x[..., 0].sort().values.diff() > 0).all()  # no point twice
    assert set(function.flatten().tolist()) == set(range(len(split.inputs)))


# --- errors


@pytest.mark.parametrize(
    ("split", "changes", "message"),
    [
        (coded_split(), {"n_way": 8}, r"n_way=8 .* at most 7"),
        (coded_split(), {"n_way": 29, "rotations": True}, r"n_way=29 .* at most 28"),
        (coded_split(), {"n_way": 8, "rotations": True, "rotations_of": "tasks"}, r"n_way=8 .* at most 7"),
        (coded_split(), {"rotations_of": "images"}, r"rotations_of='images' .* one of classes, tasks"),
        (coded_split(), {"n_query": 5}, r"k_shot \+ n_query=7 .* at most 6"),
        (coded_split(counts=[6, 6, 4, 6, 6, 6, 6]), {}, r"at most 4, the images of class 'class 2'"),
        (lines_split(), {"k_shot": 6}, r"k_shot \+ n_query=9 .* at most 8"),
        (lines_split(), {"rotations": True}, r"rotations=True .* false for lines/train, .* not of images"),
        (coded_split(), {"n_tasks": 10**20}, r"n_tasks=10{20} .* at most 10\*\*9"),
        (lines_split(), {"k_shot": 0}, r"k_shot=0 .* at least 1"),
        (coded_split(), {"rotations": "no"}, r"rotations='no' .* true or false"),
        (
            image_split(torch.zeros(4, 5, 1, 3, 2, dtype=torch.uint8)),
            {"rotations": True},
            r"rotations=True .* not square",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    split: ImageSplit | RegressionSplit, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        draw(split, **changes)


@pytest.mark.parametrize("name", ["n_way", "k_shot", "n_query", "n_tasks"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", float("nan"), None, True])
def test_numbers_are_whole_and_at_least_one(name: str, value: object) -> None:
    generator = seeded(0)
    before = generator.get_state()
    with pytest.raises(UserError, match=rf"^{name}=.* is not allowed: it must be .*at least 1\b"):
        draw(coded_split(), generator, **{name: value})
    assert torch.equal(generator.get_state(), before)


def test_the_word_false_turns_nothing_and_numpys_numbers_are_numbers() -> None:
    plain = draw(coded_split())
    assert same(draw(coded_split(), rotations="false", n_way=np.int64(3), n_tasks=np.int32(4)), plain)
    assert same(draw(coded_split(), rotations="true"), draw(coded_split(), rotations=True))


def test_rotations_make_four_classes_of_one() -> None:
    assert draw(coded_split(), n_way=28, rotations=True).support_x.shape[1] == 28 * 2
