"""What the runs of one group of cells say: a line for each cell, its difference to MAML on the same tasks, a sentence.

The cells of a group (`experiments/cells.toml`) are compared with each other: their runs share the data, the test tasks
and the length, and differ in what the group is about. A baseline is a cell that is plain MAML, as at once and at twice
the iterations; of several, those count whose other settings are the cell's, and for another system, where there are
none, all. A Sharp-MAML is never compared with a MAML of other settings: that would be the settings' difference, not the
perturbation's. A group that has no baseline takes those of the group of its schedule whose name it continues, where
these were tested on the same tasks: `omniglot-5way-1shot-short` lends them to `...-short-radii`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from . import operations
from .config import Config, config_from
from .contrasts import FREE_OF_RADII, meet, same
from .errors import invalid
from .learners.maml import KINDS
from .paired import Difference, compare, holm, same_tasks
from .published import SEEDS, Ours, Result, average, candidates, setting_of

SIGNIFICANCE = 0.05
FEW = "too few seeds"


class Against(NamedTuple):
    """A cell less a baseline: the paired difference, and its p value adjusted for all comparisons of the group.

    as_many_images  whether both train on as many images
    twice           whether the baseline trains for twice the cell's iterations
    operations      those of the cell in multiples of the baseline's, by count (`operations`)
    """

    baseline: str
    difference: Difference
    adjusted_p: float
    as_many_images: bool
    twice: bool
    operations: float

    @property
    def clear(self) -> bool:
        """At least three seeds, an interval without zero, and not by the number of comparisons alone."""
        return self.difference.significant and self.adjusted_p < SIGNIFICANCE


class Line(NamedTuple):
    """One cell of a group.

    name            without the group's: "both", "maml-2x", ...
    means           test accuracy of each run in percent, by seed
    images          that a run trains on, those of an upper perturbation counted twice: it takes two meta-gradients of
                    them
    radius          the larger of its two; 0 for what is not sharp
    against         one for each of its baselines that has a seed in common, each pair of cells once
    """

    name: str
    variant: str
    ours: Ours
    means: tuple[float, ...]
    images: int
    radius: float
    against: tuple[Against, ...]

    @property
    def sharp(self) -> bool:
        """Whether it is one of the paper's own methods."""
        return _sharp(self.variant)


def names(results: Sequence[Result]) -> list[str]:
    """The groups that have results, sorted."""
    return sorted({run["cell"]["group"] for run in results if "cell" in run})


def lines(results: Sequence[Result], group: str) -> list[Line]:
    """A line for each cell of the group that has results, baselines first; none for a group without.

    Raises UserError for a cell with a seed twice, or whose runs differ in more than their seed.
    """
    cells = cells_of(results, group)
    own = [name for name in sorted(cells, key=len) if variant_of(cells[name]) == "maml"]
    order = [*own, *(name for name in sorted(cells, key=lambda n: _place(cells[n])) if name not in own)]
    baselines = {name: cells[name] for name in own} or _lent(results, group)
    found = {
        (name, other): compare(cells[name], baselines[other])
        for name in order
        for other in _baselines(cells[name], baselines)
        if other not in order[order.index(name) :] and meet(cells[name], baselines[other])  # each pair once
        if own or same_tasks(cells[name], baselines[other])
    }
    adjusted = holm([difference.p for difference in found.values()])
    against: dict[str, list[Against]] = {name: [] for name in order}
    for ((name, other), difference), p in zip(found.items(), adjusted, strict=True):
        against[name].append(_against(other, cells[name], baselines[other], difference, p))
    return [_line(name, cells[name], tuple(against[name])) for name in order]


def cells_of(results: Sequence[Result], group: str) -> dict[str, list[Result]]:
    """The runs of each cell of a group, by its name without the group's; each sorted by seed.

    Raises UserError for a cell with a seed twice, or whose runs differ in more than their seed.
    """
    found: dict[str, list[Result]] = {}
    for run in results:
        if run.get("cell", {}).get("group") == group:
            found.setdefault(run["cell"]["name"].removeprefix(f"{group}-"), []).append(run)
    return {name: _one_cell(f"{group}-{name}", runs) for name, runs in found.items()}


def lender(results: Sequence[Result], group: str) -> str | None:
    """The group with results, of the same schedule, whose name this one's continues, the longest such; or None."""
    schedule = {run["cell"]["group"]: run["cell"]["schedule"] for run in results if "cell" in run}
    like = (name for name in schedule if group.startswith(f"{name}-") and schedule[name] == schedule.get(group))
    return max(like, key=len, default=None)


def _one_cell(name: str, runs: list[Result]) -> list[Result]:
    alike = candidates(runs, setting_of(runs[0]))
    if [len(each) for each in alike] != [len(runs)]:
        raise invalid(
            f"results of {name}",
            f"{len(runs)} runs of several settings or data",
            "runs that differ in their seed only",
            "Delete the files of the runs that its cell no longer means.",
        )
    return alike[0]


def _lent(results: Sequence[Result], group: str) -> dict[str, list[Result]]:
    """The plain MAML of the group whose name this one's continues; none where there is none."""
    continued = lender(results, group)
    cells = {} if continued is None else cells_of(results, continued)
    return _plain(cells)


