"""What the pages for contributors say about the repository is true."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("ARCHITECTURE.md", "CONTRIBUTING.md", "tests/stress/README.md", "benchmarks/README.md")


def test_the_picture_is_that_of_the_code():
    script = runpy.run_path(str(ROOT / "docs" / "architecture.py"))
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert script["page"](text) == text, "stale: run python docs/architecture.py"
    assert "-->" in text


def test_packages_that_import_each_other_are_found(tmp_path):
    script = runpy.run_path(str(ROOT / "docs" / "architecture.py"))
    for name, other in (("attacks", "methods"), ("methods", "attacks")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"def late():\n    from dpaat.{other} import x\n")
    script["picture"].__globals__["SOURCE"] = tmp_path
    with pytest.raises(ValueError, match="cycle"):
        script["picture"]()


def test_long_files_are_those_that_have_a_reason():
    long = {path for path in (ROOT / "src").rglob("*.py") if len(path.read_text().splitlines()) > 250}
    reasons = (ROOT / "ARCHITECTURE.md").read_text().partition("## Files of more than 250 lines")[2]
    assert {path.relative_to(ROOT).as_posix() for path in long} == {*re.findall(r"`(src/[\w./]+)`", reasons)}


@pytest.mark.parametrize("page", PAGES)
def test_files_that_pages_name_are_there(page):
    text = (ROOT / page).read_text()
    named = re.findall(r"`((?:src|docs|tests|benchmarks|examples)/[\w./-]+)`", text)
    named += re.findall(r"\]\(([\w./-]+)\)", text)
    assert named
    missing = [name for name in named if not ((ROOT / name).exists() or (ROOT / page).parent.joinpath(name).exists())]
    assert not missing


def test_ci_runs_what_make_offers():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"check", "lint", "types", "docs", "quickstart", "test"} <= set(targets)
    assert re.findall(r"^make (\w+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE) == ["check"]
