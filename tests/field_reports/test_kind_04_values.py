"""Kind 4: values are looked at before they are scaled."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from broken_values import BROKEN, encode, floats, half, integers, made, scene, signed, write_set
from dpaat.cli import main
from dpaat.data import prepare
from dpaat.data.images import decode_image, decode_mask
from dpaat.errors import UserError
from dpaat.evaluation import evaluate_run
from dpaat.runs import open_run
from training_makers import TINY

TRAIN = [f"--{name.replace('_', '-')}={value}" for name, value in (TINY | {"epochs": 1}).items()]


def prepared(spec, **options):
    return prepare(spec, image_size=16, progress=False, **options)


# Pillow#3011, Pillow#1108, pytorch-CycleGAN-and-pix2pix#321, COVID-CTset#3: images that came out black or white. That
# `dpaat data check` names such sets is tested in test_data_check_tables.py.
@pytest.mark.parametrize(
    ("image", "suffix", "window", "exact"),
    [
        (integers(4095), "png", "bits:12", (0, 4095)),
        (integers(4095), "png", "0,4095", (0, 4095)),
        (integers(4095), "png", "1000,2000", (1000, 2000)),
        (integers(255), "png", "bits:8", (0, 255)),
        (lambda n: Image.fromarray(scene(n, 0, 15).round().astype(np.uint8)), "png", "bits:4", (0, 15)),
        (lambda n: signed(scene(n, -1024, 3071)), "tif", "-1024,3071", (-1024, 3071)),
        (lambda n: signed(scene(n, -1024, 3071)), "tif", "-160,240", (-160, 240)),
        (floats(0, 1), "tif", "0,1", (0, 1)),
        (floats(-1, 1), "tif", "-1,1", (-1, 1)),
        (integers(2**20 - 1, dtype=np.int32), "tif", "bits:20", (0, 2**20 - 1)),
        (integers(4095), "png", "full", (0, 65535)),
        (integers(60000), "png", "auto", (0, 65535)),
    ],
)
def test_a_window_maps_values_to_grey_levels(image, suffix, window, exact, tmp_path):
    data = prepared(write_set(tmp_path, image, suffix=suffix), window=window)
    low, high = exact
    for row in (0, 1, 7):
        values = np.asarray(Image.open(tmp_path / f"{row:02d}.{suffix}")).astype(float)
        expected = np.clip((values - low) / (high - low), 0, 1) * 255
        assert abs(data.images[row, 0] - expected).max() <= 0.5


def test_percentiles_are_those_of_the_whole_set(tmp_path):
    spec = write_set(tmp_path, integers(4095, 500), odd={3: integers(8000, 0)(3)})
    data = prepared(spec, window="percentile:10,90")
    values = np.stack([np.asarray(Image.open(path)) for path in sorted(tmp_path.glob("*.png"))])
    low, high = map(float, data.window.split(","))
    assert low == pytest.approx(np.percentile(values, 10), rel=0.02)
    assert high == pytest.approx(np.percentile(values, 90), rel=0.02)
    # One image is scaled like all the others, not by its own range.
    assert data.images[3].max() == 255
    assert (data.images[3] == 255).mean() > 2 * (data.images[4] == 255).mean()


def test_a_window_is_part_of_fingerprint_and_cache(tmp_path):
    spec = write_set(tmp_path / "d", integers(60000))
    plain, wide, narrow = (prepared(spec, window=window) for window in ("auto", "bits:16", "0,30000"))
    assert plain.fingerprint == prepared(spec, window="full").fingerprint
    assert len({plain.fingerprint, wide.fingerprint, narrow.fingerprint}) == 3
    assert (plain.images[:] == wide.images).all()
    assert narrow.images.mean() > 1.3 * plain.images.mean()
    assert prepared(spec, window=narrow.window).fingerprint == narrow.fingerprint


@pytest.mark.parametrize(
    "window", ["", "bits", "bits:0", "bits:12.5", "bits:99", "5", "5,5", "9,1", "a,b", "0,nan", "0,inf",
               "percentile:1", "percentile:-1,99", "percentile:1,101", "percent:1,99", "1,2,3"],
)  # fmt: skip
def test_an_impossible_window_is_refused(window):
    with pytest.raises(UserError, match="window"):
        prepare("synthetic:60", image_size=16, window=window, progress=False)


def test_images_of_several_kinds_have_no_common_window(tmp_path):
    spec = write_set(tmp_path, integers(4095), odd={3: Image.fromarray(scene(3).astype(np.uint8))})
    with pytest.raises(UserError, match=r"several kinds \(1 of 8-bit pixels, 23 of integer pixels\)"):
        prepared(spec, window="bits:12")


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (floats(0, 1)(0), "no known range"),
        (signed(scene(0, -1024, 3071)), "-1024 to 3071"),
        (encode(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"), "not finite"),
        (encode(Image.fromarray(scene(0).astype(np.uint8)), "TIFF", tiffinfo={339: 2}), "signed 8-bit"),
        (encode(integers(4095)(0), "TIFF", tiffinfo={262: 0}), "white is stored as 0"),
    ],
)
def test_pixels_without_a_known_meaning_are_refused(image, words):
    image = image if isinstance(image, bytes) else encode(image, "TIFF")
    with pytest.raises(ValueError, match=words):
        decode_image(image, size=8, fit="crop", channels=1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "PA"])
def test_every_mode_shows_the_same_picture(mode):
    if mode in ("I;16", "I"):
        image = Image.fromarray(half(65535, np.uint16 if mode == "I;16" else np.int32))
    else:
        image = Image.fromarray(half(255)).convert("RGB" if mode == "CMYK" else "L").convert(mode)
    encoded = encode(image, "TIFF" if mode in ("CMYK", "I", "PA") else "PNG")
    assert (decode_image(encoded, size=16, fit="crop", channels=1)[0] == half(255)).all()


# --- masks; ReMOVE#2: a mask of which nothing is left after scaling


def palette(colours, numbers):
    image = Image.fromarray(numbers).convert("P")
    image.putdata(numbers.ravel().tolist())
    image.putpalette([level for colour in colours for level in colour])
    return image


ALPHA = Image.fromarray(half(255))
MASKS = {
    "0 and 1": Image.fromarray(half(1)),
    "0 and 1 in 16 bits": Image.fromarray(half(1, np.uint16)),
    "0 and 4095 in 16 bits": Image.fromarray(half(4095, np.uint16)),
    "0 and 65535 in 16 bits": Image.fromarray(half(65535, np.uint16)),
    "1 bit": Image.fromarray(half(255)).convert("1"),
    "blue": Image.fromarray(np.stack([half(0), half(0), half(1)], axis=2)),
    "palette of dark colours": palette([(0, 0, 0), (1, 0, 0)], half(1)),
    "palette that is black": palette([(0, 0, 0), (0, 0, 0)], half(1)),
    "palette without black": palette([(9, 9, 9), (200, 0, 0)], half(1)),
    "palette in another order": palette([(255, 255, 255), (0, 0, 0)], half(1) ^ 1),
    "grey with alpha": Image.merge("LA", (Image.fromarray(half(1)), Image.new("L", (16, 16), 255))),
    "grey that is transparent": Image.merge("LA", (Image.fromarray(half(1)), Image.new("L", (16, 16), 0))),
    "black with alpha": Image.merge("LA", (Image.new("L", (16, 16), 0), ALPHA)),
    "white with alpha": Image.merge("RGBA", (*[Image.new("L", (16, 16), 255)] * 3, ALPHA)),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_what_is_not_zero(name):
    found = decode_mask(encode(MASKS[name], "PNG"), size=16, fit="crop")
    assert (found == (half(1) > 0)).all()


def test_a_float_mask_and_one_with_the_noise_of_jpeg():
    assert (decode_mask(encode(Image.fromarray(half(1, np.float32)), "TIFF"), size=16, fit="crop") == half(1)).all()
    disc = (np.hypot(*np.mgrid[-32:32, -32:32]) < 20).astype(np.uint8) * 255
    lossy = decode_mask(encode(Image.fromarray(disc), "JPEG", quality=60), size=64, fit="crop")
    assert abs(lossy.mean() / (disc > 0).mean() - 1) < 0.02


# found in our audit: of a lossy WebP, 30 % of the right half counted as inside
def test_noise_of_webp_is_outside_and_its_small_values_inside():
    lossy = encode(Image.fromarray(half(255, size=(24, 24))).convert("RGB"), "WEBP", quality=40)
    exact = encode(Image.fromarray(half(1)).convert("RGB"), "WEBP", lossless=True)
    assert (decode_mask(lossy, size=24, fit="crop") == (half(1, size=(24, 24)) > 0)).mean() > 0.95
    assert (decode_mask(exact, size=16, fit="crop") == half(1)).all()


def test_a_mask_of_another_aspect_is_refused_where_it_would_be_used(tmp_path):
    data = prepared(BROKEN["a mask of another aspect"][0](tmp_path))
    with pytest.raises(UserError, match="another aspect"):
        data.masks()


# --- through training and all that reads a run


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 12-bit images in 16-bit files, in a folder beside its data `d`."""
    folder = tmp_path_factory.mktemp("deep")
    spec = write_set(folder / "d", integers(4095, 300))
    assert main(["train", f"--data={spec}", f"--out={folder / 'run'}", "--window=percentile:1,99", *TRAIN]) == 0
    return folder


