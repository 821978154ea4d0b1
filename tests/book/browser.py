"""The browser that the tests read the book in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("playwright", reason="the extra `dev` is not installed")
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, sync_playwright

WIDE: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",  # in a container it is root who runs this
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def executable() -> str:
    """CHROMIUM, or the first on the PATH. Without one, tests skip and say so; in CI they fail."""
    given = os.environ.get("CHROMIUM")
    found = next(filter(None, map(shutil.which, [given] if given else NAMES)), None)
    if found is None:
        missing = f"there is no browser {given or ' or '.join(NAMES)}; on Debian: apt-get install chromium"
        if given or os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@contextmanager
def launched() -> Iterator[Browser]:
    """One browser for the tests of a file."""
    path = executable()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def opened(context: BrowserContext) -> Page:
    """A page that waits for as long as a busy machine may take."""
    page = context.new_page()
    page.set_default_timeout(120_000)
    return page


def complaints(page: Page) -> list[str]:
    """What goes wrong from now on: errors and warnings of the console, of scripts, files that did not come."""
    heard: list[str] = []
    page.on("console", lambda said: heard.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("requestfailed", lambda request: heard.append(f"failed: {request.url}"))
    return heard
