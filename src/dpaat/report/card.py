"""A model card: Markdown under a YAML head, in the form that model hubs read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

import dpaat
from dpaat.evaluation.entries import Entry
from dpaat.report.blocks import Block, Facts, Heading, Listing, Section, Text
from dpaat.report.comparisons import Comparison, compare
from dpaat.report.overview import overview_tables
from dpaat.report.sections import all_sections
from dpaat.report.view import RunView, unique
from dpaat.tables import Table
from dpaat.tables import escape_markdown as _escape

LICENCES = ("cc-by-nc-4.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-sa-4.0", "cc0-1.0", "apache-2.0", "mit")
"""Licences by the names that hubs know."""
METRICS = ("accuracy", "balanced_accuracy", "map", "auroc")
EVALUATION = ("accuracy", "robustness", "belief", "people", "attention")
METHOD = (
    "S. Li, X. Ma, S. Jiang, L. Meng, “Dynamic Perturbation-Adaptive Adversarial Training on Medical Image "
    "Classification”, arXiv 2403.06798 (2024)"
)


def model_card(runs: Sequence[RunView]) -> str:
    """Write a model card about one run or several.

    Figures and pictures are left to the HTML page; the tables are the same.
    """
    comparisons = compare(runs)
    sections = {section.anchor: section for section in all_sections(runs, comparisons, images=False)}
    parts = [
        "---\n" + yaml.safe_dump(_head(runs, comparisons), sort_keys=False, allow_unicode=True) + "---",
        f"# {_escape(', '.join(run.name for run in runs))}",
        "## Model details",
        _details(runs),
        *(table.to_markdown() for table in overview_tables(comparisons)),
        "## Intended use and limits",
        *_limits(runs),
        "## Training data",
        *_data(runs),
        *_written(sections["training"]),
        "## Evaluation",
        *(part for anchor in EVALUATION for part in _section(sections[anchor])),
        "## How to reproduce it",
        *_written(sections["reproduction"]),
        "## Citation",
        *(_escape(text) for text in unique(runs, "citation")),
        f"{METHOD}; details that its abstract leaves open are those of dpaat {dpaat.__version__}.",
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _head(runs: Sequence[RunView], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    licences = unique(runs, "licence")
    name = re.sub(r"[^a-z0-9.]+", "-", licences[0].lower()) if len(licences) == 1 else ""
    licence = (
        {"license": name} if name in LICENCES else {"license": "other", "license_name": ", ".join(licences) or None}
    )
    methods = list(dict.fromkeys(run.config.method for run in runs))
    return {
        **{key: value for key, value in licence.items() if value},
        "library_name": "dpaat",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "adversarial-robustness", "adversarial-training", "medical-imaging", *methods],
        "metrics": ["accuracy"],
        "model-index": [{"name": run.name, "results": _results(run.name, comparisons)} for run in runs],
    }


def _results(name: str, comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    found = []
    for comparison in comparisons:
        shown: Iterable[Entry] = comparison.results.get(name, ())
        first = comparison.attacks[:1]
        metrics = [
            {"type": key, "name": _metric(key, entry), "value": round(float(entry["metrics"][key]), 4)}
            for entry in shown
            if entry["attack"] == "clean" or entry["label"] in first
            for key in METRICS
            if entry["metrics"].get(key) is not None
        ]
        if metrics:
            about = comparison.population
            found.append(
                {
                    "task": {"type": "image-classification"},
                    "dataset": {"type": about.data, "name": comparison.title, "split": about.split},
                    "metrics": metrics,
                }
            )
    return found


def _metric(key: str, entry: Entry) -> str:
    words = {"map": "mean average precision", "auroc": "AUROC"}.get(key, key.replace("_", " "))
    return words if entry["attack"] == "clean" else f"{words}, {entry['label']} {entry['eps_text']}"


def _details(runs: Sequence[RunView]) -> str:
    lines = []
    for run in runs:
        config = run.config
        size = f"{config.image_size} x {config.image_size}"
        radii = f" at radii up to {config.eps}" if config.eps else ""
        lines.append(
            f"- {_escape(run.name)}: `{config.model}` for images of {size} pixels in [0, 1], "
            f"{len(run.info['classes'])} classes, trained with the method `{config.method}`{radii}"
        )
    return "\n".join(lines)


def _limits(runs: Sequence[RunView]) -> list[str]:
    parts = ["For research. Not a medical device, and not for use in diagnosis or treatment."]
    if any(run.info.get("synthetic") for run in runs):
        parts.append("Trained on synthetic images: no number here says anything about patients.")
    parts.append(
        "Robustness was measured at the radii below and against the attacks named; it says nothing about other changes "
        "of an image, other cameras, clinics or groups of patients than those that the tables name."
    )
    return parts


def _data(runs: Sequence[RunView]) -> list[str]:
    names = ("data", "fingerprint", "licence", "window")
    rows = list(dict.fromkeys(tuple(str(run.info.get(name) or "") for name in names) for run in runs))
    said = dict.fromkeys(
        line for run in runs for name in ("data_warnings", "notes") for line in run.info.get(name) or []
    )
    lines = [
        f"- {_escape(data)}, fingerprint `{digest}`, licence: {_escape(licence or 'unknown')}"
        + ("" if window in ("", "full") else f"; values {window} are black and white")
        for data, digest, licence, window in rows
    ]
    return ["\n".join([*lines, *(f"- {_escape(line)}" for line in said)])]


def _section(section: Section) -> list[str]:
    return [f"### {section.title}", *_written(section)]


def _written(section: Section) -> list[str]:
    """Blocks as Markdown; a heading is left out where nothing that can be written follows it."""
    parts: list[str] = []
    heading = ""
    for block in section.blocks:
        if isinstance(block, Heading):
            heading = f"#### {_escape(block.text)}"
        elif text := _block(block):
            parts += [heading, text] if heading else [text]
            heading = ""
    return parts


def _block(block: Block) -> str:
    match block:
        case Table():
            return block.to_markdown()
        case Text():
            return _escape(block.text)
        case Facts():
            return "\n".join(f"- {_escape(term)}: {_escape(text)}" for term, text in block.facts)
        case Listing():
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", block.text)), default=0))
            return f"{_escape(block.summary)}\n\n{fence}yaml\n{block.text.rstrip()}\n{fence}"
        case _:
            return ""
