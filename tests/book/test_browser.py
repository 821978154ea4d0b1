"""The book as a reader meets it: opened from disk in Chromium, with nothing but its own files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from browser import PHONE, WIDE, complaints, launched, opened
from builder import BOOK

pytest.importorskip("axe_playwright_python", reason="the extra `dev` is not installed")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.timeout(1800)  # one of them builds the whole book, while others wait for it

SERIOUS = ("serious", "critical")
# Axe would fetch the style sheets once more by script, which no page may do that was opened from disk.
AXE = {"preload": False, "resultTypes": ["violations"]}


class Seen(NamedTuple):
    """What a page did in one window."""

    name: str
    complaints: list[str]  # of the console, and files that did not come
    requests: list[str]
    equations: int
    unset: int  # equations that MathJax did not render, or rendered as an error
    excess: int  # pixels to scroll sideways
    shade: float  # of the background, 0 black to 255 white
    violations: list[str]  # axe's serious ones, in what we wrote


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def seen(browser: Browser, html: Path) -> dict[str, list[Seen]]:
    """Every page in two windows: a wide light one and a phone in the dark. For listings of code the phone will do."""
    names = sorted(str(path.relative_to(html)) for path in html.rglob("*.html") if "_static" not in path.parts)
    names.remove("index.html")  # it leads on to the first page
    return {
        "wide": _read(
            browser.new_context(viewport=WIDE, color_scheme="light"),
            html,
            [name for name in names if not name.startswith("_modules")],
        ),
        "phone": _read(browser.new_context(viewport=PHONE, color_scheme="dark"), html, names),
    }


def _read(context: BrowserContext, html: Path, names: list[str]) -> list[Seen]:
    page = opened(context)
    heard = complaints(page)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    pages = []
    for name in names:
        heard.clear()
        requests.clear()
        page.goto((html / name).as_uri())
        pages.append(_look(page, name, heard, requests))
    context.close()
    return pages


def _look(page: Page, name: str, heard: list[str], requests: list[str]) -> Seen:
    equations = page.locator(".math").count()
    if equations:
        page.wait_for_function("() => window.MathJax?.startup?.promise")
        page.evaluate("async () => { await MathJax.startup.promise; }")
    rgb = page.evaluate("() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)")
    violations = _violations(page) if _is_ours(name) else []
    return Seen(
        name,
        list(heard),
        list(requests),
        equations,
        page.locator(".math:not(:has(mjx-container))").count() + page.locator("mjx-merror, [data-mjx-error]").count(),
        page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth"),
        sum(rgb) / 3,
        violations,
    )


def _is_ours(name: str) -> bool:
    return (BOOK / name).with_suffix(".md").is_file() or (BOOK / name).with_suffix(".ipynb").is_file()


def _violations(page: Page) -> list[str]:
    rules = Axe().run(page, context="article.bd-article", options=AXE).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:150]}" for rule in rules if rule["impact"] in SERIOUS for node in rule["nodes"]
    ]


@pytest.fixture(params=["wide", "phone"])
def window(request: pytest.FixtureRequest, seen: dict[str, list[Seen]]) -> list[Seen]:
    return seen[request.param]


def test_the_console_stays_clean(window: list[Seen]) -> None:
    assert {page.name: page.complaints for page in window if page.complaints} == {}


def test_pages_ask_for_their_own_files_only(window: list[Seen], html: Path) -> None:
    own = (html.as_uri(), "data:", "blob:")
    assert [(page.name, url) for page in window for url in page.requests if not url.startswith(own)] == []


def test_every_equation_is_set(window: list[Seen]) -> None:
    assert sum(page.equations for page in window) > 10
    assert {page.name: page.unset for page in window if page.unset} == {}


def test_no_page_scrolls_sideways(window: list[Seen]) -> None:
    assert {page.name: page.excess for page in window if page.excess > 0} == {}


def test_no_note_in_the_margin_lies_beyond_a_tablets_page(browser: Browser, html: Path) -> None:
    """On no width from a tablet to the first that has a margin."""
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    page, noted = opened(context), 0
    for path in sorted(html.glob("*.html")):
        if '<aside class="margin' in path.read_text(encoding="utf-8"):
            noted += 1
            page.goto(path.as_uri())
            assert page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth") <= 0, path.name
    assert noted
    context.close()


def test_axe_finds_nothing_serious_in_what_we_wrote(window: list[Seen]) -> None:
    assert {page.name: page.violations for page in window if page.violations} == {}


def test_dark_is_dark_and_light_is_light(seen: dict[str, list[Seen]]) -> None:
    assert all(page.shade > 200 for page in seen["wide"])
    assert all(page.shade < 60 for page in seen["phone"])


def test_the_search_finds_pages_from_disk(browser: Browser, html: Path) -> None:
    context = browser.new_context()
    page = opened(context)
    heard = complaints(page)
    page.goto(f"{(html / 'search.html').as_uri()}?q=sharpness")
    page.get_by_text("Search finished").wait_for()
    found = page.locator("#search-results a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert any(link.startswith("sam.html") for link in found)
    assert heard == []
    context.close()
