"""Square Attack: random search over square patches, which sees nothing of the model but its logits."""

from math import sqrt

import torch
from torch import Tensor, nn

from dpaat.attacks.checks import checked
from dpaat.attacks.gradient import evaluation_mode
from dpaat.attacks.losses import LossFunction, fooled, margin, sample_losses
from dpaat.attacks.norms import TINY, Ball, make_ball, widen
from dpaat.attacks.registry import AttackCost, register_attack
from dpaat.errors import BadValueError

HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries out of 10,000 after which the share of pixels in a window halves."""
TILES = 5  #: Tiles along the shorter side of the first L2 perturbation


@register_attack(
    "square",
    "Square Attack, random search on the logits alone, at most K queries (Andriushchenko et al. 2020)",
    cost=AttackCost(1),
    steps=5000,
    black_box=True,
    mixes=True,
)
@checked()
def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 5000,
    norm: str = "linf",
    loss: LossFunction = margin,
    p_init: float = 0.8,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Find adversarial images by random search, each inside a ball of its own radius, without any gradient.

    Every query changes one square window of each image, and the change stays where it raises the loss. Samples that
    are misclassified are not queried again.

    Beside the arguments of all attacks: `steps` are queries, each a forward pass of the samples still standing; `loss`
    is what to raise, per sample, and `p_init` the share of the pixels that the first windows cover, in (0, 1]. The
    model need not be differentiable.

    Returns:
        Adversarial images `(B, C, H, W)`, detached: the first misclassified candidate, else the one with the largest
        loss.

    Source: Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via random search",
    ECCV 2020, arXiv 1912.00049, algorithms 1 to 3; schedule and smallest L2 window as in the authors' code.
    """
    if not 0 < p_init <= 1:
        raise BadValueError(f"p_init must be in (0, 1], not {p_init}")
    x = x.detach()
    ball = make_ball(norm, x, eps)
    radius = ball.eps.flatten().expand(len(x))
    start, move, side = (_stripes, _recolour, _side) if norm == "linf" else (_tiles, _shift_mass, _odd_side)

    x_adv, index = x.clone(), torch.arange(len(x), device=x.device)
    current, best = x, x.new_full((len(x),), -torch.inf, dtype=torch.float)
    with evaluation_mode(model), torch.no_grad():
        for query in range(steps):
            if query == 0:
                candidate = start(ball, generator)
            else:
                candidate = move(ball, current, side(x, _share(p_init, query, steps)), generator)
            logits = model(candidate)
            value, fell = sample_losses(loss, logits, y), fooled(logits, y)
            better = fell | ~(value <= best)  # so that NaN comes out too, and can be complained of
            current, best = torch.where(widen(better, x), candidate, current), torch.where(better, value, best)
            if fell.any():
                x_adv[index] = current
                index, y, current, best = (each[~fell] for each in (index, y, current, best))
                if not len(index):
                    break
                ball = make_ball(norm, x[index], radius[index])
    x_adv[index] = current
    return x_adv


def _share(p_init: float, query: int, queries: int) -> float:
    """Share of the pixels in the windows of a query: the steps of `HALVED_AT`, stretched to all the queries."""
    return p_init * 0.5 ** sum(query * 10_000 > milestone * queries for milestone in HALVED_AT)


def _side(x: Tensor, share: float) -> int:
    """Side of the square with this share of the pixels, as far as it fits into the image."""
    height, width = x.shape[-2:]
    return min(max(round(sqrt(share * height * width)), 1), height, width)


