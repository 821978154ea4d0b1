"""Figures of runs and of tasks."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..data.split import RegressionSplit, Split
from ..episode import Episode
from ..learners import Learner
from ..params import Params
from ..train import Row

TRAIN, VAL = sns.color_palette("colorblind")[:2]
RIGHT, WRONG = sns.color_palette("colorblind")[2], sns.color_palette("colorblind")[3]


def curves(rows: Sequence[Row], chance: float | None = None) -> Figure:
    """Loss and accuracy by meta-iteration: each batch faint, their running mean strong, validation as points."""
    with sns.axes_style("ticks"):
        has_accuracy = "query_accuracy" in rows[0]
        figure, axes = plt.subplots(1, 2 if has_accuracy else 1, figsize=(9, 3.2), squeeze=False, layout="constrained")
        _series(axes[0, 0], rows, "query_loss", "loss of the query set")
        if "perturbed_loss" in rows[0]:
            _line(axes[0, 0], rows, "perturbed_loss", r"at $\theta + \epsilon$ (Eq. 13)", "0.4", ":")
        last = axes[0, -1]
        if has_accuracy:
            _series(last, rows, "query_accuracy", "accuracy on the query set")
        checked = [row for row in rows if "val_score" in row]
        last.errorbar(
            [row["iteration"] for row in checked],
            [row["val_score"] for row in checked],
            [row["val_interval"] for row in checked],
            fmt="o",
            color=VAL,
            capsize=3,
            label="validation, 95% interval",
        )
        if chance is not None and has_accuracy:
            last.axhline(chance, color="0.6", linewidth=1, linestyle="--", label="chance")
        for ax in axes.flat:
            ax.legend(frameon=False, fontsize="small")
        sns.despine(figure)
    return figure


def tasks(learner: Learner, params: Params, split: Split, episode: Episode, queries: int = 10) -> Figure:
    """Each task of the episode as a row: what the learner was shown, and what it then said."""
    if isinstance(split, RegressionSplit):
        return _functions(learner, params, episode)
    n_way = int(episode.support_y.max()) + 1
    figure, axes = plt.subplots(
        episode.n_tasks,
        n_way + 1 + queries,
        figsize=(0.68 * (n_way + 1 + queries), 0.95 * episode.n_tasks + 0.35),
        gridspec_kw={"width_ratios": [1] * n_way + [0.3] + [1] * queries, "wspace": 0.12, "hspace": 0.45},
        squeeze=False,
    )
    for row, task in zip(axes, zip(*episode, strict=True), strict=True):
        support_x, support_y, query_x, query_y = task
        answers = learner.predict(learner.adapt(params, support_x, support_y), query_x).argmax(-1)
        shown = np.linspace(0, len(query_y) - 1, queries).astype(int)
        for label in range(n_way):
            _image(row[label], support_x[support_y == label][0], f"{label + 1}", "0.5")
        row[n_way].axis("off")
        for ax, index in zip(row[n_way + 1 :], shown, strict=True):
            right = bool(answers[index] == query_y[index])
            mark = "✓" if right else f"✗ ({int(query_y[index]) + 1})"
            _image(ax, query_x[index], f"{int(answers[index]) + 1} {mark}", RIGHT if right else WRONG)
    axes[0, 0].set_title("what it was shown", loc="left", fontsize="medium")
    axes[0, n_way + 1].set_title("what it was asked, and its answer: ✓, or ✗ (truth)", loc="left", fontsize="medium")
    figure.subplots_adjust(left=0.01, right=0.99, top=1 - 0.35 / figure.get_figheight(), bottom=0.07)
    return figure


def _functions(learner: Learner, params: Params, episode: Episode) -> Figure:
    figure, axes = plt.subplots(1, episode.n_tasks, figsize=(3 * episode.n_tasks, 2.6), squeeze=False, sharey=True)
    for ax, task in zip(axes[0], zip(*episode, strict=True), strict=True):
        support_x, support_y, query_x, query_y = (value.cpu() for value in task)
        order = query_x[:, 0].argsort()
        fast = learner.adapt(params, task[0], task[1])
        for theta, label, style in ((params, "before", ":"), (fast, "after adapting", "-")):
            ax.plot(query_x[order, 0], learner.predict(theta, task[2]).cpu()[order, 0], style, color=TRAIN, label=label)
        ax.plot(query_x[order, 0], query_y[order, 0], color="0.6", label="truth")
        ax.plot(support_x[:, 0], support_y[:, 0], "^", color=VAL, label="shown")
    axes[0, 0].legend(frameon=False, fontsize="small")
    sns.despine(figure)
    figure.tight_layout()
    return figure


def _image(ax: Axes, image: Tensor, label: str, colour: str | tuple[float, ...]) -> None:
    pixels = image.permute(1, 2, 0).cpu().float().numpy()
    ax.imshow(pixels, cmap="gray_r" if pixels.shape[-1] == 1 else None, vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel(label, fontsize="small", labelpad=2, color=colour)
    for spine in ax.spines.values():
        spine.set(color=colour, linewidth=1.5)


def _series(ax: Axes, rows: Sequence[Row], key: str, label: str) -> None:
    ax.plot([row["iteration"] for row in rows], [row[key] for row in rows], color=TRAIN, alpha=0.2, linewidth=0.8)
    _line(ax, rows, key, "training, running mean", TRAIN, "-")
    ax.set(xlabel="meta-iteration", ylabel=label)


def _line(ax: Axes, rows: Sequence[Row], key: str, label: str, colour: str | tuple[float, ...], style: str) -> None:
    """The mean of each value and the ones before it, over a tenth of the run."""
    window = max(1, len(rows) // 10)
    total = np.cumsum([0.0] + [row[key] for row in rows])
    ends = np.arange(1, len(rows) + 1)
    starts = np.maximum(0, ends - window)
    means = (total[ends] - total[starts]) / (ends - starts)
    ax.plot([row["iteration"] for row in rows], means, style, color=colour, label=label)
