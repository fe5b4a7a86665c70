"""Image files in folders and in zip archives, addressed alike."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from dpaat.data.images import header_channels
from dpaat.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".jp2", ".pgm", ".ppm"})


MAX_BYTES = 2**29
"""Of one encoded image: far above real ones, and a bound on what a crafted archive can unpack to."""


@lru_cache(maxsize=64)
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    # Keyed by process: a forked child that shared the parent's file offset would read rubbish.
    return zipfile.ZipFile(path)


@dataclass(frozen=True)
class ImageFile:
    """One image: a file, or a member of a zip archive."""

    path: Path
    member: str | None = None

    def read(self) -> bytes:
        """Return the encoded bytes.

        Raises:
            ValueError: a device, a pipe or the like, which might never end; or more than `MAX_BYTES`.
        """
        if self.member is None:
            if not self.path.is_file():
                raise ValueError("not a file" if self.path.exists() else "no such file")
            _check_size(self.path.stat().st_size)
            return self.path.read_bytes()
        archive = _archive(self.path, os.getpid())
        # What is unpacked never exceeds the size that the archive states.
        _check_size(archive.getinfo(self.member).file_size)
        return archive.read(self.member)

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"


@dataclass(frozen=True)
class FileReader:
    """Row number to image, for a table whose row i is the i-th file; None where a row has no file."""

    files: tuple[ImageFile | None, ...]

    def __call__(self, row: int) -> bytes:
        """Return the encoded bytes; raise KeyError if the row has no file."""
        file = self.files[row]
        if file is None:
            raise KeyError(row)
        return file.read()

    def describe(self, row: int) -> str:
        """Return the name to show for a row."""
        return str(self.files[row])


def is_image_name(name: str) -> bool:
    """Whether a file name looks like an image; hidden files and macOS's `._` twins do not."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not PurePosixPath(name).name.startswith(".")


def images_below(folder: Path) -> Iterator[Path]:
    """Yield the image files of a folder and its sub-folders, in the order of their names."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent) / name for name in sorted(names) if is_image_name(name))


def images_in_zip(path: Path) -> Iterator[ImageFile]:
    """Yield the images in a zip archive.

    Raises:
        UserError: not a readable archive.
    """
    try:
        names = _archive(path, os.getpid()).namelist()
    except Exception as error:  # damaged archives fail in many ways
        raise UserError(f"{path}: not a readable zip archive ({error}); download it again") from None
    yield from (ImageFile(path, name) for name in names if is_image_name(name) and "__MACOSX" not in name)


def by_stem(files: Iterable[ImageFile]) -> dict[str, ImageFile]:
    """Index images by file name without folder and suffix; of several, the first counts."""
    index: dict[str, ImageFile] = {}
    for file in files:
        index.setdefault(PurePosixPath(file.member or file.path.as_posix()).stem, file)
    return index


def existing(argument: str, spec: str, *, kind: str, scheme: str) -> Path:
    """Turn the path in a spec into one that exists.

    Args:
        argument: the path as written; `~` is the home folder.
        spec: the whole spec, for the message.
        kind: "folder" or "file", which it has to be.
        scheme: how the spec is to be written, for the message.

    Raises:
        UserError: no path, no such path, or not of that kind.
    """
    if not argument:
        raise UserError(f"{spec!r} names no {kind}; write {scheme}")
    path = home_path(argument)
    try:
        found = path.exists()
    except OSError:  # a name longer than the file system allows
        found = False
    if not found:
        raise UserError(f"{spec}: no such {kind}: {path}")
    if not (path.is_dir() if kind == "folder" else path.is_file()):
        raise UserError(f"{spec}: {path} is not a {kind}; write {scheme}")
    return path


def home_path(text: str) -> Path:
    """Read a path in which `~` is the home folder, where there is one."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def is_file(path: Path) -> bool:
    """Whether there is such a file; also for names that no file can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"{size / 1e6:,.0f} MB are too many for an image")


def peek_channels(files: Sequence[ImageFile]) -> int:
    """Return 1 if all images are grey by their headers, else 3."""
    with ThreadPoolExecutor() as pool:
        return 3 if 3 in pool.map(header_channels, [file.path for file in files]) else 1
