"""What happens in the kernel while a notebook is executed for the book: notes, which no reader of the notebook sees.

Noted are the files that decide what comes out, so that it can be kept until one of them changes, and beside each
figure and table its numbers, so that a page can offer them. The notebook itself knows nothing of this.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

PACKAGE = "sharp_maml_core"
OWN = ("runs", ".git")  # what a notebook writes before it reads it, and what is not its business
DIGITS = 6

_read: set[str] = set()
_listed: set[str] = set()


def begin(root: str) -> None:
    """Before the first cell: watch the files under `root` and the figures."""
    import pandas
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler

    sys.addaudithook(_watcher(Path(root)))
    Figure._repr_json_ = _figure  # which IPython looks for when it shows one
    pandas.DataFrame._repr_json_ = _frame
    Styler._repr_json_ = lambda styler: _frame(styler.data)
    _keep_what_is_drawn()


def end(root: str, names: list[str]) -> None:
    """After the last cell: say which files they were, where this was, and what the parameters `names` came to."""
    import torch
    from IPython import get_ipython
    from IPython.display import publish_display_data

    from sharp_maml_core import results

    here = Path(root)
    namespace = get_ipython().user_ns
    notes = {
        "files": sorted({*_package_files(here), *_read}),
        "folders": sorted(_listed),
        "parameters": {name: namespace[name] for name in names},
        "provenance": results.provenance(torch.device("cpu")),
    }
    publish_display_data({"application/json": notes, "text/plain": "notes"})


def _watcher(root: Path) -> Any:
    outside = (root / PACKAGE, *(root / name for name in OWN))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.scandir", "os.listdir") or not isinstance(arguments[0], str | os.PathLike):
            return
        path = Path(os.path.abspath(arguments[0]))
        if not path.is_relative_to(root) or any(path.is_relative_to(folder) for folder in outside):
            return
        if event != "open":
            if str(path) not in sys.path and path != root:  # else it is the import system that looks for modules
                _listed.add(path.relative_to(root).as_posix())
        elif arguments[1] is None or "r" in str(arguments[1]):
            _read.add(path.relative_to(root).as_posix())

    return hook


def _package_files(root: Path) -> set[str]:
    """The modules that were loaded, and data that lie beside one of them."""
    origins = [getattr(module, "__file__", None) for name, module in list(sys.modules.items()) if _is_ours(name)]
    modules = {Path(origin) for origin in origins if origin}
    beside = {path for folder in {module.parent for module in modules} for path in folder.iterdir()}
    found = modules | {path for path in beside if path.is_file() and path.suffix != ".py"}
    return {path.relative_to(root).as_posix() for path in found}


def _is_ours(name: str) -> bool:
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")


# --- numbers ---------------------------------------------------------------------------------------------------------


def _keep_what_is_drawn() -> None:
    """Contours, surfaces and images do not keep their numbers: have the axes keep them."""
    from matplotlib.axes import Axes
    from mpl_toolkits.mplot3d import Axes3D

    for owner, name in ((Axes, "contourf"), (Axes, "imshow"), (Axes3D, "plot_surface")):
        setattr(owner, name, _keeping(getattr(owner, name), name))


def _keeping(method: Any, name: str) -> Any:
    @functools.wraps(method)
    def kept(axes: Any, *given: Any, **settings: Any) -> Any:
        numbers = [_numbers(one) for one in given if hasattr(one, "shape")]
        axes.__dict__.setdefault("_book_numbers", []).append({"kind": name, "numbers": numbers})
        return method(axes, *given, **settings)

    return kept


def _figure(figure: Any) -> dict[str, Any]:
    """The numbers of a figure, axes by axes: where its lines, points and bars are, what its surfaces are made of."""
    return {"axes": [_axes(axes) for axes in figure.axes if axes.get_visible() and axes.get_label() != "<colorbar>"]}


def _axes(axes: Any) -> dict[str, Any]:
    lines = [
        {"label": _name(line), "x": _numbers(line.get_xdata()), "y": _numbers(line.get_ydata())} for line in axes.lines
    ]
    points = [
        {"label": _name(one), "points": _numbers(one.get_offsets())}
        for one in axes.collections
        if type(one).__name__ == "PathCollection"
    ]
    bars = [
        {
            "x": _numbers([one.get_x(), one.get_x() + one.get_width()]),
            "y": _numbers([one.get_y(), one.get_y() + one.get_height()]),
        }
        for one in axes.patches
        if type(one).__name__ == "Rectangle"
    ]
    found = {"lines": lines, "points": points, "bars": bars, "surfaces": axes.__dict__.get("_book_numbers", [])}
    labels = {"title": axes.get_title(), "x": axes.get_xlabel(), "y": axes.get_ylabel()}
    return labels | {name: value for name, value in found.items() if value}


def _name(artist: Any) -> str:
    label = str(artist.get_label())
    return "" if label.startswith("_") else label


def _numbers(values: Any) -> Any:
    """As nested lists; a number that JSON has no word for as null."""
    import numpy as np

    array = np.ma.filled(np.ma.asarray(values), np.nan)
    if array.dtype.kind not in "fiub":
        return [str(one) for one in array.ravel()]
    if array.dtype.kind != "f":
        return array.tolist()
    return json.loads(json.dumps(_rounded(array.tolist())))


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if abs(value) < float("inf") else None


def _frame(frame: Any) -> dict[str, Any]:
    """A table as columns, index and rows; what is neither a number nor true or false as its words."""
    split = frame.to_dict("split")
    return {part: [_cells(one) for one in split[part]] for part in ("columns", "index", "data")}


def _cells(value: Any) -> Any:
    import numpy as np

    if isinstance(value, list | tuple):
        return [_cells(one) for one in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool | int):
        return value
    return _rounded(value) if isinstance(value, float) else str(value)
