"""The command line: `python -m experiments COMMAND ...`."""

from __future__ import annotations

import argparse
import collections
import re
import shlex
import sys
from pathlib import Path

from sharp_maml_core import published
from sharp_maml_core.config import Config
from sharp_maml_core.data import SPLITS, load_split
from sharp_maml_core.errors import UserError, invalid, status
from sharp_maml_core.output import complain, say

from . import cells, stacks, store
from .cost import seconds
from .store import Store, collect
from .tables import markdown
from .worker import Queue, commands, cores

UNITS = {"s": 1, "m": 60, "h": 3600}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 on success, 1 where a run failed, 2 for what the user can mend, 130 when interrupted.

    Where a GPU failed it is 75, to be tried again, as of `sharp_maml_core`.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except UserError as error:
        complain(f"{parser.prog}: {error}")
        return status(error)
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="experiments", description=cells.__doc__)
    subs = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, help: str) -> argparse.ArgumentParser:
        made = subs.add_parser(name, help=help, description=help)
        made.set_defaults(run=run)
        made.add_argument("--runs", type=Path, default=store.RUNS, metavar="FOLDER", help="where the runs live")
        made.add_argument("--results", type=Path, default=store.RESULTS, metavar="FOLDER", help="where results go")
        made.add_argument("--cells", type=Path, default=cells.CELLS, metavar="FILE", help="the cells")
        return made

    for name, run, help in (
        ("status", _status, "say what is done, begun and missing, and what it will take"),
        ("fetch", _fetch, "fetch the data that missing runs need, once and before any of them"),
        ("commands", _commands, "print the commands of runs, to run them by hand"),
        ("run", _run, "do what is missing on this machine, the most valuable first, and stop when the budget ends"),
    ):
        made = command(name, run, help)
        made.add_argument("names", nargs="*", metavar="NAME", help="cells, groups or schedules (default: the device's)")
        made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default auto)")
        if name == "run":
            made.add_argument("--budget", metavar="TIME", help="as 90s, 20m or 1.5h (default: as long as it takes)")
            made.add_argument(
                "--jobs", type=int, metavar="INT", help="runs at a time (default: 1 on a GPU, else cores)"
            )
    made = command("stack", _stack, "train the missing seeds and radii of cells together, one launch for each grid")
    made.add_argument("names", nargs="+", metavar="NAME", help="cells, groups or schedules")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default auto)")
    made.add_argument("--at-once", type=int, default=0, metavar="INT", help="runs that vmap takes at once; 0: all")
    made.add_argument("--quiet", action="store_true", help="no progress bars")
    command("tables", _tables, "print what the results say, as Markdown: a table for each group of cells")
    made = command("note", _note, "note an unfinished run as diverged: it is then left alone")
    made.add_argument("name", metavar="RUN", help="a run as CELL-seedN")
    made.add_argument("--device", default="auto", help="that it ran on (default auto)")
    made = command("collect", _collect, "make the result file of a finished run")
    made.add_argument("name", metavar="RUN", help="a run as CELL-seedN")
    made.add_argument("--device", default="auto", help="where its training classes are tested (default auto)")
    return parser


def _wanted(options: argparse.Namespace) -> list[cells.Cell]:
    return cells.wanted(cells.load(options.cells), options.names, options.device)


def _status(options: argparse.Namespace) -> int:
    kept = Store(options.runs, options.results, options.cells)
    measured = kept.measured()
    groups: dict[str, list[cells.Run]] = {}
    for run in cells.runs(_wanted(options)):
        groups.setdefault(run.cell.group, []).append(run)
    for group, runs in groups.items():
        states = {run.name: kept.state(run) for run in runs}
        count = collections.Counter(states.values())
        open_ = [run for run in runs if states[run.name] in (store.MISSING, store.BEGUN)]
        takes = sum(seconds(run, kept, options.device, measured) for run in open_)
        said = ", ".join(f"{count[state]} {state}" for state in count)
        say(f"{group} ({runs[0].cell.schedule.name}): {said}" + (f"; about {takes / 3600:.1f} h" if open_ else ""))
        for name, state in states.items():
            if state in (store.DAMAGED, store.OTHER):
                say(f"    {name}: its file is {state}")
    return 0


def _fetch(options: argparse.Namespace) -> int:
    kept = Store(options.runs, options.results, options.cells)
    missing = [run for run in cells.runs(_wanted(options)) if kept.state(run) in (store.MISSING, store.BEGUN)]
    troubles = []
    for dataset in dict.fromkeys(run.cell.config(run.seed).dataset for run in missing):
        try:
            for split in SPLITS:
                load_split(dataset, split, download=True)
        except UserError as error:
            troubles.append(str(error))
        else:
            say(f"{dataset}: there")
    if troubles:
        raise UserError("\n".join(troubles))
    return 0


def _commands(options: argparse.Namespace) -> int:
    kept = Store(options.runs, options.results, options.cells)
    for run in cells.runs(_wanted(options)):
        for line in commands(run, kept, options.device):
            say(shlex.join(["python", *line]))
    return 0


def _run(options: argparse.Namespace) -> int:
    gpu = Config(device=options.device).torch_device.type != "cpu"
    jobs = options.jobs if options.jobs is not None else 1 if gpu else cores()
    if jobs < 1:
        raise invalid("jobs", jobs, "at least 1")
    budget = None if options.budget is None else duration(options.budget)
    runs = cells.runs(_wanted(options))
    queue = Queue(
        runs, Store(options.runs, options.results, options.cells), device=options.device, jobs=jobs, budget=budget
    )
    queue.work()
    return 1 if queue.failed else 0


def _stack(options: argparse.Namespace) -> int:
    kept = Store(options.runs, options.results, options.cells)
    failed = stacks.work(
        cells.runs(_wanted(options)), kept, device=options.device, at_once=options.at_once, progress=not options.quiet
    )
    return 1 if failed else 0


def _collect(options: argparse.Namespace) -> int:
    run = cells.find_run(cells.load(options.cells), options.name)
    result = collect(run, Store(options.runs, options.results, options.cells), options.device)
    say(f"{run.name}: {result['metric']} {result['best']['mean']:.4f} on {result['eval_tasks']} tasks")
    return 0


def _note(options: argparse.Namespace) -> int:
    run = cells.find_run(cells.load(options.cells), options.name)
    kept = Store(options.runs, options.results, options.cells)
    done = store.note_partial(run, kept, options.device, diverged="its trainer said so, where it ran")
    say(f"diverged {run.name}, kept up to iteration {done}")
    return 0


def _tables(options: argparse.Namespace) -> int:
    say(markdown(cells.load(options.cells), published.load(options.results)))
    return 0


def duration(text: str) -> float:
    """Seconds of a time as 90s, 20m or 1.5h. Raises UserError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if found is None:
        raise invalid("budget", text, "a time as 90s, 20m or 1.5h")
    return float(found[1]) * UNITS[found[2]]


if __name__ == "__main__":
    sys.exit(main())