def _plain(cells: dict[str, list[Result]]) -> dict[str, list[Result]]:
    return {name: runs for name, runs in cells.items() if variant_of(runs) == "maml"}


def _baselines(runs: list[Result], baselines: dict[str, list[Result]]) -> list[str]:
    """Those with the cell's own settings but for what makes the variant; for another system, where there are none, all.

    All too where not even data and test tasks are the cell's: `compare` then says so.
    """
    alike = [name for name, maml in baselines.items() if same(runs, maml, {*FREE_OF_RADII})]
    apart = _sharp(variant_of(runs)) and any(same_tasks(runs, maml) for maml in baselines.values())
    return alike or ([] if apart else list(baselines))


def _sharp(variant: str) -> bool:
    """Whether it is one of the paper's own methods."""
    kind = KINDS.get(variant)
    return kind is not None and (kind.low or kind.up)


def on_as_many_images(lines: Sequence[Line]) -> list[tuple[Line, Against]]:
    """Each Sharp-MAML with its difference to the MAML whose runs train on as many images, the group's or a lent one.

    These are a family of their own, the comparisons of the paper's claim: p is adjusted for their number alone.
    """
    return _family([(line, one) for line in lines if line.sharp for one in line.against if one.as_many_images])


def by_the_papers_rule(lines: Sequence[Line]) -> list[tuple[Line, Against]]:
    """The same with the MAML of twice the iterations, beside every variant: so Section 5.1 trains it. A family too."""
    return _family([(line, one) for line in lines if line.sharp for one in line.against if one.twice])


def _family(found: list[tuple[Line, Against]]) -> list[tuple[Line, Against]]:
    adjusted = holm([one.difference.p for _, one in found])
    return [(line, one._replace(adjusted_p=p)) for (line, one), p in zip(found, adjusted, strict=True)]


def worth_of_baseline(results: Sequence[Result], group: str) -> list[tuple[str, Against]]:
    """What the group's MAML is worth against plain MAML of other settings, as the paper's, on as many images.

    The group's own is that of the shortest name; each of its cells by name, with the difference to the other.
    """
    cells = _plain(cells_of(results, group))
    order = sorted(cells, key=len)
    own = [name for name in order if same(cells[name], cells[order[0]], {*FREE_OF_RADII})]
    found = {
        (name, other): compare(cells[name], cells[other])
        for name in own
        for other in order
        if other not in own and _images(cells[name]) == _images(cells[other]) and meet(cells[name], cells[other])
    }
    adjusted = holm([difference.p for difference in found.values()])
    return [
        (name, _against(other, cells[name], cells[other], difference, p))
        for ((name, other), difference), p in zip(found.items(), adjusted, strict=True)
    ]


def finding(against: Against) -> str:
    """better, worse, no difference is seen, too few seeds, or not clear after correction: by its interval alone."""
    if len(against.difference.seeds) < SEEDS:
        return FEW
    if not against.clear:
        return "not clear after correction" if against.difference.significant else "no difference is seen"
    return "better" if against.difference.mean > 0 else "worse"


def statement(name: str, against: Against) -> str:
    """What the comparison of a cell with a baseline says, in a sentence."""
    figures, said = f"{against.difference.text} points", finding(against)
    if said in ("better", "worse"):
        return f"{name} is {said} than {against.baseline}: {figures}."
    told = "of too few seeds to say anything" if said == FEW else said
    return f"{name} against {against.baseline}: {figures}; {told}."


def _against(name: str, runs: list[Result], baseline: list[Result], difference: Difference, p: float) -> Against:
    return Against(
        name,
        difference,
        p,
        _images(runs) == _images(baseline),
        baseline[0]["config"]["iterations"] == 2 * runs[0]["config"]["iterations"],
        operations.of_run(_config(runs)) / operations.of_run(_config(baseline)),
    )


def _line(name: str, runs: list[Result], against: tuple[Against, ...]) -> Line:
    means = tuple(100 * run["best"]["mean"] for run in runs)
    return Line(name, variant_of(runs), average(runs), means, _images(runs), _radius(runs), against)


def _config(runs: list[Result]) -> Config:
    return config_from(runs[0]["config"] | {"device": "auto"})  # of an older result, with what was the default then


def _images(runs: list[Result]) -> int:
    config = _config(runs)
    kind = KINDS.get(config.variant)
    upper = config.alpha_up > 0 and (kind is None or kind.up)
    an_iteration = config.n_tasks * config.way_of_training * (config.k_shot + config.n_query)
    return config.iterations * an_iteration * (2 if upper else 1)


def variant_of(runs: list[Result]) -> str:
    """The learner of a cell's runs, by the name in `Config`."""
    return runs[0]["config"]["variant"]


def _place(runs: list[Result]) -> tuple[int, float, str]:
    """In the order of the family, then by radius."""
    order = list(KINDS)
    variant = variant_of(runs)
    return (order.index(variant) if variant in order else len(order), _radius(runs), runs[0]["cell"]["name"])


def _radius(runs: list[Result]) -> float:
    """The larger of those that the variant has."""
    config = runs[0]["config"]
    kind = KINDS.get(variant_of(runs))
    low, up = (True, True) if kind is None else (kind.low, kind.up)
    return max(config["alpha_low"] if low else 0.0, config["alpha_up"] if up else 0.0)
