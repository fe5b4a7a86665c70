"""Every choice of a training run, in one place."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from dpaat.errors import UserError, unknown
from dpaat.radii import parse_radii, parse_radius
from dpaat.shapes import check_filled

AUGMENTATIONS = ("flip", "turn", "crop", "jitter")
OWN_DEFAULTS = ("clean_weight", "adv_start", "self_teacher")
"""Fields whose default is the method's own."""
PLACE = ("accelerator", "devices", "num_nodes", "strategy", "workers")
"""Where a run is computed, which may change when it is resumed."""


@dataclass
class TrainConfig:
    """A training run; with the data and the package's version it determines the result.

    Args:
        data: dataset: ham10000:DIR, medmnist:NAME[:FILE.npz], folder:DIR, csv:FILE.csv or
            synthetic[:N[,features=both|robust|fragile]].
        image_size: pixels at the side of the square image.
        fit: how an oblong image becomes square: crop its centre, or squash it.
        window: which values of the pixels become black and white: full (the whole range of the file's type), bits:N
            (0 to 2^N - 1), LO,HI, or percentile:LO,HI of all images; auto is full, and refuses images of more than 8
            bits that use a small part of their range.
        fold: "k/K" tests on fold k of K instead of on a fifth of the groups.
        splits: CSV with columns id and split (train, val, test) to use instead of a split of our own.
        model: name of any timm CNN; see `dpaat list models`.
        stem: small undoes the network's first reduction by 4; auto keeps the stem that weights were trained with
            (original for those from elsewhere), and without weights takes small below 48 pixels.
        weights: file of pretrained weights (.safetensors or .pth), a run folder or an export.
        weights_key: which set of weights is meant where the file holds several, such as ema_model.
        mean: of the values that the weights were trained on, one number or one per channel, with commas. Default: the
            file's, else timm's.
        std: likewise.
        input_range: values of a black and of a white pixel before that normalization, such as 0-255 or =-1-1; default
            0-1. In another range without mean and std, values are not normalized.
        pretrained: fetch the pretrained weights that timm names for the model.
        method: training method; see `dpaat list methods`.
        eps: perturbation radius in [0, 1] pixel units, such as 8/255; the largest one where the method moves it.
            Default: the method's own.
        steps: iterations of the training attack.
        norm: norm of the radius.
        clean_weight: share of the clean loss in the objective, 0 to 1. Default: the method's own.
        adv_start: share of the epochs, 0 to below 1, that learn from clean images only. Default: the method's own.
        self_teacher: share of the loss on adversarial views that is learned from the network itself as it stood when
            the attacks began, 0 to 1; needs adv_start. Default: the method's own.
        options: further options of the method, such as --options.statistic median; see `dpaat list methods`.
        imbalance: treatment of unequal class sizes in the loss or in the sampling.
        augment: comma-separated list of flip, turn (quarter turns), crop (shifts), jitter (colour); or none.
        epochs: passes over the training set.
        batch_size: images per optimizer step, over all processes together.
        optimizer: sgd (Nesterov momentum 0.9) or adamw.
        lr: peak learning rate.
        lr_head: peak learning rate of the last layer. Default: `lr`.
        freeze_until: epoch, from 0, until which only the last layer learns.
        weight_decay: of weights; norms and biases are exempt.
        schedule: learning rate over the run: one cycle (warm-up, then cosine), or cosine alone.
        awp: adversarial weight perturbation, for any method: the gradient is taken at weights moved up the loss by this
            share of each tensor's norm, from the first step on; 0 for none, such as 0.005. Adds a forward and a
            backward pass (3 F) per view learned from.
        ema_decay: keep an exponential average of the weights and validate and save that; 0 for none, such as 0.999.
        val_eps: radii of the robust validation scores, comma-separated; 0 for none.
        val_steps: iterations of the validation attack.
        select: score that picks the best epoch; auto takes clean balanced accuracy for standard training, else the
            mean balanced accuracy over radius 0 and val_eps. last takes the last epoch: with few validation images of
            the rarest class the best score is a matter of luck.
        seed: of weights, batch order, augmentation and splits.
        precision: Lightning's name, such as 32-true, bf16-mixed.
        accelerator: cpu, gpu, auto.
        devices: number of devices, or auto.
        num_nodes: number of machines.
        strategy: Lightning's name, such as auto, ddp.
        save_every: minutes of training between two saves inside an epoch; 0 saves after every step. Every
            epoch ends with a save anyway.
        workers: processes that load images; 0 loads them in the training process.
        trainer: any other option of Lightning's Trainer, such as --trainer.gradient_clip_val 1.
    """

    data: str = "synthetic"
    image_size: int = 64
    fit: Literal["crop", "squash"] = "crop"
    window: str = "auto"
    fold: str | None = None
    splits: str | None = None
    model: str = "resnet18"
    stem: Literal["auto", "original", "small"] = "auto"
    weights: str | None = None
    weights_key: str | None = None
    mean: str | float | list[float] | None = None
    std: str | float | list[float] | None = None
    input_range: str | None = None
    pretrained: bool = False
    method: str = "dpaat"
    eps: str | float | None = None
    steps: int = 10
    norm: Literal["linf", "l2"] = "linf"
    clean_weight: float | None = None
    adv_start: float | None = None
    self_teacher: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    imbalance: Literal["none", "weights", "sampler", "balanced-softmax"] = "balanced-softmax"
    augment: str = "flip,turn,crop,jitter"
    epochs: int = 30
    batch_size: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    lr_head: float | None = None
    freeze_until: int = 0
    weight_decay: float = 5e-4
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    awp: float = 0.0
    ema_decay: float = 0.0
    val_eps: str = "1/255,2/255,4/255,8/255"
    val_steps: int = 10
    select: Literal["auto", "balanced-accuracy", "robust-balanced-accuracy", "auroc", "last"] = "auto"
    seed: int = 0
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: str | int = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    save_every: float = 10.0
    workers: int = 0
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_filled(self)

    @property
    def radius(self) -> float:
        """`eps` as a number."""
        return parse_radius(0.0 if self.eps is None else self.eps, "eps", self.norm, pixels=self._most_values)

    @property
    def val_radii(self) -> list[float]:
        """`val_eps` as numbers, without 0, which is always measured."""
        return [
            radius for radius in parse_radii(self.val_eps, "val_eps", self.norm, pixels=self._most_values) if radius > 0
        ]

    @property
    def _most_values(self) -> int:
        """Values of an image, as far as they are known before the data are: colour has three channels."""
        return 3 * self.image_size**2

    @property
    def augmentations(self) -> tuple[str, ...]:
        """`augment` as names."""
        return () if self.augment in ("", "none") else tuple(name.strip() for name in self.augment.split(","))


