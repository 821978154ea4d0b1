r"""Figures with sliders: numbers that the package exports, drawn by _static/sliders.js without a kernel.

`{sliders} lemma1 double-well` exports the scene when the book is built, puts it into the page, where a browser can read
it from disk, and beside it as a file to download. EXPORTS says which kinds and scenes there are. The page holds the
picture at the first values too: where there is no JavaScript, that is what one sees.

Exports are kept under `book/.executed` by a hash of the package and of this file, as what notebooks compute is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from docutils import nodes
from pictures import PICTURES, Picture, Slider, short
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from sharp_maml_core import landscape
from sharp_maml_core.files import write_text
from sharp_maml_core.landscape import scenes
from sharp_maml_core.results import source_hash
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
        name = f"{kind}-{scene}" if scene else kind
        text = exported(Path(self.env.srcdir) / ".executed", kind, scene)
        self.env.__dict__.setdefault("sliders_exported", {})[f"{name}.json"] = text
        address = Path("../" * self.env.docname.count("/")) / "_static" / "data" / f"{name}.json"
        picture = PICTURES[kind](f"sliders-{name}", json.loads(text))
        return [nodes.raw("", _html(kind, picture, text, address.as_posix()), format="html")]


def exported(kept: Path, kind: str, scene: str) -> str:
    """A scene as JSON, computed unless it is there already."""
    key = hashlib.sha256((source_hash() + Path(__file__).read_text(encoding="utf-8")).encode()).hexdigest()[:16]
    path = kept / f"sliders-{kind}-{scene}-{key}.json"
    if not path.exists():
        kept.mkdir(exist_ok=True)
        for old in kept.glob(f"sliders-{kind}-{scene}-*.json"):
            old.unlink()
        write_text(path, json.dumps(EXPORTS[kind](scene), separators=(",", ":"), allow_nan=False))
    return path.read_text(encoding="utf-8")


def _html(kind: str, picture: Picture, text: str, file: str) -> str:
    first = ", ".join(f"{slider.label} = {slider.shown[slider.start]}" for slider in picture.sliders)
    lines = [
        f'<div class="sliders" data-kind="{kind}">',
        picture.drawing.svg(),
        '<ul class="slider-legend">',
        *(
            f'<li><span class="swatch {look}" aria-hidden="true"></span>{escape(text)}</li>'
            for look, text in picture.legend
        ),
        "</ul>",
        '<div class="slider-rows" hidden>',  # until the script has come
        *(_row(picture.drawing.name, slider) for slider in picture.sliders),
        "</div>",
        f'<p class="slider-still">At {escape(first)}. With JavaScript there are sliders here.</p>',
        '<p class="slider-readout" aria-live="polite">',
        *(
            f'<span>{escape(label)}: <b data-name="{name}" data-value="{value}">{short(value)}</b></span>'
            for name, label, value in picture.readout
        ),
        "</p>",
        f'<script type="application/json">{text}</script>',
        "</div>",
        f'<p class="stamp">Its numbers: <a href="{file}" download>{Path(file).name}</a></p>',
    ]
    return "\n".join(lines)


def _row(figure: str, slider: Slider) -> str:
    identity = f"{figure}-{slider.name}"
    now, shown = slider.shown[slider.start], escape(json.dumps(slider.shown, ensure_ascii=False))
    return (
        f'<div class="slider-row"><label for="{identity}">{escape(slider.label)}</label>'
        f'<input type="range" id="{identity}" name="{slider.name}" min="0" max="{len(slider.shown) - 1}" step="1"'
        f' value="{slider.start}" aria-valuetext="{escape(now)}" autocomplete="off" data-shown="{shown}">'
        f'<output for="{identity}">{escape(now)}</output></div>'
    )


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
