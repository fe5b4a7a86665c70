import pickle
import shutil

import numpy as np
import pytest

from data_makers import ham_rows, jpeg, make_ham, write_csv
from dpaat.data import load_table, prepare
from dpaat.data.splits import leaks
from dpaat.errors import UserError


@pytest.mark.parametrize("layout", ["parts", "flat", "images", "zip"])
@pytest.mark.parametrize("dataverse", [False, True])
def test_every_published_layout_gives_the_same_data(tmp_path, layout, dataverse):
    reference = prepare(f"ham10000:{make_ham(tmp_path / 'ref')}", image_size=16, cache_dir=tmp_path / "c")
    folder = make_ham(tmp_path / "data", layout=layout, dataverse=dataverse)
    data = prepare(f"ham10000:{folder}", image_size=16, cache_dir=tmp_path / "c")
    assert data.fingerprint == reference.fingerprint
    assert (data.images == reference.images).all()
    assert (data.split == reference.split).all()
    assert data.classes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert ("source" in data.table.frame) == dataverse
    masks = data.masks(np.array([4, 1]))
    assert masks is not None
    assert masks.shape == (2, 16, 16)
    assert masks[:, :, :8].all()
    assert not masks[:, :, 8:].any()


def test_metadata_is_kept(tmp_path):
    frame = load_table(f"ham10000:{make_ham(tmp_path / 'd')}").frame
    assert frame["age"].isna().sum() == 1
    assert set(frame["sex"]) == {"male", "female"}
    assert set(frame["site"]) == {"back"}
    assert frame["group"].nunique() == 70


def test_a_zipped_table_can_be_pickled(tmp_path):
    table = load_table(f"ham10000:{make_ham(tmp_path / 'd', layout='zip')}")
    assert pickle.loads(pickle.dumps(table)).read(3) == table.read(3) == jpeg(3)


def test_near_duplicates_stay_together(tmp_path):
    folder = make_ham(tmp_path / "d")
    ids = [str(row["image_id"]) for row in ham_rows()]
    pairs = [{"similarity": 0.99, "from_img": f"{ids[n]}.jpg", "to_img": f"{ids[n + 40]}.jpg"} for n in range(8)]
    write_csv(folder / "near_duplicates.csv", [*pairs, {"similarity": 1, "from_img": "x.jpg", "to_img": "y.jpg"}])
    for seed in range(3):
        data = prepare(f"ham10000:{folder}", image_size=8, seed=seed, cache_dir=tmp_path / "c")
        assert len(data.table.near_duplicates) == 8
        assert leaks(data.table, data.split, data.digests) == []


def test_a_row_without_mask_has_an_empty_one(tmp_path):
    folder = make_ham(tmp_path / "d")
    masks_folder = folder / "HAM10000_segmentations_lesion_tschandl"
    (masks_folder / "ISIC_0000002_segmentation.png").unlink()
    data = prepare(f"ham10000:{folder}", image_size=8, cache_dir=tmp_path / "c")
    masks = data.masks()
    assert masks is not None
    assert masks.any((1, 2)).sum() == len(masks) - 1
    shutil.rmtree(masks_folder)
    assert prepare(f"ham10000:{folder}", image_size=8, cache_dir=tmp_path / "c").masks() is None


def broken(folder, what):
    rows = ham_rows()
    if what == "no dx":
        rows = [{key: value for key, value in row.items() if key != "dx"} for row in rows]
    elif what == "wrong dx":
        rows[5]["dx"] = "nevus"
    elif what == "twice":
        rows.append(rows[0])
    elif what == "no lesion":
        rows[4]["lesion_id"] = "unknown"
    elif what == "absent image":
        for name in ("ISIC_0000001.jpg", "ISIC_0000003.jpg"):
            (folder / "HAM10000_images_part_1" / name).unlink()
    elif what == "empty":
        (folder / "HAM10000_metadata.csv").write_text("")
        return
    elif what == "no metadata":
        (folder / "HAM10000_metadata.csv").unlink()
        return
    elif what == "bad zip":
        (folder / "HAM10000_images_part_3.zip").write_bytes(b"PK nonsense")
    write_csv(folder / "HAM10000_metadata.csv", rows)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no dx", "HAM10000_metadata.csv: no column 'dx'"),
        ("wrong dx", "HAM10000_metadata.csv: dx of ISIC_0000005: unknown class 'nevus'"),
        ("twice", "'ISIC_0000000' is listed twice"),
        ("no lesion", "no lesion_id for ISIC_0000004"),
        ("absent image", r"2 of 94 images listed are absent, the first is ISIC_0000001\.jpg"),
        ("empty", "cannot read .*HAM10000_metadata.csv"),
        ("no metadata", r"no HAM10000_metadata\.csv"),
        ("bad zip", r"HAM10000_images_part_3\.zip: not a readable zip"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path, what, message):
    folder = make_ham(tmp_path / "d")
    broken(folder, what)
    with pytest.raises(UserError, match=message) as caught:
        load_table(f"ham10000:{folder}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("argument", ["", "/nowhere/at/all", __file__, "x" * 5000])
def test_folder_that_is_none(argument):
    with pytest.raises(UserError, match="folder"):
        load_table(f"ham10000:{argument}")


def test_truncated_jpeg_is_named(tmp_path):
    folder = make_ham(tmp_path / "d")
    path = folder / "HAM10000_images_part_1" / "ISIC_0000007.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"ISIC_0000007\.jpg: image file is truncated"):
        prepare(f"ham10000:{folder}", image_size=8, cache_dir=tmp_path / "c")


def test_the_real_set(ham10000_dir, tmp_path):
    table = load_table(f"ham10000:{ham10000_dir}")
    assert len(table) == 10015
    assert table.frame["group"].nunique() == 7470
    assert np.bincount(table.labels).tolist() == [327, 514, 1099, 115, 1113, 6705, 142]
    assert table.frame["age"].isna().sum() == 57
    assert len(table.near_duplicates) == 18
    assert "source" in table.frame


def test_the_real_split(ham10000_dir, tmp_path):
    data = prepare(f"ham10000:{ham10000_dir}", image_size=8, cache_dir=tmp_path, progress=False)
    assert data.table.frame.assign(split=data.split).groupby("group")["split"].nunique().max() == 1
    assert leaks(data.table, data.split, data.digests) == []
    side = dict(zip(data.ids, data.split, strict=True))
    assert side["ISIC_0024366"] == side["ISIC_0029861"]
    assert side["ISIC_0033481"] == side["ISIC_0033421"]
    for name, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        rows = data.rows(name)
        assert abs(len(rows) / 10015 - share) < 0.01
        assert len(np.unique(data.labels[rows])) == 7
