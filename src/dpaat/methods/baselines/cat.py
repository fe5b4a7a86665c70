import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.methods.base import LearnLoss, RadiiMethod, StepOutput, mixed_loss
from dpaat.methods.options import option
from dpaat.methods.registry import LARGEST, register_method


@register_method(
    "cat",
    "a radius per sample that grows at every visit it withstands, and softer labels",
    "Cheng et al., IJCAI 2022, arXiv 2002.06789",
    eps=LARGEST,
    moves_radius=True,
)
class CAT(RadiiMethod):
    r"""Customized adversarial training (Cheng et al., IJCAI 2022, arXiv 2002.06789, algorithm 1, with cross-entropy).

    Radii start at 0. A visit attacks at $\epsilon_i + \eta$; if the training pass still classifies the image rightly,
    that is the sample's new radius, at most the run's, else the old one stays. The label to learn is
    $(1 - c\, \epsilon_i)\, y_i + c\, \epsilon_i\, q$ with $q \sim Dirichlet(1)$ drawn anew. The paper's other loss, a
    margin, is left out.

    The loss at a soft label is the mean, under that label, of the run's loss to learn from. With a clean weight, the
    clean image keeps its hard label, for its radius is 0. A self-teacher's answer takes the place of the soft label.
    """

    #: growth of the radius in one visit, eta in the paper, in pixel units
    increment: float = option(0.005, "(0, inf)", radius=1)
    #: label noise per unit of the radius, c in the paper; times eps at most 1
    smoothing: float = option(10.0, "[0, inf)", radius=-1)

    @override
    def setup(self) -> None:
        super().setup()
        if self.smoothing * self.context.eps > 1:
            raise ValueError(f"smoothing times eps must lie in [0, 1], not {self.smoothing} * {self.context.eps:.4g}")

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        context, before = self.context, self.perturbation.eps[index]
        trial = (before + self.increment).clamp(max=context.eps)
        loss, logits, _ = mixed_loss(model, x, self.pgd(model, x, y, trial), y, context)
        adversarial = logits.detach()
        eps = torch.where(adversarial.argmax(1) == y, trial, before)
        noise = random_labels(adversarial)
        softening = soft_label_excess(context.learn_loss, logits, y, noise, self.smoothing * eps)
        taught = context.teacher.weight if context.teacher else 0.0  # a part of the label goes by the label's weight
        share = (1 - context.clean_weight) * (1 - taught)
        return self.output(loss + share * softening.mean(), adversarial, index, y, eps)


def random_labels(logits: Tensor) -> Tensor:
    """Draw a distribution over the classes for each row of `(B, K)`, all equally likely: Dirichlet(1)."""
    draws = torch.empty_like(logits, dtype=torch.float32).exponential_()
    return draws / draws.sum(1, keepdim=True)


def soft_label_excess(learn_loss: LearnLoss, logits: Tensor, y: Tensor, noise: Tensor, share: Tensor) -> Tensor:
    """What the loss `(B,)` at the label (1 - share) * y + share * noise is above that at y.

    Args:
        learn_loss: loss of logits at a class, per sample.
        logits: `(B, K)`.
        y: labels `(B,)`.
        noise: distributions over the classes `(B, K)`.
        share: weight of the noise `(B,)`.
    """
    at_each = torch.stack([learn_loss(logits, torch.full_like(y, label)) for label in range(logits.shape[1])], dim=1)
    return share * ((noise * at_each).sum(1) - at_each.gather(1, y[:, None])[:, 0])
