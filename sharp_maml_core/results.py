"""Where a number comes from: everything that result.json says beside the number."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from . import distributed

PACKAGES = ("torch", "numpy", "pillow", "matplotlib", "torchmeta", "safetensors", "sharp-maml-core")
SESSION = ("commit", "source_sha256", "device", "processes", "threads", "started")
SOURCE = Path(__file__).parent


def provenance(device: torch.device, command: str | None = None) -> dict[str, Any]:
    """The command (default: this process's), the time, the code and the machine."""
    return {
        "command": command_line() if command is None else command,
        "started": now(),
        "commit": commit(),
        "source_sha256": source_hash(),
        "device": device_name(device),
        "processes": distributed.size(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def session(origin: dict[str, Any], iteration: int) -> dict[str, Any]:
    """One stretch of a run: what of a `provenance` may differ from the stretch before, and the iteration it went on
    from; of a stretch in a stack, how many runs that had.
    """
    stack = {"stack": len(origin["stack"]["runs"])} if "stack" in origin else {}
    return {name: origin[name] for name in SESSION} | stack | {"from_iteration": iteration}


def worked(sessions: Sequence[Mapping[str, Any]], iterations: int) -> list[Mapping[str, Any]]:
    """The sessions that did any of the iterations: one that only tested has none, where a run went on elsewhere."""
    ends = [*(each["from_iteration"] for each in sessions[1:]), iterations]
    return [each for each, end in zip(sessions, ends, strict=True) if each["from_iteration"] < end] if sessions else []


def devices(sessions: Sequence[Mapping[str, Any]], iterations: int) -> str:
    """Those that did the iterations, each once. A name may have a comma in it, so " and " joins them."""
    return " and ".join(dict.fromkeys(each["device"] for each in worked(sessions, iterations)))


def unknown_session() -> dict[str, Any]:
    """What is to be said of a run's beginning where nobody kept it."""
    return session(dict.fromkeys(SESSION, "unknown"), 0)


def now() -> str:
    """The time, in ISO 8601 and UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command_line() -> str:
    """The command line of this process, without folders of this machine: what it says shall be true on any other."""
    program, *arguments = getattr(sys, "orig_argv", sys.argv)
    return shlex.join([Path(program).name, *map(_portable, arguments)])


def _portable(argument: str) -> str:
    """The same as `portable`, also for what follows in `--flag=/here/runs/x`."""
    flag, equals, value = argument.rpartition("=")
    return flag + equals + portable(value)


def portable(text: str) -> str:
    """`/here/runs/x` as `runs/x` if we are in /here, other absolute paths as `.../x`; whatever else as it is."""
    path = Path(text)
    if not path.is_absolute():
        return text
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path("...") / path.name)


def commit() -> str:
    """The git commit of the code, with "+changes" if the package differs from it; "unknown" outside a checkout."""
    try:
        _git("ls-files", "--error-unmatch", "results.py")  # else it is the repository of something around us
        head = _git("rev-parse", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def source_hash() -> str:
    """SHA-256 over the package's Python files, which says more than a commit where the package was installed."""
    digest = hashlib.sha256()
    for path in sorted(SOURCE.rglob("*.py")):
        digest.update(path.relative_to(SOURCE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def device_name(device: torch.device) -> str:
    """The model of the GPU or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu()}, {os.cpu_count()} cores"


def _cpu() -> str:
    try:
        if sys.platform == "darwin":  # where platform.processor() tells no Mac from another
            line = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, subprocess.CalledProcessError):
        return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    # Without locks: a look from here must never make somebody's commit fail.
    line = ["git", "--no-optional-locks", "-C", str(SOURCE), *arguments]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
