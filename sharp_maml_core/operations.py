"""What MAML and Sharp-MAML compute, counted: multiplications and additions of the convolutions, where nearly all lie.

A gradient is three forward passes, a product with a Hessian is two gradients. A step of the inner loop takes a
gradient, one more for the lower perturbation, and a product on the way back; the upper perturbation has all of it done
twice, but for the lower perturbations, which both share. A head that starts from zero spares the product of the first
step, as then no gradient reaches the features (`learners/zero_head.py`); the lower perturbation loses that. Not counted
is what is done a second time to save memory, where the graphs of all steps would be too large
(`learners.common.kept_graphs`); of another system than these the count is rough.
"""

from __future__ import annotations

from .config import Config
from .learners.maml import KINDS, Kind

SIDES = {"miniimagenet": (84, 3), "cifar-fs": (32, 3), "fc100": (32, 3)}  # pixels and channels; others: 28 and 1


def of_iteration(config: Config) -> float:
    """Billions of multiplications and additions of a meta-iteration."""
    support, query = config.way_of_training * config.k_shot, config.way_of_training * config.n_query
    kind = KINDS.get(config.variant, Kind(up=True))
    lower, upper = kind.low and config.alpha_low > 0, kind.up and config.alpha_up > 0
    perturbed = 3 * config.inner_steps * support if lower else 0
    step = 3 if kind.first_order else 9
    spared = 6 if config.zero_head and not lower and not kind.first_order else 0
    once = (config.inner_steps * step - spared) * support + 3 * query
    return config.n_tasks * (once * (2 if upper else 1) + perturbed) * of_image(config)


def of_run(config: Config) -> float:
    """The same for all its iterations."""
    return config.iterations * of_iteration(config)


def of_test_task(config: Config) -> float:
    """The same for one test task."""
    steps = config.steps_of_test
    return (steps * 3 * config.n_way * config.k_shot + config.n_way * config.n_query) * of_image(config)


def of_image(config: Config) -> float:
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
