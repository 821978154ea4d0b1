"""The way the paper's code does it: Torchmeta's modules and update, a loop over tasks, one graph over all inner steps.

Written from the description of the released code, as the peer that `benchmarks.speed` measures against. The lower
perturbation is computed anew in the second pass and everything is differentiated by one `backward`, as it is there.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharp_maml_core.data import torchmeta
from sharp_maml_core.episode import Episode

MetaModule = torchmeta.modules.MetaModule


class PeerConv4(MetaModule):
    """Conv4 as Torchmeta's examples write it: convolution with bias, batch norm, ReLU, then pooling."""

    def __init__(self, image_shape: tuple[int, int, int], n_way: int, filters: int = 64) -> None:
        super().__init__()
        modules = torchmeta.modules
        channels, height, width = image_shape
        blocks = [
            modules.MetaSequential(
                modules.MetaConv2d(channels if i == 0 else filters, filters, kernel_size=3, padding=1),
                modules.MetaBatchNorm2d(filters, track_running_stats=False),
                nn.ReLU(),
                nn.MaxPool2d(2),
            )
            for i in range(4)
        ]
        self.features = modules.MetaSequential(*blocks)
        self.classifier = modules.MetaLinear(filters * (height // 16) * (width // 16), n_way)

    def forward(self, x: Tensor, params: Any = None) -> Tensor:
        features = self.features(x, params=self.get_subdict(params, "features"))
        return self.classifier(features.flatten(1), params=self.get_subdict(params, "classifier"))


class Peer:
    """One meta-iteration of MAML, or of Sharp-MAML with the given radii, on a PeerConv4 with Adam."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_way: int,
        inner_lr: float,
        inner_steps: int,
        alpha_low: float = 0.0,
        alpha_up: float = 0.0,
    ) -> None:
        torch.manual_seed(0)
        self.model = PeerConv4(image_shape, n_way)
        self.adam = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.inner_lr, self.inner_steps = inner_lr, inner_steps
        self.alpha_low, self.alpha_up = alpha_low, alpha_up

    def iteration(self, episode: Episode) -> None:
        self._backward(episode)
        if self.alpha_up:
            parameters = list(self.model.parameters())
            norm = torch.stack([p.grad.norm() for p in parameters]).norm()
            climb = [p.grad * (self.alpha_up / (norm + 1e-12)) for p in parameters]
            with torch.no_grad():
                torch._foreach_add_(parameters, climb)
            self._backward(episode)
            with torch.no_grad():
                torch._foreach_sub_(parameters, climb)
        self.adam.step()

    def _backward(self, episode: Episode) -> None:
        self.model.zero_grad()
        total = torch.zeros(())
        for support_x, support_y, query_x, query_y in zip(*episode, strict=True):
            fast = self._adapt(support_x, support_y)
            total = total + F.cross_entropy(self.model(query_x, params=fast), query_y)
        (total / episode.n_tasks).backward()

    def _adapt(self, x: Tensor, y: Tensor) -> Any:
        fast = None
        for _ in range(self.inner_steps):
            at = fast if not self.alpha_low else self._climbed(fast, x, y)
            loss = F.cross_entropy(self.model(x, params=at), y)
            if not self.alpha_low:
                fast = torchmeta.utils.gradient_based.gradient_update_parameters(
                    self.model, loss, params=fast, step_size=self.inner_lr
                )
                continue
            grads = torch.autograd.grad(loss, list(at.values()), create_graph=True)
            origin = fast or OrderedDict(self.model.meta_named_parameters())
            fast = OrderedDict(
                (name, value - self.inner_lr * grad) for (name, value), grad in zip(origin.items(), grads, strict=True)
            )
        return fast

    def _climbed(self, fast: Any, x: Tensor, y: Tensor) -> Any:
        origin = fast or OrderedDict(self.model.meta_named_parameters())
        loss = F.cross_entropy(self.model(x, params=fast), y)
        grads = torch.autograd.grad(loss, list(origin.values()))
        norm = torch.stack([grad.norm() for grad in grads]).norm()
        return OrderedDict(
            (name, value + grad * (self.alpha_low / (norm + 1e-12)))
            for (name, value), grad in zip(origin.items(), grads, strict=True)
        )
