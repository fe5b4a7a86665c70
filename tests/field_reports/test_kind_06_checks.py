"""Kind 6: a check that exists is called where it matters."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from benchmark_makers import here, write_grid
from benchmark_makers import run as run_grid
from broken_values import columns, encode, grey, write_set
from data_makers import array_table, write_csv
from dpaat.benchmark import runner
from dpaat.cli import main
from dpaat.data import load_table, prepare
from dpaat.data.check import check
from dpaat.data.findings import warnings_of
from dpaat.data.frames import names_a_group
from dpaat.data.splits import assign_splits, refusals
from dpaat.errors import UserError
from training_makers import TINY

TRAIN = [f"--{name.replace('_', '-')}={value}" for name, value in (TINY | {"epochs": 1}).items()]
THIRDS = ("train", "train", "train", "train", "val", "test")
PATIENTS = [f"p{number}" for number in range(7)]


def checked(spec, **options):
    console = Console(file=io.StringIO(), width=400)
    problems = check(spec, console=console, **options)
    return problems["count"], console.file.getvalue()


def prepared(spec, **options):
    return prepare(spec, image_size=16, progress=False, **options)


def leaking(folder):
    return write_set(folder, columns=columns(split=THIRDS, group=PATIENTS))


# --- COVID-CT#11, lightning-Covid19#11: one patient in training and test


@pytest.fixture(scope="module")
def leaky_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run on data whose split cuts through patients, and what its training said."""
    folder = tmp_path_factory.mktemp("leaky")
    console = Console(file=io.StringIO(), width=400)
    from dpaat.config import TrainConfig
    from dpaat.training import train

    config = TrainConfig(data=leaking(folder / "d"), **{**TINY, "epochs": 1})  # type: ignore[arg-type]
    return train(config, folder / "run", console=console), console.file.getvalue()  # type: ignore[attr-defined]


def test_train_warns_of_a_group_on_two_sides(leaky_run):
    run, said = leaky_run
    warning = next(line for line in said.splitlines() if line.startswith("warning: same group on two sides"))
    assert "(train)" in warning
    assert "(test)" in warning
    assert json.loads((run / "run.json").read_text())["data_warnings"] == [warning.removeprefix("warning: ")]


def test_evaluate_and_explain_repeat_it(leaky_run, capsys):
    run, _ = leaky_run
    assert main(["evaluate", str(run), "--attack=fgsm", "--eps=1/255", "--device=cpu"]) == 0
    assert "warning: same group on two sides" in capsys.readouterr().out
    assert "same group" in json.loads((run / "evaluation.json").read_text())["data_warnings"][0]
    assert main(["explain", str(run), "--maps=input-gradient", "--steps=1", "--device=cpu"]) == 0
    assert "warning: same group on two sides" in capsys.readouterr().out


def test_report_and_card_show_it(leaky_run, tmp_path):
    run, _ = leaky_run
    for name, options in (("r.html", []), ("r.md", ["--format=md"])):
        assert main(["report", str(run), f"--out={tmp_path / name}", *options]) == 0
        assert "same group on two sides of the split" in (tmp_path / name).read_text(encoding="utf-8")


def test_a_sound_run_is_not_warned_of(tiny_run, capsys):
    assert json.loads((tiny_run / "run.json").read_text())["data_warnings"] == []


def _duplicates(folder):
    return write_set(folder, odd={4: grey(0)}, columns=columns(split=THIRDS))


def _folders(folder):
    for part, seeds in (("train", range(8)), ("test", range(6, 12)), ("val", range(12, 16))):
        for seed in seeds:
            place = folder / part / "ab"[seed % 2]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{seed}.png").write_bytes(encode(grey(seed), "PNG"))
    return f"folder:{folder}"


@pytest.mark.parametrize(
    ("make", "reason"),
    [(leaking, "same group"), (_duplicates, "identical images"), (_folders, "identical images")],
)
def test_every_kind_of_given_split_is_looked_at(make, reason, tmp_path):
    spec = make(tmp_path / "d")
    assert [line for line in warnings_of(prepared(spec)) if line.startswith(f"{reason} on two sides")]
    problems, text = checked(spec)
    assert problems > 0
    assert f"problem: {reason} on two sides" in text
    if make is not _folders:
        assert warnings_of(prepared(spec, fold="1/3")) == []  # cut anew, they stay together


