import numpy as np
import pytest
from PIL import Image

from data_makers import jpeg, write_csv
from dpaat.data import load_table, prepare
from dpaat.errors import UserError


def fill(folder, count=12, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(jpeg(start + number))


def csv_set(tmp_path, count=24, **columns):
    fill(tmp_path / "img", count)
    rows = [
        {"path": f"img/{n}.jpg", "label": "ab"[n % 2], **{k: v[n] for k, v in columns.items()}} for n in range(count)
    ]
    return write_csv(tmp_path / "list.csv", rows)


def test_class_folders(tmp_path):
    fill(tmp_path / "d" / "cat")
    fill(tmp_path / "d" / "ant" / "patient1", start=50)
    (tmp_path / "d" / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "d" / "ant" / "._0.jpg").write_bytes(b"")
    (tmp_path / "d" / ".cache").mkdir()
    data = prepare(f"folder:{tmp_path / 'd'}", image_size=8, cache_dir=tmp_path / "c")
    assert data.classes == ("ant", "cat")
    assert data.ids[0] == "ant/patient1/0.jpg"
    assert np.bincount(data.labels).tolist() == [12, 12]
    assert data.masks() is None
    assert data.images.shape == (24, 3, 8, 8)


def test_split_folders(tmp_path):
    for number, split in enumerate(("train", "valid", "test")):
        for offset, name in enumerate("ab"):
            fill(tmp_path / split / name, 4, start=100 * number + 20 * offset)
    table = load_table(f"folder:{tmp_path}")
    assert table.classes == ("a", "b")
    assert table.frame["split"].value_counts().to_dict() == {"train": 8, "val": 8, "test": 8}


def test_grey_files_make_a_grey_set(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("L", (8, 8), number).save(tmp_path / name / f"{number}.png")
    assert load_table(f"folder:{tmp_path}").channels == 1
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "colour.png")
    assert load_table(f"folder:{tmp_path}").channels == 3


def test_content_decides_not_the_extension(tmp_path):
    fill(tmp_path / "d" / "a")
    fill(tmp_path / "d" / "b", start=20)
    (tmp_path / "d" / "a" / "0.jpg").write_bytes(jpeg(0, kind="PNG"))
    data = prepare(f"folder:{tmp_path / 'd'}", image_size=8, cache_dir=tmp_path / "c")
    assert abs(data.images[0].astype(int).mean() - 127) < 127


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([], "no sub-folders"),
        (["a"], r"1 class\(es\)"),
        ([f"c{n:03d}" for n in range(101)], r"101 class\(es\)"),
    ],
)
def test_number_of_class_folders(tmp_path, folders, message):
    for name in folders:
        fill(tmp_path / name, 1)
    with pytest.raises(UserError, match=message):
        load_table(f"folder:{tmp_path}")


def test_class_folder_without_images(tmp_path):
    fill(tmp_path / "a")
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=r"no images in .*b"):
        load_table(f"folder:{tmp_path}")


def test_csv_with_groups_and_metadata(tmp_path):
    groups = [f"g{n // 4}" if n < 20 else "" for n in range(24)]
    path = csv_set(tmp_path, group=groups, age=[f"{n}" if n else "?" for n in range(24)], sex=["f"] * 24)
    table = load_table(f"csv:{path}")
    assert table.classes == ("a", "b")
    assert table.frame["group"].tolist()[18:22] == ["g4", "g4", "img/20.jpg", "img/21.jpg"]
    assert np.isnan(table.frame["age"][0])
    assert table.frame["age"][5] == 5
    assert table.frame["sex"].tolist() == ["f"] * 24


@pytest.mark.parametrize("nobody", ["", "unknown", "Unknown", "nan", "None", "N/A"])
def test_images_of_an_unknown_group_are_not_one_group(tmp_path, nobody):
    groups = [f"g{n // 4}" if n < 20 else nobody for n in range(24)]
    table = load_table(f"csv:{csv_set(tmp_path, group=groups)}")
    assert table.frame["group"].nunique() == 5 + 4
    assert any("4 of 24 images have no group" in note for note in table.notes)


