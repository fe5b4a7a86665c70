"""Every choice of a training run, in one place: field, type, default, range and help."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from dpaat.errors import UserError, unknown
from dpaat.own_code import is_own
from dpaat.radii import DEFAULT_RADII, default_radius, parse_radii, parse_radius
from dpaat.validation import STRICT, Checked, option

AUGMENTATIONS = ("flip", "turn", "crop", "jitter")
LOGGERS = {"tensorboard": "tensorboard", "csv": None, "wandb": "wandb", "mlflow": "mlflow"}
"""Trackers, and the module that each needs beside Lightning; the extra is called as the tracker."""
OWN_DEFAULTS = ("clean_weight", "adv_start", "self_teacher")
"""Fields whose default is the method's own."""
Norm = Literal["linf", "l2"]
Numbers = str | float | list[float] | None
SEED = {"ge": 0, "lt": 2**32}


@dataclass(config=STRICT)
class Data(Checked):
    """Images and how they are read and split."""

    data: str = option(
        "synthetic",
        "dataset: ham10000:DIR, medmnist:NAME[:FILE.npz], folder:DIR[,frame=FRAME], csv:FILE.csv[,frame=FRAME]"
        "[,labels=A+B+...], hf:NAME_OR_DIR, py:PKG.MODULE:NAME or "
        "synthetic[:N[,features=both|robust|fragile][,labels=multi]]",
    )
    image_size: int = option(64, "pixels at the side of the square image", ge=1)
    fit: Literal["crop", "squash"] = option("crop", "how an oblong image becomes square: crop its centre, or squash it")
    window: str = option(
        "auto",
        "which values of the pixels become black and white: full (the whole range of the file's type), own (the window "
        "that each DICOM file names), bits:N (0 to 2^N - 1), LO,HI, or percentile:LO,HI of all images; auto is own for "
        "DICOM and else full, and refuses images of more than 8 bits that use a small part of their range",
    )
    fold: str | None = option(None, '"k/K" tests on fold k of K instead of on a fifth of the groups')
    splits: str | None = option(None, "CSV with columns id and split (train, val, test), in place of a random split")


@dataclass(config=STRICT)
class Weights(Checked):
    """A network and where its weights come from."""

    model: str | None = option("resnet18", "name of any timm CNN; see `dpaat list models`")
    stem: Literal["auto", "original", "small"] = option(
        "auto",
        "small undoes the network's first reduction by 4; auto keeps the stem that weights were trained with "
        "(original for those from elsewhere), and without weights takes small below 48 pixels",
    )
    weights: str | None = option(None, "file of weights (.safetensors or .pth), a run folder or an export")
    weights_key: str | None = option(None, "set of weights that is meant where the file holds several, as ema_model")
    mean: Numbers = option(
        None,
        "of the values that the weights were trained on, one number or one per channel, with commas; by default the "
        "file's, else timm's",
    )
    std: Numbers = option(None, "likewise")
    input_range: str | None = option(
        None,
        "values of a black and of a white pixel before that normalization, such as 0-255 or =-1-1; by default 0-1. In "
        "another range without mean and std, values are not normalized",
    )


@dataclass(config=STRICT)
class Model(Weights):
    """A network to train."""

    model: str = option(
        "resnet18",
        "name of any timm CNN, see `dpaat list models`; torchvision:NAME; py:PKG.MODULE:NAME, a network of your own; "
        "or, with --pretrained, hf-hub:NAME or local-dir:DIR as timm writes them",
    )
    pretrained: bool = option(False, "take the weights that the model's name refers to; they are fetched if needed")


