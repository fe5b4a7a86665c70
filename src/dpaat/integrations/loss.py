"""The loss of a training method, for loops that are not ours."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dpaat.attacks import unchecked
from dpaat.attacks.checks import check_batch, check_logits
from dpaat.attacks.losses import sample_losses
from dpaat.config import TrainConfig, complete
from dpaat.errors import BadValueError, UserError
from dpaat.integrations.indexed import INDEX
from dpaat.methods import MethodContext, StepOutput, build_method, find_method
from dpaat.methods.base import LearnLoss, Standard
from dpaat.methods.imbalance import learning_loss
from dpaat.methods.teacher import SelfTeacher
from dpaat.sample_state import SampleState, gather_rows

LOOKS = 8
"""Batches whose values are looked at where that means to wait for the device; on the CPU all are."""
ROUNDING = 1e-3
"""How far beyond 0 or 1 a pixel may lie once its normalization, maybe in half precision, is undone."""
Numbers = float | Sequence[float]


class AdversarialLoss(nn.Module):
    """Loss of a training method on a mini-batch: what `dpaat train` learns from, in any loop.

    It begins the attacks when the method does, freezes the self-teacher there, and moves the perturbation sizes. Its
    `state_dict` is all that it needs to go on. It follows the images to their device. Under `torch.distributed` every
    process makes the updates of all. Where gradients are off it is the clean loss, and moves nothing. Raises UserError
    for an argument out of its range, naming it.

    Args:
        model: the network to train: images to logits `(B, K)`, or to an object with `logits`.
        labels: class of every training sample `(N,)`, integers, in the order of their numbers.
        epochs: of the training; schedules are shares of it.
        num_classes: K; default the highest label plus one.
        normalized: mean and standard deviation, of one or C values, that the loader has normalized the images by;
            None of images in [0, 1], whose normalization, if any, is the model's.
        loss: to learn from, instead of the cross-entropy: logits `(B, K)`, labels `(B,)` to losses `(B,)`.
        method: this and all that follows as of `dpaat train`, with its defaults; `imbalance="sampler"` leaves that to
            the loader, and `loss` treats the classes itself.
        **options: further ones of the method.
    """

    labels: Tensor

    def __init__(
        self,
        model: nn.Module,
        labels: Tensor | Sequence[int],
        *,
        epochs: int,
        num_classes: int | None = None,
        normalized: tuple[Numbers, Numbers] | None = None,
        loss: LearnLoss | None = None,
        method: str = "dpaat",
        imbalance: Literal["none", "weights", "sampler", "balanced-softmax"] | None = None,
        eps: str | float | None = None,
        steps: int = 10,
        norm: Literal["linf", "l2"] = "linf",
        clean_weight: float | None = None,
        adv_start: float | None = None,
        self_teacher: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if loss is not None and imbalance not in (None, "none", "sampler"):
            raise BadValueError(f"loss: treats the classes itself, so that imbalance={imbalance!r} would be ignored")
        imbalance = imbalance or "balanced-softmax"
        shares: dict[str, Any] = {"clean_weight": clean_weight, "adv_start": adv_start, "self_teacher": self_teacher}
        given: dict[str, Any] = {"imbalance": imbalance, "eps": eps, "steps": steps, "norm": norm, "epochs": epochs}
        config = complete(TrainConfig(method=method, options=options, **shares, **given))
        classes = torch.as_tensor(labels).cpu()
        if classes.ndim != 1 or not len(classes) or classes.is_floating_point() or int(classes.min()) < 0:
            raise BadValueError(f"labels must be class numbers (N,), not {tuple(classes.shape)}, {classes.dtype}")
        self.register_buffer("labels", classes.long(), persistent=False)
        self.epochs, self.num_classes = epochs, num_classes or int(classes.max()) + 1
        if self.num_classes <= int(classes.max()):
            raise BadValueError(f"num_classes must be above the highest label, {classes.max()}, not {num_classes}")
        self._normalized = normalized
        network = _Network(model, normalized, self.num_classes, fixed=loss is None)
        self._networks = (model, network)  # in a tuple: no modules of this one
        own = partial(sample_losses, loss) if loss else None
        context = MethodContext(
            labels=self.labels,
            num_classes=self.num_classes,
            epochs=epochs,
            learn_loss=own or learning_loss(imbalance, self.labels, self.num_classes),
            eps=config.radius,
            steps=steps,
            norm=norm,
            clean_weight=config.clean_weight or 0.0,
            adv_start=config.adv_start or 0.0,
            teacher=SelfTeacher(network, config.self_teacher) if config.self_teacher else None,
        )
        self.method = build_method(find_method(config.method), context, config.options)
        self._clean = Standard(dataclasses.replace(context, teacher=None))
        self._epoch, self._looks = -1, 0

    @property
    def model(self) -> nn.Module:
        """The network it was made for."""
        return self._networks[0]

    @property
    def perturbation(self) -> SampleState | None:
        """The sizes of all samples, of a method that moves them."""
        return self.method.perturbation

    def forward(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor, *, epoch: int) -> Tensor:
        """Give the loss of a mini-batch, a scalar to call `backward` on; arguments as of `step`."""
        return self.step(model, index, x, y, epoch=epoch).loss

    def step(self, model: nn.Module, index: Tensor, x: Tensor, y: Tensor, *, epoch: int) -> StepOutput:
        """Compute the loss of a mini-batch, and the logits of the views that it was computed from.

        Args:
            model: the network, or what wraps it for several processes or a compiler, in train mode.
            index: numbers of the samples `(B,)`, integers.
            x: images `(B, C, H, W)`, augmented.
            y: labels `(B,)`, int64.
            epoch: from 0; it may not go back.

        Raises:
            UserError: a batch that is none; labels that are not those of the numbers; an epoch beyond the last.
        """
        needed = {"index": index} if torch.is_grad_enabled() else {}
        for name, value in (needed | {"x": x, "y": y}).items():
            if not isinstance(value, Tensor) or not value.numel():
                found = "an empty one" if isinstance(value, Tensor) else f"a {type(value).__name__}"
                raise BadValueError(f"{name} must be a tensor of one sample or more, not {found}")
        x, y = x.as_subclass(Tensor), y.as_subclass(Tensor)
        if self.labels.device != x.device:
            self.to(x.device)
        if model is not self._networks[1].model:
            fixed = self._networks[1].fixed
            self._networks = (self.model, _Network(model, self._normalized, self.num_classes, fixed=fixed))
        network = self._networks[1]
        x = network.restored(x) if network.normalizes else x
        if not torch.is_grad_enabled():
            return self._clean.forward(network, index, x, y)
        index = index.as_subclass(Tensor).to(x.device)
        look = x.device.type == "cpu" or self._looks < LOOKS
        if look:
            self._check(index, x, y)
        index = index.long()
        if epoch != self._epoch:
            self._begin(epoch, network)
        attacking = epoch >= self.method.context.first_attack
        with nullcontext() if look else unchecked():
            output: StepOutput = (self.method if attacking else self._clean)(network, index, x, y)
        if attacking:
            numbers, *rows = gather_rows(output.index, *output.rows.values(), device=x.device)
            of_all = dict(zip(output.rows, rows, strict=True))
            self.method.after_step(dataclasses.replace(output, index=numbers, rows=of_all))
        return output

    def _begin(self, epoch: int, network: "_Network") -> None:
        if not self._epoch < epoch < self.epochs:
            raise UserError(
                f"AdversarialLoss was told {self.epochs} epochs and is in epoch {self._epoch} (from 0): epoch {epoch} "
                "cannot follow; make a new one for a new training"
            )
        if self._epoch < 0 < epoch:
            warnings.warn(f"AdversarialLoss begins at epoch {epoch}; to go on, load its state_dict", stacklevel=4)
        teacher, first = self.method.teacher, self.method.first_attack
        if teacher is not None and self._epoch < first <= epoch:
            teacher.freeze(network)
        self.method.begin_epoch(epoch)
        self._epoch = epoch

    def _check(self, index: Tensor, x: Tensor, y: Tensor) -> None:
        self._looks += 1
        check_batch(x, y)
        if index.is_floating_point() or index.dtype == torch.bool or index.shape != y.shape:
            raise BadValueError(
                f"index must be sample numbers {tuple(y.shape)}, not {tuple(index.shape)}, {index.dtype}"
            )
        most = len(self.labels) - 1
        if not 0 <= int(index.min()) <= int(index.max()) <= most:
            raise BadValueError(f"index must lie in 0 to {most}, not {index.min()} to {index.max()}")
        told = self.labels[index.long()]
        for row in (told != y).nonzero().flatten().tolist():
            raise BadValueError(
                f"sample {index[row]} has label {y[row]}, but label {told[row]} in the labels that AdversarialLoss was "
                "given: they must be those of the dataset that Indexed wraps, in its order"
            )

    def get_extra_state(self) -> dict[str, int]:
        """The epoch, which is part of the `state_dict`."""
        return {"epoch": self._epoch}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Go on in the epoch of the state; what beginning it moves is loaded afterwards."""
        self._epoch = state["epoch"]
        if self._epoch >= 0:
            self.method.begin_epoch(self._epoch)


