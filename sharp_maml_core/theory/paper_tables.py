"""Tables 1 to 5 of the paper, cell by cell as printed, and what the papers that they quote report themselves.

The paper prints no interval, no number of test tasks and no spread over its three seeds: `interval` is None throughout.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..checks import Allowed, check, one_of
from ..errors import invalid


class Row(NamedTuple):
    """One line of a table.

    method    a key of this package: the name of `Config.variant` where there is one
    printed   the paper's name, a subscript after "_", with the paper's citation
    accuracy  percent, with the digits that are printed
    time      training time in multiples of MAML's (Table 3 only), with the digits that are printed
    """

    method: str
    printed: str
    accuracy: str
    time: str = ""


class Table(NamedTuple):
    """A table of the paper; `dataset` as in `Config`."""

    dataset: str
    n_way: int
    k_shot: int
    rows: tuple[Row, ...]


class Cell(NamedTuple):
    """A number of the paper with its place. `interval` is the half-width that is printed with it, None for none."""

    table: int
    row: str
    column: str
    printed: str
    value: float
    interval: float | None = None


class Reported(NamedTuple):
    """What a quoted paper itself says: percent, and the half-width of its 95% interval (None: it gives none)."""

    method: str
    dataset: str
    n_way: int
    k_shot: int
    accuracy: float
    interval: float | None
    source: str


TABLES = {
    1: Table(
        "miniimagenet",
        5,
        1,
        (
            Row("matching-nets", "Matching Nets", "43.56"),
            Row("imaml", "iMAML (Rajeswaran et al., 2019b)", "49.30"),
            Row("cavia", "CAVIA (Zintgraf et al., 2019b)", "47.24"),
            Row("reptile", "Reptile (Nichol & Schulman, 2018)", "49.97"),
            Row("fomaml", "FOMAML (Nichol & Schulman, 2018)", "48.07"),
            Row("llama", "LLAMA (Grant et al., 2018b)", "49.40"),
            Row("bmaml", "BMAML (Yoon et al., 2018)", "49.17"),
            Row("maml", "MAML (reproduced)", "47.13"),
            Row("low", "Sharp-MAML_low", "49.72"),
            Row("up", "Sharp-MAML_up", "49.56"),
            Row("both", "Sharp-MAML_both", "50.28"),
        ),
    ),
    2: Table(
        "miniimagenet",
        5,
        5,
        (
            Row("matching-nets", "Matching Nets", "55.31"),
            Row("cavia", "CAVIA (Zintgraf et al., 2019b)", "59.05"),
            Row("reptile", "Reptile (Nichol & Schulman, 2018)", "65.99"),
            Row("fomaml", "FOMAML (Nichol & Schulman, 2018)", "63.15"),
            Row("bmaml", "BMAML (Yoon et al., 2018)", "64.23"),
            Row("maml", "MAML (reproduced)", "62.20"),
            Row("low", "Sharp-MAML_low", "63.18"),
            Row("up", "Sharp-MAML_up", "63.06"),
            Row("both", "Sharp-MAML_both", "65.04"),
        ),
    ),
    3: Table(
        "miniimagenet",
        5,
        1,
        (
            Row("maml", "MAML (reproduced)", "47.13", "1"),
            Row("low", "Sharp-MAML_low", "49.72", "2.60"),
            Row("up", "Sharp-MAML_up", "49.56", "3.60"),
            Row("both", "Sharp-MAML_both", "50.28", "4.60"),
            Row("low-anil", "Sharp-MAML_low-ANIL", "49.19", "1.40"),
            Row("e-low", "ESharp-MAML_low", "48.90", "2.20"),
            Row("e-low-anil", "ESharp-MAML_low-ANIL", "49.03", "1.20"),
        ),
    ),
    4: Table(
        "omniglot",
        20,
        1,
        (
            Row("matching-nets", "Matching Nets", "93.8"),
            Row("reptile", "Reptile (Nichol & Schulman, 2018)", "89.43"),
            Row("fomaml", "FOMAML (Nichol & Schulman, 2018)", "89.40"),
            Row("maml", "MAML (reproduced)", "91.77"),
            Row("low", "Sharp-MAML_low", "92.89"),
            Row("up", "Sharp-MAML_up", "92.96"),
            Row("both", "Sharp-MAML_both", "93.47"),
        ),
    ),
    5: Table(
        "omniglot",
        20,
        5,
        (
            Row("matching-nets", "Matching Nets", "98.50"),
            Row("fomaml", "FOMAML (Nichol & Schulman, 2018)", "97.12"),
            Row("reptile", "Reptile (Nichol & Schulman, 2018)", "97.90"),
            Row("maml", "MAML (reproduced)", "96.16"),
            Row("low", "Sharp-MAML_low", "96.59"),
            Row("up", "Sharp-MAML_up", "96.62"),
            Row("both", "Sharp-MAML_both", "96.64"),
        ),
    ),
}
"""The five tables by their number. Table 3's accuracies are Table 1's, and three more."""

GENERALIZATION_ERRORS = {("both", 1): 34.58, ("both", 2): 8.56, ("maml", 1): 37.46, ("maml", 2): 11.58}
"""Section 5.3's "generalization error" in percent, by method and by the table of its setting."""

