"""Sliders: what is drawn and read out in the browser is what the core computes at the sliders' values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import PHONE, WIDE, complaints, launched, opened
from drawn import PIXEL, Drawn, read
from playwright.sync_api import Browser, Locator, Page

from sharp_maml_core.landscape import scenes, walks
from sharp_maml_core.landscape.scenes import Scene
from sharp_maml_core.theory import census, zoo
from sharp_maml_core.theory.experiments import paper_experiments
from sharp_maml_core.theory.lemma1 import composed

pytestmark = pytest.mark.timeout(1800)  # one of them builds the whole book, while others wait for it

FIGURES = ("lemma1-double-well", "bounds", "alpha-double-well", "alpha-conv4")
COORDINATE, LOSS = 5.1e-4, 5.1e-4  # exported with 3 decimals, and with 4 significant digits


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(browser: Browser, html: Path) -> Iterator[Page]:
    context = browser.new_context(viewport=WIDE)
    page = opened(context)
    heard = complaints(page)
    page.goto((html / "try.html").as_uri())
    yield page
    assert heard == []
    context.close()


def figure(page: Page, name: str) -> Locator:
    return page.locator(f".sliders:has(#sliders-{name})")


def numbers(root: Locator) -> dict[str, Any]:
    return json.loads(root.locator("script").text_content() or "")


def move(root: Locator, **positions: int) -> Drawn:
    for name, position in positions.items():
        root.locator(f"input[name={name}]").fill(str(position))
    return read(root)


@pytest.mark.parametrize("name", FIGURES)
def test_without_javascript_one_sees_what_it_draws_at_first(
    name: str, page: Page, browser: Browser, html: Path
) -> None:
    context = browser.new_context(viewport=PHONE, java_script_enabled=False)
    still = opened(context)
    still.goto((html / "try.html").as_uri())
    root = figure(still, name)
    assert root.get_by_role("img").is_visible()
    assert not root.locator("input").first.is_visible()
    assert root.get_by_text("With JavaScript there are sliders here.").is_visible()
    live = figure(page, name)
    assert not live.get_by_text("With JavaScript there are sliders here.").is_visible()
    first = {str(i.get_attribute("name")): int(i.get_attribute("value") or "") for i in live.locator("input").all()}
    assert len(read(root).layer) > 2
    assert read(root) == move(live, **first)
    context.close()


@pytest.mark.parametrize("name", FIGURES)
def test_the_axes_say_where_numbers_lie(name: str, page: Page) -> None:
    drawn = read(figure(page, name))
    superscripts = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹−", "-0123456789-")
    left, _, _, bottom = drawn.box()
    seen = 0
    for text, x, y in drawn.texts:
        if x is None or y is None or "(" in text or not text[-1].isnumeric():
            continue
        value = (
            10.0 ** float(text[2:].translate(superscripts))
            if text[-1] in "⁰¹²³⁴⁵⁶⁷⁸⁹"
            else float(text.translate(superscripts))
        )
        below = float(y) > bottom + 10
        place = [float(x), bottom] if below else [left, float(y) - 5]  # a number stands 5 below the middle of its mark
        found = drawn.numbers([place])[0, 0 if below else 1]
        per, log = drawn.scale()[0 if below else 1], ("x" if below else "y") in drawn.axes["log"]
        assert found == pytest.approx(value, rel=0.06 / per if log else 0, abs=0 if log else 0.06 / per)  # 1 decimal
        seen += 1
    assert seen >= 8


@pytest.mark.parametrize("name", FIGURES)
def test_every_slider_moves_by_keys_and_says_so(name: str, page: Page) -> None:
    root = figure(page, name)
    for slider in root.get_by_role("slider").all():
        label, last = root.locator(f"label[for={slider.get_attribute('id')}]"), int(slider.get_attribute("max") or "")
        assert root.get_by_role("slider", name=label.inner_text(), exact=True).count() == 1
        slider.focus()
        seen = []
        for key, expected in [("Home", 0), ("ArrowRight", 1), ("ArrowUp", 2), ("ArrowLeft", 1), ("End", last)]:
            slider.press(key)
            assert slider.input_value() == str(expected)
            said = slider.get_attribute("aria-valuetext")
            assert said == root.locator(f"output[for={slider.get_attribute('id')}]").inner_text()
            seen.append((said, read(root).layer))
        assert seen[1] == seen[3]
        for one, other in [(0, 1), (1, 2), (2, 4)]:
            assert seen[one][0] != seen[other][0]
            assert seen[one][1] != seen[other][1]


def test_a_finger_moves_a_slider_on_a_phone(browser: Browser, html: Path) -> None:
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    page = opened(context)
    page.goto((html / "try.html").as_uri())
    for name in FIGURES:
        root = figure(page, name)
        slider = root.get_by_role("slider").first
        slider.scroll_into_view_if_needed()
        box, before = slider.bounding_box(), read(root)
        assert box is not None
        assert box["height"] >= 44
        assert 200 < box["width"] < 390
        page.touchscreen.tap(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2)
        assert int(slider.input_value()) / int(slider.get_attribute("max") or "") == pytest.approx(0.8, abs=0.06)
        assert read(root).layer != before.layer
        sizes = root.locator("svg text").evaluate_all("all => all.map((text) => text.getBoundingClientRect().height)")
        assert min(sizes) >= 11
    context.close()


@pytest.mark.parametrize("position", [0, 22, 59])
def test_lemma1_draws_the_census(position: int, page: Page) -> None:
    root, function = figure(page, "lemma1-double-well"), zoo.FUNCTIONS["double-well"]
    drawn, rate = move(root, inner_lr=position), numbers(root)["inner_lr"][position]
    found = census.census(function, rate)
    loss, after = function.loss, composed(function.loss, rate)
    # 5 significant digits, of the rate too, and places to 2 decimals
    near: dict[str, Any] = {"rtol": 2e-4, "atol": PIXEL / min(drawn.scale()) + 2e-5}
    for look, value in (("loss", loss), ("composed", after)):
        line = drawn.line(look)
        exact = torch.linspace(*function.box[0], len(line), dtype=torch.float64)[:, None]
        np.testing.assert_allclose(line[:, 0], exact[:, 0], **near)
        np.testing.assert_allclose(line[:, 1], torch.func.vmap(value)(exact), **near)
    for look, kept in (("shared", False), ("extra", True)):
        at = found.points.at[[extra is kept for extra in found.extra]]
        values = torch.func.vmap(after)(at) if len(at) else at[:, 0]
        np.testing.assert_allclose(drawn.circles(f"dot {look}"), torch.stack([at[:, 0], values], 1), **near)
    assert drawn.values == {"stationary": len(found.extra), "extra": found.n_extra}
    assert drawn.said == {name: str(int(value)) for name, value in drawn.values.items()}
    shown = root.locator("output").inner_text().split(" = ")
    assert float(shown[0]) == pytest.approx(rate, rel=5.1e-3)
    assert float(shown[1].split()[0]) == pytest.approx(rate * function.l1, rel=5.1e-3)


def test_lemma1_shows_that_new_points_appear_from_the_threshold_on(page: Page) -> None:
    root = figure(page, "lemma1-double-well")
    rates, l1 = numbers(root)["inner_lr"], zoo.FUNCTIONS["double-well"].l1
    counts = [move(root, inner_lr=i).values["extra"] for i in range(len(rates))]
    below = 1 - 1e-4  # at the threshold itself, as rounded, the ends of the box are such points
    assert {count for rate, count in zip(rates, counts, strict=True) if rate * l1 < below} == {0}
    assert min(count for rate, count in zip(rates, counts, strict=True) if rate * l1 >= below) == 2


@pytest.mark.parametrize(("size", "radius"), [(0, 40), (15, 20), (30, 7)])
def test_bounds_draw_theorem_2(size: int, radius: int, page: Page) -> None:
    root = figure(page, "bounds")
    drawn, data = move(root, n_images=size, alpha=radius), numbers(root)
    near = PIXEL / min(drawn.scale()) + 1e-6  # of a logarithm
    for j, experiment in enumerate(paper_experiments()):
        roots = experiment.with_images(data["n_images"][size], data["alpha"]).root
        line = drawn.line(f"experiment{j}")
        np.testing.assert_allclose(line[:, 0], data["alpha"], rtol=near)
        np.testing.assert_allclose(line[:, 1], roots, rtol=near)
        np.testing.assert_allclose(drawn.circles(f"dot experiment{j}"), [line[radius]], rtol=2 * near)
        assert drawn.values[f"root{j}"] == pytest.approx(roots[radius], rel=5e-6)  # 6 digits, of n and alpha too
        assert float(drawn.said[f"root{j}"]) == pytest.approx(roots[radius], rel=5.1e-3)
    shown = [float(text.replace(",", "")) for text in root.locator("output").all_inner_texts()]
    assert shown == pytest.approx([data["n_images"][size], data["alpha"][radius]], rel=5.1e-3)
    np.testing.assert_allclose(drawn.line("one")[:, 1], 1, rtol=near)


@pytest.mark.parametrize(
    ("name", "low", "up", "step"),
    [("double-well", 0, 0, 10), ("double-well", 1, 10, 3), ("double-well", 5, 16, 7), ("conv4", 2, 4, 5)],
)
def test_alpha_draws_the_walk(name: str, low: int, up: int, step: int, page: Page) -> None:
    root, scene = figure(page, f"alpha-{name}"), scenes.scene(name)
    drawn, data = move(root, alpha_low=low, alpha_up=up, step=step), numbers(root)
    radii = {"alpha_low": data["alphas_low"][low], "alpha_up": data["alphas_up"][up]}
    walk = walks.walk(scene, scene.config.replace(**radii))
    near = {"rtol": 0, "atol": COORDINATE + PIXEL / min(drawn.scale())}
    here = walk.outer[step].numpy()
    np.testing.assert_allclose(drawn.line("outer future"), walk.outer, **near)
    np.testing.assert_allclose(drawn.line("outer"), walk.outer[: step + 1], **near)
    np.testing.assert_allclose(drawn.line("inner"), walk.inner[step], **near)
    np.testing.assert_allclose(drawn.circles("dot outer")[-1], here, **near)
    np.testing.assert_allclose(drawn.circles("ball upper"), [here], **near)
    assert drawn.radius("ball upper") == pytest.approx(radii["alpha_up"], abs=near["atol"])
    twice = {"rtol": 0, "atol": 2 * near["atol"]}  # the sum of two rounded numbers
    if up:
        np.testing.assert_allclose(drawn.line("arrow upper"), [here, here + walk.upper[step].numpy()], **twice)
        assert float(walk.upper[step].norm()) == pytest.approx(radii["alpha_up"])
    if low:
        start = walk.inner[step, 0].numpy()
        np.testing.assert_allclose(drawn.line("arrow lower"), [start, start + walk.lower[step, 0].numpy()], **twice)
    assert sum("arrow" in str(kind) for kind, *_ in drawn.layer) == (up > 0) + (low > 0)
    read_out = {
        "query_loss": walk.query_loss[step, 0],
        "meta_loss": walk.meta_loss[step],
        "perturbed_loss": walk.perturbed_loss[step],
    }
    assert drawn.values == pytest.approx({key: float(loss) for key, loss in read_out.items()}, rel=LOSS)
    for key, loss in read_out.items():
        assert float(drawn.said[key]) == pytest.approx(float(loss), rel=5.1e-3)
    assert root.locator("output").all_inner_texts() == [f"{radii['alpha_up']:g}", f"{radii['alpha_low']:g}", str(step)]
    check_contours(drawn, scene, radii["alpha_low"])


@pytest.mark.parametrize("name", ["double-well", "conv4"])
def test_alpha_starts_where_the_page_speaks_of(name: str, page: Page) -> None:
    slider = figure(page, f"alpha-{name}").locator("input[name=alpha_low]")
    assert slider.get_attribute("value") == "0"
    assert numbers(figure(page, f"alpha-{name}"))["alphas_low"][0] == 0


def check_contours(drawn: Drawn, scene: Scene, alpha_low: float) -> None:
    """Along every line, the loss after adaptation is at its level, as far as a grid with straight lines can tell."""
    surface = walks.objective(scene, scene.config.replace(alpha_low=alpha_low), walks.grid(scene)).numpy()
    (lines,) = drawn.contours
    levels = [level for level, _ in lines]
    np.testing.assert_allclose(levels, np.quantile(surface, np.arange(1, 14) / 14), rtol=LOSS)
    low, high = np.array(scene.window).T
    for level, path in lines:
        places = [place.split(",") for place in path.replace("M", " ").replace("z", " ").split()]
        at = (drawn.numbers(places) - low) / (high - low) * (len(surface) - 1)
        corner = np.clip(np.floor(at).astype(int), 0, len(surface) - 2)
        u, v = (at - corner).T
        i, j = corner.T
        cell = np.stack([surface[i, j], surface[i, j + 1], surface[i + 1, j], surface[i + 1, j + 1]])
        value = np.stack([(1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v]) * cell
        off = value.sum(0) - level
        # Places to 1 decimal are half a hundredth of a cell; beyond that, four digits.
        allowed = 0.01 * np.ptp(cell, axis=0) + 2 * LOSS * np.abs(cell).max(0)
        on_the_frame = (np.isclose(at, 0, atol=0.01) | np.isclose(at, len(surface) - 1, atol=0.01)).any(1)
        assert (off[on_the_frame] < allowed[on_the_frame]).all()
        assert (np.abs(off[~on_the_frame]) < allowed[~on_the_frame]).all()
        assert (~on_the_frame).sum() > 10
