r"""Figures of Theorem 1: rates, floors, Lemma 3, and what the proof leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..theory.convergence import Rate, exponent
from ..theory.floors import Floors
from ..theory.lemma3 import Lemma3
from ..theory.uncovered import InnerJacobian

MEAN_SQUARE = r"mean of $\|\nabla F(\theta_t)\|^2$ over $t < T$"
_COLOURS = sns.color_palette("colorblind")
_MARKERS = "osD^vPX"
_BOUND_MARKS = ({"linestyle": "--"}, {"linestyle": ":"})
_BOUND_STYLES = ((0, (1, 1)), (0, (5, 2)), "-")


def rates(measured: Mapping[str, Rate], bounds: Mapping[str, Sequence[float]] | None = None) -> Figure:
    """Each rate over the horizon with its 95% intervals and exponent, and bounds, one value a horizon, in grey.

    On the right the rates times sqrt(T): level where they fall like T^(-1/2).
    """
    with sns.axes_style("ticks"):
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(11, 3.9), layout="constrained", gridspec_kw={"width_ratios": [3, 2]}
        )
        for index, (name, rate) in enumerate(measured.items()):
            style = _style(index) | {"capsize": 2, "linewidth": 1.3}
            slope, root = rate.slope, np.sqrt(rate.horizons)
            label = rf"{name}: $T^{{{slope.value:.2f} \pm {slope.interval:.2f}}}$"
            left.errorbar(rate.horizons, rate.mean.numpy(), rate.interval.numpy(), label=label, **style)
            right.errorbar(rate.horizons, root * rate.mean.numpy(), root * rate.interval.numpy(), **style)
        horizons = next(iter(measured.values())).horizons
        for index, (name, values) in enumerate((bounds or {}).items()):
            left.plot(horizons, list(values), color="0.35", linestyle=_BOUND_STYLES[index % 3], label=name)
        left.set(yscale="log", ylabel=MEAN_SQUARE)
        right.set(ylabel=r"the same times $\sqrt{T}$", ylim=(0, None))
        for ax in (left, right):
            ax.set(xscale="log", xlabel="horizon T, a run each")
            ax.set_xticks(horizons, [f"{horizon:g}" for horizon in horizons])
            ax.set_xticks([], minor=True)
        figure.legend(*left.get_legend_handles_labels(), frameon=False, fontsize="small", loc="outside right center")
        sns.despine(figure)
    return figure


def fixed_steps(traces: Mapping[str, Tensor], bounds: Mapping[str, float]) -> Figure:
    """||grad F(theta_t)||^2 with fixed steps, [T, R] a variant, averaged over the repetitions and over a tenth of t."""
    with sns.axes_style("ticks"):
        figure, ax = plt.subplots(figsize=(8.6, 3.6), layout="constrained")
        for index, (name, squares) in enumerate(traces.items()):
            total = np.concatenate([[0.0], np.cumsum(squares.mean(1).numpy())])
            ends = np.arange(1, len(total))
            starts = np.floor(0.9 * ends).astype(int)
            ax.plot(ends, (total[ends] - total[starts]) / (ends - starts), color=_COLOURS[index], label=name)
        for index, (name, value) in enumerate(bounds.items()):
            ax.axhline(value, color="0.35", linestyle=_BOUND_STYLES[index % 3], label=name)
        ax.set(xscale="log", yscale="log", xlabel="iteration t", ylabel=r"$E\,\|\nabla F(\theta_t)\|^2$")
        figure.legend(frameon=False, fontsize="small", loc="outside right center")
        sns.despine(figure)
    return figure


def floors(panels: Mapping[str, Mapping[str, Floors]]) -> Figure:
    """Floors over one setting a panel, x label -> {name: floors}, each with its exponent, and its bound in grey."""
    with sns.axes_style("ticks"):
        columns = min(len(panels), 2)
        rows = -(-len(panels) // columns)
        size = (3.9 * columns, 3.3 * rows)
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=True, layout="constrained")
        for ax in axes.flat[len(panels) :]:
            ax.axis("off")
        for ax, (label, curves) in zip(axes.flat, panels.items(), strict=False):
            for index, (name, (x, y, bounds)) in enumerate(curves.items()):
                ax.plot(x, y, label=f"{name}: exponent {exponent(x, y):.2f}", **_style(index))
                ax.plot(x, bounds, label=f"its bound: {exponent(x, bounds):.2f}", color="0.5", **_BOUND_MARKS[index])
            ax.set(xscale="log", yscale="log", xlabel=label)
            ax.set_xticks(list(x), [f"{value:g}" for value in x])
            ax.minorticks_off()
            ax.legend(frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0))
        for ax in axes[:, 0]:
            ax.set_ylabel(r"$\|\nabla F\|^2$ where $E\,h = 0$")
        sns.despine(figure)
    return figure


def lemma3(draws: Lemma3) -> Figure:
    """How much of the right side of Eq. 31 the left side is, over random draws: psi independent of xi, and psi = xi."""
    with sns.axes_style("ticks"):
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, sharex=True, layout="constrained")
        _ratios(axes[0], "Eq. 31", draws.independent / draws.printed, 0)
        _ratios(axes[0], "sharper", draws.independent / draws.sharper, 1)
        axes[0].set_title(r"$\psi$ independent of $\xi$", fontsize="medium")
        _ratios(axes[1], "Eq. 31", draws.one_batch / draws.printed, 0)
        _ratios(axes[1], r"$\|\nabla F - E\,h\|^2$", draws.bias / draws.bias_bound, 2)
        axes[1].set_title(r"one batch: $\psi = \xi$", fontsize="medium")
        for ax in axes:
            ax.axvline(1, color="0.3", linewidth=1)
            ax.set(xscale="log", xlabel="left side / right side")
            ax.legend(frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.08))
        axes[0].set_ylabel("share of the draws")
        sns.despine(figure)
    return figure


def uncovered(
    biases: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    jacobians: Sequence[InnerJacobian],
    drift: tuple[Sequence[float], Sequence[float]],
) -> Figure:
    """Three panels: the bias that one batch makes, over alpha_up; inner Jacobians, over ||grad L||; the drift to ERM.

    biases  name -> (alpha_up, norm of the bias);  drift  (inner_lr, distance of F's stationary point from ERM's)
    """
    with sns.axes_style("ticks"):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.3), layout="constrained")
        for index, (name, (x, y)) in enumerate(biases.items()):
            left.plot(x, y, label=name, **_style(index))
        left.set(xlabel=r"$\alpha_{\mathrm{up}}$", ylabel="bias of one batch")
        lengths = [jacobian.gradient for jacobian in jacobians]
        for index, (field, name) in enumerate(
            (("through", r"through $\epsilon_m$"), ("constant", r"$\epsilon_m$ constant"))
        ):
            norms = [getattr(jacobian, field) for jacobian in jacobians]
            middle.plot(lengths, norms, label=name, **_style(index + 2))
        middle.set(xlabel=r"$\|\nabla L(\theta; D)\|$", ylabel=r"$\|\partial\theta' / \partial\theta\|$")
        right.plot(*drift, label=f"exponent {exponent(*drift):.2f}", **_style(4))
        right.set(xlabel=r"inner_lr, $\beta_{\mathrm{low}}$", ylabel="distance from ERM's minimiser")
        for ax in (left, middle, right):
            ax.set(xscale="log", yscale="log")
            ax.legend(frameon=False, fontsize="small")
        sns.despine(figure)
    return figure


def _style(index: int) -> dict[str, Any]:
    return {"marker": _MARKERS[index], "markersize": 4.5, "color": _COLOURS[index]}


def _ratios(ax: Axes, name: str, ratio: Tensor, colour: int) -> None:
    values = ratio.numpy()
    above = float((values > 1).mean())
    bins = np.logspace(-6, 2, 49)
    ax.hist(
        np.clip(values, bins[0], bins[-1]),
        bins=bins.tolist(),
        weights=np.full(len(values), 1 / len(values)),
        histtype="step",
        linewidth=1.5,
        color=_COLOURS[colour],
        label=f"{name}: largest {values.max():.2g}, above 1 in {above:.1%}",
    )
