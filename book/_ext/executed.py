"""Pages show what notebooks compute: cells of a notebook that papermill ran, with a stamp under each figure and table.

    ```{executed} lemma1 cell-06 cell-25
    ```

stands for these cells of notebooks/lemma1.ipynb and all between, executed with the parameters that `executed_notebooks`
in _config.yml gives it. A page's first one is preceded by how it was made, and by ways to get at the notebook.

A figure that is drawn from stored results has a cell with tags such as `results:landscapes/cifar-fs-way-*`: its stamp
is about them and leads to them.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import execution
import nbformat
import stamps
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

DIRECTIVE = re.compile(r"^```\{executed\} (\S+) (\S+) (\S+)\n```$", re.MULTILINE)
UNSEEN = {"bootstrap", "parameters"}
WIDE = 720  # pixels: of more than that a phone shows a part


class Shown(NamedTuple):
    """A notebook on a page: its name, what it was run with, its cells and outputs, where its figures are put."""

    name: str
    parameters: dict[str, Any]
    notebook: nbformat.NotebookNode
    folder: Path


def setup(app: Sphinx) -> dict[str, Any]:
    """Expand the directive before the page is parsed, so that a notebook's headings are the page's."""
    app.add_config_value("executed_notebooks", {}, "env", dict)
    app.connect("config-inited", leave_figures_unnumbered, priority=900)
    app.connect("env-before-read-docs", run_side_by_side)
    app.connect("source-read", expand)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def leave_figures_unnumbered(app: Sphinx, config: Any) -> None:
    """Figure 4 is the paper's. Jupyter Book's extension for LaTeX numbers them whatever the setting says."""
    config.numfig = False


def run_side_by_side(app: Sphinx, env: Any, pages: list[str]) -> None:
    """Two notebooks at a time, before the first page that shows one is read."""
    texts = (Path(env.doc2path(page)).read_text(encoding="utf-8") for page in pages)
    named = sorted(
        {match[1] for text in texts for match in DIRECTIVE.finditer(text)} & {*app.config.executed_notebooks}
    )
    with ThreadPoolExecutor(2) as pool:
        for name in named:
            pool.submit(execution.executed, name, app.config.executed_notebooks[name])  # a failure is told by its page


def expand(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the cells into the page's text."""
    seen: set[str] = set()

    def cells(match: re.Match[str]) -> str:
        name, first, last = match.groups()
        shown = _shown(app, page, name)
        head = [] if name in seen else [_how_it_was_made(app, shown)]
        seen.add(name)
        return "\n\n".join([*head, *_texts(shown, first, last)])

    source[0] = DIRECTIVE.sub(cells, source[0])


def _shown(app: Sphinx, page: str, name: str) -> Shown:
    if name not in app.config.executed_notebooks:
        raise ExtensionError(f"{page}: executed_notebooks in _config.yml has no parameters for {name}")
    parameters = app.config.executed_notebooks[name]
    folder = Path(app.srcdir) / ".executed"
    folder.mkdir(exist_ok=True)
    try:
        return Shown(name, parameters, execution.executed(name, parameters), folder)
    except execution.FailedNotebook as error:
        raise ExtensionError(f"{page}: {error}") from None


def _how_it_was_made(app: Sphinx, shown: Shown) -> str:
    """A line of links, and the command."""
    written = shown.folder / f"{shown.name}-executed.ipynb"
    _put(written, nbformat.writes(_as_a_reader_has_it(shown.notebook)).encode())
    links = [
        f"{{download}}`The notebook </notebooks/{shown.name}.ipynb>`",
        f"{{download}}`as executed here </.executed/{written.name}>`",
    ]
    if app.config.repository:
        links.insert(0, f"[Open in Colab]({stamps.colab(app.config.repository, shown.name)})")
    command = execution.command(shown.name, shown.parameters)
    made = f"Executed when the book was built: `{command}`. Figures with stored results under them only draw these."
    return f":::{{div}} notebook-links\n{' '.join(links)}\n\n{made}\n:::"


