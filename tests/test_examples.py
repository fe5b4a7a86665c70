"""The examples run, and do what they say."""

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_own_loop(capsys):
    state = runpy.run_path(str(EXAMPLES / "own_loop.py"))["main"](epochs=3)
    assert state.visits.tolist() == [3] * 256
    assert state.eps.unique().numel() > 2
    assert 0 <= state.eps.min() < state.eps.max() <= 8 / 255
    assert capsys.readouterr().out.count("epoch") == 3
