"""The run folder: the only contract between training, evaluation and report."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import Field

from dpaat.config import TrainConfig
from dpaat.consistency import ANEW, check_checkpoint, check_end, check_log, check_start, file_digest
from dpaat.consistency import CONFIG as CONFIG
from dpaat.consistency import SPLITS as SPLITS
from dpaat.errors import UserError, is_printable
from dpaat.methods.old_names import present_names
from dpaat.own_code import is_own, require_trust
from dpaat.storage import read_json, write_text
from dpaat.validation import Int, load_yaml, maybe, misfit, record

if TYPE_CHECKING:
    from torch import nn

    from dpaat.data import PreparedData
    from dpaat.models import Stem

SCHEMA_VERSION, INFO = 1, "run.json"
SUBJECT = "subject.json"
"""In its place beside the results of a model from elsewhere; of the same form, with how to make the model again."""
ELSEWHERE = "elsewhere"
"""Means there the method by which the model was trained."""
BEST, LAST, PREVIOUS = (f"checkpoints/{name}.ckpt" for name in ("best", "last", "previous"))
INFO_SHAPE = record(
    schema_version=Int,
    classes=Annotated[list[str], Field(min_length=2)],
    channels=Literal[1, 3],
    fingerprint=str,
    train_counts=dict[str, Int],
    split_counts=maybe(dict[str, dict[str, Int]]),
    data=str,
    config=maybe(dict[str, Any]),
    epochs_done=maybe(Int),
    network=maybe(
        record(
            stem=Literal["original", "small"],
            architecture=maybe(str),
            options=maybe(dict[str, Any]),
            normalization=str,
            input_range=Annotated[list[float], Field(min_length=2, max_length=2)],
            weights=record(file=str, head=str, classes=Int) | None,
        )
    ),
    **dict.fromkeys(("files", "loggers", "code"), maybe(dict[str, str])),
    multilabel=maybe(bool),
    thresholds=maybe(dict[str, float]),
    split_sizes=maybe(dict[str, Int]),
    subject=maybe(dict[str, Any]),
    **dict.fromkeys(("command", "window", "licence", "citation", "one_answer"), maybe(str)),
    **dict.fromkeys(("pixels", "notes", "data_warnings", "warnings"), maybe(list[str])),
)
"""What others rely on in `run.json`."""


@dataclass(frozen=True)
class Run:
    """A training run on disk."""

    path: Path  # the run folder
    config: TrainConfig  # completed, as it was trained with
    info: dict[str, Any]  # what was known at the start and at the end, see `INFO_SHAPE`

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of the epoch that is kept, as `select` says."""
        return self.path / BEST

    @property
    def stem(self) -> "Stem":
        """The stem it was trained with: as recorded, or for older runs by the rule of their time."""
        from dpaat.models import resolved_stem

        return (self.info.get("network") or {}).get("stem") or resolved_stem(self.config.stem, self.config.image_size)

    @property
    def network(self) -> str:
        """The name that its network is built by: where weights came by another name, that of the architecture."""
        return str((self.info.get("network") or {}).get("architecture") or self.config.model)

    @property
    def options(self) -> dict[str, Any]:
        """Options of that architecture, as they came with the weights."""
        return (self.info.get("network") or {}).get("options") or {}

    @property
    def record(self) -> dict[str, Any]:
        """Metadata beside the weights in checkpoints and exports, which a state dict does not hold."""
        from dpaat.data.splits import read_splits, split_digest

        config, path = self.config, self.path / SPLITS
        splits = read_splits(path) if path.is_file() else None
        return {
            **{"model": self.network, "image_size": config.image_size, "fit": config.fit},
            **{name: self.info[name] for name in ("classes", "channels", "fingerprint")},
            **self.reading,
            **({"multilabel": True} if self.info.get("multilabel") else {}),
            **({"options": self.options} if self.options else {}),
            "stem": self.stem,
            "split": None if config.splits else {"seed": config.seed, "fold": config.fold},
            **({} if splits is None else {"split_digest": split_digest(splits["id"], splits["split"])}),
            **({"code": {config.model: self.info.get("code", {}).get(config.model)}} if is_own(config.model) else {}),
        }

    @property
    def checkpoint_digest(self) -> str:
        """16 hex digits that identify the weights."""
        return file_digest(self.checkpoint)

    @property
    def reading(self) -> dict[str, Any]:
        """How other images are to be read for this run: `window` and `known` of `dpaat.data.prepare`."""
        from dpaat.data.values import AUTO, FULL

        window = self.info.get("window") or FULL
        return {"window": AUTO if window == FULL else window, "known": list(self.info.get("pixels") or ())}

    def load_model(self, device: str = "cpu") -> "nn.Module":
        """Build the network, in eval mode, with the weights that were kept; no code from the file is run.

        Raises UserError: the checkpoint cannot be read, or is of another run or model.
        """
        import torch

        from dpaat.models import build_model
        from dpaat.weights import open_weights

        require_trust([self.config.model], self.info.get("code"), self.path / CONFIG)
        weights, record = open_weights(self.checkpoint), self.record
        if any(weights.record.get(name, value) != value for name, value in record.items()):
            raise UserError(f"{self.checkpoint}: is of another run; {ANEW}")
        shape: dict[str, Any] = {name: record[name] for name in ("channels", "image_size", "stem")}
        model = build_model(
            self.network, num_classes=len(self.info["classes"]), weights=weights, keep_head=True, **shape
        )
        return model.to(device=torch.device(device)).eval()

    def prepare(self, *, progress: bool = True) -> "PreparedData":
        """Load the data that the run was trained on, split as then.

        Raises UserError: the data are not there, or are not the same as then.
        """
        from dpaat.data import prepare
        from dpaat.data.values import FULL

        spec, then = self.config.data, self.info["fingerprint"]
        require_trust([spec], self.info.get("code"), self.path / CONFIG)
        options: dict[str, Any] = {"image_size": self.config.image_size, "fit": self.config.fit}
        with moved(self.path):
            data = prepare(
                spec,
                splits=self.path / SPLITS,
                classes=self.info["classes"],
                window=self.info.get("window") or FULL,
                progress=progress,
                **options,
            )
        if data.fingerprint == then:
            return data
        if prepare(spec, window=data.window, progress=False, **options).fingerprint == then:
            raise UserError(f"{self.path / INFO}: damaged, its classes are not those of {spec} in their order")
        raise UserError(f"{spec}: changed since {self.path} was trained (fingerprint {data.fingerprint}, then {then})")


