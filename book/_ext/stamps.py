"""Where a figure comes from, in a line of small print under it; and where a notebook opens in Colab."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sphinx.errors import ExtensionError

from sharp_maml_core.results import worked

TOLD = ("variant", "seed")


def of_cell(command: str, cell: str, notes: Mapping[str, Any]) -> str:
    """Of what a notebook's cell computed."""
    told = [f"{name} {notes['parameters'][name]}" for name in TOLD if name in notes["parameters"]]
    facts = [f"`{command}`, {cell}", *told, *_where([notes["provenance"]]), f"{notes['seconds'][cell]:.1f} s"]
    return "; ".join(facts) + "."


def of_results(folder: Path, patterns: Iterable[str]) -> str:
    """Of what is drawn from files of book/results, with links. Raises ExtensionError for a pattern of nothing."""
    paths: list[Path] = []
    for pattern in patterns:
        found = sorted(folder.glob(f"{pattern}.json"))
        if not found:
            raise ExtensionError(f"book/results has nothing like {pattern}")
        paths += found
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    first, *others = dict.fromkeys(result.get("provenance", result)["command"] for result in results)
    more = f", and {len(others)} more, each in its file" if others else ""
    told = "; ".join([f"`{first}`{more}", *_told(results)])
    links = ", ".join(f"{{download}}`{path.stem} </results/{path.relative_to(folder)}>`" for path in paths)
    return f"{told}. Stored: {links}."


def colab(repository: str, name: str) -> str:
    """Where a notebook of a repository on GitHub opens in Colab."""
    return f"https://colab.research.google.com/github{urlsplit(repository).path.rstrip('/')}/blob/main/notebooks/{name}.ipynb"


def _where(origins: Iterable[Mapping[str, Any]]) -> list[str]:
    """The sources and the devices, each once. A device's name may have a comma in it, so " and " joins them."""
    sources, devices = zip(*((origin["source_sha256"][:8], origin["device"]) for origin in origins), strict=True)
    return [f"source {', '.join(dict.fromkeys(sources))}", " and ".join(dict.fromkeys(devices))]


def _origins(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What computed a result: of a run that went on elsewhere, each session that did iterations."""
    if not result.get("sessions"):
        return [result.get("provenance", result)]
    return worked(result["sessions"], result["iterations"])


def _told(results: list[dict[str, Any]]) -> list[str]:
    """What several results were about, each value once."""
    names = {"variant": "variant", "seed": "seed", "model_seed": "seed"}
    told = []
    for name in ("variant", "seed"):
        values = {
            str(value) for result in results for value in _values(result, {k for k, v in names.items() if v == name})
        }
        told += [f"{name} {', '.join(sorted(values))}"] if values else []
    origins = [origin for result in results for origin in _origins(result)]
    told += _where(origins)
    seconds = sum(result.get("seconds", 0) for result in results)
    one = len({origin["device"] for origin in origins}) == 1  # seconds of a GPU and of a CPU have no sum
    return [*told, f"{seconds:.0f} s"] if seconds and one else told


def _values(result: Mapping[str, Any], names: set[str]) -> Iterable[Any]:
    """The first place in a result where one of the names stands."""
    for place in (result, result.get("settings", {}), result.get("config", {}), result.get("recipe", {})):
        found = [place[name] for name in names if name in place]
        if found:
            return found
    return []
