"""Results and what was concluded from them, as tables for the terminal; every number comes from `evaluation.json`."""

from collections.abc import Callable, Collection, Mapping

from rich.console import Group as Lines
from rich.text import Text

from dpaat.evaluation.entries import Document, Entry, Group, Population, groups, own_words
from dpaat.evaluation.specs import is_worst_case
from dpaat.radii import format_radius
from dpaat.tables import Cell, Column, Kind, Row, Table, percent, score_cell

MAX_CLASSES = 20
SCORES = {"accuracy": "accuracy", "balanced_accuracy": "balanced", "map": "mAP", "auroc": "AUROC"}
WITH_INTERVAL = ("balanced_accuracy", "map")
POINT = ("sensitivity", "specificity")
INVALID = "the scores under attack are not valid"
MASKING: dict[str, tuple[Kind, str, str]] = {
    "believable": ("", "no sign found", "no sign of gradient masking"),
    "suspicious": ("warn", "suspicious", "a check for gradient masking warns; read its evidence"),
    "masked": ("fail", "masked", f"gradient masking: {INVALID}"),
    "degenerate": ("fail", "degenerate", f"the answer hardly depends on the image: {INVALID}"),
}
"""How a verdict of `evaluation.json` is shown, in short, and in a sentence."""
CALIBRATION = (
    "Expected calibration error in percent: how far confidence and share of right answers lie apart, on clean images "
    "and under APGD-CE; as the model is, and with the temperature that fits the clean validation images best."
)
OPERATING_POINTS = (
    "Percent. A question with two answers, asked with the threshold that gives the specificity named on clean "
    "validation images. Under attack the threshold is the same."
)
CORRUPTIONS = (
    "Balanced accuracy in percent on images with everyday faults of mild (1), medium (3) and strong (5) severity, and "
    "the mean over all five."
)


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
        several = [e for e in _shown(group) if of_labels(e)]
        shown = [label_table(f"{condition(e)}: labels", e) for e in several] or [_recall(group)]
        lines += [table.to_rich(), *answers, *(each.to_rich() for each in shown)]
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
    kinds: dict[str, Callable[[Mapping[str, Entry]], Table]] = {"curve": _curve, "quick": _curve}
    kinds |= {"calibration": calibration_table, "operating_points": operating_points_table}
    kinds |= {"certified": _certified, "masking": _masking, "corruptions": corruptions_table}
    found = document.get("analyses", {})
    return Lines(*(show({"": entry}).to_rich() for name, show in kinds.items() for entry in found.get(name, [])))


def verdict_table(corner: str, entries: Mapping[str, Entry], title: str = "", *, whole: bool = False) -> Table:
    """Checks by name with their verdicts and the evidence."""
    rows = [Row(name, [Cell(e["verdict"], kind=e["verdict"]), e["evidence"]]) for name, e in entries.items()]
    columns = [Column("verdict", left=True), Column("evidence", left=True, long=True)]
    return Table(corner, columns, rows, title=title, whole=whole)


def _shown(group: Group) -> list[Entry]:
    """Clean and worst case, or all results where there is no worst case."""
    worst = [entry for entry in group.results if entry["attack"] == "clean" or is_worst_case(entry["attack"])]
    return worst if len(worst) > 1 else list(group.results)


def of_labels(entry: Entry) -> bool:
    """Whether a result is of images with several labels."""
    return "per_label" in entry["metrics"]


def label_table(title: str, entry: Entry) -> Table:
    """The scores of each label, and the share of images whose answers are all right, or all withstand."""
    keys = {"auroc": "AUROC", "ap": "AP", "sensitivity": "sensitivity", "specificity": "specificity"}
    found: dict[str, Entry] = entry["metrics"]["per_label"]
    rows = [Row(name, [str(e["positives"]), *(score_cell(e.get(key)) for key in keys)]) for name, e in found.items()]
    said = f"{title} (percent); every answer is right for {percent(entry['metrics']['exact'])} % of the images"
    if "standing" in entry["metrics"]:
        said += f", no right answer is turned for {percent(entry['metrics']['standing'])} %"
    return Table("label", ["images", *keys.values()], rows, title=said)


def calibration_table(found: Mapping[str, Entry]) -> Table:
    """Calibration of runs by name, a row per condition."""
    rows = [
        Row(_of(run, _named(name)), [score_cell(each["ece"]), score_cell(each["ece_scaled"])])
        for run, entry in found.items()
        for name, each in entry["conditions"].items()
    ]
    temperatures = (next(iter(e["conditions"].values())).get("temperature") for e in found.values())
    known = ", ".join(f"{each:.2f}" for each in temperatures if each)
    title = f"calibration{own_words(found.values())} (percent); temperature {known} from clean validation images"
    return Table("", ["calibration error", "with temperature"], rows, title=title, note=CALIBRATION)


