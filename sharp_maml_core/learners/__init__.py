"""The meta-learners, one file each, behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..config import FAMILY, SINGLE_LEVEL, Config
from ..data.split import Split
from ..models import model_for_images
from ..network import Network
from .bmaml import bmaml
from .cavia import cavia
from .common import check_fits
from .erm import erm
from .imaml import imaml
from .learner import Learner, Loss
from .llama import llama
from .maml import maml
from .mamlpp import mamlpp
from .matching import matching
from .reptile import reptile

__all__ = ["Learner", "Loss", "build_learner"]

BUILDERS: dict[str, Callable[[Config, Network, Loss], Learner]] = {
    **dict.fromkeys(FAMILY, maml),
    "matching": matching,
    "reptile": reptile,
    "imaml": imaml,
    "cavia": cavia,
    "llama": llama,
    "bmaml": bmaml,
    "maml++": mamlpp,
    **dict.fromkeys(SINGLE_LEVEL, erm),
}
"""What makes the learner of each variant."""


def build_learner(config: Config, model: nn.Module | None = None, loss: Loss | None = None) -> Learner:
    """The learner that `config.variant` names.

    model  any module without running statistics, dropout and frozen parameters; `init` draws its parameters by each
           layer's `reset_parameters`. Its buffers are constants, and go to the settings' type and device. PyTorch's
           fused norm layers are right here but wrong from the third derivative on: for Hessians of the meta-loss use
           `EpisodeNorm`, or write them out. Attention is computed by its formula (PyTorch's MATH), at a memory that
           grows with the square of the length. Default Conv4, for cavia FilmConv4, for `config.n_way` classes of
           28x28 grey images. Give `sharp_maml_core.models.model_for(config, split)` for other data.
    loss   (outputs, targets) -> mean loss, a scalar; default cross-entropy

    Raises UserError for a model that is not a pure function of parameters and input, or that the variant cannot use;
    the learner's `check_split` also for one that does not fit the data.
    """
    if model is None:
        model = model_for_images(config, (1, 28, 28), config.n_way)
    network, loss = Network(model, config.torch_dtype, config.torch_device), loss or F.cross_entropy
    learner = _with_attention(BUILDERS[config.variant](config, network, loss))

    def check_split(split: Split) -> None:
        check_fits(config, network, loss, split)
        learner.check_split(split)

    return replace(learner, check_split=check_split)


def _with_attention(learner: Learner) -> Learner:
    """The learner, for models with attention too: of PyTorch's kernels for it only MATH has second derivatives."""
    by_formula = sdpa_kernel(SDPBackend.MATH)  # once for each call: about every forward pass it would be felt
    annealed = learner.annealed
    return replace(
        learner,
        gradient=by_formula(learner.gradient),
        adapt=by_formula(learner.adapt),
        predict=by_formula(learner.predict),
        annealed=annealed and (lambda iteration: by_formula(annealed(iteration))),
    )
