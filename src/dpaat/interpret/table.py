"""An explanation as tables for the terminal; every number comes from `interpretability.json`."""

from __future__ import annotations

from typing import Any

from rich.console import Group as Lines
from rich.text import Text

from dpaat.evaluation.entries import Document, Entry, note_of
from dpaat.evaluation.summary import COLOURS
from dpaat.evaluation.table import MAX_CLASSES, percent, plain_table, titled, with_interval
from dpaat.interpret.maps import REFERENCES

MASK_SCORES = {"energy": "energy inside", "pointing": "pointing game", "iou": "IoU, top area"}
STABILITY_SCORES = {"rank_correlation": "rank correlation", "ssim": "SSIM"}
FAITHFULNESS_SCORES = {"deletion": "deletion (low)", "insertion": "insertion (high)"}
PART = "balanced"
"""Which of the averages is shown: rare classes count as much as frequent ones."""


def explanation_tables(document: Document) -> Lines:
    """Masks, stability, faithfulness, alignment and the sanity check, for each set of images."""
    lines: list[Any] = []
    for entry in document["explanations"]:
        lines += [_head(entry), _masks(entry), _stability(entry), _faithfulness(entry), _alignment(entry)]
        lines += [_energy_per_class(entry), _sanity(entry)]
    return Lines(*(line for line in lines if line is not None))


def _head(entry: Entry) -> Text:
    layer = entry["layer"]
    at = f"; Grad-CAM at layer {layer['name']} ({layer['height']} x {layer['width']})" if layer else ""
    empty = [f"{each['map']} {_condition(entry, each)} {each['n']}" for each in entry["empty"] if each["n"]]
    nothing = f"maps that are 0 everywhere: {', '.join(empty)}\n" if empty else ""
    note = note_of(entry)
    return Text(
        f"{entry['data']}, {entry['split']}, {entry['n']:,} images, {entry['with_mask']:,} with a mask{at}\n"
        "means over classes counted alike in percent, [95 % interval], then whether above (>), below (<) or not told "
        f"apart (~) from the chance level\n{nothing}{note and note + chr(10)}"
    )


def _masks(entry: Entry) -> Lines:
    if not entry["with_mask"]:
        return Lines(Text("no lesion masks: nothing to say about where the maps lie\n", style="dim"))
    return _table("maps against lesion masks", entry, MASK_SCORES)


def _stability(entry: Entry) -> Lines:
    return _table("adversarial against clean map; chance: another image's map", entry, STABILITY_SCORES)


def _faithfulness(entry: Entry) -> Lines:
    title = "faithfulness: probability left by deletion, won by insertion; chance: random order"
    return _table(title, entry, FAITHFULNESS_SCORES)


def _alignment(entry: Entry) -> Lines:
    return _table("alignment of input gradient and image", entry, {"alignment": "absolute cosine"})


def _table(title: str, entry: Entry, headings: dict[str, str]) -> Lines:
    table = plain_table()
    table.add_column("map", no_wrap=True)
    table.add_column("images", no_wrap=True)
    for heading in headings.values():
        table.add_column(heading, justify="right")
    rows: dict[tuple[str, str], dict[str, Entry]] = {}
    for each in entry["scores"]:
        if each["score"] in headings:
            rows.setdefault((each["map"], _condition(entry, each)), {})[each["score"]] = each[PART]
    for (name, condition), found in sorted(rows.items(), key=lambda item: item[0][0] in REFERENCES):
        reference = name in REFERENCES
        table.add_row(
            f"{name} (no model)" if reference else name,
            condition,
            *(_cell(found[score]) for score in headings),
            style="dim" if reference else None,
        )
    return titled(title, table)


def _energy_per_class(entry: Entry) -> Lines | None:
    shown = [
        each
        for each in entry["scores"]
        if each["score"] == "energy" and not each["eps"] and each["map"] not in REFERENCES
    ]
    if not shown:
        return None
    table = plain_table()
    table.add_column("class")
    table.add_column("images", justify="right")
    for each in shown:
        table.add_column(each["map"], justify="right")
    first = shown[0]["per_class"]
    names = sorted(first, key=lambda name: first[name]["excess"])[:MAX_CLASSES]
    for name in (name for name in first if name in names):
        table.add_row(Text(name), str(first[name]["n"]), *(_cell(each["per_class"][name]) for each in shown))
    title = "energy inside the lesion per class, clean images"
    return titled(f"{title}, the {MAX_CLASSES} lowest of {len(first)}" if len(first) > MAX_CLASSES else title, table)


def _sanity(entry: Entry) -> Lines:
    table = plain_table()
    table.add_column("map", no_wrap=True)
    table.add_column("verdict")
    table.add_column("evidence", overflow="fold")
    for each in entry["randomization"]:
        table.add_row(each["map"], Text(each["verdict"], style=COLOURS[each["verdict"]]), Text(each["evidence"]))
    return titled("sanity check: the same maps of a model with shuffled parameters", table)


def _condition(entry: Entry, score: Entry) -> str:
    return f"{entry['attack']['label']} {score['eps_text']}" if score["eps"] else "clean"


def _cell(score: Entry) -> str:
    text = with_interval(score["value"], score["interval"])
    if score["chance"] is None:
        return text
    low, high = score["excess_interval"]
    return f"{text} {'>' if low > 0 else '<' if high < 0 else '~'} {percent(score['chance'])}"
