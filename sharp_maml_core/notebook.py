"""What a notebook's parameters cell needs: strict names, checked values."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Set
from typing import Any

from .config import FIELDS, Config, check_names, config_from
from .results import portable

SHORTER = ("iterations", "eval_every", "val_tasks")
"""Settings whose defaults are a notebook's own: it is for a first run of minutes, Config for the paper's."""


def parameters(namespace: Mapping[str, Any], before: Set[str], extra: Set[str]) -> Config:
    """The Config that a parameters cell describes.

    papermill only warns about a parameter that no cell declares, and the notebook would run without it. So every name
    that appeared in the namespace since `before` must be a field of Config or one of `extra`, the notebook's own.

    Raises UserError for an unknown name or a value that is not allowed.
    """
    given = _since(namespace, before)
    check_names(given, [*FIELDS, *sorted(extra)])
    return config_from({name: value for name, value in given.items() if name in FIELDS})


def only(namespace: Mapping[str, Any], before: Set[str], allowed: Collection[str]) -> None:
    """The guard of a notebook that has no Config: what its parameters cell may set, and nothing else.

    Raises UserError for the first name since `before` that is not one of `allowed`.
    """
    check_names(_since(namespace, before), allowed)


def papermill_command(notebook: str, config: Config) -> str:
    """The command that runs a notebook with these settings, for the record: what differs from the defaults.

    So that it is the same run in a notebook with other defaults, `SHORTER` is always said. Where the data lie on this
    machine is left out: a folder of images is told as on the command line, `.../images`.
    """
    settings = config.to_dict() | {"data_root": "", "dataset": portable(config.dataset)}
    plain = Config(variant=config.variant).to_dict() | {"variant": FIELDS["variant"].default}
    changed = [
        f"-p {name} {shlex.quote(str(value))}"
        for name, value in settings.items()
        if value != plain[name] or name in SHORTER
    ]
    return " ".join([f"papermill {notebook} out.ipynb", *changed])


def _since(namespace: Mapping[str, Any], before: Set[str]) -> dict[str, Any]:
    return {
        name: value
        for name, value in namespace.items()
        if name not in before and not name.startswith("_") and not callable(value)  # what was imported since
    }
