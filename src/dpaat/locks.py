"""Locks of files: they vanish with the process that holds them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dpaat.errors import UserError

TRAINING, RESULTS = ".training.lock", ".results.lock"
"""Files in a run folder: the one is held as long as its training lasts, the other while results are merged into it."""


@contextmanager
def locked(path: Path, *, busy: str = "", give_up: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold a lock; no other process, and no other thread, holds it meanwhile.

    Args:
        path: its file, in a folder that is there; it is left behind.
        busy: what to say where another holds it; if empty, wait for that one to end.
        give_up: asked while waiting; if it says so, go on without the lock.

    Raises:
        UserError: another holds it, or its place has no locks, as some network drives have not.
    """
    lock, told = FileLock(path), False
    try:
        while not give_up():
            try:
                lock.acquire(timeout=0 if busy else 0.5)
                break
            except Timeout:
                if busy:
                    raise UserError(busy) from None
                if not told:
                    print(f"dpaat: waits for the process that holds {path}", file=sys.stderr, flush=True)
                told = True
    except (OSError, NotImplementedError) as error:
        raise UserError(
            f"{path}: cannot be locked ({getattr(error, 'strerror', None) or error}); take a folder on a drive that "
            "has file locks and may be written"
        ) from None
    try:
        yield
    finally:
        lock.release()
