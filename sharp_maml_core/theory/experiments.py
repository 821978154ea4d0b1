"""What Theorem 2 needs to know of an experiment: how many parameters, how long they are, how much data."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..checks import ABOVE_ZERO, PROBABILITY, at_least, check
from ..config import Config
from ..data.benchmarks import expected_classes
from ..data.split import ImageSplit
from ..errors import invalid
from ..learners import build_learner
from ..models import Conv4
from ..params import Params, all_finite
from ._numbers import numbers
from .generalization import Bound, repaired, theorem2

ALPHAS = (0.05, 0.005, 0.0005, 0.00005)  # the paper's grid, Section 5.1
DELTA = 0.05


class Experiment(NamedTuple):
    """A meta-learner and what it was trained on.

    n_params   k, all parameters; norm  ||theta||
    n_images   of the meta-training split; n_classes  likewise
    n_way      classes of a task
    """

    name: str
    n_params: int
    norm: float
    n_images: int
    n_classes: int
    n_way: int

    @property
    def n_disjoint_tasks(self) -> int:
        """How many tasks there are without a class in common: as many can be independent of each other."""
        return self.n_classes // self.n_way

    def at(self, alpha: ArrayLike, delta: float = DELTA) -> Bound:
        """(18) for a radius, counting all images, with empirical loss and gamma_A taken as 0."""
        return self.with_images(self.n_images, alpha, delta)

    def with_images(self, n_images: ArrayLike, alpha: ArrayLike = ALPHAS[0], delta: float = DELTA) -> Bound:
        """(18) if there were this number of images."""
        return theorem2(alpha, self.n_params, n_images, 1, delta, self.norm)

    def with_tasks(self, n_tasks: ArrayLike, alpha: ArrayLike = ALPHAS[0], delta: float = DELTA) -> Bound:
        """`generalization.repaired` for this number of independent tasks, with an empirical loss of 0."""
        return repaired(alpha, self.n_params, n_tasks, delta, self.norm)


def experiment(name: str, params: Params, n_images: int, n_classes: int, n_way: int) -> Experiment:
    """Measure parameters: trained ones, or an initialisation. The norm is taken in float64.

    Raises UserError for no parameters, parameters that are not finite, or counts below 1.
    """
    if not params or not all_finite(params):
        raise invalid("params", sorted(params), "at least one tensor, of finite numbers")
    for argument, count in {"n_images": n_images, "n_classes": n_classes, "n_way": n_way}.items():
        check(argument, count, at_least(1))
    n_params = sum(value.numel() for value in params.values())
    squares = sum(float((value.detach().double() ** 2).sum()) for value in params.values())
    return Experiment(name, n_params, math.sqrt(squares), n_images, n_classes, n_way)


def on_split(name: str, params: Params, split: ImageSplit, n_way: int) -> Experiment:
    """An experiment whose meta-training data are a loaded split."""
    return experiment(name, params, int(split.counts.sum()), len(split.counts), n_way)


def paper_experiments(seed: int = 0) -> tuple[Experiment, Experiment]:
    """The paper's two data sets with its Conv4 as it is initialised: mini-ImageNet 5-way and Omniglot 20-way.

    mini-ImageNet has 600 images of a class (Vinyals et al. 2016), Omniglot 20 (Lake et al. 2015).
    """
    return (
        _initialised("mini-ImageNet, 5-way", "miniimagenet", (3, 84, 84), 600, 5, seed),
        _initialised("Omniglot, 20-way", "omniglot", (1, 28, 28), 20, 20, seed),
    )


def _initialised(
    name: str, dataset: str, image_shape: tuple[int, int, int], images_of_a_class: int, n_way: int, seed: int
) -> Experiment:
    learner = build_learner(Config(n_way=n_way, device="cpu"), Conv4(image_shape, n_way))
    params = learner.init(torch.Generator().manual_seed(seed))
    n_classes = expected_classes(dataset, "train")
    return experiment(name, params, n_classes * images_of_a_class, n_classes, n_way)


def slider(
    experiments: tuple[Experiment, ...], alphas: ArrayLike, sizes: ArrayLike, delta: float = DELTA
) -> dict[str, Any]:
    """(18) on a grid, for a page that has no Python: plain lists, fit for JSON, to six significant digits.

    experiments  from `experiment`, `on_split` or `paper_experiments`; alphas  [A]; sizes  [S], images nM

    Gives alpha [A], n_images [S], delta, what the root contains whatever the experiment, "confidence" and "logarithm"
    [S], and for each experiment name, n_params, norm_of_theta, n_images, and [A, S] "norm", its part in the root, and
    "root". Raises UserError as `theorem2` does, and for grids that are not one-dimensional.
    """
    check("delta", delta, PROBABILITY)
    grids = {"alphas": numbers("alphas", alphas, ABOVE_ZERO), "sizes": numbers("sizes", sizes, at_least(1))}
    for argument, grid in grids.items():
        if grid.ndim != 1:
            raise invalid(argument, f"an array of shape {grid.shape}", "one-dimensional")
    if not experiments:
        raise invalid("experiments", experiments, "at least one")
    size = grids["sizes"]
    bounds = [one.with_images(size, grids["alphas"][:, None], delta) for one in experiments]  # [A, S] each
    return {
        "alpha": _plain(grids["alphas"]),
        "n_images": _plain(size),
        "delta": delta,
        "confidence": _plain(bounds[0].confidence[0]),
        "logarithm": _plain(bounds[0].logarithm[0]),
        "experiments": [
            {
                "name": one.name,
                "n_params": one.n_params,
                "norm_of_theta": one.norm,
                "n_images": one.n_images,
                "norm": [_plain(row) for row in bound.norm],
                "root": [_plain(row) for row in bound.root],
            }
            for one, bound in zip(experiments, bounds, strict=True)
        ],
    }


def _plain(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
