"""A module as pure functions of its parameters."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .derivatives import hidden
from .errors import invalid
from .params import Params, select

FEATURES, HEAD = "features.", "head."
"""Where the two parts of Eq. 19, theta_r and theta_c, are found in a module's parameter names."""
CONTEXT = "context"
"""What a parameter is called, in whatever submodule, that CAVIA adapts."""
DROPOUTS = {(nn.modules.dropout._DropoutNd,): "p", (nn.MultiheadAttention, nn.RNNBase): "dropout"}
"""What the rate is called of modules that drop out at random."""


class Network:
    """A module without state of its own: theta is always an argument.

    dtype, device  of the parameters that `init` gives, and of the buffers; None: as they are in the module

    Raises UserError for what is no module, or not a function of its parameters and input, or has no parameters.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype | None = None, device: torch.device | None = None) -> None:
        if not isinstance(module, nn.Module):
            raise invalid("model", module, "an instance of torch.nn.Module", "Call its class to make one.")
        for name, child in module.named_modules():
            where = f"model.{name}" if name else "model"
            if getattr(child, "track_running_stats", False):
                raise invalid(
                    f"{where}.track_running_stats",
                    True,
                    "False: running statistics are state, and meta-learning normalises by the episode",
                    f"Build {type(child).__name__} with track_running_stats=False, or use sharp_maml_core.EpisodeNorm.",
                )
            for kinds, rate in DROPOUTS.items():
                if isinstance(child, kinds) and getattr(child, rate) > 0:
                    raise invalid(
                        f"{where}.{rate}",
                        getattr(child, rate),
                        "0: exact meta-gradients evaluate the model twice at one point and need one answer",
                        "Remove the dropout.",
                    )
        if next(module.parameters(), None) is None:
            raise invalid("model", type(module).__name__, "a module with parameters: there is nothing to learn in it")
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                raise invalid(
                    f"model.{name}.requires_grad",
                    False,
                    "True: `init` draws every parameter anew, and tasks and the outer loop change it",
                    "Make what stays as it is a buffer: `register_buffer`.",
                )
        self._dtype, self._device = dtype, device
        self._module = copy.deepcopy(module)
        for child in self._module.modules():  # parameters stay: each layer's rule draws them in their own type
            for name, buffer in child.named_buffers(recurse=False):
                setattr(child, name, buffer.to(device=device, dtype=dtype if buffer.is_floating_point() else None))
        self._parts_checked = False

    @property
    def name(self) -> str:
        """What the module's class is called."""
        return type(self._module).__name__

    @property
    def has_parts(self) -> bool:
        """Whether all parameters belong to submodules `features` and `head`, which some variants need."""
        names = [name for name, _ in self._module.named_parameters()]
        return all(name.startswith((FEATURES, HEAD)) for name in names) and all(
            any(name.startswith(part) for name in names) for part in (FEATURES, HEAD)
        )

    @property
    def norm_names(self) -> frozenset[str]:
        """Names of the scales and shifts of normalisation layers: modules that have "Norm" in their class's name."""
        return frozenset(
            f"{name}.{parameter}"
            for name, child in self._module.named_modules()
            if "Norm" in type(child).__name__
            for parameter, _ in child.named_parameters(recurse=False)
        )

    @property
    def shapes(self) -> dict[str, torch.Size]:
        return {name: value.shape for name, value in self._module.named_parameters()}

    @property
    def context_shapes(self) -> dict[str, torch.Size]:
        """Names and shapes of all parameters called `context`."""
        return {name: shape for name, shape in self.shapes.items() if name.split(".")[-1] == CONTEXT}

    def init(self, generator: torch.Generator) -> Params:
        """Fresh parameters by each layer's own rule; layers without a rule (`reset_parameters`) keep their values."""
        module = copy.deepcopy(self._module)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPU, which nobody restores
            for child in reversed(list(module.modules())):  # a module's own rule has the last word on its parts
                reset = getattr(child, "reset_parameters", None)
                if callable(reset):
                    reset()
        return {
            name: value.detach().clone().to(device=self._device, dtype=self._dtype)
            for name, value in module.named_parameters()
        }

    def forward(self, params: Params, x: Tensor) -> Tensor:
        return functional_call(self._module, params, (x,))

    def features(self, params: Params, x: Tensor) -> Tensor:
        return self._part(FEATURES, params, x)

    def head(self, params: Params, features: Tensor) -> Tensor:
        return self._part(HEAD, params, features)

    def check_parts(self, params: Params, x: Tensor, *, zero_head: bool = False) -> None:
        """Raise UserError, the first time it is called, unless the module computes head(features(x)).

        zero_head  whether tasks start from a head of zeros: of these it then has to make the same of all features
        """
        if self._parts_checked or hidden(x):
            return
        with torch.no_grad():
            features = self.features(params, x)
            if zero_head:
                self._check_zero_head(params, features)
                params = self._with_head(params, 1.0)  # of zeros any whole would be its parts' composition
            whole, composed = self.forward(params, x), self.head(params, features)
        if whole.shape != composed.shape or not torch.allclose(whole, composed, equal_nan=True):
            raise invalid(
                "model",
                self.name,
                "head(features(x)) for a variant that takes the parts alone, and its forward computes something else",
                "Move what lies between into `features`.",
            )
        self._parts_checked = True

    def _check_zero_head(self, params: Params, features: Tensor) -> None:
        """Raise UserError unless a head of zeros makes the same of all features, these and others."""
        outputs = self.head(self._with_head(params, 0.0), torch.cat([features, features + 1]))
        if not torch.allclose(outputs, outputs[:1].expand_as(outputs), equal_nan=True):
            raise invalid(
                "zero_head",
                True,
                f"false: the head of this {self.name} tells samples apart even where its parameters are all zero",
                "Move what it does without parameters into `features`.",
            )

    def _with_head(self, params: Params, value: float) -> Params:
        return {name: torch.full_like(old, value) if name.startswith(HEAD) else old for name, old in params.items()}

    def _part(self, prefix: str, params: Params, x: Tensor) -> Tensor:
        part = getattr(self._module, prefix[:-1])
        mine = select(params, lambda name: name.startswith(prefix))
        return functional_call(part, {name[len(prefix) :]: value for name, value in mine.items()}, (x,))
