import io

import numpy as np
from PIL import Image
from rich.console import Console

from data_makers import jpeg, make_ham, write_csv
from dpaat.data import prepare
from dpaat.data.check import check
from dpaat.data.findings import warnings_of


def run(spec, **options):
    console = Console(file=io.StringIO(), width=300)
    problems = check(spec, console=console, **options)
    return problems["count"], console.file.getvalue()


def test_a_sound_set(tmp_path):
    problems, text = run(f"ham10000:{make_ham(tmp_path / 'd')}")
    assert problems == 0
    assert "94 RGB images, 70 groups, 7 classes" in text
    assert "no problems" in text
    assert "akiec" in text


def test_every_unreadable_file_is_listed(tmp_path):
    folder = make_ham(tmp_path / "d")
    for number in range(25):
        path = folder / "HAM10000_images_part_1" / f"ISIC_{number:07d}.jpg"
        path.write_bytes(path.read_bytes()[:-200])
    problems, text = run(f"ham10000:{folder}")
    assert problems == 25
    assert all(f"ISIC_{number:07d}.jpg" in text for number in range(25))
    assert "ISIC_0000025.jpg" not in text


def test_leaks_and_contrary_labels_are_problems(tmp_path):
    rows = []
    for number in range(20):
        (tmp_path / f"[b]{number}.jpg").write_bytes(jpeg(0 if number < 2 else number))
        split = ("train", "val", "test")[number % 3]
        rows.append({"path": f"[b]{number}.jpg", "label": "xy"[number % 2], "group": number // 2, "split": split})
    problems, text = run(f"csv:{write_csv(tmp_path / 'list.csv', rows)}")
    assert "[b]0.jpg = [b]1.jpg" in text
    assert "[b]0.jpg and [b]1.jpg: identical images" in text
    assert "[b]2.jpg and [b]3.jpg: same group" in text
    assert problems == 10 + 1 + 1
    problems, _ = run(f"csv:{tmp_path / 'list.csv'}", fold="1/2")
    assert problems == 1


def test_copies_in_another_form_of_file_are_identical_images(tmp_path):
    forms = (("png", {}), ("png", {"compress_level": 0}), ("bmp", {}), ("tif", {}))
    rows = []
    for number in range(24):
        pixels = np.random.default_rng(number // 4).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        form, options = forms[number % 4]
        Image.fromarray(pixels).save(tmp_path / f"{number}.{form}", **options)
        split = ("train", "val", "test", "train")[number % 4]
        rows.append({"path": f"{number}.{form}", "label": "xy"[number // 4 % 2], "split": split})
    rows[1]["label"] = "y"
    spec = f"csv:{write_csv(tmp_path / 'list.csv', rows)}"
    problems, text = run(spec)
    assert "sets of identical images: 6" in text
    assert "0.png and 1.png: identical images" in text
    assert "0.png and 2.bmp: identical images" in text
    assert problems == 6 * 2 + 1
    warnings = warnings_of(prepare(spec, image_size=16, cache_dir=tmp_path / "c"))
    assert any(line.startswith("identical images on two sides of the split: 12 case(s)") for line in warnings)
    assert "identical images of different classes: 1: 0.png = 1.png = 2.bmp = 3.tif" in warnings
