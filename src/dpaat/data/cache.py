"""Image cache: every image is decoded once, into a memory-mapped file named by its content."""

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import UnidentifiedImageError
from platformdirs import user_cache_path
from tqdm import tqdm

from dpaat.data.files import FileReader, marks_of
from dpaat.data.images import Reading, decode_image, pixel_kind, pixel_quantiles, require_same_aspect
from dpaat.data.table import Encoded, ImageTable
from dpaat.data.values import AUTO, resolve_window, window_range
from dpaat.errors import UserError
from dpaat.journal import Arrays, Journal

VERSION = 2  # a change of how pixels are decoded has to change this, or old caches would be taken for new ones
VERIFY = "DPAAT_VERIFY"  #: Environment variable: look at contents again, whatever sizes and times say
LOOKS = ("digests", "kinds", "frames")
CHUNK = 64
DIGEST = 16  # bytes that identify the pixels of an image
T = TypeVar("T")


class UnreadableError(UserError):
    """An image or a mask that cannot be read, with the name of its file; `reason` says why."""

    def __init__(self, table: ImageTable, row: int, error: Exception, what: str = "") -> None:
        self.reason = reason_of(error)
        super().__init__(
            f"cannot read {what}{table.describe(row)}: {self.reason}; replace the file or take it out "
            f"(`dpaat data check {table.spec}` lists all such files)"
        )


def reason_of(error: Exception) -> str:
    """Why an image cannot be read, in one line; Pillow's own for what is no image names an object in memory."""
    unknown = isinstance(error, UnidentifiedImageError)
    return "not an image in a known format" if unknown else " ".join(str(error).split()) or type(error).__name__


def of_image(table: ImageTable, function: Callable[[Encoded], T], row: int) -> T:
    """Apply a function to the encoded image of a row; raises UnreadableError, whatever went wrong."""
    try:
        return function(table.read(row))
    except Exception as error:  # disks, archives, networks and Pillow's plugins fail in many ways
        raise UnreadableError(table, row, error) from None


def of_mask(table: ImageTable, function: Callable[[Encoded], T], row: int) -> T | None:
    """Apply a function to the encoded mask of a row, which must fit its image; None without one; else as `of_image`."""
    assert table.read_mask is not None
    try:
        try:
            mask = table.read_mask(row)
        except KeyError:
            return None
        require_same_aspect(mask, table.read(row))
        return function(mask)
    except Exception as error:  # as above
        raise UnreadableError(table, row, error, "mask of ") from None


class Survey(NamedTuple):
    """What is known of a dataset's images before they are decoded."""

    digests: Sequence[str]  # of the content of each, hexadecimal
    kinds: Sequence[str]  # of the pixels of each, see `pixel_kind`
    frames: Sequence[int]  # in the file of each
    window: str  # how values become grey levels, "full" or "LO,HI"


def survey(
    table: ImageTable,
    *,
    window: str = AUTO,
    known: Iterable[str] = (),
    cache_dir: Path | None = None,
    progress: bool = True,
) -> Survey:
    """Read all images, and decide how their values become grey levels; see `resolve_window`.

    The contents are hashed, so that a changed file is never served from an old cache; files whose path, size and times
    are as they were need not be read again, see `remembered`. Raises UserError for an unreadable image, or values that
    need another window.
    """

    def look() -> Arrays:
        about = f"hashing {len(table):,} files"
        looks = in_threads(partial(of_image, table, look_at), len(table), about, progress=progress)
        return {name: np.array(column) for name, column in zip(LOOKS, zip(*looks, strict=True), strict=True)}

    marks = table.read.marks() if isinstance(table.read, FileReader) else None
    found = look() if marks is None else remembered(("look", marks), look, cache_dir)
    digests, kinds, frames = (found[name].tolist() for name in LOOKS)
    resolved = resolve_window(window, kinds, partial(quantiles, table, progress), spec=table.spec, known=known)
    return Survey(digests, kinds, frames, resolved)


def remembered(key: object, compute: Callable[[], Arrays], cache_dir: Path | None) -> Arrays:
    """Look arrays up that were computed before, or compute and keep them; with $DPAAT_VERIFY compute them anew."""
    memory, text = Journal((cache_dir or _default_folder()) / "known"), repr((VERSION, key))
    if os.environ.get(VERIFY):
        memory.drop(text)
    return memory(text, compute)


