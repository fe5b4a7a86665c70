import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks.losses import kl_divergence
from dpaat.methods.base import Method, StepOutput
from dpaat.methods.options import option
from dpaat.methods.registry import Cost, register_method


@register_method(
    "mart",
    "misclassified images are pulled harder",
    "Wang et al., ICLR 2020, openreview rklOg6EFwS",
    cost=Cost(2, 6, views=2),
)
class MART(Method):
    r"""Misclassification-aware adversarial training (Wang et al., ICLR 2020, openreview rklOg6EFwS, algorithm 1).

    $BCE(p(x'), y) + \beta\, KL(p(x) \,\|\, p(x'))\, (1 - p_y(x))$ with the boosted cross-entropy
    $BCE(p, y) = -\log p_y - \log(1 - \max_{k \ne y} p_k)$. The attack is that of fixed-radius training; the loss to
    learn from, class imbalance treated, takes the place of $-\log p_y$, and the other terms count alike for every
    sample. The two views go through the network together, and the gradient flows through all factors.
    """

    beta: float = option(5.0, "[0, inf)")  #: weight of the divergence, lambda in the paper
    takes_clean_weight = False

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        context = self.context
        x_adv = self.pgd(model, x, y, context.eps)
        clean, adversarial = model(torch.cat([x, x_adv])).chunk(2)
        doubt = 1 - clean.float().softmax(1).gather(1, y[:, None])[:, 0]
        loss = context.learn_loss(adversarial, y) + margin_term(adversarial, y)
        loss = loss + self.beta * kl_divergence(clean, adversarial) * doubt
        return StepOutput(context.with_teacher(loss, adversarial, x, y).mean(), adversarial.detach(), index)


def margin_term(logits: Tensor, y: Tensor) -> Tensor:
    r"""$-\log(1 - \max_{k \ne y} p_k)$ per sample `(B,)`, from logits `(B, K)`.

    As a difference of two log-sums over the logits, since 1 - p_k of a confident mistake rounds to 0.
    """
    logits = logits.float()
    rival = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    without_rival = logits.scatter(1, rival[:, None], -torch.inf)
    return logits.logsumexp(1) - without_rival.logsumexp(1)
