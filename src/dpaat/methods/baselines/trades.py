from functools import partial

import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks.losses import kl_divergence
from dpaat.attacks.norms import make_ball
from dpaat.attacks.pgd import pgd_trajectory
from dpaat.methods.base import Method, StepOutput, score
from dpaat.methods.options import option
from dpaat.methods.registry import Cost, register_method

_START = 0.001
"""Standard deviation of the start: at the clean image itself the divergence is at its minimum, its gradient 0."""


@register_method(
    "trades",
    "clean loss, and how far an attack moves the output",
    "Zhang et al., ICML 2019, arXiv 1901.08573",
    cost=Cost(2, 7, views=2),
)
class TRADES(Method):
    r"""Trade clean against robust error (Zhang et al., ICML 2019, arXiv 1901.08573, algorithm 1).

    $\ell(f(x), y) + \beta \max_{x' \in B(x, \epsilon)} KL(p(x) \,\|\, p(x'))$; the loss to learn from, class imbalance
    treated, takes the place of $\ell$, and every sample's divergence counts alike. The attack's clean distribution
    is computed once, the two views of the learning pass go through the network together, and the gradient flows
    through both.
    """

    beta: float = option(6.0, "[0, inf)")  #: weight of the divergence, 1 / lambda in the paper
    takes_clean_weight = False
    multilabel = True

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        context = self.context
        expected, ball = score(model, x), make_ball(context.norm, x, context.eps)
        x_adv = ball.project_(ball.x + _START * torch.randn_like(ball.x))
        loss = partial(kl_divergence, expected)
        for iterate in pgd_trajectory(model, x_adv, y, ball=ball, steps=context.steps, loss=loss):
            x_adv = iterate.after
        clean, adversarial = model(torch.cat([x, x_adv])).chunk(2)
        divergence = kl_divergence(clean, adversarial, y)
        objective = context.learn_loss(clean, y) + self.beta * context.with_teacher(divergence, adversarial, x, y)
        return StepOutput(objective.mean(), adversarial.detach(), index)
