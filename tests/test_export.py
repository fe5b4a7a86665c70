import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import dpaat.export
from dpaat import load
from dpaat.cli import main
from dpaat.data import prepare
from dpaat.errors import UserError
from dpaat.export import export
from dpaat.models import build_model
from dpaat.rebuild import rebuild
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


def test_onnx_tells_no_path_of_this_machine(exported):
    content = (exported / "model.onnx").read_bytes()
    assert b"resnet.py" not in content
    assert str(Path(timm.__file__).parent).encode() not in content


QUICK = ["test_resnet", "test_efficientnet"]
ARCHITECTURES = [
    *QUICK,
    "test_convnext2",
    "test_mambaout",
    "resnet10t",
    "mobilenetv3_small_050",
    "lcnet_050",
    "convnext_atto",
    "regnetx_002",
    "dla46_c",
]


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_folder_alone_gives_the_run_s_logits(tiny_run, tmp_path, monkeypatch, name, size):
    run, out = renewed_and_exported(tiny_run, tmp_path, monkeypatch, name, size)
    card = json.loads((out / "model.json").read_text())
    assert card["stem"] == ("small" if size == 32 else "original")
    assert bool(card["strides"]) == (size == 32)

    network = timm.create_model(card["model"], num_classes=len(card["classes"]), in_chans=card["channels"])
    network.load_state_dict(load_file(out / "model.safetensors"))
    for change in card["strides"]:
        layer = network.get_submodule(change["module"])
        layer.stride = tuple(change["stride"])
        layer.kernel_size = change.get("kernel_size", layer.kernel_size)
    mean, std = (torch.tensor(card[field]).reshape(1, 3, 1, 1) for field in ("mean", "std"))
    x = torch.rand(5, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = open_run(run).load_model()(x)
        torch.testing.assert_close(network.eval()((x - mean) / std), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(rebuild(out)(x), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ARCHITECTURES]
)
def test_exported_weights_score_as_the_run(tiny_run, tiny_images, tmp_path, monkeypatch, name, size):
    run, out = renewed_and_exported(tiny_run, tmp_path, monkeypatch, name, size)
    results = tmp_path / "results"
    options = ["--eps=0,2/255", "--steps=2", "--device=cpu", "--max-samples=6"]
    assert main(["evaluate", str(run), *options]) == 0
    file = ["--model", name, "--weights", str(out / "model.safetensors")]
    assert main(["evaluate", *file, "--data", f"folder:{tiny_images}", "--out", str(results), *options]) == 0
    ours, theirs = (json.loads((folder / "evaluation.json").read_text()) for folder in (run, results))
    assert [e["metrics"] for e in ours["results"]] == [e["metrics"] for e in theirs["results"]]
    assert ours["classes"] == theirs["classes"]


def renewed_and_exported(
    tiny_run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, size: int
) -> tuple[Path, Path]:
    """A run of another network, with random weights and the stem that "auto" gives, and its export without ONNX."""
    monkeypatch.setattr(dpaat.export, "_write_onnx", lambda *_: None)  # the other form, tested above
    monkeypatch.setattr(dpaat.export, "_run_onnx", lambda _, x: open_run(run).load_model()(x).detach().numpy())
    run, out = shutil.copytree(tiny_run, folder / "run"), folder / "out"
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"model": name, "image_size": size, "stem": "auto"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(1)
    model = build_model(name, num_classes=3, image_size=size)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state}, run / "checkpoints" / "best.ckpt")
    data = prepare(config["data"], image_size=size, splits=run / "splits.csv", progress=False)
    info = json.loads((run / "run.json").read_text()) | {"fingerprint": data.fingerprint, "network": model.facts}
    del info["config"]
    (run / "run.json").write_text(json.dumps(info))
    export(run, out, images=4)
    return run, out


def test_the_exported_folder_explains_itself(exported):
    text = (exported / "README.md").read_text()
    assert "c0, c1, c2" in text
    assert "from rebuild import rebuild" in text
    assert (exported / "rebuild.py").is_file()


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


@pytest.mark.parametrize("name", ["README.md", "rebuild.py", "config.json", "model.json", "model.onnx"])
def test_files_that_no_export_has_written_stay(tiny_run, tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"{name}: is not of an export; choose another --out"):
        export(tiny_run, tmp_path, onnx=False)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "{}")]


@pytest.mark.parametrize("lost", [(), ("model.json",), ("config.json", "rebuild.py"), ("model.json", "model.onnx")])
def test_an_earlier_export_is_replaced_whole_or_not(exported, tiny_run, tmp_path, lost):
    out = shutil.copytree(exported, tmp_path / "out")
    for name in lost:
        (out / name).unlink(missing_ok=True)
    export(tiny_run, out, images=2, onnx=False)
    assert (out / "model.json").is_file()


def test_an_export_reads_the_frame_that_its_run_reads(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "data": f"{config['data']},frame=3"}))
    export(run, tmp_path / "export", onnx=False)
    assert (load(run).frame, load(tmp_path / "export").frame) == ("3", "3")
    pages = [Image.new("RGB", (20, 20), (grey, grey, grey)) for grey in (10, 90, 200)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    pages[2].save(tmp_path / "third.tif", save_all=True, append_images=[pages[2], pages[2]])
    stack, third = (load(tmp_path / "export").predict(tmp_path / name) for name in ("stack.tif", "third.tif"))
    assert stack.iloc[0, 2:].tolist() == third.iloc[0, 2:].tolist()
