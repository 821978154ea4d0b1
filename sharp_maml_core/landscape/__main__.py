"""The figures' numbers, computed and stored: `python -m sharp_maml_core.landscape slices ...`."""

from __future__ import annotations

import argparse
import sys

from ..errors import MEND, UserError, status
from ..output import complain
from . import counted, measured, stored, ways

COMMANDS = (stored.add_command, counted.add_command, ways.add_command, measured.add_command)
"""Each adds one subcommand to the parser, with `set_defaults(run=...)`: options -> exit status."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 on success, 2 for what the user can mend, 3 where training diverged, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m sharp_maml_core.landscape", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add_command in COMMANDS:
        add_command(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except UserError as error:
        complain(f"{parser.prog}: {error}")
        return status(error)
    except OSError as error:
        complain(
            f"{parser.prog}: {options.out} could not be written ({error}). What was kept there before is whole: "
            "make room, and the same command does the rest."
        )
        return MEND
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
