"""Bad datasets for `bad_input.py`: tables, images, archives and names; each with a command that reads it."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from bad_input_damage import NAMES, TEXTS, spoil, spoil_text, trap

CHECK = ("data", "check", "--image-size=8")
CLASSES = ("akiec", "bcc", "nv")


def picture(seed: int, kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (8, 8), **options: Any) -> bytes:
    """Encode random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


GOOD = [picture(seed) for seed in range(18)]


def bomb(width: int, height: int) -> bytes:
    """A PNG file whose header promises that many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def odd_picture(random: Random) -> bytes:
    """An image file of a kind that a loader may stumble over."""
    exif = Image.Exif()
    exif[0x0112] = random.choice((0, 3, 6, 8, 99))
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    animated, deep, real = io.BytesIO(), io.BytesIO(), io.BytesIO()
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(deep, "PNG")
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(real, "TIFF")
    kinds = [
        picture(1, "JPEG", "CMYK"),
        picture(1, "PNG", "RGBA"),
        picture(1, "PNG", "LA"),
        picture(1, "PNG", "P"),
        picture(1, "PNG", "1"),
        picture(1, "JPEG", exif=exif),
        picture(1, size=(1, 1)),
        picture(1, size=(1, 3000)),
        picture(1, "TIFF"),
        picture(1, "WEBP"),
        animated.getvalue(),
        deep.getvalue(),
        real.getvalue(),
        bomb(60_000, 60_000),
        bomb(2**31 - 1, 2**31 - 1),
        bomb(10_000, 10_000),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(crater) (w) file closefile\n%%EOF\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"P6 99999 99999 255\n",
        b"",
        random.randbytes(200),
    ]
    content = random.choice(kinds)
    return spoil(random, content) if random.random() < 0.5 else content


def folder_set(root: Path, names: tuple[str, ...] = ("a", "b"), files: str = "{}.png") -> Path:
    """Class folders with good images."""
    for number, content in enumerate(GOOD):
        place = root / names[number % len(names)]
        place.mkdir(parents=True, exist_ok=True)
        (place / files.format(number)).write_bytes(content)
    return root


def bad_image(random: Random, root: Path) -> list[str]:
    """One odd image, often under a wrong extension, or something that is no file at all."""
    folder_set(root)
    path = root / "a" / f"odd{random.choice(('.png', '.jpg', '.tif', '.gif', '.webp', '.jp2', '.PGM'))}"
    way = random.random()
    if way < 0.85:
        path.write_bytes(odd_picture(random))
    elif way < 0.90:
        os.mkfifo(path)
    else:
        path.symlink_to(random.choice(("/dev/zero", "nowhere", ".", "/", path.name)))
    return [*CHECK, f"folder:{root}"]


def bad_name(random: Random, root: Path) -> list[str]:
    """Classes and files with names that break tables, terminals or pages."""
    files = random.choice(NAMES).replace("{", "").replace("}", "")
    os.fsencode(files)
    return [*CHECK, f"folder:{folder_set(root, ('a', random.choice(NAMES)), '{}' + files[:200] + '.png')}"]


def bad_table(random: Random, root: Path) -> list[str]:
    """A CSV file with a wrong cell, header, encoding or label."""
    folder_set(root, ("img",))
    columns = ["path", "label", "group", "split", "age", "sex"]
    splits = ("train", "val", "test")
    rows = [[f"img/{n}.png", "xy"[n % 2], f"g{n // 2}", splits[n % 3], str(n), "f"] for n in range(len(GOOD))]
    for _ in range(random.choice((0, 1, 1, 2, 5))):
        rows[random.randrange(len(rows))][random.randrange(len(columns))] = random.choice(TEXTS)
    if random.random() < 0.3:
        columns[random.randrange(len(columns))] = random.choice((*TEXTS, *columns, " path"))
    if random.random() < 0.2:
        rows.append(random.choice(rows)[: random.randrange(8)] * random.choice((1, 2)))
    text = "\n".join(",".join(row) for row in [columns, *rows])
    raw = text.encode(errors="surrogateescape")
    table = root / "table.csv"
    table.write_bytes(spoil_text(random, text.encode(errors="replace").decode()) if random.random() < 0.4 else raw)
    return [*CHECK, f"csv:{table}", *(["--fold=1/2"] if random.random() < 0.2 else [])]


def bad_splits(random: Random, root: Path) -> list[str]:
    """A file of splits that is damaged, of other images, or no CSV."""
    folder_set(root / "img")
    ids = [f"{'ab'[n % 2]}/{n}.png" for n in range(len(GOOD))]
    text = "\n".join(["id,split", *(f"{name},{('train', 'val', 'test')[n % 3]}" for n, name in enumerate(ids))])
    path = root / random.choice(("s.csv", "s.csv", "s.zip", "s.csv.gz", "s.xz", "s.bz2", "s.zst", "s.tar"))
    path.write_bytes(spoil_text(random, text))
    return [*CHECK, f"folder:{root / 'img'}", f"--splits={path}"]


def bad_ham10000(random: Random, root: Path) -> list[str]:
    """HAM10000 with damaged metadata, or with its images in a damaged or hostile archive."""
    names = [f"ISIC_{n:07d}" for n in range(len(GOOD))]
    table = "lesion_id,image_id,dx,age,sex,localization\n"
    table += "\n".join(f"L{n},{name},{CLASSES[n % 3]},40,male,back" for n, name in enumerate(names))
    damaged = random.random() < 0.5
    (root / "HAM10000_metadata.csv").write_bytes(spoil_text(random, table) if damaged else table.encode())
    archive = root / "HAM10000_images_part_1.zip"
    method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(archive, "w", method) as file:
        for name, content in zip(names, GOOD, strict=True):
            prefix = random.choice(("", "", "../", "/", "../../../", "C:\\", "a/../../"))
            link = zipfile.ZipInfo(f"{prefix}{name}.jpg")
            if random.random() < 0.05:
                link.external_attr, content = 0o120777 << 16, b"/etc/passwd"
            file.writestr(link, content)
        if random.random() < 0.1:
            with file.open(f"{random.choice(TEXTS[1:])}{names[0]}.png".replace("\udcff", "?"), "w") as member:
                for _ in range(30):
                    member.write(bytes(10**7))
    if not damaged:
        archive.write_bytes(spoil(random, archive.read_bytes()))
    return [*CHECK, f"ham10000:{root}"]


def bad_npz(random: Random, root: Path) -> list[str]:
    """A MedMNIST file with wrong arrays, a pickle, a bomb, or damaged."""
    arrays: dict[str, Any] = {}
    for split, count in (("train", 12), ("val", 6), ("test", 6)):
        arrays[f"{split}_images"] = np.random.default_rng(count).integers(0, 256, (count, 8, 8), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count)[:, None] % 2
    name = random.choice(list(arrays))
    count = len(arrays[name])
    odd = [
        np.zeros((0,)),
        np.zeros((count, 0, 0), np.uint8),
        np.zeros((count, 8, 8, 8), np.uint8),
        np.full((count, 1), 2**63, np.uint64),
        np.full((count, 1), 2**40),
        np.full((count, 1), -1),
        np.full((count, 3), 1),
        np.full((count, 1), np.nan),
        np.array(["x"] * count),
        np.zeros((count, 8, 8), np.float32),
        np.zeros((), np.uint8),
        np.zeros((count, 8, 8), [("a", "u1"), ("b", "f4")]),
    ]
    path = root / "x.npz"
    if random.random() < 0.5:
        arrays[name] = random.choice(odd)
    save = np.savez_compressed if random.random() < 0.5 else np.savez
    save(path, **arrays)
    way = random.random()
    if way < 0.4:
        path.write_bytes(spoil(random, path.read_bytes()))
    elif way < 0.55:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for key, array in arrays.items():
                file.writestr(f"{key}.npy", npy_header((10**12,)) if key == name else npy(array))
    elif way < 0.6:
        path.write_bytes(trap(root / "crater", random.randrange(2, 6)))
    elif way < 0.7:
        with zipfile.ZipFile(path, "w") as file:
            for key, array in arrays.items():
                object_header = npy_header((1,), "|O") + trap(root / "crater")
                file.writestr(f"{key}.npy", object_header if key == name else npy(array))
    return [*CHECK, f"medmnist:{random.choice(('mine', 'pneumoniamnist', 'pathmnist'))}:{path}"]


def npy(array: np.ndarray) -> bytes:
    """An array as the bytes of an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def npy_header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    """The header of an .npy file, without the content that it promises."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


KINDS = {
    "image": bad_image,
    "name": bad_name,
    "table": bad_table,
    "splits": bad_splits,
    "ham10000": bad_ham10000,
    "npz": bad_npz,
}
