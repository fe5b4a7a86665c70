"""Image files in folders and in zip archives, addressed alike."""

import os
import re
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from dpaat.data.frames import is_windows_path
from dpaat.data.images import SUFFIXES, peek, pixel_kind
from dpaat.data.patients import Patient
from dpaat.data.scan import file_format, framed
from dpaat.errors import UserError, listed

# What operating systems and their programs put beside a user's files.
JUNK = frozenset(
    {"__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db"}
    | {"ehthumbs.db", "desktop.ini", "icon\r", "dicomdir"}
)
YOUNG = 2.0  # seconds since a file was written, within which another change may leave its times as they are
MAX_BYTES = 2**29  # of one encoded image: far above real ones, and a bound on what a crafted archive can unpack to


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
        """Return the encoded bytes; ValueError for a device, a pipe or the like, or more than `MAX_BYTES`."""
        if self.member is None and not self.path.is_file():
            raise ValueError("not a file" if self.path.exists() else "no such file")
        size = self.size()
        if size > MAX_BYTES:
            raise ValueError(f"{size / 1e6:,.0f} MB are too many for an image")
        return self.path.read_bytes() if self.member is None else _archive(self.path, os.getpid()).read(self.member)

    def size(self) -> int:
        """Number of encoded bytes; what is unpacked never exceeds the size that its archive states."""
        if self.member is None:
            return self.path.stat().st_size
        return _archive(self.path, os.getpid()).getinfo(self.member).file_size

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"


@dataclass(frozen=True)
class FileReader:
    """Row number to encoded image; a class, so that a table can be pickled."""

    files: Sequence[ImageFile | None]
    frame: str = ""  # of files that hold several
    stacks: bool = False  # whether it is meant of files that hold several only

    def __call__(self, row: int) -> bytes:
        """Return the encoded bytes; KeyError for a row that has no file."""
        file = self.files[row]
        if file is None:
            raise KeyError(row)
        content = file.read()
        return content if self.stacks and pixel_kind(content)[1] == 1 else framed(content, self.frame)

    def describe(self, row: int) -> str:
        """Return the name to show for a row."""
        return str(self.files[row])

    def marks(self) -> str | None:
        """What tells these files from others without reading them, see `marks_of`."""
        marks = marks_of([file.path for file in self.files if file is not None])
        return marks and repr((self.frame, [file and file.member for file in self.files], marks))

    @property
    def notes(self) -> tuple[str, ...]:
        """Says which frame is read where a spec says so."""
        return (f"of a file of several frames or slices, this one is read: {self.frame}",) if self.frame else ()

    def peek(self) -> tuple[int, list[Patient | None]]:
        """Return 1 if all images are grey by their headers, else 3; and whose each is, where it says so."""
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(peek, [file.path for file in self.files if file is not None]))
        return max(channels for channels, _ in found), [whose for _, whose in found]


def marks_of(paths: Sequence[Path]) -> str | None:
    """Path, size and times of files; None where one is absent, or so young that its next change might not show."""
    try:
        found = {path: os.stat(path) for path in dict.fromkeys(paths)}  # noqa: PTH116 - ten thousand of them
    except OSError:
        return None
    if max((stat.st_mtime for stat in found.values()), default=0.0) > time.time() - YOUNG:
        return None
    stats = [(str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in found.items()]
    return repr((stats, [str(path) for path in paths] if len(stats) < len(paths) else None))


def is_junk(name: str) -> bool:
    """Whether a file or folder is not the user's: macOS's twins `._NAME`, thumbnails, hidden folders."""
    return name.startswith(".") or name.lower() in JUNK


def is_image_name(name: str) -> bool:
    """Whether a file name looks like an image that can be read."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not is_junk(name.rpartition("/")[2])  # noqa: PTH122 - fast


def is_image_file(path: Path) -> bool:
    """Whether a file looks like an image that can be read: by its name, or for DICOM and NIfTI by its content."""
    return is_image_name(path.name) or (not is_junk(path.name) and file_format(path) != "")


def files_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the images in a folder and its sub-folders in the order of their names, and what else is there.

    Links are followed; a folder that is linked twice is listed once, and a link to a folder around this one leads
    nowhere. What the operating system put there does not count.
    """
    images: list[Path] = []
    others: list[Path] = []
    seen = {str(parent) for parent in folder.resolve().parents}
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_junk(name))
        for name in sorted(names):
            path = Path(parent) / name
            if is_image_file(path):
                images.append(path)
            elif not is_junk(name) or (not name.startswith("._") and PurePosixPath(name).suffix.lower() in SUFFIXES):
                others.append(path)
    return images, others