def complete(config: TrainConfig) -> TrainConfig:
    """Check a configuration and fill in what depends on the method, so that it can be repeated as it stands.

    Raises:
        UserError: a value out of its range, an unknown method or option; names the field.
    """
    from dpaat.data.values import parse_window
    from dpaat.methods import complete_options, find_method
    from dpaat.methods.base import first_attack
    from dpaat.methods.old_names import present_names
    from dpaat.normalization import parse_normalization

    parse_window(config.window)
    config = TrainConfig(**present_names(vars(config)))
    method = find_method(config.method)
    eps: str | float | None = config.eps
    config.radius  # noqa: B018 - parsed here for its error
    if not method.adversarial:
        eps = None  # no radius plays a part
    elif eps is None:
        eps = f"{round(method.eps * 255)}/255"
    own = {name: getattr(method, name) for name in OWN_DEFAULTS if getattr(config, name) is None}
    if not method.adversarial:  # no attack plays a part
        own |= {"adv_start": 0.0, "self_teacher": 0.0}
    config = dataclasses.replace(config, eps=eps, options=complete_options(method, config.options), **own)
    if method.adversarial and config.radius <= 0:
        raise UserError(f"eps: method {method.name!r} needs a radius above 0, such as 8/255")
    config.val_radii  # noqa: B018 - parsed here for its error
    parse_normalization(config.mean, config.std, config.input_range)
    for name in config.augmentations:
        if name not in AUGMENTATIONS:
            raise unknown("augmentation", name, AUGMENTATIONS)
    for name, least in (("image_size", 1), ("steps", 1), ("val_steps", 1), ("epochs", 1), ("batch_size", 2)):
        _check(name, getattr(config, name) >= least, getattr(config, name), f"at least {least}")
    for name in ("num_nodes", "workers"):
        least = int(name == "num_nodes")
        _check(name, getattr(config, name) >= least, getattr(config, name), f"at least {least}")
    _check("seed", 0 <= config.seed < 2**32, config.seed, "between 0 and 2^32 - 1")
    if config.precision in ("16-true", "bf16-true"):
        raise UserError(f"precision: {config.precision} would round perturbations away; use bf16-mixed or 16-mixed")
    _check("lr", math.isfinite(config.lr) and config.lr > 0, config.lr, "a positive number")
    _check("weight_decay", 0 <= config.weight_decay < math.inf, config.weight_decay, "0 or larger")
    for name in ("clean_weight", "self_teacher"):
        _check(name, 0 <= getattr(config, name) <= 1, getattr(config, name), "between 0 and 1")
    assert config.adv_start is not None
    _check("adv_start", 0 <= config.adv_start < 1, config.adv_start, "at least 0 and below 1")
    if config.self_teacher and first_attack(config.adv_start, config.epochs) < 1:
        if not {"adv_start", "self_teacher"} <= own.keys():
            raise UserError(
                "self_teacher: the network cannot teach before it has learned; give an --adv-start such as 0.5 and at "
                "least 2 epochs, or --self-teacher 0"
            )
        config = dataclasses.replace(config, self_teacher=0.0)
    _check("save_every", config.save_every >= 0, config.save_every, "0 or larger")
    _check("awp", 0 <= config.awp < 1, config.awp, "at least 0 and below 1")
    _check("ema_decay", 0 <= config.ema_decay < 1, config.ema_decay, "at least 0 and below 1")
    return config


def _check(name: str, condition: bool, value: object, rule: str) -> None:
    if not condition:
        raise UserError(f"{name}: {value} is out of range; it must be {rule}")
