"""The book builds without a warning, and asks nothing of the network."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from builder import BOOK, ROOT, build

sys.path.insert(0, str(BOOK / "_ext"))
import repository

from sharp_maml_core import groups, published

pytestmark = pytest.mark.timeout(1800)  # one of them builds the whole book, while others wait for it

EXECUTED = ("lemma1", "training", "landscapes", "convergence", "generalisation", "alpha")


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


def test_equations_have_the_papers_numbers_and_lead_to_code_and_tests(html: Path):
    for path in sorted(BOOK.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        for label in re.finditer(r"^\(eq-(\w+)\)=$", text, re.MULTILINE):
            equation = text[label.end() :].partition("(eq-")[0]
            number = rf"\\tag\{{{label[1]}\}}|\\text\{{\({label[1]}\)\}}"
            assert re.search(number, equation, re.IGNORECASE), f"{path.name}: {label[0]}"
    for name in ("maml", "sam", "sharp-maml", *EXECUTED):
        (lines, tests) = (
            re.findall(pattern, (html / f"{name}.html").read_text(encoding="utf-8"), re.DOTALL)
            for pattern in (r'<p class="implements">.*?</p>', r'<p class="implements">.*?test_\w+\.py')
        )
        assert lines, name
        assert len(lines) == len(tests)
        assert all('href="api' in line for line in lines), name


def test_the_first_page_has_what_the_result_files_say(html: Path):
    text = (html / "intro.html").read_text(encoding="utf-8")
    table = text.partition('<section id="results-at-a-glance"')[2].partition("</section>")[0]
    (speed,) = (ROOT / "benchmarks" / "results").glob("speed-*.json")
    relative = json.loads(speed.read_text())["results"]["mini-ImageNet, 5-way 1-shot"]["relative_to_maml"]
    assert ", ".join(f"{relative[name]:.2f}" for name in ("low", "up", "both")) in table
    certificate = json.loads((BOOK / "results" / "certificate" / "glyphs.json").read_text())
    assert f"{certificate['certificates'][0]['bound']:.3f}" in table
    verdicts = re.findall(r"^\*\*Verdict: ", (BOOK / "errata.md").read_text(), re.MULTILINE)
    assert f"{len(verdicts)} were checked" in table
    results = published.load(BOOK / "results")
    compared = [one for g in groups.names(results) for _, one in groups.on_as_many_images(groups.lines(results, g))]
    worth = [one for g in groups.names(results) for _, one in groups.worth_of_baseline(results, g)]
    shown = [one for one in (*compared, *worth) if len(one.difference.seeds) >= published.SEEDS]
    assert shown
    assert all(f"{one.difference.mean:+.2f}{'*' if one.clear else ''}" in table for one in shown)


# --- what is executed ------------------------------------------------------------------------------------------------


def test_each_figure_and_table_says_where_it_comes_from_and_has_its_numbers(html: Path):
    shown = 0
    for name in EXECUTED:
        text = (html / f"{name}.html").read_text(encoding="utf-8")
        figures = re.findall(r'<figure class="[^"]*executed.*?</figure>', text, re.DOTALL)
        tables = re.findall(r'<div class="executed-table".*?<div class="stamp docutils">.*?</div>', text, re.DOTALL)
        assert len(tables) == text.count('class="executed-table"'), name
        assert figures, name
        for block in figures + tables:
            stamp = block[block.rindex("<figcaption" if block in figures else '<div class="stamp') :]
            assert re.search(r"source\s[0-9a-f]{8}[;,]", stamp), stamp
            assert re.search(r"<code.*?(papermill|python)", stamp, re.DOTALL), stamp
            for file in re.findall(r'href="(_downloads/[^"]+)"', stamp):
                assert (html / file).is_file()
            assert "_downloads/" in stamp, stamp
        assert all(re.search(r'<img alt="[^"]{8,}"', figure) for figure in figures), name
        shown += len(figures) + len(tables)
    assert shown > 50


def test_notebooks_are_offered_for_download_and_colab_only_where_it_can_open_them(html: Path):
    for name in EXECUTED:
        text = (html / f"{name}.html").read_text(encoding="utf-8")
        (links,) = re.findall(r'<div class="notebook-links docutils">.*?</div>', text, re.DOTALL)
        files = re.findall(r'href="(_downloads/[^"]+\.ipynb)"', links)
        assert len(files) == 2
        assert all((html / file).is_file() for file in files)
        assert ("colab.research.google.com" in links) == bool(repository.setting(ROOT))


def test_one_setting_says_where_the_repository_is(tmp_path: Path):
    address = repository.setting(ROOT)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    (tmp_path / "book").mkdir()
    shutil.copy(BOOK / "_config.yml", tmp_path / "book")
    repository.write(tmp_path, address)
    for path in [*(ROOT / "notebooks").glob("*.ipynb"), BOOK / "_config.yml"]:
        written = (tmp_path / path.relative_to(ROOT)).read_text(encoding="utf-8")
        assert written == path.read_text(encoding="utf-8"), f"run: python book/_ext/repository.py {address!r}"
    repository.write(tmp_path, "https://github.com/someone/something")
    for path in (tmp_path / "notebooks").glob("*.ipynb"):
        assert 'REPOSITORY = \\"git+https://github.com/someone/something\\"' in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="must be https://github"):
        repository.write(tmp_path, "someone/something")


# --- small books -----------------------------------------------------------------------------------------------------

SMALL = """# Small

