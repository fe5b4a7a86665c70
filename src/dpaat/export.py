"""A trained network for other programs: ONNX, safetensors and timm's layout, checked against the original."""

import copy
import importlib.util
import json
import runpy
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from huggingface_hub import ModelCardData
from torch import Tensor, nn

from dpaat import rebuild
from dpaat.data.csv_file import frame_of
from dpaat.errors import UserError, first_line
from dpaat.models import Classifier
from dpaat.own_code import is_own
from dpaat.provenance import provenance
from dpaat.report.card import hub_licence
from dpaat.runs import Run, open_run
from dpaat.storage import write_json, write_text, writing
from dpaat.weights import RECORD

ONNX, WEIGHTS, CARD = "model.onnx", "model.safetensors", "model.json"
README, REBUILD, TIMM = "README.md", "rebuild.py", "config.json"
FILES = (CARD, WEIGHTS, ONNX, README, REBUILD, TIMM)
"""All that an export can hold."""
NEEDED = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  #: Largest difference of a logit, relative to 1 and to the logit, whichever is more


def export(path: Path, out: Path, *, images: int = 100, onnx: bool = True) -> dict[str, Any]:
    """Write a run's network as safetensors and, if asked, ONNX, and compare what they say, built from the folder alone.

    The ONNX model takes `images` `(B, C, H, W)`, float32 in [0, 1], for any B, and gives `logits` `(B, K)`;
    normalization is inside. The safetensors hold the network's weights by timm's names; `model.json` says what else is
    needed, such as the strides of a small stem, and is returned; `rebuild.py` builds the network from both. With
    `config.json`, timm does so too: `timm.create_model("local-dir:OUT", pretrained=True)`, for images that timm has
    normalized; where timm cannot, `not_for_timm` in `model.json` says why. The logits of `images` test images are
    compared; of random ones where the run's data are not there. Raises UserError: no run, the extra `export` is not
    installed, a network that ONNX cannot express, outputs that differ.
    """
    missing = [name for name in NEEDED if onnx and importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export needs {', '.join(missing)}: pip install 'dpaat[export]', or give --no-onnx")
    if images < 1:
        raise UserError(f"images: {images} must be at least 1")
    run = open_run(path)
    if ":" in run.network and not is_own(run.network):
        raise UserError(f"export: {run.network} is not of timm, with which the exported folder is built anew")
    model = run.load_model()
    assert isinstance(model, Classifier)
    x, of = _test_images(run, images)
    card = provenance("cpu") | {
        "timm_version": timm.__version__,
        "run": run.path.name,
        "checkpoint": run.checkpoint_digest,
        **record_of(run),
        **{name: model.facts[name] for name in ("strides", "mean", "std")},
        "input": {"name": "images", "shape": ["batch", *x.shape[1:]], "range": [0, 1], "fit": run.config.fit}
        | {"window": run.info.get("window") or "full"},
        "output": {"name": "logits", "shape": ["batch", len(run.info["classes"])]},
        **{name: run.info.get(name) for name in ("network", "licence", "citation")},
    }
    if weights := (card["network"] or {}).get("weights"):  # its folder is nobody else's business
        card["network"] = card["network"] | {"weights": weights | {"file": Path(weights["file"]).name}}
    with torch.inference_mode():
        expected = model(x).numpy()
    with writing(out):
        if other := _not_of_an_export(out):
            raise UserError(f"{other}: is not of an export; choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        for name in (CARD, ONNX, TIMM):  # of an earlier export
            (out / name).unlink(missing_ok=True)
        if onnx:
            _write_onnx(model, x, out / ONNX)
        _write_weights(model, run, out / WEIGHTS)
        shutil.copyfile(rebuild.__file__, out / REBUILD)
        card["not_for_timm"] = _write_timm(model, card, out, x, expected)
        write_text(out / README, _readme(card, (out / ONNX).exists()))
        write_json(out / CARD, card)
        found = {ONNX: _run_onnx(out / ONNX, x)} if onnx else {}
        found[WEIGHTS] = _run_rebuilt(out, x, model, run.config.model)
        differences = {name: float(np.abs(logits - expected).max()) for name, logits in found.items()}
        for name, logits in found.items():
            if not np.allclose(logits, expected, rtol=TOLERANCE, atol=TOLERANCE):
                (out / CARD).unlink()
                raise UserError(f"{out / name}: differs from the run by up to {differences[name]:.2g}; do not use it")
        card["checked"] = {"images": len(x), "of": of, "largest_difference": differences}
        write_json(out / CARD, card)
    return card


def _not_of_an_export(out: Path) -> Path | None:
    """A file in a folder that an export would replace, though none has written it."""
    there = [out / name for name in FILES if (out / name).exists()]
    marks = {REBUILD: Path(rebuild.__file__).read_bytes().partition(b"\n")[0]}
    marks |= {} if out / TIMM in there else {CARD: b"dpaat_version"}
    ours = any(out / name in there and mark in (out / name).read_bytes() for name, mark in marks.items())
    return None if ours or not there else there[0]


def record_of(run: Run) -> dict[str, Any]:
    """A run's record with what predictions need: the frame of a file that is read; what tells yes from no of labels."""
    thresholds = {"thresholds": run.info.get("thresholds")} if run.info.get("multilabel") else {}
    return run.record | thresholds | ({"frame": frame} if (frame := frame_of(run.config.data)) else {})


def _test_images(run: Run, count: int) -> tuple[Tensor, str]:
    """Test images `(n, C, H, W)` in [0, 1], and what they are."""
    try:
        data = run.prepare(progress=False)
    except UserError:
        shape = (count, int(run.info["channels"]), *(run.config.image_size,) * 2)
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)), "random images"
    rows = data.rows("test")[:count]
    return torch.from_numpy(np.ascontiguousarray(data.images[rows])).float() / 255, "test images"


