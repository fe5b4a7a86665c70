"""Locks of files: they vanish with the process that holds them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dpaat.errors import UserError


class BusyError(UserError):
    """Another process or thread holds a lock."""


TRAINING, RESULTS = ".training.lock", ".results.lock"
"""Files in a run folder: the one is held as long as its training lasts, the other while results are merged into it."""


@contextmanager
def locked(path: Path, *, busy: str = "", give_up: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold a lock that no other process and no other thread holds meanwhile; its file is left behind.

    Where another holds it, `BusyError` says `busy`; if that is empty, wait, or go on without once `give_up` says so.
    UserError too for a place without locks, as some network drives are.
    """
    lock, told = FileLock(path), False
    try:
        while not give_up():
            try:
                lock.acquire(timeout=0 if busy else 0.5)
                break
            except Timeout:
                if busy:
                    raise BusyError(busy) from None
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
