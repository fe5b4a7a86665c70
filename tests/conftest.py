import os
from pathlib import Path

import pytest

# Before torch: the networks of the tests are so small that more threads only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _needs(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"real data not on this machine: {path.name}")
    return path


@pytest.fixture(scope="session")
def ham10000_dir() -> Path:
    return _needs(SHARED / "data" / "ham10000")


@pytest.fixture(scope="session")
def pneumonia_npz() -> Path:
    return _needs(SHARED / "data" / "pneumoniamnist.npz")


@pytest.fixture(scope="session")
def efficientnet_weights() -> Path:
    return _needs(SHARED / "weights" / "tf_efficientnet_lite0.pth")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["DPAAT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["DPAAT_PATIENT_KEY"] = str(tmp_path_factory.mktemp("key") / "patients.key")


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with 54 images of 3 classes."""
    from training_makers import make_images

    return make_images(tmp_path_factory.mktemp("tiny") / "images")


@pytest.fixture(scope="session")
def tiny_run(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 2 epochs; to be read only, tests that change it take a copy."""
    from dpaat.training import train
    from training_makers import tiny_config

    return train(tiny_config(tiny_images), tmp_path_factory.mktemp("tiny") / "run")


@pytest.fixture(scope="session")
def finished_grid(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a grid of 2 recipes and 2 folds, and its finished benchmark in `out`; to be read only."""
    from benchmark_makers import here, run, write_grid
    from dpaat.benchmark import runner

    folder = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "run_command", here)
        assert run(write_grid(folder / "grid.yaml"), folder / "out", tiny_images) == 0
    return folder
