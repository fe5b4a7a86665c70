"""Unequal class sizes, treated in the loss to learn from; attacks and criteria keep the plain cross-entropy."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dpaat.methods.base import LearnLoss


def learning_loss(imbalance: str, labels: Tensor, num_classes: int) -> LearnLoss:
    """Make the loss to learn from, per sample, with the sizes of the classes in `labels` `(N,)` taken into account.

    By `imbalance`: "none", "sampler" (the batches are balanced instead), "weights" (by the inverse square root of the
    class size, mean 1 over the images), or "balanced-softmax" (cross-entropy of the logits plus the log class sizes;
    Ren et al., NeurIPS 2020, arXiv 2007.10740, eq. 4).
    """
    counts = torch.bincount(labels, minlength=num_classes).clamp(min=1).float()
    shift = counts.log() if imbalance == "balanced-softmax" else torch.zeros(num_classes)
    weight = counts.rsqrt() if imbalance == "weights" else torch.ones(num_classes)
    weight = weight / weight[labels].mean()

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        each = F.cross_entropy(logits.float() + shift.to(logits.device), y, reduction="none")
        return weight.to(logits.device)[y] * each

    return loss
