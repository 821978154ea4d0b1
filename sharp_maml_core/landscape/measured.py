"""Measurements of the pretrained models, computed once and stored: one small JSON a model.

    python -m sharp_maml_core.landscape measure --dataset cifar-fs --data-root DATA --out book/results/sharpness

A model is written when it is done, so a command that was stopped goes on with the next; one that is there with the same
parameters and settings is not measured again. What is measured: `measure.py`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .. import pretrained
from ..data import load_split
from ..data.split import Split
from ..errors import invalid
from ..files import write_text
from ..memory import keep_freed_memory
from ..output import say
from ..precision import full_precision
from .measure import TEST, TRAIN, Figures, Settings, identity, measure
from .stored import VARIANTS


def read(path: Path) -> Figures:
    """One stored measurement. Raises UserError, naming the file, for anything else."""
    try:
        values = json.loads(path.read_text())
        if not {"model", "variant", "seed", "settings", "surfaces", "accuracy", "provenance"} <= set(values):
            raise ValueError("it lacks a part")
    except (OSError, TypeError, ValueError) as error:
        raise invalid(
            "sharpness", str(path), f"a stored measurement ({error})", "Delete it to measure again."
        ) from None
    return values


def read_all(folder: Path, dataset: str) -> list[Figures]:
    """All stored measurements of a data set, in the order of VARIANTS and then of seeds; empty where there are none."""
    found = [read(path) for path in folder.glob(f"{dataset}-*.json")]

    def place(values: Figures) -> tuple[int, str, int]:
        variant = values["variant"]
        return VARIANTS.index(variant) if variant in VARIANTS else len(VARIANTS), variant, values["seed"]

    return sorted(found, key=place)


def measure_all(
    names: tuple[str, ...],
    folder: Path,
    settings: Settings,
    *,
    data_root: str | None = None,
    checkpoints: Path = pretrained.HERE,
    progress: bool = False,
) -> list[Figures]:
    """Measure the models that `folder` does not have with these settings and parameters, and return all.

    Raises UserError for a model or data that are not there.
    """
    models = [pretrained.load(name, folder=checkpoints) for name in names]
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[str, dict[str, Split]] = {}
    found = []
    for model in models:
        path = folder / f"{model.name}.json"
        values = read(path) if path.exists() else {}
        if any(values.get(key) != value for key, value in identity(model, settings).items()):
            keep_freed_memory()
            full_precision()
            dataset = model.config.dataset
            if dataset not in splits:
                splits[dataset] = {split: load_split(dataset, split, root=data_root) for split in (TRAIN, TEST)}
            values = measure(model, splits[dataset], settings, progress=progress)
            # On lines of their own, the numbers would be most of the repository's lines.
            write_text(path, json.dumps(values, allow_nan=False) + "\n")
        found.append(values)
    return found


def add_command(commands: Any) -> None:
    """The subcommand `measure`."""
    about = "how sharp the pretrained models are, and how well they do"
    command = commands.add_parser("measure", help=about, description=about)
    command.set_defaults(run=run)
    default = Settings()
    command.add_argument("--dataset", default="cifar-fs", help="whose pretrained models (default cifar-fs)")
    command.add_argument("--data-root", help="folder of the data sets")
    command.add_argument("--out", default="book/results/sharpness", help="folder of the results")
    command.add_argument("--n-tasks", type=int, default=default.n_tasks, help=f"default {default.n_tasks}")
    command.add_argument("--seed", type=int, default=default.seed, help="of tasks and random vectors (default 0)")
    command.add_argument("--alpha", type=float, default=default.alpha, help=f"radius (default {default.alpha})")
    command.add_argument("--only", nargs="+", metavar="NAME", help="some of the models")
    command.add_argument("--quiet", action="store_true", help="no progress bars")


def run(options: argparse.Namespace) -> int:
    """Measure what is not there yet, and say in a line what each model has."""
    names = tuple(options.only or pretrained.names(f"{options.dataset}-"))
    if not names:
        raise invalid("dataset", options.dataset, "the data set of a pretrained model")
    default = Settings()
    settings = Settings(
        n_tasks=options.n_tasks,
        seed=options.seed,
        alpha=options.alpha,
        slice_tasks=min(default.slice_tasks, options.n_tasks),
    )
    for values in measure_all(
        names, Path(options.out).expanduser(), settings, data_root=options.data_root, progress=not options.quiet
    ):
        say(describe(values))
    return 0


def describe(values: Figures) -> str:
    """A model's means over tasks in one line."""
    maml, accuracy = values["surfaces"]["maml"], values["accuracy"]
    top = sum(row[0] for row in maml["top_eigenvalues"]) / len(maml["top_eigenvalues"])
    rise = sum(maml["sharpness"]) / len(maml["sharpness"])
    return (
        f"{values['model']}: top eigenvalue {top:.1f}, sharpness {rise:.3f} (maml); "
        f"accuracy {accuracy['test']['mean']:.4f}, gap {accuracy['gap']['mean']:.4f}"
    )
