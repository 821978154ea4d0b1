"""`cells.toml`, read: every cell of the tables and figures, with its settings, its seeds and what the paper prints."""

from __future__ import annotations

import difflib
import itertools
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sharp_maml_core.config import FIELDS, Config, config_from
from sharp_maml_core.errors import UserError, invalid
from sharp_maml_core.published import METHODS
from sharp_maml_core.theory import paper_tables

CELLS = Path(__file__).with_name("cells.toml")
SEEDS = (0, 1, 2)
KINDS = ("cpu", "cuda")

GROUP = ("name", "schedule", "settings", "cell", "seeds", "table", "figure", "like")
SETTABLE = tuple(name for name in FIELDS if name not in ("seed", "device", "data_root", "download"))
TYPES: dict[str, tuple[type, str]] = {
    "name": (str, "a text"),
    "schedule": (str, "a text"),
    "like": (str, "a text, the name of a group"),
    "settings": (dict, "a table"),
    "cell": (list, 'a list of tables, as [{ variant = "maml" }]'),
    "seeds": (list, "a list of integers, as [0, 1, 2]"),
    "table": (int, "an integer"),
    "figure": (int, "an integer"),
}
NAME = r"\w[\w.+-]*"
IN_A_CELL = (*SETTABLE, "alpha", "name")


class Schedule(NamedTuple):
    """How long runs are, and the machine that they are meant for."""

    name: str
    device: str
    about: str


@dataclass(frozen=True)
class Cell:
    """A number to find: the mean of some runs that differ in their seed only.

    settings  fields of Config, without seed and device
    table, figure  of the paper; 0: none
    """

    name: str
    group: str
    schedule: Schedule
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    table: int
    figure: int

    def config(self, seed: int, device: str = "auto") -> Config:
        """The settings of its run with a seed."""
        return config_from(self.settings | {"seed": seed, "device": device})

    @property
    def printed(self) -> paper_tables.Row | None:
        """The paper's row: accuracy and, in Table 3, time. None where it prints nothing."""
        if not self.table:
            return None
        method = METHODS.get(self.settings["variant"], self.settings["variant"])
        return next((row for row in paper_tables.TABLES[self.table].rows if row.method == method), None)


class Run(NamedTuple):
    """A cell with one of its seeds: what is run, and what has a result file."""

    cell: Cell
    seed: int

    @property
    def name(self) -> str:
        return f"{self.cell.name}-seed{self.seed}"

    @property
    def arguments(self) -> list[str]:
        """What follows `python -m sharp_maml_core train`, but for the folder and the device."""
        given = self.cell.settings | {"seed": self.seed}
        return [text for name, value in given.items() for text in ("--" + name.replace("_", "-"), _text(value))]


def load(path: Path = CELLS) -> list[Cell]:
    """All cells, in the queue's order. Raises UserError for a file that is damaged or says what nobody understands."""
    try:
        text = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise invalid("cells", str(path), f"a file that can be read ({error.strerror})") from None
    except ValueError as error:  # of TOML, or of UTF-8
        raise UserError(f"{path.name} is damaged ({error}): restore it.") from None
    _known(path.name, text, ("schedule", "group"))
    _is("schedule", text.get("schedule", {}), dict, "tables, as [schedule.short]")
    _is("group", text.get("group", []), list, "a list of tables, as [[group]]")
    schedules = {name: Schedule(name, **_whole(name, given)) for name, given in text.get("schedule", {}).items()}
    settings: dict[str, dict[str, Any]] = {}
    cells = [cell for group in text.get("group", []) for cell in _group(group, schedules, settings)]
    _alone("name of a cell", [cell.name for cell in cells])
    return cells


def runs(cells: list[Cell]) -> list[Run]:
    """All runs in order: within a group each seed goes through all cells before the next."""
    return [
        Run(cell, seed)
        for _, group in itertools.groupby(cells, lambda cell: cell.group)
        for members in [list(group)]
        for seed in dict.fromkeys(seed for cell in members for seed in cell.seeds)
        for cell in members
        if seed in cell.seeds
    ]


def wanted(cells: list[Cell], names: list[str], device: str = "auto") -> list[Cell]:
    """The cells that the names stand for, in order; without names those for the device: a CPU leaves out what takes a
    GPU. Raises UserError with the nearest names.
    """
    if names:
        kept = {cell.name for name in names for cell in find(cells, name)}
        return [cell for cell in cells if cell.name in kept]
    gpu = kind_of(device) != "cpu"
    return [cell for cell in cells if gpu or cell.schedule.device == "cpu"]


def kind_of(device: str) -> str:
    """Of what kind, cpu or cuda, a device is, which may be another machine's; auto is this one's.

    Raises UserError for other kinds.
    """
    if device == "auto":
        return Config().torch_device.type
    kind = device.partition(":")[0]
    if kind not in KINDS:
        raise invalid("device", device, "auto, cpu, cuda, cuda:1, ...")
    return kind


def find(cells: list[Cell], name: str) -> list[Cell]:
    """The cell, or the cells of the group or schedule, of that name. Raises UserError with the nearest names."""
    found = [cell for cell in cells if name in (cell.name, cell.group, cell.schedule.name)]
    if not found:
        names = dict.fromkeys(text for cell in cells for text in (cell.schedule.name, cell.group, cell.name))
        raise invalid("cell", name, "a cell, a group or a schedule of cells.toml", _nearest(name, names))
    return found


