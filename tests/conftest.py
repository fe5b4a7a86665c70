from pathlib import Path

import pytest

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
    import os

    os.environ["DPAAT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
