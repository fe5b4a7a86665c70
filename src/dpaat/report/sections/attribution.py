"""Report section: attribution maps, in numbers beside their chance levels, and the maps themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dpaat.data.label_sets import NOTHING
from dpaat.errors import UserError
from dpaat.evaluation.entries import Entry, note_of
from dpaat.evaluation.tables import verdict_table
from dpaat.report.blocks import Block, Card, Figures, Fold, Gallery, Heading, Picture, Text, folded, register_section
from dpaat.report.comparison import Report
from dpaat.report.drawing import Plot
from dpaat.report.figures import Estimate, whisker_plot
from dpaat.report.gallery import image_uri, map_uri, outlined
from dpaat.report.view import EXPLANATIONS, RunView
from dpaat.tables import Cell, Row, Table, percent, score_cell

FAMILIES = {
    "on the lesion": {"energy": "energy inside", "pointing": "pointing game", "iou": "IoU, top area"},
    "the same under attack": {"rank_correlation": "rank correlation", "ssim": "SSIM"},
    "faithful to the model": {"deletion": "deletion (low)", "insertion": "insertion (high)"},
    "like the image": {"alignment": "alignment"},
}
PLOTTED = {"energy": "Energy inside the lesion", "rank_correlation": "Rank correlation of clean and adversarial map"}
REFERENCES = ("centre", "edges")
MAX_KINDS = 2
"""Kinds of map shown as pictures."""
MAX_CARDS = 8
SANITY = "A map that stays as it is when the model's parameters are shuffled does not show what the model learned."
Entries = Sequence[tuple[RunView, Entry]]


@register_section("attention", "What does it look at?", order=60)
def attribution(report: Report) -> list[Block]:
    """Scores of the maps, the sanity check and one image of each class with its maps."""
    blocks: list[Block] = []
    found: dict[str, list[tuple[RunView, Entry]]] = {}
    for run in report.runs:
        try:
            for entry in run.explanations["explanations"] if run.explanations is not None else ():
                about = f"{entry['data']}, {entry['split']} split, {entry['n']:,} images, {entry['attack']['label']}"
                found.setdefault(about, []).append((run, entry))
        except (KeyError, TypeError):
            text = f"{run.name}: {EXPLANATIONS} is of another version of dpaat; explain the run again."
            blocks.append(Text(text, "warn"))
    for title, entries in found.items():
        plots = [plot for score, words in PLOTTED.items() if (plot := _excess(entries, score, words))]
        shown: list[Block] = [Figures(plots)] if plots else []
        blocks += [Heading(f"Attribution maps: {title}"), *folded("Scores of the maps", [*shown, *_scores(entries)])]
        for run, entry in entries if report.images else ():
            blocks.append(Fold(f"{run.name}: the maps of one image of each class", _maps(run, entry)))
    if missing := [run.name for run in report.runs if run.explanations is None]:
        text = f"No attribution maps yet: {', '.join(missing)}. `dpaat explain RUN` makes and scores them."
        blocks.append(Text(text, "note"))
    return blocks


def _scores(entries: Entries) -> list[Block]:
    blocks: list[Block] = [Text(f"{run.name}: {note}.", "warn") for run, e in entries if (note := note_of(e))]
    for run, entry in entries:
        if layer := entry.get("layer"):
            at = f"{layer['name']} ({layer['height']} x {layer['width']})"
            blocks.append(Text(f"{run.name}: Grad-CAM at layer {at}; maps explain the {entry['explains']}.", "note"))
    titles: Mapping[str, Mapping[str, str]] = entries[0][1].get("score_titles", {})
    for family, scores in FAMILIES.items():
        chance = "; ".join(f"{scores[s]}: {titles[s]['chance']}" for s in scores if s in titles)
        note = (
            f"Percent, 95 % intervals; chance level ({chance}). In bold where the interval of the excess leaves it out."
        )
        if rows := _rows(entries, scores):
            blocks.append(Table(family, list(scores.values()), rows, note=note))
    checks = {
        f"{run.name}: {each['map']}" if len(entries) > 1 else each["map"]: each
        for run, entry in entries
        for each in entry["randomization"]
    }
    blocks.append(replace(verdict_table("sanity check", checks), note=SANITY))
    empty = []
    for run, entry in entries:
        if counts := [f"{e['n']} of {e['map']} at {e['eps_text']}" for e in entry.get("empty", []) if e["n"]]:
            empty.append(f"{run.name}: {', '.join(counts)}")
    return [*blocks, Text(f"Maps that are 0 everywhere: {'; '.join(empty)}.", "note")] if empty else blocks


def _excess(entries: Entries, score: str, title: str) -> Plot | None:
    groups: dict[str, dict[str, Estimate]] = {}
    for run, entry in entries:
        for each in entry["scores"]:
            if each["score"] == score and (interval := each["balanced"].get("excess_interval")):
                quiet = each["map"] in REFERENCES or not each["eps"]
                row = each["map"] if quiet else f"{each['map']}, {each['eps_text']}"
                groups.setdefault(run.name, {})[row] = Estimate(each["balanced"]["excess"], interval)
    caption = f"{title} above its chance level."
    return whisker_plot(groups, x_label="above chance, percentage points", caption=caption) if groups else None


def _rows(entries: Entries, scores: Mapping[str, str]) -> list[Row]:
    """Kinds of map one after the other, runs next to each other; kinds that know no model last and quiet."""
    found: dict[tuple[bool, str, float], dict[str, dict[str, Any]]] = {}
    for run, entry in entries:
        for each in entry["scores"]:
            if each["score"] in scores:
                key = (each["map"] in REFERENCES, each["map"], each["eps"])
                found.setdefault(key, {}).setdefault(run.name, {})[each["score"]] = each["balanced"]
    texts = {each["eps"]: each["eps_text"] for _, entry in entries for each in entry["scores"]}
    rows = []
    for (reference, kind, eps), by_run in sorted(found.items(), key=lambda item: item[0][0]):
        what = f"{kind}, {'no model' if reference else f'at {texts[eps]}' if eps else 'clean'}"
        for name, values in list(by_run.items())[: 1 if reference else None]:
            prefix = f"{name}: " if len(entries) > 1 and not reference else ""
            rows.append(Row(f"{prefix}{what}", [_cell(values.get(score)) for score in scores], quiet=reference))
    return rows


def _cell(score: Mapping[str, Any] | None) -> Cell:
    if score is None:
        return Cell("-")
    chance = "" if score.get("chance") is None else f"; chance {percent(score['chance'])}"
    low, high = score.get("excess_interval") or (0, 0)
    return score_cell(score["value"], score["interval"], kind="key" if low * high > 0 else "", more=chance)


def _maps(run: RunView, entry: Entry) -> list[Block]:
    from dpaat.interpret.document import read_maps

    try:
        cards = _cards(read_maps(run.path, entry), entry, run)
    except (UserError, ValueError, KeyError, IndexError):
        return [Text(f"{run.name}: the maps themselves are not there any more ({entry['files']['maps']}).", "note")]
    licence = f"Images: {entry['data']}, {run.info.get('licence') or 'licence unknown'}. The white line is the lesion."
    title = f"{run.name}: the first image of each class, and where its maps are bright"
    return [Gallery(title, cards), Text(licence, "note")]


def _cards(arrays: Mapping[str, np.ndarray], entry: Entry, run: RunView) -> list[Card]:
    classes = run.info["classes"]
    labels, kinds = arrays["labels"], arrays["map_names"].tolist()[:MAX_KINDS]
    where = next((f" at {each['eps_text']}" for each in entry["scores"] if each["eps"]), "")
    cards = []
    first = {classes[labels[k]]: k for k in np.unique(labels, return_index=True)[1]}
    for k in [first[name] for name in run.ordered(first)][:MAX_CARDS]:
        name, image = str(arrays["ids"][k]), arrays["images"][k]
        shown = outlined(image, arrays["masks"][k]) if "masks" in arrays else image
        pictures = [Picture(image_uri(shown), "image", f"{name}: the image")]
        for number, kind in enumerate(kinds):
            for at, words in enumerate(("clean", "attacked")):
                map_ = map_uri(arrays["maps"][number, at, k].astype(float), image)
                pictures.append(Picture(map_, f"{kind} {words}", f"{name}: {kind} {words}"))
        clean, attacked = ([*classes, NOTHING][each] for each in arrays["predicted"][:2, k])
        cards.append(Card(name, f"{classes[labels[k]]}; taken for {clean}, attacked{where} for {attacked}", pictures))
    return cards
