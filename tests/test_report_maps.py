import json
from pathlib import Path

import numpy as np
import pytest

from report_makers import make_run, read_page


def score(value: float, chance: float | None, excess: tuple[float, float] | None) -> dict:
    return {
        "value": value,
        "interval": [value - 0.05, value + 0.05],
        "chance": chance,
        "excess": excess and sum(excess) / 2,
    } | {"excess_interval": excess}


def explain(run: Path) -> None:
    """Leave an explanation in the run folder as `dpaat explain` does, of an image of each of two classes."""
    scores = [
        ("grad-cam", 0.0, "energy", score(0.617, 0.311, (0.2, 0.4))),
        ("grad-cam", 0.0, "deletion", score(0.251, 0.243, (-0.05, 0.07))),
        ("edges", 0.0, "energy", score(0.402, 0.311, (0.05, 0.13))),
        ("grad-cam", 4 / 255, "ssim", score(0.733, None, None)),
    ]
    texts = {0.0: "0", 4 / 255: "4/255"}
    entry = {
        "data": "ham10000",
        "split": "test",
        "n": 2,
        "attack": {"label": "PGD-20"},
        "layer": {"name": "layer2", "height": 8, "width": 8},
        "explains": "logit of the true class",
        "score_titles": {"energy": {"title": "energy", "chance": "the lesion's share of the area"}},
        "scores": [
            {"map": kind, "eps": eps, "eps_text": texts[eps], "score": name, "balanced": found}
            for kind, eps, name, found in scores
        ],
        "randomization": [{"map": "grad-cam", "verdict": "warn", "evidence": "correlation 0.32"}],
        "empty": [{"map": "grad-cam", "eps": 4 / 255, "eps_text": "4/255", "n": 3}],
        "files": {"maps": "maps.npz", "scores": "scores.parquet"},
    }
    (run / "interpretability.json").write_text(json.dumps({"schema_version": 1, "explanations": [entry]}))
    (run / "interpretability").mkdir()
    np.savez(
        run / "interpretability" / "maps.npz",
        ids=np.array(["<b>one", "two"]),
        labels=np.array([0, 5]),
        images=np.full((2, 3, 16, 16), 99, dtype=np.uint8),
        map_names=np.array(["grad-cam"]),
        maps=np.ones((1, 2, 2, 16, 16), dtype=np.uint8),
        predicted=np.array([[0, 5], [1, 5]]),
        masks=np.ones((2, 16, 16), dtype=bool),
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = make_run(tmp_path / "run", radii=())
    explain(run)
    return run


def test_scores_stand_beside_their_chance_levels(run: Path, tmp_path: Path) -> None:
    page = read_page([run], tmp_path / "report.html")
    for words in ("61.7", "[56.7, 66.7]; chance 31.1", "edges, no model", "grad-cam, at 4/255", "layer2 (8 x 8)"):
        assert words in page.text
    assert 'class="key">61.7' in page.raw
    assert 'class="key">25.1' not in page.raw
    assert 'class="warn">warn<' in page.raw
    assert "No attribution maps yet" not in page.text
    assert "3 of grad-cam at 4/255" in page.text
    (alt,) = [alt for alt in page.alts if alt.startswith("Energy inside the lesion")]
    assert "run: grad-cam +30.0 [20.0, 40.0], edges +9.0 [5.0, 13.0]" in alt


def test_maps_are_shown_with_their_images(run: Path, tmp_path: Path) -> None:
    page = read_page([run], tmp_path / "report.html")
    assert page.tags.count("img") == 2 * 3
    assert "<b>one: grad-cam attacked" in page.pictures
    assert "akiec; taken for akiec, attacked at 4/255 for bcc" in page.text
    assert "The white line is the lesion" in page.text
    assert "img" not in read_page([run], tmp_path / "bare.html", images=False).tags


def test_lost_maps_and_other_versions_are_said(run: Path, tmp_path: Path) -> None:
    (run / "interpretability" / "maps.npz").unlink()
    page = read_page([run], tmp_path / "report.html")
    assert "the maps themselves are not there any more (maps.npz)" in page.text
    assert "61.7" in page.text
    for text in ('{"schema_version": 2, "explanations": [{}]}', '{"maps": 3}'):
        (run / "interpretability.json").write_text(text)
        page = read_page([run], tmp_path / "report.html")
        assert "interpretability.json is of another version of dpaat" in page.text
