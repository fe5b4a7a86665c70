"""Decoupled direction and norm: the nearest misclassified image in the Euclidean sense."""

from math import cos, inf, pi

import torch
from torch import Tensor, nn

from dpaat.attacks.checks import checked
from dpaat.attacks.gradient import evaluation_mode, input_gradient
from dpaat.attacks.losses import cross_entropy, margin
from dpaat.attacks.norms import Ball, make_ball, widen
from dpaat.attacks.registry import AttackCost, register_attack
from dpaat.errors import BadValueError

FIRST_STEP, LAST_STEP = 1.0, 0.01


@register_attack(
    "ddn",
    "nearest adversarial image by decoupled direction and norm (Rony et al. 2019)",
    cost=AttackCost(2, 1),
    steps=100,
    norms=("l2",),
    minimal=True,
)
@checked(unbounded=True)
def ddn(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor = inf,
    steps: int = 100,
    norm: str = "l2",
    init: float = 1.0,
    gamma: float = 0.05,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Find the nearest adversarial images by steps whose direction and length are chosen apart.

    A step of length $\alpha$ along the gradient of the cross-entropy gives the direction of the next perturbation;
    its length is $1 - \gamma$ times the last one's where the last iterate is adversarial, else $1 + \gamma$ times.
    $\alpha$ decreases from 1 to 0.01 along a cosine. Iterates are not rounded to 8 bits. The radius guides nothing, so
    one run at the largest serves all smaller ones.

    Beside the arguments of all attacks: `eps` is the largest radius of interest, `norm` "l2", `init` the length of the
    perturbation before the first step, above 0, and `gamma` in (0, 1). A step costs a forward pass and an input
    gradient, the last iterate one more forward pass. Nothing is drawn.

    Returns:
        Images `(B, C, H, W)`, detached: the nearest adversarial image found if it lies within `eps`, else `x` itself;
        `x` too where it is misclassified already.

    Source: Rony et al., "Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial Attacks and
    Defenses", CVPR 2019, arXiv 1811.09600, algorithm 1.
    """
    if norm != "l2":
        raise BadValueError(f"norm must be 'l2', not {norm!r}")
    if init <= 0 or not 0 < gamma < 1:
        raise BadValueError(f"init must be above 0 and gamma in (0, 1), not {init} and {gamma}")
    x = x.detach()
    ball = make_ball(norm, x, eps)
    current, length = x, x.new_full((len(x),), init)
    nearest = Nearest(ball)
    with evaluation_mode(model):
        for k in range(steps):
            gradient, logits = input_gradient(model, current, y, cross_entropy)
            margins = margin(logits, y)
            nearest.update(current, margins)
            length = length * torch.where(margins > 0, 1 - gamma, 1 + gamma)
            step = LAST_STEP + (FIRST_STEP - LAST_STEP) * (1 + cos(pi * k / steps)) / 2
            turned = current - x + step * ball.direction(gradient.nan_to_num_(0, 0, 0))
            current = (x + widen(length, x) * ball.direction(turned)).clamp_(0, 1)
        with torch.no_grad():
            nearest.update(current, margin(model(current), y))
    return nearest.within_radius()


class Nearest:
    """The nearest misclassified image found so far, per sample: `image`, `distance` and `margin`.

    While nothing is found, the clean image of the `ball`, and infinity.
    """

    def __init__(self, ball: Ball) -> None:
        self.ball = ball
        self.image = ball.x
        self.distance = ball.x.new_full((len(ball.x),), inf)
        self.margin = self.distance

    def update(self, image: Tensor, margins: Tensor) -> None:
        """Take in images `(B, C, H, W)` with their margins `(B,)`; a tie of two logits is not adversarial yet."""
        distance = self.ball.distance(image)
        better = (margins > 0) & (distance < self.distance)
        self.image = torch.where(widen(better, image), image, self.image)
        self.distance = torch.where(better, distance, self.distance)
        self.margin = torch.where(better, margins.to(distance), self.margin)

    def only(self, keep: Tensor, norm: str) -> "Nearest":
        """That of some samples, by a mask `(B,)`."""
        part = Nearest(make_ball(norm, self.ball.x[keep], self.ball.eps.flatten().expand(len(keep))[keep]))
        part.image, part.distance, part.margin = (each[keep] for each in (self.image, self.distance, self.margin))
        return part

    def put(self, part: "Nearest", index: Tensor) -> None:
        """Take back what was found for the samples at `index`."""
        for name in ("image", "distance", "margin"):
            setattr(self, name, getattr(self, name).index_copy(0, index, getattr(part, name)))

    def within_radius(self) -> Tensor:
        """What was found where it lies within the ball, else the clean images."""
        near = self.distance <= self.ball.eps.flatten()
        return torch.where(widen(near, self.image), self.image, self.ball.x)
