import base64
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from dpaat.errors import UserError
from dpaat.report import write_report
from dpaat.report.sections.hard_images import estimates
from dpaat.report.view import read_run
from dpaat.storage import read_json, write_json
from report_makers import make_run, read_page


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run; three of its images are at a distance of 0."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    part = max((run / "perturbation.parquet").glob("*.parquet"))
    frame = pd.read_parquet(part)
    distance = np.linspace(0.001, 0.05, len(frame), dtype=np.float32)
    distance[:3] = 0
    frame.assign(distance=distance, loss=np.linspace(1, 2, len(frame), dtype=np.float32)).to_parquet(part, index=False)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["options"]["rule"] = "solve"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    info = read_json(run / "run.json")
    info["config"]["options"]["rule"] = "solve"
    write_json(run / "run.json", {name: value for name, value in info.items() if name != "files"})
    return run


def test_images_at_0_stand_first_those_of_the_highest_loss_above_their_class(run: Path) -> None:
    frame = estimates(read_run(run, "run"))
    assert frame is not None
    assert (frame["distance"] == 0).sum() == 3
    assert frame["distance"].is_monotonic_increasing
    assert frame["loss_above_class"][:3].is_monotonic_decreasing
    assert frame.groupby("class")["loss_above_class"].mean().abs().max() < 1e-6


def test_the_page_lists_them_with_pictures_and_a_table_to_save(run: Path, tmp_path: Path) -> None:
    page = read_page([run], tmp_path / "report.html")
    frame = estimates(read_run(run, "run"))
    hard = frame[frame["distance"] == 0]["id"].tolist()
    assert "3 images stayed at a distance of 0" in page.text
    assert all(f"labelled {name.split('/')[0]}, taken for" in page.text for name in hard)
    assert {f"{name}, {name.split('/')[0]}" for name in hard} <= {*page.pictures}
    (saved,) = [link for link in page.links if link.startswith("data:text/csv") and "loss_above_class" in decoded(link)]
    assert [line.split(",")[0] for line in decoded(saved).splitlines()[1:]] == hard
    bare = read_page([run], tmp_path / "bare.html", images=False)
    assert "img" not in bare.tags
    assert all(name in bare.text for name in hard)
    card = write_report([run], tmp_path / "README.md", format="md").read_text(encoding="utf-8")
    assert "3 images stayed at a distance of 0" in card
    assert not any(name in card for name in hard)  # a card is published


def decoded(link: str) -> str:
    return base64.b64decode(link.split(",", 1)[1]).decode()


def test_a_class_that_was_never_attacked_has_no_numbers(run: Path, tmp_path: Path) -> None:
    part = max((run / "perturbation.parquet").glob("*.parquet"))
    frame = pd.read_parquet(part)
    frame.loc[frame["class"] == "c2", "distance"] = np.nan
    frame.to_parquet(part, index=False)
    text = read_page([run], tmp_path / "report.html", images=False).text
    assert "nan" not in text.split("Distance to the decision boundary")[1].split("Hard or mislabelled")[0]


def test_pictures_that_cannot_be_had_are_said(run: Path, tmp_path: Path) -> None:
    (run / "checkpoints" / "best.ckpt").unlink()
    assert "No pictures: " in read_page([run], tmp_path / "report.html").text


def test_a_run_without_estimates_has_no_section(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", method="dpaat", epochs=2)  # logged before there were distances
    assert estimates(read_run(run, "run")) is None
    assert "decision boundary" not in read_page([run], tmp_path / "report.html").text


def test_an_unreadable_log_is_an_error_of_one_line(run: Path) -> None:
    part = max((run / "perturbation.parquet").glob("*.parquet"))
    part.write_bytes(b"no parquet")
    with pytest.raises(UserError, match="not readable"):
        estimates(read_run(run, "run"))
