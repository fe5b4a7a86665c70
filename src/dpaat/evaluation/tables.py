"""Results and what was concluded from them, as tables for the terminal; every number comes from `evaluation.json`."""

from collections.abc import Collection, Mapping

from rich.console import Group as Lines
from rich.text import Text

from dpaat.evaluation.entries import Document, Entry, Group, Population, groups
from dpaat.evaluation.specs import is_worst_case
from dpaat.radii import format_radius
from dpaat.tables import Cell, Column, Kind, Row, Table, percent, score_cell

MAX_CLASSES = 20
SCORES = {"accuracy": "accuracy", "balanced_accuracy": "balanced", "map": "mAP", "auroc": "AUROC"}
WITH_INTERVAL = ("balanced_accuracy", "map")


def condition(entry: Entry) -> str:
    """What was done to the images: "clean", or attack and radius such as "PGD-20 8/255"."""
    return "clean" if entry["attack"] == "clean" else f"{entry['label']} {entry['eps_text']}"


def score_cells(
    entry: Entry | None, keys: Collection[str], *, with_interval: Collection[str] = tuple(SCORES)
) -> list[Cell]:
    """Scores of a result with their intervals; the balanced accuracy counts most."""
    if entry is None:
        return [Cell("-") for _ in keys]
    intervals = {key: value for key, value in (entry.get("intervals") or {}).items() if key in with_interval}
    kinds: dict[str, Kind] = {"balanced_accuracy": "key"}
    return [score_cell(entry["metrics"][key], intervals.get(key), kind=kinds.get(key, "")) for key in keys]


def constant_row(constant: Entry, keys: Collection[str], *, times: int = 1, name: str = "always") -> Row:
    """The constant predictor's scores, so many times."""
    cells = [score_cell(constant["metrics"][key]) for key in keys]
    return Row(f"{name} {constant['predicts']}", cells * times, quiet=True)


def evaluation_table(document: Document) -> Lines:
    """Scores, then recall per class, for each set of images that the run was evaluated on."""
    lines: list[Lines | Text] = []
    for group in groups(document):
        rows = [constant_row(group.constant, SCORES, name="constant:")] if group.constant else []
        rows += [Row(condition(e), score_cells(e, SCORES, with_interval=WITH_INTERVAL)) for e in group.results]
        table = Table("", list(SCORES.values()), rows, title=f"{group.title} (percent, 95 % intervals)")
        answers = [Text(f"warning: the model {e['one_answer']}\n") for e in group.results if e.get("one_answer")]
        lines += [table.to_rich(), *answers, _recall(group).to_rich()]
    return Lines(*lines)


def comparison_table(runs: Mapping[str, Document]) -> Lines:
    """Runs by name side by side: accuracy, balanced accuracy and mAP for every condition that any of them has."""
    by_population: dict[Population, dict[str, Group]] = {}
    for name, document in runs.items():
        for group in groups(document):
            by_population.setdefault(group.population, {})[name] = group
    return Lines(*(_comparison(found).to_rich() for found in by_population.values()))


def analyses_summary(document: Document) -> Lines:
    """The security curve, calibration, operating points, masking checks and corruptions, those that are there."""
    kinds = {"curve": _curve, "quick": _curve, "calibration": _calibration, "operating_points": _operating_points}
    kinds |= {"certified": _certified, "masking": _masking, "corruptions": _corruptions}
    found = document.get("analyses", {})
    return Lines(*(show(entry).to_rich() for name, show in kinds.items() for entry in found.get(name, [])))


def verdict_table(corner: str, entries: Mapping[str, Entry], title: str = "", *, whole: bool = False) -> Table:
    """Checks by name with their verdicts and the evidence."""
    rows = [Row(name, [Cell(e["verdict"], kind=e["verdict"]), e["evidence"]]) for name, e in entries.items()]
    columns = [Column("verdict", left=True), Column("evidence", left=True, long=True)]
    return Table(corner, columns, rows, title=title, whole=whole)


def _recall(group: Group) -> Table:
    first = group.results[0]["metrics"]
    support: dict[str, int] = first["support"]
    shown = present = [name for name in support if support[name]]
    title = "recall per class (percent)"
    if len(present) > MAX_CLASSES:
        shown = sorted(present, key=lambda name: first["per_class_recall"][name] or 0.0)[:MAX_CLASSES]
        title += f", the {MAX_CLASSES} lowest of {len(present)}"
    if len(present) < len(support):
        title += f"; {len(support) - len(present)} absent"
    worst = [entry for entry in group.results if entry["attack"] == "clean" or is_worst_case(entry["attack"])]
    entries = worst if len(worst) > 1 else group.results
    rows = [
        Row(name, [str(support[name]), *(percent(entry["metrics"]["per_class_recall"][name]) for entry in entries)])
        for name in shown
    ]
    return Table("class", ["images", *map(condition, entries)], rows, title=title)


