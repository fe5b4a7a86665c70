"""Exports in timm's layout, and pushing them to a hub: what is sent, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image

from dpaat.cli import main
from dpaat.export import export
from dpaat.runs import open_run
from hub_makers import local_hub
from test_export import renewed_and_exported
from training_makers import fails

PUSH_AND_LOAD = """
import sys
import timm, torch
from dpaat.cli import main
code = main(["push", sys.argv[1], sys.argv[2]])
if code == 0:
    network = timm.create_model("hf-hub:" + sys.argv[2], pretrained=True).eval()
    about = timm.data.resolve_model_data_config(network)
    mean, std = (torch.tensor(about[name]).reshape(1, -1, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        torch.save(network((torch.load(sys.argv[3]) - mean) / std), sys.argv[3])
sys.exit(code)
"""


def push_and_load(hub, tmp_path, source, repo, images):
    """What `dpaat push` says in a process of its own, and timm's logits for the images from the hub."""
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_secret", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", PUSH_AND_LOAD, str(source), repo, str(images)]
    return subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)


def images(count=5, channels=3, size=32):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "out"
    export(tiny_run, out, images=4, onnx=False)
    return out


def test_a_run_is_pushed_and_loaded_from_the_hub_by_timm(tiny_run, tmp_path):
    torch.save(images(), tmp_path / "images.pt")
    with local_hub() as hub:
        done = push_and_load(hub, tmp_path, tiny_run, "clinic/skin", tmp_path / "images.pt")
        assert done.returncode == 0, done.stderr
        sent = hub.files["clinic/skin"]
        assert hub.private == {"clinic/skin": True}
        assert hub.tokens == {"Bearer hf_secret"}
    assert sorted(sent) == ["README.md", "config.json", "model.json", "model.safetensors", "rebuild.py"]
    assert f"pushed {', '.join(sorted(sent))} to {hub.url}/clinic/skin" in done.stdout
    with torch.inference_mode():
        expected = open_run(tiny_run).load_model()(images())
    torch.testing.assert_close(torch.load(tmp_path / "images.pt"), expected, atol=1e-5, rtol=0)
    ids = pd.read_csv(tiny_run / "splits.csv")["id"]
    for name, content in sent.items():
        told = [
            text for text in [*ids, str(tiny_run.parent), "hf_secret", str(Path.home())] if text.encode() in content
        ]
        assert not told, name