def _odd_side(x: Tensor, share: float) -> int:
    """`_side`, made odd and, where the image allows, at least 3: one pixel leaves no room for the shape of `_bump`."""
    shorter = min(x.shape[-2:])
    return min(max(_side(x, share) // 2 * 2 + 1, 3), shorter - (shorter + 1) % 2)


def _stripes(ball: Ball, generator: torch.Generator | None) -> Tensor:
    """Vertical stripes, one pixel wide, at the edge of the Linf ball."""
    batch, channels, _, width = ball.x.shape
    return ball.project_(ball.x + ball.eps * _signs(ball.x, (batch, channels, 1, width), generator))


def _recolour(ball: Ball, current: Tensor, side: int, generator: torch.Generator | None) -> Tensor:
    """Push each channel of one window to one edge of the Linf ball (algorithm 2)."""
    inside = _inside(*_window(current, side, generator), side)
    sign = _signs(current, (*current.shape[:2], 1, 1), generator)
    edge = ball.project_(ball.x + ball.eps * sign)
    # A draw that changes nothing would waste the query: the other edges are tried instead.
    idle = ((edge == current) | ~inside).flatten(1).all(1)
    edge = torch.where(widen(idle, edge), ball.project_(ball.x - ball.eps * sign), edge)
    return torch.where(inside, edge, current)


def _tiles(ball: Ball, generator: torch.Generator | None) -> Tensor:
    """A grid of tiles with the shape of `_bump`, each with a sign of its own, scaled to the L2 radius."""
    batch, channels, height, width = ball.x.shape
    side = max(min(height, width) // TILES, 1)
    rows = torch.arange(height, device=ball.x.device)[:, None]
    columns = torch.arange(width, device=ball.x.device)[None]
    signs = _signs(ball.x, (batch, channels, -(-height // side), -(-width // side)), generator)
    pattern = signs[:, :, rows // side, columns // side] * _bump(side, ball.x)[rows % side, columns % side]
    return ball.project_(ball.x + ball.eps * ball.direction(pattern))


def _shift_mass(ball: Ball, current: Tensor, side: int, generator: torch.Generator | None) -> Tensor:
    """Take the perturbation out of one window, and reshape that of another with what this frees (algorithm 3).

    What the box clipped away from the L2 radius is spent in the second window too, in equal parts by channel.
    """
    delta = current - ball.x
    batch, channels = delta.shape[:2]
    rows, columns = _window(current, side, generator)
    here = _inside(rows, columns, side)
    there = _inside(*_window(current, side, generator), side)
    rows, columns = rows.clamp(0, side - 1), columns.clamp(0, side - 1)
    upright = _signs(current, (batch, 1, 1), generator) > 0
    placed = _bump(side, current)[torch.where(upright, rows, columns), torch.where(upright, columns, rows)]
    bump = _signs(current, (batch, channels, 1, 1), generator) * placed[:, None] * here
    shape = bump + _unit(delta * here)
    # In a window of one pixel the two may cancel out.
    shape = torch.where(_energy(shape) > TINY, _unit(shape), bump)

    unused = (ball.eps.square() - _energy(delta).sum(1, keepdim=True)).clamp_(min=0)
    available = (_energy(delta * (here | there)) + unused / channels).sqrt()
    return ball.project_(ball.x + torch.where(here, shape * available, delta.masked_fill(there, 0)))


def _bump(side: int, like: Tensor) -> Tensor:
    """Two tents side by side, one up and one down, `(side, side)`, of unit length (equation 2)."""
    half = side // 2
    heights = 1 / torch.arange(1, half + 2, device=like.device, dtype=like.dtype).square()
    heights = heights.flip(0).cumsum(0).flip(0)
    position = torch.arange(side, device=like.device)
    up = position < half
    from_middle = torch.where(up, position - half // 2, position - half - (side - half) // 2).abs()
    distance = torch.maximum((position - half).abs()[:, None], from_middle[None])
    return _unit(heights[distance] * torch.where(up, 1, -1))


def _window(like: Tensor, side: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Draw a window per sample; returns how far each row `(B, H, 1)` and column `(B, 1, W)` is from its corner."""
    batch, _, height, width = like.shape
    top = torch.randint(height - side + 1, (batch, 1, 1), generator=generator, device=like.device)
    left = torch.randint(width - side + 1, (batch, 1, 1), generator=generator, device=like.device)
    rows = torch.arange(height, device=like.device)[:, None]
    return rows - top, torch.arange(width, device=like.device) - left


def _inside(rows: Tensor, columns: Tensor, side: int) -> Tensor:
    """Which pixels lie in the window `(B, 1, H, W)`."""
    return ((rows >= 0) & (rows < side) & (columns >= 0) & (columns < side))[:, None]


def _signs(like: Tensor, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return torch.randint(2, shape, generator=generator, device=like.device).to(like.dtype) * 2 - 1


def _energy(delta: Tensor) -> Tensor:
    """Squared length of each plane, `(..., 1, 1)`."""
    return delta.square().sum((-2, -1), keepdim=True)


def _unit(delta: Tensor) -> Tensor:
    """Each plane scaled to unit length; planes of zeros stay."""
    return delta / _energy(delta).sqrt().clamp_(min=TINY)
