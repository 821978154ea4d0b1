"""Docstrings are plain text; the API reference sets their columns as lists."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from builder import BOOK

sys.path.insert(0, str(BOOK / "_ext"))
docstrings: Any = pytest.importorskip("docstrings", reason="the extra `notebooks` is not installed")


def translated(text: str) -> str:
    lines = text.split("\n")
    docstrings.as_written(None, "function", "name", None, None, lines)
    return "\n".join(lines).strip()


def test_names_with_explanations_become_a_list_and_the_sentences_around_them_stay() -> None:
    text = """Two such:
alpha, beta  the radius,
             see `ball`
as_wide_here of the draw
Raises UserError."""
    found = """Two such:

``alpha, beta``
   the radius, see ``ball``

``as_wide_here``
   of the draw

Raises UserError."""
    assert translated(text) == found


@pytest.mark.parametrize(
    "text",
    ["    make results --all", "loss  = a\nmean  = b", "a  b  c\nd  e  f", "one  is here\nthree    is not"],
    ids=["an indent", "equations", "three columns", "no common column"],
)
def test_what_else_has_columns_or_an_indent_stays_as_it_is(text: str) -> None:
    assert translated(text) == "::\n\n" + "\n".join(f"   {line}" for line in text.split("\n"))


def test_markup_is_shown_and_code_is_code() -> None:
    assert translated("A *b* of `c_d`\nand |e|.") == r"A \*b\* of ``c_d`` and \|e\|."


def test_fields_that_nobody_described_are_left_out() -> None:
    slot = type("Slot", (), {"__doc__": "Alias for field number 3"})()
    assert docstrings.skip_unsaid(None, "class", "field", slot, False, None) is True
    assert docstrings.skip_unsaid(None, "class", "field", translated, False, None) is None


def test_a_default_that_is_no_expression_is_left_open() -> None:
    signature = "(rows: list[~torch.Tensor] = <factory>, then: Any = <function <lambda>>, step: int = 0)"
    found = docstrings.parseable(None, "class", "name", None, None, signature, "None")
    assert found == ("(rows: list[~torch.Tensor] = ..., then: Any = ..., step: int = 0)", "None")
    assert docstrings.parseable(None, "data", "name", None, None, None, None) == (None, None)