def _write_onnx(model: nn.Module, x: Tensor, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            names = {"input_names": ["images"], "output_names": ["logits"]}
            batch = ({0: torch.export.Dim("batch")},)
            program = torch.onnx.export(model, (x[:2],), **names, dynamic_shapes=batch, dynamo=True, verbose=False)  # type: ignore[arg-type]
        except Exception as error:  # whatever a network holds that the exporter cannot express
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"{path}: this network cannot be written as ONNX: {reason}") from None
    assert program is not None
    for graph in (program.model.graph, *program.model.functions.values()):
        for node in graph.all_nodes():  # type: ignore[attr-defined]
            node.metadata_props.clear()  # traces with the paths of this machine
    program.save(path, external_data=False)


def _write_weights(model: Classifier, run: Run, path: Path) -> None:
    from safetensors.torch import save

    state = {name: value.contiguous().clone() for name, value in model.network.state_dict().items()}
    record = record_of(run) | {name: model.facts[name] for name in ("mean", "std")}
    path.write_bytes(save(state, {"format": "pt", RECORD: json.dumps(record)}))


def _write_timm(model: Classifier, card: dict[str, Any], out: Path, x: Tensor, expected: np.ndarray) -> str | None:
    """Write timm's description of the network; returns why timm cannot build it from that, None where it does."""
    if card["strides"]:
        return f"{len(card['strides'])} strides of its stem are changed, which timm has no option for"
    channels, side, of_timm = card["channels"], card["image_size"], getattr(model.network, "pretrained_cfg", {})
    pretrained: dict[str, Any] = {name: of_timm.get(name) for name in ("pool_size", "first_conv", "classifier")}
    pretrained |= {"input_size": [channels, side, side], "mean": card["mean"], "std": card["std"], "crop_pct": 1.0}
    pretrained |= {"interpolation": "bilinear", "crop_mode": "squash" if card["fit"] == "squash" else "center"}
    about = {
        "architecture": card["model"].partition(".")[0],
        "num_classes": len(card["classes"]),
        "num_features": getattr(model.network, "num_features", None),
        "label_names": card["classes"],
        "model_args": {"in_chans": channels},
        "pretrained_cfg": pretrained | {"num_classes": len(card["classes"])},
    }
    write_json(out / TIMM, about)
    try:
        logits = run_timm(f"local-dir:{out}", x)
        if np.allclose(logits, expected, rtol=TOLERANCE, atol=TOLERANCE):
            return None
        reason = f"timm builds another network from its description ({np.abs(logits - expected).max():.2g} off)"
    except Exception as error:  # whatever timm does not take back
        reason = f"timm does not take it back: {first_line(error)}"
    (out / TIMM).unlink()
    return reason


