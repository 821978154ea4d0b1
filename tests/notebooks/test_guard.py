"""The guard of the notebooks that have parameters of their own, not a Config."""

from __future__ import annotations

import pytest

from sharp_maml_core import UserError
from sharp_maml_core.notebook import only

BEFORE = {"sys", "root", "before"}
ALLOWED = ("function", "inner_lr", "quick")


def cell(source: str) -> dict[str, object]:
    """The namespace after a bootstrap cell and a parameters cell."""
    namespace: dict[str, object] = dict.fromkeys(BEFORE)
    exec(source, namespace)
    return namespace


def test_what_is_allowed_passes_and_so_do_imports_and_private_names() -> None:
    only(cell("quick = True; inner_lr = 0.1; _hidden = 3\nfrom math import sin"), BEFORE, ALLOWED)


def test_what_was_there_before_is_not_a_parameter() -> None:
    only(cell("root = 1"), BEFORE, ALLOWED)


def test_an_unknown_name_is_an_error_that_says_what_is_known_and_near() -> None:
    sentence = "parameter='inner_rl' is not allowed: it must be one of function, inner_lr, quick. Did you mean inner_lr"
    with pytest.raises(UserError, match=sentence):
        only(cell("quick = True; inner_rl = 0.1"), BEFORE, ALLOWED)
