"""Adaptive perturbation size: one radius for every training sample, and the threshold that moves it.

S. Li, X. Ma, S. Jiang, L. Meng, "Dynamic Perturbation-Adaptive Adversarial Training on Medical Image Classification",
arXiv 2403.06798, gives the idea: adversarial training with a perturbation size per image, moved by a criterion that is
renewed from the losses collected. Only the abstract was available; the rules below are this package's own.

After each mini-batch, `update` takes the losses of its samples:

    track     loss_i <- the clean loss
    renew     tau_c  <- the mean of the tracked losses of class c
    solve     eps_i  <- the radius at which the loss, taken as a straight line from clean_loss_i at 0
                        through adv_loss_i at eps_i, would equal tau_c; clipped to [eps_min, eps_max], damped

The state never sees a model, and an update never waits for the device.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from dpaat.radii import check_radius
from dpaat.sample_state import SampleState, gather_rows
from dpaat.thresholds import STATISTICS, LabelMeans

EVEN_ODDS = math.log(2)
"""Cross-entropy of a label with probability 1/2: below it no other class is likelier."""
Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Radii, adversarial losses, clean losses (0 where there are none) and thresholds -> radii to move to, each `(B,)`.

With several labels an image, each is `(B, K)`. Where a radius to move to is NaN, the sample stays at its own.
"""


def solved(eps: Tensor, adv_loss: Tensor, clean_loss: Tensor, threshold: Tensor) -> Tensor:
    """Secant step: the radius at which a linear loss would equal the threshold; infinite where it does not rise."""
    room, rise = threshold - clean_loss, adv_loss - clean_loss
    return torch.where(rise > 0, eps * room / rise.clamp(min=1e-12), torch.where(room > 0, torch.inf, -torch.inf))


def stepped(increment: float) -> Rule:
    """Make the rule of fixed increments: one up where the adversarial loss is at most the threshold, else one down."""

    def rule(eps: Tensor, adv_loss: Tensor, clean_loss: Tensor, threshold: Tensor) -> Tensor:
        return eps + torch.where(adv_loss <= threshold, increment, -increment)

    return rule


