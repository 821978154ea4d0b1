"""The API reference shows docstrings as they were written: a sentence, then columns and formulas as set.

They are plain text, not reStructuredText: paragraphs become paragraphs, what has columns or an indent a literal block.
Types are followed to where they are defined: two modules may have a `Problem` each.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    """Translate each docstring on its way to autodoc."""
    app.connect("autodoc-process-docstring", as_written)
    app.connect("doctree-read", name_in_full)
    app.connect("html-collect-pages", forget_sourceless, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def forget_sourceless(app: Sphinx) -> list[Any]:
    """Keep viewcode, which comes next, from listing modules without a page, such as builtins."""
    modules = getattr(app.env, "_viewcode_modules", {})
    for name in [name for name, entry in modules.items() if not entry]:
        del modules[name]
    return []


def name_in_full(app: Sphinx, doctree: nodes.document) -> None:
    """A type that a signature names as its module knows it gets the name of the module that defines it."""
    for reference in doctree.findall(addnodes.pending_xref):
        name, module = reference["reftarget"], reference.get("py:module")
        if reference.get("refdomain") != "py" or "." in name or not module:
            continue
        found = getattr(importlib.import_module(module), name, None)
        if isinstance(found, type) and found.__module__.startswith("sharp_maml_core"):
            reference["reftarget"] = f"{found.__module__}.{found.__qualname__}"


def as_written(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Change `lines` in place."""
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    translated: list[str] = []
    for paragraph in paragraphs:
        if re.search(r"^\s|\S  +\S", paragraph, re.MULTILINE):  # columns or a formula
            translated += ["::", "", *(f"   {line}" for line in paragraph.split("\n")), ""]
        else:
            translated += [_escaped(" ".join(paragraph.split())), ""]
    lines[:] = translated


def _escaped(sentence: str) -> str:
    """`code` as reStructuredText writes it; every other character that would be markup, as itself."""
    parts = re.split(r"`([^`]+)`", sentence)
    return "".join(
        f"``{part}``" if odd else re.sub(r"([\\*|_])", r"\\\1", part)
        for part, odd in zip(parts, [False, True] * len(parts), strict=False)
    )
