"""`dpaat data check` names what is wrong with small broken datasets in one line, and finds nothing in sound ones."""

import pytest

import broken_datasets
import broken_values
from dpaat.cli import main

BROKEN = broken_datasets.BROKEN | broken_values.BROKEN
SOUND = broken_datasets.SOUND | broken_values.SOUND


@pytest.mark.parametrize("name", BROKEN)
def test_broken(name, tmp_path, capsys):
    make, words = BROKEN[name]
    assert main(["data", "check", make(tmp_path)]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem: ")]
    assert len(lines) == 1
    assert all(word in lines[0] for word in words)


@pytest.mark.parametrize("name", SOUND)
def test_sound(name, tmp_path, capsys):
    assert main(["data", "check", SOUND[name](tmp_path)]) == 0
    assert "problem: " not in capsys.readouterr().out
