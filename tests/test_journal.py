import numpy as np
import pytest

from dpaat.errors import UserError
from dpaat.journal import Journal


def piece(value: int):
    return lambda: {"a": np.full(3, value), "b": np.array([0.5])}


def test_a_piece_is_computed_once_and_survives_the_process(tmp_path) -> None:
    first = Journal(tmp_path / "partial" / "j")
    assert not first.holds("k")
    assert first("k", piece(1))["a"].tolist() == [1, 1, 1]
    again = Journal(tmp_path / "partial" / "j")
    assert again.holds("k")
    assert again("k", piece(2))["a"].tolist() == [1, 1, 1]
    assert again("other", piece(2))["a"].tolist() == [2, 2, 2]
    again.clear()
    assert not (tmp_path / "partial").exists()


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut off", b"nonsense"])
def test_a_damaged_piece_is_computed_anew(tmp_path, damage) -> None:
    journal = Journal(tmp_path)
    journal("k", piece(1))
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage)
    assert journal("k", piece(2))["a"].tolist() == [2, 2, 2]
    assert journal("k", piece(3))["a"].tolist() == [2, 2, 2]


def test_an_error_leaves_nothing_behind(tmp_path) -> None:
    journal = Journal(tmp_path / "j")

    def fails():
        raise UserError("no")

    with pytest.raises(UserError):
        journal("k", fails)
    assert not journal.holds("k")


def test_without_a_folder_nothing_is_kept() -> None:
    journal = Journal()
    assert journal("k", piece(1))["a"].tolist() == [1, 1, 1]
    assert journal("k", piece(2))["a"].tolist() == [2, 2, 2]
    journal.clear()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written") as caught:
        Journal(tmp_path / "file" / "j")("k", piece(1))
    assert "\n" not in str(caught.value)
