"""Attacks on a model, batch by batch, so that any batch can be repeated alone."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import KW_ONLY, InitVar, dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dpaat.attacks import find_attack
from dpaat.attacks.checks import check_logits
from dpaat.attacks.gradient import evaluation_mode
from dpaat.attacks.losses import label_weights, weighing
from dpaat.attacks.norms import make_ball
from dpaat.errors import UserError, unknown
from dpaat.evaluation.folding import search_copy
from dpaat.evaluation.labels import Shifted, label_metrics
from dpaat.evaluation.metrics import Metrics, classification_metrics, require_finite, require_labels
from dpaat.evaluation.specs import AttackSpec
from dpaat.journal import Arrays, Journal

Precision = Literal["32", "bf16"]
PRECISIONS: dict[str, torch.dtype | None] = {"32": None, "bf16": torch.bfloat16}


class ImageArray(Protocol):
    """Images `(N, C, H, W)`, uint8, or floating in [0, 1]: an array, a memory map, or what is indexed like one."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Outputs:
    """Outputs of a model on attacked images."""

    logits: Tensor  # `(n, K)`, float32, on the CPU
    distance: np.ndarray  # of each attacked image from its own clean one, `(n,)`, float64
    several: bool = False  # whether an image has several labels, each answered yes above a logit of 0

    @property
    def predicted(self) -> np.ndarray:
        """Class numbers `(n,)`, int64; or answers `(n, K)`, int8."""
        return (self.logits > 0).numpy().astype(np.int8) if self.several else self.logits.argmax(1).numpy()

    def within(self, eps: float, clean: "Outputs") -> "Outputs":
        """These where the attacked image lies within `eps`, else the clean ones."""
        near = self.distance <= eps
        logits = torch.where(torch.from_numpy(near)[:, None], self.logits, clean.logits)
        return Outputs(logits, np.where(near, self.distance, 0.0), self.several)


class PassBar:
    """A progress bar in forward passes on stderr, whose total is corrected whenever less is left than was expected."""

    def __init__(self, *, show: bool) -> None:
        self._bar: tqdm[Any] = tqdm(
            total=1,
            disable=None if show else True,  # None: hidden where stderr is no terminal
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc:<22} {percentage:3.0f}% |{bar}| {elapsed} < {remaining}",
        )
        self.name, self.done, self.close = self._bar.set_description_str, self._bar.update, self._bar.close

    def expect(self, name: str, passes: int) -> None:
        """Begin a stage: show its name, and take `passes` for what is left, this stage included."""
        self._bar.total = max(1, self._bar.n + passes)
        self.name(name)

    def skipped(self, passes: int) -> None:
        """Drop work that need not be done: it says nothing about the speed."""
        self._bar.total = max(1, (self._bar.total or 0) - passes)
        self._bar.refresh()


