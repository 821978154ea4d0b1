r"""Equations of several lines keep their number.

Sphinx puts \begin{split} around all that has a line break, and MathJax allows no \tag in there. `aligned` needs none.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

SPLIT = re.compile(r"\\begin\{split\}(\s*\\begin\{aligned\}.*?)\\end\{split\}", re.DOTALL)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the step below, after the page is written."""
    app.connect("html-page-context", unsplit)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def unsplit(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Take the environment around `aligned` away again."""
    if "body" in context:
        context["body"] = SPLIT.sub(r"\1", context["body"])
