"""Results in README.md and docs/, written from the JSON files: no number in them is typed by hand.

python docs/results.py            name the pages that are stale; exit code 1 if there are any
python docs/results.py --write    write them: the blocks between markers, and the whole appendix
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from dpaat.benchmark.tables import benchmark_markdown
from dpaat.evaluation.statistics import SIGNIFICANT
from dpaat.tables import percent, score_cell

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/results.md", "docs/method.md", "docs/statistics.md", "docs/howto/fine-tuning.md")
APPENDIX = "docs/appendix.md"
BLOCK = re.compile(r"(<!-- results: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
GRIDS = {
    "ham10000-32px-v2": "`dpaat` on HAM10000",
    "ham10000-32px-cnns": "version 0.1 on HAM10000, seven CNN families",
    "ham10000-32px": "version 0.1 on HAM10000, ResNet, all rivals",
    "pneumoniamnist": "PneumoniaMNIST (`default` is `dpaat`, `dpaat` is `dpaat-v1`)",
    "second-version-32px": "variants of `dpaat` on development images of HAM10000",
    "fast-32px": "`dpaat-half` (`dpaat` then) and `dpaat-fast`",
    "pretrained-96px": "a pretrained network at 96 px, six epochs",
    "synthetic-multi": "several labels an image (seconds are those of a busy machine and compare nothing)",
}
SIX = "all models"
Document = dict[str, Any]


@cache
def load(path: str) -> Document:
    """Read a JSON file of the repository, once for all tables; nobody may change it."""
    document: Document = json.loads((ROOT / path).read_text(encoding="utf-8"))
    return document


def grid(name: str) -> Document:
    """Read the results of a benchmark."""
    return load(f"docs/results/{name}.json")


def row(document: Document, recipe: str, model: str = SIX) -> Document:
    """A recipe's row in the table about a model."""
    (table,) = (each for each in document["tables"] if each["model"] == model)
    (found,) = (each for each in table["rows"] if each["recipe"] == recipe)
    return dict(found)


def score(found: Document, name: str, interval: bool = False) -> str:
    """A score in percent."""
    entry = found["scores"][name]
    cell = score_cell(entry["value"], entry["interval"] if interval else None)
    return f"{cell.text} {cell.small}".strip()


def change(entry: Document, interval: bool = True) -> str:
    """A difference in points."""
    cell = score_cell(entry["difference"], entry["interval"] if interval else None, sign=True)
    return f"{cell.text} {cell.small}".strip()


def probability(p: float) -> str:
    """A p-value."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def changes(found: Document, names: Sequence[str], of: Mapping[str, Any] | None = None) -> list[str]:
    """Differences from the reference, or from a front."""
    differences = (of or found)["differences"]
    return [change(differences[name]) for name in names]


def listed(parts: Sequence[str]) -> str:
    """A, B and C."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


AT = ("1/255", "2/255", "4/255")
CLEAN = ("accuracy", "balanced_accuracy", "map")


def extent(document: Document, recipe: str) -> str:
    """How much of a recipe has been run."""
    cells = [cell for cell in document["cells"] if cell["recipe"] == recipe]
    done = [cell for cell in cells if cell["status"] == "finished"]
    first = sum(cell["seed"] == min(each["seed"] for each in done) for cell in done)
    seeds = "one seed" if first == len(done) else f"{len(done) - first} of them with a second seed"
    lead = f"; {seeds}: a lead, not a result" if len(done) < len(cells) else ""
    return f"{len(done)} of {len(cells)} runs{lead}"


def verdict(entries: Sequence[Document]) -> str:
    """What the intervals of some differences say in a word, and no more."""
    if any(entry["interval"][1] < 0 for entry in entries):
        return "A small loss:" if all(entry["difference"] > -0.01 for entry in entries) else "A loss:"
    return "A gain:" if all(entry["interval"][0] > 0 for entry in entries) else "No loss shown:"