def test_train_refuses_what_is_too_dark(tmp_path, capsys):
    spec = made(integers(4095))(tmp_path / "d")
    assert main(["train", f"--data={spec}", f"--out={tmp_path / 'run'}", *TRAIN]) == 2
    assert "give --window bits:12" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_its_window_and_reads_other_images_through_it(deep):
    run = open_run(deep / "run")
    assert run.config.window == "percentile:1,99"
    assert run.info["pixels"] == ["integer"]
    low, high = map(float, run.info["window"].split(","))
    assert 300 < low < 600
    assert 3800 < high < 4095
    again = run.prepare(progress=False)
    assert again.fingerprint == run.info["fingerprint"]
    # Elsewhere, with other values: the window stays the run's own.
    other = write_set(deep / "other", integers(2000))
    assert main(["evaluate", str(deep / "run"), f"--data={other}", "--split=all", "--attack=fgsm", "--eps=1/255",
                 "--device=cpu"]) == 0  # fmt: skip
    document = json.loads((deep / "run" / "evaluation.json").read_text())
    assert document["window"] == run.info["window"]


def test_predict_reads_through_the_window_of_the_run(deep, capsys):
    run, out = deep / "run", deep / "p.csv"
    data = open_run(run).prepare(progress=False)
    first = pd.read_csv(_predict(run, deep / "d", out))
    scaled = deep / "scaled"
    scaled.mkdir(exist_ok=True)
    for row, name in enumerate(sorted(path.name for path in (deep / "d").glob("*.png"))):
        low, high = map(float, data.window.split(","))
        values = np.asarray(Image.open(deep / "d" / name)).astype(float)
        Image.fromarray(np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)).save(
            scaled / f"{row:02d}.png"
        )
    second = pd.read_csv(_predict(run, scaled, out, "--window=full"))
    pd.testing.assert_frame_equal(first.drop(columns="file"), second.drop(columns="file"))
    assert main(["predict", str(run), str(scaled), f"--out={out}", "--device=cpu"]) == 2
    assert "8-bit pixels, but the model was trained on integer ones" in capsys.readouterr().err


