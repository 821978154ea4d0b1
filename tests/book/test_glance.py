"""What the table of the first page counts."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from builder import BOOK

from sharp_maml_core import published
from sharp_maml_core.theory.paper_tables import accuracy

sys.path.insert(0, str(BOOK / "_ext"))
glance: Any = pytest.importorskip("glance", reason="the extra `notebooks` is not installed")


def test_a_figure_that_two_tables_print_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the 41 figures Table 3 has four from Table 1; a result for one of those is one answer."""
    shared = published.Setting("miniimagenet", 5, 1, "maml")
    found = published.Ours(accuracy(1, "maml"), 0.5, (0, 1, 2), 1000, 60_000, ())
    monkeypatch.setattr(published, "ours", lambda results, setting: found if setting == shared else None)
    ((_, paper, here, _),) = glance._accuracies(BOOK)
    assert (paper, here) == ("37 figures", "1 agrees, 36 not run")


def test_each_bound_is_said_of_the_letters_that_it_holds_for() -> None:
    """For tasks of letters seen, in brackets for letters of the same pool that were not; Eq. 18 for that network."""
    found = json.loads((BOOK / "results" / "certificate" / "glyphs.json").read_text(encoding="utf-8"))
    seen, unseen = found["certificates"]
    assert (seen["unit"], unseen["unit"]) == ("tasks", "classes")
    ((question, paper, here, _),) = glance._bounds(BOOK)
    assert "letters seen (of unseen ones" in question
    assert paper == f"{found['paper']['theorem2']:.2f} and more (Eq. 18, the same network)"
    said = [f"{seen[name]:.3f} ({unseen[name]:.3f})" for name in ("bound", "measured")]
    assert here == f"{said[0]} at 95%; measured: {said[1]}"
