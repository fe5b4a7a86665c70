"""Self-distillation: the run's own network, frozen when the attacks begin, teaches the adversarial views."""

import copy
from typing import Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks.losses import kl_divergence
from dpaat.errors import UserError, first_line


class SelfTeacher(nn.Module):
    r"""Frozen copy of the network whose clean answers the adversarial views learn; saved with the method.

    $T^2\, KL(p_T(f_0(x)) \,\|\, p_T(f(x')))$ with $f_0$ the network as it was when the attacks began and $p_T$ the
    softmax of logits divided by $T$.

    Args:
        model: the network, whose weights are copied.
        weight: share of this loss in the loss on an adversarial view, in (0, 1].
        temperature: T, above 0.

    Raises:
        UserError: a model that cannot be copied.

    Source: Distillation: Hinton et al. 2015, arXiv 1503.02531. Guidance by a clean model: Cui et al., ICCV 2021, arXiv
    2011.11164 (LBGAT); Suzuki et al., ICCV 2023, arXiv 2308.16454 (ARREST). A run's own past network in that place is
    this package's choice.
    """

    def __init__(self, model: nn.Module, weight: float, temperature: float = 2.0) -> None:
        super().__init__()
        try:
            self.network = copy.deepcopy(model).requires_grad_(False).eval()
        except Exception as error:
            raise UserError(
                f"self_teacher: the model cannot be copied ({first_line(error)}); give self_teacher=0"
            ) from None
        for module in self.network.modules():  # those before a forward pass stay: spectral norm is made of them
            module._forward_hooks.clear()
            module._backward_hooks.clear()
        self.weight, self.temperature = weight, temperature

    def freeze(self, model: nn.Module) -> None:
        """Copy the network as it is now, its kind of numbers and unsaved buffers too; it may be wrapped by now."""
        # By their order: what wraps the network puts its own name in front of theirs.
        weights = zip(self.network.state_dict(), model.state_dict().values(), strict=True)
        self.network.load_state_dict(dict(weights))
        own, given = ([*each.parameters(), *each.buffers()] for each in (self.network, model))
        if len(own) == len(given):  # else it has made buffers on its way, as the copy will
            for tensor, now in zip(own, given, strict=True):
                kept = tensor.data if tensor.shape == now.shape else torch.empty_like(now, device=tensor.device)
                tensor.data = kept.to(now.dtype).copy_(now.detach())

    def divergence(self, logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Loss per sample `(B,)`, from logits `(B, K)` of adversarial views and the clean images `(B, C, H, W)`.

        Of the labels `y`, only those that are unknown matter: the network's answers to them teach nothing.
        """
        with torch.no_grad():
            expected = self.network(x).float() / self.temperature
        found = logits.float() / self.temperature
        return self.temperature**2 * kl_divergence(expected, found, y)

    @override
    def train(self, mode: bool = True) -> Self:
        return super().train(False)
