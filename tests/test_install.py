"""What is said about installing is there: extras, the address for an index, the image, the workflow."""

import re
import runpy
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

from dpaat.config import LOGGERS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ADDRESS = "https://forge.example/clinic/dpaat"


def test_every_extra_that_is_named_anywhere_exists():
    extras = PROJECT["optional-dependencies"]
    pages = [path for place in ("src", "docs", "examples", ".github") for path in (ROOT / place).rglob("*.*")]
    named = set()
    for path in [*pages, ROOT / "README.md", ROOT / "Dockerfile"]:
        if path.suffix in (".py", ".md", ".yml", ".ipynb", ""):
            for found in re.findall(r"dpaat\[([\w,-]+)\]", path.read_text(encoding="utf-8")):
                named |= set(found.split(","))
    assert {"wandb", "mlflow", "completion"} <= named
    assert not named - extras.keys()
    assert {"tune", "slurm", "ray", "dev", *(name for name, module in LOGGERS.items() if module)} <= extras.keys()
    (everything,) = (line for line in extras["dev"] if line.startswith("dpaat["))
    assert {*extras} - {"dev", "medmnist"} <= set(re.findall(r"[\w-]+", everything))


def test_a_release_links_from_everywhere_to_what_is_there():
    script = runpy.run_path(str(ROOT / ".ci" / "address.py"))
    readme = (ROOT / "README.md").read_text()
    text = script["with_address"](readme, ADDRESS)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert not [link for link in links if not link.startswith("https://")]
    ours = [link.removeprefix(ADDRESS).partition("#")[0] for link in links if link.startswith(ADDRESS)]
    assert len(ours) > 20
    for link in ours:
        _, kind, _, place = link.split("/", 3)
        assert kind == ("raw" if place.endswith((".svg", ".png")) else "blob")
        assert (ROOT / place).exists(), place
    outside = [link for link in re.findall(r"\]\(([^)]+)\)", readme) if link.startswith("https:")]
    assert set(outside) <= set(links)
    pages = tomllib.loads(script["with_pages"]((ROOT / "pyproject.toml").read_text(), ADDRESS))["project"]["urls"]
    assert {"Paper", "Repository", "Documentation", "Changelog", "Issues"} <= pages.keys()
    assert pages["Repository"] == ADDRESS
    with pytest.raises(ValueError, match=r"no \[project\.urls\]"):
        script["with_pages"]("[project]\n", ADDRESS)


def test_the_image_is_made_of_what_is_there():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    steps = [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith(("#", " "))]
    assert {name for name, _ in steps} <= {"FROM", "ENV", "RUN", "COPY", "WORKDIR", "ENTRYPOINT", "CMD"}
    version = re.fullmatch(r"python:(\d+)\.(\d+)-slim", steps[0][1])
    assert tuple(map(int, version.groups())) >= (3, 11)
    assert PROJECT["requires-python"] == ">=3.11"
    let_in = (ROOT / ".dockerignore").read_text().split()
    for name, text in steps:
        for source in text.split()[:-1] if name == "COPY" else ():
            assert (ROOT / source).exists()
            assert f"!{source}" in let_in
    entry = dict(steps)["ENTRYPOINT"].strip('[]"')
    assert entry in {point.name for point in entry_points(group="console_scripts")}
    assert any("--torch-backend cpu" in text for name, text in steps if name == "RUN")


def test_the_public_workflow_covers_the_systems():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    rows = workflow["jobs"]["tests"]["strategy"]["matrix"]["include"]
    assert {row["system"] for row in rows} == {"ubuntu", "macos", "windows"}
    assert workflow["jobs"]["tests"]["runs-on"] == "${{ matrix.system }}-latest"
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    for name in re.findall(r"(?:bash|python) (\.ci/[\w.]+)", text):
        assert (ROOT / name).is_file()