A_TABLE = Allowed("one of 1, 2, 3, 4, 5", lambda value: value in TABLES)

# Sections 5.1 and E
SHARP = ("low", "up", "both")
RADII = (0.05, 0.005, 0.0005, 0.00005)
INNER_STEPS = (3, 5, 7, 10)
INNER_RATES = (0.1, 0.01, 0.001)
N_SEEDS = 3
N_QUERY = 15  # images of a class

FINN, NICHOL = "Finn et al. 2017", "Nichol & Schulman 2018"
RAVI, ZINTGRAF = "Ravi & Larochelle 2017", "Zintgraf et al. 2019"

REPORTED = (
    Reported("maml", "miniimagenet", 5, 1, 48.70, 1.84, FINN),
    Reported("maml", "miniimagenet", 5, 5, 63.11, 0.92, FINN),
    Reported("maml", "omniglot", 20, 1, 95.8, 0.3, FINN),
    Reported("maml", "omniglot", 20, 5, 98.9, 0.2, FINN),
    Reported("maml, 64 filters", "miniimagenet", 5, 1, 44.70, 1.69, ZINTGRAF),
    Reported("maml, 64 filters", "miniimagenet", 5, 5, 61.87, 0.93, ZINTGRAF),
    Reported("maml++", "omniglot", 20, 1, 97.65, None, "Antoniou et al. 2019"),
    Reported("fomaml", "miniimagenet", 5, 1, 48.07, 1.75, FINN),
    Reported("fomaml", "miniimagenet", 5, 5, 63.15, 0.91, FINN),
    Reported("fomaml", "omniglot", 20, 1, 89.4, 0.5, NICHOL),
    Reported("fomaml", "omniglot", 20, 5, 97.9, 0.1, NICHOL),
    Reported("reptile", "miniimagenet", 5, 1, 49.97, 0.32, NICHOL),
    Reported("reptile", "miniimagenet", 5, 5, 65.99, 0.58, NICHOL),
    Reported("reptile", "omniglot", 20, 1, 89.43, 0.14, NICHOL),
    Reported("reptile", "omniglot", 20, 5, 97.12, 0.32, NICHOL),
    Reported("reptile, not transductive", "miniimagenet", 5, 1, 47.07, 0.26, NICHOL),
    Reported("reptile, not transductive", "miniimagenet", 5, 5, 62.74, 0.37, NICHOL),
    Reported("imaml", "miniimagenet", 5, 1, 49.30, 1.88, "Rajeswaran et al. 2019"),
    Reported("llama", "miniimagenet", 5, 1, 49.40, 1.83, "Grant et al. 2018"),
    Reported("cavia", "miniimagenet", 5, 1, 47.24, 0.65, ZINTGRAF),
    Reported("cavia", "miniimagenet", 5, 5, 59.05, 0.54, ZINTGRAF),
    Reported("matching-nets", "miniimagenet", 5, 1, 43.56, 0.84, RAVI),
    Reported("matching-nets", "miniimagenet", 5, 5, 55.31, 0.73, RAVI),
    Reported("matching-nets", "omniglot", 20, 1, 93.8, None, "Vinyals et al. 2016"),
    Reported("matching-nets", "omniglot", 20, 5, 98.5, None, "Vinyals et al. 2016"),
)
"""The quoted results at their source. BMAML's two cells are left out: their source was not found."""


def cells() -> Iterator[Cell]:
    """Every number of the five tables."""
    for number, table in TABLES.items():
        for row in table.rows:
            for column, printed in (("accuracy", row.accuracy), ("time", row.time)):
                if printed:
                    yield Cell(number, row.method, column, printed, float(printed))


def accuracy(table: int, method: str) -> float:
    """The accuracy in percent that a table prints for a method. Raises UserError where there is no such cell."""
    return _cell(table, method, "accuracy")


def training_time(method: str) -> float:
    """Table 3's training time of a method in multiples of MAML's. Raises UserError for a method it has not."""
    return _cell(3, method, "time")


def gains(table: int) -> dict[str, float]:
    """How many points more than for its MAML a table prints for `low`, `up` and `both`. Raises UserError as above."""
    return {method: accuracy(table, method) - accuracy(table, "maml") for method in SHARP}


def reported(method: str, table: int) -> Reported:
    """What a method's own paper says about the setting of a table. Raises UserError where nothing is known."""
    check("table", table, A_TABLE)
    setting = TABLES[table][:3]
    for entry in REPORTED:
        if entry.method == method and entry[1:4] == setting:
            return entry
    raise invalid("method", method, f"one whose own paper reports {setting}")


def _cell(table: int, method: str, column: str) -> float:
    check("table", table, A_TABLE)
    found = {cell.row: cell.value for cell in cells() if cell.table == table and cell.column == column}
    check("method", method, one_of(*found))
    return found[method]
