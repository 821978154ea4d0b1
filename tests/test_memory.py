"""The allocator's setting: in a process of its own, as it stays for the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sharp_maml_core import memory

PACKAGE = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_memory_is_kept_and_nothing_else_changes() -> None:
    program = """
import torch
from sharp_maml_core.memory import keep_freed_memory
from pathlib import Path

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

x = torch.arange(2**24, dtype=torch.float32)
del x
start = resident()
print(keep_freed_memory())
x = torch.ones(2**24)  # 64 MiB
assert x.sum() == 2**24
del x
print(resident() - start >= 2**25)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(PACKAGE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    took, kept = done.stdout.split()
    assert (took, kept) in {("True", "True"), ("False", "False")}  # False: another libc


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_on_other_systems_it_does_nothing(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail(f"loaded {name}"))
    assert memory.keep_freed_memory() is False


def test_with_another_libc_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False
