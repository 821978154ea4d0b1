r"""A scene as compact JSON, for sliders in a page that cannot run the core: everything is computed beforehand.

One object, with coordinates rounded to 3 decimals and losses to 4 significant digits:

    format        "sharp-maml scene 1"
    name, title, note
    axes          what the two coordinates are
    window        [[from, to], [from, to]] of the first and of the second coordinate
    marks         name -> [x, y], points worth showing
    settings      inner_lr, inner_steps (S), outer_lr, outer_steps (T): the same for all that follows
    alphas_low, alphas_up
                  the radii there is a walk for; also the radii of the balls, in the unit of the coordinates
    support, query
                  [i][j], the losses on a regular grid over the window, i along the first coordinate
    objective     [l][i][j], F on that grid, the query loss after adaptation with alphas_low[l]
    walks         [l][u], the way of theta with alphas_low[l] and alphas_up[u], each
        outer           [T+1][2]       theta
        inner           [T+1][S][2]    the points after each inner step; the last is theta'
        lower           [T+1][S][2]    eps_m of each inner step (Eq. 11)
        upper           [T+1][2]       epsilon (Eq. 13)
        query_loss      [T+1]          before adaptation
        meta_loss       [T+1]          after it
        perturbed_loss  [T+1]          after it, from theta + epsilon
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from tqdm import tqdm

from ..evaluate import BAR_SECONDS
from ..files import write_text
from .scenes import Scene
from .walks import Walk, grid, losses, objective, walk

FORMAT = "sharp-maml scene 1"
ALPHAS_LOW = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
ALPHAS_UP = tuple(round(0.05 * i, 2) for i in range(21))


class Exported(NamedTuple):
    """What a file of `export` holds; the module says what each is."""

    format: str
    name: str
    title: str
    note: str
    axes: list[str]
    window: list[list[float]]
    marks: dict[str, list[float]]
    settings: dict[str, float]
    alphas_low: list[float]
    alphas_up: list[float]
    support: list[list[float]]
    query: list[list[float]]
    objective: list[list[list[float]]]
    walks: list[list[dict[str, Any]]]


def export(scene: Scene, path: str | Path | None = None) -> str:
    """The scene as JSON, under 300 KB; written to `path` too if there is one. The same scene gives the same bytes."""
    text = json.dumps(_exported(scene)._asdict(), separators=(",", ":"), allow_nan=False) + "\n"
    if path is not None:
        write_text(Path(path), text)
    return text


def _exported(scene: Scene) -> Exported:
    points = grid(scene)
    surfaces: list[Any] = []
    walks: list[list[dict[str, Any]]] = []
    with tqdm(
        total=len(ALPHAS_LOW) * len(ALPHAS_UP), desc=scene.name, unit="walk", leave=False, mininterval=BAR_SECONDS
    ) as bar:
        for alpha_low in ALPHAS_LOW:
            config = scene.config.replace(alpha_low=alpha_low)
            surfaces.append(_rounded(objective(scene, config, points), _loss))
            walks.append([])
            for alpha_up in ALPHAS_UP:
                walks[-1].append(_walk(walk(scene, config.replace(alpha_up=alpha_up))))
                bar.update()
    return Exported(
        format=FORMAT,
        name=scene.name,
        title=scene.title,
        note=scene.note,
        axes=list(scene.axes),
        window=[list(limits) for limits in scene.window],
        marks={name: [_coordinate(value) for value in mark] for name, mark in scene.marks.items()},
        settings={
            "inner_lr": scene.config.inner_lr,
            "inner_steps": scene.config.inner_steps,
            "outer_lr": scene.config.outer_lr,
            "outer_steps": scene.config.iterations,
        },
        alphas_low=list(ALPHAS_LOW),
        alphas_up=list(ALPHAS_UP),
        support=_rounded(losses(scene.support, points), _loss),
        query=_rounded(losses(scene.query, points), _loss),
        objective=surfaces,
        walks=walks,
    )


def _walk(found: Walk) -> dict[str, Any]:
    return {
        "outer": _rounded(found.outer, _coordinate),
        "inner": _rounded(found.inner[:, 1:], _coordinate),
        "lower": _rounded(found.lower, _coordinate),
        "upper": _rounded(found.upper, _coordinate),
        "query_loss": _rounded(found.query_loss[:, 0], _loss),
        "meta_loss": _rounded(found.meta_loss, _loss),
        "perturbed_loss": _rounded(found.perturbed_loss, _loss),
    }


def _rounded(values: Tensor, digits: Callable[[float], float]) -> Any:
    def of(nested: Any) -> Any:
        return [of(value) for value in nested] if isinstance(nested, list) else digits(nested)

    return of(values.tolist())


def _coordinate(value: float) -> float:
    return round(value, 3) + 0.0  # no -0.0


def _loss(value: float) -> float:
    return float(f"{value:.4g}")