def tested(entries: Sequence[Document]) -> str:
    """Which differences are beyond chance after Holm's adjustment."""
    found = [entry["p_adjusted"] < SIGNIFICANT for entry in entries]
    if all(found):
        return "all significant"
    return f"{sum(found)} of {len(found)} significant" if any(found) else "none significant"


def readme() -> str:
    """At most eight rows with a sentence each."""
    second = grid("ham10000-32px-v2")
    dpaat, old, pgd = (row(second, name) for name in ("dpaat", "v1", "pgd-1"))
    pneumonia = [row(grid("pneumoniamnist"), name, "test_resnet") for name in ("default", "pgd-1", "standard")]
    new, was = (f"`dpaat`, {extent(second, 'dpaat')}", f"`dpaat-v1`, {extent(second, 'v1')}")

    def against_standard(found: Document) -> str:
        accuracy, balanced, precision = changes(found, CLEAN)
        return (
            f"{verdict([found['differences'][name] for name in CLEAN])} clean accuracy {accuracy}, balanced accuracy "
            f"{balanced}, mAP {precision} against standard training."
        )

    def under_attack(found: Document) -> str:
        shares = listed([f"{score(found, f'accuracy@{at}')} %" for at in AT])
        gains = listed(changes(found, [f"accuracy@{at}" for at in AT]))
        return f"{shares} of the images withstand 1, 2 and 4/255: {gains} against standard training."

    def above(found: Document) -> str:
        entries = [found["fronts"]["pgd"]["differences"][f"map@{at}"] for at in AT]
        points = listed([f"{100 * entry['difference']:.1f}" for entry in entries])
        area = found["fronts"]["pgd"]["differences"]["area"]
        return (
            f"At equal clean mAP {points} points of mAP above it at 1, 2 and 4/255 ({tested(entries)}). At equal clean "
            f"balanced accuracy its area is {change(area)} points above (p {probability(area['p_adjusted'])})."
        )

    rows = [
        ("Does the default stay accurate?", against_standard(dpaat), new),
        ("Does it withstand attacks?", under_attack(dpaat), new),
        (
            "Is it above the standard-to-PGD trade-off curve?",
            above(dpaat),
            f"`dpaat` and PGD, {len(pgd['cells'])} runs",
        ),
        ("Is that due to the sizes, or to the self-teacher?", *teacher_or_sizes()),
        ("Version 0.1: accurate? Robust?", f"{against_standard(old)} {under_attack(old)}", was),
        (
            "Is PGD training more robust?",
            f"Yes: area under the robust curve {score(pgd, 'area')} against {score(dpaat, 'area')}. "
            f"It costs accuracy {change(pgd['differences']['accuracy'])} and mAP {change(pgd['differences']['map'])}.",
            f"PGD at 1/255, {len(pgd['cells'])} runs",
        ),
        ("Does it look at the lesion?", *maps()),
        (
            "On PneumoniaMNIST?",
            "More robust than PGD at 1/255, at lower clean scores: area {3}, {4} and standard training {5}; clean "
            "balanced accuracy {0}, {1} and {2}.".format(
                *(score(each, "balanced_accuracy") for each in pneumonia), *(score(each, "area") for each in pneumonia)
            ),
            "`dpaat`, ResNet, 2 seeds",
        ),
    ]
    return markdown(("question", "answer", "measured on"), rows)


def maps() -> tuple[str, str]:
    """Attribution maps of the default and of standard training, in a sentence."""
    document = load("docs/results/attention-32px.json")
    found = {(entry["map"], entry["score"], entry["eps"] > 0): entry for entry in document["scores"]}
    inside = {kind: change(found[kind, "energy", False]) for kind in ("input-gradient", "grad-cam")}
    steady = change(found["input-gradient", "rank_correlation", True])
    text = (
        f"Gradient maps have more of their energy inside the lesion than those of standard training, "
        f"{inside['input-gradient']}; Grad-CAM {inside['grad-cam']}. Under attack they change less: rank correlation "
        f"{steady}."
    )
    return text, f"`dpaat`, {len(document['cells'])} pairs of runs, {document['images']} images each"