def left_out(others: Sequence[Path], root: Path) -> tuple[str, ...]:
    """Say which files are left out since they are no images that can be read; nothing where there are none."""
    if not others:
        return ()
    names = [path.relative_to(root).as_posix() if path.is_relative_to(root) else path for path in others]
    one, many = "file that is no image that can be read is", "files that are no images that can be read are"
    return (f"{len(names)} {one if len(names) == 1 else many} left out: {listed(names)}",)


def images_in_zip(path: Path) -> Iterator[ImageFile]:
    """Yield the images in a zip archive; UserError for what is none."""
    try:
        names = _archive(path, os.getpid()).namelist()
    except Exception as error:  # damaged archives fail in many ways
        raise UserError(f"{path}: not a readable zip archive ({error}); download it again") from None
    own = (name for name in names if not any(map(is_junk, PurePosixPath(name).parts)))
    yield from (ImageFile(path, name) for name in own if is_image_name(name))


def by_stem(files: Iterable[ImageFile]) -> dict[str, ImageFile]:
    """Index images by file name without folder and suffix; UserError for two of one name whose sizes differ."""
    index: dict[str, ImageFile] = {}
    for file in files:
        name = file.path.name if file.member is None else file.member.rpartition("/")[2]
        stem = name.rpartition(".")[0] or name
        known = index.setdefault(stem, file)
        if known is not file and known.size() != file.size():
            raise UserError(f"{stem}: two different images of this name, {known} and {file}; move one away")
    return index


def existing(argument: str, spec: str, *, kind: str, scheme: str) -> Path:
    """Turn the path in a spec into one that exists; UserError if it is not there, or no "folder" or "file" as asked.

    `scheme` is how the spec is to be written, for the message.
    """
    if not argument:
        raise UserError(f"{spec!r} names no {kind}; write {scheme}")
    path = home_path(argument)
    if not exists(path):
        advice, slashed = "", argument.replace("\\", "/")
        if is_windows_path(argument):
            wsl = f"/mnt/{argument[0].lower()}/{slashed[3:]}"
            advice = f"; this is a path of Windows, write it as this system does (WSL: {wsl})"
        elif slashed != argument and home_path(slashed).exists():
            advice = f"; did you mean {slashed}?"
        raise UserError(f"{spec}: no such {kind}: {path}{advice}")
    if not (path.is_dir() if kind == "folder" else path.is_file()):
        raise UserError(f"{spec}: {path} is not a {kind}; write {scheme}")
    return path


def located(folder: Path, name: str) -> Path:
    """Find a file that a table names, relative to the table's folder; backslashes divide folders where need be."""
    path, slashed = folder / home_path(name), folder / home_path(name.replace("\\", "/"))
    return slashed if slashed != path and not is_file(path) and is_file(slashed) else path


def home_path(text: str) -> Path:
    """Read a path in which `~` is the home folder, where there is one."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; also for names that none can have."""
    return os.path.exists(path)  # noqa: PTH110 - which raises for a name longer than the file system allows


def is_file(path: Path) -> bool:
    """Whether there is such a file; also for names that no file can have."""
    return os.path.isfile(path)  # noqa: PTH113 - likewise


def parse_spec(argument: str, usual: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Take `,NAME=VALUE` off the end of a spec, of the names in `usual`, which has what else they are.

    UserError for a name that is given twice.
    """
    found: dict[str, Any] = {}
    while match := re.fullmatch(f"(.*),({'|'.join(usual)})=([^,]*)", argument, re.DOTALL):
        argument, name, value = match.groups()
        if name in found:
            raise UserError(f"{name}={value}: {name} is given twice; give it once")
        found[name] = value
    return argument, {**usual, **found}
