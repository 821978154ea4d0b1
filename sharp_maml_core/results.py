"""Where a number comes from: everything that result.json says beside the number."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "numpy", "pillow", "matplotlib", "torchmeta", "safetensors", "sharp-maml-core")
SOURCE = Path(__file__).parent


def provenance(device: torch.device) -> dict[str, Any]:
    """The command, the time, the code and the machine of this process."""
    return {
        "command": command(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "source_sha256": source_hash(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def command() -> str:
    """The command line of this process, without the folder that Python itself is in."""
    arguments = getattr(sys, "orig_argv", sys.argv)
    return shlex.join([Path(arguments[0]).name, *arguments[1:]])


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
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(SOURCE), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
