"""Figures show what they are given, and only that."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch

from sharp_maml_core import Config, build_learner, plots, sample_episodes
from sharp_maml_core.data import ImageSplit, RegressionSplit
from sharp_maml_core.models import loss_for, model_for

ROWS = [
    {"iteration": i, "query_loss": 1 / i, "query_accuracy": i / 10, "gradient_norm": 1.0}
    | ({"val_score": i / 11, "val_interval": 0.05} if i % 5 == 0 else {})
    for i in range(1, 11)
]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_curves_show_each_batch_and_each_validation() -> None:
    loss, accuracy = plots.curves(ROWS, chance=0.2).axes
    assert loss.lines[0].get_ydata().tolist() == [row["query_loss"] for row in ROWS]
    assert accuracy.lines[0].get_ydata().tolist() == [row["query_accuracy"] for row in ROWS]
    (points,) = accuracy.containers
    assert points.lines[0].get_ydata().tolist() == [5 / 11, 10 / 11]


def test_the_running_mean_averages_over_a_tenth_of_the_run() -> None:
    rows = [{"iteration": i, "query_loss": float(i), "gradient_norm": 1.0} for i in range(1, 21)]
    (axis,) = plots.curves(rows).axes
    assert axis.lines[1].get_ydata().tolist() == [1.0, *[i - 0.5 for i in range(2, 21)]]


def test_a_right_answer_is_marked_right_and_a_wrong_one_names_the_truth() -> None:
    images = torch.zeros(4, 6, 1, 16, 16, dtype=torch.uint8)
    for label in range(4):
        images[label, :, :, 4 * label : 4 * label + 4] = 255
    split = ImageSplit.from_images(images, ("a", "b", "c", "d"), "bars/test")
    config = Config(variant="maml", n_way=4, n_query=3, filters=4, inner_steps=1, device="cpu")
    learner = build_learner(config, model_for(config, split))
    params = learner.init(torch.Generator().manual_seed(0))
    episode = sample_episodes(
        split, n_way=4, k_shot=1, n_query=3, n_tasks=2, generator=torch.Generator().manual_seed(0)
    )
    figure = plots.tasks(learner, params, split, episode, queries=12)
    labels = [axis.get_xlabel() for axis in figure.axes]
    fast = [learner.adapt(params, episode.support_x[t], episode.support_y[t]) for t in range(2)]
    answers = [learner.predict(fast[t], episode.query_x[t]).argmax(-1) for t in range(2)]
    for t in range(2):
        shown = labels[t * 17 + 5 : (t + 1) * 17]
        for text, answer, truth in zip(shown, answers[t].tolist(), episode.query_y[t].tolist(), strict=True):
            assert text == (f"{answer + 1} ✓" if answer == truth else f"{answer + 1} ✗ ({truth + 1})")


def test_functions_are_drawn_with_their_support_points() -> None:
    x = torch.linspace(-5, 5, 30).expand(3, 30)[..., None].contiguous()
    split = RegressionSplit.from_points(x, torch.sin(x), "sines/test")
    config = Config(variant="maml", k_shot=5, n_query=10, device="cpu")
    learner = build_learner(config, model_for(config, split), loss_for(split))
    episode = sample_episodes(
        split, n_way=5, k_shot=5, n_query=10, n_tasks=2, generator=torch.Generator().manual_seed(0)
    )
    figure = plots.tasks(learner, learner.init(torch.Generator().manual_seed(0)), split, episode)
    assert len(figure.axes) == 2
    points = figure.axes[0].lines[3]
    assert points.get_ydata().tolist() == episode.support_y[0, :, 0].tolist()
