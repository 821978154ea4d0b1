"""Results as tables of text: the paper's with ours beside them, and those of our groups of cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from . import published
from .checks import check
from .config import VARIANTS, Config
from .contrasts import Gap, generalization_error
from .groups import Against, Line, by_the_papers_rule, cells_of, finding, names, on_as_many_images
from .groups import lines as lines_of
from .published import PAPER, Ours, Result, Setting
from .theory.paper_tables import A_TABLE, GENERALIZATION_ERRORS, TABLES, gains

Rows = list[dict[str, str]]
"""A dict a row, with the same keys, the headings, in each."""

DETAILS = "seeds; test tasks; iterations"
OTHER_LENGTH = "of another length"
AS_MANY, TWICE = "points over MAML on as many images", "for twice the iterations"
LENGTH = ("iterations", "eval_every", "val_tasks", "eval_tasks")  # how long a run is and how closely it is watched
IMAGES = "thousand images"  # `groups.Line.images`: an upper perturbation's count twice


def paper_rows(results: Sequence[Result], number: int, schedule: str = PAPER) -> Rows:
    """A table of the paper: what it prints, our figure from runs of that schedule, and, at its own length, the verdict.

    Raises UserError for a table that there is not.
    """
    rows = []
    for row, found in paper_cells(results, number, schedule).items():
        printed = next(entry for entry in TABLES[number].rows if entry.method == row)
        verdict = published.verdict(float(printed.accuracy), found)
        rows.append(
            {
                "method": printed.printed,
                "paper": printed.accuracy,
                "ours": "" if found is None else accuracy(found),
                DETAILS: "" if found is None else details(found),
                "verdict": verdict if found is None or schedule == PAPER else OTHER_LENGTH,
            }
        )
    return rows


def paper_cells(results: Sequence[Result], number: int, schedule: str = PAPER) -> dict[str, Ours | None]:
    """Our figures for the rows of a table of the paper, by method; None for what was not run."""
    check("number", number, A_TABLE)
    table = TABLES[number]
    return {row.method: published.ours(results, Setting(*table[:3], row.method, schedule)) for row in table.rows}


def notes(results: Sequence[Result], number: int, schedule: str = PAPER) -> list[str]:
    """What has to be said with our figures of a table, as that classes are missing."""
    found = [ours for ours in paper_cells(results, number, schedule).values() if ours is not None]
    return sorted({note for ours in found for note in ours.notes})


def group_rows(lines: Sequence[Line]) -> Rows:
    """The cells of a group: accuracy, cost, and the paired difference to each baseline."""
    baselines = list(dict.fromkeys(one.baseline for line in lines for one in line.against))
    rows = []
    for line in lines:
        against = {one.baseline: one for one in line.against}
        row = {
            "cell": line.name,
            "accuracy, %": accuracy(line.ours),
            DETAILS: details(line.ours),
            IMAGES: f"{line.images / 1000:,.0f}",
        }
        for name in baselines:
            one = against.get(name)
            row[f"less {name}, points"] = "" if one is None else one.difference.text + ("*" if one.clear else "")
        rows.append(row)
    return rows


def claims(results: Sequence[Result]) -> Rows:
    """The claim that a variant is more accurate than MAML, in each of our groups of runs.

    Against the MAML that trains on as many images, with the operations in multiples of that one's, and against the MAML
    of twice the iterations, which the paper has beside every variant.
    """
    rows = []
    for group in names(results):
        lines = lines_of(results, group)
        told = ", ".join((group, *group_notes(lines)))
        papers = {line.name: one for line, one in by_the_papers_rule(lines)}
        for line, one in on_as_many_images(lines):
            twice = papers.get(line.name)
            rows.append(
                {
                    "runs": told,
                    "variant": line.name,
                    "radius": f"{line.radius:g}",
                    "operations": f"{one.operations:.1f} times",
                    AS_MANY: _found(one),
                    TWICE: "" if twice is None else _found(twice),
                }
            )
    return rows


def _found(one: Against) -> str:
    return f"{one.difference.text}: {finding(one)}"


def printed_gain(results: Sequence[Result], group: str) -> float | None:
    """The most points by which the paper prints a variant above MAML in a group's setting; None without a table."""
    settings = {published.setting_of(run)[:3] for run in results if run.get("cell", {}).get("group") == group}
    found = [max(gains(number).values()) for number, table in TABLES.items() if table[:3] in settings]
    return max(found, default=None)


