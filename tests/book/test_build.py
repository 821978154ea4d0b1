"""The book builds without a warning, and asks nothing of the network."""

from __future__ import annotations

import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from builder import BOOK, build


class _Page(HTMLParser):
    """What a page loads, where it points, and where it can be pointed to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link":
            self.loads.append(given.get("href", ""))
        for name in ("src", "srcset", "data", "poster"):
            if name in given:
                self.loads.append(given[name])


@pytest.fixture(scope="module")
def pages(html: Path) -> dict[Path, _Page]:
    return {path: _Page(path) for path in html.rglob("*.html") if "_static" not in path.parts}


def test_every_page_of_the_contents_is_there(html: Path):
    contents = yaml.safe_load((BOOK / "_toc.yml").read_text())

    def names(entry: dict) -> list[str]:
        below = [child for key in ("parts", "chapters", "sections") for child in entry.get(key, [])]
        here = [entry[key] for key in ("root", "file") if key in entry]
        return here + [name for child in below for name in names(child)]

    listed = names(contents)
    assert {"intro", "torchmeta"} <= set(listed)
    for name in [*listed, "index", "search", "genindex"]:
        assert (html / f"{name}.html").is_file(), name
    written = {str(path.relative_to(BOOK).with_suffix("")) for path in BOOK.glob("*.md")}
    assert written <= set(listed), "a page that nobody can reach"


def test_nothing_is_loaded_from_elsewhere(html: Path, pages: dict[Path, _Page]):
    for path, page in pages.items():
        for address in page.loads:
            assert not urlsplit(address).netloc, f"{path.name} loads {address}"
            if address and not address.startswith(("data:", "#")):
                target = path.parent / unquote(urlsplit(address).path)
                assert target.is_file(), f"{path.name} loads {address}, which is not there"
        assert "thebe" not in path.read_text(encoding="utf-8").lower()
    for sheet in html.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


def test_formulas_are_set_by_the_mathjax_beside_the_pages(html: Path, pages: dict[Path, _Page]):
    assert (html / "_static/mathjax/tex-svg.js").stat().st_size > 1_000_000
    assert any("_static/mathjax/tex-svg.js" in address for address in pages[html / "intro.html"].loads)


def test_links_inside_the_book_lead_somewhere(html: Path, pages: dict[Path, _Page]):
    for path, page in pages.items():
        for link in page.links:
            address = urlsplit(link)
            if address.scheme or address.netloc or not link.strip("#"):
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            assert target.is_file(), f"{path.name} points to {link}"
            if address.fragment and target in pages:
                assert unquote(address.fragment) in pages[target].anchors, f"{path.name} points to {link}"


def test_pages_say_whose_they_are(html: Path):
    text = (html / "intro.html").read_text(encoding="utf-8")
    assert "_static/favicon.svg" in text
    assert re.search(r"Copyright\s+2026, the Sharp-MAML companion authors", text)
    assert 'data-default-mode="auto"' in text


def test_a_reference_to_nowhere_fails_the_build(tmp_path: Path):
    broken = tmp_path / "book"
    shutil.copytree(BOOK, broken, ignore=shutil.ignore_patterns("_build", "notebooks"))
    for other in broken.glob("*.md"):
        if other.name not in ("intro.md", "torchmeta.md", "bibliography.md"):
            other.unlink()
    contents = {"format": "jb-book", "root": "intro", "chapters": [{"file": "torchmeta"}, {"file": "bibliography"}]}
    (broken / "_toc.yml").write_text(yaml.safe_dump(contents))
    with (broken / "intro.md").open("a") as page:
        page.write("\n[gone](nowhere.md)\n")
    run, _ = build(broken, tmp_path / "out")
    assert run.returncode != 0
    assert "nowhere.md" in run.stdout + run.stderr


def test_notebooks_are_reached_through_a_link():
    link = BOOK / "notebooks"
    assert link.is_symlink()
    assert os.readlink(link) == "../notebooks"
    assert link.is_dir()
