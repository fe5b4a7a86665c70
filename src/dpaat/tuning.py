"""Search for good settings with Optuna: many trainings, judged by their validation scores alone."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import pandas as pd
import yaml
from rich.console import Console

from dpaat.config import ATTACK_FIELDS, PLACE, TrainConfig, complete
from dpaat.data.splits import split_digest
from dpaat.errors import UserError, at, unknown
from dpaat.methods import find_method
from dpaat.methods.old_names import present_names
from dpaat.runs import write_config
from dpaat.storage import BusyError, locked, write_text
from dpaat.tables import Column, Row, Table, percent
from dpaat.training.setup import prepare_data
from dpaat.validation import fields_of, load_yaml

STUDY, TRIALS, BEST = "study.journal", "trials.csv", "best.yaml"
RUNGS = 4
"""Parts of a training after each of which it can be given up, with pruning."""
MEASURE = ("data", "fold", "splits", "seed", "norm", "select", "val_eps", "val_steps")
"""Fields that a validation score depends on by itself: trials that differ in one cannot be compared."""
NESTED = ("options", "trainer")


@dataclasses.dataclass(frozen=True)
class Range:
    """What to search: a field such as "lr" or "options.damping", and either its ends or its choices."""

    field: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: Any) -> Any:
        """Ask Optuna for a value."""
        if self.choices:
            return trial.suggest_categorical(self.field, self.choices)
        if self.whole:
            return trial.suggest_int(self.field, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.field, self.low, self.high, log=self.log)


def parse_search(text: str, options: Mapping[str, Any] | None = None) -> Range:
    """Read what to search: "lr=log:1e-4,1e-1", "clean_weight=0.5,0.9", "optimizer=sgd,adamw", "steps=choice:3,7,10".

    Two numbers are the ends of a range; other texts, more than two, or `choice:`, are choices. `options` are those of
    the method with their defaults, which tell whole numbers from others. Raises UserError: not of this form, or a field
    that is none or cannot be searched.
    """
    name, equals, right = text.partition("=")
    name = name.strip().replace("-", "_")
    kind, colon, rest = right.partition(":")
    kind, rest = (kind, rest) if colon and kind in ("log", "choice") else ("", right)
    parts = [part.strip() for part in rest.split(",") if part.strip()]
    top, dot, below = name.partition(".")
    if not equals or len(parts) < 2:
        raise UserError(f"search {text}: needs a field and values, such as lr=log:1e-4,1e-1 or optimizer=sgd,adamw")
    if top not in fields_of(TrainConfig):
        raise unknown("field to search", name, fields_of(TrainConfig))
    if name in (*MEASURE, *PLACE) or (top in NESTED) != bool(dot):
        why = "is no single value" if name in NESTED else "would make scores that cannot be compared"
        raise UserError(f"search {name}: {'is no field' if dot and top not in NESTED else why}")
    values = [_value(part) for part in parts]
    default = (options or {}).get(below)
    wanted = _kinds(fields_of(TrainConfig)[top].annotation) if not dot else {int, float}
    wanted = {type(default)} if top == "options" and default is not None else wanted
    numbers = all(isinstance(value, float) and math.isfinite(value) for value in values) and wanted & {int, float}
    if kind == "log" or (kind == "" and len(parts) == 2 and numbers):
        low, high = values[0], values[1]
        if not numbers or len(parts) != 2 or not low < high or (kind == "log" and low <= 0):
            raise UserError(f"search {text}: a range is two numbers, the smaller first{', above 0' * (kind == 'log')}")
        whole = float not in wanted or (top == "trainer" and not re.search(r"[.eE]", rest))
        if whole and (low % 1 or high % 1):
            raise UserError(f"search {text}: {name} is a whole number")
        return Range(name, low, high, log=kind == "log", whole=whole)
    # As the configuration takes them: texts stay texts, whole numbers are whole.
    texts = str in wanted and not (wanted & {int, float} and numbers)
    plain = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
    return Range(name, choices=tuple(parts if texts else plain))


def tune(
    config: TrainConfig,
    out: Path,
    searches: Sequence[str],
    *,
    trials: int = 20,
    prune: bool = False,
    cache_dir: Path | None = None,
    console: Console,
) -> Path:
    """Try settings in trainings of their own, and write the best as a configuration to train by.

    Every trial is judged by the best score on its validation split; the test split is not looked at. The study goes on
    where it ended, and several calls may work on it at once. A trial that a kill has interrupted is gone on with.

    `config` is what all trials share; `out` the folder of the study, with the trials' run folders in `trials`; for
    `searches` see `parse_search`. `trials` count those of earlier calls; with `prune`, trainings are given up that are
    worse than the median of the others at the same epoch. Decoded images are kept in `cache_dir`.

    Returns the configuration of the best trial. Raises UserError for bad input, a study of other settings in `out`, or
    no trial that ended well.
    """
    try:
        optuna: Any = import_module("optuna")
    except ImportError:
        raise UserError("tune needs optuna: pip install 'dpaat[tune]'") from None
    options = find_method(config.method).defaults | config.options
    ranges = [parse_search(text, options) for text in searches]
    if not ranges or trials < 1:
        raise UserError("search: name at least one field, such as --search lr=log:1e-4,1e-1, and --trials at least 1")
    fields = {each.field for each in ranges}
    if len(fields) < len(ranges):
        raise UserError("search: a field is given twice")
    fixed = "method" not in fields and not find_method(config.method).adversarial
    if fixed and (idle := sorted(fields & set(ATTACK_FIELDS))):
        raise UserError(f"search: method {config.method!r} makes no adversarial images, so it does not use {idle[0]}")
    if config.select == "auto" and any(each.field == "method" for each in ranges):
        raise UserError("select: auto is another score for another method; name one, such as robust-balanced-accuracy")
    if config.select == "last":
        raise UserError("select: last says nothing of the score to search by; name one, such as balanced-accuracy")
    for each in ranges:  # what does not fit is found before anything is trained
        for value in each.choices or (each.low, each.high):
            with at(f"search {each.field}"):
                _changed(config, {each.field: int(value) if each.whole else value})
    study = _Study(optuna, config, out, ranges, prune, cache_dir)
    study.require_same(searches)
    while (trial := study.next(trials)) is not None:
        folder = out / "trials" / f"{trial.number:04d}"
        # Between its choice and here another process may have taken it.
        with suppress(BusyError), locked(folder.with_suffix(".lock"), busy=f"{folder}: another process works on it"):
            if study.trials[trial.number].state.name == "RUNNING":
                said = study.attempt(trial, folder)
                console.print(f"trial {trial.number}: {said}", markup=False, highlight=False, soft_wrap=True)
    return study.finish(console)


@dataclasses.dataclass
class _Study:
    """A search as of `tune`, and Optuna's study of it in a folder."""

    optuna: Any
    config: TrainConfig
    out: Path
    ranges: Sequence[Range]
    prune: bool
    cache_dir: Path | None

    def __post_init__(self) -> None:
        (self.out / "trials").mkdir(parents=True, exist_ok=True)
        self.optuna.logging.set_verbosity(self.optuna.logging.ERROR)
        journal = self.optuna.storages.journal.JournalFileBackend(str(self.out / STUDY))
        self.study = self.optuna.create_study(
            storage=self.optuna.storages.JournalStorage(journal),
            pruner=self.optuna.pruners.MedianPruner() if self.prune else self.optuna.pruners.NopPruner(),
            study_name="dpaat",
            direction="maximize",
            load_if_exists=True,
        )

    @property
    def trials(self) -> list[Any]:
        """Those so far, of all processes."""
        return list(self.study.get_trials(deepcopy=False))

    def require_same(self, searches: Sequence[str]) -> None:
        """Refuse to go on with a study of something else."""
        data = prepare_data(self.config, cache_dir=self.cache_dir, progress=False)
        split = split_digest(data.ids, data.split)
        settings, data_now = _completed(vars(self.config)), f"{data.fingerprint} {split}"
        now = {"config": settings, "search": sorted(searches), "data": data_now}
        before, said = dict[str, Any](self.study.user_attrs or now), "choose another --out, or give the same again"
        before["config"] = _completed(yaml.safe_load(before["config"]))
        for name, value in now.items():
            if before.get(name, value) != value:  # a study of before this was noted has no data
                other = "data that have changed since" if name == "data" else f"another {name}"
                raise UserError(f"{self.out}: holds a study of {other}; {said}")
            self.study.set_user_attr(name, value)

    def next(self, most: int) -> Any:
        """An interrupted trial of which no process is alive, else a new one if there are fewer than `most`, or None."""
        known, found = self.trials, None
        for number in [each.number for each in known if each.state.name == "RUNNING"]:
            with suppress(BusyError), locked(self.out / "trials" / f"{number:04d}.lock", busy="held"):
                found = self.optuna.trial.Trial(self.study, known[number]._trial_id)
                break
        if found is None and len(known) < most:
            found = self.study.ask()
        if found is not None:  # by its number, so that a study that goes on proposes what it would have proposed
            self.study.sampler = self.optuna.samplers.TPESampler(seed=self.config.seed + found.number)
        return found

    def attempt(self, trial: Any, folder: Path) -> str:
        """Train a trial and tell the study how it ended; returns the same in words."""
        values = {each.field: each.suggest(trial) for each in self.ranges}
        shown = ", ".join(f"{name} {_show(value)}" for name, value in values.items())
        try:
            score = self.train(trial, _changed(self.config, values), folder)
        except UserError as error:  # a loss that is not finite, or settings that do not go together
            self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
            return f"{shown}: failed: {error}"
        except self.optuna.TrialPruned:
            self.study.tell(trial, state=self.optuna.trial.TrialState.PRUNED)
            return f"{shown}: given up"
        self.study.tell(trial, score)
        return f"{shown}: {score:.1%}"

    def train(self, trial: Any, config: TrainConfig, folder: Path) -> float:
        """Train one trial, from where it ended; returns its best validation score. Raises `TrialPruned`."""
        from dpaat.training import train

        rung, log = -(-config.epochs // RUNGS) if self.prune else config.epochs, folder / "metrics.csv"
        while True:
            done = len(pd.read_csv(log)) if log.is_file() else 0
            if done < config.epochs:
                left = rung - done % rung
                train(config, folder, resume=folder.is_dir(), stop_after=left, cache_dir=self.cache_dir)
            scores = pd.read_csv(log)["val/score"]
            if len(scores) >= config.epochs:
                return float(scores.max())
            trial.report(float(scores.max()), len(scores))
            if trial.should_prune():
                raise self.optuna.TrialPruned

    def finish(self, console: Console) -> Path:
        """Write all trials and the best configuration, whose file is returned, and show the best ones."""
        every, out = self.trials, self.out
        done = sorted((t for t in every if t.state.name == "COMPLETE"), key=lambda trial: -trial.value)
        rows = [{"trial": t.number, "state": t.state.name.lower(), "score": t.value, **t.params} for t in every]
        write_text(out / TRIALS, pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
        if not done:
            raise UserError(f"{out}: none of {len(every)} trials ended well; see {out / TRIALS}")
        write_config(out / BEST, _changed(self.config, done[0].params))
        names, others = list(done[0].params), len(every) - len(done)
        shown = [Row(str(t.number), [percent(t.value), *(_show(t.params[name]) for name in names)]) for t in done[:10]]
        title = f"best of {len(done)} trials by the validation score ({others} others given up or failed)"
        console.print(Table("trial", ["score", *map(Column, names)], shown, title=title).to_rich())
        said = f"written to {out / BEST}, {out / TRIALS}; the test split was not looked at"
        console.print(said, highlight=False, soft_wrap=True)
        return out / BEST


def _completed(values: Mapping[str, Any]) -> str:
    """A configuration as text, whether it was given complete or not, without where it is computed."""
    config = complete(TrainConfig(**present_names(dict(values))))
    return str(yaml.safe_dump({name: value for name, value in vars(config).items() if name not in PLACE}))


def _changed(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """A configuration with other values of fields, such as "lr" or "options.damping", completed."""
    changes: dict[str, Any] = {}
    for name, value in values.items():
        top, dot, rest = name.partition(".")
        changes[top] = {**changes.get(top, getattr(config, top)), rest: value} if dot else value
    return complete(dataclasses.replace(config, **changes))


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _value(text: str) -> Any:
    """A number as float, anything else as YAML has it."""
    try:
        return float(text)
    except ValueError:
        return load_yaml(text)


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation allows, but None."""
    if parts := get_args(annotation):
        return {kind for part in parts for kind in _kinds(part)} - {NoneType}
    return {type(annotation) if isinstance(annotation, str) else annotation}
