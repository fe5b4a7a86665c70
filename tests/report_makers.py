"""Run folders with made-up numbers, and a reader of pages."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dpaat.config import TrainConfig
from dpaat.evaluation.entries import Population, constant_entry, result_entry
from dpaat.evaluation.metrics import classification_metrics, constant_predictor
from dpaat.evaluation.results import prediction_rows, save_result
from dpaat.evaluation.specs import CLEAN, AttackSpec
from dpaat.evaluation.suite import Result
from dpaat.report import write_report
from dpaat.runs import write_config
from dpaat.storage import write_json, write_text

HAM = {"akiec": 13, "bcc": 21, "bkl": 44, "df": 5, "mel": 45, "nv": 268, "vasc": 6}
VOID = {"meta", "link", "br", "img", "path", "use", "image", "polyline"}
RADII = (2 / 255, 4 / 255, 8 / 255)


def make_run(
    path: Path,
    *,
    counts: dict[str, int] = HAM,
    method: str = "pgd",
    epochs: int = 1,
    radii: tuple[float, ...] = (4 / 255,),
    loss_per_radius: float = 20.0,
    data: str = "ham10000",
    first: int = 0,
    **info: object,
) -> Path:
    """A run folder as training and evaluation leave it, with made-up numbers; but there is no checkpoint."""
    rng = np.random.default_rng(0)
    path.mkdir(parents=True)
    classes = list(counts)
    eps = "8/255" if method != "standard" else None
    write_config(path / "config.yaml", TrainConfig(data=f"{data}:DIR", method=method, epochs=epochs, eps=eps))
    described = {
        "schema_version": 1,
        "dpaat_version": "0.1.0",
        "torch_version": "2.11.0",
        "status": "finished",
        "command": f"dpaat train --data {data}:DIR --method {method} --out {path.name}",
        "data": data,
        "fingerprint": "0123456789abcdef",
        "synthetic": False,
        "licence": "CC BY-NC 4.0",
        "citation": "Tschandl et al. 2018, doi 10.7910/DVN/DBW86T",
        "classes": classes,
        "channels": 3,
        "train_counts": {name: 4 * n for name, n in counts.items()},
        "split_counts": {"train": {name: 4 * n for name, n in counts.items()}, "val": counts, "test": counts},
    }
    write_json(path / "run.json", described | info)

    rise = 1 - np.exp(-np.arange(1, epochs + 1) / 5)
    frame = pd.DataFrame({"epoch": np.arange(epochs), "train/loss": 2 - rise, "val/loss": 1.9 - 0.9 * rise})
    frame["val/balanced_accuracy"] = frame["val/score"] = 0.15 + 0.4 * rise
    write_text(path / "timing.csv", "epoch,seconds\n" + "".join(f"{k},{20 + k % 3}\n" for k in range(epochs)))
    for radius in (2, 8):
        frame[f"val/robust_balanced_accuracy@{radius}/255"] = 0.15 + (0.4 - 0.03 * radius) * rise
    if method == "dpaat":
        names = np.repeat(classes, [4 * n for n in counts.values()])
        frame["eps/mean"] = rise * 5 / 255
        for q in (10, 50, 90):
            frame[f"eps/q{q}"] = rise * 0.08 * q / 255
        frame["eps/share_zero"], frame["eps/share_max"] = 0.2 * rise, 0.3 * rise
        means = {f"eps/mean/{name}": rise * (1 + k % 7) / 255 for k, name in enumerate(classes)}
        means |= {f"criterion/{name}": 2 - rise * (1 + k % 7) / 8 for k, name in enumerate(classes)}
        frame = pd.concat([frame, pd.DataFrame(means)], axis=1)
        (path / "perturbation.parquet").mkdir()
        sizes = np.clip(rng.normal(4, 3, len(names)), 0, 8) / 255
        last = pd.DataFrame(
            {"id": [f"x{k}" for k in range(len(names))], "class": names, "epoch": epochs - 1, "eps": sizes, "loss": 1.0}
        )
        last.to_parquet(path / "perturbation.parquet" / f"epoch-{epochs - 1:04d}.parquet")
    frame.to_csv(path / "metrics.csv", index=False)

    if not radii:
        return path
    labels = np.repeat(np.arange(len(classes)), list(counts.values()))
    population = Population(data, described["fingerprint"], "test", len(labels))
    majority = max(counts, key=counts.__getitem__)
    constant = constant_entry(constant_predictor(torch.from_numpy(labels), classes, majority), population, majority)
    head = {
        "checkpoint": "c0ffee",
        "seed": 0,
        "device": "cpu",
        "run": path.name,
        "method": method,
        "model": "resnet18",
        "training_seed": 0,
        "fold": None,
        "recipe": None,
        "classes": classes,
        "data_fingerprint": described["fingerprint"],
    }
    noise = torch.randn(len(labels), len(classes), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for eps_value in (0.0, *radii):
        logits = noise.clone()
        logits[torch.arange(len(labels)), torch.from_numpy(labels)] += 2 - loss_per_radius * eps_value
        probabilities = logits.softmax(1)
        result = Result(
            AttackSpec("pgd", 20) if eps_value else CLEAN,
            eps_value,
            probabilities.argmax(1).numpy(),
            classification_metrics(probabilities, torch.from_numpy(labels), classes),
            probabilities,
        )
        metrics = result.metrics
        around = {key: [metrics[key] - 0.031, metrics[key] + 0.042] for key in ("accuracy", "balanced_accuracy", "map")}
        ids = [f"image-{first + number}" for number in range(len(labels))]
        save_result(
            path,
            head,
            result=result_entry(result, population, around, checkpoint="c0ffee"),
            constant=constant,
            predictions=prediction_rows(result, population, ids=ids, groups=ids, labels=labels, classes=classes),
        )
    return path


class Page(HTMLParser):
    """Checks that tags are balanced and collects what a reader sees and what a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.raw, self.text = text, ""
        self.links, self.ids, self.alts, self.tags, self.titles, self.pictures = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._attributes(dict(attributes))

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self._attributes(dict(attributes))

    def _attributes(self, found):
        self.links += [found[name] for name in ("href", "src", "xlink:href") if name in found]
        self.ids += [found["id"]] if "id" in found else []
        self.alts += [found["aria-label"]] if found.get("role") == "img" else []
        self.pictures += [found["alt"]] if "alt" in found else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data + " "
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)


def add_analyses(run: Path, **analyses: dict[str, object]) -> None:
    """Add conclusions about the images that the run was evaluated on."""
    document = json.loads((run / "evaluation.json").read_text())
    about = {key: document["results"][0][key] for key in ("data", "fingerprint", "split", "n")}
    head = {key: value for key, value in document.items() if key not in ("results", "constant", "analyses")}
    common = {**about, "checkpoint": "c0ffee", "norm": "linf"}
    save_result(run, head, analyses={name: {**common, **values} for name, values in analyses.items()})


def masking(verdict: str, summary: str) -> dict[str, object]:
    checks = [
        {"name": "predictions", "verdict": "pass", "evidence": "50 of 60 are right", "values": {}},
        {"name": "large radius", "verdict": verdict, "evidence": "12 of 50 images stand at 0.5", "values": {}},
    ]
    return {"checks": checks, "summary": f"{summary} (1 passed)"}


def read_page(runs: list[Path], out: Path, **options: object) -> Page:
    return Page(write_report(runs, out, **options).read_text(encoding="utf-8"))  # type: ignore[arg-type]