@dataclass(eq=False, repr=False)
class Attacker:
    """A model, the images it is tried on, and how; a context manager that removes its progress bar.

    No result depends on what was computed before: randomness is keyed by seed, attack, radius and images. The model is
    left in the modes in which it was found. Verdicts are computed in float32 whatever precision searched. Raises
    UserError: no images, or labels that do not fit.
    """

    model: nn.Module  # maps images `(B, C, H, W)` in [0, 1] to logits `(B, K)`; moved to `device`
    images: ImageArray  # `(N, C, H, W)`, uint8, or floating in [0, 1]
    labels: np.ndarray  # `(N,)`, int64, 0 to K - 1; several an image `(N, K)`, int8, -1 for unknown
    _: KW_ONLY
    num_classes: int  # K
    batch_size: int = 128
    device: str | torch.device = "cpu"
    seed: int = 0  # source of all random starts and draws
    precision: Precision = "32"  # in which the attacks search, "32" or "bf16"
    source: nn.Module | None = None  # another model, for attacks that transfer their images from one
    journal: Journal = field(default_factory=Journal)  # where finished batches are kept
    thresholds: np.ndarray | None = None  # of the logits of several labels `(K,)`; by default 0
    progress: InitVar[bool] = True  # show a bar with the time left

    def __post_init__(self, progress: bool) -> None:
        if not len(self.images):
            raise UserError("there are no images to evaluate")
        require_labels(torch.as_tensor(self.labels), len(self.images), self.num_classes)
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        kind = np.int8 if self.several else np.int64
        self.model, self.labels = self.model.to(self.device), np.asarray(self.labels, dtype=kind)
        self._weights = label_weights(torch.tensor(self.labels, device=self.device))
        if self.thresholds is not None:
            self.model = Shifted(self.model, self.thresholds).to(self.device)
        self.source = None if self.source is None else self.source.to(self.device)
        self.bar = PassBar(show=progress)
        self.search: nn.Module | None = None  # see `faster`
        self.stop = False

    def __len__(self) -> int:
        return len(self.images)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    @property
    def several(self) -> bool:
        """Whether an image has several labels."""
        return np.ndim(self.labels) == 2

    def probabilities(self, outputs: Outputs) -> Tensor:
        """Probabilities of the classes, or of each label, `(n, K)`, float64."""
        logits = outputs.logits.double()
        if not self.several:
            return logits.softmax(dim=1)
        return (logits if self.thresholds is None else logits + torch.from_numpy(self.thresholds)).sigmoid()

    def metrics(self, outputs: Outputs, classes: Sequence[str]) -> Metrics:
        """Metrics of the model's answers for all images."""
        probabilities = self.probabilities(outputs)
        if self.several:
            return label_metrics(outputs.predicted, self.labels, classes, probabilities.numpy())
        return classification_metrics(probabilities, torch.from_numpy(self.labels), classes)

    def aimed(self, labels: np.ndarray) -> Self:
        """The same with other labels for the attacks to go by, such as those that are still right."""
        other = copy(self)
        other.labels, other.journal = labels, self.journal.within(f"aimed-{zlib.crc32(labels.tobytes()):08x}")
        return other

    def on(self, images: ImageArray, name: str) -> Self:
        """The same on changed images, under a name of their own in the journal."""
        other = copy(self)
        other.images, other.journal = images, self.journal.within(name)
        return other

    def faster(self, *, stop: bool = True) -> Self:
        """The same with attacks on a `search_copy` of the model, which `stop` at a verdict; the model judges."""
        other = copy(self)
        other.stop = stop
        with full_precision():
            other.search = search_copy(self.model, self.load(np.arange(min(len(self), 8)))[0])
        return other

    def outputs(self, spec: AttackSpec, eps: float = 0.0, positions: np.ndarray | None = None) -> Outputs:
        """Attack images, all or those at some positions `(n,)`, and let the model judge them.

        Raises UserError: outputs that are not finite logits `(B, K)`, or images outside [0, 1].
        """
        positions = np.arange(len(self)) if positions is None else positions
        if not len(positions):
            return Outputs(torch.zeros(0, self.num_classes), np.zeros(0), self.several)

        def work(batch: np.ndarray, unit: str) -> Arrays:
            x, y = self.load(batch)
            return self._judge(spec, eps, x, self.attack(spec, eps, x, y, key=int(batch[0])))

        kind = () if self.search is None else ("verdicts" if self.stop else "copy",)
        key = (spec, round(eps, 9), *kind)
        return self._outputs(self.batches(key, positions, work, passes=spec.passes(self.num_classes)))

    def mixed(self, spec: AttackSpec, positions: np.ndarray, eps: np.ndarray, rank: np.ndarray | None) -> Outputs:
        """`outputs` for one radius, and maybe one rank of a target, per row `(n,)`, where the attack `mixes` them."""

        def work(batch: np.ndarray, unit: str) -> Arrays:
            x, y = self.load(batch[:, 0].astype(np.int64))
            radius = torch.from_numpy(batch[:, 1]).to(x)
            options = {} if rank is None else {"rank": torch.from_numpy(batch[:, 2]).to(y.device, torch.int64)}
            return self._judge(spec, radius, x, self.attack(spec, radius, x, y, key=unit, **options))

        rows = np.stack([positions, eps, np.zeros(len(eps)) if rank is None else rank], axis=1).astype(np.float64)
        passes = spec.passes(self.num_classes)
        if rank is not None:
            passes = -(-passes // find_attack(spec.name).cost.repeats(self.num_classes - 1))
        return self._outputs(self.batches((spec, "mixed"), rows, work, passes=passes))

    def _judge(self, spec: AttackSpec, eps: float | Tensor, x: Tensor, x_adv: Tensor) -> Arrays:
        distance = torch.zeros(len(x)) if spec.name == "clean" else make_ball(spec.norm, x, 0.0).distance(x_adv)
        if not bool((distance <= eps * (1 + 1e-5) + 1e-6).all()) or not bool(((x_adv >= 0) & (x_adv <= 1)).all()):
            raise RuntimeError(f"{spec.label} left its ball of radius {eps}: {float(distance.max())}")
        with torch.no_grad():
            logits = check_logits(self.model(x_adv), len(x), self.num_classes)
        return {"logits": logits.float().cpu().numpy(), "distance": distance.cpu().double().numpy()}

    def _outputs(self, found: Arrays) -> Outputs:
        logits = torch.from_numpy(found["logits"])
        require_finite(logits)
        return Outputs(logits, found["distance"], self.several)

    def batches(
        self, key: tuple[object, ...], positions: np.ndarray, work: Callable[[np.ndarray, str], Arrays], *, passes: int
    ) -> Arrays:
        """Do a piece of work on images `(n,)`, or rows `(n, ...)` that begin with one, n >= 1, batch by batch.

        What the journal holds is not done again.

        `key` tells it from others; `work` takes positions of a batch and its key to arrays by name, an entry per image;
        `passes` are forward passes per image.
        """
        parts = []
        with evaluation_mode(self.model), full_precision(), weighing(self._weights):
            for first in range(0, len(positions), self.batch_size):
                batch = positions[first : first + self.batch_size]
                unit = repr((*key, zlib.crc32(np.ascontiguousarray(batch).tobytes())))
                known = self.journal.holds(unit)
                parts.append(self.journal(unit, partial(work, batch, unit)))
                (self.bar.skipped if known else self.bar.done)(passes * len(batch))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def load(self, positions: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images `(n, C, H, W)` in [0, 1] and labels `(n,)` on the device."""
        images = np.ascontiguousarray(self.images[positions])
        x = torch.from_numpy(images)
        if images.dtype == np.uint8:
            x = x.to(self.device).float() / 255
        elif not x.is_floating_point() or not bool(((x >= 0) & (x <= 1)).all()):
            raise UserError(
                f"images must be uint8, or floating in [0, 1]; these are {images.dtype} from {images.min()} to "
                f"{images.max()}; leave normalization to the model"
            )
        return x.float().to(self.device), torch.from_numpy(self.labels[positions]).to(self.device)

    def generator(self, *parts: object) -> torch.Generator:
        """A source of random numbers keyed by the seed and whatever else tells one draw from another."""
        return torch.Generator(self.device).manual_seed(zlib.crc32(repr((self.seed, *parts)).encode()))

    def attack(
        self, spec: AttackSpec, eps: float | Tensor, x: Tensor, y: Tensor, *, key: int | str, **more: Tensor
    ) -> Tensor:
        """Attack a batch: images `(n, C, H, W)` in [0, 1] on the device with labels `(n,)` to adversarial images.

        `key` tells the batch's random start from others: the position of its first image, or all that is in it.
        "clean" returns the images.
        """
        if spec.name == "clean":
            return x
        info = find_attack(spec.name)
        radius = None if isinstance(eps, Tensor) else round(eps, 9)
        generator = self.generator(spec.name, spec.steps, spec.norm, radius, key)
        options: dict[str, Any] = {"steps": spec.steps, "start": spec.start, **more}
        options = {name: value for name, value in options.items() if value is not None}
        if info.needs_source:
            options["source"] = self.source
        if self.stop and info.stops:
            options["stop"] = True
        # The nearest image that fools in half precision often lies on the wrong side in full.
        dtype = None if info.minimal else PRECISIONS[self.precision]
        device = torch.device(self.device).type
        with weighing(self._weights), nullcontext() if dtype is None else torch.autocast(device, dtype=dtype):
            return info.function(
                self.search or self.model, x, y, eps=eps, norm=spec.norm, generator=generator, **options
            )


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute in float32 throughout: TF32 and autocast would shift verdicts near the decision boundary."""
    found = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    cudnn = torch.backends.cudnn
    try:
        with (
            cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False),
            torch.autocast("cuda", enabled=False),
            torch.autocast("cpu", enabled=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(found)
