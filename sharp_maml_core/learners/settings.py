"""Settings that a system cannot use: an error before any work, where to ignore them would mislead."""

from __future__ import annotations

from typing import Any

from ..config import Config
from ..errors import invalid


def only(config: Config, hint: str = "", **usable: Any) -> None:
    """Raise UserError, which ends in the hint, for the first setting that is not the one value the variant can use."""
    for name, value in usable.items():
        given = getattr(config, name)
        if given != value:
            allowed = f"{value} with variant {config.variant}, which has no use for another value"
            raise invalid(name, given, allowed, hint)
