import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpaat.report.gallery import MAX_SIDE, choose, image_uri, map_uri, outlined, perturbation_uri, specimens
from dpaat.report.view import read_run
from dpaat.storage import read_json, write_json
from report_makers import read_page


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run of the adaptive method."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def change_radii(run: Path, change) -> pd.DataFrame:
    part = max((run / "perturbation.parquet").glob("*.parquet"))
    frame = change(pd.read_parquet(part))
    frame.to_parquet(part, index=False)
    info = read_json(run / "run.json")
    write_json(run / "run.json", {name: value for name, value in info.items() if name != "files"})
    return frame


def test_the_ends_of_every_class_are_chosen() -> None:
    eps = [0.01, 0.03, 0.02, 0.03, 0.0]
    frame = pd.DataFrame({"id": list("abcde"), "class": "one", "eps": eps, "loss": [1.0, 0.5, 1.0, 0.4, 2.0]})
    lone = pd.DataFrame({"id": ["f"], "class": ["two"], "eps": [0.02], "loss": [1.0]})
    chosen = choose(pd.concat([lone, frame], ignore_index=True))
    assert chosen[chosen["robust"]]["id"].tolist() == ["d", "b", "f"]
    assert chosen[~chosen["robust"]]["id"].tolist() == ["e", "a"]


def test_at_most_ten_classes_are_chosen() -> None:
    frame = pd.DataFrame({"id": [str(k) for k in range(100)], "class": [f"c{k % 25}" for k in range(100)]})
    assert choose(frame.assign(eps=0.01, loss=1.0))["class"].nunique() == 10


def test_specimens_lie_inside_their_radii(run: Path) -> None:
    change_radii(run, lambda frame: frame.assign(eps=np.linspace(0, 8 / 255, len(frame), dtype=np.float32)))
    found, missing = specimens(read_run(run, "run"))
    assert missing == 0
    assert {each.label for each in found} == {"c0", "c1", "c2"}
    for each in found:
        distance = np.abs(each.adversarial - each.image.astype(np.float32) / 255).max()
        assert distance <= each.eps + 1e-6
        assert each.eps == 0 or distance > 0
        assert each.radii[-1] == pytest.approx(each.eps)
        assert all(values.shape == each.image.shape[1:] for values in each.maps)
    robust = {each.label: each.eps for each in found if each.robust}
    assert all(each.eps < robust[each.label] for each in found if not each.robust)


def test_the_page_shows_them_with_their_licence(run: Path, tmp_path: Path) -> None:
    page = read_page([run], tmp_path / "report.html")
    curves = page.raw.count('class="spark"')
    assert page.tags.count("img") == 4 * curves + page.raw.count('<div class="card">') > 0  # hard images have no curve
    assert all(page.pictures)
    assert "Images: " in page.text
    assert "licence unknown" in page.text
    assert sum(alt.startswith("radius over the epochs") for alt in page.alts) == curves > 0
    bare = read_page([run], tmp_path / "bare.html", images=False)
    assert "img" not in bare.tags
    assert "written without images" in bare.text


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda run: (run / "checkpoints" / "best.ckpt").unlink(), "has no checkpoint"),
        (
            lambda run: (run / "config.yaml").write_text(
                (run / "config.yaml").read_text().replace("data: folder:", "data: folder:gone-")
            ),
            "gone-",
        ),
        (
            lambda run: change_radii(run, lambda frame: frame.assign(id="gone")),
            "none of the images chosen is in the data",
        ),
        (lambda run: shutil.rmtree(run / "perturbation.parquet"), "has no perturbation.parquet"),
    ],
)
def test_what_is_missing_is_said(run: Path, tmp_path: Path, spoil, words: str) -> None:
    spoil(run)
    page = read_page([run], tmp_path / "report.html")
    (line,) = [text for text in page.raw.splitlines() if "No gallery" in text]
    assert words in line
    assert "img" not in page.tags


def test_an_image_that_no_longer_exists_leaves_the_others(run: Path) -> None:
    lost = change_radii(run, lambda frame: frame.assign(eps=np.linspace(0, 1 / 255, len(frame)))).iloc[-1]["id"]
    change_radii(run, lambda frame: frame.replace({"id": {lost: "gone"}}))
    found, missing = specimens(read_run(run, "run"))
    assert missing == 1
    assert len(found) > 5


def test_pictures_are_small_png() -> None:
    big, grey = np.zeros((3, 400, 400), dtype=np.uint8), np.full((1, 8, 8), 128, dtype=np.uint8)
    for source in (
        image_uri(big),
        image_uri(grey),
        map_uri(np.zeros((8, 8)), grey),
        perturbation_uri(np.zeros((3, 8, 8)))[0],
    ):
        assert source.startswith("data:image/png;base64,")
        assert len(source) < MAX_SIDE**2


def test_a_perturbation_is_magnified_to_fit() -> None:
    assert perturbation_uri(np.full((3, 4, 4), 2 / 255))[1] == pytest.approx(63.75)
    assert perturbation_uri(np.full((3, 4, 4), 1e-8))[1] == 1


def test_an_outline_is_the_border_of_the_mask() -> None:
    mask = np.zeros((6, 6), dtype=bool)
    mask[1:5, 1:5] = True
    drawn = outlined(np.zeros((1, 6, 6), dtype=np.uint8), mask)
    assert drawn.shape == (3, 6, 6)
    assert (drawn[0] == 255).sum() == 12
