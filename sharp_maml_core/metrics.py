"""metrics.csv: one line an iteration, appended to; what a killed process left beyond the checkpoint is cut off."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from .errors import UserError
from .files import write_text
from .train import Row

COLUMNS = (
    "iteration",
    "query_loss",
    "query_accuracy",
    "perturbed_loss",
    "gradient_norm",
    "val_score",
    "val_interval",
    "cg_residual",  # imaml
    "cg_stopped",
    "log_det",  # llama
    "chaser_loss",  # bmaml
)


def read_rows(path: Path) -> list[Row]:
    """The whole lines of a metrics file; empty cells are left out. Raises UserError for one that is damaged."""
    if not path.exists():
        return []
    try:
        text = path.read_text()
        whole = text[: text.rfind("\n") + 1]  # a killed process may leave half a line
        found = csv.DictReader(io.StringIO(whole), restkey="more")
        return [{key: float(value) for key, value in row.items() if value} for row in found]
    except (ValueError, TypeError) as error:  # a cell that is no number; cells beyond the last column
        raise damaged(path, str(error)) from None


def append(path: Path, rows: list[Row]) -> None:
    """Append the rows that the file has not got."""
    done = _last(path)
    new = [row for row in rows if row["iteration"] > done]
    with path.open("a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write(",".join(COLUMNS) + "\n")
        file.writelines(_line(row) for row in new)
        file.flush()
        os.fsync(file.fileno())


def cut(path: Path, iteration: int) -> list[Row]:
    """Drop what goes beyond `iteration`; returns what is left."""
    rows = [row for row in read_rows(path) if row["iteration"] <= iteration]
    if path.exists():
        write_text(path, ",".join(COLUMNS) + "\n" + "".join(_line(row) for row in rows))
    return rows


def damaged(path: Path, why: str) -> UserError:
    """What is said of a metrics file that is not what the run wrote."""
    return UserError(f"{path} is damaged ({why}): restore a copy, or set overwrite=True to begin again.")


def _line(row: Row) -> str:
    cells = [repr(row[name]) if name in row else "" for name in COLUMNS]
    return ",".join([str(int(row["iteration"])), *cells[1:]]) + "\n"


def _last(path: Path) -> int:
    """From the end of the file, which is whole: `cut` saw to that."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 4096))
        last = file.read().decode().strip().rpartition("\n")[2]
    first = last.partition(",")[0]
    return int(first) if first.isdigit() else 0
