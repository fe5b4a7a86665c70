"""The fast adaptive boundary attack: the nearest misclassified image, whatever its distance."""

from math import inf

import torch
from torch import Tensor, nn

from dpaat.attacks.apgd import MAX_TARGETS
from dpaat.attacks.checks import checked
from dpaat.attacks.ddn import Nearest
from dpaat.attacks.gradient import evaluation_mode, input_gradient
from dpaat.attacks.losses import fooled, logit_lead, margin, nearest_targets
from dpaat.attacks.norms import TINY, length, make_ball, per_sample, widen
from dpaat.attacks.registry import AttackCost, register_attack

OVERSHOOT = 1.05  #: How far to go towards the linearized boundary, as a multiple of the way there: a little beyond it
MAX_BIAS = 0.1  #: Largest weight of the clean image's own projection in the next iterate
BACKWARD = 0.9  #: Share of its perturbation that an adversarial iterate keeps
SEARCH_STEPS = 3
SEARCH_BEYOND = 0.1
"""How far beyond the expected boundary the search looks, as a share of the way from there to what was found."""

ROWS = 128  #: Images and their targets in one batch, about
GIVE_UP = 0.2
"""Share of the steps after which a target may be given up, and how much nearer than found it may still come at the end.

After a share s a target is given up whose nearest image lies beyond 1 + GIVE_UP / s radii.
"""

_NEWTON_STEPS = 50


