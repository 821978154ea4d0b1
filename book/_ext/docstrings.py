"""The API reference shows docstrings as they were written: a sentence, then columns and formulas as set.

They are plain text, not reStructuredText: paragraphs become paragraphs, names with explanations beside them a list,
what else has columns or an indent a literal block.
Types are followed to where they are defined: two modules may have a `Problem` each.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    """Translate each docstring on its way to autodoc."""
    app.connect("autodoc-process-docstring", as_written)
    app.connect("autodoc-process-signature", parseable)
    app.connect("autodoc-skip-member", skip_unsaid)
    app.connect("doctree-read", name_in_full)
    app.connect("html-collect-pages", forget_sourceless, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def parseable(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Write ... for a default that is no expression (<factory>), for which Sphinx would give up on the types."""
    return signature and re.sub(r"<(?:[^<>]|<[^<>]*>)*>", "...", signature), returns


def skip_unsaid(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out a named tuple's fields, whose docstrings Python made up: its own docstring explains them."""
    return True if re.match(r"Alias for field number \d", getattr(obj, "__doc__", None) or "") else None


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
    translated: list[str] = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")):
        written = paragraph.split("\n")
        if (found := _terms(written)) is not None:
            before, terms, after = found
            listed = [line for name, text in terms for line in (_escaped(name), f"   {_escaped(text)}", "")]
            translated += [*_sentence(before), *listed, *_sentence(after)]
        elif re.search(r"^\s|\S  +\S", paragraph, re.MULTILINE):  # columns or a formula
            translated += ["::", "", *(f"   {line}" for line in written), ""]
        else:
            translated += _sentence(written)
    lines[:] = translated


def _sentence(lines: Sequence[str]) -> list[str]:
    return [_escaped(" ".join(" ".join(lines).split())), ""] if lines else []


class _Terms(NamedTuple):
    """Names with the explanations beside them, and the lines of the sentences around them."""

    before: list[str]
    terms: list[tuple[str, str]]
    after: list[str]


def _terms(lines: Sequence[str]) -> _Terms | None:
    """Names beside which explanations stand, all in one column; None where anything else has columns or an indent."""
    found = _Terms([], [], [])
    column = 0
    for line in lines:
        begin = re.match(r"([\w`*]\S*(?: \S+)*?)  +(?=[^\s=])", line)
        if begin and not found.after and begin.end() == (column or begin.end()) and "  " not in line[begin.end() :]:
            column = begin.end()
            name = begin[1] if "`" in begin[1] else f"`{begin[1]}`"
            found.terms.append((name, line[column:]))
        elif found.terms and not found.after and line[:column].isspace() and not line[column:][:1].isspace():
            name, text = found.terms.pop()
            found.terms.append((name, f"{text} {line.strip()}"))
        elif column and not found.after and re.fullmatch(r"\w+ ", line[:column]):  # as long as the column is wide
            found.terms.append((f"`{line[: column - 1]}`", line[column:]))
        elif not re.search(r"^\s|\S  +\S", line):
            (found.after if found.terms else found.before).append(line)
        else:
            return None
    return found if found.terms else None


def _escaped(sentence: str) -> str:
    """`code` as reStructuredText writes it; every other character that would be markup, as itself."""
    parts = re.split(r"`([^`]+)`", sentence)
    return "".join(
        f"``{part}``" if odd else re.sub(r"([\\*|_])", r"\\\1", part)
        for part, odd in zip(parts, [False, True] * len(parts), strict=False)
    )
