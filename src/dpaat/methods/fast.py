"""Adversarial training with a single attack step from a random start."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks import fgsm
from dpaat.attacks.norms import make_ball
from dpaat.methods.base import Method, Setting, Visit, learn


class FGSMRS(Method):
    r"""Minimize the loss on FGSM examples from a random start (Wong et al., ICLR 2020, arXiv 2001.03994, algorithm 3).

    $\delta \sim U(B_\epsilon)$, then $\delta \leftarrow \Pi_{B_\epsilon}(\delta + 1.25\, \epsilon\, d(\nabla_x
    \ell(f(x + \delta), y)))$. One step, whatever `setting.steps`.
    """

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> Visit:
        setting = self.setting
        x_adv = fgsm(model, x, y, eps=setting.eps, norm=setting.norm, start="random")
        loss, logits, _ = learn(model, x, x_adv, y, setting)
        return Visit(loss, logits.detach(), index)


@dataclass(frozen=True)
class NFGSMOptions:
    """Options of N-FGSM.

    Attributes:
        noise: radius of the noise as a multiple of eps, at least 0.
    """

    noise: float = 2.0


class NFGSM(Method):
    r"""Minimize the loss on FGSM examples of noisy images (de Jorge et al., NeurIPS 2022, arXiv 2202.01181).

    $\eta \sim U(B_{k\epsilon})$, then $x' = x + \eta + \epsilon\, d(\nabla_x \ell(f(x + \eta), y))$ with $k = 2$:
    strong noise, and no projection onto the ball, only onto the box. One step, whatever `setting.steps`. In L2, which
    the paper does not treat, noise and step are those of the Euclidean ball.
    """

    def __init__(self, setting: Setting, options: NFGSMOptions) -> None:
        super().__init__(setting)
        if not options.noise >= 0:
            raise ValueError(f"noise must be at least 0, not {options.noise}")
        self.options = options

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> Visit:
        setting = self.setting
        noisy = make_ball(setting.norm, x, self.options.noise * setting.eps).random_start(None)
        x_adv = fgsm(model, noisy, y, eps=setting.eps, norm=setting.norm)
        loss, logits, _ = learn(model, x, x_adv, y, setting)
        return Visit(loss, logits.detach(), index)
