from pathlib import Path

import pytest
import yaml

from dpaat.cli import main
from report_makers import add_analyses, make_run, masking

HEADINGS = [
    "## Model details",
    "## Intended use and limits",
    "## Training data",
    "## Evaluation",
    "## How to reproduce it",
    "## Citation",
]


def read_card(path: Path) -> tuple[dict, str]:
    _, head, text = path.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


@pytest.fixture
def card(tmp_path: Path) -> tuple[dict, str]:
    runs = [make_run(tmp_path / "one", method="trades"), make_run(tmp_path / "two", method="dpaat")]
    add_analyses(runs[0], masking=masking("warn", "suspicious"))
    out = tmp_path / "README.md"
    assert main(["report", *map(str, runs), "--format", "md", "--out", str(out)]) == 0
    return read_card(out)


def test_the_head_is_what_hubs_read(card: tuple[dict, str]) -> None:
    head, _ = card
    assert head["license"] == "cc-by-nc-4.0"
    assert {"adversarial-robustness", "trades", "dpaat"} <= set(head["tags"])
    one, two = head["model-index"]
    assert (one["name"], two["name"]) == ("one", "two")
    (result,) = one["results"]
    assert result["dataset"]["type"] == "ham10000"
    found = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert 0 < found["balanced accuracy, PGD-20 4/255"] < found["balanced accuracy"] < 1


def test_the_text_has_the_parts_and_the_tables(card: tuple[dict, str]) -> None:
    _, text = card
    places = [text.index(heading) for heading in HEADINGS]
    assert places == sorted(places)
    for words in (
        "Not a medical device",
        "suspicious",
        "Tschandl",
        "2403.06798",
        "`dpaat train --data",
        "| always nv |",
    ):
        assert words in text
    assert "<img" not in text
    rows = [line.replace(r"\|", "") for line in text.splitlines() if line.startswith("|")]
    widths = [line.count("|") for line in rows]
    assert len(rows) > 30
    for number, line in enumerate(rows):
        if line.startswith("| ---"):
            assert widths[number - 1] == widths[number] == widths[number + 1]


def test_names_with_markup_stay_text(tmp_path: Path) -> None:
    evil = "<b>|*x*_[y](z)"
    run = make_run(tmp_path / "run", counts={evil: 9, "plain": 12}, licence="my own terms")
    out = tmp_path / "card.md"
    assert main(["report", str(run), "--format=md", f"--out={out}"]) == 0
    head, text = read_card(out)
    assert head["license"] == "other"
    assert head["license_name"] == "my own terms"
    assert r"\<b\>\|\*x\*\_\[y\](z)" in text


def test_a_run_that_was_not_evaluated_has_a_card(tmp_path: Path) -> None:
    out = tmp_path / "card.md"
    assert main(["report", str(make_run(tmp_path / "run", radii=())), "--format=md", f"--out={out}"]) == 0
    head, text = read_card(out)
    assert head["model-index"] == [{"name": "run", "results": []}]
    assert "Not evaluated yet: run" in text


def test_the_default_file_fits_the_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", radii=())
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(run), "--format", "md"]) == 0
    assert main(["report", str(run), "--no-images"]) == 0
    assert Path("model-card.md").read_text().startswith("---\n")
    assert Path("report.html").read_text().startswith("<!doctype html>")
