"""Adversarial training with a single attack step from a random start."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks import fgsm
from dpaat.attacks.norms import make_ball
from dpaat.methods.base import Method, MethodContext, StepOutput, mixed_loss
from dpaat.methods.registry import FIXED, Cost, register_method
from dpaat.ranges import Options, ranged


@register_method(
    "fgsm-rs",
    "one attack step from a random start",
    reference="Wong et al., ICLR 2020, arXiv 2001.03994",
    cost=Cost(0, 5),
    eps=FIXED,
)
class FGSMRS(Method):
    r"""Minimize the loss on FGSM examples from a random start (Wong et al., ICLR 2020, arXiv 2001.03994, algorithm 3).

    $\delta \sim U(B_\epsilon)$, then $\delta \leftarrow \Pi_{B_\epsilon}(\delta + 1.25\, \epsilon\, d(\nabla_x
    \ell(f(x + \delta), y)))$. One step, whatever `context.steps`.
    """

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        context = self.context
        x_adv = fgsm(model, x, y, eps=context.eps, norm=context.norm, start="random")
        loss, logits, _ = mixed_loss(model, x, x_adv, y, context)
        return StepOutput(loss, logits.detach(), index)


@dataclass(frozen=True)
class NFGSMOptions(Options):
    """Options of N-FGSM.

    Attributes:
        noise: radius of the noise as a multiple of eps, at least 0.
    """

    noise: float = ranged(2.0, "[0, inf)")


@register_method(
    "n-fgsm",
    "one attack step from strong noise, not projected",
    reference="de Jorge et al., NeurIPS 2022, arXiv 2202.01181",
    cost=Cost(0, 5),
    eps=FIXED,
    options=NFGSMOptions(),
)
class NFGSM(Method):
    r"""Minimize the loss on FGSM examples of noisy images (de Jorge et al., NeurIPS 2022, arXiv 2202.01181).

    $\eta \sim U(B_{k\epsilon})$, then $x' = x + \eta + \epsilon\, d(\nabla_x \ell(f(x + \eta), y))$ with $k = 2$:
    strong noise, and no projection onto the ball, only onto the box. One step, whatever `context.steps`. In L2, which
    the paper does not treat, noise and step are those of the Euclidean ball.
    """

    def __init__(self, context: MethodContext, options: NFGSMOptions) -> None:
        super().__init__(context)
        self.options = options

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        context = self.context
        noisy = make_ball(context.norm, x, self.options.noise * context.eps).random_start(None)
        x_adv = fgsm(model, noisy, y, eps=context.eps, norm=context.norm)
        loss, logits, _ = mixed_loss(model, x, x_adv, y, context)
        return StepOutput(loss, logits.detach(), index)
