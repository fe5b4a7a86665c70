import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks.norms import Ball, make_ball, widen
from dpaat.attacks.pgd import pgd_trajectory
from dpaat.methods.base import AdversarialTraining
from dpaat.methods.options import option
from dpaat.methods.registry import register_method


@register_method(
    "dart", "the attack has to converge better from epoch to epoch", "Wang et al., ICML 2019, arXiv 2112.08304"
)
class DART(AdversarialTraining):
    r"""Dynamic adversarial training (Wang et al., ICML 2019, arXiv 2112.08304, algorithm 1).

    A fixed radius, but each sample's attack ends where it is stationary enough: below
    $c_t = \max(0, c_{max} (1 - t / T'))$ in epoch t, from 0. Early epochs learn from unfinished attacks.
    """

    c_max: float = option(0.5, "[0, inf)")  #: threshold of the stationarity in the first epoch, in units of the loss
    ramp: float = option(100 / 120, "(0, 1]")  #: share of the epochs in which the threshold falls to 0
    #: none, as in the paper; or own-loss, each loss times its own value, as in the authors' code
    weighting: str = option("none", "none | own-loss")

    @override
    def begin_epoch(self, epoch: int) -> None:
        self.threshold = max(0.0, self.c_max * (1 - epoch / (self.ramp * self.context.epochs)))

    @override
    def attack(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        ball = make_ball(self.context.norm, x, self.context.eps)
        x_adv, moving = ball.x, torch.ones_like(y, dtype=torch.bool)
        for number, iterate in enumerate(pgd_trajectory(model, x, y, ball=ball, steps=self.context.steps)):
            if number > 0:  # the first step is always taken; the later ones need the gradient anyway
                moving = moving & (stationarity(ball, iterate.image, iterate.gradient) > self.threshold)
            x_adv = torch.where(widen(moving, x), iterate.after, x_adv)
        return x_adv

    @override
    def learn_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        loss = super().learn_loss(logits, y)
        return loss.detach() * loss if self.weighting == "own-loss" else loss


def stationarity(ball: Ball, x_adv: Tensor, gradient: Tensor) -> Tensor:
    r"""First-order stationary condition $\max_{z \in B(x, \epsilon)} \langle z - x', g \rangle$ per sample `(B,)`.

    How much the linearized loss can still rise inside the ball, the box left aside: $\epsilon \|g\|_1 -
    \langle x' - x, g \rangle$ in Linf, and the same with $\|g\|_2$ in L2. 0 where the attack has converged.

    Source: Wang et al. 2019, there FOSC.
    """
    farthest = ball.eps * ball.direction(gradient)
    return ((farthest - (x_adv - ball.x)) * gradient).flatten(1).sum(1)
