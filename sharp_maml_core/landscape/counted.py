"""The claim of Figure 1, counted: does MAML's loss have more local minima than ERM's, on more than one task?

    python -m sharp_maml_core.landscape minima --dataset cifar-fs --data-root DATA --out book/results/landscapes

For each of several test tasks: MAML's loss and ERM's, around the meta-model and around a model trained by ERM on that
task, on one random plane each. How many minima a grid has depends on the grid: what may be compared are counts on equal
grids, and beside the counts how deep the minima are.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import pretrained
from ..checks import at_least, check
from ..errors import invalid
from ..files import write_text
from ..output import say
from ..results import provenance
from .compared import ERM, compare
from .directions import random_frame
from .prominence import prominences
from .slices import finite_range, take_slice
from .stored import ERM_STEPS, digest
from .summary import Mean, mean_of

PAIRS = (("maml", "maml"), ("erm", ERM), ("maml", ERM), ("erm", "maml"), ("same", ERM))
"""(function, model), as in `compared`. The first two are those of the paper's figure; the second and the last differ in
the function alone, with the same data, as in Lemma 1."""

VALLEY = 0.01
"""Cross-entropy: a minimum that is deeper than this is counted as a valley too."""


class Count(NamedTuple):
    """Over the tasks, of one function around one model: local minima, those deeper than VALLEY, the losses' range.

    The range is over tasks with finite losses, and NaN, of none, where there are none.
    """

    minima: Mean
    valleys: Mean
    spread: Mean


def count_task(
    settings: dict[str, Any], task_seed: int, data_root: str | None = None, progress: bool = False
) -> dict[str, Any]:
    """The minima of one task: of each pair how many, the finite prominences, and the range of the finite losses.

    The range is None on a plane without a finite loss, which has no minima either.

    task_seed  also of the directions
    """
    dataset, points = settings["dataset"], settings["points"]
    compared = compare(
        dataset,
        ("maml",),
        seed=settings["model_seed"],
        task_seed=task_seed,
        data_root=data_root,
        erm_steps=settings["erm_steps"],
        progress=progress,
    )
    found: dict[str, Any] = {"task_seed": task_seed}
    for function, model in PAIRS:
        name = f"{function}-at-{model}"
        frame = random_frame(compared.models[model], task_seed)
        title = f"task {task_seed}: {name}"
        cut = take_slice(compared.functions[function], frame, centre=title, points=points, progress=progress)
        climbs, losses = prominences(cut), finite_range(cut)
        found[name] = {
            "minima": len(climbs),
            "prominences": sorted(round(climb, 6) for climb in climbs if climb < math.inf),
            "range": losses and [round(loss, 6) for loss in losses],
        }
    return found


def read(folder: Path, dataset: str) -> dict[str, Any] | None:
    """The counts of a data set, or None where there are none. Raises UserError, naming the file, for a damaged one."""
    path = folder / f"{dataset}-minima.json"
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict) or not {"settings", "tasks"} <= set(values):
            raise ValueError("it lacks a part")
        return values
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise invalid("minima", str(path), f"what the command wrote ({error})", "Delete it to count again.") from None


def counts(values: dict[str, Any]) -> dict[str, Count]:
    """What the stored file says of each pair, with Student intervals over its tasks.

    The lowest minimum of a plane has no finite prominence and counts as a valley.
    """
    found = {}
    for function, model in PAIRS:
        name = f"{function}-at-{model}"
        tasks = [task[name] for task in values["tasks"]]
        valleys = [
            sum(climb > VALLEY for climb in task["prominences"]) + task["minima"] - len(task["prominences"])
            for task in tasks
        ]
        spreads = [task["range"][1] - task["range"][0] for task in tasks if task["range"] is not None]
        found[name] = Count(
            mean_of([task["minima"] for task in tasks]),
            mean_of(valleys),
            mean_of(spreads) if spreads else Mean(math.nan, math.nan, 0),
        )
    return found


def add_command(commands: Any) -> None:
    """The subcommand `minima`."""
    about = "the local minima of MAML's loss and of ERM's, over several tasks"
    command = commands.add_parser("minima", help=about, description=about)
    command.set_defaults(run=run)
    command.add_argument("--dataset", default="cifar-fs", help="whose pretrained model (default cifar-fs)")
    command.add_argument("--data-root", help="folder of the data sets")
    command.add_argument("--out", default="book/results/landscapes", help="folder of the results")
    command.add_argument("--tasks", type=int, default=6, help="how many (default 6)")
    command.add_argument("--points", type=int, default=25, help="of the grid, along each axis (default 25)")
    command.add_argument("--seed", type=int, default=0, help="of the model (default 0)")
    command.add_argument("--quiet", action="store_true", help="no progress bars")


def run(options: argparse.Namespace) -> int:
    """Count on the tasks that the file does not have yet, and say what comes out."""
    check("tasks", options.tasks, at_least(2))
    check("points", options.points, at_least(2))
    path = Path(options.out).expanduser() / f"{options.dataset}-minima.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "dataset": options.dataset,
        "model_seed": options.seed,
        "model_sha256": digest(pretrained.load(f"{options.dataset}-maml-seed{options.seed}").params),
        "points": options.points,
        "erm_steps": ERM_STEPS,
    }
    values = read(path.parent, options.dataset) or {}
    if values.get("settings") != settings:
        values = {"settings": settings, "tasks": []}
    for task_seed in range(len(values["tasks"]), options.tasks):
        came_from = provenance(torch.device("cpu"))
        values["tasks"].append(count_task(settings, task_seed, options.data_root, not options.quiet))
        values["provenance"] = came_from
        write_text(path, json.dumps(values, allow_nan=False) + "\n")
    for name, count in counts(values).items():
        say(
            f"{name}: {count.minima.mean:.1f} +- {count.minima.interval:.1f} local minima, {count.valleys.mean:.1f} +- "
            f"{count.valleys.interval:.1f} deeper than {VALLEY}, losses over a range of {count.spread.mean:.2f}"
        )
    return 0
