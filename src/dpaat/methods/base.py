"""Training methods: their base classes, the run they serve, and the losses and searches that several share."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from dpaat.attacks import pgd
from dpaat.attacks.gradient import evaluation_mode
from dpaat.attacks.losses import cross_entropy
from dpaat.methods.options import Option
from dpaat.methods.teacher import SelfTeacher
from dpaat.radii import check_radius
from dpaat.sample_state import SampleRadii, SampleState

LearnLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits `(B, K)` and labels `(B,)` to the loss to learn from, per sample `(B,)`, class imbalance treated."""
BISECTIONS = 10


@dataclass(frozen=True)
class MethodContext:
    """The run that a method serves."""

    labels: Tensor  #: Class of every training sample `(N,)`, int64; several labels `(N, K)`, int8, -1 unknown
    num_classes: int
    epochs: int
    learn_loss: LearnLoss
    eps: float  #: Perturbation radius, in pixel units of a [0, 1] image; the largest one where a method moves it
    steps: int  #: Iterations of the training attack
    norm: str
    clean_weight: float  #: Share of the clean loss in the objective, in [0, 1]
    adv_start: float = 0.0  #: Share of the epochs, in [0, 1), that learn from clean images only
    teacher: SelfTeacher | None = None
    static_shapes: bool = False  #: Whether all samples take part in all steps of an attack, see `pgd_graded`

    @property
    def several(self) -> bool:
        """Whether an image has several labels."""
        return self.labels.ndim == 2

    @property
    def first_attack(self) -> int:
        """The first epoch with attacks, from 0; the last one always has them."""
        return first_attack(self.adv_start, self.epochs)

    def with_teacher(self, loss: Tensor, logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Mix the self-teacher's loss, if there is one, into that `(B,)` of views of `x` with these logits."""
        if self.teacher is None or not len(x):  # not every network takes an empty batch
            return loss
        return (1 - self.teacher.weight) * loss + self.teacher.weight * self.teacher.divergence(logits, x, y)


@dataclass(frozen=True)
class StepOutput:
    """Objective and outputs of one mini-batch."""

    loss: Tensor  #: The objective, a scalar to call `backward` on
    logits: Tensor  #: Logits `(B, K)` of the view that was learned from, detached
    index: Tensor  #: Numbers of the samples `(B,)`
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    """What the method's `after_step` is to see of each sample, by name, each `(B,)` or `(B, K)`, detached."""


class Method(nn.Module, ABC):
    """One training objective; its state, if any, is made of buffers, so that it is saved with the model.

    `options` are values of those that the class declares, see `option`. ValueError for one out of its range, and for a
    clean weight where the method has none.
    """

    perturbation: SampleState | None
    multilabel = False  #: whether this very class also learns images of several labels; not inherited
    takes_clean_weight = True  #: False where an objective weighs clean and adversarial loss by an option of its own

    #: option that is the share of the epochs that learn from clean images only, and the least number after `adv_start`
    clean_first: tuple[str, int] | None = None

    def __init__(self, context: MethodContext, **options: Any) -> None:
        super().__init__()
        self.context, self.teacher = context, context.teacher
        self.perturbation = None
        if context.clean_weight > 0 and not self.takes_clean_weight:
            raise ValueError(f"it takes no clean weight, so not {context.clean_weight}; its balance is options.beta")
        declared = self.declared()
        for name, value in self.checked(options).items():
            setattr(self, name, value)
            if declared[name].radius == 1:
                check_radius(value, context.norm, name=name)
        self.setup()
        self.begin_epoch(context.first_attack)

    @classmethod
    def declared(cls) -> dict[str, Option]:
        """The options of the class and of those that it derives from."""
        mro = reversed(cls.__mro__)
        return {name: found for base in mro for name, found in vars(base).items() if isinstance(found, Option)}

    @classmethod
    def checked(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options with their values; raises ValueError for one out of its range."""
        declared = cls.declared()
        if unknown := options.keys() - declared.keys():
            raise TypeError(f"{cls.__name__} has no option {min(unknown)!r}")
        values = {name: options.get(name, found.default) for name, found in declared.items()}
        for name, found in declared.items():
            found.check(name, values[name])
        return values

    @property
    def first_attack(self) -> int:
        """The first epoch with attacks, from 0: after `adv_start`, and after the clean epochs of the method's own."""
        share, least = self.clean_first or ("", 0)
        return first_attack(self.context.adv_start, self.context.epochs, float(getattr(self, share, 0.0)), least)

    def setup(self) -> None:
        """Make the method's state, when its options are set."""

    @abstractmethod
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        """Compute the objective of a mini-batch; the caller does the backward pass and the optimizer step.

        Args:
            model: maps images in [0, 1] to logits, in train mode.
            index: numbers of the samples in the training set `(B,)`.
            x: augmented images `(B, C, H, W)` in [0, 1].
            y: labels `(B,)`.
        """

    def begin_epoch(self, epoch: int) -> None:
        """Let the method know the epoch, from 0; called before its first step, also on resuming."""

    def after_step(self, output: StepOutput) -> None:
        """Let the method's state see a step; with several processes, the step of all of them together."""

    def clean_step(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        """The objective on clean images alone."""
        logits = model(x)
        return StepOutput(self.context.learn_loss(logits, y).mean(), logits.detach(), index)

    def pgd(self, model: nn.Module, x: Tensor, y: Tensor, eps: float | Tensor) -> Tensor:
        """The training attack at a radius, one for all or one per sample `(B,)`."""
        return pgd(model, x, y, eps=eps, steps=self.context.steps, norm=self.context.norm)


class Standard(Method):
    """Standard training: the loss on clean images; the reference for accuracy."""

    multilabel = True

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        return self.clean_step(model, index, x, y)


class AdversarialTraining(Method):
    """The loss on attacked images, mixed with the clean one; rivals replace the attack or the loss."""

    @override
    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor) -> StepOutput:
        x_adv = self.attack(model, x, y)
        context = dataclasses.replace(self.context, learn_loss=self.learn_loss)
        loss, logits, _ = mixed_loss(model, x, x_adv, y, context)
        return StepOutput(loss, logits.detach(), index)

    def attack(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Adversarial images `(B, C, H, W)`: by default PGD at the run's radius."""
        return self.pgd(model, x, y, self.context.eps)

    def learn_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Loss to learn from, per sample `(B,)`, for either view."""
        return self.context.learn_loss(logits, y)


class RadiiMethod(Method, ABC):
    """A method whose step yields each sample's new radius, "eps", and its "loss" for the log."""

    perturbation: SampleRadii

    @override
    def setup(self) -> None:
        self.perturbation = SampleRadii(len(self.context.labels))

    def output(self, loss: Tensor, logits: Tensor, index: Tensor, y: Tensor, eps: Tensor) -> StepOutput:
        """The output of a step: mean loss, adversarial logits, new radii, and the cross-entropy for the log."""
        logits = logits.detach()
        return StepOutput(loss.mean(), logits, index, {"eps": eps, "loss": cross_entropy(logits, y)})

    @override
    def after_step(self, output: StepOutput) -> None:
        self.perturbation.record(output.index, output.rows["eps"], output.rows["loss"])


def first_attack(adv_start: float, epochs: int, share: float = 0.0, least: int = 0) -> int:
    """The first epoch with attacks, from 0: after the share `adv_start`, and the clean `share` of a method's own."""
    return max(min(round(adv_start * epochs), epochs - 1) + least, math.ceil(share * epochs))


def mixed_loss(
    model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, context: MethodContext
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Loss on adversarial images, mixed with the clean one: (1 - w) * loss(x_adv) + w * loss(x).

    Both halves go through the network together, so that BatchNorm sees one distribution and the step is one
    forward and backward pass. Returns the scalar objective, the adversarial logits `(B, K)`, and the clean ones or None
    where w = 0.
    """
    weight = context.clean_weight
    if weight == 0:
        logits = model(x_adv)
        return context.with_teacher(context.learn_loss(logits, y), logits, x, y).mean(), logits, None
    clean, adversarial = model(torch.cat([x, x_adv])).chunk(2)
    on_adversarial = context.with_teacher(context.learn_loss(adversarial, y), adversarial, x, y)
    loss = (1 - weight) * on_adversarial + weight * context.learn_loss(clean, y)
    return loss.mean(), adversarial, clean


def score(model: nn.Module, x: Tensor) -> Tensor:
    """Logits `(B, K)` in eval mode, without gradients; the model is left exactly as found."""
    with evaluation_mode(model), torch.no_grad():
        logits: Tensor = model(x)
    return logits


def bisect(crossed: Callable[[Tensor], Tensor], far: Tensor) -> tuple[Tensor, Tensor]:
    """Enclose where each sample has `crossed` over between 0 and `far` `(B,)`, in 10 forward passes.

    Returns the last value on this side and the first one beyond, each `(B,)`, `far` / 1024 apart.
    """
    near = torch.zeros_like(far)
    for _ in range(BISECTIONS):
        middle = (near + far) / 2
        beyond = crossed(middle)
        near, far = torch.where(beyond, near, middle), torch.where(beyond, middle, far)
    return near, far


def margin_loss(
    model: nn.Module, x: Tensor, at_margin: Tensor, y: Tensor, counted: Tensor, beta: float, context: MethodContext
) -> tuple[Tensor, Tensor]:
    """Loss `(B,)` (1 - beta) * loss(x) + beta * loss(at_margin), the latter of the counted, and its logits `(B, K)`."""
    clean, adversarial = model(torch.cat([x, at_margin])).chunk(2)
    on_adversarial = context.with_teacher(context.learn_loss(adversarial, y), adversarial, x, y)
    return (1 - beta) * context.learn_loss(clean, y) + beta * counted * on_adversarial, adversarial
