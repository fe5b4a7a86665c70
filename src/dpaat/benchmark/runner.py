"""The scheduler: cells side by side, each in processes of its own."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from tqdm.auto import tqdm

from dpaat.benchmark.executors import JOBS, Executor, Handle, Needs
from dpaat.benchmark.jobs import JobRun
from dpaat.benchmark.plans import arguments_of, digest
from dpaat.errors import Interrupted, listed
from dpaat.runs import LAST
from dpaat.storage import TRAINING, BusyError, locked
from dpaat.training.checkpointing import HANGUP, own_signals

LOG, ERRORS = "benchmark.log", "benchmark.err"
EVALUATION_DEVICES = {"cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "mps": "mps"}
PATIENCE = 15.0
"""Seconds that interrupted cells have to end by themselves before they are told to."""
PAUSE = 2.0
"""Seconds between two looks at cells that other processes work on."""
ATTEMPTS = 3
"""How often a cell is handed to an executor whose jobs get lost."""
BAR = "{desc} {percentage:3.0f}% |{bar}| {elapsed} < {remaining}"


class Runner:
    """Runs cells until each is finished or has failed.

    `workers` cells run side by side, each with `threads` (None shares the cores out); `splits` is the file of the split
    that a cell must take, by its name; others split the data themselves. Several runners may share a folder, also from
    several machines: each takes cells that no other works on, and comes back to the others at the end.

    With an `executor` every cell is a job of its own, which runs `command` for it: the arguments of a benchmark that
    computes one cell, but for the cell's name.
    """

    def __init__(
        self,
        *,
        workers: int,
        threads: int | None,
        splits: Mapping[str, Path] | None = None,
        executor: Executor | None = None,
        command: Sequence[str] = (),
        needs: Needs | None = None,
    ) -> None:
        self.workers, self.splits = workers, splits or {}
        self.executor, self.command, self.needs = executor, command, needs or Needs()
        per_cell = threads or max(1, count_cores() // workers)
        # Progress bars that nobody sees would fill the logs.
        self.environment = os.environ | {"OMP_NUM_THREADS": str(per_cell), "TQDM_MININTERVAL": "60"}
        self._live: set[subprocess.Popen[bytes]] = set()
        self._jobs: set[Handle] = set()
        self._failures: dict[JobRun, int] = {}
        self._stopping = False

    def run(self, cells: Sequence[JobRun], passes: Sequence[float], *, progress: bool = True) -> None:
        """Run cells that are not finished, in their order as far as several at a time have one.

        `passes` is the cost that each is expected to have, for the time left. Cells done, failures and the time left
        are shown on stderr; a line per cell if it is no terminal.
        """
        hidden = None if progress else True  # None: hidden where stderr is no terminal
        bar = tqdm(total=sum(passes), disable=hidden, leave=False, dynamic_ncols=True, smoothing=0, bar_format=BAR)
        self._failures = {cell: cell.record.get("failures", 0) for cell in cells}
        work = self._cell if self.executor is None else self._job
        waiting = dict(zip(cells, passes, strict=True))
        with bar, _told_to_end(), ThreadPoolExecutor(self.workers) as pool:
            left: dict[Future[bool], JobRun] = {}
            failed, again, told = 0, 0.0, False
            try:
                while waiting:
                    if time.monotonic() >= again:
                        left |= {pool.submit(work, cell): cell for cell in waiting if cell not in left.values()}
                        again = time.monotonic() + PAUSE
                    bar.set_description_str(_state(len(cells), len(waiting), failed))
                    done, _ = wait(left, timeout=1, return_when=FIRST_COMPLETED)
                    for future in done:
                        cell = left.pop(future)
                        if isinstance(future.exception(), BusyError):
                            continue
                        failed += not future.result()
                        bar.update(waiting.pop(cell))
                        if progress and bar.disable:
                            state = _state(len(cells), len(waiting), failed)
                            print(f"{time.strftime('%H:%M:%S')} {state}", file=sys.stderr, flush=True)
                    if waiting and not left:
                        if progress and not told:
                            names = listed(cell.cell.name for cell in waiting)
                            print(f"waits for other processes, which work on {names}", file=sys.stderr, flush=True)
                        told = True
                        time.sleep(max(0.0, again - time.monotonic()))
            except BaseException:
                self._stop(left)
                raise

    def _job(self, cell: JobRun) -> bool:
        """Have the executor do what is left of a cell, again if the job gets lost; False if it failed."""
        assert self.executor is not None
        folder, error = cell.folder.parents[1].resolve() / JOBS / cell.cell.name, None
        for _ in range(ATTEMPTS):
            if not self._stopping:
                handle = self.executor.submit([*self.command, "--only", cell.cell.name], folder, self.needs)
                self._jobs.add(handle)
                error = handle.wait()
                self._jobs.discard(handle)
            if self._stopping or cell.finished:
                return True
            if self._has_failed(cell):
                return False
        cell.folder.mkdir(parents=True, exist_ok=True)
        cell.failed(f"{ATTEMPTS} jobs ended without a result, the last one by: {error}; see {folder}")
        return False

    def _has_failed(self, cell: JobRun) -> bool:
        """Whether it has failed since this runner began, here or in another process."""
        return cell.record.get("failures", 0) > self._failures.get(cell, 0)

    def _cell(self, cell: JobRun) -> bool:
        """Do what is left of a cell; False if it failed. Raises `BusyError` where another process works on it."""
        lock = cell.folder.parent / f".{cell.cell.name}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock, busy=f"{cell.folder}: another process works on it"):
            if cell.folder.is_dir():  # a training may have outlived its benchmark
                with locked(cell.folder / TRAINING, busy=f"{cell.folder}: a training works in it"):
                    pass
            if self._stopping or cell.finished:
                return True
            if self._has_failed(cell):
                return False
            cell.begin(self.splits.get(cell.cell.name))
            error = None if cell.trained else self._train(cell)
            device = EVALUATION_DEVICES.get(cell.cell.config.accelerator, "auto")
            for plan in cell.cell.plans.all:
                if error is None and not cell.evaluated(plan):
                    error = self._step(cell, "evaluate", arguments_of(plan, cell.folder, device))
                    if error is None:
                        cell.note(evaluated=[*cell.record.get("evaluated", []), digest(plan)])
            if error is None:
                cell.note(status="finished", error=None)
            elif not self._stopping:
                cell.failed(error)
            return error is None

    def _train(self, cell: JobRun) -> str | None:
        cell.note(evaluated=[])
        arguments = ["train", "--resume", "--out", str(cell.folder)]
        error = self._step(cell, "train", arguments)
        if error is not None and str(cell.folder / LAST) in error:
            # Killed while it was writing the checkpoint: nothing is left to resume from.
            (cell.folder / LAST).unlink(missing_ok=True)
            error = self._step(cell, "train", arguments)
        return error

    def _step(self, cell: JobRun, kind: str, arguments: Sequence[str]) -> str | None:
        """Run one command of a cell and count its time; returns what it died of."""
        if self._stopping:
            return "interrupted"
        started = time.perf_counter()
        error = run_command(arguments, cell.folder, environment=self.environment, live=self._live)
        cell.spent(kind, time.perf_counter() - started)
        return None if error is None else f"{kind}: {error}"

    def _stop(self, left: Iterable[Future[bool]]) -> None:
        """End all cells: a terminal has told them already, other senders of the signal have not."""
        self._stopping = True
        for future in left:
            future.cancel()
        for job in [*self._jobs]:
            job.cancel()
        deadline = time.monotonic() + PATIENCE
        for process in [*self._live]:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            process.terminate()


def run_command(
    arguments: Sequence[str], folder: Path, *, environment: Mapping[str, str], live: set[subprocess.Popen[bytes]]
) -> str | None:
    """Run a command of this package in a process of its own, which is in `live` meanwhile.

    What it prints is kept in the folder. Returns the last line that it wrote on stderr if it failed, or the signal that
    killed it; None if it succeeded.
    """
    command = [sys.executable, "-m", "dpaat", *arguments]
    with (folder / LOG).open("ab") as log, (folder / ERRORS).open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=errors, env=environment)
        live.add(process)
        try:
            code = process.wait()
        finally:
            live.discard(process)
    if code == 0:
        return None
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    text = (folder / ERRORS).read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    return lines[-1].removeprefix("dpaat: error: ") if lines else f"ended with code {code}"


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _state(total: int, left: int, failed: int) -> str:
    return f"{total - left} of {total} cells done, {failed} failed"


@contextmanager
def _told_to_end() -> Iterator[None]:
    """Take SIGTERM, by which clusters end jobs, and a closed terminal for an interruption."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted("told to end; the same command goes on from here", 128 + number)

    with own_signals():
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, HANGUP):
                if signum is not None and signal.getsignal(signum) is not signal.SIG_IGN:
                    signal.signal(signum, stop)
        yield
