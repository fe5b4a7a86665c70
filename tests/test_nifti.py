"""NIfTI: slices of a volume, turned by its affine."""

import gzip
import sys

import numpy as np
import pandas as pd
import pytest

from dpaat.cli import main
from dpaat.data import load_table, prepare
from dpaat.data.images import decode_image, decode_mask, pixel_kind
from dpaat.data.scan import framed
from dpaat.errors import UserError

nibabel = pytest.importorskip("nibabel", reason="the extra dicom is not installed")


def nifti(values: np.ndarray, affine: np.ndarray | None = None, second: bool = False) -> bytes:
    kind = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    return kind(values, np.eye(4) if affine is None else affine).to_bytes()


def volume(shape: tuple[int, ...] = (6, 6, 5)) -> np.ndarray:
    """Values that tell where a voxel lies: right to left in ones, back to front in tens, feet to head in forties."""
    x, y, z = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return (x + 6 * y + 36 * z).astype(np.int16)


def seen(content: bytes, size: int = 6) -> np.ndarray:
    return decode_image(content, size=size, fit="squash", channels=1, window=(0, 255))[0]


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_a_slice_is_turned_as_radiologists_look_at_it(second, packed):
    content = nifti(volume(), second=second)
    content = gzip.compress(content) if packed else content
    assert pixel_kind(framed(content, "2")) == ("integer", 1)
    got = seen(framed(content, "2"))
    # An identity affine runs to the right, the front and the head: the patient's left is on the right of the picture.
    assert np.array_equal(got, volume()[::-1, ::-1, 1].T)


def test_the_affine_counts_and_not_the_order_in_the_file():
    want = seen(framed(nifti(volume()), "middle"))
    for axes, signs in (((2, 0, 1), (1, -1, 1)), ((1, 2, 0), (-1, -1, -1)), ((0, 1, 2), (-1, 1, -1))):
        values, affine = volume().transpose(axes), np.zeros((4, 4))
        for place, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
            values, affine[axis, place] = (np.flip(values, place) if sign < 0 else values), sign
        affine[3, 3] = 1
        assert np.array_equal(seen(framed(nifti(values, affine), "middle")), want)


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 1), (6, 1, 6), (1, 6, 6), (6, 6, 1, 1)])
def test_a_single_plane_needs_no_choice(shape):
    values = np.arange(36, dtype=np.int16).reshape(shape)
    assert np.array_equal(seen(nifti(values)), np.arange(36).reshape(6, 6)[::-1, ::-1].T)


def test_scaled_values_and_masks():
    image = nibabel.Nifti1Image(np.arange(36, dtype=np.float32).reshape(6, 6), np.eye(4))
    image.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.5, 3)
    content = image.to_bytes()
    assert pixel_kind(content) == ("float", 1)
    stored = np.asarray(nibabel.Nifti1Image.from_bytes(content).dataobj.get_unscaled())
    assert np.abs(seen(content) - (0.5 * stored + 3)[::-1, ::-1].T).max() <= 1
    mask = np.zeros((6, 6), np.uint8)
    mask[0, 0] = 1
    assert decode_mask(nifti(mask), size=6, fit="squash").sum() == 1
    assert pixel_kind(nifti(mask)) == ("8-bit", 1)


def test_a_volume_is_refused_in_one_line_that_says_what_to_do(tmp_path, capsys):
    for number in range(16):
        place = tmp_path / "set" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).integers(0, 400, (8, 8, 4)).astype(np.int16)
        (place / f"{number}.nii.gz").write_bytes(gzip.compress(nifti(values)))
    spec = f"folder:{tmp_path / 'set'}"
    arguments = ["--out", str(tmp_path / "run"), "--window", "0,400", "--image-size", "8"]
    assert main(["train", "--data", spec, *arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "4 frames or slices" in said[0]
    assert ",frame=middle" in said[0]
    with pytest.raises(UserError, match="16 images of integer pixels: values lie in 0 to 399: give --window"):
        prepare(f"{spec},frame=middle", image_size=8)
    data = prepare(f"{spec},frame=middle", image_size=8, window="0,400")
    assert data.images.shape == (16, 1, 8, 8)
    rows = pd.DataFrame({"path": [f"set/{name}" for name in data.ids], "label": data.labels, "group": range(16)})
    rows.to_csv(tmp_path / "t.csv", index=False)
    for order in (",frame=3,group=path", ",group=path,frame=3"):
        assert load_table(f"csv:{tmp_path / 't.csv'}{order}").frame["group"].tolist() == rows["path"].tolist()
    assert main(["data", "check", f"csv:{tmp_path / 't.csv'},frame=3", "--window", "0,400"]) == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((4, 4, 4, 3), np.int16), "4 dimensions; save one volume of three"),
        (np.zeros((4, 4), np.complex64), "not plain numbers"),
        (np.zeros((4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "not plain numbers"),
    ],
)
def test_what_is_no_volume_of_numbers(values, said):
    with pytest.raises(ValueError, match=said):
        seen(framed(nifti(values), "first"))


def test_one_line_names_the_extra(tmp_path, monkeypatch, capsys):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.nii").write_bytes(nifti(np.zeros((4, 4), np.uint8)))
    for name in [name for name in sys.modules if name.partition(".")[0] == "nibabel"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    assert main(["data", "check", f"folder:{tmp_path}"]) == 1
    assert "problem: NIfTI files need nibabel" in capsys.readouterr().out.replace("\n", " ")
