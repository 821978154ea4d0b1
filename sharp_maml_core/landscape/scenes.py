r"""Scenes: a task whose parameters are two numbers, so that all that Sharp-MAML does can be seen on a plane.

A scene is the support and the query loss of one task as functions of a point. `walks` runs the core on it.

    double-well   closed forms, a sharp and a flat minimum equally deep; the query minima lie a little beside the
                  support minima, as few shots would have it
    conv4         the losses of a trained Conv4 on one 5-way 1-shot task, on a plane through its parameters
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch

from ..checks import check, one_of
from ..config import Config
from ..data import load_split, sample_episodes
from ..derivatives import gradient
from ..episode import Episode
from ..params import norm, scaled
from ..pretrained import Pretrained, load
from .directions import Frame, Mark, along, random_frame
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
    note            what one is looking at
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
    note: str


PLANE: dict[str, Any] = {"dtype": "float64", "device": "cpu", "iterations": 10}
CHECKPOINT = "glyphs-maml-seed0"
PRECISION = torch.float64  # in float32 the last digits that `export` writes would depend on the processor
WINDOW = ((-0.6, 2.4), (-1.5, 1.5))
POINTS = 25  # an axis: at 100 random points the spline was then off by at most 0.02


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
        query=TwoBowls(((-0.03, 0.04), (0.97, -0.04)), (sharp, flat)),
        axes=("first parameter", "second parameter"),
        window=((-0.6, 1.6), (-0.6, 0.9)),
        marks={"sharp": (0.0, 0.0), "flat": (1.0, 0.0)},
        start=(-0.3, 0.7),
        config=Config(variant="both", inner_steps=1, outer_lr=0.7, alpha_low=0.0, alpha_up=0.05, **PLANE),
        note=(
            "Both minima have loss 0, one is 27 times as curved as the other. The query minima lie 0.05 beside the "
            "support minima, as few shots would have it."
        ),
    )


@cache
def conv4(points: int = POINTS) -> Scene:
    """The losses of a trained Conv4 on one task, on `conv4_plane`; drawn from a grid of points x points by a spline.

    Inside of the scene inner and outer steps stay in the plane: they follow the part of the gradient that lies in it.
    At the trained parameters that is all of the support gradient, so there the inner step is the network's own.
    """
    trained, task, frame = conv4_plane()
    learner = plain_maml(trained.config, trained.model)
    support, query = (
        take_slice(
            erm_surface(learner, data), frame, centre=f"{name} loss", ranges=WINDOW, points=points, progress=True
        )
        for name, data in (("support", task), ("query", same_data(task)))
    )
    return Scene(
        name="conv4",
        title="A trained Conv4",
        support=spline(support.coordinates, support.losses),
        query=spline(query.coordinates, query.losses),
        axes=("along the inner step of the task", "along a random direction"),
        window=WINDOW,
        marks=frame.marks,
        start=(-0.3, 1.0),
        config=trained.config.replace(variant="both", outer_lr=0.1, alpha_low=0.0, alpha_up=0.05, **PLANE),
        note=(
            "Two of a network's dimensions: the direction of this task's inner step, and a random one. In the narrow "
            "valley around the trained point one inner step is all it takes; in the wide basin beyond the ridge theta "
            "fits this one task already. Between the points of a grid the losses are a spline."
        ),
    )


@cache
def conv4_plane() -> tuple[Pretrained, Episode, Frame]:
    """A trained network, a test task with 15 query images, and a plane through the network's parameters theta.

    The first axis is the direction of the task's own inner step, -grad L(theta; D); the second a filter-normalised
    random direction. Both have length 1 and are at right angles, so coordinates are distances in parameter space.
    """
    trained = load(CHECKPOINT, dtype=PRECISION)
    task = sample_episodes(
        load_split(trained.config.dataset, "test"),
        n_way=trained.config.n_way,
        k_shot=trained.config.k_shot,
        n_query=3,
        n_tasks=1,
        generator=torch.Generator().manual_seed(trained.config.eval_seed),
        dtype=PRECISION,
    )
    learner = plain_maml(trained.config, trained.model)
    slope = gradient(erm_surface(learner, task), trained.params)
    (random,) = random_frame(trained.params, seed=0, n_axes=1).axes.values()
    frame = along(trained.params, {"inner step": scaled(slope, -1.0), "random": random})
    marks: dict[str, Mark] = {"trained": (0.0, 0.0), "adapted": (trained.config.inner_lr * float(norm(slope)), 0.0)}
    return trained, task, frame._replace(marks=marks)


SCENES: dict[str, Callable[[], Scene]] = {"double-well": double_well, "conv4": conv4}
