"""Files that are replaced as a whole or not at all, JSON in them, and locks that vanish with their process."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dpaat.errors import UserError
from dpaat.validation import load_json


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises UserError: not readable as such."""
    try:
        content = load_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object; a reader never sees half of it."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file; a reader never sees half of it."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


@contextmanager
def writing(path: Path, said: str = "cannot be written", remedy: str = "") -> Iterator[None]:
    """Say in one line, as a UserError, that a file or folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {said} ({error.strerror or error}){remedy}") from None


def refuse_overwriting(path: Path, begins: str, option: str = "--out") -> None:
    """Raise UserError where a file would be lost that is no earlier output: it neither begins so nor is empty."""
    with suppress(OSError), path.open("rb") as file:  # that it cannot be read is said where it is written
        if (found := file.read(len(begins))) and found != begins.encode():
            raise UserError(f"{path}: holds something else, which would be lost; choose another {option}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file as a whole: it is written under a temporary name beside it, synced to disk and renamed.

    Where the writing fails, `path` stays as it was and nothing is left beside it. Yields the name to write to; it
    begins with a dot, so that readers of a folder of Parquet parts skip it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder; no other process may be writing there."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


class BusyError(UserError):
    """Another process or thread holds a lock."""


TRAINING, RESULTS = ".training.lock", ".results.lock"
"""Files in a run folder: the one is held as long as its training lasts, the other while results are merged into it."""


@contextmanager
def locked(path: Path, *, busy: str = "") -> Iterator[None]:
    """Hold a lock that no other process and no other thread holds meanwhile; its file is left behind.

    Where another holds it, `BusyError` says `busy`; if that is empty, wait. UserError too for a place without locks, as
    some network drives are.
    """
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0 if busy else 0.5)
        except Timeout:
            if busy:
                raise BusyError(busy) from None
            print(f"dpaat: waits for the process that holds {path}", file=sys.stderr, flush=True)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise UserError(
            f"{path}: cannot be locked ({getattr(error, 'strerror', None) or error}); take a folder on a drive that "
            "has file locks and may be written"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
