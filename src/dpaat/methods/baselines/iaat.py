import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks import pgd_with_clean_logits
from dpaat.attacks.norms import widen
from dpaat.methods.base import RadiiMethod, StepOutput, mixed_loss, score
from dpaat.methods.options import option
from dpaat.methods.registry import LARGEST, Cost, register_method


@register_method(
    "iaat",
    "a radius per sample, by whether it withstands a slightly larger one",
    "Balaji et al. 2019, arXiv 1910.08051",
    cost=Cost(6, 5),
    eps=LARGEST,
    moves_radius=True,
)
class IAAT(RadiiMethod):
    """Instance adaptive adversarial training (Balaji et al. 2019, arXiv 1910.08051, algorithms 1 and 2).

    Each step attacks three times: at the sample's radius, at gamma more, and at the new radius, to learn from. The
    attacks are those of fixed-radius training, in eval mode and from the clean image, whose logits they thus yield;
    the authors start at random and leave the network in train mode. They know no largest radius; here it is the
    run's, as for all methods.
    """

    #: how much larger the radius is that a sample has to withstand, in pixel units
    gamma: float = option(1.9 / 255, "(0, inf)", radius=1)
    beta: float = option(0.1, "(0, 1]")  #: weight of the new radius against the old one
    #: share of the epochs with attacks in which samples that are right get the whole radius and the others none; the
    #: authors take 10 epochs
    warmup: float = option(0.05, "[0, 1]")

    @override
    def begin_epoch(self, epoch: int) -> None:
        first = self.first_attack
        self.warming = epoch - first < self.warmup * (self.context.epochs - first)

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        context, eps = self.context, self.perturbation.eps[index]
        at_eps, clean = pgd_with_clean_logits(
            model, x, y, eps=context.eps if self.warming else eps, steps=context.steps, norm=context.norm
        )
        correct = clean.argmax(1) == y
        if self.warming:
            x_adv, eps = torch.where(widen(correct, x), at_eps, x), context.eps * correct.to(eps)
        else:
            beyond = self.pgd(model, x, y, eps + self.gamma)
            robust, robust_beyond = (score(model, torch.cat([at_eps, beyond])).argmax(1) == y.repeat(2)).chunk(2)
            eps = instance_radius(eps, correct, robust, robust_beyond, gamma=self.gamma, beta=self.beta)
            eps = eps.clamp(max=context.eps)
            x_adv = self.pgd(model, x, y, eps)
        loss, logits, _ = mixed_loss(model, x, x_adv, y, context)
        return self.output(loss, logits, index, y, eps)


def instance_radius(
    eps: Tensor, correct: Tensor, robust: Tensor, robust_beyond: Tensor, *, gamma: float, beta: float
) -> Tensor:
    r"""The new radii $(1 - \beta)\, \epsilon_i + \beta\, \epsilon'_i$ `(B,)`.

    $\epsilon'_i$ is $\epsilon_i + \gamma$ for a sample that withstands that radius, $\epsilon_i$ for one that
    withstands its own only, else $\epsilon_i - \gamma$, at least 0; and 0 for one that is wrong without an attack.

    Args:
        eps: the old radii `(B,)`.
        correct: whether the clean image is classified rightly `(B,)`.
        robust: whether the attacked one is, at eps `(B,)`.
        robust_beyond: the same, at eps + gamma `(B,)`.
        gamma: width of the trial.
        beta: weight of the new radius.
    """
    trial = eps + gamma * torch.where(robust_beyond, 1.0, torch.where(robust, 0.0, -1.0))
    return beta * (trial.clamp(min=0) * correct) + (1 - beta) * eps
