"""The book as a reader meets it: opened from disk in Chromium, with nothing but its own files.

They run where CHROMIUM says which browser to take, as in CHROMIUM=/usr/bin/chromium, and skip elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from builder import BOOK

pytest.importorskip("playwright", reason="the extra `dev` is not installed")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

WIDE: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
SERIOUS = ("serious", "critical")


def _chromium() -> str:
    found = os.environ.get("CHROMIUM")
    if not found:
        pytest.skip("CHROMIUM does not say where a browser is")
    return found


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


def _open(browser: Browser, html: Path, name: str, size: ViewportSize, scheme: Literal["light", "dark"]) -> Seen:
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    page.goto((html / name).as_uri())
    equations = page.locator(".math").count()
    if equations:
        page.wait_for_function("() => window.MathJax && MathJax.startup && MathJax.startup.promise")
        page.evaluate("async () => { await MathJax.startup.promise; }")
    rgb = page.evaluate("() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)")
    seen = Seen(
        name,
        complaints,
        requests,
        equations,
        page.locator(".math:not(:has(mjx-container))").count() + page.locator("mjx-merror, [data-mjx-error]").count(),
        page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth"),
        sum(rgb) / 3,
        _violations(page) if _is_ours(name) else [],
    )
    context.close()
    return seen


def _is_ours(name: str) -> bool:
    return (BOOK / name).with_suffix(".md").is_file() or (BOOK / name).with_suffix(".ipynb").is_file()


def _violations(page: Page) -> list[str]:
    rules = Axe().run(page, context="article.bd-article").response["violations"]
    return [
        f"{rule['id']}: {node['html'][:150]}" for rule in rules if rule["impact"] in SERIOUS for node in rule["nodes"]
    ]


@pytest.fixture(scope="module")
def seen(html: Path) -> dict[str, list[Seen]]:
    """Every page in two windows: a wide light one and a phone in the dark."""
    names = sorted(str(path.relative_to(html)) for path in html.rglob("*.html") if "_static" not in path.parts)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=["--no-sandbox", "--disable-gpu"])
        return {
            "wide": [_open(browser, html, name, WIDE, "light") for name in names],
            "phone": [_open(browser, html, name, PHONE, "dark") for name in names],
        }


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


def test_axe_finds_nothing_serious_in_what_we_wrote(window: list[Seen]) -> None:
    assert {page.name: page.violations for page in window if page.violations} == {}


def test_dark_is_dark_and_light_is_light(seen: dict[str, list[Seen]]) -> None:
    assert all(page.shade > 200 for page in seen["wide"])
    assert all(page.shade < 60 for page in seen["phone"])
