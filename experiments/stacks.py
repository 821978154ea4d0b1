"""Cells in one launch: the missing seeds and radii of a grid, trained together by `sharp_maml_core.stacked`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sharp_maml_core.errors import Diverged, invalid
from sharp_maml_core.rundir import FREE_TO_CHANGE
from sharp_maml_core.stacked import STACKABLE, VARYING, run_stack

from .cells import Run
from .store import BEGUN, MISSING, Store, collect, in_use, note_partial


def stacks(runs: list[Run], store: Store) -> list[list[Run]]:
    """The runs that have no result, those together that differ in their seed and radii alone, in their order.

    Raises UserError for a variant that cannot be stacked.
    """
    found: dict[str, list[Run]] = {}
    for run in runs:
        if store.state(run) not in (MISSING, BEGUN) or in_use(store.folder(run)):
            continue
        settings = run.cell.config(run.seed).to_dict()
        if settings["variant"] not in STACKABLE:
            raise invalid("variant", settings["variant"], f"one of {', '.join(STACKABLE)} in a stack", "Use run.")
        alike = {name: value for name, value in settings.items() if name not in (*VARYING, *FREE_TO_CHANGE)}
        found.setdefault(str(sorted(alike.items())), []).append(run)
    return list(found.values())


def work(
    runs: list[Run],
    store: Store,
    *,
    device: str = "auto",
    at_once: int = 0,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: print(line, flush=True),
) -> list[str]:
    """Train and collect each stack of runs; returns the names of those that diverged, which are noted as such.

    Started again it goes on where it stopped. `at_once` is that of `run_stack`. Raises UserError for what cannot be
    used, and KeyboardInterrupt, after checkpoints, when interrupted.
    """
    failed = []
    for stack in stacks(runs, store):
        say(f"begun    {len(stack)} together: {', '.join(run.name for run in stack)}")
        failures: dict[Path, str] = {}
        try:
            run_stack(
                [run.cell.config(run.seed, device) for run in stack],
                folders=[store.folder(run) for run in stack],
                at_once=at_once,
                progress=progress,
            )
        except Diverged as error:  # the others are finished
            failures = error.failures
        for run in stack:
            failure = failures.get(store.folder(run))
            if failure is not None:
                say(f"diverged {run.name}: {failure}")
                note_partial(run, store, device, diverged=failure)
                failed.append(run.name)
                continue
            collect(run, store, device)
            say(f"done     {run.name}: {store.path(run)}")
    return failed
