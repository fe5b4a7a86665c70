"""An explanation as tables for the terminal; every number comes from `interpretability.json`."""

from collections.abc import Mapping

from rich.console import Group as Lines
from rich.text import Text

from dpaat.evaluation.entries import Document, Entry, note_of
from dpaat.evaluation.tables import MAX_CLASSES, verdict_table
from dpaat.interpret.maps import REFERENCES
from dpaat.tables import Cell, Column, Row, Table, percent, score_cell

SCORES = {
    "maps against lesion masks": {"energy": "energy inside", "pointing": "pointing game", "iou": "IoU, top area"},
    "adversarial against clean map; chance: another image's map": {
        "rank_correlation": "rank correlation",
        "ssim": "SSIM",
    },
    "faithfulness: probability left by deletion, won by insertion; chance: random order": {
        "deletion": "deletion (low)",
        "insertion": "insertion (high)",
    },
    "alignment of input gradient and image": {"alignment": "absolute cosine"},
}  # title of a table to its scores and their headings
PART = "balanced"  # which of the averages is shown: rare classes count as much as frequent ones


def explanation_tables(document: Document) -> Lines:
    """Masks, stability, faithfulness, alignment and the sanity check, for each set of images."""
    lines: list[Lines | Text] = []
    for entry in document["explanations"]:
        lines.append(_head(entry))
        for title, headings in SCORES.items():
            if "energy" in headings and not entry["with_mask"]:
                lines.append(Text("no lesion masks: nothing to say about where the maps lie\n", style="dim"))
            else:
                lines.append(_scores(title, entry, headings).to_rich())
        checks = {each["map"]: each for each in entry["randomization"]}
        title = "sanity check: the same maps of a model with shuffled parameters"
        lines += [table.to_rich() for table in _energy_per_class(entry)]
        lines.append(verdict_table("map", checks, title, whole=True).to_rich())
    return Lines(*lines)


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


def _scores(title: str, entry: Entry, headings: Mapping[str, str]) -> Table:
    found: dict[tuple[str, str], dict[str, Entry]] = {}
    for each in entry["scores"]:
        if each["score"] in headings:
            found.setdefault((each["map"], _condition(entry, each)), {})[each["score"]] = each[PART]
    rows = []
    for (name, condition), scores in sorted(found.items(), key=lambda item: item[0][0] in REFERENCES):
        quiet = name in REFERENCES
        cells: list[Cell | str] = [condition, *(_cell(scores[score]) for score in headings)]
        rows.append(Row(f"{name} (no model)" if quiet else name, cells, quiet=quiet))
    columns: list[Column | str] = [Column("images", left=True, whole=True), *headings.values()]
    return Table("map", columns, rows, title=title, whole=True)


def _energy_per_class(entry: Entry) -> list[Table]:
    clean = (each for each in entry["scores"] if each["score"] == "energy" and not each["eps"])
    shown = [each for each in clean if each["map"] not in REFERENCES]
    if not shown:
        return []
    first = shown[0]["per_class"]
    names = sorted(first, key=lambda name: first[name]["excess"])[:MAX_CLASSES]
    rows = [
        Row(name, [str(first[name]["n"]), *(_cell(each["per_class"][name]) for each in shown)])
        for name in first
        if name in names
    ]
    cut = f", the {MAX_CLASSES} lowest of {len(first)}" if len(first) > MAX_CLASSES else ""
    title = f"energy inside the lesion per class, clean images{cut}"
    return [Table("class", ["images", *(each["map"] for each in shown)], rows, title=title)]


def _condition(entry: Entry, score: Entry) -> str:
    return f"{entry['attack']['label']} {score['eps_text']}" if score["eps"] else "clean"


def _cell(score: Entry) -> Cell:
    more = ""
    if score["chance"] is not None:
        low, high = score["excess_interval"]
        more = f" {'>' if low > 0 else '<' if high < 0 else '~'} {percent(score['chance'])}"
    return score_cell(score["value"], score["interval"], more=more)