def test_a_file_of_splits_is_looked_at(tmp_path):
    spec = write_set(tmp_path / "d", columns=columns(group=PATIENTS))
    rows = [{"id": f"{number:02d}.png", "split": THIRDS[number % 6]} for number in range(24)]
    splits = write_csv(tmp_path / "splits.csv", rows)
    assert "same group on two sides" in warnings_of(prepared(spec, splits=splits))[0]
    assert warnings_of(prepared(spec)) == []


def test_near_duplicates_on_two_sides_are_told():
    from dpaat.data.findings import leak_lines
    from dpaat.data.splits import leaks

    table = array_table([0, 1] * 3, near_duplicates=(("img00000", "img00005"),))
    split = np.array(["train"] * 4 + ["val", "test"])
    (line,) = leak_lines(leaks(table, split), dict(zip(table.ids.tolist(), split.tolist(), strict=True)))
    assert "near-duplicates on two sides of the split: 1 case(s), such as img00000 (train) and img00005 (test)" in line


# --- what train refuses, data check reports


REFUSED = {
    "no image of class b in the training split": columns(split=("train", "test", "train", "val")),
    "no image of class a in the training split": columns(split=("test", "train", "val", "train")),
}


@pytest.mark.parametrize("words", REFUSED)
def test_data_check_reports_what_train_refuses(words, tmp_path, capsys):
    spec = write_set(tmp_path / "d", columns=REFUSED[words])
    assert main(["train", f"--data={spec}", f"--out={tmp_path / 'run'}", *TRAIN]) == 2
    assert words in capsys.readouterr().err
    problems, text = checked(spec)
    assert problems > 0
    assert words in text


def test_an_empty_part_and_all_classes_without_training_are_reported():
    table = array_table([0, 1, 2] * 2)
    split = np.array(["train", "test", "test", "train", "test", "test"])
    empty, absent = refusals(table, split)
    assert "the val split is empty" in empty
    assert "no image of class c1, c2 in the training split" in absent
    assert refusals(table, np.array(["train"] * 3 + ["val"] * 3)) == []