def find_run(cells: list[Cell], name: str) -> Run:
    """The run that is called CELL-seedN. Raises UserError with the nearest names."""
    known = {run.name: run for run in runs(cells)}
    if name not in known:
        raise invalid("run", name, "a cell of cells.toml with one of its seeds", _nearest(name, known))
    return known[name]


def _group(given: dict[str, Any], schedules: dict[str, Schedule], above: dict[str, dict[str, Any]]) -> Iterator[Cell]:
    """The cells of a group; `above` has the settings of those before it, and gets its own."""
    where = _check_group(given, schedules, above)
    shared = above.get(given.get("like", ""), {}) | given.get("settings", {})
    above[given["name"]] = shared
    for entry in given["cell"]:
        _is(f"cell of {where}", entry, dict, 'a table, as { variant = "maml" }')
        _known(f"cell of {where}", entry, IN_A_CELL)
        for name, values in _grid(entry):
            _is_name(f"name of a cell of {where}", name)
            cell = Cell(
                f"{given['name']}-{name}",
                given["name"],
                schedules[given["schedule"]],
                shared | values,
                tuple(given.get("seeds", SEEDS)),
                given.get("table", 0),
                given.get("figure", 0),
            )
            _check_cell(where, cell)
            yield cell


def _check_group(given: dict[str, Any], schedules: dict[str, Schedule], above: dict[str, dict[str, Any]]) -> str:
    """What the group is called in errors. Raises UserError for what is wrong with it, but for its cells."""
    _is("group", given, dict, "a list of tables, as [[group]]")
    where = f"group {given.get('name', '?')}"
    _known(where, given, GROUP)
    for name in ("name", "schedule", "cell"):
        if name not in given:
            raise invalid(where, sorted(given), f"a group with a {name}")
    for name, (kind, what) in TYPES.items():
        if name in given:
            _is(f"{name} of {where}", given[name], kind, what)
    _is_name(f"name of {where}", given["name"])
    _one_of(f"schedule of {where}", given["schedule"], schedules)
    _known(f"settings of {where}", given.get("settings", {}), SETTABLE)
    if "like" in given:
        _one_of(f"like of {where}", given["like"], above)
    if given.get("table", 0):
        _one_of(f"table of {where}", given["table"], paper_tables.TABLES)
    seeds = given.get("seeds", [])
    for seed in seeds:
        _is(f"seed of {where}", seed, int, "an integer")
    _alone(f"seed of {where}", seeds)
    return where


def _check_cell(where: str, cell: Cell) -> None:
    """Raise UserError for settings that are not allowed, or of which no result file can be made."""
    if "variant" not in cell.settings:
        raise invalid(f"cell {cell.name} of {where}", sorted(cell.settings), "a cell with a variant")
    for seed in cell.seeds:
        if cell.config(seed).dataset == "sinusoid":  # config checks the values
            raise invalid(
                f"dataset of {where}",
                "sinusoid",
                "one of images: a result holds the number of right answers, and a regression has none to count",
                "Train it by itself, with python -m sharp_maml_core train.",
            )


def _grid(entry: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The cells that an entry stands for: their names, and their settings."""
    given = {name: value for name, value in entry.items() if name != "name"}
    axes = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        own = [entry["name"]] if "name" in entry else []
        if "name" not in entry or isinstance(given.get("variant"), list):
            own.insert(0, point.get("variant", ""))
        varied = [f"{name}{_text(point[name])}" for name in given if name != "variant" and len(axes[name]) > 1]
        if "alpha" in point:
            radius = point.pop("alpha")
            point |= {"alpha_low": radius, "alpha_up": radius}
        yield "-".join(map(_text, [*own, *varied])), point


def _whole(name: str, given: dict[str, Any]) -> dict[str, Any]:
    _is(f"schedule {name}", given, dict, "a table with a device and what it is about")
    _known(f"schedule {name}", given, ("device", "about"))
    if set(given) != {"device", "about"}:
        raise invalid(f"schedule {name}", sorted(given), "a schedule with a device and what it is about")
    _one_of(f"device of schedule {name}", given["device"], KINDS)
    return given


def _is(what: str, given: Any, kind: type, allowed: str) -> None:
    if not isinstance(given, kind) or isinstance(given, bool):
        raise invalid(what, given, allowed)


def _is_name(what: str, name: str) -> None:
    """Of a file and a folder, in shells and in Snakemake's patterns."""
    if not re.fullmatch(NAME, name):
        raise invalid(what, name, "letters, digits and . _ + -, the first a letter or a digit")


def _known(where: str, given: Any, known: Any) -> None:
    for name in given:
        if name not in known:
            raise invalid(where, name, "made of " + ", ".join(known), _nearest(name, known))


def _one_of(what: str, given: Any, known: Any) -> None:
    if given not in known:
        raise invalid(what, given, "one of " + ", ".join(map(str, known)), _nearest(str(given), map(str, known)))


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"Did you mean {' or '.join(near)}?" if near else ""


def _alone(what: str, values: list[Any]) -> None:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise invalid(what, twice, "there once")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
