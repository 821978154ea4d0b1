r"""Scenes: a task whose parameters are two numbers, so that all that Sharp-MAML does can be seen on a plane.

A scene is the support and the query loss of one task as functions of a point. `walks` runs the core on it.

    double-well   closed forms, a sharp and a flat minimum equally deep; the query minima lie a little beside the
                  support minima, as few shots would have it
    conv4         the losses of a trained Conv4 on one 5-way 1-shot task, on a plane through its parameters
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch

from ..checks import check, one_of
from ..config import Config
from ..data import load_split, sample_episodes
from ..derivatives import gradient
from ..params import norm, scaled
from ..pretrained import load
from .directions import Mark, along, random_frame
from .plane import PlaneLoss, TwoBowls, spline
from .slices import Range, take_slice
from .surfaces import erm_surface, plain_maml, same_data


class Scene(NamedTuple):
    """One task on a plane. Coordinates are distances: a ball of radius alpha is a circle of radius alpha.

    support, query  the losses L(.; D) and L(.; D') as functions of the point
    axes            what the coordinates are
    window          what of the plane is worth showing, from and to along each axis
    marks           name -> coordinates of a point worth showing
    start           where the outer loop begins
    config          settings that suit it; `iterations` is the number of outer steps
    meaning         what one sees, and what one may conclude
    """

    name: str
    title: str
    support: PlaneLoss
    query: PlaneLoss
    axes: tuple[str, str]
    window: tuple[Range, Range]
    marks: dict[str, Mark]
    start: Mark
    config: Config
    meaning: str


STEPS = 12
PLANE = {"dtype": "float64", "device": "cpu", "task_map": "loop", "iterations": STEPS}
CHECKPOINT = "glyphs-maml-seed0"
WINDOW = ((-0.6, 2.4), (-1.5, 1.5))
POINTS = 25


def scene(name: str) -> Scene:
    """One of `SCENES`. Raises UserError, with what there is, for another name."""
    check("scene", name, one_of(*SCENES))
    return SCENES[name]()


def double_well() -> Scene:
    """Two round minima of loss 0 at distance 1, one with curvature 5.4 and one with 0.2.

    The pass between them is 0.25 from the sharp one and 0.75 from the flat one (see `TwoBowls`: 27 is 3 cubed).
    """
    sharp, flat = (5.4, 5.4), (0.2, 0.2)
    return Scene(
        name="double-well",
        title="A double well",
        support=TwoBowls(((0.0, 0.0), (1.0, 0.0)), (sharp, flat)),
        query=TwoBowls(((-0.05, 0.05), (0.95, -0.05)), (sharp, flat)),
        axes=("first parameter", "second parameter"),
        window=((-0.5, 1.6), (-0.7, 0.8)),
        marks={"sharp": (0.0, 0.0), "flat": (1.0, 0.0)},
        start=(-0.1, 0.6),
        config=Config(variant="both", inner_steps=1, outer_lr=1.0, alpha_low=0.0, alpha_up=0.05, **PLANE),
        meaning="",
    )


def conv4() -> Scene:
    return conv4_on_grid(POINTS)


@cache
def conv4_on_grid(points: int) -> Scene:
    r"""The losses of a trained Conv4 on a plane through its meta-parameters theta.

    The first axis is the direction of the task's own inner step, -grad L(theta; D); the second a filter-normalised
    random direction. Both have length 1 and stand at right angles, so coordinates are distances in parameter space.

    The losses of the network are computed on points x points of the plane, 15 query images, and interpolated: a smooth
    stand-in for a surface with kinks. Inside of the scene inner and outer steps stay in the plane: they follow the part
    of the gradient that lies in it. At theta that is all of the support gradient, so the first inner step is the
    network's own.
    """
    trained = load(CHECKPOINT)
    config = trained.config
    episode = sample_episodes(
        load_split(config.dataset, "test"),
        n_way=config.n_way,
        k_shot=config.k_shot,
        n_query=3,
        n_tasks=1,
        generator=torch.Generator().manual_seed(config.eval_seed),
    )
    learner = plain_maml(config, trained.model)
    support, query = erm_surface(learner, episode), erm_surface(learner, same_data(episode))
    slope = gradient(support, trained.params)
    (random,) = random_frame(trained.params, seed=0, n_axes=1).axes.values()
    frame = along(trained.params, {"inner step": scaled(slope, -1.0), "random": random})
    cuts = [
        take_slice(surface, frame, centre=f"{name} loss of Conv4", ranges=WINDOW, points=points, progress=True)
        for name, surface in (("support", support), ("query", query))
    ]
    losses = [spline(*(c.numpy() for c in cut.coordinates), cut.losses.double().numpy()) for cut in cuts]
    return Scene(
        name="conv4",
        title="A trained Conv4",
        support=losses[0],
        query=losses[1],
        axes=("along the inner step of the task", "along a random direction"),
        window=WINDOW,
        marks={"trained": (0.0, 0.0), "adapted": (config.inner_lr * float(norm(slope)), 0.0)},
        start=(-0.3, 1.0),
        config=config.replace(variant="both", outer_lr=0.1, alpha_low=0.0, alpha_up=0.05, **PLANE),
        meaning="",
    )


SCENES: dict[str, Callable[[], Scene]] = {"double-well": double_well, "conv4": conv4}
