"""Keep a run's parameters with the package: python -m sharp_maml_core.pretrained RUN NAME."""

from __future__ import annotations

import argparse
import sys

from ..errors import UserError
from ..output import complain, say
from . import keep, load


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sharp_maml_core.pretrained", description=__doc__)
    parser.add_argument("run", help="the folder of a finished run")
    parser.add_argument("name", help="how it is called from then on, as in glyphs-maml-seed0")
    given = parser.parse_args(arguments)
    try:
        keep(given.run, given.name)
    except UserError as error:
        complain(str(error))
        return 2
    say(f"{given.name}: {sum(value.numel() for value in load(given.name).params.values())} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
