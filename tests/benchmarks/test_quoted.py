"""The times that the README and the book quote are those of the benchmark's result file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WRITTEN = json.loads((ROOT / "benchmarks/results/speed-amd-epyc-2-cores.json").read_text())
SHAPES = [WRITTEN["results"][title] for title in ("mini-ImageNet, 5-way 1-shot", "Omniglot, 20-way 1-shot")]


def ratios(figures: dict[str, Any], *variants: str) -> list[str]:
    return [f"{figures['relative_to_maml'][variant]:.2f}" for variant in variants]


def against(figures: dict[str, Any], suffix: str) -> str:
    median = {name: value["median"] for name, value in figures["seconds"].items()}
    return ", ".join(f"{median[f'Torchmeta {name}{suffix}'] / median[name]:.1f}" for name in ("maml", "both"))


def grows(figures: dict[str, Any]) -> str:
    peak = figures["peak_mib_by_inner_steps"]
    one, ten = (peak[steps]["peak"] - peak[steps]["before"] for steps in ("1", "10"))
    return f"{ten / one:.2f}"


@pytest.mark.parametrize(
    "row",
    [
        "| `maml` | {} s | {} s | 1 |".format(*(f"{figures['seconds']['maml']['median']:.2f}" for figures in SHAPES)),
        "| {} | {} |".format(*(" / ".join(ratios(figures, "low", "up", "both")) for figures in SHAPES)),
        "| {} | {} |".format(*(" / ".join(ratios(figures, "low-anil", "e-low", "e-low-anil")) for figures in SHAPES)),
        "update | {} times faster | {} times faster |".format(*(against(figures, "") for figures in SHAPES)),
        "too | {} times faster | {} times faster |".format(*(against(figures, ", kept memory") for figures in SHAPES)),
        "10 inner steps against 1, without the libraries' | {} | {} |".format(*map(grows, SHAPES)),
    ],
)
def test_the_readme_quotes_the_result_file(row: str) -> None:
    assert row in (ROOT / "README.md").read_text()


def test_the_readme_says_over_how_many_rounds() -> None:
    assert f"medians of {WRITTEN['rounds']} rounds" in (ROOT / "README.md").read_text()


def test_the_book_says_what_kept_memory_saves() -> None:
    median = {name: value["median"] for name, value in SHAPES[0]["seconds"].items()}

    def saved(with_it: str, without: str) -> str:
        return f"{1 - median[with_it] / median[without]:.0%}"

    maml, both = (saved(name, f"{name}, default allocator") for name in ("maml", "both"))
    theirs = [saved(f"Torchmeta {name}, kept memory", f"Torchmeta {name}") for name in ("maml", "both")]
    text = " ".join((ROOT / "book/speed.md").read_text().split())
    assert f"an iteration at 84×84 takes {maml} (`maml`) and {both} (`both`) less, and Torchmeta's," in text
    assert f"with its more large tensors, {theirs[0]} and {theirs[1]}." in text


def test_the_errata_quote_the_result_file() -> None:
    low, up, both = ratios(SHAPES[0], "low", "up", "both")
    assert f"{low}, {up} and {both} (`benchmarks/results`)" in (ROOT / "book/errata.md").read_text()