@contextmanager
def moved(run: Path) -> Iterator[None]:
    """Add to errors of the data of a run what to do if they were moved."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error} (if the data of {run} were moved: give --data)") from None


def open_run(path: str | Path) -> Run:
    """Open a run folder for reading; UserError as `read_folder`, or for one without a checkpoint."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such run folder")
    run = read_folder(path)
    if not run.checkpoint.is_file():
        raise UserError(f"{path}: has no checkpoint ({BEST}); its training did not finish an epoch, train it again")
    check_checkpoint(run.checkpoint)
    if run.info.get("multilabel"):  # those of the weights: a training that was killed has noted others, or none
        from dpaat.weights import open_weights

        run.info["thresholds"] = open_weights(run.checkpoint).record.get("thresholds") or run.info.get("thresholds")
    return run


def read_folder(path: Path) -> Run:
    """Open a run folder that need not have a checkpoint, and check that its files belong together.

    Raises UserError: not a run folder, of a newer schema, damaged, or changed since it was written.
    """
    from dpaat.evaluation.results import check_results

    if not (path / INFO).is_file() or not (path / CONFIG).is_file():
        raise UserError(f"{path}: not a run folder, it has no {INFO} and {CONFIG}; give the --out of a training run")
    run = Run(path, read_config(path / CONFIG), read_info(path / INFO))
    check_start(path, run.config, run.info)
    check_log(path, run.info)
    check_end(path, run.info)
    check_results(path)
    return run


def read_info(path: Path) -> dict[str, Any]:
    """Read a `run.json` and check what others rely on; UserError for one that is damaged or of a newer schema."""
    info = read_json(path)
    if isinstance(version := info.get("schema_version"), int) and version > SCHEMA_VERSION:  # of unknown fields
        raise UserError(f"{path}: written by a newer version of dpaat ({info.get('dpaat_version')})")
    if where := misfit(info, INFO_SHAPE) or _contradiction(info):
        raise UserError(f"{path}: damaged, it has no usable {where!r}; was it written by another version of dpaat?")
    return info


def _contradiction(info: dict[str, Any]) -> str | None:
    """A field of the right type that does not fit the others."""
    classes = info["classes"]
    if len(set(classes)) < len(classes) or not all(map(is_printable, classes)):
        return "classes"
    counts = {"train_counts": info["train_counts"], **(info.get("split_counts") or {})}
    return next((name for name, found in counts.items() if set(found) != set(classes)), None)


def read_config(path: Path) -> TrainConfig:
    """Read a `config.yaml`; UserError for one that is not readable, or with fields or values that cannot be."""
    try:
        values = load_yaml(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise UserError("no fields")
        return TrainConfig(**present_names(values))
    except (OSError, yaml.YAMLError, TypeError, UnicodeDecodeError, UserError) as error:
        raise UserError(f"{path}: not a configuration ({' '.join(str(error).split())})") from None


def write_config(path: Path, config: TrainConfig) -> None:
    """Write every field of a configuration, in its order."""
    write_text(path, yaml.safe_dump(vars(config), sort_keys=False, allow_unicode=True))
