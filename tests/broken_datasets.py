"""Small broken datasets, each made by one line, and what `dpaat data check` must say of it; and sound ones."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from data_makers import jpeg, make_ham, write_csv

Make = Callable[[Path], str]
"""Writes a dataset into an empty folder and returns its spec."""


def images(folder: Path, names: Sequence[str], count: int = 6, start: int = 0, suffix: str = "jpg") -> Path:
    """Write `count` images into each of the named sub-folders, all of them different."""
    for place, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed = start + 100 * place + number
            (folder / name / f"{seed:04d}.{suffix}").write_bytes(jpeg(seed, (12, 10)))
    return folder


def class_folders(*names: str, **options: int) -> Make:
    return lambda folder: f"folder:{images(folder, names, **options)}"


def table(
    count: int = 24, columns: Mapping[str, Callable[[int], object]] | None = None, separator: str = ",", **options: str
) -> Make:
    """A CSV file of images `img/N.jpg`, labels x and y, and the given columns of row numbers."""

    def make(folder: Path) -> str:
        images(folder, ["img"], count)
        cells = {"path": lambda n: f"img/{n:04d}.jpg", "label": lambda n: "xy"[n % 2]} | dict(columns or {})
        path = write_csv(folder / "list.csv", [{key: cell(n) for key, cell in cells.items()} for n in range(count)])
        text = path.read_text().replace(",", separator)
        path.write_text(text, encoding=options.get("encoding", "utf-8"))
        return f"csv:{path}"

    return make


def labels(*names: str) -> Make:
    return table(columns={"label": lambda n: names[n % len(names)]})


def with_file(make: Make, name: str, content: bytes | None = None) -> Make:
    """The same with one file more, by default an image."""

    def changed(folder: Path) -> str:
        spec = make(folder)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(999) if content is None else content)
        return spec

    return changed


def ham_beside(name: str) -> Make:
    """HAM10000 with other pictures under the same names in one more folder."""

    def make(folder: Path) -> str:
        data = make_ham(folder / "d", lesions=28)
        (data / name).mkdir()
        for image in data.glob("HAM10000_images_part_*/*.jpg"):
            Image.new("RGB", (12, 10)).save(data / name / image.name)
        return f"ham10000:{data}"

    return make


def ham_loose(folder: Path) -> str:
    data = make_ham(folder / "d", lesions=28)
    Image.new("RGB", (12, 10)).save(data / "ISIC_0000003.jpg")
    return f"ham10000:{data}"


SPLIT = ("train", "val", "test")

# What is wrong, how it is made, and words of the one line that names it.
BROKEN: dict[str, tuple[Make, tuple[str, ...]]] = {
    # 2. layouts
    "half like splits": (class_folders("train/a", "train/b", "benign"), ("train", "benign", "split")),
    "doubled folder beside its splits": (
        class_folders("chest/train/a", "chest/train/b", "chest/test/a", "chest/test/b", "train/a", "train/b", "test/a"),
        ("chest", "split"),
    ),
    "doubled folder alone": (class_folders("chest/a", "chest/b"), ("folder:", "chest")),
    "splits in one folder": (
        class_folders("my data/train/a", "my data/train/b", "my data/test/a"),
        ("give folder:", "my data"),
    ),
    "doubled folder of classes": (class_folders("a", "b", "all/a", "all/b"), ("all holds", "a, b")),
    "patients whose folders hold the classes": (
        class_folders("p1/a", "p1/b", "p2/a", "p2/b", "p3/a"),
        ("p1, p2, p3", "are those the classes?"),
    ),
    "one split in two folders": (
        class_folders("train/a", "train/b", "Training/a", "Training/b", "test/a", "test/b"),
        ("train", "Training"),
    ),
    "splits below classes": (class_folders("a/train", "a/test", "b/train", "b/test"), ("a/test", "split")),
    "a class in one split only": (class_folders("train/a", "train/b", "test/a"), ("test", "b")),
    "published images in two versions": (ham_loose, ("ISIC_0000003", "two")),
    # 3. nothing dropped
    "files that no one can read": (with_file(class_folders("a", "b"), "a/scan.dcm", b"DICM"), ("scan.dcm", "left out")),
    "an image outside the class folders": (with_file(class_folders("a", "b"), "loose.jpg"), ("loose.jpg", "left out")),
    "ages that are no ages": (table(columns={"age": lambda n: "old" if n % 3 else "58"}), ("age", "'old'")),
    "an image listed twice": (
        table(columns={"path": lambda n: f"img/{n:04d}.jpg" if n else "./img/0003.jpg"}),
        ("img/0003.jpg", "twice"),
    ),
    "a split under another name": (
        table(columns={"cohort": lambda n: ("Training", "Testing")[n % 2]}),
        ("column 'cohort' is not used", "'split'"),
    ),
    # 5. labels
    "hyphens and blanks": (labels("non-tumour", "non tumour", "tumour"), ("'non tumour'", "'non-tumour'")),
    "labels with commas": (labels("x", "y", "x, y"), ("several labels", "'x, y'")),
    "lists as labels": (labels("[0]", "[1]", "[0, 1]"), ("several labels", "'[0]'")),
    "labels in upper and lower case": (labels("benign", "malignant", "Benign"), ("'Benign'", "'benign'")),
    "1 and 1.0": (labels("0", "1", "1.0"), ("'1'", "'1.0'")),
    "labels that are missing": (labels("x", "y", "nan"), ("4, 7", "label")),
    "two forms of one letter": (labels("na\u0308vus", "n\u00e4vus", "mel"), ("vus", "spelling")),
    "folders in upper and lower case": (class_folders("train/A", "train/b", "test/a", "test/b"), ("'A'", "'a'")),
}

SOUND: dict[str, Make] = {
    "class folders": class_folders("a", "b"),
    "Training and Testing": class_folders("Training/a", "Training/b", "Testing/a", "Testing/b", count=8),
    "patients in folders of their own": class_folders("a/p1", "a/p2", "a/p3", "b/p1", "b/p4"),
    "a column of folds": table(columns={"fold": lambda n: n % 5, "set": lambda n: ""}),
    "names with commas and hyphens": labels("normal, benign", "L1-2", "L12"),
    "train and val": class_folders("train/a", "train/b", "val/a", "val/b", count=8),
    "a table with everything": table(
        columns={
            "group": lambda n: n // 2,
            "split": lambda n: SPLIT[n // 2 % 3],
            "label": lambda n: n // 6,
            "age": lambda n: f"{n:03d}Y",
        }
    ),
    "a table of semicolons from Windows": table(
        columns={"path": lambda n: f"img\\{n:04d}.jpg", "group": lambda n: n // 2}, separator=";", encoding="utf-16"
    ),
    "HAM10000 beside another version of it": ham_beside("HAM10000_images_hair_removed"),
}
