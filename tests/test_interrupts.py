"""Signals that wait for a good moment."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from sharp_maml_core.interrupts import stop_requests

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _hang_ups_are_heard() -> Iterator[None]:
    """As from a terminal, though the tests may run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_nobody_asked() -> None:
    with stop_requests() as stop:
        assert not stop


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted_and_the_second_interrupts(number: signal.Signals) -> None:
    with stop_requests() as stop:
        os.kill(os.getpid(), number)
        assert stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_the_handlers_are_put_back_whatever_happens() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]

    def fail() -> None:
        with stop_requests():
            assert signal.getsignal(signal.SIGTERM) not in before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_hang_up_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_leaves_the_handlers_alone() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    seen = []

    def work() -> None:
        with stop_requests() as stop:
            seen.append((bool(stop), [signal.getsignal(number) for number in SIGNALS]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
