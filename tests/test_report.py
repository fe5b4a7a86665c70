import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dpaat.config import TrainConfig
from dpaat.errors import UserError
from dpaat.evaluation.attacking import CLEAN, AttackSpec
from dpaat.evaluation.metrics import classification_metrics, constant_predictor, verdict_metrics
from dpaat.evaluation.results import Population, constant_entry, result_entry, save_result
from dpaat.evaluation.suite import Result
from dpaat.report import write_report
from dpaat.runs import write_config, write_json

HAM = {"akiec": 65, "bcc": 103, "bkl": 220, "df": 23, "mel": 223, "nv": 1341, "vasc": 28}
VOID = {"meta", "link", "br", "path", "use", "image"}


def make_run(
    path: Path,
    *,
    counts: dict[str, int] = HAM,
    method: str = "dpaat",
    epochs: int = 14,
    radii: tuple[float, ...] = (2 / 255, 4 / 255, 8 / 255),
    loss_per_radius: float = 20.0,
    data: str = "ham10000",
    **info: object,
) -> Path:
    """A run folder as training and evaluation leave it, with made-up numbers."""
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
    frame["val/balanced_accuracy"] = 0.15 + 0.4 * rise
    for radius in (2, 8):
        frame[f"val/robust_balanced_accuracy@{radius}/255"] = 0.15 + (0.4 - 0.03 * radius) * rise
    if method == "dpaat":
        names = np.repeat(classes, [4 * n for n in counts.values()])
        frame["eps/mean"] = rise * 5 / 255
        for q in (10, 50, 90):
            frame[f"eps/q{q}"] = rise * 0.08 * q / 255
        frame["eps/share_zero"], frame["eps/share_max"] = 0.2 * rise, 0.3 * rise
        means = {f"eps/mean/{name}": rise * (1 + k % 7) / 255 for k, name in enumerate(classes)}
        frame = pd.concat([frame, pd.DataFrame(means)], axis=1)
        (path / "perturbation.parquet").mkdir()
        sizes = np.clip(rng.normal(4, 3, len(names)), 0, 8) / 255
        last = pd.DataFrame({"id": "x", "class": names, "epoch": epochs - 1, "eps": sizes, "loss": 1.0})
        last.to_parquet(path / "perturbation.parquet" / f"epoch-{epochs - 1:04d}.parquet")
    frame.to_csv(path / "metrics.csv", index=False)

    labels = torch.from_numpy(np.repeat(np.arange(len(classes)), list(counts.values())))
    population = Population(data, "0123456789abcdef", "test", len(labels))
    majority = max(counts, key=counts.__getitem__)
    constant = constant_entry(constant_predictor(labels, classes, majority), population, majority)
    noise = torch.randn(len(labels), len(classes), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for eps_value in (0.0, *radii) if radii else ():
        logits = noise.clone()
        logits[torch.arange(len(labels)), labels] += 2 - loss_per_radius * eps_value
        probabilities = logits.softmax(1)
        result = Result(
            AttackSpec("pgd", 20) if eps_value else CLEAN,
            eps_value,
            probabilities.argmax(1).numpy(),
            classification_metrics(probabilities, labels, classes),
            probabilities,
        )
        entry = result_entry(result, population, checkpoint="c0ffee")
        save_result(path, {"checkpoint": "c0ffee", "seed": 0, "device": "cpu"}, result=entry, constant=constant)
    return path


class Page(HTMLParser):
    """Checks that tags are balanced and collects what a reader sees and what a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.links, self.ids, self.alts, self.tags = "", [], [], [], []
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

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data + " "


def _page(runs: list[Path], out: Path) -> Page:
    return Page(write_report(runs, out).read_text(encoding="utf-8"))


def test_page_shows_the_numbers_of_the_json(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "standard", method="standard", loss_per_radius=150),
        make_run(tmp_path / "dpaat", loss_per_radius=30),
    ]
    page = _page(runs, tmp_path / "report.html")
    for run in runs:
        document = json.loads((run / "evaluation.json").read_text())
        for entry in [*document["results"], *document["constant"]]:
            for key in ("accuracy", "balanced_accuracy", "map"):
                assert f"{100 * entry['metrics'][key]:.1f}" in page.text
    for words in ("CC BY-NC 4.0", "Not a medical device", "0123456789abcdef", "always nv", "dpaat train --data"):
        assert words in page.text
    assert "Synthetic images" not in page.text
    assert "different data" not in page.text
    assert "Not evaluated" not in page.text


def test_the_worst_case_comes_first_without_scores_that_it_has_not(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    document = json.loads((run / "evaluation.json").read_text())
    for eps in (2 / 255, 8 / 255):
        predicted = torch.arange(sum(HAM.values())) % len(HAM)
        labels = torch.from_numpy(np.repeat(np.arange(len(HAM)), list(HAM.values())))
        result = Result(AttackSpec("worst-case"), eps, predicted.numpy(), verdict_metrics(predicted, labels, list(HAM)))
        population = Population("ham10000", "0123456789abcdef", "test", len(labels))
        save_result(run, document, result=result_entry(result, population, checkpoint="c0ffee"))
    page = _page([run], tmp_path / "report.html")
    assert page.text.index("worst case") < page.text.index("PGD-20")
    assert not any("average precision under worst case" in alt for alt in page.alts)
    assert any("accuracy under worst case" in alt for alt in page.alts)


def test_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = _page([make_run(tmp_path / "run")], tmp_path / "report.html")
    assert not {"script", "iframe", "img", "object"} & set(page.tags)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    text = (tmp_path / "report.html").read_text()
    assert not re.search(r"@import|url\((?!#)", text)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    }
    assert text.lower().startswith("<!doctype html>")


def test_every_figure_has_an_alternative_and_ids_of_its_own(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "two")]
    page = _page(runs, tmp_path / "report.html")
    assert len(page.alts) == page.tags.count("figure") == page.tags.count("figcaption") == page.tags.count("svg") > 10
    assert all(re.search(r"\d", alt) for alt in page.alts)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_markup_in_names_is_only_text(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script> & $x^2$'
    counts = {evil: 9, "b": 12}
    run = make_run(tmp_path / "<i>run", counts=counts, data="<b>data", licence=evil, command=evil)
    page = _page([run], tmp_path / "report.html")
    assert not {"script", "i", "b"} & set(page.tags)
    assert html.escape("<i>run") in (tmp_path / "report.html").read_text()
    assert page.text.count(evil) >= 3


def test_hundred_classes(tmp_path: Path) -> None:
    counts = {f"class {k}": 3 + k % 5 for k in range(100)}
    page = _page([make_run(tmp_path / "run", counts=counts)], tmp_path / "report.html")
    assert "the 30 most frequent of 100 classes" in page.text
    assert any("93 more lines" in alt for alt in page.alts)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    bare = make_run(tmp_path / "bare", radii=())
    (bare / "metrics.csv").unlink()
    page = _page([bare], tmp_path / "report.html")
    assert "Not evaluated yet: bare" in page.text
    assert "No epoch has been logged yet" in page.text
    other = make_run(tmp_path / "other")
    page = _page([other, bare], tmp_path / "report.html")
    assert "Not evaluated yet: bare" in page.text
    assert "PGD-20" in page.text


def test_one_epoch_and_one_radius(tmp_path: Path) -> None:
    page = _page([make_run(tmp_path / "run", epochs=1, radii=(8 / 255,))], tmp_path / "report.html")
    assert "1 of 1" in page.text


def test_synthetic_and_unequal_data_are_said(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", synthetic=True)
    two = make_run(tmp_path / "two", fingerprint="f" * 16)
    page = _page([one, two], tmp_path / "report.html")
    assert "Synthetic images." in page.text
    assert "trained on different data" in page.text


def test_settings_that_differ_are_listed(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "standard", method="standard"), make_run(tmp_path / "dpaat", epochs=9)]
    page = _page(runs, tmp_path / "report.html")
    section = page.text[page.text.index("Settings in which") : page.text.index("Images per class")]
    assert {"method", "eps", "epochs"} <= set(section.split())
    assert "image_size" not in section


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run")]
    page = _page(runs, tmp_path / "report.html")
    assert str(runs[0]) in page.text
    assert str(runs[1]) in page.text


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    old = make_run(tmp_path / "old")
    (old / "run.json").write_text('{"schema_version": 1}')
    broken = make_run(tmp_path / "broken")
    (broken / "evaluation.json").write_text("{")
    for runs, out, message in [
        ([], "r.html", "at least one run"),
        ([tmp_path / "empty"], "r.html", "not a run folder"),
        ([tmp_path / "none"], "r.html", "not a run folder"),
        ([old], "r.html", "no usable 'classes'"),
        ([broken], "r.html", "cannot be read"),
        ([run], "no/r.html", "cannot be written"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            write_report(runs, tmp_path / out)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / out).exists()
