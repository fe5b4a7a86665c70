"""What README and docs promise: short, complete, numbers from the results, links that lead somewhere."""

import ast
import importlib
import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PUBLIC = ("", "attacks", "benchmark", "evaluation", "interpret", "methods", "report")


def without_code(text: str) -> str:
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.sub(r"^ {4,}.*$", "", text, flags=re.MULTILINE)


def without_blocks(text: str) -> str:
    return re.sub(r"<!-- results: .*?<!-- end -->", "", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def results():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return runpy.run_path(str(ROOT / "docs" / "results.py"))
    finally:
        sys.path.remove(str(ROOT / "docs"))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_docs_are_short():
    prose = [without_code(without_blocks(page.read_text(encoding="utf-8"))) for page in DOCS if page.stem != "appendix"]
    assert sum(bool(re.search(r"\w", word)) for text in prose for word in text.split()) <= 15_000


def test_pages_hold_what_the_results_say(results):
    """Else run python docs/results.py --write."""
    stale = [name for name, text in results["pages"]().items() if (ROOT / name).read_text(encoding="utf-8") != text]
    assert not stale


def test_numbers_of_the_readme_are_in_the_results(results):
    """Those of the table are written by the script; beside it there is none but names, versions and sizes."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.split("<!-- results: readme -->\n")[1].split("\n<!-- end -->")[0]
    assert table.count("\n") - 1 <= 8
    values: set[str] = set()

    def collect(value: object) -> None:
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            collect(each)
        if isinstance(value, float):
            values.add(f"{abs(100 * value):.1f}")

    for name in ("ham10000-32px-v2", "ham10000-32px", "pneumoniamnist"):
        collect(results["grid"](name)["tables"])
    numbers = re.findall(r"\d+\.\d", table.replace("Version 0.1", "").replace("version 0.1", ""))
    assert len(numbers) > 30
    assert not [number for number in numbers if number not in values]
    rest = without_code(without_blocks(readme).split("## Intended use")[0])
    rest = re.sub(r"(arXiv |abs/)[\d.]+|Python 3\.11|ersion 0\.1|95 % intervals", "", rest)
    assert not re.findall(r"\d+\.\d+|\d+ ?%", rest)


def test_the_script_says_no_more_than_the_intervals(results):
    def entry(difference, low, high):
        return {
            "difference": difference / 100,
            "interval": [low / 100, high / 100],
            "p_adjusted": 0.01 if low > 0 else 0.5,
        }

    verdict, tested = results["verdict"], results["tested"]
    assert verdict([entry(2, -1, 5), entry(0.5, -1, 2)]) == "No loss shown:"
    assert verdict([entry(-0.5, -0.8, -0.1), entry(0.1, -1, 1)]) == "A small loss:"
    assert verdict([entry(-5, -6, -4), entry(0.1, -1, 1)]) == "A loss:"
    assert verdict([entry(5, 4, 6), entry(3, 1, 5)]) == "A gain:"
    assert tested([entry(5, 4, 6)] * 2) == "all significant"
    assert tested([entry(5, 4, 6), entry(1, -1, 3)]) == "1 of 2 significant"
    assert tested([entry(1, -1, 3)]) == "none significant"


def public_names(package: str) -> list[str]:
    """Those of `__all__`, else those that the package exports under their own name."""
    module = importlib.import_module(f"dpaat.{package}".rstrip("."))
    if hasattr(module, "__all__"):
        return list(module.__all__)
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    imported = [alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    return [alias.asname for alias in imported if alias.asname == alias.name]


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_is_in_the_reference(package):
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\.\. [\w:]+:: ([\w.]+)", text, re.MULTILINE))
    names = [".".join(filter(None, ("dpaat", package, name))) for name in public_names(package)]
    assert len(names) >= 1
    assert not [
        name for name in names if name not in listed and not any(each.startswith(f"{name}.") for each in listed)
    ]


def test_every_method_says_what_it_is():
    """Names of the chooser in the README are methods."""
    from dpaat.methods import METHODS

    chooser = (ROOT / "README.md").read_text(encoding="utf-8").split("## Which method?")[1].split("\n## ")[0]
    named = re.findall(r"--method ([\w-]+)", chooser)
    assert named == ["dpaat", "dpaat-balanced", "dpaat-robust", "dpaat-paper"]
    assert set(named) <= METHODS.keys()


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text):
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in slugs, link


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS], ids=lambda page: page.name)
def test_no_command_is_taken_for_a_part_of_a_list(page):
    """Four spaces after an item of a list are its next paragraph, not code."""
    in_list, before = False, ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if re.match(r" {0,3}([-*]|\d+\.) ", line):
            in_list = True
        elif line and not line.startswith(" "):
            in_list = False
        assert not (in_list and not before and re.match(r" {4}\S", line)), line
        before = line


def test_the_site_is_built_without_warnings():
    assert "sphinx-build -q -W -n docs" in (ROOT / "Makefile").read_text(encoding="utf-8")
    there = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text(encoding="utf-8"))
    assert there["sphinx"]["fail_on_warning"]
    assert (ROOT / there["sphinx"]["configuration"]).is_file()
    steps = yaml.safe_load((ROOT / ".github/workflows/pages.yml").read_text(encoding="utf-8"))["jobs"]["build"]["steps"]
    assert any("make docs" in step.get("run", "") for step in steps)


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS], ids=lambda page: page.name)
def test_no_riddles(page):
    """Words that only the authors understood."""
    text = without_code(page.read_text(encoding="utf-8")) if page.stem != "appendix" else ""
    assert not re.findall(
        r"what still stands|for whom|to be trusted|still stand|to be believed|goes on as if", text, re.IGNORECASE
    )
