"""The queue on this machine: the most valuable missing runs that fit into a budget, some at a time.

A run is the command that it is everywhere, in a process of its own: whatever happens to it, its run folder stays whole
and the queue goes on with another. When the budget ends the trainer is asked to stop, which it does after a
checkpoint; the next queue goes on from there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sharp_maml_core import errors, output
from sharp_maml_core.errors import UserError
from sharp_maml_core.interrupts import StopRequest, stop_requests

from .cells import Run, kind_of
from .cost import seconds
from .store import BEGUN, DAMAGED, DIVERGED, DONE, MISSING, OTHER, Store, in_use, note_partial, progress

TRIES = 3
ASKED = (0, 130, -signal.SIGTERM)  # how a trainer ends that was asked to; the last before it could hear
FAILURES = 3  # in a row, of different runs: then it is the machine
LOOK = 0.1
ROOT = Path(__file__).parent.parent


@dataclass
class _Job:
    run: Run
    tries: int
    steps: list[list[str]]
    begun: float = field(default_factory=time.monotonic)
    process: subprocess.Popen[str] = field(init=False)


class Queue:
    """Works through runs in their order.

    device    of every run
    jobs      runs at a time
    budget    seconds until the trainers are asked to stop; None: as long as it takes
    say       gets a line for whatever happens
    """

    def __init__(
        self,
        runs: list[Run],
        store: Store,
        *,
        device: str = "auto",
        jobs: int = 1,
        budget: float | None = None,
        say: Callable[[str], None] = output.say,
    ) -> None:
        self._runs, self._store, self._device, self._jobs, self._say = runs, store, device, jobs, say
        self._end = None if budget is None else time.monotonic() + budget
        self._working: list[_Job] = []
        self._left: set[str] = set()  # what is not to be tried again in this session
        self._failures = 0
        self.failed: list[str] = []
        self.done: list[str] = []

    def work(self) -> None:
        """Until nothing is missing, the budget is spent, or too much fails. Raises KeyboardInterrupt when asked to."""
        self._check_results()
        with stop_requests() as stop:
            try:
                self._go_through(stop)
            finally:  # whatever ends the queue, but for SIGKILL, no trainer outlives it
                self._stop_all()
        if stop:
            raise KeyboardInterrupt

    def _go_through(self, stop: StopRequest) -> None:
        room = True
        while not (stop or self._gives_up() or self._remaining() <= 0):
            if room:  # only then: it reads all result files
                self._fill()
            if not self._working:
                break
            time.sleep(LOOK)
            room = self._reap()
        if self._gives_up():
            self._say(f"{FAILURES} runs in a row failed: the rest is left alone.")

    def _gives_up(self) -> bool:
        return self._failures >= FAILURES

    def _remaining(self) -> float:
        return float("inf") if self._end is None else self._end - time.monotonic()

    def _check_results(self) -> None:
        for run in self._runs:
            state = self._store.state(run)
            trouble = unusable(run, self._store, state)
            if trouble:
                self._left.add(run.name)
                self.failed.append(run.name)
                self._say(trouble)
            elif state == DIVERGED:
                self._say(left_alone(run, self._store))

    def _fill(self) -> None:
        while len(self._working) < self._jobs and not self._gives_up() and (run := self._next()) is not None:
            self._begin(run)

    def _next(self) -> Run | None:
        """The first missing run that fits, or else the first one, which is then cut."""
        missing = []
        for run in self._runs:
            if run.name in self._left or any(job.run == run for job in self._working):
                continue
            if self._store.state(run) not in (MISSING, BEGUN):
                continue
            if in_use(self._store.folder(run)):
                self._in_use(run)
                continue
            missing.append(run)
            if self._end is None:
                return run
        measured = self._store.measured()
        room = self._remaining()
        fits = (run for run in missing if seconds(run, self._store, self._device, measured) <= room)
        return next(fits, missing[0] if missing else None)

    def _in_use(self, run: Run) -> None:
        self._left.add(run.name)
        self._say(f"in use   {run.name}: another has {self._store.folder(run)} locked; going on with another run")

    def _begin(self, run: Run, tries: int = 1) -> None:
        if tries == 1:
            takes = seconds(run, self._store, self._device)
            self._say(f"begun    {run.name}: about {takes / 60:.0f} min on {self._device}")
        self._launch(_Job(run, tries, commands(run, self._store, self._device)))

    def _launch(self, job: _Job) -> None:
        """Begin the next step of a job. Where the machine cannot, as on a full disk, its run has failed."""
        try:
            job.process = self._process(job.run, job.steps.pop(0))
        except OSError as error:
            done, _ = progress(self._store.folder(job.run))
            self._fail(job.run, done, f"it could not be started ({error}).")
        else:
            self._working.append(job)

    def _process(self, run: Run, command: list[str]) -> subprocess.Popen[str]:
        self._store.runs.mkdir(parents=True, exist_ok=True)
        with self._log(run).open("a") as log:
            # A session of its own: Ctrl-C reaches the queue alone, which then asks once.
            return subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(self._jobs, self._device),
                start_new_session=True,
                text=True,
            )

    def _log(self, run: Run) -> Path:
        return self._store.runs / f"{run.name}.log"

    def _reap(self) -> bool:
        """See to the processes that ended; returns whether there were any."""
        ended = [job for job in self._working if job.process.poll() is not None]
        for job in ended:
            self._working.remove(job)
            if job.process.returncode == 0 and job.steps:
                self._launch(job)
            elif job.process.returncode == 0:
                self._finished(job)
            else:
                self._broken(job)
        return bool(ended)

    def _finished(self, job: _Job) -> None:
        self._failures = 0
        self._left.add(job.run.name)
        self.done.append(job.run.name)
        self._say(f"done     {job.run.name}: {time.monotonic() - job.begun:.0f} s, {self._store.path(job.run)}")

    def _broken(self, job: _Job) -> None:
        run, status = job.run, job.process.returncode
        if status == errors.MEND and in_use(self._store.folder(run)):
            self._in_use(run)
            return
        why = _last_line(self._log(run)) if status > 0 else f"killed by {signal.Signals(-status).name}."
        done = self._note(run, diverged=why if status == errors.DIVERGED else "")
        if status == errors.DIVERGED:  # that is the run's doing, not the machine's
            self._left.add(run.name)
            self.failed.append(run.name)
            self._say(f"diverged {run.name}, kept up to iteration {done}: {why}")
            return
        if status != errors.MEND and job.tries < TRIES:
            self._say(f"again    {run.name}: {why} It goes on from iteration {done}.")
            self._begin(run, job.tries + 1)
            return
        self._fail(run, done, why)

    def _fail(self, run: Run, done: int, why: str) -> None:
        self._left.add(run.name)
        self.failed.append(run.name)
        self._failures += 1
        self._say(f"failed   {run.name}, kept up to iteration {done}: {why}")

    def _note(self, run: Run, diverged: str = "") -> int:
        """The iterations that are done, noted; a full disk or a lost GPU costs the note, not the queue."""
        try:
            return note_partial(run, self._store, self._device, diverged)
        except (OSError, UserError, RuntimeError) as error:  # RuntimeError: PyTorch's, of a GPU
            self._say(f"unnoted  {run.name}: {error}")
            return progress(self._store.folder(run))[0]

    def _stop_all(self) -> None:
        for job in self._working:
            job.process.send_signal(signal.SIGTERM)
        for job in self._working:
            job.process.wait()
        self._working, stopped = [], self._working
        for job in stopped:
            if self._store.state(job.run) == DONE:
                self._finished(job)
                continue
            done = self._note(job.run)
            total = job.run.cell.config(job.run.seed).iterations
            self._say(f"stopped  {job.run.name}: iteration {done} of {total}; the next time goes on from there")
            if job.process.returncode not in ASKED:
                self._say(f"unkept   {job.run.name}: what it did since: {_last_line(self._log(job.run))}")


def unusable(run: Run, store: Store, state: str) -> str:
    """What is said of a run whose result file or folder only the user can mend; empty where there is nothing."""
    if state in (DAMAGED, OTHER):
        return f"{store.path(run)} is {state}: left as it is. Restore it, or delete it to have the run done again."
    if state not in (MISSING, BEGUN):
        return ""
    try:
        changed = store.foreign(run)
    except UserError as error:
        return f"{run.name}: {error}"
    folder = store.folder(run)
    return f"{folder} holds a run of other settings ({changed}): move it away, or delete it." if changed else ""


def left_alone(run: Run, store: Store) -> str:
    """What is said of a run that is noted as diverged: it would again."""
    path = store.partial_path(run)
    return f"diverged {run.name}: left alone. To have it tried again, delete {path} and its run folder."


def commands(run: Run, store: Store, device: str) -> list[list[str]]:
    """What is run for a result, after `python`: the training, which goes on where it stopped, and the collecting."""
    folder = str(store.folder(run))
    train = ["-m", "sharp_maml_core", "train", "--quiet", "--run-dir", folder, "--device", device, *run.arguments]
    return [train, ["-m", "experiments", "collect", run.name, "--device", device, *store.arguments]]


def environment(jobs: int, device: str) -> dict[str, str]:
    """On a CPU the runs share the cores, a thread each where there are as many."""
    own = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    if kind_of(device) == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        own["OMP_NUM_THREADS"] = str(max(1, cores() // jobs))
    return os.environ | own


def cores() -> int:
    """The cores that this process may use; all of them where the system cannot confine it to some, as macOS."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if lines:
        return lines[-1]
    return f"nothing was said in {log}, where {shutil.disk_usage(log.parent).free / 2**20:.1f} MiB are free."
