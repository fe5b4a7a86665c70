"""MedMNIST's 2-D datasets, from a file or downloaded through the `medmnist` package."""

import importlib
import math
import zipfile
from functools import partial
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
    "chestmnist": (
        "atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
        "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia",
    ),
    **dict.fromkeys(("organamnist", "organcmnist", "organsmnist"), _ORGANS),
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
# A file may unpack to the one, or to so many times its own size; photographs shrink by less than 10.
FREE_BYTES, MAX_RATIO = 2**28, 100
CITATION = "Yang et al.: MedMNIST v2. Scientific Data 10 (2023), doi 10.1038/s41597-022-01721-8"
INSTALL = "pip install 'dpaat[medmnist]'"


@register_dataset("medmnist", "medmnist:NAME[:FILE.npz]", "a MedMNIST set, downloaded or from a file")
def load(argument: str, spec: str) -> ImageTable:
    """Read a file in MedMNIST's layout, with its official splits.

    `NAME` is downloaded (`NAME_64`, `_128` and `_224` are the larger versions). For `NAME:FILE.npz`, the name may be
    one of your own: the classes are then called "0", "1", ... Raises UserError: an unknown dataset, a
    failed download, or a file that is not of this layout.
    """
    name, _, file = argument.partition(":")
    flag, _, size = name.partition("_")
    if not flag:
        raise UserError(f"{spec!r} names no dataset; write medmnist:NAME or medmnist:NAME:FILE.npz")
    if not file and flag not in CLASSES:
        raise unknown("MedMNIST dataset", flag, CLASSES)
    if file:
        path = existing(file, spec, kind="file", scheme="medmnist:NAME:FILE.npz")
    else:
        path = _download(flag, size or "28", spec)
    images, labels = _arrays(path)
    label = np.concatenate([*labels.values()])
    several = label.ndim == 2
    if several != (flag == "chestmnist") and flag in CLASSES:
        raise UserError(f"{path}: {flag} has {'one class' if several else 'several labels'} an image, this file not so")
    largest = label.shape[1] - 1 if several else int(label.max(initial=0))
    if largest >= MAX_CLASSES:
        raise UserError(f"{path}: label {largest}; at most {MAX_CLASSES} classes are supported, numbered from 0")
    classes = CLASSES.get(flag, tuple(map(str, range(largest + 1))))
    if largest >= len(classes):
        raise UserError(f"{path}: label {largest} in a dataset of {len(classes)} classes; is the name {flag!r} right?")
    ids = [f"{split}-{number:06d}" for split in SPLITS for number in range(len(labels[split]))]
    side = np.repeat(SPLITS, [len(labels[split]) for split in SPLITS])
    return ImageTable(
        name=flag,
        spec=spec,
        frame=pd.DataFrame(
            {"id": ids, "label": [*map(tuple, label.tolist())] if several else label, "group": ids, "split": side}
        ),
        classes=classes,
        channels=3 if images["train"].ndim == 4 else 1,
        read=partial(_read, ids, images),
        describe=partial(_describe, path, ids),
        licence={"dermamnist": "CC BY-NC 4.0"}.get(flag, "CC BY 4.0" if flag in CLASSES else ""),
        citation=CITATION if flag in CLASSES else "",
        tasks=TASKS.get(flag, {}),
        notes=(UNGROUPED,),
        multilabel=several,
    )


def _read(ids: list[str], images: dict[str, np.ndarray], row: int) -> np.ndarray:
    """An image by what its id says: split and number in it."""
    split, number = ids[row].split("-")
    return np.asarray(images[split][int(number)])


def _describe(path: Path, ids: list[str], row: int) -> str:
    return f"{path}:{ids[row]}"


def _arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Read and check images and labels of every split; labels become (N,) int64, several an image (N, K)."""
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
        x, y = images[split], labels[split]
        if x.dtype != np.uint8 or not (x.ndim == 3 or (x.ndim == 4 and x.shape[3] == 3)):
            raise UserError(
                f"{path}: {split}_images is {x.dtype} {x.shape}; 2-D images are uint8 (N, H, W) or (N, H, W, 3)"
            )
        if y.ndim == 2 and y.shape[1] > 1:
            if len(y) != len(x) or y.dtype.kind not in "biu" or not np.isin(y, (-1, 0, 1)).all():
                raise UserError(
                    f"{path}: {split}_labels of several columns must be 0, 1 or -1 (unknown), a row an image"
                )
            labels[split] = y.astype(np.int8)
            continue
        whole = y.dtype.kind in "iu" and not (y.size and (y.min() < 0 or y.max() >= 2**63))
        if not whole or y.size != len(x):
            raise UserError(f"{path}: {split}_labels must be {len(x)} whole numbers from 0, one per image")
        labels[split] = y.reshape(-1).astype(np.int64)
    if len({y.shape[1:] for y in labels.values()}) > 1:
        raise UserError(f"{path}: the splits differ in how many labels an image has")
    if len({x.shape[3:] for x in images.values()}) > 1:
        raise UserError(f"{path}: grey and RGB images in one file; use one of the two")
    return images, labels


def _refuse_bomb(path: Path) -> None:
    """Refuse, before memory is spent, what unpacks to incomparably more than it is, or an array that is cut off."""
    header = {(1, 0): np.lib.format.read_array_header_1_0}
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > max(FREE_BYTES, MAX_RATIO * path.stat().st_size):
            raise ValueError(f"it would unpack to {unpacked / 1e9:,.1f} GB, which no real images do")
        for member in archive.infolist():
            with archive.open(member) as file:
                read = header.get(np.lib.format.read_magic(file), np.lib.format.read_array_header_2_0)
                shape, _, dtype = read(file)
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise ValueError(f"{member.filename} is cut off")


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
        dataset = getattr(package, package.INFO[flag]["python_class"])
        dataset(split="train", download=True, root=str(root), size=int(size))
    except Exception as error:  # the package wraps network and disk trouble in whatever comes
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{spec}: download failed ({reason}); get the file elsewhere and give medmnist:{flag}:FILE.npz"
        ) from None
    return root / (f"{flag}.npz" if size == "28" else f"{flag}_{size}.npz")
