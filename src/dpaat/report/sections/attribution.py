"""Report section: attribution maps, in numbers beside their chance levels, and the maps themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dpaat.errors import UserError
from dpaat.evaluation.entries import Entry, note_of
from dpaat.evaluation.tables import verdict_table
from dpaat.report.blocks import Block, Card, Figures, Gallery, Heading, Picture, Section, Text
from dpaat.report.charts import Estimate, whisker_plot
from dpaat.report.drawing import Plot
from dpaat.report.pictures import image_uri, map_uri, outlined
from dpaat.report.view import EXPLANATIONS, RunView
from dpaat.tables import Cell, Kind, Row, Table, percent, score_cell

FAMILIES = {
    "On the lesion": {"energy": "energy inside", "pointing": "pointing game", "iou": "IoU, top area"},
    "The same under attack": {"rank_correlation": "rank correlation", "ssim": "SSIM"},
    "Faithful to the model": {"deletion": "deletion (low)", "insertion": "insertion (high)"},
    "Like the image": {"alignment": "alignment"},
}
PLOTTED = {"energy": "Energy inside the lesion", "rank_correlation": "Rank correlation of clean and adversarial map"}
REFERENCES = ("centre", "edges")
MAX_KINDS = 2
"""Kinds of map shown as pictures."""
MAX_CARDS = 8


def attribution_section(runs: Sequence[RunView], *, images: bool) -> Section:
    """Scores of the maps, the sanity check and, with `images`, one image of each class with its maps."""
    blocks: list[Block] = []
    found: dict[str, list[tuple[RunView, Entry]]] = {}
    missing = [run.name for run in runs if run.explanations is None]
    for run in runs:
        if run.explanations is None:
            continue
        try:
            for entry in run.explanations["explanations"]:
                found.setdefault(_title(entry), []).append((run, entry))
        except (KeyError, TypeError):
            text = f"{run.name}: {EXPLANATIONS} is of another version of dpaat; explain the run again."
            blocks.append(Text(text, "warn"))
    for title, entries in found.items():
        blocks += _scores(title, entries)
        blocks += [block for run, entry in entries for block in _maps(run, entry, images=images)]
    if missing:
        text = f"No attribution maps yet: {', '.join(missing)}. `dpaat explain RUN` makes and scores them."
        blocks.append(Text(text, "note"))
    return Section("attention", "What does it look at", blocks)


def _title(entry: Entry) -> str:
    return f"{entry['data']}, {entry['split']} split, {entry['n']:,} images, {entry['attack']['label']}"


def _scores(title: str, entries: Sequence[tuple[RunView, Entry]]) -> list[Block]:
    blocks: list[Block] = [Heading(f"Attribution maps: {title}")]
    blocks += [Text(f"{run.name}: {note}.", "warn") for run, entry in entries if (note := note_of(entry))]
    for run, entry in entries:
        if layer := entry.get("layer"):
            at = f"{layer['name']} ({layer['height']} x {layer['width']})"
            blocks.append(Text(f"{run.name}: Grad-CAM at layer {at}; maps explain the {entry['explains']}.", "note"))
    titles: Mapping[str, Mapping[str, str]] = entries[0][1].get("score_titles", {})
    for family, scores in FAMILIES.items():
        rows = _rows(entries, scores)
        if not rows:
            continue
        chance = "; ".join(f"{scores[s]}: {titles[s]['chance']}" for s in scores if s in titles)
        note = (
            f"Percent, 95 % intervals; chance level ({chance}). In bold where the interval of the excess leaves it out."
        )
        blocks.append(Table(family.lower(), list(scores.values()), rows, note=note))
    if plots := [plot for score, title in PLOTTED.items() if (plot := _excess(entries, score, title))]:
        blocks.append(Figures(plots))
    blocks.append(_sanity(entries))
    if empty := [text for run, entry in entries if (text := _empty(run, entry))]:
        blocks.append(Text(f"Maps that are 0 everywhere: {'; '.join(empty)}.", "note"))
    return blocks


def _excess(entries: Sequence[tuple[RunView, Entry]], score: str, title: str) -> Plot | None:
    groups: dict[str, dict[str, Estimate]] = {}
    for run, entry in entries:
        for each in entry["scores"]:
            if each["score"] == score and (interval := each["balanced"].get("excess_interval")):
                row = each["map"] if each["map"] in REFERENCES else f"{each['map']}, {each['eps_text']}"
                groups.setdefault(run.name, {})[row.removesuffix(", 0")] = Estimate(
                    each["balanced"]["excess"], interval
                )
    if not groups:
        return None
    return whisker_plot(groups, x_label="above chance, percentage points", caption=f"{title} above its chance level.")


def _empty(run: RunView, entry: Entry) -> str:
    counts = [f"{each['n']} of {each['map']} at {each['eps_text']}" for each in entry.get("empty", []) if each["n"]]
    return f"{run.name}: {', '.join(counts)}" if counts else ""


def _rows(entries: Sequence[tuple[RunView, Entry]], scores: Mapping[str, str]) -> list[Row]:
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
    excess = score.get("excess_interval")
    told: Kind = "key" if excess and excess[0] * excess[1] > 0 else ""
    return score_cell(score["value"], score["interval"], kind=told, more=chance)


def _sanity(entries: Sequence[tuple[RunView, Entry]]) -> Table:
    checks = {
        f"{run.name}: {each['map']}" if len(entries) > 1 else each["map"]: each
        for run, entry in entries
        for each in entry["randomization"]
    }
    note = "A map that stays as it is when the model's parameters are shuffled does not show what the model learned."
    return replace(verdict_table("sanity check", checks), note=note)


def _maps(run: RunView, entry: Entry, *, images: bool) -> list[Block]:
    if not images:
        return []
    from dpaat.interpret.document import read_maps

    try:
        cards = _cards(read_maps(run.path, entry), entry, run.info["classes"])
    except (UserError, ValueError, KeyError, IndexError):
        return [Text(f"{run.name}: the maps themselves are not there any more ({entry['files']['maps']}).", "note")]
    licence = f"Images: {entry['data']}, {run.info.get('licence') or 'licence unknown'}. The white line is the lesion."
    title = f"{run.name}: the first image of each class, and where its maps are bright"
    return [Gallery(title, cards), Text(licence, "note")]


def _cards(arrays: Mapping[str, np.ndarray], entry: Entry, classes: Sequence[str]) -> list[Card]:
    labels, kinds = arrays["labels"], arrays["map_names"].tolist()[:MAX_KINDS]
    radii = [each["eps_text"] for each in entry["scores"] if each["eps"]]
    cards = []
    for k in np.unique(labels, return_index=True)[1][:MAX_CARDS]:
        name, image = str(arrays["ids"][k]), arrays["images"][k]
        shown = outlined(image, arrays["masks"][k]) if "masks" in arrays else image
        pictures = [Picture(image_uri(shown), "image", f"{name}: the image")]
        for number, kind in enumerate(kinds):
            for at, words in ((0, "clean"), (1, "attacked")):
                alt = f"{name}: {kind} {words}"
                pictures.append(
                    Picture(map_uri(arrays["maps"][number, at, k].astype(float), image), alt[len(name) + 2 :], alt)
                )
        clean, attacked = (classes[each] for each in arrays["predicted"][:2, k])
        where = f" at {radii[0]}" if radii else ""
        cards.append(Card(name, f"{classes[labels[k]]}; taken for {clean}, attacked{where} for {attacked}", pictures))
    return cards
