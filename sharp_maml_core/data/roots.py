"""Where data lives on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

ENVIRONMENT_VARIABLE = "SHARP_MAML_DATA"


def data_root(given: str | os.PathLike[str] | None = None) -> Path:
    """The data folder: `given`, else $SHARP_MAML_DATA, else the user's cache folder."""
    root = given or os.environ.get(ENVIRONMENT_VARIABLE) or platformdirs.user_cache_dir("sharp-maml")
    return Path(root).expanduser()
