"""What each of the processes does that test_distributed starts: `python ranks.py FOLDER PORT...`.

As torchrun does, the environment says which process it is. Each scenario is a run of its own, so that the imports are
paid for once; what became of it goes to FOLDER/SCENARIO-RANK.txt.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from helpers import SmallNet, easy_data, easy_split, small_config

from sharp_maml_core import Config, build_learner, distributed, evaluate, run, run_experiment

UNEQUAL = {"n_tasks": 3, "dtype": "float64", "checkpoint_every": 100}
VARIANTS = ("both", "low-anil", "e-low")
BOTH = small_config("both", **UNEQUAL)
AT = 3


def of_variant(variant: str) -> Config:
    return small_config(variant, **UNEQUAL, alpha_low=0.05, alpha_up=0.05)


def whole(folder: Path, config: Config, **options: Any) -> str:
    """A run that nothing happens to, or that goes on."""
    given = {"model": SmallNet(), "data": easy_data(), "progress": False}
    return str(run_experiment(config, folder, **given | options)["iterations"])


def disturbed(what: Callable[[], None]) -> Callable[[Path, Config], str]:
    """A run in which `what` happens to the second process in the gradient of iteration AT."""

    def scenario(folder: Path, config: Config) -> str:
        plain = run.build_learner

        def build(*arguments: Any) -> Any:
            learner, count = plain(*arguments), 0

            def gradient(*arguments: Any) -> Any:
                nonlocal count
                count += 1
                if count == AT and not distributed.first():
                    what()
                return learner.gradient(*arguments)

            return dataclasses.replace(learner, gradient=gradient)

        run.build_learner = build
        try:
            return whole(folder, config)
        finally:
            run.build_learner = plain

    return scenario


def asked() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def broken() -> None:
    raise ValueError("the second process fails")


def full_disk(folder: Path, config: Config) -> str:
    """The first process fails where only it works."""

    def no_room(*arguments: Any) -> None:
        raise OSError("no room")

    plain, run.rundir.save_state = run.rundir.save_state, no_room
    try:
        return whole(folder, config)
    finally:
        run.rundir.save_state = plain


def apart(folder: Path, config: Config) -> str:
    """Each process in a folder of its own, where the first finds a run and the second does not."""
    return whole(folder.with_name("whole" if distributed.first() else "apart"), config)


def too_few(folder: Path, config: Config) -> str:
    return whole(folder, config.replace(n_tasks=1))


def tested(folder: Path, config: Config) -> str:
    """Tasks that the processes cannot share evenly: 17 are 16 and 1, of which one process has none."""
    learner = build_learner(config, SmallNet())
    params = learner.init(torch.Generator().manual_seed(0))
    return str(evaluate(learner, params, easy_split(seed=2), config, n_tasks=17).scores.tolist())


def silent(folder: Path, config: Config) -> str:
    """The second process does not answer, though its connection stands, until the first has given up."""
    if distributed.first():
        return whole(folder, config)
    while not folder.with_name("silent-0.txt").exists():
        time.sleep(0.05)
    return ""


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


PORTS: list[int] = []
SCENARIOS: dict[str, tuple[Callable[..., str], Config]] = {
    **{variant: (whole, of_variant(variant)) for variant in VARIANTS},
    "whole": (whole, BOTH),
    "asked": (disturbed(asked), BOTH),
    "broken": (disturbed(broken), BOTH),
    "full": (full_disk, BOTH),
    "few": (too_few, BOTH),
    "tested": (tested, BOTH),
    "apart": (apart, BOTH),
    "silent": (silent, BOTH),
    "killed": (disturbed(killed), BOTH),  # the last one
}


def outcome(scenario: Callable[..., str], folder: Path, config: Config, timeout: timedelta) -> str:
    # A port each: the second process may come before the first has closed the last one.
    os.environ["MASTER_PORT"] = str(PORTS.pop())
    try:
        with distributed.together(timeout):
            assert distributed.size() == 2
            return scenario(folder, config)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def main(root: Path) -> None:
    PORTS.extend(map(int, sys.argv[2:]))
    torch.set_num_threads(1)
    rank = os.environ["RANK"]
    for name, (scenario, config) in SCENARIOS.items():
        timeout = timedelta(seconds=1 if name == "silent" else 60)
        (root / f"{name}-{rank}.txt").write_text(outcome(scenario, root / name, config, timeout))
        if name in ("asked", "broken"):  # what it left, before it goes on
            if rank == "0":
                checkpoint = root / name / run.rundir.CHECKPOINT
                (root / f"{name}.safetensors").write_bytes(checkpoint.read_bytes())
            (root / f"{name}-again-{rank}.txt").write_text(outcome(whole, root / name, config, timeout))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
