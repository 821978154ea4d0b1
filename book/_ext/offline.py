"""A book that asks nothing of the network: MathJax lies beside the pages, and Thebe's launcher is left out."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the steps below, each after what the other extensions do."""
    app.connect("doctree-resolved", drop_thebe_settings, priority=1000)
    app.connect("html-page-context", drop_thebe, priority=1000)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Thebe starts kernels on a server elsewhere; Jupyter Book adds its scripts to every page, twice."""
    context["script_files"] = [script for script in context["script_files"] if not _is_thebe(script)]
    context["css_files"] = [sheet for sheet in context["css_files"] if not _is_thebe(sheet)]


def drop_thebe_settings(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """The same, for what is written into the pages themselves."""
    for node in list(doctree.findall(nodes.raw)):
        if "text/x-thebe-config" in node.astext():
            node.parent.remove(node)


def _is_thebe(asset: Any) -> bool:
    body = getattr(asset, "attributes", {}).get("body") or ""
    return "thebe" in str(getattr(asset, "filename", None) or asset).lower() or "thebe" in body.lower()


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Put the one file that the pages load where `mathjax_path` says.

    Not by way of the book's own _static: Jupyter Book loads each script there on every page.
    """
    if error is not None or app.builder.format != "html":
        return
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None or package.origin is None:
        raise ExtensionError("MathJax is missing: pip install sphinx-mathjax-offline")
    source = Path(package.origin).parent / "static" / "mathjax" / "tex-svg.js"
    target = Path(app.outdir) / "_static" / "mathjax" / "tex-svg.js"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