CONTROLS = {"mean": "all images have the mean size", "pgd-teacher-2": "PGD attacks every image at 2/255"}
"""Recipes with the default's self-teacher and other sizes."""


def teacher_or_sizes() -> tuple[str, str]:
    """The controls with the same teacher minus the default, each on the runs that both have."""
    document = grid("ham10000-32px-v2-controls")
    found = {name: row(document, name) for name in CONTROLS}
    names = ("balanced_accuracy", "map", "accuracy@4/255")
    parts = [f"{label}: {listed(changes(found[name], names))}" for name, label in CONTROLS.items()]
    runs = listed(sorted({str(len(each["cells"])) for each in found.values()}))
    sizes = any(found["mean"]["differences"][name]["p_adjusted"] < SIGNIFICANT for name in names)
    answer = "The sizes matter" if sizes else "The sizes are not shown to matter"
    scores = "clean balanced accuracy, mAP and accuracy at 4/255"
    text = f"{answer}. With the teacher in both, {scores} change if {'; if '.join(parts)}."
    return text, f"minus `dpaat`, {runs} runs on two families, one seed: a lead, not a result"


def controls() -> str:
    """Differences of the controls from the default, with p-values."""
    document, rows = grid("ham10000-32px-v2-controls"), []
    for name, label in CONTROLS.items():
        found = row(document, name)
        for metric, said in zip(CLEAN, ("accuracy", "balanced accuracy", "mAP"), strict=True):
            entries = [found["differences"][f"{metric}{at}"] for at in ("", *(f"@{each}" for each in (*AT, "8/255")))]
            cells = [f"{change(entry)}, p {probability(entry['p_adjusted'])}" for entry in entries]
            rows.append([f"{label}, {len(found['cells'])} runs: {said}", *cells])
    return markdown(["minus `dpaat`", "clean", *AT, "8/255"], rows)


def scores_table(name: str, recipes: Mapping[str, str], model: str = SIX, radii: Sequence[str] = AT) -> str:
    """Scores of some recipes of a grid, and their differences from its reference."""
    document = grid(name)
    rows = []
    for recipe, label in recipes.items():
        found = row(document, recipe, model)
        columns = ["", *(f"@{at}" for at in radii)]
        triples = [" / ".join(score(found, metric + at) for metric in CLEAN) for at in columns]
        gains = changes(found, ("balanced_accuracy", "map")) if found["differences"] else ["", ""]
        rows.append([label, str(len(found["cells"])), *triples, score(found, "area", True), *gains])
    return markdown(["", "runs", "clean", *radii, "area", "balanced accuracy, change", "mAP, change"], rows)


def above_table(name: str, recipe: str, model: str = SIX) -> str:
    """How far a recipe is above the trade-off curve of every family that it is compared with."""
    found = row(grid(name), recipe, model)
    names = ["area", *(f"{metric}@{at}" for metric in ("map", "accuracy") for at in AT)]
    names = [each for each in names if any(each in front["differences"] for front in found["fronts"].values())]
    rows = []
    for family, front in found["fronts"].items():
        cells = []
        for each in names:
            entry = front["differences"].get(each)
            cells.append("" if entry is None else f"{change(entry)}, p {probability(entry['p_adjusted'])}")
        rows.append([family, *cells])
    titles = [each.replace("map@", "mAP at ").replace("accuracy@", "accuracy at ") for each in names]
    return markdown(["above the curve to", *titles], rows)


def default() -> str:
    """The default against standard training, PGD and version 0.1."""
    extents = extent(grid("ham10000-32px-v2"), "dpaat")
    recipes = {"standard": "standard", "dpaat": "**`dpaat`**", "v1": "`dpaat-v1`"}
    recipes |= {"pgd-1": "PGD 1/255", "pgd-2": "PGD 2/255"}
    tables = [scores_table("ham10000-32px-v2", recipes), above_table("ham10000-32px-v2", "dpaat")]
    found = row(grid("ham10000-32px-v2"), "dpaat")["differences"]
    bounds = listed([f"{100 * found[name]['bound']:+.1f}" for name in CLEAN])
    text = f"`dpaat`: {extents}. One-sided 95 % lower bounds of its changes of the clean scores: {bounds} points."
    return f"{text}\n\n" + "\n\n".join(tables)


