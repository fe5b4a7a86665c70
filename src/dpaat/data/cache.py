"""Image cache: every image is decoded once, into a memory-mapped file named by its content."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import UnidentifiedImageError
from platformdirs import user_cache_path
from tqdm import tqdm

from dpaat.data.images import decode_image, decode_mask, pixel_kind, pixel_quantiles, require_same_aspect
from dpaat.data.table import ImageTable
from dpaat.data.values import AUTO, Quantiles, resolve_window, window_range
from dpaat.errors import UserError

# A change of how pixels are decoded has to change this, or old caches would be taken for new ones.
VERSION = 2
CHUNK = 64
DIGEST = 16
"""Bytes that identify the pixels of an image."""

T = TypeVar("T")


@dataclass(frozen=True)
class Survey:
    """What is known of a dataset's images before they are decoded.

    Attributes:
        digests: content digest of each row, hexadecimal.
        kinds: of the pixels of each row, see `dpaat.data.images.pixel_kind`.
        frames: number of frames in the file of each row.
        window: how values become grey levels, "full" or "LO,HI".
    """

    digests: list[str]
    kinds: list[str]
    frames: list[int]
    window: str


def survey(table: ImageTable, *, window: str = AUTO, known: Iterable[str] = (), progress: bool = True) -> Survey:
    """Read all images, and decide how their values become grey levels; see `resolve_window`.

    The contents are hashed each time, so that a changed file is never served from an old cache.

    Raises:
        UserError: an unreadable image, or values that need another window.
    """
    looks = list(in_threads(lambda row: look_at(table, row), len(table), "reading images", progress=progress))
    kinds = [kind for _, kind, _ in looks]
    resolved = resolve_window(window, kinds, quantiles_of(table, progress), spec=table.spec, known=known)
    return Survey([digest for digest, _, _ in looks], kinds, [frames for _, _, frames in looks], resolved)


def decode(
    table: ImageTable,
    *,
    image_size: int,
    fit: str,
    cache_dir: Path | None = None,
    progress: bool = True,
    known: Survey | None = None,
) -> tuple[np.ndarray, list[str], list[str]]:
    """Return all images of a table at one size, from the cache if they are there.

    The contents are hashed each time, so that a changed file is never served from an old cache, and so are the pixels
    that come from the cache: they must be those that were written there. Several processes may do this at once: each
    writes a file of its own and renames it when complete.

    Args:
        table: the dataset.
        image_size: side in pixels.
        fit: "crop" or "squash".
        cache_dir: default $DPAAT_CACHE, else the system's folder for caches, on Linux ~/.cache/dpaat; safe to delete.
        progress: show progress bars for what takes longer than a second.
        known: what `survey` found; None to do that here.

    Returns:
        images: (N, C, image_size, image_size) uint8, a read-only memory map.
        digests: content digest of each row, hexadecimal.
        pixels: digest of each decoded image, see `digest_pixels`.

    Raises:
        UserError: an unreadable image, or no room for the cache.
    """
    known = known or survey(table, progress=progress)
    digests, window = known.digests, window_range(known.window)
    shape = (len(table), table.channels, image_size, image_size)
    parts = (VERSION, shape, fit, digests) + (() if window is None else (window,))
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
    folder = cache_dir or _default_folder()
    path = folder / f"images-{image_size}-{fit}-{key}.npy"
    cached = _open(path, shape, progress)
    if cached is None:
        try:
            _write(path, table, shape, fit, window, progress)
        except OSError as error:
            raise UserError(
                f"cannot write the image cache in {folder} ({error}); set DPAAT_CACHE to a folder with room"
            ) from None
        cached = _open(path, shape, progress)
    if cached is None:
        raise UserError(f"the image cache {path} cannot be read back; set DPAAT_CACHE to another folder")
    images, pixels = cached
    return images, digests, pixels


def decode_masks(table: ImageTable, rows: np.ndarray, *, image_size: int, fit: str) -> np.ndarray | None:
    """Decode the lesion masks of some rows, see `PreparedData.masks`."""
    read_mask = table.read_mask
    if read_mask is None:
        return None

    def one(position: int) -> np.ndarray:
        row = int(rows[position])
        try:
            encoded = read_mask(row)
        except KeyError:
            return np.zeros((image_size, image_size), bool)
        except Exception as error:
            raise _unreadable(table, row, error, "mask of ") from None
        try:
            require_same_aspect(encoded, table.read(row))
            return decode_mask(encoded, size=image_size, fit=fit)
        except Exception as error:
            raise _unreadable(table, row, error, "mask of ") from None

    masks = np.zeros((len(rows), image_size, image_size), bool)
    for position, mask in enumerate(in_threads(one, len(rows), "decoding masks", progress=False)):
        masks[position] = mask
    return masks


def look_at(table: ImageTable, row: int) -> tuple[str, str, int]:
    """Digest the content of one image (the file's bytes, or shape and pixels); kind of its pixels; number of frames.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        content = table.read(row)
    except Exception as error:  # disks, archives and networks fail in many ways
        raise _unreadable(table, row, error) from None
    if isinstance(content, bytes):
        return hashlib.blake2b(content, digest_size=16).hexdigest(), *pixel_kind(content)
    header = f"{content.shape}{content.dtype}".encode()
    return hashlib.blake2b(header + content.tobytes(), digest_size=16).hexdigest(), *pixel_kind(content)


def digest_pixels(image: np.ndarray) -> str:
    """Digest a decoded image `(C, H, W)`, the same for a grey image and for its three equal channels."""
    grey = len(image) == 3 and np.array_equal(image[0], image[1]) and np.array_equal(image[0], image[2])
    return hashlib.sha256(np.ascontiguousarray(image[:1] if grey else image).data).hexdigest()[: 2 * DIGEST]


def quantiles_of(table: ImageTable, progress: bool) -> Quantiles:
    """Make the function that `resolve_window` asks for the values of images."""

    def quantiles(rows: np.ndarray, count: int) -> np.ndarray:
        def one(position: int) -> np.ndarray:
            row = int(rows[position])
            try:
                return pixel_quantiles(table.read(row), count)
            except Exception as error:
                raise _unreadable(table, row, error) from None

        return np.stack(list(in_threads(one, len(rows), "looking at values", progress=progress)))

    return quantiles


def decode_row(
    table: ImageTable, row: int, *, image_size: int, fit: str, window: tuple[float, float] | None = None
) -> np.ndarray:
    """Decode one image to (C, image_size, image_size) uint8.

    Raises:
        UserError: the image cannot be read, with the name of its file.
    """
    try:
        return decode_image(table.read(row), size=image_size, fit=fit, channels=table.channels, window=window)
    except Exception as error:  # Pillow's plugins raise whatever a malformed file makes them stumble over
        raise _unreadable(table, row, error) from None


def in_threads(function: Callable[[int], T], count: int, description: str, *, progress: bool) -> Iterator[T]:
    """Yield function(0), ..., function(count - 1) in order, computed by as many threads as there are cores."""

    def chunk(start: int) -> list[T]:
        return [function(row) for row in range(start, min(start + CHUNK, count))]

    hide = None if progress else True  # None: hidden where stderr is no terminal
    with (
        ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool,
        tqdm(total=count, desc=description, unit="img", disable=hide, delay=1, leave=False) as bar,
    ):
        try:
            for results in pool.map(chunk, range(0, count, CHUNK)):
                bar.update(len(results))
                yield from results
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _unreadable(table: ImageTable, row: int, error: Exception, what: str = "") -> UserError:
    if isinstance(error, UnidentifiedImageError):
        reason = "not an image in a known format"
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(
        f"cannot read {what}{table.describe(row)}: {reason}; replace the file or take it out "
        f"(`dpaat data check {table.spec}` lists all such files)"
    )


def _default_folder() -> Path:
    chosen = os.environ.get("DPAAT_CACHE")
    try:
        return Path(chosen or user_cache_path("dpaat")).expanduser()
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
    pixels = list(in_threads(lambda row: digest_pixels(images[row]), len(images), "checking images", progress=progress))
    if "".join(pixels) == written.hex():
        return images, pixels
    warnings.warn(f"the image cache {path} was damaged; its images are decoded anew", stacklevel=2)
    return None


def _write(
    path: Path, table: ImageTable, shape: tuple[int, ...], fit: str, window: tuple[float, float] | None, progress: bool
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A memory map that outgrows the disk kills the process without a word, so room is looked for first.
    needed, free = int(np.prod(shape)), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        if hasattr(os, "posix_fallocate"):  # others may fill the disk meanwhile
            with temporary.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)

        def fill(row: int) -> str:
            images[row] = decode_row(table, row, image_size=shape[-1], fit=fit, window=window)
            return digest_pixels(images[row])

        pixels = list(in_threads(fill, shape[0], "decoding images", progress=progress))
        images.flush()
        with temporary.open("ab") as end:  # behind the array, where NumPy does not look
            end.write(bytes.fromhex("".join(pixels)))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
