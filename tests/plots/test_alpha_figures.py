"""The figure of a scene shows its walk, and brings itself up to date as if it were drawn anew."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.quiver import Quiver
from PIL import Image

from sharp_maml_core import Config
from sharp_maml_core.landscape.scenes import double_well
from sharp_maml_core.landscape.walks import Walk, grid, walk_and_objective
from sharp_maml_core.plots.alpha import FLOOR, ScenePicture, scene_figure

WELL = double_well()
BOTH = WELL.config.replace(alpha_low=0.2, alpha_up=0.4, inner_steps=2)
MAML = WELL.config.replace(alpha_low=0.0, alpha_up=0.0)


def drawn(config: Config, picture: ScenePicture) -> Walk:
    walk, objective = walk_and_objective(WELL, config, grid(WELL))
    picture.show(config, walk, objective)
    return walk


def circles(ax: Axes) -> list[np.ndarray]:
    paths = [path for lines in ax.collections if isinstance(lines, LineCollection) for path in lines.get_paths()]
    return [path.vertices for path in paths if len(path) > 60]  # inner paths are shorter


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png))).astype(int)


def drawn_in_full(picture: ScenePicture) -> np.ndarray:
    file = io.BytesIO()
    picture.figure.savefig(file, format="png", dpi=picture.figure.dpi)
    return pixels(file.getvalue())[..., :3]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_the_figure_shows_the_walk_where_it_went() -> None:
    walk, objective = walk_and_objective(WELL, BOTH, grid(WELL))
    outer, inner, along = scene_figure(WELL, BOTH, walk, objective).axes
    assert any(np.array_equal(line.get_xydata(), walk.outer) for line in outer.lines)
    assert np.array_equal(outer.images[0].get_array(), objective.T)
    (arrows,) = (artist for artist in outer.collections if isinstance(artist, Quiver))
    assert np.array_equal(arrows.get_offsets(), walk.outer)
    assert np.array_equal(np.stack([arrows.U, arrows.V], 1), walk.upper)
    for row in (0, -1):
        assert any(np.array_equal(line.get_xydata(), walk.inner[row]) for line in inner.lines)
    (arrows,) = (artist for artist in inner.collections if isinstance(artist, Quiver))
    assert np.array_equal(arrows.get_offsets(), walk.inner[[0, -1], :-1].reshape(-1, 2))
    assert np.array_equal(np.stack([arrows.U, arrows.V], 1), walk.lower[[0, -1]].reshape(-1, 2))
    for line, values in zip(along.lines, (walk.query_loss[:, 0], walk.meta_loss, walk.perturbed_loss), strict=True):
        assert np.array_equal(line.get_ydata(), values.clamp(min=FLOOR / 10))


def test_the_ball_has_the_radius_in_the_unit_of_the_axes() -> None:
    walk, objective = walk_and_objective(WELL, BOTH, grid(WELL))
    outer, inner, _ = scene_figure(WELL, BOTH, walk, objective).axes
    for ax, alpha, centres in ((outer, 0.4, walk.outer), (inner, 0.2, walk.inner[:, 0])):
        for circle, centre in zip(circles(ax), centres[[0, -1]].numpy(), strict=True):
            np.testing.assert_allclose(np.linalg.norm(circle - centre, axis=1), alpha, rtol=1e-12)
        assert ax.get_aspect() == 1


def test_without_radii_there_is_no_arrow_and_no_ball() -> None:
    picture = ScenePicture(WELL)
    drawn(BOTH, picture)
    drawn(MAML, picture)
    for ax in picture.figure.axes[:2]:
        assert not any(isinstance(artist, Quiver) for artist in ax.collections)
        assert not circles(ax)


def test_what_is_brought_up_to_date_is_what_a_full_drawing_shows() -> None:
    picture = ScenePicture(WELL)
    drawn(MAML, picture)
    first = pixels(picture.png())
    drawn(BOTH, picture)
    second = pixels(picture.png())
    changed = np.abs(second - first).max(-1) > 8
    assert 0.02 < changed.mean() < 0.5
    off = np.abs(second - drawn_in_full(picture)).max(-1) > 8
    assert off.mean() < 0.002  # a few pixels of axes that a line is drawn over, or under


def test_the_way_back_gives_the_first_picture_to_the_last_byte() -> None:
    picture = ScenePicture(WELL)
    drawn(MAML, picture)
    first = picture.png()
    drawn(BOTH, picture)
    assert picture.png() != first
    drawn(MAML, picture)
    assert picture.png() == first


def test_a_move_draws_no_contours(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = ScenePicture(WELL)
    drawn(MAML, picture)
    picture.png()

    def refuse(self: FigureCanvasAgg) -> None:
        raise AssertionError("the whole figure was drawn")

    monkeypatch.setattr(FigureCanvasAgg, "draw", refuse)
    drawn(BOTH, picture)
    picture.png()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"alpha_low": 0.0, "alpha_up": 0.0}, "MAML"),
        ({"alpha_low": 0.1, "alpha_up": 0.0}, "Sharp-MAML low"),
        ({"alpha_low": 0.0, "alpha_up": 0.1}, "Sharp-MAML up"),
        ({"alpha_low": 0.1, "alpha_up": 0.1}, "Sharp-MAML both"),
        ({"variant": "up", "alpha_low": 0.1, "alpha_up": 0.1}, "Sharp-MAML up"),
    ],
)
def test_the_title_names_the_method_that_the_radii_make(changes: dict[str, object], name: str) -> None:
    picture = ScenePicture(WELL)
    drawn(WELL.config.replace(**changes), picture)
    assert f": {name}, " in picture.figure.axes[0].texts[0].get_text()
