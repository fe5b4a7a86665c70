"""Every command in README, tutorial and how-tos is known to the parser; with -m slow each is run, scaled down."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from data_makers import make_ham, write_csv
from dpaat import cli
from scan_makers import make_dicom
from training_makers import make_images

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *(ROOT / "docs" / name for name in ("tutorial.md", "install.md"))]
PAGES += sorted((ROOT / "docs" / "howto").glob("*.md"))
NOT_RUN = {
    r"pip install|^docker|^source|^uv ": "installs or builds; CI does so from a fresh clone",
    r"torchrun|srun|--executor|/shared/|--num-nodes": "needs a cluster; tests/test_benchmark_shared.py",
    r"--accelerator gpu|--resume --devices": "needs GPUs or several processes; tests/test_processes.py",
    r"--devices 2": "starts several processes; tests/test_processes.py",
    r"^dpaat push": "needs an account; tests/test_hub.py",
    r"--logger wandb|^tensorboard": "needs a tracker; tests/test_loggers.py",
    r"--plugin my_": "needs the code of the page; tests/test_plugins.py",
    r"py:my_code|runs/own": "needs the code of the page; tests/test_own_code.py",
    r"tf_efficientnet_lite0.pth": "needs ImageNet weights; tests/test_fine_tuning.py",
    r"mine.pth|results/densenet": "needs another model; tests/test_subject.py and test_python_api.py",
    r"^python benchmarks/": "a benchmark of minutes; tests of its own",
    r"runs/photos/benchmark.yaml": "needs a whole benchmark; tests/test_benchmark_made.py",
    r"^dpaat quickstart|bin/dpaat quickstart": "make quickstart runs it",
    r"^(?!.*dpaat )": "no command of dpaat",
}
"""Commands that are not run here, and why."""
SMALL = {
    "train": "--image-size 32 --model test_resnet --stem original --epochs 1 --batch-size 16 --steps 1 --val-steps 1",
    "profile": "--image-size 32 --model test_resnet --batch-size 8 --steps 1 --batches 2",
    "tune": "--image-size 32 --model test_resnet --epochs 1 --trials 1 --val-steps 1",
    "evaluate": "--max-samples 8 --steps 1",
    "explain": "--max-samples 4",
    "export": "--images 4 --no-onnx",
    "benchmark": "--dry-run",
    "data": "",
}


def commands(page: Path) -> list[str]:
    """Lines of code that call dpaat or a tool of the shell, continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^    (\S.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    lines += re.findall(r"`(dpaat (?:list |.*--(?:data|out|resume) )[^`\n]*)`", text)
    shell = r"(\w+=\S+ )?(\S*bin/)?(dpaat|python3?|pip|uv|docker|torchrun|srun|source|tensorboard) "
    found = [re.sub(r"\s+", " ", line) for line in lines if re.match(shell, line)]
    return [line for line in dict.fromkeys(found) if not re.search(r"dpaat: |dpaat\[|\bRUN\b|\.\.\.", line)]


def arguments(line: str) -> list[str]:
    """What is given to dpaat, without what follows for the shell."""
    words = shlex.split(line.split(" > ")[0], comments=True)
    return words[words.index("dpaat") + 1 :] if "dpaat" in words else []


CASES = [(page.stem, line) for page in PAGES for line in commands(page)]


def test_there_are_commands_on_most_pages():
    assert len(CASES) > 60
    assert len({page for page, _ in CASES}) > 15


@pytest.mark.parametrize(("page", "line"), CASES)
def test_the_parser_knows_it(page, line, monkeypatch, tmp_path, capsys):
    given = arguments(line)
    if not given or given[0] not in {name.split()[0] for name in cli.COMMANDS} or "--config" in given:
        pytest.skip("no command with options of its own")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "call", lambda *_, **__: 0)
    assert cli.main([word for word in given if not word.startswith(("my_", "--plugin"))]) == 0, capsys.readouterr().err


def reason(line: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, line)), None)


def test_reasons_not_to_run_a_command_hold():
    for pattern, why in NOT_RUN.items():
        assert any(re.search(pattern, line) for _, line in CASES), pattern
        assert all((ROOT / "tests" / name).is_file() for name in re.findall(r"test_\w+\.py", why)), why


def prepare(place: Path, text: str, run: Path) -> None:
    """What the commands of a page name: images, tables, finished runs."""
    ham = "ham10000:DIR" in text
    if ham:
        make_ham(place / "DIR")
    for name in ("photos", "images", *(() if ham else ("DIR",))):
        make_images(place / name)
    if "folder:ct" in text:
        pytest.importorskip("pydicom", reason="needs the extra dicom")
        make_dicom(place / "ct")
    rows = [{"path": f"images/{each.parent.name}/{each.name}", "label": each.parent.name, "group": each.stem}
            for each in sorted((place / "images").rglob("*.png"))]  # fmt: skip
    write_csv(place / "images.csv", rows)
    made = set(re.findall(r"--out (\S+)", text))
    for name in set(re.findall(r"\b(runs/\w+)", text)) - made:
        shutil.copytree(run, place / name)


@pytest.fixture(scope="module")
def evaluated_run(tiny_run, tmp_path_factory):
    run = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(tiny_run, run)
    assert cli.main(["evaluate", str(run), "--attack", "fgsm", "--eps", "2/255", "--max-samples", "8"]) == 0
    return run


RUN = [page for page in PAGES if any(reason(line) is None for line in commands(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_it_runs(page, evaluated_run, tmp_path, monkeypatch, capsys):
    prepare(tmp_path, page.read_text(encoding="utf-8"), evaluated_run)
    monkeypatch.chdir(tmp_path)
    for line in filter(lambda line: reason(line) is None, commands(page)):
        given = arguments(line)
        resumed = "--resume" in given or "--config" in given
        small = shlex.split(SMALL.get(given[0], "")) if not resumed else []
        code = cli.main([*given, *small])
        assert code == 0 or (given[0] == "data" and code == 1), (line, capsys.readouterr().err)
