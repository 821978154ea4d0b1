"""The way of a training run on its own principal plane, over the meta-objective, computed once and stored.

    python -m sharp_maml_core.landscape way runs/FOLDER --data-root DATA --out book/results/landscapes

The run has to be one that kept its parameters: snapshots=True.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import rundir
from ..checks import at_least, check
from ..config import Config
from ..data import load_split, sample_episodes
from ..data.split import Split
from ..errors import invalid
from ..files import write_text
from ..models import loss_for, model_for
from ..output import say
from ..params import Params
from ..results import provenance
from .directions import Trajectory, principal_plane
from .slices import Slice, covering, describe_range, from_json, take_slice, to_json
from .surfaces import maml_surface, plain_maml

TASKS = 8
TASK_SEED = 0


class Way(NamedTuple):
    """A run's way, the losses of the plane that it is drawn on, and where both come from."""

    cut: Slice
    trajectory: Trajectory
    settings: dict[str, Any]
    provenance: dict[str, Any]


def walk(
    snapshots: dict[int, Params], config: Config, split: Split, *, points: int = 25, progress: bool = False
) -> tuple[Slice, Trajectory]:
    """The principal plane of a run's points, and MAML's loss on it, the mean over 8 tasks of the split.

    The loss is that of plain MAML (Eq. 2), whatever variant the run is of. Raises UserError as `principal_plane` does.
    """
    frame, trajectory = principal_plane(snapshots)
    episode = sample_episodes(
        split,
        n_way=config.n_way,
        k_shot=config.k_shot,
        n_query=config.n_query,
        n_tasks=TASKS,
        generator=torch.Generator().manual_seed(TASK_SEED),
        dtype=config.torch_dtype,
    )
    loss = loss_for(split)
    learner = plain_maml(config, model_for(config, split), loss)
    visited = zip(trajectory.iterations, trajectory.path.tolist(), strict=True)
    cut = take_slice(
        maml_surface(learner, episode, loss),
        frame,
        centre=f"{config.variant}, iteration {trajectory.iterations[-1]}",
        ranges=covering(frame._replace(marks={str(iteration): tuple(point) for iteration, point in visited})),
        points=points,
        progress=progress,
    )
    return cut, trajectory


def way_of(
    run_dir: Path, data_root: str | None = None, *, points: int = 25, progress: bool = False
) -> tuple[Slice, Trajectory]:
    """`walk` for a run folder. The tasks are of the training split, whose loss the run descends.

    Raises UserError for a folder that holds no run, or one without snapshots.
    """
    config = rundir.read_config(run_dir, device="cpu")
    snapshots = rundir.load_snapshots(run_dir)
    split = load_split(config.dataset, "train", root=data_root, image_size=config.image_size or None)
    return walk(snapshots, config, split, points=points, progress=progress)


def compute(run_dir: Path, data_root: str | None, points: int, path: Path, progress: bool = False) -> None:
    """The way of a run, written to a file."""
    came_from = provenance(torch.device("cpu"))
    config = rundir.read_config(run_dir, device="cpu")
    cut, trajectory = way_of(run_dir, data_root, points=points, progress=progress)
    values = {
        "settings": config.to_dict() | {"data_root": "", "dataset": Path(config.dataset).name, "points": points},
        "tasks": {"split": "train", "seed": TASK_SEED, "number": TASKS},
        "provenance": came_from,
        "trajectory": trajectory._asdict()
        | {"path": trajectory.path.tolist(), "distances": trajectory.distances.tolist()},
        "slice": to_json(cut),
    }
    # On lines of their own, the rows would be most of the repository's lines.
    write_text(path, json.dumps(values, allow_nan=False) + "\n")


def read(path: Path) -> Way:
    """What `compute` wrote. Raises UserError, naming the file, for anything else."""
    try:
        values = json.loads(path.read_text())
        found = values["trajectory"]
        trajectory = Trajectory(
            tuple(found["iterations"]),
            torch.tensor(found["path"], dtype=torch.float64),
            (found["explained"][0], found["explained"][1]),
            torch.tensor(found["distances"], dtype=torch.float64),
        )
        return Way(from_json(values["slice"]), trajectory, values["settings"], values["provenance"])
    except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise invalid("way", str(path), f"a stored way ({error!r})", "Delete it to compute it again.") from None


def read_all(folder: Path, dataset: str) -> dict[str, Way]:
    """All stored ways of a data set, by variant and seed; empty where there are none."""
    prefix = f"{dataset}-way-"
    return {path.stem.removeprefix(prefix): read(path) for path in sorted(folder.glob(f"{prefix}*.json"))}


def add_command(commands: Any) -> None:
    """The subcommand `way`."""
    about = "the way of a training run on its own principal plane"
    command = commands.add_parser("way", help=about, description=about)
    command.set_defaults(run=run)
    command.add_argument("run_dir", metavar="RUN_DIR", help="a run with snapshots=True")
    command.add_argument("--data-root", help="folder of the data sets")
    command.add_argument("--out", default="book/results/landscapes", help="folder of the results")
    command.add_argument("--points", type=int, default=25, help="of the grid, along each axis (default 25)")
    command.add_argument("--quiet", action="store_true", help="no progress bars")


def run(options: argparse.Namespace) -> int:
    """Compute and store one way, and say what its plane holds."""
    check("points", options.points, at_least(2))
    run_dir = Path(options.run_dir).expanduser()
    config = rundir.read_config(run_dir, device="cpu")
    path = Path(options.out).expanduser() / f"{Path(config.dataset).name}-way-{config.variant}-seed{config.seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    compute(run_dir, options.data_root, options.points, path, progress=not options.quiet)
    way = read(path)
    first, second = way.trajectory.explained
    say(
        f"{path.stem}: {len(way.trajectory.iterations)} points, {first:.1%} and {second:.1%} of their variance in the "
        f"plane, at most {way.trajectory.distances.max():.3g} beside it; loss {describe_range(way.cut)}"
    )
    return 0
