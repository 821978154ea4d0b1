"""One run over several GPUs or machines: the tasks of each meta-iteration are split over processes.

    torchrun --nproc-per-node 2 -m sharp_maml_core train --n-tasks 16 ...

Every process draws the whole batch from the same generator and works on its own tasks; gradients and metrics are
averaged (`torch.distributed`; NCCL between GPUs, gloo between CPUs) below `meta.sharpen`, so that the upper
perturbation has the norm of the whole gradient (Eq. 13). Every process then takes the same outer
step. Validation and test tasks are split in the same way. The first process alone prints, writes, and holds the run's
lock; all read the run folder, which must lie on a disk that all of them see.

Whatever is exchanged is preceded by a vote, in which each process says that it goes on, that it was asked to stop, or
that it failed. So all stop after the same iteration, and an error of one ends all, with the one message that says why.
A process that is gone is noticed when its connection closes, or after `TIMEOUT`.

Outside of `together`, and in an ordinary process, everything here does nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree

from .errors import UserError, invalid

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others: longer than any of them needs to fetch and load its data."""

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
GO_ON, STOP, FAILED = 0, 1, 2  # votes; FAILED + i says which process failed

_together = False
_splitting: int | None = None


class PeerFailed(Exception):
    """Another process of this run failed, and says why."""


class Lost(UserError):
    """Another process of this run does not answer."""


@contextmanager
def together(timeout: timedelta = TIMEOUT) -> Iterator[None]:
    """Within the block, the processes that torchrun started work on one run. Does nothing in an ordinary process.

    An error in any process ends the block in all: with itself where it came first, with PeerFailed elsewhere.
    """
    global _together
    if _together or int(os.environ.get("WORLD_SIZE", "1")) == 1 or any(name not in os.environ for name in LAUNCHED):
        yield
        return
    _join(timeout)
    _together = True
    try:
        yield
        agree()  # nobody leaves while another may still fail
    except PeerFailed:
        raise
    except BaseException as error:
        speaks = first() if isinstance(error, Lost) else _speaks()
        if speaks or isinstance(error, KeyboardInterrupt):
            raise
        raise PeerFailed from error
    finally:
        # A process that ends makes torchrun end the others: wait until the first one has put its state away.
        with contextlib.suppress(Lost):
            _vote(GO_ON)
        _together = False
        dist.destroy_process_group()


def first() -> bool:
    """Whether this process is the one that prints and writes."""
    return not _together or dist.get_rank() == 0


def size() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if _together else 1


def check_tasks(n_tasks: int) -> None:
    """Raise UserError unless every process gets a task."""
    if n_tasks < size():
        raise invalid(
            "n_tasks",
            n_tasks,
            f"at least {size()}, the number of processes: each works on tasks of its own",
            "Raise n_tasks, or start fewer processes.",
        )


def check_device(device: torch.device) -> None:
    """Raise UserError unless every process has a GPU of its own, where it computes on one."""
    if not _together or device.type != "cuda":
        return
    if device.index is not None:
        raise invalid("device", str(device), "auto, cuda or cpu where torchrun starts several processes")
    local, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= found:
        raise invalid(
            "nproc-per-node", os.environ.get("LOCAL_WORLD_SIZE", local + 1), f"at most {found}, the GPUs of a machine"
        )


def check_same(what: str, parameter: str, value: object) -> None:
    """Raise UserError, in all processes, unless `what` is the same text in all of them."""
    if not _together:
        return
    agree()
    number = int.from_bytes(hashlib.sha256(what.encode()).digest()[:7], "big")
    extremes = torch.tensor([number, -number])
    _exchange(extremes, dist.ReduceOp.MAX)
    if extremes[0] != -extremes[1]:
        raise invalid(
            parameter,
            value,
            "the same for all processes: settings, data, and a folder that all of them see",
            "They found different ones there.",
        )


