import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

import dpaat.export
from dpaat.errors import UserError
from dpaat.export import export
from dpaat.runs import open_run

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    card = export(tiny_run, out, images=7)
    assert card == json.loads((out / "model.json").read_text())
    assert card["checked"]["of"] == "test images"
    assert max(card["checked"]["largest_difference"].values()) < 1e-4
    return out


@pytest.mark.parametrize("batch", [1, 5])
def test_onnx_says_what_the_run_says(exported, tiny_run, batch):
    x = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": x.numpy()})
    with torch.inference_mode():
        expected = open_run(tiny_run).load_model()(x).numpy()
    assert logits.shape == (batch, 3)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_safetensors_fit_the_network_of_timm(exported, tiny_run):
    network = timm.create_model("test_resnet", num_classes=3)
    network.load_state_dict(load_file(exported / "model.safetensors"))
    card = json.loads((exported / "model.json").read_text())
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(card[name]).reshape(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        expected = open_run(tiny_run).load_model()(x)
        torch.testing.assert_close(network.eval()((x - mean) / std), expected, atol=1e-4, rtol=1e-4)


def test_outputs_that_differ_are_refused(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(dpaat.export, "_write_onnx", lambda *_: None)
    monkeypatch.setattr(dpaat.export, "_run_onnx", lambda _, x: np.zeros((len(x), 3), np.float32))
    with pytest.raises(UserError, match=r"model\.onnx: differs from the run by up to"):
        export(tiny_run, tmp_path)
    assert not (tmp_path / "model.json").exists()


def test_without_the_extra(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(dpaat.export, "NEEDED", ("onnx", "no_such_package"))
    with pytest.raises(UserError, match=r"needs no_such_package: pip install 'dpaat\[export\]'"):
        export(tiny_run, tmp_path)


def test_random_images_where_the_data_are_gone(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("data: folder:", "data: folder:/gone"))
    x, of = dpaat.export._test_images(open_run(run), 5)
    assert of == "random images"
    assert x.shape == (5, 3, 32, 32)
    assert 0 <= x.min() < x.max() <= 1
