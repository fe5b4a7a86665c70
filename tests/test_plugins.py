"""Plug-ins: a method, an attack, a dataset and a section of the report from a file outside the package."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from dpaat.attacks import ATTACKS
from dpaat.cli import main
from dpaat.data.registry import DATASETS, import_loaders
from dpaat.errors import UserError
from dpaat.methods import METHODS
from dpaat.registry import VARIABLE, load_entry_points, load_plugins
from dpaat.report.blocks import SECTIONS
from training_makers import tiny_arguments

OWN_METHOD = Path(__file__).parents[1] / "docs" / "howto" / "own-method.md"
OWN_ATTACK = Path(__file__).parents[1] / "docs" / "howto" / "own-attack.md"
OWN_DATASET = Path(__file__).parents[1] / "docs" / "howto" / "own-dataset.md"
OWN_SECTION = Path(__file__).parents[1] / "docs" / "howto" / "own-section.md"


def code_of(page: Path) -> str:
    """The Python block of a how-to."""
    (block, *_) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return block


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A module made of the how-tos, which is forgotten after the test."""
    (tmp_path / "my_plugin.py").write_text("\n".join(map(code_of, (OWN_METHOD, OWN_ATTACK, OWN_DATASET, OWN_SECTION))))
    monkeypatch.syspath_prepend(str(tmp_path))
    import_loaders()
    registries = (METHODS, ATTACKS, DATASETS, SECTIONS)
    before = [dict(registry) for registry in registries]
    monkeypatch.setenv(VARIABLE, "")
    yield "my_plugin"
    sys.modules.pop("my_plugin", None)
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


def test_everywhere_by_name(plugin, tiny_images, tmp_path, capsys):
    for kind, name in (("methods", "my-fgsm"), ("attacks", "my-noise"), ("datasets", "my-pairs:DIR")):
        assert main(["list", kind, f"--plugin={plugin}"]) == 0
        assert name in " ".join(capsys.readouterr().out.split())
    run = tmp_path / "run"
    arguments = [a for a in tiny_arguments(tiny_images, epochs=1) if not a.startswith(("--data", "--method"))]
    own = [f"--plugin={plugin}", "--method=my-fgsm", f"--data=my-pairs:{tiny_images}"]
    assert main([*arguments, *own, f"--out={run}"]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["method"] == "my-fgsm"
    assert main(["evaluate", str(run), f"--plugin={plugin}", "--attack=my-noise", "--eps=2/255", "--device=cpu"]) == 0
    attacks = {entry["attack"] for entry in json.loads((run / "evaluation.json").read_text())["results"]}
    assert attacks == {"clean", "my-noise"}
    for form in ("html", "md"):
        page = tmp_path / f"report.{form}"
        assert main(["report", str(run), f"--plugin={plugin}", f"--format={form}", f"--out={page}"]) == 0
        text = page.read_text()
        places = [text.index(title) for title in ("Is it accurate", "Does it agree beyond chance", "Is it robust")]
        assert places == sorted(places)
        assert "Clean images of my-pairs, test split" in text
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        yaml.safe_dump(
            {
                "train": {"image_size": 32, "epochs": 1},
                "recipes": {"standard": {"method": "standard"}, "mine": {"method": "my-fgsm"}},
                "models": ["test_resnet"],
                "data": f"my-pairs:{tiny_images}",
                "evaluate": {"attacks": ["my-noise"], "eps": ["2/255"]},
            }
        )
    )
    capsys.readouterr()
    assert main(["benchmark", str(grid), f"--plugin={plugin}", "--dry-run", f"--out={tmp_path / 'b'}"]) == 0
    assert "mine-test_resnet" in capsys.readouterr().out


def test_a_section_of_a_taken_address_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_accuracy.py").write_text(code_of(OWN_SECTION).replace('"agreement"', '"accuracy"'))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["list", "methods", "--plugin=my_accuracy"]) == 2
    assert "plugin: my_accuracy cannot be imported (another section called 'accuracy'" in capsys.readouterr().err


def test_one_that_is_not_there_is_one_line(capsys):
    assert main(["list", "methods", "--plugin=no_such_module"]) == 2
    assert "plugin: no_such_module cannot be imported (No module named 'no_such_module')" in capsys.readouterr().err
    with pytest.raises(UserError, match="cannot be imported"):
        load_plugins("json, no_such_module")


def test_a_configuration_file_names_no_code(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    (tmp_path / "config.yaml").write_text("plugin: json\n")
    for typed in ([], ["--plugin=yaml"], ["--plugin", "yaml"]):  # the file has the last word of the parser
        assert main(["train", *typed, f"--config={tmp_path / 'config.yaml'}", f"--out={tmp_path / 'run'}"]) == 2
        assert "plugin: give it on the command line, not in a configuration file" in capsys.readouterr().err


def test_entry_points_that_cannot_be_imported_are_named(monkeypatch):
    class Broken:
        name, value = "theirs", "theirs:module"

        def load(self):
            raise ImportError("no such thing")

    monkeypatch.setattr("dpaat.registry.entry_points", lambda group: [Broken()])
    with pytest.raises(UserError, match=r"plug-in theirs \(theirs:module\): cannot be imported \(no such thing\)"):
        load_entry_points("dpaat.methods")