def agree(asked: bool = False) -> bool:
    """Whether any process is asked to stop. Raises PeerFailed where another one failed."""
    if not _together:
        return asked
    outcome = _vote(STOP if asked else GO_ON)
    if outcome >= FAILED:
        raise PeerFailed
    return outcome == STOP


def after_first(load: Callable[[], Any]) -> Any:
    """What `load` gives, in the first process of each machine before the others, who find what it fetched."""
    ahead = not _together or os.environ["LOCAL_RANK"] == "0"
    found = [load()] if ahead else []
    agree()
    return found[0] if ahead else load()


def share(n_tasks: int) -> slice:
    """Which of `n_tasks` tasks are this process's; they differ by at most one in number."""
    if not _together:
        return slice(None)
    rank = dist.get_rank()
    return slice(rank * n_tasks // size(), (rank + 1) * n_tasks // size())


@contextmanager
def splitting(n_tasks: int) -> Iterator[None]:
    """Within the block, `mine` takes this process's share of `n_tasks` tasks."""
    global _splitting
    _splitting = n_tasks
    try:
        yield
    finally:
        _splitting = None


def mine(arguments: Any) -> Any:
    """Of trees of tensors with all tasks in front, those of this process; of trees with its own in front, all."""
    if _splitting is None:
        return arguments
    part, n_tasks = share(_splitting), _splitting  # a share is never all tasks: each process has one
    return pytree.tree_map(lambda leaf: leaf[part] if len(leaf) == n_tasks else leaf, arguments)


def mean(shares: Any, n_tasks: int) -> Any:
    """The mean over all tasks, from the mean over each process's share of them: trees of tensors of equal shapes."""
    leaves, tree = pytree.tree_flatten(shares)
    part = share(n_tasks)
    flat = torch.cat([value.detach().reshape(-1) for value in leaves]) * ((part.stop - part.start) / n_tasks)
    agree()
    _exchange(flat, dist.ReduceOp.SUM)
    parts = flat.split([value.numel() for value in leaves])
    means = [part.reshape(value.shape).to(value.dtype) for part, value in zip(parts, leaves, strict=True)]
    return pytree.tree_unflatten(means, tree)


def gather(scores: Callable[[slice], Tensor], n_tasks: int) -> Tensor:
    """One number for each task, float64 [n_tasks] on the CPU, from `scores` of each process's share."""
    mine = share(n_tasks)
    if not _together:
        return scores(mine).cpu()
    found = torch.zeros(n_tasks, dtype=torch.float64)
    if mine.start < mine.stop:
        found[mine] = scores(mine).cpu()
    agree()
    _exchange(found, dist.ReduceOp.SUM)  # the others' numbers are zeros here: the sum is exact
    return found


def _join(timeout: timedelta) -> None:
    on_gpu = torch.cuda.is_available()
    local = int(os.environ["LOCAL_RANK"])
    if on_gpu and local < torch.cuda.device_count():
        torch.cuda.set_device(local)  # this is what "cuda" and "auto" then mean
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=timeout)
    except RuntimeError as error:
        raise Lost(_gone(error)) from None


def _speaks() -> bool:
    """Tell the others that this process failed; whether it is the one to say why, the first of those that failed."""
    rank = dist.get_rank()
    try:
        return _vote(FAILED + size() - rank) == FAILED + size() - rank
    except Lost:
        return True


def _vote(ballot: int) -> int:
    votes = torch.tensor([ballot])
    _exchange(votes, dist.ReduceOp.MAX)
    return int(votes)


def _exchange(values: Tensor, how: Any) -> None:
    try:
        dist.all_reduce(values, how)
    except RuntimeError as error:
        raise Lost(_gone(error)) from error


def _gone(error: RuntimeError) -> str:
    why = re.sub(r"^\[\S+\] ", "", str(error).splitlines()[0]).partition(". ")[0]  # gloo begins with its source file
    return (
        f"Another process of this run was lost, or did not answer within the time ({why}). "
        "The same command goes on from the last checkpoint."
    )