class AdaptivePerturbation(SampleState):
    """A perturbation size of its own for every training sample, solved from its losses; 15 bytes a sample.

    Args:
        num_samples: N, the size of the training set; samples are numbered 0 to N - 1.
        eps_max: largest perturbation size, in pixel units of a [0, 1] image.
        labels: class of every sample `(N,)`, integers below `num_classes`; gives every class a threshold of its own.
            Without labels one threshold serves all, which on imbalanced data is that of the largest class.
        num_classes: K, needed with labels.
        eps_min: smallest perturbation size; default 0.2 eps_max.
        eps_init: size at the start; default `eps_min`.
        statistic: the threshold as a statistic of the tracked losses, a name in `STATISTICS`.
        rule: where a size moves to; default `solved`.
        damping: share of the old size that is kept at every move but that of the first attack after the warm-up, in
            [0, 1). A sample attacked before its class has a threshold does not move then; its next move is damped.
        warmup: attacks of a sample that are tracked only, before its size moves.
        renew_every: attacks between two renewals of the threshold; default N / 50.
        norm: "linf", where no size beyond 1 has a meaning, or "l2".
        label_means: in place of `labels` where a sample has several. Losses are then those of its labels `(B, K)`, a
            size is the mean of those that the rule gives to each known label, and `loss` the mean of their losses.

    Attributes:
        distance: estimated distance to the decision boundary `(N,)`, in pixel units, float16: the radius at which the
            loss, as a straight line, would equal log 2, where the label has even odds; from 0 to 2 `eps_max`, damped
            as the sizes are. 0 for hard or mislabelled images, and before the first move. Of several labels it is that
            of the nearest among those that are right.

    Raises:
        ValueError: an argument out of its range, naming it.
    """

    labels: Tensor | None
    distance: Tensor

    def __init__(
        self,
        num_samples: int,
        eps_max: float,
        *,
        labels: Tensor | None = None,
        num_classes: int = 1,
        eps_min: float | None = None,
        eps_init: float | None = None,
        statistic: str = "mean",
        rule: Rule = solved,
        damping: float = 0.5,
        warmup: int = 0,
        renew_every: int | None = None,
        norm: str = "linf",
        label_means: LabelMeans | None = None,
    ) -> None:
        eps_min = 0.2 * eps_max if eps_min is None else eps_min
        eps_init = eps_min if eps_init is None else eps_init
        _require(num_samples >= 1, "num_samples must be at least 1", num_samples)
        _require(eps_max > 0, "eps_max must be positive", eps_max)
        check_radius(float(eps_max), norm, name="eps_max")
        _require(0 <= eps_min <= eps_max, "eps_min must lie in [0, eps_max]", eps_min)
        _require(eps_min <= eps_init <= eps_max, "eps_init must lie in [eps_min, eps_max]", eps_init)
        _require(statistic in STATISTICS, f"statistic must be one of {', '.join(STATISTICS)}", statistic)
        _require(0 <= damping < 1, "damping must lie in [0, 1)", damping)
        _require(0 <= warmup < 255, "warmup must lie in [0, 255)", warmup)
        _require(renew_every is None or renew_every >= 1, "renew_every must be at least 1", renew_every)
        if labels is not None:
            labels = torch.as_tensor(labels)
            _require(labels.shape == (num_samples,), f"labels must have shape ({num_samples},)", tuple(labels.shape))
            _require(bool((labels == labels.long()).all()), "labels must be integers", labels.dtype)
            valid = bool(labels.min() >= 0) and bool(labels.max() < num_classes)
            _require(valid, "labels must lie in [0, num_classes)", f"{int(labels.min())} to {int(labels.max())}")
            labels = labels.to(torch.int32)
        self.columns = () if label_means is None else label_means.labels.shape[1:]
        groups = 2 * self.columns[0] if self.columns else 1 if labels is None else num_classes
        super().__init__(num_samples, eps_init, groups)
        self.label_means = label_means
        self.register_buffer("labels", labels)
        self.register_buffer("distance", torch.zeros(num_samples, dtype=torch.float16))
        self.eps_min, self.eps_max, self.damping, self.warmup = eps_min, eps_max, damping, warmup
        self.renew_every = max(1, num_samples // 50) if renew_every is None else renew_every
        self._statistic, self._rule, self._until_renewal = STATISTICS[statistic], rule, 0

    @torch.no_grad()
    def update(
        self, index: Tensor, adv_loss: Tensor, clean_loss: Tensor | None = None, *, gathered: bool = False
    ) -> None:
        """Track the losses of a mini-batch, renew the threshold when due, and move the sizes of its samples.

        An index that is given twice counts once, by its first row; a loss that is not finite moves nothing. Under
        `torch.distributed`, every process must call this; all of them then make the updates of all.

        Args:
            index: numbers of the samples `(B,)`, integers.
            adv_loss: cross-entropy of each adversarial view at the sample's present size `(B,)`, unweighted; of
                several labels the binary ones `(B, K)`.
            clean_loss: that of the clean views, alike; `solved` needs it, without it `stepped` tracks `adv_loss`.
            gathered: whether the rows are those of all processes already.

        Raises:
            TypeError: an index that is no tensor of integers.
            ValueError: an index beyond N, losses of another shape, no clean losses where the rule needs them.
        """
        _require(clean_loss is not None or self._rule is not solved, "clean_loss must be the clean losses (B,)", None)
        columns = [adv_loss] if clean_loss is None else [adv_loss, clean_loss]
        if not gathered:
            self._check(index, *columns)  # before others are told: padding would hide it
            index, *columns = gather_rows(index, *columns, device=self.eps.device)
        index, *columns = self._rows(index, *columns)
        adv_loss, *clean = (values[:, None].flatten(1) for values in columns)  # a column for each label
        tracked = clean[0] if clean else adv_loss
        known = torch.ones_like(tracked, dtype=torch.bool)
        if self.label_means is not None:
            known = self.label_means.labels[index] >= 0
            self.label_means.collect(index, tracked)
        usable = (torch.isfinite(adv_loss) & torch.isfinite(tracked)).all(1)
        visits = self.counted(index, usable)
        self.loss[index] = torch.where(usable, _mean_where(known, tracked), self.loss[index])
        self.visits[index] = visits

        self._until_renewal -= len(index)
        if self._until_renewal <= 0:
            self._renew()
            self._until_renewal = self.renew_every

        if self.label_means is not None:
            threshold = self.label_means.of(index, self.criterion)
        else:
            threshold = self.criterion[[0]] if self.labels is None else self.criterion[self.labels[index], None]
        known &= torch.isfinite(threshold)
        eps = self.eps[index]
        at_zero = clean[0] if clean else torch.zeros_like(adv_loss)
        sizes = self._sizes(eps[:, None].expand_as(adv_loss), adv_loss, at_zero, threshold.expand_as(adv_loss))
        known &= ~torch.isnan(sizes)
        size = _mean_where(known, sizes.clamp(self.eps_min, self.eps_max))
        boundary = solved(eps[:, None], adv_loss, at_zero, torch.full_like(at_zero, EVEN_ODDS))
        right = known & (at_zero < EVEN_ODDS)
        nearest = torch.where(right, boundary.clamp(0, 2 * self.eps_max), torch.inf).amin(1).nan_to_num(posinf=0.0)
        moves = usable & (visits > self.warmup) & known.any(1)
        # The size at the start is no estimate of anything: the move of the first attack goes all the way.
        way = torch.where(visits == self.warmup + 1, 1.0, 1 - self.damping)
        for state, target, told in ((self.eps, size, moves), (self.distance, nearest, moves & (eps > 0))):
            before = state[index].float()
            state[index] = torch.where(told, torch.lerp(before, target, way), before).to(state)

    def _sizes(self, *arguments: Tensor) -> Tensor:
        """What the rule makes of arguments `(B, C)`, which it sees as `(B,)` where a sample has one label."""
        seen = arguments if self.columns else tuple(values[:, 0] for values in arguments)
        found = self._rule(*seen)
        shape = tuple(seen[0].shape)
        _require(tuple(found.shape) == shape, f"rule must give radii of the shape {shape}", tuple(found.shape))
        return found.reshape(arguments[0].shape)

    def _renew(self) -> None:
        group = torch.zeros_like(self.visits, dtype=torch.int32) if self.labels is None else self.labels
        own = self._statistic if self.label_means is None else self.label_means.means
        fresh = own(self.loss, group, self.visits > 0, len(self.criterion))
        self.criterion.copy_(torch.where(torch.isfinite(fresh), fresh, self.criterion))

    @override
    def get_extra_state(self) -> dict[str, Any]:
        return {"until_renewal": self._until_renewal}

    @override
    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._until_renewal = min(int(state["until_renewal"]), self.renew_every)

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        eps, labels = state_dict.get(f"{prefix}eps"), state_dict.get(f"{prefix}labels")
        state_dict.setdefault(f"{prefix}distance", self.distance)  # before version 0.2
        if isinstance(eps, Tensor):
            of = f"the state of {eps.numel()} samples"
            of += f" with sizes of {eps.min():.4g} to {eps.max():.4g}" if eps.numel() else ""
            fits = eps.shape == self.eps.shape and bool(((eps >= 0) & (eps <= self.eps_max * (1 + 1e-6))).all())
            _require(fits, f"state_dict must be of {len(self.eps)} samples with sizes up to {self.eps_max:.4g}", of)
        if labels is not None and self.labels is not None:
            same = torch.equal(labels.to(self.labels), self.labels)
            _require(same, "state_dict must be of the samples with these labels", "of others")
        super()._load_from_state_dict(state_dict, prefix, *args)


def _mean_where(counts: Tensor, values: Tensor) -> Tensor:
    """Mean over the columns `(B, C)` that count, 0 where none does."""
    return torch.where(counts, values, 0.0).sum(1) / counts.sum(1).clamp(min=1)


def _require(condition: bool, rule: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{rule}, not {value}")
