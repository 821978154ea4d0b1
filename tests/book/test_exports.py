"""What the sliders' figures are made of is kept whole or not at all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from builder import BOOK

sys.path.insert(0, str(BOOK / "_ext"))
sliders: Any = pytest.importorskip("sliders", reason="the extra `notebooks` is not installed")


def test_half_an_export_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a build is killed, or the disk is full: the next build exports again."""
    monkeypatch.setitem(sliders.EXPORTS, "alpha", lambda name: {"name": name})

    def half(path: Path, text: str, encoding: str) -> None:
        path.write_bytes(text.encode(encoding)[:5])
        raise OSError("no space left")

    with monkeypatch.context() as full:
        full.setattr(Path, "write_text", half)
        with pytest.raises(OSError, match="no space left"):
            sliders.exported(tmp_path, "alpha", "well")
    assert sliders.exported(tmp_path, "alpha", "well") == '{"name":"well"}'