def development() -> str:
    """Variants of the default on development images."""
    document = grid("second-version-32px")
    names = {
        "standard": "standard",
        "kl-100-clean-90": "**`dpaat`**: 90 % clean, teacher's answers only",
        "clean-90": "90 % clean, teacher at 0.7",
        "kl-100": "85 % clean, teacher's answers only",
        "e": "85 % clean, teacher at 0.7",
        "mean": "the same, one radius for all: the mean",
        "clean-50": "50 % clean, teacher at 0.7: `dpaat-balanced`",
        "kl-100-clean-0-eps-4": "no clean images, teacher's answers only, `eps` 4/255",
        "pgd-teacher-2": "PGD at 2/255 with the same teacher",
    }
    shared = {}
    for cell in document["cells"]:
        if cell["model"] == "test_resnet" and cell["fold"] == "1/3" and cell["recipe"] in names and "scores" in cell:
            shared[cell["recipe"]] = cell["scores"]
    columns = ["", *(f"@{at}" for at in (*AT, "8/255"))]
    rows = [
        [label, *(" / ".join(percent(shared[name][metric + at]) for metric in CLEAN) for at in columns)]
        for name, label in names.items()
        if name in shared
    ]
    return markdown(["", "clean", *AT, "8/255"], rows)


def rivals() -> str:
    """Version 0.1 against all rivals on ResNet."""
    recipes = {
        "standard": "standard",
        "dpaat-turns": "**`dpaat-v1`**",
        "mean-turns-4": "its radii, every image at their mean",
        "permuted-turns-4": "its radii, permuted within the class",
        "fixed-turns-2": "the same recipe, 2/255 for all",
        "pgd-1": "PGD 1/255",
        "pgd-4": "PGD 4/255",
        "trades-1": "TRADES 1/255",
        "robustlt-1": "RobustLT 1/255",
        "robustlt-8": "RobustLT 8/255",
        "cat-8": "CAT, to 8/255",
    }
    return scores_table("ham10000-32px", recipes, "test_resnet")


def pneumonia() -> str:
    """PneumoniaMNIST."""
    recipes = {"standard": "standard", "default": "**`dpaat`**", "dpaat": "`dpaat-v1`", "pgd-1": "PGD 1/255"}
    return scores_table("pneumoniamnist", recipes, "test_resnet")


def pretrained() -> str:
    """A pretrained network, fine-tuned in a few epochs."""
    recipes = {"standard": "standard", "dpaat": "`dpaat`", "dpaat-balanced": "`dpaat-balanced`", "pgd-1": "PGD 1/255"}
    return scores_table("pretrained-96px", recipes, "tf_efficientnet_lite0")


def published() -> str:
    """Standard training beside a published row."""
    rows, total = [], []
    for seed in range(3):
        results = grid(f"pneumoniamnist-standard-seed{seed}")["results"]
        (clean,) = (entry for entry in results if entry["eps"] == 0)
        total.append([clean["metrics"][name] for name in ("accuracy", "auroc")])
        rows.append([f"seed {seed}", *(f"{value:.3f}" for value in total[-1])])
    mean = [f"**{sum(values) / 3:.3f}**" for values in zip(*total, strict=True)]
    return markdown(["", "test accuracy", "test AUC"], [*rows, ["**mean**", *mean], ["MedMNIST v2", "0.854", "0.944"]])


def ratio(entry: Document) -> str:
    """A ratio of times with its spread."""
    return f"{entry['median']:.3f} ({entry['min']:.3f} to {entry['max']:.3f})"


