"""Unequal class sizes, treated in the loss to learn from; attacks and criteria keep the plain cross-entropy."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dpaat.attacks.losses import label_losses, mean_known
from dpaat.errors import UserError
from dpaat.methods.base import LearnLoss

OF_LABELS = ("pos-weight", "asymmetric")
FOCUS, SHIFT = 4, 0.05  # of the asymmetric loss: exponent and shift of the probability of negatives


def learning_loss(imbalance: str, labels: Tensor, num_classes: int) -> LearnLoss:
    """Make the loss to learn from, per sample, with the sizes of the classes in `labels` `(N,)` taken into account.

    By `imbalance`: "none", "sampler" (the batches are balanced instead), "weights" (by the inverse square root of the
    class size, mean 1 over the images), or "balanced-softmax" (cross-entropy of the logits plus the log class sizes;
    Ren et al., NeurIPS 2020, arXiv 2007.10740, eq. 4). For several labels an image `(N, K)` see `label_loss`; what is
    for one of the two kinds only is a UserError.
    """
    if labels.ndim == 2:
        return label_loss(imbalance, labels)
    if imbalance in OF_LABELS:
        raise UserError(f"imbalance: {imbalance} is for several labels an image; take balanced-softmax or weights")
    counts = torch.bincount(labels, minlength=num_classes).clamp(min=1).float()
    shift = counts.log() if imbalance == "balanced-softmax" else torch.zeros(num_classes)
    weight = counts.rsqrt() if imbalance == "weights" else torch.ones(num_classes)
    weight = weight / weight[labels].mean()

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        each = F.cross_entropy(logits.float() + shift.to(logits.device), y, reduction="none")
        return weight.to(logits.device)[y] * each

    return loss


def label_loss(imbalance: str, labels: Tensor) -> LearnLoss:
    """The same for labels `(N, K)`, int8: the mean over the known labels of an image of their binary cross-entropies.

    "weights" are by the inverse square root of how many images have the label, or have it not; "pos-weight" counts
    a positive as often as there are negatives to it; "balanced-softmax" adds the log-odds of the label to its logit,
    which for one label is the loss of that name; "asymmetric" is that of Ridnik et al., ICCV 2021, arXiv 2009.14119,
    with exponents 0 and 4 and a shift of 0.05.
    """
    if imbalance == "sampler":
        raise UserError("imbalance: sampler draws classes alike, and an image of several labels has none; take weights")
    counts = torch.stack([labels == 0, labels == 1]).sum(1).clamp(min=1).float()  # (2, K), negatives first
    weight, shift = torch.ones_like(counts), torch.zeros_like(counts[0])
    if imbalance == "weights":
        weight = counts.rsqrt()
        weight = weight / ((weight * counts).sum() / counts.sum())
    elif imbalance == "pos-weight":
        weight[1] = counts[0] / counts[1]
    elif imbalance == "balanced-softmax":
        shift = (counts[1] / counts[0]).log()

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        if imbalance == "asymmetric":
            far = (logits.float().sigmoid() - SHIFT).clamp(min=0)
            each = torch.where(y == 1, label_losses(logits, y), -(far**FOCUS) * torch.log1p(-far))
        else:
            no, yes = weight.to(logits.device)
            each = torch.where(y == 1, yes, no) * label_losses(logits + shift.to(logits), y)
        return mean_known(each, y)

    return loss
