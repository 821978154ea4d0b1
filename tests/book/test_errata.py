"""Every figure of the errata page is what the function that it names computes now."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest

from sharp_maml_core.theory import errata

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
PAGE = (ROOT / "book" / "errata.md").read_text(encoding="utf-8")
VERDICTS = ("holds", "slip", "proof incomplete", "false")


class Section(NamedTuple):
    """One statement on the page: its heading, the verdict, the figures as printed, the function behind them."""

    title: str
    verdict: str
    figures: dict[str, str]
    function: str


def _sections() -> list[Section]:
    found = []
    for text in re.split(r"^#{2,3} ", PAGE, flags=re.MULTILINE)[1:]:
        functions = re.findall(r"^Checked by `sharp_maml_core\.theory\.errata\.([\w.]+)`\.$", text, re.MULTILINE)
        if not functions:
            continue  # a heading of several sections
        title = text.splitlines()[0]
        assert len(functions) == 1, title
        (verdict,) = re.findall(r"^\*\*Verdict: ([a-z ]+)\.\*\*", text, re.MULTILINE)
        rows = re.findall(r"^\| `([^`]+)` \| (.+?) \|$", text, re.MULTILINE)
        assert len(dict(rows)) == len(rows), title
        found.append(Section(title, verdict, dict(rows), functions[0]))
    return found


SECTIONS = _sections()


def _functions() -> dict[str, Callable[[], errata.Figures]]:
    modules = [module.name for module in pkgutil.iter_modules(errata.__path__)]
    loaded = {name: importlib.import_module(f"{errata.__name__}.{name}") for name in modules}
    return {
        f"{name}.{function.__name__}": function
        for name, module in loaded.items()
        for _, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not function.__name__.startswith("_")
    }


FUNCTIONS = _functions()


def _is_rounded(printed: str, value: float) -> bool:
    if bound := re.fullmatch(r"< (\S+)", printed):
        return abs(value) < float(bound[1])
    if not math.isfinite(value):
        return float(printed) == value
    shown = Decimal(printed.replace(",", ""))
    unit = Decimal(1).scaleb(int(shown.as_tuple().exponent))
    # Half a unit of the last printed digit; the small rest is for values that lie on the edge.
    return abs(Decimal(value) - shown) <= unit * Decimal("0.5000001")


@pytest.mark.parametrize(
    ("printed", "value", "right"),
    [
        ("0.055", 0.05549, True),
        ("0.055", 0.0556, False),
        ("121,093", 121093, True),
        ("4.1e-10", 4.14e-10, True),
        ("4.1e-10", 4.2e-10, False),
        ("< 1e-9", -4e-10, True),
        ("< 1e-9", 4e-9, False),
        ("inf", math.inf, True),
    ],
)
def test_a_printed_figure_is_the_rounded_one(printed: str, value: float, right: bool) -> None:
    assert _is_rounded(printed, value) == right


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.function)
def test_the_figures_are_what_the_function_computes(section: Section) -> None:
    assert section.verdict in VERDICTS
    computed = FUNCTIONS[section.function]()
    assert section.figures.keys() == computed.keys()
    for name, printed in section.figures.items():
        assert _is_rounded(printed, computed[name]), f"{name}: the page says {printed}, the function {computed[name]!r}"


def test_the_page_counts_its_verdicts() -> None:
    (said,) = re.findall(
        r"^(\d+) statements: (\d+) hold, (\d+) are slips, (\d+) have .+ proof, (\d+) are false", PAGE, re.M
    )
    counts = [sum(section.verdict == verdict for section in SECTIONS) for verdict in VERDICTS]
    assert list(map(int, said)) == [len(SECTIONS), *counts]
    assert f"The errata page: {len(SECTIONS)} statements" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_check_is_on_the_page_once_and_has_a_test_of_its_own() -> None:
    assert sorted(section.function for section in SECTIONS) == sorted(FUNCTIONS)
    assert len(SECTIONS) >= 15
    tests = "\n".join(path.read_text() for path in (ROOT / "tests" / "theory").glob("test_errata_*.py"))
    for name in FUNCTIONS:
        assert re.search(rf"\b{name.partition('.')[2]}\(\)", tests), f"no test calls {name}"
