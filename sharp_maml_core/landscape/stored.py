"""The slices of Figures 1 and 4, computed once and stored: a reader redraws them without data and without waiting.

    python -m sharp_maml_core.landscape slices --dataset cifar-fs --data-root DATA --out book/results/landscapes

Each slice is a file of its own, with its settings and its provenance. The command goes on where it was stopped: a slice
that is there with the same settings is not computed again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..checks import at_least, check
from ..errors import invalid
from ..files import write_text
from ..output import say
from ..params import Params
from ..results import provenance
from .compared import ERM, FUNCTIONS, Compared, compare, steep_frame
from .directions import random_frame
from .slices import Slice, describe_range, from_json, local_minima, take_slice, to_json

VARIANTS = ("maml", "low", "up", "both")
RANDOM, STEEP = "random", "steep"
ERM_STEPS = 400
META_POINTS = 21  # along each axis, of the meta-objective at most: a point of it costs as much as 8 of one task's loss
STEEP_RADII = 4.0  # a steep slice goes this many alpha each way


class Recipe(NamedTuple):
    """One slice: a function of `compared.FUNCTIONS`, around a model, on a kind of plane.

    plane  "random": two filter-normalised directions, coordinates from -1 to 1, as in the paper's figures;
           "steep": the gradient and the top Hessian eigenvector, 4 alpha each way, where the ball is seen
    """

    figure: str
    plane: str
    function: str
    model: str

    @property
    def name(self) -> str:
        return f"{self.plane}-{self.function}-at-{self.model}"


RECIPES = (
    Recipe("figure 1", RANDOM, "maml", "maml"),
    Recipe("figure 1", RANDOM, "erm", ERM),
    Recipe("figure 1", RANDOM, "erm", "maml"),
    Recipe("figure 1", RANDOM, "maml", ERM),
    Recipe("figure 1", RANDOM, "same", ERM),
    *(Recipe("figure 4", RANDOM, "maml", variant) for variant in VARIANTS[1:]),
    *(Recipe("figure 4", STEEP, "maml", variant) for variant in VARIANTS),
    *(Recipe("figure 4", RANDOM, "meta", variant) for variant in VARIANTS),
)
"""All that is stored for a data set. The first of Figure 4, maml at maml, is the first of Figure 1."""


class Stored(NamedTuple):
    """One file: the recipe, the slice, alpha, and where it comes from."""

    recipe: Recipe
    cut: Slice
    alpha: float
    settings: dict[str, Any]
    provenance: dict[str, Any]


def add_command(commands: Any) -> None:
    """The subcommand `slices`."""
    command = commands.add_parser("slices", help="the slices of Figures 1 and 4", description=__doc__.splitlines()[0])
    command.set_defaults(run=run)
    command.add_argument("--dataset", default="cifar-fs", help="whose pretrained models (default cifar-fs)")
    command.add_argument("--data-root", help="folder of the data sets")
    command.add_argument("--out", default="book/results/landscapes", help="folder of the results")
    command.add_argument("--points", type=int, default=51, help="of the grid, along each axis (default 51)")
    command.add_argument("--seed", type=int, default=0, help="of the models and of the directions (default 0)")
    command.add_argument("--task-seed", type=int, default=0, help="of the task (default 0)")
    command.add_argument("--only", nargs="+", metavar="NAME", help=f"some of {', '.join(r.name for r in RECIPES)}")
    command.add_argument("--device", default="cpu", help="cpu, cuda, ... (default cpu)")
    command.add_argument("--quiet", action="store_true", help="no progress bars")


def run(options: argparse.Namespace) -> int:
    """Compute and store what is not there yet, and say what each slice shows."""
    check("points", options.points, at_least(2))
    chosen = _chosen(options.only)
    folder = Path(options.out).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    compared = compare(
        options.dataset,
        VARIANTS,  # all, whatever is chosen: alpha is the largest of theirs
        seed=options.seed,
        task_seed=options.task_seed,
        data_root=options.data_root,
        device=options.device,
        erm_steps=ERM_STEPS if any(recipe.model == ERM for recipe in chosen) else 0,
        progress=not options.quiet,
    )
    for recipe in chosen:
        path = folder / f"{options.dataset}-{recipe.name}.json"
        settings = settings_of(compared, recipe, options.points, options.seed, options.task_seed)
        stored = read(path) if path.exists() else None
        if stored is None or stored.settings != settings:
            compute(compared, recipe, settings, path, progress=not options.quiet)
        say(describe(read(path)))
    return 0


def settings_of(compared: Compared, recipe: Recipe, points: int, seed: int, task_seed: int) -> dict[str, Any]:
    """All that decides the numbers of a slice."""
    return {
        "dataset": compared.config.dataset,
        "data": compared.split.identity,
        "classes": list(compared.task.classes),
        "n_way": compared.config.n_way,
        "k_shot": compared.config.k_shot,
        "n_query": compared.config.n_query,
        "inner_lr": compared.config.inner_lr,
        "inner_steps": compared.config.inner_steps,
        "model_seed": seed,
        "model_sha256": digest(compared.models[recipe.model]),
        "direction_seed": seed,
        "task_seed": task_seed,
        "erm_steps": ERM_STEPS,
        "points": min(points, META_POINTS) if recipe.function == "meta" else points,
        "alpha": compared.alpha,
    }


def compute(compared: Compared, recipe: Recipe, settings: dict[str, Any], path: Path, progress: bool = False) -> None:
    """Take one slice and write its file."""
    came_from = provenance(next(iter(compared.models[recipe.model].values())).device)
    start = time.perf_counter()
    surface, params = compared.functions[recipe.function], compared.models[recipe.model]
    if recipe.plane == STEEP:
        frame = steep_frame(surface, params, settings["direction_seed"])
        reach = STEEP_RADII * compared.alpha
    else:
        frame, reach = random_frame(params, settings["direction_seed"]), 1.0
    cut = take_slice(
        surface, frame, centre=recipe.name, ranges=[(-reach, reach)] * 2, points=settings["points"], progress=progress
    )
    values = {
        "recipe": recipe._asdict(),
        "shows": FUNCTIONS[recipe.function],
        "local_minima": len(local_minima(cut)),
        "settings": settings,
        "seconds": round(time.perf_counter() - start, 1),
        "provenance": came_from,
        "slice": to_json(cut),
    }
    # On lines of their own, the rows would be most of the repository's lines.
    write_text(path, json.dumps(values, allow_nan=False) + "\n")


def read(path: Path) -> Stored:
    """What `compute` wrote. Raises UserError, naming the file, for anything else."""
    try:
        values = json.loads(path.read_text())
        return Stored(
            Recipe(**values["recipe"]),
            from_json(values["slice"]),
            values["settings"]["alpha"],
            values["settings"],
            values["provenance"],
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise invalid("slices", str(path), f"a stored slice ({error!r})", "Delete it to compute it again.") from None


def read_all(folder: Path, dataset: str) -> dict[str, Stored]:
    """All stored slices of a data set, by the names of their recipes; empty where there are none."""
    found = [read(path) for path in sorted(folder.glob(f"{dataset}-*-at-*.json"))]
    return {stored.recipe.name: stored for stored in found}


def stamp(slices: Sequence[Stored]) -> str:
    """Where the slices of one figure come from, in one line under it. Raises UserError for none."""
    if not slices:
        raise invalid("slices", slices, "at least one")
    settings = slices[0].settings
    origins = " and ".join(sorted({origin(stored.provenance) for stored in slices}))
    return (
        f"{settings['dataset']}, task seed {settings['task_seed']}, model and direction seed {settings['model_seed']}; "
        f"{origins}"
    )


def origin(provenance: dict[str, Any]) -> str:
    """The machine, the day and the code of a stored file."""
    commit, plus, _ = provenance["commit"].partition("+")
    return f"{provenance['device']}, {provenance['started'][:10]}, commit {commit[:7]}{' with changes' if plus else ''}"


def describe(stored: Stored) -> str:
    """The slice's figures in one line."""
    return (
        f"{stored.recipe.name}: loss {stored.cut.origin_loss:.4f} at the origin, {describe_range(stored.cut)} on "
        f"{'x'.join(str(len(c)) for c in stored.cut.coordinates)} points, {len(local_minima(stored.cut))} local minima"
    )


def digest(params: Params) -> str:
    """SHA-256 over names and values."""
    total = hashlib.sha256()
    for name, value in params.items():
        total.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def _chosen(only: list[str] | None) -> tuple[Recipe, ...]:
    names = [recipe.name for recipe in RECIPES]
    for name in only or []:
        if name not in names:
            raise invalid("only", name, "some of " + ", ".join(names))
    return tuple(recipe for recipe in RECIPES if only is None or recipe.name in only)
