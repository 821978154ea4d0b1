"""The paper's numbers, cell by cell."""

from __future__ import annotations

import pytest

from sharp_maml_core.config import VARIANTS
from sharp_maml_core.errors import UserError
from sharp_maml_core.theory.paper_tables import REPORTED, TABLES, accuracy, cells, gains, reported, training_time


@pytest.mark.parametrize(
    ("table", "rows", "total"),
    [(1, 11, 533.40), (2, 9, 561.21), (3, 7, 343.81), (4, 7, 643.72), (5, 7, 679.53)],
)
def test_columns_add_up_to_what_was_read_off_the_page(table: int, rows: int, total: float) -> None:
    column = [cell.value for cell in cells() if cell.table == table and cell.column == "accuracy"]
    assert len(column) == rows
    assert sum(column) == pytest.approx(total, abs=1e-9)


def test_table_3_has_the_only_times_and_repeats_table_1() -> None:
    times = [cell for cell in cells() if cell.column == "time"]
    assert {cell.table for cell in times} == {3}
    assert sum(cell.value for cell in times) == pytest.approx(16.60, abs=1e-9)
    for method in ("maml", "low", "up", "both"):
        assert accuracy(3, method) == accuracy(1, method)


def test_the_text_repeats_cells_of_the_tables() -> None:
    """Appendix E; Section 5.4: +1.90% and only 20% more computation."""
    assert (accuracy(4, "both"), accuracy(4, "maml")) == (93.47, 91.77)
    assert accuracy(3, "e-low-anil") - accuracy(3, "maml") == pytest.approx(1.90, abs=1e-9)
    assert training_time("e-low-anil") == 1.20


def test_cells_have_the_digits_that_are_printed_and_no_interval() -> None:
    assert next(cell.printed for cell in cells() if cell.table == 4) == "93.8"
    assert all(cell.interval is None for cell in cells())
    assert len({(cell.table, cell.row, cell.column) for cell in cells()}) == len(list(cells())) == 48


def test_rows_of_the_family_have_the_names_of_this_package() -> None:
    family = {row.method for table in TABLES.values() for row in table.rows if "MAML" in row.printed}
    assert family - {"imaml", "bmaml"} <= set(VARIANTS)
    assert {table.dataset for table in TABLES.values()} == {"miniimagenet", "omniglot"}


def test_gains_are_over_the_papers_own_maml() -> None:
    assert gains(4) == pytest.approx({"low": 1.12, "up": 1.19, "both": 1.70})
    with pytest.raises(UserError, match="table=6"):
        gains(6)


def test_sources_are_found_by_the_setting_of_a_table() -> None:
    assert (reported("maml", 2).accuracy, reported("maml", 2).interval) == (63.11, 0.92)
    assert reported("maml", 1) == reported("maml", 3)
    assert len({entry[:4] for entry in REPORTED}) == len(REPORTED)


def test_unknown_cells_are_refused_with_what_there_is() -> None:
    with pytest.raises(UserError, match=r"table=6.*1, 2, 3, 4, 5"):
        accuracy(6, "maml")
    with pytest.raises(UserError, match=r"method='anil'.*low-anil"):
        accuracy(3, "anil")
    with pytest.raises(UserError, match="method='reptile'"):
        training_time("reptile")
    with pytest.raises(UserError, match="method='bmaml'"):
        reported("bmaml", 1)
    with pytest.raises(UserError, match="table=0"):
        reported("maml", 0)