def test_a_run_on_8_bit_images_refuses_dark_16_bit_ones(tiny_run, tmp_path, capsys):
    write_set(tmp_path / "d", integers(4095))
    arguments = ["predict", str(tiny_run), str(tmp_path / "d"), f"--out={tmp_path / 'p.csv'}", "--device=cpu"]
    assert main(arguments) == 2
    assert "give --window bits:12" in capsys.readouterr().err
    assert main([*arguments, "--window=bits:12"]) == 0


def _predict(run: Path, images: Path, out: Path, *options: str) -> Path:
    assert main(["predict", str(run), str(images), f"--out={out}", "--device=cpu", *options]) == 0
    return out


def test_a_window_for_wider_values_is_refused_for_8_bit_images():
    with pytest.raises(UserError, match="8-bit pixels reach 255"):
        prepare("synthetic:60", image_size=16, window="bits:12", progress=False)


def test_an_evaluation_of_weights_takes_a_window_and_one_of_a_run_its_own(deep, capsys):
    from dpaat.data.values import parse_window

    run = deep / "run"
    assert main(["evaluate", str(run), "--window=bits:12", "--device=cpu"]) == 2
    assert "it goes with --data" in capsys.readouterr().err
    assert parse_window("-1000,400") == ("range", (-1000, 400))
    assert main(["train", "--data=nowhere", "--window", "-1000,400", f"--out={deep / 'no'}"]) == 2
    assert "nowhere" in capsys.readouterr().err  # not the window


# found in our audit: the command took a window, the function did not
def test_an_evaluation_from_python_takes_a_window_too(deep):
    options = {"attacks": ["fgsm"], "eps": [1 / 255], "device": "cpu", "progress": False}
    document = evaluate_run(deep / "run", data=f"csv:{deep / 'd' / 'list.csv'}", window="0,2047", **options)
    assert document["window"] == "0,2047"


def test_a_run_from_before_windows_is_read_as_it_was_trained(deep, tmp_path):
    import shutil

    spec = write_set(tmp_path / "d", integers(4095, 300))
    shutil.copytree(deep / "run", tmp_path / "run")
    data = prepared(spec, window="full")
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    for name in ("window", "pixels", "notes", "data_warnings", "config"):
        del info[name]
    (tmp_path / "run" / "run.json").write_text(json.dumps(info | {"fingerprint": data.fingerprint}))
    text = (tmp_path / "run" / "config.yaml").read_text()
    kept = [line for line in text.splitlines() if not line.startswith(("window:", "data:"))]
    (tmp_path / "run" / "config.yaml").write_text("\n".join([f"data: {spec}", *kept, ""]))
    old = open_run(tmp_path / "run")
    assert old.prepare(progress=False).fingerprint == data.fingerprint


def test_a_window_at_its_default_leaves_digests_of_recipes_as_they_were(tiny_run):
    import dataclasses
    import hashlib

    from dpaat.evaluation.target import LATER, _recipe

    run = open_run(tiny_run)
    own = {"data", "seed", "fold", "splits", "accelerator", "devices", "num_nodes", "strategy", "workers", "logger"}
    fields = {k: v for k, v in dataclasses.asdict(run.config).items() if k not in own | LATER}
    assert _recipe(run) == hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]
    changed = dataclasses.replace(run, config=dataclasses.replace(run.config, window="bits:8"))
    assert _recipe(changed) != _recipe(run)
