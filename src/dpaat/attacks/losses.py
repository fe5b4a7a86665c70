"""Attack objectives: one number per sample `(B,)` from logits `(B, K)` and labels.

Labels are classes `(B,)`, int64; or, where an image has several, answers `(B, K)`, int8: 1 yes, 0 no, -1 unknown. The
network's answer to a label is yes where its logit is above 0.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F

from dpaat.attacks.norms import TINY
from dpaat.errors import BadValueError

LossFunction = Callable[[Tensor, Tensor], Tensor]

_weights: ContextVar[Tensor | None] = ContextVar("weights", default=None)


def sample_losses(loss: LossFunction, logits: Tensor, y: Tensor) -> Tensor:
    """Losses of the samples `(B,)`; BadValueError for a loss that gives anything but one value a sample."""
    found = loss(logits, y)
    if not isinstance(found, Tensor) or found.shape != logits.shape[:1]:
        raise BadValueError(f'loss must give one value a sample ({len(logits)},), as with reduction="none"')
    return found


def label_weights(labels: Tensor) -> Tensor | None:
    """Weights `(2, K)` by which the positives and the negatives of each label in `(N, K)` count alike; of classes None.

    The attacked mean of binary losses is else led by the many negatives: an attack that raises all logits leaves the
    order of the images by a label, and so its AUROC, as it was.
    """
    if labels.ndim == 1:
        return None
    counts = torch.stack([labels == 1, labels == 0]).sum(1)
    return counts.sum(0) / (2.0 * counts.clamp(min=1))


@contextmanager
def weighing(weights: Tensor | None) -> Iterator[None]:
    """Let `cross_entropy`, which attacks raise, weigh labels so."""
    token = _weights.set(weights)
    try:
        yield
    finally:
        _weights.reset(token)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, in full precision whatever the model's; of several labels the mean binary one of those known."""
    if y.ndim == 2:
        each = label_losses(logits, y)
        if (weights := _weights.get()) is not None:
            yes, no = weights.to(each)
            each = torch.where(y == 1, yes, no) * each
        return mean_known(each, y)
    return F.cross_entropy(logits.float(), y, reduction="none")


def label_losses(logits: Tensor, y: Tensor) -> Tensor:
    """Binary cross-entropy of every label `(B, K)`; that of an unknown one means nothing."""
    return F.binary_cross_entropy_with_logits(logits.float(), (y > 0).float(), reduction="none")


def mean_known(values: Tensor, y: Tensor) -> Tensor:
    """Mean of values `(B, K)` over the known labels of each image, `(B,)`; 0 where none is known."""
    known = y >= 0
    return torch.where(known, values, 0.0).sum(1) / known.sum(1).clamp(min=1)


def kl_divergence(expected: Tensor, found: Tensor, y: Tensor | None = None) -> Tensor:
    """KL divergence of the second distribution from the first, `(B,)`, by their logits `(B, K)`.

    Where the labels `y` are several an image, `(B, K)`, it is the mean of the binary ones of those known.
    """
    both = (expected.float(), found.float())
    if y is not None and y.ndim == 2:
        first, second = (torch.stack([F.logsigmoid(each), F.logsigmoid(-each)]) for each in both)
        return mean_known(F.kl_div(second, first, reduction="none", log_target=True).sum(0), y)
    first, second = (each.log_softmax(1) for each in both)
    return F.kl_div(second, first, reduction="none", log_target=True).sum(1)


def wrong_answers(logits: Tensor, y: Tensor) -> Tensor:
    """Whether the answer to each label is wrong, bool `(B, K)`; never of an unknown one."""
    return ((logits > 0) != (y > 0)) & (y >= 0)


def fooled(logits: Tensor, y: Tensor) -> Tensor:
    """Whether the class, or the answer to any known label, is wrong, bool `(B,)`."""
    return logits.argmax(1) != y if y.ndim == 1 else wrong_answers(logits, y).any(1)


def right_answers(logits: Tensor, y: Tensor) -> Tensor:
    """How many images are classified right; of several labels the sum of the images' shares of right answers."""
    if y.ndim == 1:
        return (logits.argmax(1) == y).sum()
    return mean_known((~wrong_answers(logits, y)).float(), y).sum()


def against(logits: Tensor, y: Tensor) -> Tensor:
    """What speaks for each wrong answer `(B, K)`: the logits of other classes, or of labels, turned against the truth.

    Minus infinity for the true class, and for unknown labels.
    """
    if y.ndim == 1:
        return logits.scatter(1, y[:, None], -torch.inf)
    return torch.where(y >= 0, (1.0 - 2.0 * y) * logits.float(), -torch.inf)


def nearest_targets(logits: Tensor, y: Tensor, most: int) -> Tensor:
    """The likeliest wrong answers `(B, T)`, at most so many; an image of fewer known labels repeats its first."""
    values, order = against(logits, y).sort(dim=1, descending=True)
    if y.ndim == 2:
        order = torch.where(values > -torch.inf, order, order[:, :1])
    return order[:, : min(most, logits.shape[1] - (y.ndim == 1))]


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best other logit minus the true one; positive exactly where the sample is misclassified.

    Of several labels, the largest logit that speaks against a known one.

    Source: Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks", 2017, arXiv 1608.04644, f6.
    """
    return against(logits.float(), y).amax(1) - _true(logits, y)


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """Log-odds of all other classes together against the true one, `(B,)`; of labels, of any wrong one about so.

    The cross-entropy is `log(1 + exp(log_odds))`: both rise together, but this one does not saturate.
    """
    return against(logits.float(), y).logsumexp(1) - _true(logits, y)


def _true(logits: Tensor, y: Tensor) -> Tensor:
    """The logit of the true class `(B,)`; 0 of labels, whose logits are turned against the truth already."""
    return logits.float().gather(1, y[:, None])[:, 0] if y.ndim == 1 else logits.new_zeros(len(y))


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio: the margin over the gap between the largest and the third logit.

    Shifting or scaling the logits does not change it, so a model cannot hide its gradient behind large logits. Below
    three classes there is no third logit, and with three the ratio is constant on misclassified samples; the plain
    margin is used for both. Of several labels it is the margin over the mean size of the image's logits.

    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", ICML 2020, arXiv 2003.01690, eq. 6.
    """
    return margin(logits, y) / _scale(logits, y, [2])


def logit_lead(target: Tensor) -> LossFunction:
    """Make the loss: how far the logit of a given class `(B,)` is ahead of the true one; of labels, which to turn."""

    def lead(logits: Tensor, y: Tensor) -> Tensor:
        if y.ndim == 2:
            return against(logits, y).gather(1, target[:, None])[:, 0]
        logits = logits.float()
        return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]

    return lead


def targeted_dlr(target: Tensor) -> LossFunction:
    """Make the loss that pulls samples towards given classes `(B,)` instead of their own.

    Source: Croce and Hein 2020, eq. 7; with three classes or fewer the plain difference of the two logits.
    """
    lead = logit_lead(target)
    return lambda logits, y: lead(logits, y) / _scale(logits, y, [2, 3])


def _scale(logits: Tensor, y: Tensor, ranks: list[int]) -> Tensor:
    """How far the largest logit is above the mean of those at these ranks, from 0, `(B,)`; 1 below four classes."""
    logits = logits.float()
    if y.ndim == 2:
        return logits.abs().mean(1) + TINY
    if logits.shape[1] <= 3:
        return logits.new_ones(len(y))
    ordered = logits.sort(dim=1, descending=True).values
    return ordered[:, 0] - ordered[:, ranks].mean(1) + TINY