def _as_a_reader_has_it(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without the numbers that watched.py put beside figures: these are files of their own."""
    copy = nbformat.from_dict(notebook)
    for output in (output for cell in copy.cells for output in cell.get("outputs", [])):
        output.get("data", {}).pop("application/json", None)
    del copy.metadata[execution.NOTES]
    return copy


def _texts(shown: Shown, first: str, last: str) -> Iterator[str]:
    ids = [cell.id for cell in shown.notebook.cells]
    if first not in ids or last not in ids:
        raise ExtensionError(f"notebooks/{shown.name}.ipynb has no cells {first} and {last}")
    heading = ""
    for cell in shown.notebook.cells[ids.index(first) : ids.index(last) + 1]:
        if cell.cell_type == "markdown":
            found = re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE)
            heading = found[-1] if found else heading
            yield re.sub(r"^# .+\n", "", cell.source)
        elif not UNSEEN & set(cell.metadata.tags):
            yield f"````{{dropdown}} Code\n```python\n{cell.source}\n```\n````"
            yield from _outputs(shown, cell, heading)


def _outputs(shown: Shown, cell: nbformat.NotebookNode, heading: str) -> Iterator[str]:
    shown_data = (output for output in cell.outputs if output.output_type != "stream")
    position = {id(output): number for number, output in enumerate(shown_data, start=1)}
    for output in cell.outputs:
        if output.output_type == "error":
            raise ExtensionError(f"notebooks/{shown.name}.ipynb, {cell.id}: {output.ename}: {output.evalue}")
        if output.output_type == "stream":
            if output.name == "stdout":
                yield f"```text\n{output.text.rstrip()}\n```"
            continue
        name = f"{shown.name}-{cell.id}-{position[id(output)]}"
        if "image/png" in output.data:
            yield _figure(shown, cell, name, output.data, heading)
        elif "text/html" in output.data:
            yield _table(shown, cell, name, output.data, heading)
        elif "application/vnd.jupyter.widget-view+json" not in output.data:
            yield f"```text\n{output.data['text/plain'].rstrip()}\n```"


def _figure(shown: Shown, cell: nbformat.NotebookNode, name: str, data: Any, heading: str) -> str:
    picture = base64.b64decode(data["image/png"])
    _put(shown.folder / f"{name}.png", picture)
    kind = "executed wide" if int.from_bytes(picture[16:20]) > WIDE else "executed"  # a PNG's width stands there
    axes = data["application/json"]["axes"]
    against = {f"{_plain(one['y'])} against {_plain(one['x'])}" for one in axes if one["x"] and one["y"]}
    alt = "; ".join([_plain(heading) or shown.name, *sorted(against)])
    stamp = _stamp(shown, cell, name, data)
    full_size = f":target: _images/{name}.png\n"  # pages lie beside this folder, which Sphinx fills
    return f"```{{figure}} /.executed/{name}.png\n:alt: {alt}\n:figclass: {kind}\n{full_size}\n{stamp}\n```"


def _table(shown: Shown, cell: nbformat.NotebookNode, name: str, data: Any, heading: str) -> str:
    html = re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.DOTALL)
    html = re.sub(r"T_[0-9a-f]{5}", f"T_{name}", html)  # pandas draws its names at random
    html = re.sub(r' border="1"', "", re.sub(r"\n\s*\n", "\n", html))  # an empty line would end the block
    label = _plain(heading).replace('"', "")
    opening = f'<div class="executed-table" role="region" tabindex="0" aria-label="{label or shown.name}: table">'
    stamp = _stamp(shown, cell, name, data)
    return f"```{{raw}} html\n{opening}{html.strip()}</div>\n```\n\n:::{{div}} stamp\n{stamp}\n:::"


def _stamp(shown: Shown, cell: nbformat.NotebookNode, name: str, data: Any) -> str:
    stored = [tag.partition(":")[2] for tag in cell.metadata.tags if tag.startswith("results:")]
    if stored:
        return stamps.of_results(shown.folder.parent / "results", stored)
    numbers = shown.folder / f"{name}.json"
    _put(numbers, json.dumps(data["application/json"], separators=(",", ":")).encode() + b"\n")
    notes = shown.notebook.metadata[execution.NOTES]
    command = execution.command(shown.name, shown.parameters)
    return stamps.of_cell(command, cell.id, notes) + f" {{download}}`Its numbers </.executed/{numbers.name}>`."


def _put(path: Path, content: bytes) -> None:
    """Only what is new: a page is made again when a file of it is younger, and two pages may show one notebook."""
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)


def _plain(text: str) -> str:
    """Words for those who listen: without the signs of TeX and Markdown."""
    return " ".join(re.sub(r"\\(?:mathrm|mathbb|mathcal)|[$\\{}`*]", "", text).replace("_", " ").split())