def _comparison(found: Mapping[str, Group]) -> Table:
    def triple(entry: Entry) -> str:
        return " ".join(percent(entry["metrics"][key]) for key in ("accuracy", "balanced_accuracy", "map"))

    conditions = list(dict.fromkeys(condition(entry) for group in found.values() for entry in group.results))
    any_group = next(iter(found.values()))
    title = f"{any_group.title}: accuracy, balanced accuracy, mAP (percent)"
    rows = []
    if constant := any_group.constant:
        rows.append(Row("constant", [triple(constant)] * len(conditions), quiet=True))
        title += f"; constant = always {constant['predicts']}"
    for name, group in found.items():
        cells = {condition(entry): triple(entry) for entry in group.results}
        rows.append(Row(name, [cells.get(heading, "-") for heading in conditions]))
    return Table("", conditions, rows, title=title)


def _about(entry: Entry) -> str:
    return f"{entry['data']}, {entry['split']}, {entry['n']:,} images"


def _curve(entry: Entry) -> Table:
    points = zip(entry["eps"], entry["accuracy"], entry["balanced_accuracy"], strict=True)
    rows = [Row(format_radius(eps), [percent(accuracy), percent(balanced)]) for eps, accuracy, balanced in points]
    areas = [percent(entry[name]) for name in ("accuracy_area", "balanced_accuracy_area")]
    rows.append(Row(f"area to {format_radius(entry['area'])}", areas))
    title = f"worst case over growing radii, {_about(entry)} (percent)"
    if spared := sum(entry.get("spared", {}).values()):
        title += f"; quick: {spared:,} attacks left out on images that had withstood the same at a larger radius"
    return Table("radius", ["accuracy", "balanced"], rows, title=title)


def _calibration(entry: Entry) -> Table:
    conditions = entry["conditions"]
    rows = [Row(_named(name), [percent(e["ece"]), percent(e["ece_scaled"])]) for name, e in conditions.items()]
    temperature = next(iter(conditions.values()))["temperature"]
    title = f"calibration (percent); temperature {temperature:.2f} from clean validation images"
    return Table("", ["calibration error", "with temperature"], rows, title=title)


def _operating_points(entry: Entry) -> Table:
    rows = []
    for number, first in enumerate(entry["conditions"]["clean"]):
        for name, points in entry["conditions"].items():
            point, clean = points[number], name == "clean"
            scores = [score_cell(point[key], point[f"{key}_interval"]) for key in ("sensitivity", "specificity")]
            wanted = percent(first["specificity_wanted"]) if clean else ""
            rows.append(Row(first["task"] if clean else "", [wanted, _named(name), *scores]))
    title = "sensitivity at thresholds that give the wanted specificity on clean validation images (percent)"
    return Table("", ["wanted", Column("images", left=True), "sensitivity", "specificity"], rows, title=title)


def _certified(entry: Entry) -> Table:
    rows = [
        Row(f"{kind}, sigma {each['sigma']:g}", [percent(share) for share in [each[first], *each[kind]]])
        for each in entry["noise"]
        for first, kind in (("accuracy", "certified"), ("voted", "attacked"))
    ]
    title = f"smoothed classifier, {entry['draws']:,} noise draws, {_about(entry)} (percent right)"
    return Table("", ["at 0", *map(format_radius, entry["eps"])], rows, title=title)


def _masking(entry: Entry) -> Table:
    checks = {check["name"]: check for check in entry["checks"]}
    return verdict_table("check", checks, f"gradient masking: {entry['summary']}")


def _corruptions(entry: Entry) -> Table:
    scores = entry["balanced_accuracy"]
    rows = [Row(name, [percent(score) for score in found]) for name, found in scores.items() if name != "clean"]
    clean, mean = (percent(1 - entry["balanced_error"][name]) for name in ("clean_error", "mean_corruption_error"))
    title = f"balanced accuracy by severity, {_about(entry)} (percent): clean {clean}, mean {mean}"
    return Table("corruption", [str(severity) for severity in range(1, 6)], rows, title=title)


def _named(condition: str) -> str:
    return condition if condition == "clean" else f"APGD-CE {condition}"
