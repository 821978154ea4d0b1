"""What a run will take: from runs of the same kind on this device, else from a rough count of its work."""

from __future__ import annotations

import statistics
from typing import Any

from sharp_maml_core.config import Config, config_from
from sharp_maml_core.errors import UserError
from sharp_maml_core.operations import of_iteration, of_test_task
from sharp_maml_core.results import device_name

from .cells import Run, kind_of
from .store import Store, progress, trained_on

SECONDS_OF_A_GIGA = {"cpu": 0.045, "cuda": 2e-4}  # a billion multiplications and additions; rough, for want of better
OVERHEAD = {"cpu": 0.01, "cuda": 0.03}  # of an iteration
START = 10.0  # to import, load and check


def seconds(run: Run, store: Store, device: str, measured: list[dict[str, Any]] | None = None) -> float:
    """The seconds that a run still needs on a device.

    Those of an iteration are taken from its own checkpoint, unless another device had a part in it, else from other
    seeds of its cell on this device, else they are counted roughly, and scaled by what all that was measured on this
    device took against its count. Of a device that is not here nothing is known to be measured, but a checkpoint that
    one device alone made is taken for its.
    """
    config = run.cell.config(run.seed)
    name = _name(device)
    known = [found for found in (store.measured() if measured is None else measured) if found["device"] == name]
    done, spent = progress(store.folder(run))
    before = trained_on(store.folder(run))
    same = [found["seconds_per_iteration"] for found in known if found["cell"]["name"] == run.cell.name]
    if done and (before <= {name} or (name is None and len(before) == 1)):
        iteration = spent / done
    elif same:
        iteration = statistics.mean(same)
    else:
        kind = kind_of(device)
        counted = sum(rough(config_from(found["config"] | {"device": "auto"}), kind) for found in known)
        took = sum(found["seconds_per_iteration"] for found in known)
        iteration = rough(config, kind) * (took / counted if known else 1)
    tested = config.eval_tasks + config.val_tasks * ((config.iterations - done) / config.eval_every)
    return START + iteration * (config.iterations - done + tested * of_test_task(config) / of_iteration(config))


def _name(device: str) -> str | None:
    """What a device calls itself; None where it is another machine's, as a cluster's GPU seen from where one submits,
    or lost.
    """
    try:
        return device_name(Config(device=device).torch_device)
    except (UserError, RuntimeError):
        return None


def rough(config: Config, kind: str) -> float:
    """Seconds of an iteration on a device of a kind, cpu or cuda, of which nothing is known."""
    return OVERHEAD[kind] + SECONDS_OF_A_GIGA[kind] * of_iteration(config)
