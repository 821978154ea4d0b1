"""What a run will take: from runs of the same kind on this device, else from a rough count of its work."""

from __future__ import annotations

import statistics
from typing import Any

from sharp_maml_core.config import Config, config_from
from sharp_maml_core.errors import UserError
from sharp_maml_core.results import device_name

from .cells import Run, kind_of
from .store import Store, progress, trained_on

SIDES = {"miniimagenet": (84, 3), "cifar-fs": (32, 3), "fc100": (32, 3)}  # pixels and channels; others: 28 and 1
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
    return START + iteration * (config.iterations - done + tested * testing(config) / work(config))


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
    return OVERHEAD[kind] + SECONDS_OF_A_GIGA[kind] * work(config)


def work(config: Config) -> float:
    """Billions of multiplications and additions of a meta-iteration, roughly.

    A gradient is three forward passes; a product with a Hessian is two gradients. A step of the inner loop takes a
    gradient, one more for the lower perturbation, and a product on the way back; the upper one does all of it twice.
    """
    support, query = config.way_of_training * config.k_shot, config.way_of_training * config.n_query
    lower = config.variant in ("low", "both", "low-anil", "e-low", "e-low-anil") and config.alpha_low > 0
    upper = config.variant not in ("maml", "fomaml", "low", "anil", "low-anil", "e-low", "e-low-anil")
    step = 3 + 3 * lower + (0 if config.variant == "fomaml" else 6)
    spared = 6 if config.zero_head and not lower and config.variant != "fomaml" else 0  # the first step's Hessian
    passes = config.n_tasks * ((config.inner_steps * step - spared) * support + 3 * query)
    return passes * (2 if upper and config.alpha_up > 0 else 1) * image(config)


def testing(config: Config) -> float:
    """The same for one test task."""
    steps = config.eval_inner_steps or config.inner_steps
    return (steps * 3 * config.n_way * config.k_shot + config.n_way * config.n_query) * image(config)


def image(config: Config) -> float:
    """The same for one image, forward through the four layers of Conv4, or of those with strides."""
    side, channels = SIDES.get(config.dataset, (28, 1))
    total, filters = 0, config.filters
    strided = config.downsampling == "stride"
    for layer in range(4):
        half = (side + 1) // 2 if strided else side // 2
        positions = half * half if strided else side * side
        total += positions * 9 * filters * (channels if layer == 0 else filters)
        side = half
    return total / 1e9