def step_cost() -> str:
    """What a training step costs."""
    cost = load("benchmarks/results/step-cost-cpu.json")
    rows = [
        ["PGD step, of the least it could take", ratio(cost["pgd_over_floor"])],
        ["`dpaat-half` step, of a PGD step", ratio(cost["dpaat_over_pgd"])],
        ["updating the radii, of that step", f"{100 * cost['update_share']:.4f} %"],
        ["loading and augmenting, of a standard step", ratio(cost["data_over_standard"])],
    ]
    return markdown(["ResNet-18, 64 px, batch 64, K = 10", "ratio, median (least to largest of 7)"], rows)


def peers() -> str:
    """Time of other libraries' attacks and training steps."""
    (found,) = load("benchmarks/results/peers-cpu.json")["results"]
    kinds = (found["attack"], found["training_step"])
    rows = [
        [name, *(ratio(kind[name]["over_dpaat"]) if name in kind else "" for kind in kinds)]
        for name in dict.fromkeys(name for kind in kinds for name in kind)
        if name not in ("dpaat", "standard")
    ]
    return markdown(["time of ours", "attack", "training step"], rows)


def look() -> str:
    """Attribution maps of three models."""
    document = load("docs/results/attention-64px.json")
    rows = []
    for name, run in document["runs"].items():
        scores = {(e["map"], e["score"], e["eps"] > 0): e["balanced"] for e in run["explanations"][0]["scores"]}
        for kind in ("grad-cam", "input-gradient", "integrated-gradients"):
            cells = []
            for key, excess in (("energy", False), ("energy", True)):
                entry = scores[kind, key, excess]
                low, high = entry["excess_interval"]
                cells.append(f"{percent(entry['excess'])} [{percent(low)}, {percent(high)}]")
            for key in ("rank_correlation", "ssim"):
                entry = scores[kind, key, True]
                low, high = entry["interval"]
                cells.append(f"{percent(entry['value'])} [{percent(low)}, {percent(high)}]")
            rows.append([kind, name, *cells])
    head = ["map", "run", "energy inside, above chance", "under attack", "rank correlation", "SSIM under attack"]
    return markdown(head, sorted(rows))


def attention() -> str:
    """Attribution maps of the default and of standard training, over all their cells."""
    document = load("docs/results/attention-32px.json")
    titles = {
        ("energy", False): "energy inside the lesion, above chance",
        ("energy", True): "the same under attack",
        ("rank_correlation", True): "rank correlation under attack",
        ("ssim", True): "SSIM under attack",
    }
    rows = []
    for (score_name, attacked), title in titles.items():
        field = "excess" if score_name == "energy" else "value"
        for entry in document["scores"]:
            if (entry["score"], entry["eps"] > 0) == (score_name, attacked):
                sides = [percent(entry[f"{side}_{field}"]) for side in ("second", "first")]
                higher = f"{entry['higher']} of {len(document['cells'])}"
                rows.append([title, entry["map"], *sides, change(entry), higher])
    return markdown(["score", "map", document["second"], f"`{document['first']}`", "change", "higher in"], rows)


def tuning() -> str:
    """Optimizers and starts of fine-tuning."""
    rows = []
    for name, entry in load("benchmarks/results/fine-tuning.json")["settings"].items():
        setting, found = entry["setting"], entry.get("test") or entry["val"]
        begins = "ImageNet" if setting["weights"] else "nothing"
        rate, images = f"{setting['optimizer']} {setting['lr']}", "test" if entry.get("test") else "validation"
        loss, scores = (
            f"{entry['first_epoch_loss']:.2f}",
            [percent(found[each]) for each in ("balanced_accuracy", "map")],
        )
        method, epochs = setting.get("method", "dpaat"), str(setting["epochs"])
        rows.append([name, method, begins, entry["new_head"], rate, epochs, loss, images, *scores])
    head = ["setting", "method", "begins with", "new head", "optimizer, rate", "epochs", "first loss", "images"]
    return markdown([*head, "balanced accuracy", "mAP"], rows)