def gaps(results: Sequence[Result]) -> Rows:
    """The generalisation error of Section 5.3 of each of our cells, and the paper's beside those of its own length."""
    rows = []
    for group in names(results):
        cells = cells_of(results, group)
        notes = {note for runs in cells.values() for run in runs for note in run.get("data_notes", {}).values()}
        told = ", ".join((group, *sorted(notes)))  # as of `group_notes`, without comparing the cells for it
        for name, runs in cells.items():
            gap = generalization_error(runs)
            if gap is not None:
                printed = _printed_gap(published.setting_of(runs[0])) if name in ("maml", "both") else None
                rows.append(
                    {
                        "group": told,
                        "cell": name,
                        "gap, points": accuracy(gap),
                        "the paper": "" if printed is None else f"{printed:.2f}",
                    }
                )
    return rows


def _printed_gap(setting: Setting) -> float | None:
    numbers = [number for number, table in TABLES.items() if table[:3] == setting[:3] and setting.schedule == PAPER]
    return next((e for (m, n), e in GENERALIZATION_ERRORS.items() if m == setting.method and n in numbers), None)


def group_notes(lines: Sequence[Line]) -> list[str]:
    """What has to be said with a group's figures, as that classes are missing."""
    return sorted({note for line in lines for note in line.ours.notes})


def times(benchmark: Mapping[str, Any]) -> Rows:
    """The time column of Table 3 in multiples of MAML's, and ours by a result of `benchmarks/speed.py`.

    The ratio of the medians of its rounds, and in seconds that median, the least and the most.
    """
    seconds = benchmark["results"]["mini-ImageNet, 5-way 1-shot"]["seconds"]
    return [
        {
            "method": row.printed,
            "paper": row.time,
            "ours": f"{seconds[row.method]['median'] / seconds['maml']['median']:.2f}",
            "seconds": "{median:.2f} ({min:.2f} to {max:.2f})".format_map(seconds[row.method]),
        }
        for row in TABLES[3].rows
    ]


def trials(results: Sequence[Result], dataset: str) -> Rows:
    """The runs on a data set that belong to no cell, each with the settings that are not its variant's defaults.

    Of one seed, so that the interval is over test tasks alone, and nothing is compared.
    """
    runs = [run for run in results if "cell" not in run and run["config"]["dataset"] == dataset]
    rows = []
    for run in sorted(runs, key=lambda run: VARIANTS.index(run["config"]["variant"])):
        variant, best = run["config"]["variant"], run["best"]
        usual = Config(variant, device="auto").to_dict()
        given = {name: value for name, value in published.settings(run).items() if value != usual[name]}
        rows.append(
            {
                "variant": variant,
                "accuracy, %": f"{100 * best['mean']:.1f} ± {100 * best['interval_95']:.1f}",
                "iterations": str(run["iterations"]),
                "minutes": f"{run['seconds'] / 60:.1f}",
                "settings": ", ".join(f"{name}={value}" for name, value in given.items() if name not in LENGTH),
            }
        )
    return rows


def accuracy(found: Ours | Gap) -> str:
    """Mean and 95% interval over seeds, of an accuracy or a gap between two; of a single seed, the mean alone."""
    return f"{found.mean:.2f}" + ("" if math.isnan(found.interval) else f" ± {found.interval:.2f}")


def details(found: Ours) -> str:
    """Seeds, test tasks and iterations of each run; of several settings, that it is the best on validation."""
    chosen = f"; the best of {found.candidates} settings on validation" if found.candidates > 1 else ""
    return f"{', '.join(map(str, found.seeds))}; {found.tasks}; {found.iterations}{chosen}"