def decode(
    table: ImageTable,
    known: Survey,
    *,
    image_size: int,
    fit: str,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> tuple[np.ndarray, list[str]]:
    """Return all images at one size, (N, C, H, W) uint8 in a read-only memory map, and the `digest_pixels` of each.

    The pixels that come from the cache are hashed, once while the file stays as it is: they must be those that were
    written there. Several processes may do this at once: each writes a file of its own and renames it when complete.
    The cache lies in `cache_dir`, else $DPAAT_CACHE, else the system's folder for caches, and is safe to delete. Raises
    UserError for an unreadable image, or no room for the cache.
    """
    window = window_range(known.window)
    shape = (len(table), table.channels, image_size, image_size)
    parts = (VERSION, shape, fit, list(known.digests)) + (() if window is None else (window,))
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
    folder = cache_dir or _default_folder()
    path = folder / f"images-{image_size}-{fit}-{key}.npy"
    if (cached := _open(path, shape, progress)) is None:
        try:
            _write(path, table, shape, fit, window, progress)
        except OSError as error:
            raise UserError(
                f"cannot write the image cache in {folder} ({error}); set DPAAT_CACHE to a folder with room"
            ) from None
        cached = _open(path, shape, progress)
    if cached is None:
        raise UserError(f"the image cache {path} cannot be read back; set DPAAT_CACHE to another folder")
    return cached


def look_at(content: Encoded) -> tuple[str, str, int]:
    """Digest of an image's content, kind of its pixels, number of frames.

    The content is the file's bytes and the frame that is meant, or shape and pixels.
    """
    head = getattr(content, "frame", "") if isinstance(content, bytes) else f"{content.shape}{content.dtype}"
    whole = content if isinstance(content, bytes) else content.tobytes()
    return hashlib.blake2b(head.encode() + whole, digest_size=16).hexdigest(), *pixel_kind(content)


def digest_pixels(image: np.ndarray) -> str:
    """Digest a decoded image `(C, H, W)`, the same for a grey image and for its three equal channels."""
    grey = len(image) == 3 and np.array_equal(image[0], image[1]) and np.array_equal(image[0], image[2])
    return hashlib.sha256(np.ascontiguousarray(image[:1] if grey else image).data).hexdigest()[: 2 * DIGEST]


def quantiles(table: ImageTable, progress: bool, rows: np.ndarray, count: int) -> np.ndarray:
    """Quantiles of the values of some images, see `pixel_quantiles`: what `resolve_window` asks for."""
    one = partial(of_image, table, partial(pixel_quantiles, count=count))
    found = in_threads(lambda position: one(int(rows[position])), len(rows), "looking at values", progress=progress)
    return np.stack(list(found))


def decoder(table: ImageTable, size: int, fit: str, window: Reading) -> Callable[[int], np.ndarray]:
    """Make the function from a row to its image, (C, size, size) uint8; it raises UnreadableError."""
    return partial(of_image, table, partial(decode_image, size=size, fit=fit, channels=table.channels, window=window))


def in_threads(function: Callable[[int], T], count: int, description: str, *, progress: bool) -> Iterator[T]:
    """Yield function(0), ..., function(count - 1) in order, computed by as many threads as there are cores."""
    chunks = (range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))
    hide = None if progress else True  # None: hidden where stderr is no terminal
    with (
        ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool,
        tqdm(total=count, desc=description, unit="img", disable=hide, delay=0.4, leave=False) as bar,
    ):
        try:
            for results in pool.map(lambda rows: [*map(function, rows)], chunks):
                bar.update(len(results))
                yield from results
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _default_folder() -> Path:
    try:
        return Path(os.environ.get("DPAAT_CACHE") or user_cache_path("dpaat")).expanduser()
    except RuntimeError:
        raise UserError("there is no home folder for the image cache; set DPAAT_CACHE to a folder") from None


def _open(path: Path, shape: tuple[int, ...], progress: bool) -> tuple[np.ndarray, list[str]] | None:
    """Images of the cache and their digests; None where they are absent or not what was written there."""
    try:
        images = np.lib.format.open_memmap(path, mode="r")
        with path.open("rb") as file:
            file.seek(images.offset + images.nbytes)
            written = file.read()
    except (OSError, ValueError, EOFError):
        return None  # absent, or cut short by a full disk: written anew
    if images.shape != shape or images.dtype != np.uint8 or len(written) != shape[0] * DIGEST:
        return None
    pixels = [written[start : start + DIGEST].hex() for start in range(0, len(written), DIGEST)]

    def check() -> Arrays:
        rows = in_threads(lambda row: digest_pixels(images[row]), len(images), "checking images", progress=progress)
        return {"whole": np.array(list(rows) == pixels)}

    marks = marks_of([path])
    if (check() if marks is None else remembered(("pixels", marks), check, path.parent))["whole"]:
        return images, pixels
    warnings.warn(f"the image cache {path} was damaged; its images are decoded anew", stacklevel=2)
    return None


def _write(path: Path, table: ImageTable, shape: tuple[int, ...], fit: str, window: Reading, progress: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A memory map that outgrows the disk kills the process without a word, so room is looked for first.
    needed, free = int(np.prod(shape)), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")
    decoded = decoder(table, shape[-1], fit, window)

    def fill(row: int) -> str:
        images[row] = decoded(row)
        return digest_pixels(images[row])

    with tempfile.TemporaryDirectory(".tmp", f".{path.stem}-", path.parent, ignore_cleanup_errors=True) as folder:
        temporary = Path(folder) / path.name
        temporary.touch(0o600)  # images of patients
        images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        if hasattr(os, "posix_fallocate"):  # others may fill the disk meanwhile
            with temporary.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        pixels = list(in_threads(fill, shape[0], "decoding images", progress=progress))
        images.flush()
        with temporary.open("ab") as end:  # behind the array, where NumPy does not look
            end.write(bytes.fromhex("".join(pixels)))
        temporary.replace(path)