def parity() -> str:
    """Robust accuracy under our attacks minus that under the attacks of other libraries."""
    document = load("benchmarks/results/attack-parity.json")
    groups: dict[str, list[Document]] = {}
    for entry in document["results"]:
        groups.setdefault(entry["attack"], []).append(entry)
    rows = [
        [name, str(len(found)), ", ".join(sorted({each["counterpart"] for each in found})),
         f"{min(each['difference'] for each in found):+.1f} to {max(each['difference'] for each in found):+.1f}",
         str(sum(each["violation"] for each in found))]
        for name, found in groups.items()
    ]  # fmt: skip
    return markdown(["attack", "comparisons", "with", "ours minus theirs, points", "weaker"], rows)


def coverage() -> str:
    """How often intervals hold the truth."""
    head = ["true recalls", "draws", "balanced accuracy", "accuracy", "mAP", "worst recall"]
    rows = []
    for name in ("interval-coverage", "interval-coverage-4000", "interval-coverage-replicates"):
        document = load(f"benchmarks/results/{name}.json")
        for entry in [*document["scenarios"], *document.get("limits", [])]:
            found = entry["coverage"]
            triples = [
                " / ".join(percent(value) for value in found[metric].values()) if metric in found else ""
                for metric in ("balanced_accuracy", "accuracy", "map")
            ]
            worst = percent(min(found["recall"].values())) if found.get("recall") else ""
            rows.append([entry["scenario"]["name"], f"{entry['draws']:,}", *triples, worst])
    return markdown(head, rows)


def scale() -> str:
    """What the state of every sample, and what images cost."""
    states, images = [], []
    for e in load("benchmarks/results/state-scale-cpu.json")["states"]:
        times = [f"{1e3 * e[key]:.3g} ms" for key in ("renewal", "update")]
        states.append([f"{e['samples']:,}", f"{e['classes']:,}", e["statistic"], f"{e['bytes'] / 1e6:.1f} MB", *times])
    for name in ("data-scale", "data-scale-limited"):
        document = load(f"benchmarks/results/{name}.json")
        limit, size = document["setting"]["memory_limit"], f"{document['setting']['image_size']} px"
        for e in document["results"]:
            seconds = [e[key]["seconds"] / e["samples"] for key in ("first", "again")]
            times = [f"{1e3 * each:.2g} ms" for each in (*seconds, e["load_epoch"]["seconds"] / e["train_images"])]
            memory = f"{limit / 1e9:.1f} GB" if limit else "none"
            images.append([f"{e['samples']:,}", size, memory, f"{e['cache_bytes'] / 1e6:,.0f} MB", *times])
    one = markdown(["samples", "classes", "statistic", "state", "renewing the threshold", "update"], states)
    head = ["images", "size", "memory limit", "cache", "first start, an image", "later starts", "read for a batch"]
    return f"{one}\n\n{markdown(head, images)}"


def profiles() -> str:
    """Predicted and measured time of an epoch; the fast path against the plain path."""
    rows = []
    for name in ("profile-cpu", "profile-cpu-resnet18"):
        for entry in load(f"benchmarks/results/{name}.json")["configurations"]:
            off, found = [each["off"] for each in entry["trials"]], entry["median"]
            spread = f"{100 * min(off):+.0f} to {100 * max(off):+.0f} %"
            rows.append([entry["model"], entry["method"], f"{found['seconds']:.1f} s", f"{found['measured']:.1f} s",
                         f"{100 * found['off']:+.1f} %", spread])  # fmt: skip
    one = markdown(["network", "method", "predicted", "measured", "off, median", "single ones"], rows)
    fast = load("benchmarks/results/fast-agreement-cpu.json")["against_plain"]
    alike = [
        [
            name,
            f"{found['robust_accuracy_points']:+.2f}",
            *(percent(found[f"{each}_alike"]) for each in ("verdicts", "moved")),
        ]
        for name, found in fast.items()
    ]
    head = ["against float32", "robust accuracy, points", "verdicts alike, %", "radii moved alike, %"]
    return f"{one}\n\n{markdown(head, alike)}"


