"""Kind 3: nothing is dropped without a count."""

import math

import pandas as pd
import pytest
from PIL import Image

from broken_datasets import class_folders, ham_beside, images, table, with_file
from data_makers import jpeg, write_csv
from dpaat.cli import main
from dpaat.data import load_table
from dpaat.data.frames import age_in_years
from dpaat.data.images import SUFFIXES
from dpaat.errors import UserError
from dpaat.storage import read_json
from dpaat.training import train
from training_makers import make_images, tiny_config


# Kaggle/kagglehub#246, huggingface/pytorch-image-models#334: linked folders are silently left out
def test_linked_folders_are_followed(tmp_path):
    images(tmp_path / "elsewhere", ["more"], start=500)
    images(tmp_path / "d", ["a", "b"])
    (tmp_path / "d" / "a" / "link").symlink_to(tmp_path / "elsewhere" / "more")
    (tmp_path / "d" / "c").symlink_to(tmp_path / "elsewhere")
    table = load_table(f"folder:{tmp_path / 'd'}")
    assert table.classes == ("a", "b", "c")
    assert table.frame["label"].value_counts().sort_index().tolist() == [12, 6, 6]


@pytest.mark.parametrize("target", ["a", ".", "a/deep"])
def test_links_in_a_circle_end(tmp_path, target):
    images(tmp_path, ["a/deep", "b"])
    (tmp_path / "a" / "deep" / "again").symlink_to(tmp_path / target)
    assert len(load_table(f"folder:{tmp_path}")) == 12


# thumbsup/thumbsup#368: .jfif and .avif are quietly ignored
def test_every_suffix_is_read_or_named(tmp_path):
    Image.init()
    images(tmp_path, ["a", "b"])
    image = Image.frombytes("RGB", (16, 16), bytes(range(256)) * 3)
    written = []
    for suffix, kind in Image.registered_extensions().items():
        try:
            image.save(tmp_path / "a" / f"image{suffix}", kind)
            written.append(suffix)
        except (OSError, KeyError, ValueError, TypeError):
            (tmp_path / "a" / f"image{suffix}").unlink(missing_ok=True)
    table = load_table(f"folder:{tmp_path}")
    found = {str(name).rpartition(".")[2] for name in table.ids if "image" in name}
    left = [suffix for suffix in written if suffix[1:] not in found]
    assert {".jfif", ".jpe", ".dib", ".tga", ".j2k", ".pnm"} <= {f".{suffix}" for suffix in found} & SUFFIXES
    assert f"{len(left)} file" in table.warnings[0]


@pytest.mark.parametrize("name", ["a/scan.dcm", "a/photo.heic", "b/volume.nii.gz", "a/list.txt", "b/.hidden.png"])
def test_files_that_are_no_images_are_counted(tmp_path, name):
    table = load_table(with_file(class_folders("a", "b"), name)(tmp_path))
    assert [f"1 file that is no image that can be read is left out: {name}"] == list(table.warnings)


@pytest.mark.parametrize("name", ["a/.DS_Store", "a/Thumbs.db", "a/._0001.jpg", "a/desktop.ini", ".git/x.jpg"])
def test_what_the_system_put_there_is_not(tmp_path, name):
    table = load_table(with_file(class_folders("a", "b"), name)(tmp_path))
    assert (len(table), table.warnings) == (12, ())


def test_a_class_of_unreadable_files_names_them(tmp_path):
    spec = with_file(class_folders("a", "b"), "c/scan.dcm")(tmp_path)
    with pytest.raises(UserError, match=r"no images in .*c \(scan\.dcm"):
        load_table(spec)


def test_predict_names_what_it_leaves_out(tmp_path, tiny_run, capsys):
    images(tmp_path, ["new"])
    (tmp_path / "new" / "scan.dcm").write_bytes(b"DICM")
    (tmp_path / "new" / "more.jfif").write_bytes(jpeg(77))
    out = tmp_path / "p.csv"
    assert main(["predict", str(tiny_run), str(tmp_path / "new"), f"--out={out}", "--device=cpu"]) == 0
    assert "left out" in capsys.readouterr().out
    assert len(pd.read_csv(out)) == 7


