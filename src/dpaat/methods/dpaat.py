"""DPAAT: dynamic perturbation-adaptive adversarial training, one class and its presets."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks import pgd_graded
from dpaat.attacks.losses import cross_entropy, label_losses
from dpaat.methods.base import Method, StepOutput, score
from dpaat.methods.options import option
from dpaat.methods.registry import LARGEST, VIEW, Cost, register_method
from dpaat.perturbation import AdaptivePerturbation, solved, stepped
from dpaat.thresholds import LabelMeans, label_sets, mean

MIN_RAMP = 4.0
"""Fewest attacks from 0 to eps_max with fixed increments: in a very short run one attack must not decide."""
GOLDEN, UNIT = 2654435769, 2**32
"""The golden ratio as a fraction of 2^32: its multiples, modulo 2^32, spread evenly, whichever samples meet."""


class DPAAT(Method):
    """Adversarial training with a perturbation size per image (Li et al. 2024, arXiv 2403.06798; the rules are ours).

    From `adv_start` on, an image is attacked in some of the epochs, inside the ball of its own size. Its clean loss is
    known from the clean view or the first pass of the attack, its adversarial loss from the pass that learns, so moving
    the size costs nothing. The objective is (1 - w) * loss(x_adv) + w * loss(x) in the mean over the epochs, with w the
    `clean_weight`; with a self-teacher, the adversarial view learns its answer to the clean one as well. In a control
    (`radius`), sizes move by losses of an attack of their own, in evaluation mode: with BatchNorm these are other ones
    than those of the pass that learns, and the sizes a little smaller. The objective is taken at the control's sizes.
    """

    rule: str = option("solve", "solve | step")  #: solve the size from the losses, or step it by fixed increments
    scope: str = option("class", "class | global")  #: one threshold per class, or one for all samples
    statistic: str = option("mean")  #: of the tracked losses, as threshold: mean, median, quantile25, quantile75
    track: str = option("clean", "clean | adversarial")  #: losses that the threshold is made of (`step` only)
    damping: float = option(0.5, "[0, 1)")  #: share of the old size that is kept when it is solved
    ramp: float = option(0.5, "(0, 1]")  #: share of the attacks that `step` needs from 0 to `eps`; 4 at the least
    eps_min: float = option(0.2, "[0, 1]")  #: smallest size, as a share of `eps`; above 0 with the rule `solve`
    eps_init: float = option(0.0, "[0, 1]")  #: size at the start, as a share of `eps`; never below `eps_min`
    #: an epoch shows both views of an image, or the clean and the adversarial one alternate: clean in the share
    #: `clean_weight` of the epochs
    views: str = option("alternate", "both | alternate")
    #: with both views, the share of the epochs that show the adversarial one
    adv_fraction: float = option(1.0, "(0, 1]")
    #: fewest steps of an attack; their number grows with the size. 0: all attacks take `steps`
    min_steps: int = option(3, "[0, inf)")
    steps_scale: float = option(1.0, "(0, 1]")  #: share of `steps` that an attack takes at the size `eps`
    #: size that is attacked: the image's own; or, as a control, the mean of all, the mean of its class, the size of
    #: another image of the class, or a random one
    radius: str = option("own", "own | mean | class-mean | permuted | uniform")
    perturbation: AdaptivePerturbation
    multilabel = True

    @override
    @classmethod
    def checked(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        values = super().checked(options)
        if values["rule"] == "solve" and values["track"] != "clean":
            raise ValueError(f"track must be clean with the rule solve, not {values['track']}")
        if values["rule"] == "solve" and not values["eps_min"]:  # no attack at 0 would show how far to grow from there
            raise ValueError("eps_min must be above 0 with the rule solve, such as 0.2")
        return values

    @override
    def setup(self) -> None:
        context = self.context
        options = {name: getattr(self, name) for name in self.declared()}
        self._share = adversarial_share(context.clean_weight, options)
        self._both = shows_both(context.clean_weight, options)
        attacks = (context.epochs - context.first_attack) * self._share
        by_class, solving = self.scope == "class" and not context.several, self.rule == "solve"
        if context.several and self.scope == "class" and self.statistic != "mean":
            raise ValueError(f"statistic must be mean for several labels an image, not {self.statistic}")
        self.perturbation = AdaptivePerturbation(
            len(context.labels),
            context.eps,
            labels=context.labels if by_class else None,
            num_classes=context.num_classes if by_class else 1,
            eps_min=self.eps_min * context.eps,
            eps_init=max(self.eps_init, self.eps_min) * context.eps,
            statistic=self.statistic,
            rule=solved if solving else stepped(context.eps / max(MIN_RAMP, self.ramp * attacks)),
            damping=self.damping if solving else 0.0,
            warmup=0 if solving else 1,
            norm=context.norm,
            label_means=LabelMeans(context.labels) if context.several and self.scope == "class" else None,
        )

    @override
    def begin_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        turn = self.is_adversarial(index)
        attacked = turn.nonzero()[:, 0]
        view, clean = self.attack(model, x, y, self.perturbation.eps[index], turn)
        at_own = None
        if self.radius != "own":
            at_own = score(model, view[attacked]) if len(attacked) else None
            view, _ = self.attack(model, x, y, self.radii(index), turn)
        loss, logits, beside = self._learn(model, x, view, y, attacked)
        seen = logits if at_own is None else logits.index_copy(0, attacked, at_own.to(logits))
        losses = cross_entropy if self.perturbation.label_means is None else label_losses
        rows = {"adv_loss": losses(seen, y)}
        if self.track == "clean":
            known = clean if beside is None or at_own is not None else beside
            # Images that took no step show in the learning pass what they are.
            tracked = seen if known is None else torch.where(known.isnan(), seen, known.to(seen))
            rows["tracked_loss"] = losses(tracked, y)
        return StepOutput(loss, logits, index, rows)

    def attack(self, model: nn.Module, x: Tensor, y: Tensor, eps: Tensor, turn: Tensor) -> tuple[Tensor, Tensor | None]:
        """The views of a mini-batch, attacked where it is their turn, and the clean logits of those, NaN elsewhere."""
        context = self.context
        steps = torch.full_like(eps, context.steps)
        if self.min_steps:
            least = min(self.min_steps, context.steps)
            steps = (self.steps_scale * context.steps * eps / context.eps).ceil().clamp(least, context.steps)
        steps = (steps * ((eps > 0) & turn)).int()
        most = context.steps if context.static_shapes else None
        return pgd_graded(model, x, y, eps=eps, steps=steps, norm=context.norm, most=most)

    def _learn(
        self, model: nn.Module, x: Tensor, view: Tensor, y: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The objective, the logits `(B, K)` of the views, and those of the clean views where both are shown."""
        context = self.context
        if not self._both:
            logits = model(view)
            losses = context.learn_loss(logits, y)
            losses = losses.index_copy(0, rows, context.with_teacher(losses[rows], logits[rows], x[rows], y[rows]))
            return losses.mean(), logits.detach(), None
        clean, adversarial = model(torch.cat([x, view[rows]])).split([len(x), len(rows)])
        on_adversarial = context.with_teacher(context.learn_loss(adversarial, y[rows]), adversarial, x[rows], y[rows])
        weight = context.clean_weight
        losses = weight * context.learn_loss(clean, y)
        losses = losses.index_add(0, rows, (1 - weight) / self._share * on_adversarial)
        return losses.mean(), clean.detach().index_copy(0, rows, adversarial.detach()), clean.detach()

    def is_adversarial(self, index: Tensor) -> Tensor:
        """Whether this epoch attacks the samples `(B,)`, bool `(B,)`: each in the same share of the epochs."""
        share = round(self._share * UNIT)
        return (index * GOLDEN + self._epoch * share) % UNIT < share

    def radii(self, index: Tensor) -> Tensor:
        """Sizes `(B,)` that a control learns at."""
        eps, context = self.perturbation.eps, self.context
        if self.radius == "mean":
            return eps.mean().expand(len(index))
        if self.radius == "class-mean":
            labels = label_sets(context.labels).to(eps.device)
            groups = int(labels.max()) + 1
            return mean(eps, labels, torch.ones_like(eps, dtype=torch.bool), groups)[labels[index]]
        if self.radius == "permuted":  # anew in every epoch, alike in all processes and on resuming
            partner = permute_within(label_sets(context.labels).cpu(), torch.Generator().manual_seed(self._epoch))
            return eps[partner.to(index.device)[index]]
        return context.eps * torch.rand(len(index), device=eps.device)

    @override
    def after_step(self, output: StepOutput) -> None:
        rows = self.is_adversarial(output.index).nonzero()[:, 0]
        losses = {"clean_loss": output.rows["tracked_loss"][rows]} if "tracked_loss" in output.rows else {}
        self.perturbation.update(output.index[rows], output.rows["adv_loss"][rows], **losses, gathered=True)


