r"""The paper's equations have its numbers, by \tag; ours have roman ones, so that none is taken for the paper's.

Equations of several lines keep their number: Sphinx puts \begin{split} around all that has a line break, and MathJax
allows no \tag in there. `aligned` needs none.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

ROMAN = ["i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii", "xiii", "xiv", "xv", "xvi", "xvii"]
SPLIT = re.compile(r"\\begin\{split\}(\s*\\begin\{aligned\}.*?)\\end\{split\}", re.DOTALL)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the steps below, after a page is read and after it is written."""
    app.connect("doctree-read", number_ours)
    app.connect("html-page-context", unsplit)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def number_ours(app: Sphinx, doctree: nodes.document) -> None:
    """Number a page's own labelled equations i, ii, iii, ...: where they stand, and where they are referred to."""
    known = app.env.get_domain("math").equations  # type: ignore[attr-defined]
    ours = [node for node in doctree.findall(nodes.math_block) if node.get("number")]
    for number, node in zip(ROMAN, ours, strict=False):
        known[node["label"]] = (app.env.docname, number)
        node["number"] = None  # MathJax sets it, as it does the paper's, on the line of the equation
        node[:] = [nodes.Text(rf"{node.astext().rstrip()} \tag{{{number}}}")]


def unsplit(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Take the environment around `aligned` away again."""
    if "body" in context:
        context["body"] = SPLIT.sub(r"\1", context["body"])