$$ a = b $$ (equation)

It is {eq}`equation`.

```{executed} train cell-07 cell-12
```
"""


def _small(folder: Path, pages: dict[str, str]) -> Path:
    """A book of a few pages, with everything around it that a book is made of."""
    folder.mkdir()
    for name in ("notebooks", "benchmarks", "tests", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "sharp_maml_core", folder / "sharp_maml_core", ignore=shutil.ignore_patterns("__pycache__"))
    book = folder / "book"
    shutil.copytree(BOOK, book, ignore=shutil.ignore_patterns("_build", ".executed", "*.md"), symlinks=True)
    for name, text in pages.items():
        (book / f"{name}.md").write_text(text, encoding="utf-8")
    first, *others = pages
    contents = {"format": "jb-book", "root": first} | (
        {"chapters": [{"file": name} for name in others]} if others else {}
    )
    (book / "_toc.yml").write_text(yaml.safe_dump(contents))
    return book


def _pages(html: Path) -> dict[str, str]:
    """All of it that is to be the same wherever it was built: not the stamps, which tell of machines and seconds."""
    stamp = re.compile(r"<figcaption.*?</figcaption>|<div class=\"stamp.*?</div>", re.DOTALL)
    return {
        str(path.relative_to(html)): stamp.sub("", path.read_text(encoding="utf-8")) for path in html.rglob("*.html")
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small book, and where it was built."""
    folder = tmp_path_factory.mktemp("small")
    book = _small(folder / "here", {"small": SMALL, "other": "# Other\n\nText.\n"})
    run, html = build(book, folder / "built")
    assert run.returncode == 0, run.stdout + run.stderr
    return book, html


def test_built_in_another_folder_it_is_the_same_to_the_last_byte(small: tuple[Path, Path], tmp_path: Path):
    book = _small(tmp_path / "elsewhere", {"small": SMALL, "other": "# Other\n\nText.\n"})
    run, html = build(book, tmp_path / "built")
    assert run.returncode == 0, run.stdout + run.stderr
    first, second = _pages(small[1]), _pages(html)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name] == second[name], name
    for image in (small[1] / "_images").glob("*.png"):
        assert image.read_bytes() == (html / "_images" / image.name).read_bytes(), image.name


def test_what_changed_is_built_and_nothing_else(small: tuple[Path, Path]):
    book, html = small
    kept = book / ".executed" / "train.ipynb"
    executed = kept.stat().st_mtime_ns
    run, _ = build(book, html.parents[1])
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 added, 0 changed, 0 removed" in run.stdout
    (book / "other.md").write_text("# Other\n\nAnother text.\n")
    run, _ = build(book, html.parents[1])
    assert "0 added, 1 changed, 0 removed" in run.stdout
    assert "Another text." in (html / "other.html").read_text(encoding="utf-8")
    # A module that the notebook does not load: every page is made anew, and the notebook is not run again.
    with (book.parent / "sharp_maml_core" / "theory" / "floors.py").open("a") as module:
        module.write("\n# changed\n")
    run, _ = build(book, html.parents[1])
    assert "2 added, 0 changed, 0 removed" in run.stdout
    assert kept.stat().st_mtime_ns == executed


def test_after_a_build_with_a_warning_nothing_is_kept(tmp_path: Path):
    book = _small(tmp_path / "warned", {"other": "# Other\n\n[gone](nowhere.md)\n", "right": "# Right\n\nText.\n"})
    for _ in range(2):  # the second one would find nothing to do, and nothing wrong
        run, _ = build(book, tmp_path / "built")
        assert run.returncode != 0
        assert "nowhere.md" in run.stdout + run.stderr


def test_a_repository_makes_a_colab_button(tmp_path: Path):
    book = _small(tmp_path / "published", {"small": SMALL})
    (book / ".executed").mkdir()
    shutil.copy(BOOK / ".executed" / "train.ipynb", book / ".executed")
    (book.parent / "notebooks").unlink()
    shutil.copytree(ROOT / "notebooks", book.parent / "notebooks")
    repository.write(book.parent, "https://github.com/someone/something")
    run, html = build(book, tmp_path / "built")
    assert run.returncode == 0, run.stdout + run.stderr
    address = "https://colab.research.google.com/github/someone/something/blob/main/notebooks/train.ipynb"
    assert f'href="{address}"' in (html / "small.html").read_text(encoding="utf-8")


def test_notebooks_are_reached_through_a_link():
    link = BOOK / "notebooks"
    assert link.is_symlink()
    assert os.readlink(link) == "../notebooks"
    assert link.is_dir()