def permute_within(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a permutation of the samples `(N,)` that leaves each in its class, given as `labels` `(N,)`."""
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    return torch.empty_like(shuffled).scatter_(0, labels.argsort(stable=True), by_class)


def adversarial_share(clean_weight: float, options: Mapping[str, Any]) -> float:
    """Share of the visits that attack, in an epoch with attacks."""
    return float(1 - clean_weight if options["views"] == "alternate" else options["adv_fraction"])


def shows_both(clean_weight: float, options: Mapping[str, Any]) -> bool:
    """Whether a visit shows the clean view beside the adversarial one: not where it would count for nothing."""
    return bool(options["views"] == "both" and (clean_weight > 0 or options["adv_fraction"] < 1))


def step_cost(clean_weight: float, options: Mapping[str, Any]) -> Cost:
    """Cost of a step in an epoch with attacks; at most, where the number of steps follows the size."""
    share = adversarial_share(clean_weight, options)
    controlled = options["radius"] != "own"
    scale = options["steps_scale"] if options["min_steps"] else 1.0
    views = 1 + shows_both(clean_weight, options) * share
    return Cost(2 * (1 + controlled) * scale * share, VIEW * views + controlled * share, views)


STEPPED = {"rule": "step", "eps_min": 0.0, "eps_init": 0.125, "views": "both", "min_steps": 0}
TURNS = STEPPED | {"views": "alternate"}
LATE = {"adv_start": 0.5, "self_teacher": 0.7}
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "dpaat": (
        "a size per image, solved from its losses; attacks from mid-training on, mostly clean images",
        {"clean_weight": 0.9, "adv_start": 0.5, "self_teacher": 1.0},
    ),
    "dpaat-balanced": ("dpaat with half of the images adversarial, once attacks begin", LATE | {"clean_weight": 0.5}),
    "dpaat-robust": ("dpaat with mostly adversarial images, once attacks begin", LATE | {"clean_weight": 0.15}),
    "dpaat-v1": (
        "default of version 0.1: sizes in fixed increments; attacks from mid-training on, mostly clean images",
        {"eps": 4 / 255, "clean_weight": 0.85, "adv_start": 0.5, "options": TURNS | {"eps_init": 0.25, "min_steps": 5}},
    ),
    "dpaat-half": ("sizes in fixed increments; both views of an image", {"clean_weight": 0.5, "options": STEPPED}),
    "dpaat-fast": (
        "dpaat-half with one view of an image a visit, and attack steps in proportion to its size",
        {"clean_weight": 0.5, "options": TURNS | {"min_steps": 1, "steps_scale": 0.5}},
    ),
    "dpaat-paper": (
        "sizes against the mean of all adversarial losses, no clean images: the abstract to the letter",
        {"options": TURNS | {"scope": "global", "track": "adversarial"}},
    ),
}
"""Preset to its description and its defaults, fields of `MethodInfo`; the largest size is 8/255 where none is given."""

PAPER = "Li et al. 2024, arXiv 2403.06798"
COMMON: dict[str, Any] = {"eps": LARGEST, "moves_radius": True, "share": adversarial_share, "own_cost": step_cost}
for _name, (_about, _preset) in PRESETS.items():
    register_method(_name, description=_about, reference=PAPER, **COMMON | _preset)(DPAAT)
