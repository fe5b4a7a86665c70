"""MedMNIST's 2-D single-label datasets, from a file or downloaded through the `medmnist` package."""

from __future__ import annotations

import importlib
import math
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from dpaat.data.files import existing
from dpaat.data.registry import register_dataset
from dpaat.data.table import MAX_CLASSES, SPLITS, UNGROUPED, ImageTable
from dpaat.errors import UserError, unknown

_ORGANS = (
    "bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left",
    "lung-right", "pancreas", "spleen",
)  # fmt: skip

# Kept here rather than asked of the optional package, so that a dataset's classes, and with them its fingerprint,
# are the same with and without it.
CLASSES: dict[str, tuple[str, ...]] = {
    "pathmnist": (
        "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
        "cancer-associated stroma", "colorectal adenocarcinoma epithelium",
    ),
    "dermamnist": (
        "actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions",
        "dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions",
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("0", "1", "2", "3", "4"),
    "breastmnist": ("malignant", "normal, benign"),
    "bloodmnist": (
        "basophil", "eosinophil", "erythroblast",
        "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
        "lymphocyte", "monocyte", "neutrophil", "platelet",
    ),
    "tissuemnist": (
        "Collecting Duct, Connecting Tubule", "Distal Convoluted Tubule", "Glomerular endothelial cells",
        "Interstitial endothelial cells", "Leukocytes", "Podocytes", "Proximal Tubule Segments",
        "Thick Ascending Limb",
    ),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
}  # fmt: skip
# Where the second of two classes is not the finding, or classes together are one. DermaMNIST holds HAM10000's images.
TASKS: dict[str, dict[str, tuple[str, ...]]] = {
    "breastmnist": {"malignant": ("malignant",)},
    "dermamnist": {
        "melanoma": ("melanoma",),
        "malignant": ("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "melanoma"),
    },
}
SIZES = ("28", "64", "128", "224")
FREE_BYTES, MAX_RATIO = 2**28, 100
"""A file may unpack to the one, or to so many times its own size; photographs shrink by less than 10."""
CITATION = "Yang et al.: MedMNIST v2. Scientific Data 10 (2023), doi 10.1038/s41597-022-01721-8"
INSTALL = "pip install 'dpaat[medmnist]'"


@register_dataset("medmnist", "medmnist:NAME[:FILE.npz]", "a MedMNIST set, downloaded or from a file")
def load(argument: str, spec: str) -> ImageTable:
    """Read a file in MedMNIST's layout, with its official splits.

    Args:
        argument: `NAME` (downloaded; `NAME_64`, `_128` and `_224` are the larger versions) or `NAME:FILE.npz`. With
            a file, the name may be one of your own: the classes are then called "0", "1", ...
        spec: the dataset as the user wrote it.

    Raises:
        UserError: unknown or multi-label dataset, failed download, or a file that is not of this layout.
    """
    name, _, file = argument.partition(":")
    flag, _, size = name.partition("_")
    if flag == "chestmnist":
        raise UserError(f"{spec}: chestmnist is multi-label, which is out of scope; use a single-label dataset")
    if not flag:
        raise UserError(f"{spec!r} names no dataset; write medmnist:NAME or medmnist:NAME:FILE.npz")
    if file:
        path = existing(file, spec, kind="file", scheme="medmnist:NAME:FILE.npz")
    elif flag not in CLASSES:
        raise unknown("MedMNIST dataset", flag, CLASSES)
    else:
        path = _download(flag, size or "28", spec)
    return _table(path, flag, spec)


def _table(path: Path, flag: str, spec: str) -> ImageTable:
    images, labels = {}, {}
    try:
        _refuse_bomb(path)
        with np.load(path, allow_pickle=False) as archive:
            for split in SPLITS:
                images[split], labels[split] = archive[f"{split}_images"], archive[f"{split}_labels"]
    except KeyError as error:
        raise UserError(
            f"{path}: no array {error.args[0]!s}; the file needs {{train,val,test}}_{{images,labels}}"
        ) from None
    except Exception as error:  # damaged archives fail in many ways
        raise UserError(f"cannot read {path} as a MedMNIST .npz file: {error}") from None
    for split in SPLITS:
        labels[split] = _checked(path, split, images[split], labels[split])
    if len({pixels.shape[3:] for pixels in images.values()}) > 1:
        raise UserError(f"{path}: grey and RGB images in one file; use one of the two")
    label = np.concatenate([labels[split] for split in SPLITS])
    largest = int(label.max(initial=0))
    if largest >= MAX_CLASSES:
        raise UserError(f"{path}: label {largest}; at most {MAX_CLASSES} classes are supported, numbered from 0")
    classes = CLASSES.get(flag, tuple(str(number) for number in range(largest + 1)))
    if largest >= len(classes):
        raise UserError(f"{path}: label {largest} in a dataset of {len(classes)} classes; is the name {flag!r} right?")
    ids = [f"{split}-{number:06d}" for split in SPLITS for number in range(len(labels[split]))]
    side = np.repeat(SPLITS, [len(labels[split]) for split in SPLITS])
    reader = _Pixels(str(path), tuple(ids), tuple(images[split] for split in SPLITS))
    return ImageTable(
        name=flag,
        spec=spec,
        frame=pd.DataFrame({"id": ids, "label": label, "group": ids, "split": side}),
        classes=classes,
        channels=3 if images["train"].ndim == 4 else 1,
        read=reader,
        describe=reader.describe,
        licence={"dermamnist": "CC BY-NC 4.0"}.get(flag, "CC BY 4.0" if flag in CLASSES else ""),
        citation=CITATION if flag in CLASSES else "",
        tasks=TASKS.get(flag, {}),
        notes=(UNGROUPED,),
    )


def _refuse_bomb(path: Path) -> None:
    """Look at sizes before any memory is spent on them.

    Raises:
        ValueError: an archive that unpacks to incomparably more than it is, or an array that is not all there.
        zipfile.BadZipFile: not an archive.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > max(FREE_BYTES, MAX_RATIO * path.stat().st_size):
            raise ValueError(f"it would unpack to {unpacked / 1e9:,.1f} GB, which no real images do")
        for member in members:
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = header(file)
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise ValueError(f"{member.filename} is cut off")


class _Pixels:
    """Rows of the three splits, one after the other."""

    def __init__(self, path: str, ids: tuple[str, ...], parts: tuple[np.ndarray, ...]) -> None:
        self.path, self.ids, self.parts = path, ids, parts
        self.starts = np.cumsum([0, *(len(part) for part in parts)])

    def __call__(self, row: int) -> np.ndarray:
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return np.asarray(self.parts[part][row - self.starts[part]])

    def describe(self, row: int) -> str:
        return f"{self.path}:{self.ids[row]}"


def _checked(path: Path, split: str, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the labels as (N,) int64 after checking them and the images."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise UserError(f"{path}: {split}_labels has {labels.shape[1]} columns: multi-label is out of scope")
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)):
        raise UserError(
            f"{path}: {split}_images is {images.dtype} {images.shape}; 2-D images are uint8 (N, H, W) or (N, H, W, 3)"
        )
    whole = labels.dtype.kind in "iu" and not (labels.size and (labels.min() < 0 or labels.max() >= 2**63))
    if not whole or labels.size != len(images):
        raise UserError(f"{path}: {split}_labels must be {len(images)} whole numbers from 0, one per image")
    return labels.reshape(-1).astype(np.int64)


def _download(flag: str, size: str, spec: str) -> Path:
    if size not in SIZES:
        raise UserError(f"{spec}: no such size: {size!r}; MedMNIST comes in {', '.join(SIZES)} pixels")
    try:
        package = importlib.import_module("medmnist")
    except ImportError:
        raise UserError(
            f"{spec}: downloading needs the medmnist package: {INSTALL}; or give medmnist:NAME:FILE.npz"
        ) from None
    root = Path.home() / ".medmnist"  # the package's own place, so that earlier downloads are found
    try:
        root.mkdir(exist_ok=True)
        getattr(package, package.INFO[flag]["python_class"])(
            split="train", download=True, root=str(root), size=int(size)
        )
    except Exception as error:  # the package wraps network and disk trouble in whatever comes
        reason = re.sub(r"\s+", " ", str(error)).strip()[:160]
        raise UserError(
            f"{spec}: download failed ({reason}); get the file elsewhere and give medmnist:{flag}:FILE.npz"
        ) from None
    return root / (f"{flag}.npz" if size == "28" else f"{flag}_{size}.npz")
