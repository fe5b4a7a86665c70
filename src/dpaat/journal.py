"""Finished pieces of long work, kept on disk: of an evaluation until the whole is done, of data for the next time."""

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from dpaat.storage import replacing, writing

Arrays = dict[str, np.ndarray]


class Journal:
    """Remembers what has been computed, so that an interrupted evaluation goes on where it stopped.

    Every piece is a file of its own: a process that is killed loses the piece it was computing and no other.
    The name of `folder` must tell everything that the pieces depend on; None keeps nothing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def __call__(self, key: str, compute: Callable[[], Arrays]) -> Arrays:
        """Look a piece up, or compute and keep it; raises UserError if the folder cannot be written."""
        if self.folder is None:
            return compute()
        path = self._path(key)
        try:
            with np.load(path, allow_pickle=False) as content:
                return dict(content)
        except Exception:  # not there, cut off, or damaged in one of the many ways of archives
            pass
        arrays = compute()
        with writing(self.folder, "results cannot be written there"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
        return arrays

    def within(self, name: str) -> "Journal":
        """A journal for a part of the evaluation, whose keys mean something else."""
        return Journal(None if self.folder is None else self.folder / name)

    def holds(self, key: str) -> bool:
        """Whether a piece has been computed before."""
        return self.folder is not None and self._path(key).is_file()

    def drop(self, key: str) -> None:
        """Forget a piece."""
        if self.folder is not None:
            self._path(key).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget everything: the evaluation is done."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):  # others' pieces may be beside
                self.folder.parent.rmdir()

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
