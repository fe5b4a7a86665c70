import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks import pgd_with_clean_logits
from dpaat.attacks.losses import log_odds
from dpaat.attacks.norms import make_ball, widen
from dpaat.methods.base import RadiiMethod, StepOutput, bisect, margin_loss, score
from dpaat.methods.options import option
from dpaat.methods.registry import LARGEST, Cost, register_method


@register_method(
    "mma",
    "images are learned at the decision boundary",
    "Ding et al., ICLR 2020, arXiv 1812.02637",
    cost=Cost(2, 17, views=2),
    eps=LARGEST,
    moves_radius=True,
)
class MMA(RadiiMethod):
    r"""Max-margin adversarial training (Ding et al., ICLR 2020, arXiv 1812.02637, algorithms 1 and 2).

    A sample that is classified rightly is attacked at its last radius; along the direction found, its new radius is
    where the soft margin $\log \sum_{k \ne y} \exp z_k - z_y$ reaches 0, at most $d_{max}$, the run's radius. The
    objective is $(1 - \beta)\, \ell(x) + \beta\, \ell(x + \epsilon_i u_i)$, the second term only for samples with
    $\epsilon_i < d_{max}$, and at $x$ itself for those that are wrong there. Attack and search are made in eval mode;
    the authors search in train mode. Where the true class has less than half of the probability, the soft margin is
    above 0 at $x$ already, and the radius ends at 0.
    """

    beta: float = option(2 / 3, "[0, 1]")  #: weight of the margin term against the clean loss
    #: smallest radius of the attack that gives the direction, in pixel units; at most eps counts
    least: float = option(0.005, "(0, inf)", radius=1)
    takes_clean_weight = False

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        context, stored = self.context, self.perturbation.eps[index]
        last = stored.clamp(min=min(self.least, context.eps))
        x_adv, clean_at_start = pgd_with_clean_logits(model, x, y, eps=last, steps=context.steps, norm=context.norm)
        correct = clean_at_start.argmax(1) == y
        direction = (x_adv - x) / widen(make_ball(context.norm, x, last).distance(x_adv), x).clamp_(min=1e-12)
        margin = margin_along(model, x, y, direction, context.eps)
        at_margin = torch.where(widen(correct, x), (x + widen(margin, x) * direction).clamp(0, 1), x)
        within_reach = ~correct | (margin < context.eps)
        loss, logits = margin_loss(model, x, at_margin, y, within_reach, self.beta, context)
        return self.output(loss, logits, index, y, torch.where(correct, margin, stored))


def margin_along(model: nn.Module, x: Tensor, y: Tensor, direction: Tensor, eps_max: float) -> Tensor:
    """How far from `x` along a `direction` of length 1 the soft margin reaches 0 `(B,)`, in [0, eps_max].

    eps_max where it does not reach 0; the images on the way are brought into the box.
    """

    def crossed(eps: Tensor) -> Tensor:
        return log_odds(score(model, (x + widen(eps, x) * direction).clamp(0, 1)), y) > 0

    end = x.new_full((len(x),), eps_max)
    reached = crossed(end)
    near, far = bisect(crossed, end)
    return torch.where(reached, (near + far) / 2, end)
