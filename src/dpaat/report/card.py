"""Model card: Markdown under a YAML head, in the form that model hubs read."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index

import dpaat
from dpaat.report.blocks import Block, Facts, Fold, Heading, Listing, Text, make_sections
from dpaat.report.comparison import Comparison, Report
from dpaat.report.sections.masking import overview_tables
from dpaat.report.view import window_text
from dpaat.tables import Table, escape_markdown

LICENCES = ("cc-by-nc-4.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-sa-4.0", "cc0-1.0", "apache-2.0", "mit")
"""Licences by the names that hubs know."""
METRICS = {"accuracy": "", "balanced_accuracy": "", "map": "mean average precision", "auroc": "AUROC"}
APART = ("training", "fragility", "reproduction")
"""Sections that have a place of their own on the card, or none; all others are under "Evaluation"."""
METHOD = (
    "S. Li, X. Ma, S. Jiang, L. Meng, “Dynamic Perturbation-Adaptive Adversarial Training on Medical Image "
    "Classification”, arXiv 2403.06798 (2024)"
)
LIMITS = (
    "Robustness was measured at the radii below and against the attacks named; it says nothing about other changes "
    "of an image, other cameras, clinics or groups of patients than those that the tables name."
)


def model_card(report: Report) -> str:
    """Write a model card about one run or several.

    Figures and pictures are left to the HTML page; the tables are the same.
    """
    sections = {section.anchor: (section.title, blocks) for section, blocks in make_sections(report).items()}
    evaluation = [(title, blocks) for anchor, (title, blocks) in sections.items() if anchor not in APART]
    synthetic = any(run.info.get("synthetic") for run in report.runs)
    parts = [
        f"---\n{_head(report)}\n---",
        f"# {escape_markdown(report.title)}",
        "## Model details",
        _details(report),
        *(table.to_markdown() for table in overview_tables(report.comparisons)),
        "## Verdict",
        _block(Facts([line[:2] for line in report.verdict])),
        "## Intended use and limits",
        "For research. Not a medical device, and not for use in diagnosis or treatment.",
        "Trained on synthetic images: no number here says anything about patients." if synthetic else "",
        LIMITS,
        "## Training data",
        _data(report),
        *_written(sections["training"][1]),
        "## Evaluation",
        *(part for title, blocks in evaluation for part in (f"### {title}", *_written(blocks))),
        "## How to reproduce it",
        *_written(sections["reproduction"][1]),
        "## Citation",
        *(escape_markdown(text) for text in report.unique("citation")),
        f"{METHOD}; details that its abstract leaves open are those of dpaat {dpaat.__version__}.",
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _head(report: Report) -> str:
    methods = dict.fromkeys(run.config.method for run in report.runs if not run.elsewhere)
    head = ModelCardData(
        **hub_licence(report.unique("licence")),
        library_name="dpaat",
        pipeline_tag="image-classification",
        tags=["image-classification", "adversarial-robustness", "adversarial-training", "medical-imaging", *methods],
        metrics=["accuracy"],
    )
    # One call a comparison: results of one split on different images would be merged into one.
    head["model-index"] = [
        {"name": run.name, "results": [each for about in report.comparisons for each in _results(run.name, about)]}
        for run in report.runs
    ]
    return head.to_yaml()


def hub_licence(licences: Sequence[str]) -> dict[str, Any]:
    """The fields of a card's head for the licences of the data."""
    name = re.sub(r"[^a-z0-9.]+", "-", licences[0].lower()) if len(licences) == 1 else ""
    known = name in LICENCES
    return {"license": name if known else "other", "license_name": None if known else ", ".join(licences) or None}


def _results(name: str, comparison: Comparison) -> list[dict[str, Any]]:
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=comparison.population.data,
            dataset_name=comparison.title,
            dataset_split=comparison.population.split,
            metric_type=key,
            metric_name=(METRICS[key] or key.replace("_", " "))
            + ("" if entry["attack"] == "clean" else f", {entry['label']} {entry['eps_text']}"),
            metric_value=round(float(entry["metrics"][key]), 4),
        )
        for entry in comparison.results.get(name, ())
        if entry["attack"] == "clean" or entry["label"] in comparison.attacks[:1]
        for key in METRICS
        if entry["metrics"].get(key) is not None
    ]
    found: list[dict[str, Any]] = eval_results_to_model_index(name, results)[0]["results"]
    return found


def _details(report: Report) -> str:
    return "\n".join(
        f"- {escape_markdown(run.name)}: `{run.config.model}` for images of {run.config.image_size} x "
        f"{run.config.image_size} pixels in [0, 1], {len(run.info['classes'])} classes, trained "
        + ("elsewhere" if run.elsewhere else f"with the method `{run.config.method}`")
        + (f" at radii up to {run.config.eps}" if run.config.eps else "")
        for run in report.runs
    )


def _data(report: Report) -> str:
    names = ("data", "fingerprint", "licence", "window")
    rows = dict.fromkeys(tuple(str(run.info.get(name) or "") for name in names) for run in report.runs)
    lines = [
        f"- {escape_markdown(data)}, fingerprint `{digest}`, licence: {escape_markdown(licence or 'unknown')}"
        + window_text(window)
        for data, digest, licence, window in rows
    ]
    said = report.unique("data_warnings", "notes")
    return "\n".join([*lines, *(f"- {escape_markdown(line)}" for line in said)])


def _written(blocks: Sequence[Block]) -> Iterator[str]:
    """Blocks as Markdown; a heading is left out where nothing that can be written follows it."""
    heading = ""
    for block in blocks:
        if isinstance(block, Fold):
            yield from _written([Heading(block.summary), *block.blocks])
        elif isinstance(block, Heading):
            heading = f"#### {escape_markdown(block.text)}"
        elif text := _block(block):
            yield from (heading, text)
            heading = ""


def _block(block: Block) -> str:
    match block:
        case Table():
            return block.to_markdown()
        case Text():
            return escape_markdown(block.text)
        case Facts():
            return "\n".join(f"- {escape_markdown(term)}: {escape_markdown(text)}" for term, text in block.facts)
        case Listing():
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", block.text)), default=0))
            return f"{escape_markdown(block.summary)}\n\n{fence}yaml\n{block.text.rstrip()}\n{fence}"
        case _:
            return ""
