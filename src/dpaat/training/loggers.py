"""Experiment trackers: Lightning's own loggers, which see what `metrics.csv` holds and change nothing of a run."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch import loggers
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.seed import isolate_rng

from dpaat.config import LOGGERS, TrainConfig
from dpaat.errors import UserError, first_line

_CALLED = ("log_metrics", "log_hyperparams", "save", "finalize")


def make_loggers(config: TrainConfig, out: Path, ids: Mapping[str, str], warn: Callable[[str], None]) -> list[Logger]:
    """Make the trackers of a run, which begin at their first use.

    `ids` are what trackers call this run, if it was begun before; `warn` is called once where a tracker fails later,
    which is then left alone, and the run goes on. Raises UserError for a tracker whose library is not installed, or
    that cannot be where it is told to.
    """
    made = []
    for name in config.loggers:
        if (module := LOGGERS[name]) and find_spec(module) is None:
            raise UserError(f"logger: {name} is not installed: pip install 'dpaat[{name}]'")
        try:
            logger = _make(name, out, ids.get(name))
        except Exception as error:
            raise _refused(name, error) from None
        _shield(name, logger, warn)
        made.append(logger)
    return made


def _refused(name: str, error: Exception) -> UserError:
    return UserError(f"logger: {name} does not start: {first_line(error)}")


def _make(name: str, out: Path, run_id: str | None) -> Logger:
    if name == "tensorboard":
        return loggers.TensorBoardLogger(out, name="", version="tensorboard")
    if name == "csv":  # a folder for each start: this logger drops the rows of earlier ones
        return loggers.CSVLogger(out, name="csv", flush_logs_every_n_steps=1)
    if name == "wandb":
        import wandb

        project = os.environ.get("WANDB_PROJECT", "dpaat")
        settings = wandb.Settings(console="off")  # what is printed names samples
        return loggers.WandbLogger(name=out.name, save_dir=out, id=run_id, project=project, settings=settings)
    import mlflow

    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "dpaat")
    uri = os.environ.get("MLFLOW_TRACKING_URI") or mlflow.get_tracking_uri()  # which keeps that of an earlier run
    return loggers.MLFlowLogger(experiment, run_name=out.name, tracking_uri=uri, run_id=run_id)


def _shield(name: str, logger: Logger, warn: Callable[[str], None]) -> None:
    """Keep a tracker's use of random numbers and its failures away from the run."""
    failed = False

    def shielded(method: Callable[..., Any]) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            nonlocal failed
            if failed:
                return
            try:
                with isolate_rng():
                    method(*args, **kwargs)
            except Exception as error:
                failed = True
                warn(f"{name} takes no more of this run: {first_line(error)}; metrics.csv holds all of it")

        return call

    for called in _CALLED:
        setattr(logger, called, shielded(getattr(logger, called)))


@contextmanager
def started(made: list[Logger], config: TrainConfig, ids: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Start the trackers, tell new ones the configuration, and in the end finish the W&B run that was started here.

    Yields what each tracker that others may look at calls this run, by its name. Raises UserError: a tracker that does
    not start.
    """
    own = None
    found = {}
    for name, logger in zip(config.loggers, made, strict=True):
        try:
            with isolate_rng():
                if name == "wandb":
                    import wandb

                    own = wandb.run is None  # else of a sweep, or of the caller
                if name in ("wandb", "mlflow"):
                    _ = logger.experiment  # type: ignore[attr-defined]
                    found[name] = str(logger.version)
        except Exception as error:
            raise _refused(name, error) from None
        if name not in ids and name != "csv":  # which has no place for them
            logger.log_hyperparams(vars(config))
    code = 1
    try:
        yield found
        code = 0
    finally:
        if own:
            wandb.finish(exit_code=code)


def tracked_name(logger: Logger, name: str) -> str:
    """A metric's name as the tracker takes it: MLflow knows fewer characters, and one level of groups."""
    if not isinstance(logger, loggers.MLFlowLogger):
        return name
    group, slash, rest = name.partition("/")
    return group + slash + re.sub(r"[^\w.\- :]", "_", rest)
