from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks import fgsm
from dpaat.attacks.norms import make_ball
from dpaat.methods.base import AdversarialTraining
from dpaat.methods.options import option
from dpaat.methods.registry import Cost, register_method


@register_method(
    "fgsm-rs", "one attack step from a random start", "Wong et al., ICLR 2020, arXiv 2001.03994", cost=Cost(0, 5)
)
class FGSMRS(AdversarialTraining):
    r"""Minimize the loss on FGSM examples from a random start (Wong et al., ICLR 2020, arXiv 2001.03994, algorithm 3).

    $\delta \sim U(B_\epsilon)$, then $\delta \leftarrow \Pi_{B_\epsilon}(\delta + 1.25\, \epsilon\, d(\nabla_x
    \ell(f(x + \delta), y)))$. One step, whatever `context.steps`.
    """

    multilabel = True

    @override
    def attack(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return fgsm(model, x, y, eps=self.context.eps, norm=self.context.norm, start="random")


@register_method(
    "n-fgsm",
    "one attack step from strong noise, not projected",
    "de Jorge et al., NeurIPS 2022, arXiv 2202.01181",
    cost=Cost(0, 5),
)
class NFGSM(AdversarialTraining):
    r"""Minimize the loss on FGSM examples of noisy images (de Jorge et al., NeurIPS 2022, arXiv 2202.01181).

    $\eta \sim U(B_{k\epsilon})$, then $x' = x + \eta + \epsilon\, d(\nabla_x \ell(f(x + \eta), y))$ with $k = 2$:
    strong noise, and no projection onto the ball, only onto the box. One step, whatever `context.steps`. In L2, which
    the paper does not treat, noise and step are those of the Euclidean ball.
    """

    multilabel = True
    noise: float = option(2.0, "[0, inf)")  #: radius of the noise as a multiple of eps

    @override
    def attack(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        eps, norm = self.context.eps, self.context.norm
        return fgsm(model, make_ball(norm, x, self.noise * eps).random_start(None), y, eps=eps, norm=norm)
