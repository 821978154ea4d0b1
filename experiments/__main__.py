"""The command line: `python -m experiments COMMAND ...`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from sharp_maml_core.errors import UserError

from . import cells

RUNS = Path("runs") / "cells"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 on success, 2 for what the user can mend, 130 when interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="experiments", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("command", help="print the commands of runs", description="Print commands of runs.")
    command.set_defaults(run=_command)
    command.add_argument("names", nargs="*", metavar="NAME", help="cells, groups or schedules (default: all)")
    return parser


def _command(options: argparse.Namespace) -> int:
    known = cells.load()
    wanted = [cell for name in options.names for cell in cells.find(known, name)] if options.names else known
    for run in cells.runs(wanted):
        print(
            shlex.join(["python", "-m", "sharp_maml_core", "train", "--run-dir", str(RUNS / run.name), *run.arguments])
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