def test_csv_keeps_its_splits_and_numbers_order_numerically(tmp_path):
    fill(tmp_path / "img", 12)
    rows = [{"path": f"img/{n}.jpg", "label": n, "split": ("train", "validation", "test")[n % 3]} for n in range(12)]
    table = load_table(f"csv:{write_csv(tmp_path / 'list.csv', rows)}")
    assert table.classes == tuple(map(str, range(12)))
    assert table.frame["split"].tolist()[:3] == ["train", "val", "test"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"path": "img/0.jpg", "dx": "a"}], "no column 'label'"),
        ([{"file": "img/0.jpg", "label": "a"}], "no column 'path'"),
        ([{"path": "img/0.jpg", "label": ""}], "row 2: label is empty"),
        ([{"path": "img/0.jpg", "label": "a|b"}], "give csv:FILE,labels="),
        ([{"path": "img/0.jpg", "edema": 1, "mass": 0}], "give csv:FILE,labels="),
        ([{"path": "img/0.jpg", "label": "a"}, {"path": "img/99.jpg", "label": "b"}], "1 of 2 images are absent"),
        ([{"path": "img/0.jpg", "label": "a"}, {"path": "img/0.jpg", "label": "b"}], "'img/0.jpg' is listed twice"),
        ([{"path": "img/0.jpg", "label": "a"}], r"1 class\(es\)"),
        ([{"path": "img/0.jpg", "label": "a", "split": "holdout"}], "row 2: split 'holdout'"),
    ],
)
def test_bad_csv(tmp_path, rows, message):
    fill(tmp_path / "img", 2)
    with pytest.raises(UserError, match=message) as caught:
        load_table(f"csv:{write_csv(tmp_path / 'list.csv', rows)}")
    assert "list.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01", b"path,label\n"])
def test_a_file_that_is_no_table(tmp_path, content):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"list\.csv"):
        load_table(f"csv:{tmp_path / 'list.csv'}")


def test_paths_may_point_out_of_the_folder(tmp_path):
    fill(tmp_path / "img", 2)
    (tmp_path / "sub").mkdir()
    rows = [{"path": f"../img/{n}.jpg", "label": n} for n in range(2)]
    assert load_table(f"csv:{write_csv(tmp_path / 'sub' / 'list.csv', rows)}").read(1) == jpeg(1)


def test_unknown_scheme_suggests(tmp_path):
    with pytest.raises(UserError, match="unknown dataset 'ham1000'; nearest: ham10000"):
        load_table("ham1000:x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image size 0"),
        ({"image_size": -3}, "image size -3"),
        ({"fit": "stretch"}, "unknown fit 'stretch'"),
        ({"fold": "9/5"}, "k/K"),
        ({"fold": "1/5", "splits": "x.csv"}, "not both"),
        ({"splits": "absent.csv"}, "cannot read splits"),
    ],
)
def test_bad_options(tmp_path, options, message):
    path = csv_set(tmp_path)
    with pytest.raises(UserError, match=message):
        prepare(f"csv:{path}", **{"image_size": 8, "cache_dir": tmp_path / "c", **options})


def test_fingerprint_follows_the_data_and_nothing_else(tmp_path):
    path = csv_set(tmp_path)

    def prints(**options):
        return prepare(f"csv:{path}", **{"image_size": 8, "cache_dir": tmp_path / "c", **options}).fingerprint

    first = prints()
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert prints(image_size=9, fit="squash", seed=1, fold="2/5") == first
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[:0:-1]]))
    assert prints() == first
    path.write_text("\n".join(lines).replace("img/0.jpg,a", "img/0.jpg,b"))
    assert prints() != first
    path.write_text("\n".join(lines))
    (tmp_path / "img" / "0.jpg").write_bytes(jpeg(77))
    assert prints() != first