@dataclass(config=STRICT)
class MethodAndAttack(Checked):
    """The training method and its attack."""

    method: str = option("dpaat", "training method; see `dpaat list methods`")
    eps: str | float | None = option(
        None,
        "perturbation radius in [0, 1] pixel units, such as 8/255; the largest one if the method changes it; by "
        "default the method's own, in L2 n/4 for its n/255",
    )
    steps: int = option(10, "iterations of the training attack", ge=1)
    norm: Norm = option("linf", "norm of the radius")
    clean_weight: float | None = option(
        None, "share of the clean loss in the objective; by default the method's own", ge=0, le=1
    )
    adv_start: float | None = option(
        None, "share of the epochs that learn from clean images only; by default the method's own", ge=0, lt=1
    )
    self_teacher: float | None = option(
        None,
        "share of the loss on adversarial views that comes from a copy of the network, made when the attacks "
        "began; needs adv_start; by default the method's own",
        ge=0,
        le=1,
    )
    options: dict[str, Any] = option(
        dict, "further options of the method, such as --options.statistic median; see `dpaat list methods`"
    )


@dataclass(config=STRICT)
class Optimization(Checked):
    """Loss, augmentation, optimizer and the choice of the epoch."""

    imbalance: Literal["none", "weights", "sampler", "balanced-softmax", "pos-weight", "asymmetric"] = option(
        "balanced-softmax",
        "treatment of unequal class sizes in the loss or in the sampling; pos-weight and asymmetric are for several "
        "labels an image only, sampler is for classes",
    )
    augment: str = option(
        "flip,turn,crop,jitter", "list of flip, turn (quarter turns), crop (shifts), jitter (colour); or none"
    )
    transform: str | None = option(
        None, "py:PKG.MODULE:NAME, a function of your own on each training batch of images in [0, 1], after --augment"
    )
    epochs: int = option(30, "passes over the training set", ge=1)
    batch_size: int = option(128, "images per optimizer step, over all processes together", ge=2)
    optimizer: Literal["sgd", "adamw"] | None = option(
        None, "sgd (with Nesterov momentum) or adamw; by default sgd, and adamw with --weights or --pretrained"
    )
    lr: float | None = option(
        None, "peak learning rate; by default 0.001 for adamw, and for sgd 0.1, or 0.01 with weights", gt=0
    )
    lr_head: float | None = option(None, "peak learning rate of the last layer; by default lr", gt=0)
    freeze_until: int = option(0, "number of epochs in which only the last layer learns, at the beginning", ge=0)
    weight_decay: float = option(5e-4, "of weights; norms and biases are exempt", ge=0)
    schedule: Literal["one-cycle", "cosine"] = option(
        "one-cycle",
        "learning rate over the run: one cycle (warm-up, then cosine; momentum, adamw's beta1, goes from 0.95 to 0.85 "
        "and back), or cosine alone (momentum 0.9)",
    )
    awp: float = option(
        0.0,
        "adversarial weight perturbation, for any method: the gradient is taken at weights moved up the loss by this "
        "share of each tensor's norm, once the body learns; 0 for none, such as 0.005. Adds a forward and a backward "
        "pass (3 F) per view learned from",
        ge=0,
        lt=1,
    )
    ema_decay: float = option(
        0.0,
        "keep an exponential average of the weights and validate and save that; 0 for none, such as 0.999. Step t "
        "takes at most 1 - (1+t)^(-2/3): 0.99 after 1,000 steps, 0.999 after 32,000",
        ge=0,
        lt=1,
    )
    val_eps: str | None = option(
        None, "radii of the robust validation scores, 0 for none; by default 1, 2, 4 and 8/255, in L2 0.25 to 2"
    )
    val_steps: int = option(10, "iterations of the validation attack", ge=1)
    select: Literal["auto", "balanced-accuracy", "robust-balanced-accuracy", "auroc", "last"] = option(
        "auto",
        "score that picks the best epoch; auto takes clean balanced accuracy for standard training, else the mean "
        "balanced accuracy over radius 0 and val_eps, and AUROC alike for several labels. last takes the last epoch; "
        "use it with few validation images of the rarest class, whose best score is mostly chance",
    )
    seed: int = option(0, "of weights, batch order, augmentation and splits", **SEED)


