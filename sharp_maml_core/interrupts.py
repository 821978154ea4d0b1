"""Ctrl-C and termination requests that wait for a good moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """False until somebody asks to stop."""

    def __init__(self) -> None:
        self._asked = False

    def __bool__(self) -> bool:
        return self._asked

    def ask(self, signum: int, frame: FrameType | None) -> None:
        """A signal handler: take note the first time, interrupt the second."""
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the block, turn the first SIGINT, SIGTERM or SIGHUP into a request that the block looks at when it can.

    A hang-up that is ignored, as under nohup, stays so. Only the main thread may set signal handlers; in another thread
    the signals keep their usual meaning.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, request.ask) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
