"""What a command prints, where the one who reads may have gone and the disk may be full."""

from __future__ import annotations

import os
import sys


def say(line: str) -> None:
    """Print a line to stdout; where that is a pipe whose reader has seen enough, `| head` say, go on without."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at the end


def complain(line: str) -> None:
    """Print a line to stderr; where that is a file on a full disk, go on without: the exit status still says it."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # or Python fails to flush at the end, and gives another status
