"""A SLURM of one node, this machine, whose daemons live as long as a block and keep everything in one folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
PATIENCE = 60.0
CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=1
MinJobAge=600
NodeName={host} NodeAddr=127.0.0.1 Boards=1 SocketsPerBoard=1 CoresPerSocket={cores} ThreadsPerCore=1 \\
    RealMemory={memory} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no SLURM here; empty where there can."""
    absent = [name for name in (*DAEMONS, "sbatch") if _program(name) is None]
    if absent:
        return f"SLURM is not installed: no {', '.join(absent)} (Debian: slurmctld slurmd slurm-client munge)"
    return "" if os.geteuid() == 0 else "slurmd starts jobs as root only"


@contextmanager
def one_node(folder: Path) -> Iterator[dict[str, str]]:
    """Within the block there is a cluster; yields what the environment of its users needs."""
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    # Snakemake takes SLURM's variables from its jobs, and with them the way to a configuration that is not in /etc.
    srun = folder / "bin" / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {_program("srun")} "$@"\n')
    srun.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    cores, memory = os.cpu_count(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    text = CONF.format(
        host=host, user="root", folder=folder, controller=_port(), node=_port(), cores=cores, memory=memory
    )
    (folder / "slurm.conf").write_text(text)
    path = f"{folder}/bin:{os.environ['PATH']}:/usr/sbin:/sbin"
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
    places = {"--socket": "munge.socket", "--key-file": "munge.key", "--pid-file": "munge.pid", "--seed-file": "seed"}
    munge = [f"{option}={folder / name}" for option, name in places.items()]
    commands = (
        ["munged", "--foreground", "--force", f"--log-file={folder}/munge.log", *munge],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-c", "-N", host],
    )
    running = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("w") as out:
                running.append(
                    subprocess.Popen(command, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
                )
            if command[0] == "munged":
                _wait(lambda: (folder / "munge.socket").exists(), folder, "munged")
        _wait(lambda: _idle(environment), folder, "the node")
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
        for process in reversed(running):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _idle(environment: dict[str, str]) -> bool:
    said = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
    return said.stdout.strip() == "idle"


def _wait(ready: Callable[[], bool], folder: Path, what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > end:
            said = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.out"))
            raise RuntimeError(f"{what} did not come up:\n{said}")
        time.sleep(0.1)


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