def run_timm(name: str, x: Tensor) -> np.ndarray:
    """Logits that a network of timm's, such as "local-dir:EXPORT", gives for images in [0, 1] that it normalizes."""
    network = timm.create_model(name, pretrained=True).eval()
    about: dict[str, Any] = timm.data.resolve_model_data_config(network)  # type: ignore[attr-defined,no-untyped-call]
    mean, std = (torch.tensor(about[field]).reshape(1, -1, 1, 1) for field in ("mean", "std"))
    with torch.inference_mode():
        logits: np.ndarray = network((x - mean) / std).numpy()
    return logits


def _readme(card: dict[str, Any], onnx: bool) -> str:
    """Contents of the folder and how to use it; the scores are in the card."""
    side, stem, why = card["image_size"], "timm's", card["not_for_timm"]
    if lines := card["strides"]:
        stem = f"timm's {card['model']} with {len(lines)} strides changed, as `strides` in `{CARD}` lists"
    head = ModelCardData(
        **hub_licence([card["licence"]] if card["licence"] else []),
        library_name="dpaat" if why else "timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "medical-imaging", "dpaat"],
    )
    window, labels = card["input"]["window"], ""
    read = f" Pixel values are first read through the window {window} (`dpaat train --help`)." * (window != "full")
    if card.get("multilabel"):
        labels = (
            "\nThey are labels of which an image has several or none: probabilities are the sigmoids of the logits, "
            f"and the answer is yes where a logit is above its value in `thresholds` of `{CARD}`."
        )
    by_timm = f"""timm builds it too; its transform treats square images as the training did (cut others first):

    model = timm.create_model("local-dir:.", pretrained=True).eval()  # hf-hub:USER/NAME once it is pushed
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    logits = model(transform(image.convert("{"L" if card["channels"] == 1 else "RGB"}")).unsqueeze(0))
"""
    return f"""---
{head.to_yaml()}
---
# {card["model"]}, {len(card["classes"])} classes

Images are ({card["channels"]}, {side}, {side}), float32, values in [0, 1]; logits are in the order of `classes` in
`{CARD}`: {", ".join(card["classes"])}.{labels} Stem: {stem}. Normalization: (x - mean) / std, with
mean {card["mean"]} and std {card["std"]}; it is
{f"part of `{ONNX}`, and " if onnx else ""}not part of `{WEIGHTS}`.{read}

For research. Not a medical device, and not for use in diagnosis or treatment.

`{REBUILD}` builds the network from this folder with torch, timm {card["timm_version"]} and safetensors alone:

    from rebuild import rebuild

    logits = rebuild("."{", network" * is_own(card["model"])})(images)

{f"timm cannot build it by itself: {why}." if why else by_timm}
"""


def _run_onnx(path: Path, x: Tensor) -> np.ndarray:
    """Logits of two batches of other sizes than it was traced with."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = [session.run(["logits"], {"images": part.numpy()})[0] for part in (x[:1], x[1:]) if len(part)]
    return np.concatenate(parts)


def _run_rebuilt(folder: Path, x: Tensor, original: Classifier, name: str) -> np.ndarray:
    """Logits of the network as whoever has nothing but the folder builds it, and the code of one that is not timm's."""
    own = copy.deepcopy(original.network) if is_own(name) else None
    model = runpy.run_path(str(folder / REBUILD))["rebuild"](folder, own)
    with torch.inference_mode():
        logits: np.ndarray = model(x).numpy()
    return logits
