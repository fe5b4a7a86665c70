"""Executors: engines of a cluster that compute cells, behind one small interface."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from dpaat.errors import UserError, first_line
from dpaat.registry import VARIABLE

Kind = Literal["local", "submitit", "ray"]
JOBS = "jobs"
"""Folder of a benchmark where jobs leave what they print, one folder for each cell."""
HOURS = 8
"""Default time limit of a job; one that runs into it is queued again, and goes on."""


@dataclass(frozen=True)
class Needs:
    """Resources of a cell: cores, GPUs, and memory in GiB; None leaves the memory to the engine."""

    cores: int = 1
    gpus: int = 0
    memory: float | None = None

    def __post_init__(self) -> None:
        if self.cores < 1 or self.gpus < 0 or (self.memory is not None and self.memory <= 0):
            raise UserError("a cell needs at least 1 of --cores, 0 or more --gpus, and more than 0 GiB of --memory")


class Executor(Protocol):
    """An engine that runs commands of this package, on machines that see the same folders under the same names."""

    def submit(self, arguments: Sequence[str], folder: Path, needs: Needs) -> "Handle":
        """Have a command run; what it prints is kept in the folder. Returns at once."""


@dataclass(frozen=True)
class Command:
    """What runs on the other machine: `dpaat` with arguments, in the working directory of the benchmark."""

    arguments: Sequence[str]
    folder: Path
    directory: str = dataclasses.field(default_factory=os.getcwd)
    settings: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {name: os.environ[name] for name in (VARIABLE, "DPAAT_CACHE") if name in os.environ}
    )

    def __call__(self) -> str | None:
        """Run it; returns what it died of."""
        from dpaat.benchmark.runner import run_command

        os.chdir(self.directory)
        self.folder.mkdir(parents=True, exist_ok=True)
        return run_command(self.arguments, self.folder, environment=os.environ | self.settings, live=set())

    def checkpoint(self) -> Any:
        """What submitit queues in its place when its time is over: the same, which continues."""
        return import_module("submitit").helpers.DelayedSubmission(self)


@dataclass(frozen=True)
class Handle:
    """A cell that was handed over, by two functions of an engine."""

    result: Callable[[], str | None]
    cancel: Callable[[], object]  # ends it, from another thread

    def wait(self) -> str | None:
        """Wait until it has ended; returns what it died of, None if of nothing."""
        try:
            return self.result()
        except Exception as error:  # the engine's own: the job, its worker or its machine is gone
            return f"lost: {first_line(error)}"


class Submitit:
    """SLURM by way of submitit; options are those of `AutoExecutor`, such as `slurm_partition`, and `cluster`."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        submitit = _imported("submitit", "slurm")
        self.options = {"timeout_min": 60 * HOURS, **options}
        cluster = self.options.pop("cluster", "slurm")
        try:
            self.executor = submitit.AutoExecutor(folder=folder / "submitit", cluster=cluster)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"executor submitit: {first_line(error)}") from None

    def submit(self, arguments: Sequence[str], folder: Path, needs: Needs) -> Handle:
        """See `Executor`."""
        asked: dict[str, Any] = {"name": folder.name, "cpus_per_task": needs.cores, "gpus_per_node": needs.gpus}
        asked |= {} if needs.memory is None else {"mem_gb": needs.memory}
        try:
            self.executor.update_parameters(**asked | self.options)
            job = self.executor.submit(Command(arguments, folder))
        except (NameError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"executor submitit: {first_line(error)}") from None
        return Handle(job.result, job.cancel)


class Ray:
    """A Ray cluster; options are those of `ray.init`, such as `address`."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        self.ray = _imported("ray", "ray")
        if not self.ray.is_initialized():
            try:
                self.ray.init(**{"log_to_driver": False, **options})
            except (ConnectionError, TypeError, ValueError, RuntimeError) as error:
                raise UserError(f"executor ray: {first_line(error)}") from None

    def submit(self, arguments: Sequence[str], folder: Path, needs: Needs) -> Handle:
        """See `Executor`."""
        memory = None if needs.memory is None else int(needs.memory * 2**30)
        task = self.ray.remote(Command.__call__).options(
            name=folder.name, num_cpus=needs.cores, num_gpus=needs.gpus, memory=memory, max_retries=0
        )
        reference = task.remote(Command(arguments, folder))
        return Handle(lambda: self.ray.get(reference), lambda: self.ray.cancel(reference, force=True))


EXECUTORS: dict[str, Callable[[Path, Mapping[str, Any]], Executor]] = {"submitit": Submitit, "ray": Ray}


def make_executor(kind: Kind, out: Path, options: Mapping[str, Any]) -> Executor | None:
    """Make the engine of a benchmark's folder; None for "local", where the benchmark computes the cells itself.

    Raises UserError: the engine is not installed or not there, or refuses an option.
    """
    return None if kind == "local" else EXECUTORS[kind](out.resolve() / JOBS, options)


def _imported(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise UserError(f"executor {name} needs {name}: pip install 'dpaat[{extra}]'") from None
