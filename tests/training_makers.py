"""A tiny dataset, a tiny training run and what to ask of them, shared by several test files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from dpaat.cli import main
from dpaat.config import TrainConfig
from dpaat.errors import UserError
from dpaat.runs import open_run

TINY = {
    "method": "dpaat-half",
    "image_size": 32,
    "model": "test_resnet",
    "stem": "original",
    "steps": 2,
    "val_steps": 2,
    "val_eps": "2/255,8/255",
    "epochs": 2,
    "batch_size": 16,
    "lr": 0.02,
    "accelerator": "cpu",
}


def make_images(folder: Path, count: int = 54, size: int = 16) -> Path:
    """Write noise in class folders c0, c1, c2, unequal in size, told apart by a tint."""
    rng = np.random.default_rng(0)
    for number in range(count):
        label = min(number % 4, 2)
        pixels = rng.integers(0, 230, (size, size, 3), dtype=np.uint8)
        pixels[..., label] += 25
        place = folder / f"c{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:03d}.png")
    return folder


def tiny_config(images: Path, **changes: object) -> TrainConfig:
    return TrainConfig(**{"data": f"folder:{images}", **TINY, **changes})  # type: ignore[arg-type]


def tiny_arguments(images: Path, **changes: object) -> list[str]:
    values = {"data": f"folder:{images}", **TINY, **changes}
    return ["train", *(f"--{name.replace('_', '-')}={value}" for name, value in values.items())]


def checkpoint(run: Path, name: str = "last") -> dict:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def metrics(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "metrics.csv", float_precision="round_trip")


def assert_equal(one: object, other: object, place: str = "") -> None:
    """Compare nested states bit for bit."""
    assert type(one) is type(other), place
    if isinstance(one, Tensor):
        assert torch.equal(one.nan_to_num(nan=7), other.nan_to_num(nan=7)), place
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_equal(one[key], other[key], f"{place}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{place}/{number}")
    else:
        assert one == other, place


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("last", "best"):
        first, second = checkpoint(one, name), checkpoint(other, name)
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
            assert_equal(first[part], second[part], part)
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    parts = sorted(path.name for path in (one / "perturbation.parquet").glob("*"))
    assert parts == sorted(path.name for path in (other / "perturbation.parquet").glob("*"))
    for part in parts:
        path = Path("perturbation.parquet") / part
        assert (one / path).read_bytes() == (other / path).read_bytes()


def fails(capfd: pytest.CaptureFixture[str], *arguments: object, names: tuple[str, ...] = ()) -> str:
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    errors = capfd.readouterr().err
    assert code == 2, errors
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith("dpaat: error: ")
    assert "Traceback" not in errors
    assert not [name for name in names if name not in errors], errors
    return errors


def no_run(folder: Path) -> None:
    with pytest.raises(UserError):
        open_run(folder)
