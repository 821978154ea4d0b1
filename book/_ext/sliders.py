r"""Figures with sliders: numbers that the package exports, drawn by _static/sliders.js without a kernel.

`{sliders} lemma1 double-well` exports the scene when the book is built, puts it into the page, where a browser can read
it from disk, and beside it as a file to download. EXPORTS says which kinds and scenes there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from sharp_maml_core import landscape
from sharp_maml_core.landscape import scenes
from sharp_maml_core.theory import census, zoo
from sharp_maml_core.theory.experiments import paper_experiments
from sharp_maml_core.theory.experiments import slider as bounds


def _lemma1(name: str) -> dict[str, Any]:
    function = zoo.FUNCTIONS[name]
    return census.slider(function, [float(rate) for rate in np.linspace(0.05, 3, 60) / function.l1])


def _bounds(name: str) -> dict[str, Any]:
    return bounds(paper_experiments(), np.geomspace(5e-5, 50, 41), np.geomspace(100, 1e7, 31))


def _alpha(name: str) -> dict[str, Any]:
    return json.loads(landscape.export(scenes.scene(name)))


EXPORTS: dict[str, Callable[[str], dict[str, Any]]] = {"lemma1": _lemma1, "bounds": _bounds, "alpha": _alpha}


class Sliders(SphinxDirective):
    """A drawing with its sliders."""

    required_arguments = 1
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Export the numbers and put them into the page."""
        kind, scene = (*self.arguments, "")[:2]
        if kind not in EXPORTS:
            raise ExtensionError(f"{self.env.docname}: sliders of {kind}; there are {', '.join(EXPORTS)}")
        text = json.dumps(EXPORTS[kind](scene), separators=(",", ":"), allow_nan=False)
        name = f"{kind}-{scene}.json" if scene else f"{kind}.json"
        exported = self.env.__dict__.setdefault("sliders_exported", {})
        exported[name] = text
        page = Path("../" * self.env.docname.count("/")) / "_static" / "data" / name
        html = (
            f'<div class="sliders" data-kind="{kind}"><script type="application/json">{text}</script>'
            "<noscript><p>This needs JavaScript. The static figure on this page shows the same.</p></noscript></div>"
            f'<p class="stamp">Its numbers: <a href="{page.as_posix()}" download>{name}</a></p>'
        )
        return [nodes.raw("", html, format="html")]


def write_exports(app: Sphinx, error: Exception | None) -> None:
    """Beside the pages, for whoever wants the numbers."""
    if error is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_static" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in getattr(app.env, "sliders_exported", {}).items():
        (folder / name).write_text(text + "\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """The directive, and its files."""
    app.add_directive("sliders", Sliders)
    app.connect("build-finished", write_exports)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