def test_train_says_it_and_keeps_it(tmp_path, capsys):
    folder = make_images(tmp_path / "images")
    (folder / "c0" / "scan.dcm").write_bytes(b"DICM")
    run = train(tiny_config(folder, epochs=1), tmp_path / "run")
    assert any("c0/scan.dcm" in line for line in read_json(run / "run.json")["data_warnings"])
    assert main(["report", str(run), f"--out={tmp_path / 'r.html'}", "--no-images"]) == 0
    assert "c0/scan.dcm" in (tmp_path / "r.html").read_text()


def test_columns_that_are_not_used_are_listed(tmp_path):
    found = load_table(table(columns={"dx_type": lambda n: "histo", "ward": lambda n: n % 3})(tmp_path))
    assert "columns that are not used: dx_type, ward" in found.notes
    assert found.warnings == ()


def test_a_column_in_capitals_is_used(tmp_path):
    columns = {"Split": lambda n: ("train", "test")[n % 2], "AGE": lambda n: 50 + n, "Group": lambda n: n // 2}
    found = load_table(table(columns=columns)(tmp_path))
    assert set(found.frame["split"]) == {"train", "test"}
    assert found.frame["age"].tolist()[:2] == [50, 51]
    assert found.frame["group"].nunique() == 12


@pytest.mark.parametrize("name", ["subset", "Fold", "partition", "splits"])
def test_a_column_that_may_be_the_split_is_asked_about(tmp_path, name):
    found = load_table(table(columns={name: lambda n: "train"})(tmp_path))
    assert any(f"column '{name}' is not used" in line for line in found.warnings)


# nhsx/covid-chest-imaging-database#98: ages such as 002Y, and of days, weeks and months
@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("058Y", 58),
        ("58", 58),
        ("58.5", 58.5),
        ("58,5", 58.5),
        ("006M", 0.5),
        ("030D", 30 / 365.25),
        ("52 weeks", 52 * 7 / 365.25),
        ("58 years", 58),
        ("7yo", 7),
        ("0", 0),
        (" 085y ", 85),
    ],
)
def test_ages_that_are_understood(text, years):
    assert age_in_years(text) == pytest.approx(years)


@pytest.mark.parametrize("text", ["old", "60-70", ">89", "90+", "-1", "999", "1956-01-01", "nan", "", "inf", "58Y6M"])
def test_ages_that_are_not(text):
    assert math.isnan(age_in_years(text))


def test_ages_that_are_not_understood_are_counted_and_missing_ones_are_not(tmp_path):
    ages = ["058Y", "old", "", "nan", "unknown", "90+"]
    found = load_table(table(columns={"age": lambda n: ages[n % 6]})(tmp_path))
    assert found.frame["age"].notna().sum() == 4
    assert any(line.startswith("age of 8 of 24 images is not understood") for line in found.warnings)


@pytest.mark.parametrize("other", ["./img/0003.jpg", "img//0003.jpg", "img/../img/0003.jpg"])
def test_an_image_listed_twice_under_two_names(tmp_path, other):
    images(tmp_path, ["img"])
    rows = [{"path": f"img/{n:04d}.jpg", "label": "xy"[n % 2]} for n in range(6)] + [{"path": other, "label": "x"}]
    with pytest.raises(UserError, match=r"listed twice.*row 8"):
        load_table(f"csv:{write_csv(tmp_path / 'list.csv', rows)}")


def test_images_of_ham10000_that_are_not_listed(tmp_path):
    spec = with_file(ham_beside("other"), "d/HAM10000_images_part_1/ISIC_9999999.jpg")(tmp_path)
    assert any("1 images are not in HAM10000_metadata.csv" in note for note in load_table(spec).notes)


# found in our audit
def test_a_link_that_leads_nowhere_is_named(tmp_path):
    make = class_folders("a", "b")(tmp_path)
    (tmp_path / "c").symlink_to(tmp_path / "gone", target_is_directory=True)
    assert "left out, being in no class folder: c" in load_table(make).warnings
