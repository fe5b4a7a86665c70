"""The geometry of an attack: three hooks per norm, each for a batch with a radius per sample.

Images are `(B, C, H, W)` in [0, 1]; radii `eps` are `(B, 1, 1, 1)` in the same unit.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from dpaat.errors import BadValueError

Start = Literal["zero", "random"]
TINY = 1e-12


def widen(values: Tensor, like: Tensor) -> Tensor:
    """Bring one value per sample `(B,)` to the shape `(B, 1, ..., 1)` of the batch `like`."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def per_sample(value: float | Tensor, like: Tensor) -> Tensor:
    """Bring a radius or step size, one number or one per sample `(B,)`, to the shape `(B, 1, ..., 1)` of `like`."""
    if not isinstance(value, Tensor):
        return like.new_full((1,) * like.ndim, float(value))
    if value.ndim == 0:
        return value.to(like).reshape((1,) * like.ndim)
    if value.shape != like.shape[:1]:
        raise BadValueError(f"a per-sample radius must have shape ({len(like)},), not {tuple(value.shape)}")
    return widen(value.to(like), like)


class Ball(ABC):
    """The set of allowed images: within `eps` of `x` in one norm, and inside the box [0, 1]."""

    def __init__(self, x: Tensor, eps: Tensor) -> None:
        self.x = x
        self.eps = eps

    def start(self, kind: Start, generator: torch.Generator | None) -> Tensor:
        """The first point of an attack: "zero" is `x` itself, "random" a point of `random_start`."""
        if kind not in ("zero", "random"):
            raise BadValueError(f"start must be 'zero' or 'random', not {kind!r}")
        return self.random_start(generator) if kind == "random" else self.x

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The step of unit length that raises the linearized loss most."""

    @abstractmethod
    def random_start(self, generator: torch.Generator | None) -> Tensor:
        """A point drawn uniformly from the ball, brought into the box."""

    @abstractmethod
    def distance(self, x_adv: Tensor) -> Tensor:
        """How far each image is from its `x`, `(B,)`."""

    @abstractmethod
    def project_(self, x_adv: Tensor) -> Tensor:
        """An allowed image for each image, computed in place; an allowed one stays as it is."""


class LinfBall(Ball):
    """Every pixel within `eps`; ball and box merge into one interval per pixel, hence one clamp per step."""

    def __init__(self, x: Tensor, eps: Tensor) -> None:
        super().__init__(x, eps)
        self.lower = (x - eps).clamp_(min=0)
        self.upper = (x + eps).clamp_(max=1)

    @override
    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    @override
    def random_start(self, generator: torch.Generator | None) -> Tensor:
        noise = torch.rand(self.x.shape, generator=generator, device=self.x.device, dtype=self.x.dtype)
        return self.project_(self.x + (2 * noise - 1) * self.eps)

    @override
    def distance(self, x_adv: Tensor) -> Tensor:
        return (x_adv - self.x).flatten(1).abs().amax(1)

    @override
    def project_(self, x_adv: Tensor) -> Tensor:
        return torch.clamp(x_adv, self.lower, self.upper, out=x_adv)


class L2Ball(Ball):
    """Euclidean distance within `eps`.

    Clamped to the box first, then shortened to `eps`: in this order what the box cuts off is left to the other pixels.
    Shortening never leaves the box, since `x` lies in it.
    """

    @override
    def direction(self, gradient: Tensor) -> Tensor:
        return gradient / length(gradient).clamp_(min=TINY)

    @override
    def random_start(self, generator: torch.Generator | None) -> Tensor:
        draw = {"generator": generator, "device": self.x.device, "dtype": self.x.dtype}
        noise = self.direction(torch.randn(self.x.shape, **draw))  # type: ignore[arg-type]
        share = torch.rand(self.eps.expand(len(self.x), *self.eps.shape[1:]).shape, **draw)  # type: ignore[arg-type]
        radius = self.eps * share.pow(1 / self.x.shape[1:].numel())
        return self.project_(self.x + noise * radius)

    @override
    def distance(self, x_adv: Tensor) -> Tensor:
        return length(x_adv - self.x).flatten()

    @override
    def project_(self, x_adv: Tensor) -> Tensor:
        delta = x_adv.clamp_(0, 1).sub_(self.x)
        delta.mul_((self.eps / length(delta).clamp_(min=TINY)).clamp_(max=1))
        return delta.add_(self.x).clamp_(0, 1)  # once more, for rounding


def length(batch: Tensor, norm: str = "l2") -> Tensor:
    """Length of each sample of a batch in a norm, `(B, 1, ..., 1)`."""
    order = 2 if norm == "l2" else torch.inf
    return widen(torch.linalg.vector_norm(batch.flatten(1), ord=order, dim=1), batch)


NORMS: dict[str, type[Ball]] = {"linf": LinfBall, "l2": L2Ball}


def make_ball(norm: str, x: Tensor, eps: float | Tensor) -> Ball:
    """Build the allowed set around images `x` `(B, C, H, W)`: `eps` is one radius, or one per sample `(B,)`."""
    if norm not in NORMS:
        raise BadValueError(f"norm must be one of {sorted(NORMS)}, not {norm!r}")
    x = x.detach()
    return NORMS[norm](x, per_sample(eps, x))