@dataclass(config=STRICT)
class Place(Checked):
    """Where and how the run is computed."""

    precision: str = option("32-true", "Lightning's name, such as 32-true, bf16-mixed; auto takes the faster one")
    compile: bool = option(False, "compile the network by torch.compile")
    static_shapes: bool = option(
        False,
        "take all images through all steps of an attack whose steps differ by image: more passes, but a GPU's host "
        "does not wait to learn who is still attacked",
    )
    accelerator: str = option("auto", "cpu, gpu, auto")
    devices: str | int = option("auto", "number of devices, or auto")
    num_nodes: int = option(1, "number of machines", ge=1)
    strategy: str = option("auto", "Lightning's name, such as auto, ddp")
    save_every: float = option(
        10.0,
        "minutes of training between two saves inside an epoch; 0 saves after every step. Every epoch ends with a save "
        "anyway",
        ge=0,
    )
    workers: int = option(0, "processes that load images; 0 loads them in the training process", ge=0)
    logger: str = option(
        "none", f"trackers beside metrics.csv, with commas: {', '.join(LOGGERS)}, or none; see docs/howto/trackers.md"
    )
    trainer: dict[str, Any] = option(
        dict, "any other option of Lightning's Trainer, such as --trainer.gradient_clip_val 1"
    )


PLACE = ("accelerator", "devices", "num_nodes", "strategy", "workers", "logger")
"""Where a run is computed and followed, which may change when it is resumed."""


@dataclass(config=STRICT)
class TrainConfig(Place, Optimization, MethodAndAttack, Model, Data):  # fields are in the order of the last first
    """A training run; with the data and the package's version it determines the result.

    Fields, defaults and ranges are those of `dpaat train --help`. Raises UserError for an unknown field, or a value of
    a wrong type or out of its range; names the field.
    """

    def __post_init__(self) -> None:
        from dpaat.data.values import parse_window
        from dpaat.normalization import parse_normalization

        parse_window(self.window)
        self.radius, self.val_radii  # noqa: B018 - parsed here for their errors
        parse_normalization(self.mean, self.std, self.input_range)
        for name in self.augmentations:
            if name not in AUGMENTATIONS:
                raise unknown("augmentation", name, AUGMENTATIONS)
        if self.freeze_until > self.epochs:
            raise UserError(f"freeze_until: {self.freeze_until} is more than the {self.epochs} epochs of the run")
        for name in self.loggers:
            if name not in LOGGERS:
                raise unknown("logger", name, [*LOGGERS, "none"])
        if self.transform is not None and not is_own(self.transform):
            raise UserError(f"transform: {self.transform!r} is not of the form py:PKG.MODULE:NAME")
        if self.precision in ("16-true", "bf16-true"):
            raise UserError(f"precision: {self.precision} would round perturbations away; use bf16-mixed or 16-mixed")

    @property
    def radius(self) -> float:
        """`eps` as a number."""
        return parse_radius(0.0 if self.eps is None else self.eps, "eps", self.norm, pixels=self._most_values)

    @property
    def val_radii(self) -> list[float]:
        """`val_eps` as numbers, without 0, which is always measured."""
        given = DEFAULT_RADII[self.norm] if self.val_eps is None else self.val_eps
        radii = parse_radii(given, "val_eps", self.norm, pixels=self._most_values)
        return [radius for radius in radii if radius > 0]

    @property
    def _most_values(self) -> int:
        """Values of an image, as far as they are known before the data are: colour has three channels."""
        return 3 * self.image_size**2

    @property
    def augmentations(self) -> tuple[str, ...]:
        """`augment` as names."""
        return _names(self.augment)

    @property
    def loggers(self) -> tuple[str, ...]:
        """`logger` as names, each once."""
        return tuple(dict.fromkeys(_names(self.logger)))


def _names(text: str) -> tuple[str, ...]:
    return () if text in ("", "none") else tuple(name.strip() for name in text.split(","))


