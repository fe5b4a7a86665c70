import sys

import numpy as np
import pytest

from dpaat.data import load_table, prepare
from dpaat.data.medmnist import CLASSES
from dpaat.data.splits import leaks
from dpaat.errors import UserError

SIZES = {"train": 30, "val": 8, "test": 10}


def npz(path, *, colour=False, drop=(), **changes):
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in SIZES.items():
        shape = (count, 12, 12, 3) if colour else (count, 12, 12)
        arrays[f"{split}_images"] = random.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count, dtype=np.uint8).reshape(-1, 1) % 2
    arrays = {name: array for name, array in (arrays | changes).items() if name not in drop}
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("colour", [False, True])
def test_file_with_its_official_splits(tmp_path, colour):
    path = npz(tmp_path / "x.npz", colour=colour)
    data = prepare(f"medmnist:pneumoniamnist:{path}", image_size=12, cache_dir=tmp_path / "c")
    assert {name: len(data.rows(name)) for name in SIZES} == SIZES
    assert data.classes == ("normal", "pneumonia")
    with np.load(path) as archive:
        pixels = archive["test_images"][4]
        assert data.labels[data.rows("val")].tolist() == archive["val_labels"].ravel().tolist()
    expected = pixels.transpose(2, 0, 1) if colour else pixels[None]
    assert (data.images[data.rows("test")[4]] == expected).all()


def test_own_file_in_the_layout(tmp_path):
    labels = np.arange(SIZES["train"]).reshape(-1, 1) % 5
    table = load_table(f"medmnist:mine:{npz(tmp_path / 'x.npz', train_labels=labels)}")
    assert table.classes == ("0", "1", "2", "3", "4")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": ("val_labels",)}, "val_labels"),
        ({"train_labels": np.zeros((30, 14), np.uint8)}, "differ in how many labels"),
        ({"train_labels": np.zeros((29, 1), np.uint8)}, "train_labels must be 30"),
        ({"train_labels": np.full((30, 1), 0.5)}, "whole numbers"),
        ({"train_labels": np.full((30, 1), -1)}, "whole numbers"),
        ({"train_labels": np.full((30, 1), 7)}, "label 7 in a dataset of 2 classes"),
        ({"train_images": np.zeros((30, 12, 12))}, "train_images is float64"),
        ({"train_images": np.zeros((30, 8, 8, 8), np.uint8)}, "2-D images"),
        ({"train_images": np.zeros((30, 12, 12, 3), np.uint8)}, "grey and RGB"),
        ({"train_images": np.array([{}] * 30)}, "cannot read"),
    ],
)
def test_wrong_files(tmp_path, changes, message):
    path = npz(tmp_path / "x.npz", **changes)
    with pytest.raises(UserError, match=message) as caught:
        load_table(f"medmnist:pneumoniamnist:{path}")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_an_npz(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"something else")
    with pytest.raises(UserError, match="cannot read"):
        load_table(f"medmnist:pneumoniamnist:{tmp_path / 'x.npz'}")
    np.save(tmp_path / "y.npy", np.zeros(3))
    with pytest.raises(UserError, match="cannot read"):
        load_table(f"medmnist:pneumoniamnist:{tmp_path / 'y.npy'}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("medmnist", "names no dataset"),
        ("medmnist:pneumoniamnst", "nearest: pneumoniamnist"),
        ("medmnist:pneumoniamnist_65", "no such size: '65'"),
        ("medmnist:pneumoniamnist:/nowhere.npz", "no such file"),
    ],
)
def test_wrong_specs(spec, message):
    with pytest.raises(UserError, match=message):
        load_table(spec)


def test_download_needs_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(UserError, match=r"pip install 'dpaat\[medmnist\]'"):
        load_table("medmnist:breastmnist")


def test_download(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))

    class Package:
        INFO = {"breastmnist": {"python_class": "BreastMNIST"}}  # noqa: RUF012

        @staticmethod
        def BreastMNIST(*, split, download, root, size):  # noqa: N802
            if size == 128:
                raise RuntimeError("no route\nto host")
            npz(f"{root}/breastmnist_{size}.npz" if size != 28 else f"{root}/breastmnist.npz")

    monkeypatch.setitem(sys.modules, "medmnist", Package)
    assert len(load_table("medmnist:breastmnist")) == sum(SIZES.values())
    assert load_table("medmnist:breastmnist_64").classes == ("malignant", "normal, benign")
    with pytest.raises(UserError, match=r"download failed \(no route to host\)"):
        load_table("medmnist:breastmnist_128")


def test_class_names_are_those_of_the_package():
    info = pytest.importorskip("medmnist").INFO
    for name, classes in CLASSES.items():
        assert tuple(info[name]["label"].values()) == classes
    flat = {name for name in info if "3d" not in name}
    assert set(CLASSES) == flat


def test_the_real_file(pneumonia_npz, tmp_path):
    data = prepare(f"medmnist:pneumoniamnist:{pneumonia_npz}", image_size=28, cache_dir=tmp_path, progress=False)
    assert [len(data.rows(name)) for name in ("train", "val", "test")] == [4708, 524, 624]
    assert data.table.channels == 1
    found = leaks(data.table, data.split, data.digests)
    assert {reason for _, _, reason in found} == {"identical images"}
    assert len(found) == 8
