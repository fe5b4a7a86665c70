"""Kind 15: loud but unhelpful: tables of other programs, paths of Windows, numbers in YAML where a text is wanted."""

import os

import pytest

from broken_datasets import table
from dpaat.cli import main
from dpaat.data import load_table
from dpaat.errors import UserError

posix = pytest.mark.skipif(os.name == "nt", reason="on Windows, a path of Windows is one")


# JetBrains-Research/jbr#140, asreview/asreview#302: what Excel writes in half of Europe
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_tables_of_other_programs(tmp_path, separator, encoding):
    columns = {"site": lambda n: "Köln", "age": lambda n: f"{n}.5"}
    spec = table(columns=columns, separator=separator, encoding="utf-8")(tmp_path)
    path = tmp_path / "list.csv"
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path.write_bytes((mark + path.read_text(encoding="utf-8")).encode(encoding))
    found = load_table(spec)
    assert len(found) == 24
    assert set(found.frame["site"]) == {"Köln"}
    assert found.frame["age"][3] == 3.5


def test_the_first_line_of_excel(tmp_path):
    spec = table(separator=";")(tmp_path)
    path = tmp_path / "list.csv"
    path.write_text("sep=;\n" + path.read_text())
    assert len(load_table(spec)) == 24
    path.write_text(path.read_text().replace(";y", ";nan", 1))
    with pytest.raises(UserError, match="row 4: label"):
        load_table(spec)


@pytest.mark.parametrize("content", ["path,label\nKöln.jpg,x\n".encode("cp1252"), "path,label\n".encode("utf-16-le")])
def test_other_encodings_are_named(tmp_path, content):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(UserError, match="save it as 'CSV UTF-8'"):
        load_table(f"csv:{tmp_path / 'list.csv'}")


@posix
def test_backslashes_divide_folders(tmp_path):
    columns = {"path": lambda n: f"img\\{n:04d}.jpg", "mask": lambda n: f".\\img\\{n:04d}.jpg" if n else ""}
    found = load_table(table(columns=columns)(tmp_path))
    assert found.ids[3] == "img\\0003.jpg"
    assert found.read(3) == (tmp_path / "img" / "0003.jpg").read_bytes()
    assert found.read_mask is not None
    assert found.read_mask(4) == found.read(4)


@posix
def test_absolute_paths_of_windows_are_called_that(tmp_path):
    with pytest.raises(UserError, match=r"24 of 24 images are absent.*paths of Windows"):
        load_table(table(columns={"path": lambda n: f"C:\\data\\{n}.jpg"})(tmp_path))


@posix
@pytest.mark.parametrize("spec", ["csv:C:\\data\\list.csv", "folder:D:\\data", "medmnist:my:C:\\x.npz"])
def test_specs_of_windows(spec, capsys):
    assert main(["data", "check", spec]) == 2
    error = capsys.readouterr().err
    assert "path of Windows" in error
    assert "/mnt/" in error


@posix
def test_a_spec_with_backslashes(tmp_path, monkeypatch):
    table()(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(UserError, match=f"did you mean {tmp_path.name}/list.csv"):
        load_table(f"csv:{tmp_path.name}\\list.csv")


@pytest.mark.parametrize(
    ("spec", "advice"),
    [
        ("C:\\data\\list.csv", "write csv:C:"),
        ("D:/data", "write folder:D:/data"),
        ("data/list.csv", "write csv:data/list.csv"),
        ("data/images", "write folder:data/images"),
    ],
)
def test_a_path_instead_of_a_spec(spec, advice):
    with pytest.raises(UserError, match="what kind of dataset") as caught:
        load_table(spec)
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("line", "field", "advice"),
    [
        ("data: 5", "--data", "put it into quotes, such as '5'"),
        ("val_eps: 0.03", "--val-eps", "'0.03'"),
        ("precision: 32", "--precision", "'32'"),
        ("fold: 1", "--fold", "'1'"),
        ("splits: 3", "--splits", "'3'"),
        ("augment: no", "--augment", "truth value"),
        ("data: [a, b]", "--data", "needs a text, not ['a', 'b']"),
    ],
)
def test_numbers_in_yaml_where_a_text_is_wanted(tmp_path, capsys, line, field, advice):
    (tmp_path / "c.yaml").write_text(line + "\n")
    assert main(["train", f"--config={tmp_path / 'c.yaml'}", f"--out={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert field in error
    assert advice in error
    assert "Union" not in error