ATTACK_FIELDS = ("eps", *OWN_DEFAULTS)
"""Fields that play no part where a method does not attack."""


def unused(config: TrainConfig) -> str | None:
    """What a configuration gives and its method does not use, as a line for people; None if there is nothing."""
    from dpaat.methods import find_method

    given = [name for name in ATTACK_FIELDS if getattr(config, name) not in (None, 0, "0")]
    if not given or find_method(config.method).adversarial:
        return None
    return f"not used, since method {config.method!r} makes no adversarial images: {', '.join(given)}"


def complete(config: TrainConfig) -> TrainConfig:
    """Fill in what depends on method and weights, so that a configuration can be repeated as it is.

    Raises UserError for an unknown method or option, or values that do not go together; names the field.
    """
    from dpaat.methods import complete_options, find_method
    from dpaat.methods.base import first_attack
    from dpaat.methods.old_names import present_names

    config = TrainConfig(**present_names(vars(config)))
    method = find_method(config.method)
    own = {name: getattr(method, name) for name in OWN_DEFAULTS if getattr(config, name) is None}
    eps = config.eps
    if not method.adversarial:  # no radius and no attack play a part
        eps, own = None, own | {"adv_start": 0.0, "self_teacher": 0.0}
    elif eps is None:
        eps = default_radius(method.eps, config.norm)
    if config.val_eps is None:
        own["val_eps"] = ",".join(default_radius(each, config.norm) for each in DEFAULT_RADII["linf"])
    options = complete_options(method, config.options, config.norm)
    config = dataclasses.replace(config, eps=eps, options=options, **own, **_rates(config))
    if method.adversarial and config.radius <= 0:
        raise UserError(f"eps: method {method.name!r} needs a radius above 0, such as 8/255")
    assert config.adv_start is not None
    if config.self_teacher and first_attack(config.adv_start, config.epochs) < 1:
        if not {"adv_start", "self_teacher"} <= own.keys():
            raise UserError(
                "self_teacher: the network cannot teach before it has learned; give an --adv-start such as 0.5 and at "
                "least 2 epochs, or --self-teacher 0"
            )
        config = dataclasses.replace(config, self_teacher=0.0)
    return config


def chosen(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a complete configuration, such as a run's `config.yaml`, what differs from the defaults of its method.

    What equals a default of its method, norm and weights is None: with another method, the defaults are others. Values
    that are not a complete configuration are returned as they are. Raises UserError as `complete`.
    """
    from dpaat.methods.old_names import present_names

    filled = ("eps", "val_eps", "optimizer", *OWN_DEFAULTS)
    if any(values.get(name) is None for name in (*filled[1:], "lr")):
        return dict(values)
    config = TrainConfig(**present_names(dict(values)))
    nothing: dict[str, Any] = dict.fromkeys([*filled, "lr"])
    own = complete(dataclasses.replace(config, **nothing, options={}, freeze_until=0))
    same: dict[str, Any] = {name: None for name in filled if getattr(config, name) == getattr(own, name)}
    if config.lr == _rates(dataclasses.replace(config, lr=None, freeze_until=0))["lr"]:
        same["lr"] = None
    options = {name: value for name, value in config.options.items() if own.options.get(name) != value}
    return vars(config) | {"options": options} | same


def _rates(config: TrainConfig) -> dict[str, Any]:
    """Optimizer and learning rate, as `docs/howto/fine-tuning.md` says why, where they are not given."""
    tuned = bool(config.weights) or config.pretrained
    if config.freeze_until and not tuned:
        raise UserError("freeze_until: without --weights or --pretrained there is nothing in the body to keep")
    optimizer = config.optimizer or ("adamw" if tuned else "sgd")
    fitting = 1e-3 if optimizer == "adamw" else 0.01 if tuned else 0.1
    return {"optimizer": optimizer, "lr": fitting if config.lr is None else config.lr}