def test_what_an_earlier_push_left_goes(exported, hub):
    """Another network's description beside these weights would be taken for theirs."""
    folder = shutil.copytree(exported, Path(os.environ["HF_HOME"]) / "export")
    (folder / "config.json").unlink()
    hub.files["clinic/skin"], hub.private["clinic/skin"] = {"config.json": b"{}", "notes.md": b"mine"}, True
    assert main(["push", str(folder), "clinic/skin"]) == 0
    assert sorted(hub.files["clinic/skin"]) == [
        "README.md",
        "model.json",
        "model.safetensors",
        "notes.md",
        "rebuild.py",
    ]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The same within this process."""
    with local_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield hub


def test_a_public_repository_is_not_pushed_to_by_the_way(exported, hub, capfd):
    hub.files["clinic/skin"], hub.private["clinic/skin"] = {}, False
    line = fails(capfd, "push", exported, "clinic/skin")
    assert line.endswith("is a public repository; say --public to push there\n")
    assert hub.files["clinic/skin"] == {}
    assert main(["push", str(exported), "clinic/skin", "--public"]) == 0
    assert "config.json" in hub.files["clinic/skin"]


def test_what_the_hub_refuses_is_one_line(exported, hub, capfd):
    hub.open = False
    line = fails(capfd, "push", exported, "clinic/skin")
    assert line.startswith("dpaat: error: clinic/skin: not pushed: ")
    assert "hf auth login" in line


def test_a_hub_that_is_not_there_is_one_line(exported, monkeypatch, capfd):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    assert "clinic/skin: not pushed: " in fails(capfd, "push", exported, "clinic/skin")


STRANGE = ["splits.csv", "predictions.parquet/part.parquet", "lesion.png", "patients.txt", "data/x.npz", "last.ckpt"]


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_part_of_an_export_is_refused(exported, tmp_path, capfd, name):
    folder = shutil.copytree(exported, tmp_path / "export")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("ISIC_0024306")
    line = fails(capfd, "push", folder, "clinic/skin")
    assert f"holds {name.split('/')[0]}, no part of an export" in line


def test_links_are_refused(exported, tmp_path, capfd):
    folder = shutil.copytree(exported, tmp_path / "export")
    (tmp_path / "patients.csv").write_text("name\n")
    (folder / "model.onnx").symlink_to(tmp_path / "patients.csv")
    assert "model.onnx: not a file of its own" in fails(capfd, "push", folder, "clinic/skin")


def test_an_export_that_was_never_checked_is_refused(exported, tmp_path, capfd):
    folder = shutil.copytree(exported, tmp_path / "export")
    card = json.loads((folder / "model.json").read_text())
    del card["checked"]
    (folder / "model.json").write_text(json.dumps(card))
    assert "says of no check against the run" in fails(capfd, "push", folder, "clinic/skin")


def test_no_other_program_s_description_is_replaced(tiny_run, tmp_path, capfd):
    (tmp_path / "config.json").write_text("{}")
    assert "config.json: is not of an export" in fails(capfd, "export", tiny_run, "--out", tmp_path, "--no-onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("text", ["data: folder:/home/anna/clinic", "C:\\Users\\Anna\\clinic", "/Users/anna/x"])
def test_paths_that_name_somebody_are_refused(exported, tmp_path, capfd, text):
    folder = shutil.copytree(exported, tmp_path / "export")
    (folder / "README.md").write_text(text)
    line = fails(capfd, "push", folder, "clinic/skin")
    assert "README.md: holds the path" in line
    assert "nna" in line


@pytest.mark.parametrize(
    ("source", "repo", "text"),
    [("nowhere", "a/b", "neither a run folder nor an export"), (".", "a/b", "neither"), (None, "a b", "repo: ")],
)
def test_bad_arguments(exported, tmp_path, capfd, monkeypatch, source, repo, text):
    monkeypatch.chdir(tmp_path)
    assert text in fails(capfd, "push", source or exported, repo)


def test_timm_reads_an_image_as_the_run_does(tiny_run, tiny_images, exported):
    """The description says what the input is: timm's own transform of a file gives the run's logits."""
    run = open_run(tiny_run)
    network = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    about = timm.data.resolve_model_data_config(network)
    transform = timm.data.create_transform(**about)
    path = next(iter(tiny_images.glob("*/*.png")))
    with Image.open(path) as image:  # of the run's size: two libraries do not enlarge to the same last bit
        pixels = np.asarray(image.convert("RGB").resize((32, 32)))
    with torch.inference_mode():
        theirs = network(transform(Image.fromarray(pixels)).unsqueeze(0))
        ours = run.load_model()(torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0).float() / 255)
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    assert network.pretrained_cfg["label_names"] == ["c0", "c1", "c2"]
    assert not [path.name for path in exported.iterdir() if path.name == "model.onnx"]


@pytest.mark.parametrize("size", [32, 64])
def test_changed_stems_are_not_called_timm_s(tiny_run, tmp_path, monkeypatch, size):
    run, out = renewed_and_exported(tiny_run, tmp_path, monkeypatch, "resnet10t", size)
    why = json.loads((out / "model.json").read_text())["not_for_timm"]
    assert (out / "config.json").exists() == (size == 64)
    if size == 32:
        assert "strides of its stem are changed" in why
        assert "timm cannot build it by itself" in (out / "README.md").read_text()
        export(run, out, images=2, onnx=False)
        assert not (out / "config.json").exists()
    else:
        assert why is None
        assert "library_name: timm" in (out / "README.md").read_text()


def test_grey_images(tmp_path):
    from dpaat.training import train
    from training_makers import tiny_config

    for number in range(24):
        place = tmp_path / "images" / f"c{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (32, 32), np.uint8)).save(
            place / f"{number}.png"
        )
    run = train(tiny_config(tmp_path / "images", epochs=1, model="test_efficientnet"), tmp_path / "run")
    card = export(run, tmp_path / "out", images=2, onnx=False)
    assert (card["channels"], card["not_for_timm"]) == (1, None)
    network = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert next(network.parameters()).shape[1] == 1
    assert 'convert("L")' in (tmp_path / "out" / "README.md").read_text()


def test_a_network_that_timm_does_not_take_back(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr("dpaat.export.run_timm", lambda _, x: np.zeros((len(x), 3), np.float32))
    card = export(tiny_run, tmp_path / "out", images=2, onnx=False)
    assert card["not_for_timm"].startswith("timm builds another network from its description")
    assert not (tmp_path / "out" / "config.json").exists()