class _Network(nn.Module):
    """A network as the methods know it: images in [0, 1] to logits, of just so many classes where they are `fixed`."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: nn.Module, normalized: tuple[Numbers, Numbers] | None, num_classes: int, *, fixed: bool
    ) -> None:
        super().__init__()
        self.model, self.num_classes, self.fixed = model, num_classes, fixed
        self.normalizes = normalized is not None
        inner = (part.module for part in model.modules() if isinstance(part, DistributedDataParallel))
        self._attacked = (next(inner, model),)
        for name, values in zip(("mean", "std"), normalized or (0.0, 1.0), strict=True):
            self.register_buffer(name, torch.tensor(values).reshape(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # Attacks differ in length between processes, which would wait for each other in the wrapper.
        model = self.model if self.training else self._attacked[0]
        answer = model((x - self.mean) / self.std if self.normalizes else x)
        logits = check_logits(getattr(answer, "logits", answer), len(x))
        if (told := logits.shape[1]) < self.num_classes:
            raise BadValueError(f"there are {self.num_classes} classes, but the model tells {told} apart")
        if self.fixed and told > self.num_classes:
            raise BadValueError(
                f"the model tells {told} classes apart, the labels {self.num_classes}; give num_classes={told}"
            )
        return logits

    def restored(self, x: Tensor) -> Tensor:
        """The images as they were before they were normalized, in [0, 1]."""
        self.mean, self.std = self.mean.to(x.device), self.std.to(x.device)
        x = x * self.std + self.mean
        inside = x.clamp(0, 1)
        return torch.where((x - inside).abs() < ROUNDING, inside, x)


def parts(batch: Any) -> list[Tensor]:
    """Find numbers `(B,)`, images and labels in a batch, a tuple in this order or a dictionary; else UserError."""
    if isinstance(batch, Mapping):
        names = ((INDEX,), ("image", "pixel_values"), ("label", "labels"))
        found = [batch[name] for among in names for name in among if name in batch]
    else:
        found = list(batch) if isinstance(batch, tuple | list) else [batch]
    if len(found) != 3:
        held = ", ".join(map(str, batch)) if isinstance(batch, Mapping) else f"{len(found)} parts"
        raise UserError(f"a batch must hold index, image and label, not {held}; wrap the training set in dpaat.Indexed")
    return found


def same_epochs(loss: AdversarialLoss, epochs: float | None) -> None:
    """Refuse a trainer whose epochs are not those that a loss was told; the UserError names both numbers."""
    if epochs != loss.epochs:
        raise UserError(f"the trainer has {epochs} epochs, AdversarialLoss {loss.epochs}: tell both the same number")
