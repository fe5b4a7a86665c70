import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks.norms import make_ball, widen
from dpaat.attacks.pgd import pgd_trajectory
from dpaat.methods.base import RadiiMethod, StepOutput, bisect, margin_loss, score
from dpaat.methods.options import option
from dpaat.methods.registry import LARGEST, Cost, register_method
from dpaat.sample_state import EpochRadii

DEFAULTS = {"cost": Cost(2, 17, views=2), "eps": LARGEST, "moves_radius": True}


@register_method(
    "ima", "a radius per sample that grows until the boundary is met", "Ma, Liang 2020, arXiv 2005.09147", **DEFAULTS
)
class IMA(RadiiMethod):
    r"""Increasing-margin adversarial training (Ma and Liang 2020, arXiv 2005.09147).

    A sample that is classified rightly is attacked at its radius $E_i$. If the attack fails, $E_i$ grows by $\Delta$.
    If it succeeds, 10 bisections between the image and its adversarial version find $x_n$, just on the right side of
    the boundary, and $E_i \leftarrow (E_i + \|x_n - x\|) / 2$. The radius of a sample that is wrong stays. The new
    radii, at most eps_max, take effect in the next epoch. The objective is $(1 - \beta)\, \ell(x)$ plus
    $\beta\, \ell(x_n)$ for the samples with an $x_n$, averaged over the batch.

    The attack is that of fixed-radius training, in eval mode; the authors take 20 steps of $4 E_i / 20$ from a random
    start near the sphere.
    """

    beta: float = option(0.5, "[0, 1]")  #: weight of the adversarial loss against the clean one
    #: growth of a radius in one epoch, and the radius at the start, as a share of eps_max; the authors take from 1/100
    #: to 1/6, with 100 epochs and more
    increment: float = option(0.1, "(0, 1]")
    perturbation: EpochRadii
    takes_clean_weight = False

    @override
    def setup(self) -> None:
        self.step = self.increment * self.context.eps
        self.perturbation = EpochRadii(len(self.context.labels), self.step)

    @override
    def begin_epoch(self, epoch: int) -> None:
        self.perturbation.begin_epoch()

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        eps = self.perturbation.eps[index]
        ball = make_ball(self.context.norm, x, eps)
        steps = pgd_trajectory(model, x, y, ball=ball, steps=self.context.steps)
        first = next(steps)
        x_adv = first.after
        for iterate in steps:
            x_adv = iterate.after
        held = self.holds(first.logits, y)
        found = held & ~self.holds(score(model, x_adv), y)

        def at(share: Tensor) -> Tensor:
            return x + widen(share, x) * (x_adv - x)

        share, _ = bisect(lambda share: ~self.holds(score(model, at(share)), y), torch.ones_like(eps))
        at_margin = at(torch.where(found, share, 0))
        moved = torch.where(found, self.met(eps, ball.distance(at_margin)), eps + self.growth(eps, first.gradient))
        eps = torch.where(held, moved, eps).clamp(max=self.context.eps)
        loss, logits = margin_loss(model, x, at_margin, y, found, self.beta, self.context)
        return self.output(loss, logits, index, y, eps)

    def holds(self, logits: Tensor, y: Tensor) -> Tensor:
        """Whether the network copes with each sample `(B,)`: here, whether it is classified rightly."""
        return logits.argmax(1) == y

    def met(self, eps: Tensor, margin: Tensor) -> Tensor:
        """The radius of a sample whose attack at `eps` has succeeded, `margin` away from the image."""
        return (eps + margin) / 2

    def growth(self, eps: Tensor, gradient: Tensor) -> Tensor:
        """How much the radius of a sample grows whose attack at `eps` has failed; gradient of its clean loss."""
        return torch.full_like(eps, self.step)


@register_method("ame", "as ima, in smaller and smaller increments", "Ma, Liang, Neurocomputing 2023", **DEFAULTS)
class AME(IMA):
    r"""Adaptive margin evolution (Ma and Liang, Neurocomputing 2023, doi 10.1016/j.neucom.2023.126524).

    As IMA, but a radius grows by $\Delta\, 0.9^{\lfloor E_i / \Delta \rfloor} / (1 + \max |\nabla_x \ell|)$, less
    and less and on steep losses less, and where the attack succeeds, it becomes the distance of the boundary. The
    authors know no largest radius, and stop when no radius has grown in 5 epochs; here the largest one and the number
    of epochs are the run's. The increment is 2/255 at eps 8/255.
    """

    increment: float = option(0.25, "(0, 1]")

    @override
    def met(self, eps: Tensor, margin: Tensor) -> Tensor:
        return margin

    @override
    def growth(self, eps: Tensor, gradient: Tensor) -> Tensor:
        # a radius of n increments has passed n of them, which rounding must not undo
        passed = torch.floor(eps / self.step + 1e-4)
        return self.step * 0.9**passed / (1 + gradient.abs().flatten(1).amax(1))
