"""Ordinary training on clean images."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override

from dpaat.methods.base import Method, Visit


class Standard(Method):
    """Minimize the loss on the clean images; the reference for accuracy, and for how brittle it is."""

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> Visit:
        logits = model(x)
        return Visit(self.setting.learn_loss(logits, y).mean(), logits.detach(), index)