def operating_points_table(found: Mapping[str, Entry], only: Collection[str] | None = None) -> Table:
    """Sensitivity and specificity of runs by name, under all conditions or some."""
    rows = []
    for run, entry in found.items():
        for number, first in enumerate(entry["conditions"]["clean"]):
            for name, points in entry["conditions"].items():
                if only is None or name in only:
                    scores = [score_cell(points[number][k], points[number][f"{k}_interval"]) for k in POINT]
                    task = f"{first['task']}, specificity {first['specificity_wanted']:.0%}"
                    rows.append(Row(_of(run, task) if name == "clean" else "", [_named(name), *scores]))
    thresholds = "thresholds that give the wanted specificity on clean validation images"
    title = f"sensitivity at {thresholds}{own_words(found.values())} (percent)"
    return Table("", [Column("images", left=True), *POINT], rows, title=title, note=OPERATING_POINTS)


def corruptions_table(found: Mapping[str, Entry]) -> Table:
    """Balanced accuracy of runs by name on images with faults."""
    columns = [Column(text, group=run) for run in found for text in ("mild", "medium", "strong", "mean")]
    scores = [entry["balanced_accuracy"] for entry in found.values()]
    kinds: tuple[Kind, ...] = ("", "", "", "key")
    rows = []
    for corruption in dict.fromkeys(name for each in scores for name in each if name != "clean"):
        at = [each.get(corruption, [None] * 5) for each in scores]
        shown = [(s[0], s[2], s[4], None if None in s else sum(s) / len(s)) for s in at]
        rows.append(
            Row(corruption, [score_cell(s, kind=kind) for each in shown for s, kind in zip(each, kinds, strict=True)])
        )
    errors = {run: entry["balanced_error"] for run, entry in found.items()}
    means = "; ".join(
        _of(run, f"clean {percent(1 - e['clean_error'])}, mean {percent(1 - e['mean_corruption_error'])}")
        for run, e in errors.items()
    )
    title = f"balanced accuracy on corrupted images (percent): {means}"
    return Table("corruption", columns, rows, title=title, note=f"{CORRUPTIONS} Over all corruptions: {means}.")


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
    entries = _shown(group)
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


def _curve(found: Mapping[str, Entry]) -> Table:
    (entry,) = found.values()
    points = zip(entry["eps"], entry["accuracy"], entry["balanced_accuracy"], strict=True)
    rows = [Row(format_radius(eps), [percent(accuracy), percent(balanced)]) for eps, accuracy, balanced in points]
    areas = [percent(entry[name]) for name in ("accuracy_area", "balanced_accuracy_area")]
    rows.append(Row(f"area to {format_radius(entry['area'])}", areas))
    about = f"worst case{own_words([entry])} over growing radii, {_about(entry)} (percent)"
    title = "; ".join(filter(None, (about, spared(entry))))
    return Table("radius", ["accuracy", "balanced"], rows, title=title)


def spared(curve: Entry) -> str:
    """What the attacks of a curve left out; "" for nothing."""
    count = sum(curve.get("spared", {}).values())
    return f"{count:,} attacks left out on images that had withstood all at a larger radius" if count else ""


def _certified(found: Mapping[str, Entry]) -> Table:
    (entry,) = found.values()
    rows = [
        Row(f"{kind}, sigma {each['sigma']:g}", [percent(share) for share in [each[first], *each[kind]]])
        for each in entry["noise"]
        for first, kind in (("accuracy", "certified"), ("voted", "attacked"))
    ]
    title = f"smoothed classifier, {entry['draws']:,} noise draws, {_about(entry)} (percent right)"
    return Table("", ["at 0", *map(format_radius, entry["eps"])], rows, title=title)


def _masking(found: Mapping[str, Entry]) -> Table:
    (entry,) = found.values()
    checks, (word, _, rest) = {check["name"]: check for check in entry["checks"]}, entry["summary"].partition(" ")
    text = MASKING[word][2] if word in MASKING else word
    return verdict_table("check", checks, f"masking checks, {_about(entry)}: {text} {rest}")


def _named(condition: str) -> str:
    return condition if condition == "clean" else f"APGD-CE {condition}"


def _of(run: str, text: str) -> str:
    return f"{run}: {text}" if run else text