def test_a_broken_table_is_a_problem_and_an_absent_one_an_error(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("path,label\na.png,x\n")
    assert main(["data", "check", f"csv:{tmp_path / 'list.csv'}"]) == 1
    assert "images are absent" in capsys.readouterr().out
    assert main(["data", "check", f"csv:{tmp_path / 'none.csv'}"]) == 2
    assert main(["data", "check", "csv:"]) == 2
    assert main(["data", "check", f"cvs:{tmp_path / 'list.csv'}"]) == 2


# --- a class with few images is learned from first


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rare", [1, 2, 3])
def test_train_is_filled_first(seed, rare):
    table = array_table([0] * 30 + [1] * 20 + [2] * rare)
    split = assign_splits(table, seed=seed)
    parts = set(split[table.labels == 2])
    assert "train" in parts
    assert len(parts) == rare
    assert refusals(table, split) == []


@pytest.mark.parametrize("seed", range(8))
def test_a_validation_split_does_not_take_the_only_training_image(seed):
    given = ["train"] * 30 + ["test"] * 10 + ["train"] * 3 + ["train", "test"]
    table = array_table([0] * 40 + [1] * 3 + [2] * 2, split=given)
    split = assign_splits(table, seed=seed)
    assert split[43] == "train"
    assert (split[np.array(given) == "test"] == "test").all()


def test_folds_test_every_group_once_all_the_same():
    table = array_table([0] * 12 + [1] * 12 + [2] * 2)
    tested = [np.flatnonzero(assign_splits(table, seed=0, fold=f"{k}/3") == "test") for k in (1, 2, 3)]
    assert sorted(np.concatenate(tested)) == list(range(26))


# --- groups that nobody named


def test_a_table_without_groups_says_so(tmp_path, tiny_images, tiny_run):
    note = "no group column: every image counts as independent"
    problems, text = checked(write_set(tmp_path / "d"))
    assert problems == 0
    assert f"note: {note}" in text
    assert f"note: {note}" not in checked(write_set(tmp_path / "g", columns=columns(group=PATIENTS)))[1]
    assert f"note: {note}" in checked(f"folder:{tiny_images}")[1]
    assert json.loads((tiny_run / "run.json").read_text())["notes"] == [note]


@pytest.mark.parametrize(
    "name",
    ["patient", "patient_id", "PatientID", "Patient ID", "patientId", "patient_no", "anon_patient_id", "subject",
     "SubjectID", "case", "case_id", "lesion", "lesion_id", "StudyInstanceUID", "study_id", "slide", "slide_name",
     "mrn", "MRN", "PID", "patients", "pat_id", "SeriesInstanceUID", "wsi", "donor", "AccessionNumber", "video_id",
     "medical_record_number", "animal", "sample_id", "TCGA_barcode"],
)  # fmt: skip
def test_a_column_that_looks_like_a_group_is_asked_about(name, tmp_path):
    spec = write_set(tmp_path, columns=columns(**{name: PATIENTS}))
    (warning,) = load_table(spec).warnings
    assert f"{spec},group={name}" in warning
    used = load_table(f"{spec},group={name}")
    assert used.warnings == used.notes == ()
    assert used.frame["group"].nunique() == len(PATIENTS)
    assert load_table(f"{spec},group=path").warnings == ()


@pytest.mark.parametrize(
    "name",
    [
        "patient_age",
        "PatientSex",
        "StudyDate",
        "lesion_type",
        "slide_stain",
        "phase",
        "suitcase",
        "lowercase",
        "sex",
        "SeriesDescription",
        "sample_type",
        "pattern",
        "recorded",
    ],
)
def test_other_columns_are_not(name):
    assert not names_a_group(name)


def test_a_column_of_unique_or_of_few_values_is_no_group(tmp_path):
    unique = write_set(tmp_path / "u", columns=lambda number: {"patient_id": number})
    few = write_set(tmp_path / "f", columns=columns(lesion=("mole", "mark")))
    assert load_table(unique).warnings == load_table(few).warnings == ()


def test_of_two_columns_the_coarser_is_proposed_and_an_absent_one_refused(tmp_path):
    spec = write_set(
        tmp_path, columns=columns(lesion_id=[f"l{n}" for n in range(11)], patient_id=[f"p{n}" for n in range(5)])
    )
    assert ",group=patient_id" in load_table(spec).warnings[0]
    with pytest.raises(UserError, match="no column 'patients'"):
        load_table(f"{spec},group=patients")


def test_rows_without_a_group_are_counted(tmp_path):
    spec = write_set(tmp_path, columns=columns(group=("p0", "p0", "", "nan", "p1", "None")))
    table = load_table(spec)
    assert "12 of 24 images have no group and count as independent" in table.notes[0]
    assert table.frame["group"].nunique() == 2 + 12


def test_train_asks_too(tmp_path):
    spec = write_set(tmp_path, columns=columns(patient_id=PATIENTS))
    assert "patient_id" in warnings_of(prepared(spec))[0]


def test_images_of_two_classes_at_once_are_told_in_training_too(tmp_path):
    spec = write_set(tmp_path, odd={5: grey(2)})
    assert warnings_of(prepared(spec)) == ["identical images of different classes: 1: 02.png = 05.png"]


def test_images_without_content_are_told_in_training_too(tmp_path):
    spec = write_set(tmp_path, odd={5: Image.new("L", (16, 16), 90)})
    assert warnings_of(prepared(spec)) == ["constant images: 1 of 24: 05.png"]


# found in our audit: tables of a benchmark said nothing of what its runs were warned of
def test_a_benchmark_repeats_it(tiny_images, tmp_path, monkeypatch):
    images = shutil.copytree(tiny_images, tmp_path / "images")
    Image.new("RGB", (16, 16)).save(next(images.rglob("*.png")))
    monkeypatch.setattr(runner, "run_command", here)
    grid = write_grid(tmp_path / "grid.yaml", recipes={"standard": {"method": "standard"}})
    assert run_grid(grid, tmp_path / "out", images) == 0
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert text.count("constant images: 1 of 54") == 1
