r"""How the experiments were done (Section 5.1, Appendix E), and the reproduced baseline (Tables 1, 2, 4)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...config import Config
from ...learners import Loss, build_learner
from ...models import MLP, Conv4
from ...params import Params, add_scaled, norm, scaled
from ..paper_tables import INNER_RATES, INNER_STEPS, N_SEEDS, RADII, accuracy, reported
from . import Figures


def finns_protocol() -> Figures:
    r"""Sections 5.1, E: "we follow the experimental protocol in (Finn et al., 2017)". Slip: with another inner rate.

    Finn et al.'s code sums the cross-entropy over the N K support images and divides by K only, so its inner step on
    the mean loss, which L is in Section 2.1, has N times the rate that is named: 0.1 in 20-way is 2.0, and 0.01 on
    mini-ImageNet is 0.05. Their network for mini-ImageNet has 32 filters, the paper's 64. The inner rate 0.1 for
    Omniglot is twenty times smaller than the one it was taken from.

    Repaired: say which loss the rate belongs to. A sum over K at rate r is the mean at rate N r.
    """
    n_way, k_shot, rate = 20, 2, 0.1
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((n_way * k_shot, 4), generator=generator, dtype=torch.float64)
    y = torch.arange(n_way).repeat_interleave(k_shot)

    def per_shot(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="sum") / k_shot

    def adapted(loss: Loss, inner_lr: float) -> Params:
        config = Config(variant="maml", inner_lr=inner_lr, inner_steps=1, dtype="float64", device="cpu")
        learner = build_learner(config, MLP(4, n_way, width=8), loss)
        start = learner.init(torch.Generator().manual_seed(1))
        return scaled(add_scaled(learner.adapt(start, x, y), start, -1.0), -1.0)

    theirs, named = adapted(per_shot, rate), adapted(F.cross_entropy, rate)
    same = adapted(F.cross_entropy, n_way * rate)
    return {
        "their_step_over_the_named_one_20_way": float(norm(theirs) / norm(named)),
        "their_step_against_n_times_the_rate": float(norm(add_scaled(theirs, same, -1.0)) / norm(same)),
        "weights_of_32_filters": _weights(32),
        "weights_of_64_filters": _weights(64),
    }


def inner_steps_on_omniglot() -> Figures:
    r"""Appendix E: "only one inner gradient step with 0.1 learning rate for all our experiments". Slip.

    In the same paragraph the steps are chosen from {3, 5, 7, 10}, where one is not, and the step size from {0.1, 0.01,
    0.001}. Finn et al., whose setups are said to be used, take five steps in 20-way. What Tables 4 and 5 were made with
    cannot be told. On quadratics with beta a = 0.1, one step leaves 0.9 of the distance to the task's optimum, ten
    leave 0.35.

    Repaired: the number of steps and the rate that each line of the tables was made with.
    """
    left = 1 - INNER_RATES[0]
    return {
        "one_step_is_in_the_grid": float(1 in INNER_STEPS),
        "left_by_one_step": left,
        "left_by_the_fewest_of_the_grid": left ** min(INNER_STEPS),
        "left_by_the_most_of_the_grid": left ** max(INNER_STEPS),
    }


def best_of_a_grid() -> Figures:
    r"""Section 5.1: four radii, four numbers of steps, three rates, three seeds; "we report the best results". Slip.

    On what data the best was chosen is not said, and MAML, without radii but with two lengths of training, had half
    as many trials. If all trials were equal up to a noise of standard deviation s, the best of n has E max of n
    normals. The advantage of having twice the trials is then between a quarter and a half of s: it cannot explain
    three points, unless s is 6 points or more. That a best result is above the mean of its trials, by about 2 s, is
    the larger effect, for MAML, too.

    Repaired: choose on validation tasks, report test tasks, and the mean over seeds.
    """
    configurations = len(INNER_STEPS) * len(INNER_RATES)
    maml, sharp = 2 * configurations, len(RADII) * configurations
    return {
        "best_of_configurations_maml": _largest(maml),
        "best_of_configurations_sharp": _largest(sharp),
        "advantage_configurations": _largest(sharp) - _largest(maml),
        "advantage_radii_against_lengths": _largest(len(RADII)) - _largest(2),
        "advantage_with_seeds": _largest(N_SEEDS * sharp) - _largest(N_SEEDS * maml),
        "noise_that_would_explain_table_1": (accuracy(1, "both") - accuracy(1, "maml"))
        / (_largest(len(RADII)) - _largest(2)),
    }


def reproduced_maml() -> Figures:
    r"""Tables 1 and 2: "our reproduced result of MAML is close to that of the original". Holds.

    It is lower by 1.57 and 0.91 points, within the intervals 1.84 and 0.92 that Finn et al. print. So is, in 1-shot,
    the best Sharp-MAML, 1.58 higher. With 64 filters, as in the paper, Zintgraf et al. found 44.70 and 61.87 for MAML.
    """
    return {
        f"{name}_{shots}": value
        for table, shots in ((1, "1_shot"), (2, "5_shot"))
        for name, value in (
            ("points_below_finn", reported("maml", table).accuracy - accuracy(table, "maml")),
            ("interval_of_finn", reported("maml", table).interval or 0.0),
            ("points_above_zintgraf", accuracy(table, "maml") - reported("maml, 64 filters", table).accuracy),
        )
    }


def reproduced_maml_on_omniglot() -> Figures:
    r"""Appendix E: the reproduced MAML's 91.77% in 20-way 1-shot "is close to that of MAML++". Slip.

    MAML++ has 97.65 there, and Finn et al. report 95.8 +- 0.3 for MAML, in 5-shot 98.9 +- 0.2. The best Sharp-MAML is
    below that MAML in both settings, by more than the gain over the reproduced one. Antoniou et al.'s own rerun of MAML
    is probably meant, which should be said. An inner rate N times smaller (`finns_protocol`) is a possible reason for
    the gap to Finn et al.

    Repaired: 4 points below Finn et al.'s, 6 below MAML++; close to another rerun of MAML, if that is named.
    """
    return {
        "points_below_maml_plus_plus_1_shot": reported("maml++", 4).accuracy - accuracy(4, "maml"),
        "points_below_finn_1_shot": reported("maml", 4).accuracy - accuracy(4, "maml"),
        "points_below_finn_5_shot": reported("maml", 5).accuracy - accuracy(5, "maml"),
        "both_below_finn_1_shot": reported("maml", 4).accuracy - accuracy(4, "both"),
        "both_below_finn_5_shot": reported("maml", 5).accuracy - accuracy(5, "both"),
    }


def _weights(filters: int) -> int:
    return sum(p.numel() for p in Conv4((3, 84, 84), 5, filters).parameters())


def _largest(n: int) -> float:
    """The expectation of the largest of n standard normals, by the trapezoidal rule."""
    x = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return float(torch.trapezoid(x * n * density * torch.special.ndtr(x) ** (n - 1), x))
