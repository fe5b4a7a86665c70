"""Attack objectives: one number per sample `(B,)` from logits `(B, K)` and labels `(B,)`."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

LossFunction = Callable[[Tensor, Tensor], Tensor]

_TINY = 1e-12


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, in full precision whatever the model's."""
    return F.cross_entropy(logits.float(), y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best other logit minus the true one; positive exactly where the sample is misclassified.

    Source:
        Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks", 2017, arXiv 1608.04644, f6.
    """
    logits = logits.float()
    true = torch.zeros_like(logits, dtype=torch.bool).scatter(1, y[:, None], True)
    return logits.masked_fill(true, -torch.inf).amax(1) - logits[true]


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio: the margin over the gap between the largest and the third logit.

    Shifting or scaling the logits does not change it, so a model cannot hide its gradient behind large logits. Below
    three classes there is no third logit, and with three the ratio is constant on misclassified samples; the plain
    margin is used for both.

    Source:
        Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
        attacks", ICML 2020, arXiv 2003.01690, eq. 6.
    """
    if logits.shape[1] <= 3:
        return margin(logits, y)
    ordered = logits.float().sort(dim=1, descending=True).values
    return margin(logits, y) / (ordered[:, 0] - ordered[:, 2] + _TINY)


def logit_lead(target: Tensor) -> LossFunction:
    """Make the loss: how far the logit of a given class `(B,)` is ahead of the true one."""

    def lead(logits: Tensor, y: Tensor) -> Tensor:
        logits = logits.float()
        return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]

    return lead


def targeted_dlr(target: Tensor) -> LossFunction:
    """Make the loss that pulls samples towards given classes `(B,)` instead of their own.

    Source:
        Croce and Hein 2020, eq. 7; with three classes or fewer the plain difference of the two logits.
    """
    lead = logit_lead(target)

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        if logits.shape[1] <= 3:
            return lead(logits, y)
        ordered = logits.float().sort(dim=1, descending=True).values
        return lead(logits, y) / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + _TINY)

    return loss
