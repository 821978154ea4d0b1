"""Freed memory that is used again."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_INT_MAX = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask glibc to keep large freed blocks for the next tensor instead of returning them to the system.

    By default every tensor of over 32 MiB is mapped afresh, and its pages are faulted in and zeroed one by one. How
    much of the time that takes differs from day to day: of ours little to a fifth, of Torchmeta's, with its more large
    tensors, a third to a half (`make bench`).
    The setting is the whole process's, so only whole experiments ask for it, never a learner. Returns whether it took.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another libc has another allocator
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _INT_MAX))
