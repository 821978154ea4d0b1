"""Many small runs at once: the seeds and radii of one cell, trained in one process with their parameters stacked.

    python -m sharp_maml_core stack --variant both --seeds 0 1 2 --alphas 0.05 0.005 0.0005

Each run is what it would be alone, within rounding: it has its own initial parameters, draws its own tasks from its own
generator, and lives in its own run folder, with the checkpoint and the result.json of any other run. Only the
arithmetic is shared: the meta-gradient is mapped by `vmap` over the runs, parameters [R, ...], tasks [R, T, ...] and
radii [R] together, and one optimiser steps on all, element by element. So a stack may go on with what separate runs
have begun, and the other way round.

Runs train together while they have done equally many iterations; those that lag behind catch up first. One that
diverges keeps its last good state and leaves; the others go on. Validation and tests are run by run. The seconds of a
run are its equal share of those that the stack took.

This is meant for a GPU, which one small run does not fill. On CPU it is slower than one run after the other.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn

from . import distributed, rundir
from .config import FAMILY, Config
from .errors import Diverged, invalid
from .learners import Learner, Loss, build_learner
from .memory import keep_freed_memory
from .models import loss_for, model_for
from .precision import full_precision
from .results import provenance
from .run import Experiment, default_folder, explained, finish, kept, learner_for, prepare, read_finished
from .stacking import Run, train_stack

STACKABLE = tuple(name for name in FAMILY if not name.startswith("e-"))
"""The variants whose meta-gradient draws nothing at random: ESAM draws masks, and `vmap` cannot use a generator."""

VARYING = ("seed", "alpha_low", "alpha_up")
"""The settings in which the runs of a stack may differ."""


def grid(
    config: Config,
    seeds: Sequence[int],
    alphas: Sequence[float] | None = None,
    alphas_low: Sequence[float] | None = None,
    alphas_up: Sequence[float] | None = None,
) -> list[Config]:
    """The settings of every combination of seed and radii.

    alphas                 alpha_low and alpha_up, equal to each other
    alphas_low, alphas_up  each with each; None: the radius of `config`

    Raises UserError for `alphas` beside one of the others.
    """
    if alphas is not None and (alphas_low is not None or alphas_up is not None):
        raise invalid("alphas", list(alphas), "given alone: it sets alpha_low and alpha_up to one value")
    if alphas is not None:
        radii = [(alpha, alpha) for alpha in alphas]
    else:
        lows, ups = alphas_low or [config.alpha_low], alphas_up or [config.alpha_up]
        radii = [(low, up) for low in lows for up in ups]
    return [config.replace(seed=seed, alpha_low=low, alpha_up=up) for seed in seeds for low, up in radii]


def check_stack(configs: Sequence[Config]) -> None:
    """Raise UserError unless the runs can be trained together."""
    if not configs:
        raise invalid("configs", list(configs), "at least one run")
    one = configs[0].to_dict()
    if one["variant"] not in STACKABLE:
        raise invalid("variant", one["variant"], f"one of {', '.join(STACKABLE)} in a stack", "Use train for others.")
    if distributed.size() > 1:
        raise invalid("nproc-per-node", distributed.size(), "1 for a stack: it fills one device", "Use train.")
    for other in (config.to_dict() for config in configs):
        for name, value in other.items():
            if value != one[name] and name not in VARYING:
                raise invalid(name, value, f"{one[name]!r}, as in the stack's first run", "Only seeds and radii vary.")
    for i, config in enumerate(configs):
        if config in configs[:i]:
            same = {name: getattr(config, name) for name in VARYING}
            raise invalid("configs", same, "given once: each run of a stack has settings of its own")


def run_stack(
    configs: Sequence[Config],
    root: str | Path = "runs",
    *,
    folders: Sequence[Path] | None = None,
    at_once: int = 0,
    overwrite: bool = False,
    progress: bool = True,
    model: nn.Module | None = None,
    loss: Loss | None = None,
    data: Any = None,
    command: str | None = None,
) -> dict[Path, dict[str, Any]]:
    """Train and test all runs, each in a folder of its own, and return what each result.json says.

    Started again it goes on where it stopped; finished runs are read, not repeated; runs on other data or with another
    model are refused.

    folders  one for each run; None: under `root`, named by the settings
    at_once  how many runs vmap takes at once, which bounds the memory; 0: all
    others   see `run_experiment`

    Raises UserError, before any work, for whatever cannot be used, Diverged, after the other runs are finished, where
    a run's training or test fails (its `failures` has what each such run says), and KeyboardInterrupt after checkpoints
    when interrupted.
    """
    check_stack(configs)
    if at_once < 0:
        raise invalid("at_once", at_once, "at least 0")
    folders = folders or [Path(root).expanduser() / default_folder(config).name for config in configs]
    if len(set(folders)) != len(configs):
        raise invalid("folders", [str(folder) for folder in folders], f"{len(configs)} folders, one for each run")
    first = prepare(configs[0], model, loss, data)
    train = first.splits["train"]
    model, loss = model_for(first.config, train) if model is None else model, loss or loss_for(train)
    experiments = {
        folder: Experiment(config, first.splits, learner_for(config, train, model, loss))
        for folder, config in zip(folders, configs, strict=True)
    }
    with ExitStack() as held:
        for folder in folders:
            held.enter_context(rundir.locked(folder))
        for folder, experiment in experiments.items():  # only now: nothing is thrown away where a run is in use
            rundir.begin(folder, experiment.config, overwrite)
        found = {folder: read_finished(experiment, folder) for folder, experiment in experiments.items()}
        results = {folder: result for folder, result in found.items() if result is not None}
        if results and progress:
            print(f"{len(results)} of {len(folders)} runs are finished; they are read.", file=sys.stderr)
        keep_freed_memory()
        full_precision()
        with explained(folders[0].parent):
            origin = provenance(first.config.torch_device, command)
            origin |= {"stack": {"runs": [folder.name for folder in folders], "seconds": "an equal share for each run"}}
            runs = {
                folder: _begun(held, experiment, folder, origin)
                for folder, experiment in experiments.items()
                if folder not in results
            }

            def build(config: Config) -> Learner:
                return build_learner(config, model, loss)

            train_stack(list(runs.values()), train, first.splits["val"], build, at_once=at_once, progress=progress)
            for folder, run in runs.items():
                if run.failure is None:
                    try:
                        results[folder] = finish(experiments[folder], folder, run.state, origin, progress)
                    except Diverged as failure:
                        run.failure = failure
    failures = {folder: str(run.failure) for folder, run in runs.items() if run.failure is not None}
    if failures:
        raise Diverged("\n".join(f"{folder.name}: {failure}" for folder, failure in failures.items()), failures)
    return {folder: results[folder] for folder in folders}


def _begun(held: ExitStack, experiment: Experiment, folder: Path, origin: dict[str, Any]) -> Run:
    state, keep = held.enter_context(kept(experiment, folder, origin))
    return Run(experiment.config, experiment.learner, state, keep)