@register_attack(
    "fab-t",
    "nearest adversarial image by FAB towards each of the up to 9 likeliest wrong classes (Croce, Hein 2020)",
    cost=AttackCost(3, each="target", most=MAX_TARGETS, once=4),
    steps=100,
    stops=True,
    minimal=True,
)
@checked(unbounded=True)
def fab_targeted(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor = inf,
    steps: int = 100,
    norm: str = "linf",
    targets: int = MAX_TARGETS,
    stop: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Find the nearest adversarial images by FAB towards each of the likeliest wrong classes in turn.

    Every step takes the boundary between the true class and the target for a plane, projects the iterate and the
    clean image onto the part of it that lies in the box, and goes a little beyond a mean of the two; from an
    adversarial iterate it then goes back towards the clean image. One start, at the clean image itself. Works for any
    number of classes K >= 2: at most K - 1 targets are tried. Being misclassified as any class counts. The radius
    guides nothing, so one run at the largest serves all smaller ones. Samples that are misclassified already cost one
    forward pass.

    Beside the arguments of all attacks: `eps` is the largest radius of interest, `steps` are those for a target, each
    of two forward passes and an input gradient, and `targets` the most classes to try, at least 1. With `stop` targets
    are given up that lie too far beyond the radius to come within it, see `GIVE_UP`. Nothing is drawn.

    Returns:
        As of `ddn`.

    Source: Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020,
    arXiv 1907.02044, algorithm 1; towards targets as in Croce and Hein, "Reliable evaluation of adversarial robustness
    with an ensemble of diverse parameter-free attacks", ICML 2020, arXiv 2003.01690.
    """
    x_adv = x.detach().clone()
    radius = per_sample(eps, x).flatten().expand(len(x))
    with evaluation_mode(model), torch.no_grad():
        logits = model(x).float()
        standing = (~fooled(logits, y)).nonzero().flatten()
        if not len(standing):
            return x_adv
        y, logits = y[standing], logits[standing]
        nearest = Nearest(make_ball(norm, x_adv[standing], radius[standing]))
        ranked = nearest_targets(logits, y, targets).T
        for some in ranked.split(max(1, ROWS // len(standing))):  # several targets in one batch where images are few
            times, ball = len(some), nearest.ball
            each = Nearest(make_ball(norm, ball.x.repeat(times, 1, 1, 1), ball.eps.flatten().repeat(times)))
            _approach(model, torch.cat([y] * times), some.flatten(), each, steps, norm, stop=stop)
            margins = torch.where(each.distance.isinf(), -inf, each.margin)
            for image, margins_of_one in zip(each.image.chunk(times), margins.chunk(times), strict=True):
                nearest.update(image, margins_of_one)
        _search(model, y, nearest, margin(logits, y))
    x_adv[standing] = nearest.within_radius()
    return x_adv


def way_to_plane(point: Tensor, normal: Tensor, offset: Tensor, norm: str) -> Tensor:
    r"""Shortest way, inside the box, from points to planes: the nearest $z$ in [0, 1] with $w (z - p) + b = 0$.

    The nearest image moves pixel i by $\min(v_i t, r_i)$ against the sign of $b w_i$, where $r_i$ is its room up to
    the box and $v_i$ is 1 (Linf) or $|w_i|$ (L2). What the move gains, $\sum_i |w_i| \min(v_i t, r_i)$, is concave
    and piecewise linear in t, so Newton's method from t = 0 rises to the solution and meets it after finitely many
    steps, three or so on images: several times faster than sorting the pixels by where they reach the box.

    Points p and normals w are `(B, C, H, W)`, offsets b `(B,)`. A plane without a normal is reached by staying; where
    it misses the box, the way is that to the nearest corner.

    Source: Croce and Hein 2020, arXiv 1907.02044, projection on a hyperplane with box constraints.
    """
    shape, normal = point.shape, normal.flatten(1)
    point = point.flatten(1)
    if norm == "l2":
        scale = normal.abs().amax(1, keepdim=True)
        direction = torch.where(scale > 0, normal / scale, 0.0)
    else:
        direction = normal.sign()
    need, slope = offset.abs(), _dot(normal, direction)
    direction = direction * -offset.sign()[:, None]
    lower, upper, t, missing = -point, 1 - point, torch.zeros_like(need), need
    for _ in range(_NEWTON_STEPS):
        t = t + torch.where(slope > 0, missing.clamp(min=0) / slope, 0.0)
        free = t[:, None] * direction
        way = free.clamp(lower, upper)
        missing = need - _dot(normal, way).abs()
        if bool((missing <= 1e-5 * need).all()):
            break
        slope = _dot(normal, direction * (free == way)).abs()
        if not ((slope > 0) & (missing > 1e-5 * need)).any():
            break
    return way.view(shape)


def _approach(
    model: nn.Module, y: Tensor, target: Tensor, nearest: Nearest, steps: int, norm: str, *, stop: bool
) -> None:
    """Iterate towards one target per sample."""
    part, index, current = nearest, torch.arange(len(y), device=y.device), nearest.ball.x
    for k in range(1, steps + 1):
        x, lead = part.ball.x, logit_lead(target)
        gradient, logits = input_gradient(model, current, y, lead)
        moved = _step(x, current, gradient.nan_to_num_(0, 0, 0), lead(logits, y).to(x).nan_to_num_(0), norm)
        margins = margin(model(moved), y)
        part.update(moved, margins)
        current = torch.where(widen(margins > 0, x), torch.lerp(x, moved, BACKWARD), moved)
        if stop and k >= GIVE_UP * steps:
            keep = part.distance <= part.ball.eps.flatten() * (1 + GIVE_UP * steps / k)
            if not bool(keep.all()):
                nearest.put(part, index)
                part = part.only(keep, norm)
                index, y, target, current = (each[keep] for each in (index, y, target, current))
                if not len(index):
                    return
    nearest.put(part, index)


def _step(x: Tensor, current: Tensor, gradient: Tensor, lead: Tensor, norm: str) -> Tensor:
    """The next iterate, before any step back."""
    from_current = way_to_plane(current, gradient, lead, norm)
    lead_at_x = lead + _dot(gradient.flatten(1), (x - current).flatten(1))
    from_x = way_to_plane(x, gradient, lead_at_x, norm)
    near, far = length(from_current, norm), length(from_x, norm)
    bias = (near / (near + far).clamp(min=TINY)).clamp(max=MAX_BIAS)
    moved = torch.add(current, from_current, alpha=OVERSHOOT)
    return moved.lerp_(torch.add(x, from_x, alpha=OVERSHOOT), bias).clamp_(0, 1)


def _search(model: nn.Module, y: Tensor, nearest: Nearest, clean: Tensor) -> None:
    """Look for nearer images between what was found and the clean ones, where a linear margin would just turn."""
    inner, inner_margin = nearest.ball.x, clean.to(nearest.margin)
    for _ in range(SEARCH_STEPS):
        share = (inner_margin / (inner_margin - nearest.margin)).nan_to_num_(0).clamp_(0, 1)
        share = share + SEARCH_BEYOND * (1 - share)
        between = torch.lerp(inner, nearest.image, widen(share, inner)).clamp_(0, 1)
        margins = margin(model(between), y).to(nearest.margin)
        nearest.update(between, margins)
        inside = margins <= 0
        inner = torch.where(widen(inside, inner), between, inner)
        inner_margin = torch.where(inside, margins, inner_margin)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Products of the rows of two matrices, `(B,)`."""
    return torch.bmm(first[:, None], second[:, :, None])[:, 0, 0]
