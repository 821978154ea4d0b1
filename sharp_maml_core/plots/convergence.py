r"""Figures of Theorem 1: rates, floors, Lemma 3, and what the proof leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..theory.convergence import Rate, exponent
from ..theory.lemma3 import Lemma3
from ..theory.uncovered import InnerJacobian

MEAN_SQUARE = r"mean of $\|\nabla F(\theta_t)\|^2$ over $t < T$"
_COLOURS = sns.color_palette("colorblind")
_MARKERS = "osD^vPX"
_BOUND_STYLES = ((0, (1, 1)), (0, (5, 2)), "-")


def rates(
    measured: Mapping[str, Rate], bounds: Mapping[str, Sequence[float]] | None = None, guide: bool = True
) -> Figure:
    """Each rate with its 95% intervals and exponent; bounds, a value a horizon, as grey lines above them.

    guide  also draw T^(-1/2) below the first rate
    """
    with sns.axes_style("ticks"):
        figure, ax = plt.subplots(figsize=(8.6, 4.2), layout="constrained")
        for index, (name, rate) in enumerate(measured.items()):
            slope = rate.slope
            ax.errorbar(
                rate.horizons,
                rate.mean.tolist(),
                rate.interval.tolist(),
                marker=_MARKERS[index % len(_MARKERS)],
                markersize=4.5,
                capsize=2,
                linewidth=1.3,
                color=_COLOURS[index % len(_COLOURS)],
                label=rf"{name}: $T^{{{slope.value:.2f} \pm {slope.interval:.2f}}}$",
            )
        horizons = np.array(next(iter(measured.values())).horizons, dtype=float)
        for index, (name, values) in enumerate((bounds or {}).items()):
            ax.plot(horizons, list(values), color="0.35", linestyle=_BOUND_STYLES[index % 3], linewidth=1.3, label=name)
        if guide:
            lowest = min(float(rate.mean[0]) for rate in measured.values())
            ax.plot(horizons, 0.7 * lowest * (horizons / horizons[0]) ** -0.5, color="0.7", linewidth=1)
            ax.annotate(
                r"$T^{-1/2}$",
                (horizons[-1], 0.7 * lowest * (horizons[-1] / horizons[0]) ** -0.5),
                xytext=(4, -4),
                textcoords="offset points",
                color="0.5",
            )
        ax.set(xscale="log", yscale="log", xlabel="horizon T (a run each)", ylabel=MEAN_SQUARE)
        ax.set_xticks(horizons, [f"{horizon:g}" for horizon in horizons])
        ax.minorticks_off()
        ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
        sns.despine(figure)
    return figure


def fixed_steps(traces: Mapping[str, Tensor], bounds: Mapping[str, float]) -> Figure:
    """Running means of ||grad F||^2 with fixed steps: [T, R] a variant, and where (with T -> infinity) a bound ends."""
    with sns.axes_style("ticks"):
        figure, ax = plt.subplots(figsize=(8.6, 3.8), layout="constrained")
        for index, (name, squares) in enumerate(traces.items()):
            steps = np.arange(1, len(squares) + 1)
            mean = np.cumsum(squares.mean(1).numpy()) / steps
            ax.plot(steps, mean, color=_COLOURS[index % len(_COLOURS)], linewidth=1.4, label=name)
        for index, (name, value) in enumerate(bounds.items()):
            ax.axhline(value, color="0.35", linestyle=_BOUND_STYLES[index % 3], linewidth=1.3, label=name)
        ax.set(xscale="log", yscale="log", xlabel="horizon T", ylabel=MEAN_SQUARE)
        ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
        sns.despine(figure)
    return figure


def floors(panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]) -> Figure:
    """Floors over one setting a panel: x label -> {curve: (x, ||grad F||^2)}, each with its exponent."""
    with sns.axes_style("ticks"):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(3.1 * len(panels), 3.1), squeeze=False, sharey=True, layout="constrained"
        )
        for ax, (label, curves) in zip(axes[0], panels.items(), strict=True):
            for index, (name, (x, y)) in enumerate(curves.items()):
                ax.plot(
                    x,
                    y,
                    marker=_MARKERS[index],
                    markersize=4.5,
                    color=_COLOURS[index],
                    label=f"{name}: exponent {exponent(x, y):.2f}",
                )
            ax.set(xscale="log", yscale="log", xlabel=label)
            ax.set_xticks(list(x), [f"{value:g}" for value in x])
            ax.minorticks_off()
            ax.legend(frameon=False, fontsize="small", loc="lower right")
        axes[0, 0].set_ylabel(r"$\|\nabla F\|^2$ where $E\,h = 0$")
        sns.despine(figure)
    return figure


def lemma3(draws: Lemma3) -> Figure:
    """How much of the right side of Eq. 31 the left side is, over random draws: psi independent of xi, and psi = xi."""
    with sns.axes_style("ticks"):
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, sharex=True, layout="constrained")
        _ratios(axes[0], "Eq. 31", draws.independent / draws.printed, 0)
        _ratios(axes[0], "without its factors 2", draws.independent / draws.sharper, 1)
        axes[0].set_title(r"$\psi$ independent of $\xi$", fontsize="medium")
        _ratios(axes[1], "Eq. 31", draws.one_batch / draws.printed, 0)
        _ratios(axes[1], r"$\|\nabla F - E h\|^2$ and its bound", draws.bias / draws.bias_bound, 2)
        axes[1].set_title(r"one batch: $\psi = \xi$", fontsize="medium")
        for ax in axes:
            ax.axvline(1, color="0.3", linewidth=1)
            ax.set(xscale="log", xlabel="left side / right side")
            ax.legend(frameon=False, fontsize="small", loc="upper left")
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
            left.plot(x, y, marker=_MARKERS[index], markersize=4.5, color=_COLOURS[index], label=name)
        left.set(xlabel=r"$\alpha_{\mathrm{up}}$", ylabel="bias of one batch")
        lengths = [jacobian.gradient for jacobian in jacobians]
        for index, (field, name) in enumerate(
            (("through", r"through $\epsilon_m$"), ("constant", r"$\epsilon_m$ constant"))
        ):
            norms = [getattr(jacobian, field) for jacobian in jacobians]
            middle.plot(lengths, norms, marker=_MARKERS[index], markersize=4.5, color=_COLOURS[index + 2], label=name)
        middle.set(xlabel=r"$\|\nabla L(\theta; D)\|$", ylabel=r"$\|\partial\theta' / \partial\theta\|$")
        right.plot(*drift, marker="o", markersize=4.5, color=_COLOURS[4], label=f"exponent {exponent(*drift):.2f}")
        right.set(xlabel=r"inner_lr, $\beta_{\mathrm{low}}$", ylabel="distance from ERM's minimiser")
        for ax in (left, middle, right):
            ax.set(xscale="log", yscale="log")
            ax.legend(frameon=False, fontsize="small")
        sns.despine(figure)
    return figure


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
        label=f"{name}: at most {values.max():.2g}, above 1 in {above:.1%}",
    )