TABLES: dict[str, tuple[str, str, Callable[[], str]]] = {
    "Where models look": (
        "docs/results/attention-64px.json",
        "Percent, classes counted alike, 500 test images, one run each; DPAAT is `dpaat-half`.",
        look,
    ),
    "Fine-tuning": (
        "benchmarks/results/fine-tuning.json",
        "HAM10000, fold 1/5, seed 0, `tf_efficientnet_lite0`; percent.",
        tuning,
    ),
    "Attack parity": (
        "benchmarks/results/attack-parity.json",
        "Robust accuracy on the same network, images, radii and budgets.",
        parity,
    ),
    "Coverage of the intervals": (
        "benchmarks/results/interval-coverage.json",
        "How often 95 % intervals hold the truth, percent: first recipe / second recipe / paired difference. "
        "Two rows were repeated with more draws.",
        coverage,
    ),
    "Cost beside other libraries": (
        "benchmarks/results/peers-cpu.json",
        "PGD with 10 steps, ResNet-18, 64 px, batch 16, one CPU thread; medians of 15 rounds (least to largest).",
        peers,
    ),
    "Scale": (
        "benchmarks/results/state-scale-cpu.json",
        "One CPU thread; images: `benchmarks/results/data-scale.json` and `data-scale-limited.json`.",
        scale,
    ),
    "Predicted time, and the fast path": (
        "benchmarks/results/profile-cpu.json",
        "HAM10000, one thread; the fast path: `benchmarks/results/fast-agreement-cpu.json`.",
        profiles,
    ),
}


def appendix() -> str:
    """All tables of all results."""
    parts = [
        "# Appendix: all tables",
        "<!-- made by docs/results.py --write; do not edit -->",
        "Every number here is read from a JSON file of the repository. Scores are in percent, with 95 % intervals. In "
        "the files of version 0.1, `dpaat` is the preset that is called `dpaat-v1` now; in `fast-32px`, and as `DPAAT` "
        "in the table of maps, it is `dpaat-half`.",
    ]
    for name, title in GRIDS.items():
        text = benchmark_markdown(grid(name), name)
        text = "\n\n".join(part for part in text.split("\n\n") if not part.startswith(("![", "# ")))
        text = re.sub(r"^## ", "### ", text, flags=re.MULTILINE).rstrip("\n")
        parts += [f"## {title[0].upper() + title[1:]}", f"File: `docs/results/{name}.json`.", text]
    for title, (path, note, make) in TABLES.items():
        parts += [f"## {title}", f"File: `{path}`. {note}", make()]
    return "\n\n".join(parts) + "\n"


BLOCKS: dict[str, Callable[[], str]] = {
    "readme": readme,
    "default": default,
    "controls": controls,
    "families": lambda: above_table("ham10000-32px-v2", "v1"),
    "development": development,
    "rivals": rivals,
    "pneumoniamnist": pneumonia,
    "pretrained": pretrained,
    "attention": attention,
    "published": published,
    "step-cost": step_cost,
    "coverage": coverage,
}


def page(text: str) -> str:
    """A page with its blocks renewed."""
    return BLOCK.sub(lambda found: f"{found[1]}{BLOCKS[found['name']]()}\n{found[3]}", text)


def pages() -> dict[str, str]:
    """The pages as they should be."""
    found = {name: page((ROOT / name).read_text(encoding="utf-8")) for name in PAGES}
    return {**found, APPENDIX: appendix()}


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the pages")
    write, stale = parser.parse_args().write, 0
    for name, text in pages().items():
        path = ROOT / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if write:
            path.write_text(text, encoding="utf-8")
        stale += not write
        print(f"{name}: {'written' if write else 'stale; run python docs/results.py --write'}")
    return int(stale > 0)


if __name__ == "__main__":
    sys.exit(main())
