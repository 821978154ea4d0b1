"""Cells in one launch: the missing seeds and radii of a grid, trained together by `sharp_maml_core.stacked`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sharp_maml_core import output
from sharp_maml_core.errors import DeviceLost, Diverged, UserError, invalid
from sharp_maml_core.stacked import STACKABLE, VARYING, run_stack

from .cells import Run
from .store import BEGUN, DIVERGED, MISSING, Store, collect, in_use, note_partial
from .worker import left_alone, unusable


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
        alike = {name: value for name, value in settings.items() if name not in VARYING}
        found.setdefault(str(sorted(alike.items())), []).append(run)
    return list(found.values())


def work(
    runs: list[Run],
    store: Store,
    *,
    device: str = "auto",
    at_once: int = 0,
    progress: bool = True,
    say: Callable[[str], None] = output.say,
) -> list[str]:
    """Train and collect each stack of runs; returns the names of those that failed, of which those that diverged are
    noted as such.

    Started again it goes on where it stopped. `at_once` is that of `run_stack`. Raises UserError for a variant that
    cannot be stacked, DeviceLost for a GPU that failed, and KeyboardInterrupt, after checkpoints, when interrupted.
    """
    failed = _left_out(runs, store, say)
    for stack in stacks([run for run in runs if run.name not in failed], store):
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
        except DeviceLost:  # this process cannot use it any more
            raise
        except UserError as error:
            failed += [run.name for run in stack]
            say(f"failed   {', '.join(run.name for run in stack)}: {error}")
            continue
        failed += [run.name for run in stack if not _done(run, store, device, failures.get(store.folder(run)), say)]
    return failed


def _left_out(runs: list[Run], store: Store, say: Callable[[str], None]) -> list[str]:
    """Say which runs are left as they are; the names of those that only the user can mend."""
    failed = []
    for run in runs:
        state = store.state(run)
        trouble = unusable(run, store, state)
        if trouble:
            failed.append(run.name)
            say(trouble)
        elif state == DIVERGED:
            say(left_alone(run, store))
        elif state in (MISSING, BEGUN) and in_use(store.folder(run)):
            say(f"in use   {run.name}: another has {store.folder(run)} locked")
    return failed


def _done(run: Run, store: Store, device: str, failure: str | None, say: Callable[[str], None]) -> bool:
    """Collect a run of a stack that has ended, or note that it diverged, and say so; whether it has its result."""
    if failure is not None:
        say(f"diverged {run.name}: {failure}")
        try:
            note_partial(run, store, device, diverged=failure)
        except OSError as error:  # a full disk costs the note, not the other runs
            say(f"unnoted  {run.name}: {error}")
        return False
    try:
        collect(run, store, device)
    except DeviceLost:
        raise
    except UserError as error:
        say(f"failed   {run.name}: {error}")
        return False
    say(f"done     {run.name}: {store.path(run)}")
    return True
