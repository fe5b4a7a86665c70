import base64
import csv
import datetime
import html
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch

from dpaat.config import TrainConfig
from dpaat.errors import UserError
from dpaat.evaluation.entries import Population, result_entry
from dpaat.evaluation.metrics import verdict_metrics
from dpaat.evaluation.results import save_result
from dpaat.evaluation.specs import AttackSpec
from dpaat.evaluation.suite import Result
from dpaat.report import write_report
from dpaat.report.blocks import Fold, Heading, Text, first_open, folded
from dpaat.report.page import _names
from dpaat.runs import write_config
from report_makers import HAM, RADII, Page, add_analyses, make_run, masking, read_page

QUESTIONS = [
    "What was trained on what?",
    "Is it accurate?",
    "Is it robust?",
    "Is the gradient masked?",
    "Which classes and groups does it serve?",
    "What does it look at?",
    "Which images are fragile?",
    "How can it be reproduced?",
]


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("two")
    return [
        make_run(folder / "standard", method="standard", loss_per_radius=150, radii=RADII),
        make_run(folder / "adaptive", method="dpaat", loss_per_radius=30, radii=RADII, epochs=6),
    ]


@pytest.fixture(scope="module")
def page(two_runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return read_page(two_runs, tmp_path_factory.mktemp("page") / "report.html")


def test_page_shows_the_numbers_of_the_json(two_runs: list[Path], page: Page) -> None:
    for run in two_runs:
        document = json.loads((run / "evaluation.json").read_text())
        for entry in [*document["results"], *document["constant"]]:
            for key in ("accuracy", "balanced_accuracy", "map"):
                assert f"{100 * entry['metrics'][key]:.1f}" in page.text
        low, high = document["results"][-1]["intervals"]["balanced_accuracy"]
        assert f"[{100 * low:.1f}, {100 * high:.1f}]" in page.text
    for words in ("CC BY-NC 4.0", "Not a medical device", "0123456789abcdef", "always nv", "dpaat train --data"):
        assert words in page.text
    for words in ("Synthetic images", "different data", "Not evaluated"):
        assert words not in page.text


def test_the_questions_come_in_order(page: Page) -> None:
    places = [page.titles.index(question) for question in QUESTIONS]
    assert places == sorted(places)
    assert "No gallery" in page.text


def test_differences_are_paired_and_named_by_the_runs(page: Page) -> None:
    assert "Differences from standard, image by image" in page.text
    assert "adaptive, PGD-20 8/255" in page.text
    assert re.search(r"p = 0?\.?\d", page.text)


def test_page_needs_nothing_from_elsewhere(page: Page) -> None:
    assert not {"script", "iframe", "object"} & set(page.tags)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.search(r"@import|url\((?!#)", page.raw)
    assert set(re.findall(r"https?://[^\s\"'<]+", page.raw)) <= {
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    }
    assert page.raw.lower().startswith("<!doctype html>")
    assert "default-src 'none'" in page.raw


def test_every_figure_has_an_alternative_and_ids_of_its_own(page: Page) -> None:
    figures = page.tags.count("figure")
    assert len(page.alts) == figures == page.tags.count("figcaption") == page.tags.count("svg") > 10
    assert all(re.search(r"\d", alt) for alt in page.alts)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_every_figure_can_be_saved_with_its_data(page: Page) -> None:
    def content(link: str) -> str:
        return base64.b64decode(link.split(",", 1)[1]).decode()

    tables = [content(link) for link in page.links if link.startswith("data:text/csv")]
    drawings = [content(link) for link in page.links if link.startswith("data:image/svg")]
    assert len(tables) == len(drawings) == page.tags.count("figure")
    assert all(ElementTree.fromstring(drawing).tag == "{http://www.w3.org/2000/svg}svg" for drawing in drawings)
    parsed = [list(csv.reader(io.StringIO(table))) for table in tables]
    assert all(len(rows) > 1 and len({len(row) for row in rows}) == 1 for rows in parsed)
    confusion = next(rows for rows in parsed if rows[0][0] == "true class")
    assert {row[0]: sum(map(int, row[1:])) for row in confusion[1:]} == HAM


def test_several_runs_share_a_pareto_plot(page: Page) -> None:
    (alt,) = [alt for alt in page.alts if alt.startswith("Accuracy against robustness")]
    assert "standard:" in alt
    assert "adaptive:" in alt


def test_the_worst_case_comes_first_without_scores_that_it_has_not(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    document = json.loads((run / "evaluation.json").read_text())
    labels = torch.from_numpy(np.repeat(np.arange(len(HAM)), list(HAM.values())))
    predicted = torch.arange(len(labels)) % len(HAM)
    metrics = verdict_metrics(predicted, labels, list(HAM))
    result = Result(AttackSpec("worst-case"), 4 / 255, predicted.numpy(), metrics)
    population = Population("ham10000", "0123456789abcdef", "test", len(labels))
    save_result(run, document, result=result_entry(result, population, checkpoint="c0ffee"))
    page = read_page([run], tmp_path / "report.html")
    assert page.text.index("Worst case: ham10000") < page.text.index("PGD-20")
    assert not any("average precision in the worst case" in alt for alt in page.alts)
    assert any("accuracy in the worst case" in alt for alt in page.alts)


@pytest.mark.parametrize(("verdict", "word"), [("pass", "believable"), ("warn", "suspicious"), ("fail", "masked")])
def test_masking_verdicts_are_beside_the_scores(tmp_path: Path, verdict: str, word: str) -> None:
    run = make_run(tmp_path / "run")
    add_analyses(run, masking=masking(verdict, word))
    page = read_page([run], tmp_path / "report.html")
    shown = {"believable": "no sign found"}.get(word, word)
    assert page.text.count(shown) >= 2
    assert page.text.index(shown) < page.text.index("What was trained on what?")
    assert "believable" not in page.text
    assert "12 of 50 images stand at 0.5" in page.text
    assert f'class="{verdict}">{verdict}<' in page.raw
    assert "Not checked for gradient masking" not in page.text


@pytest.mark.parametrize(("verdict", "word"), [("pass", "believable"), ("fail", "masked")])
def test_masking_checks_on_a_draw_are_shown_with_their_evidence(tmp_path: Path, verdict: str, word: str) -> None:
    run, found = make_run(tmp_path / "run"), masking(verdict, word)
    found["checks"][0]["values"] = {"images": 57}  # type: ignore[index]
    add_analyses(run, masking={**found, "n": 60})
    text = read_page([run], tmp_path / "report.html").text
    section = text[text.index("Masking checks: ham10000") :]
    assert "12 of 50 images stand at 0.5" in section
    assert re.search(r"\b57\b", section[: section.index("Each check")])
    assert "Not checked" not in section
    assert ("no sign of gradient masking in 57 images" in text) == (verdict == "pass")


def test_unchecked_runs_are_named(page: Page) -> None:
    assert "Not checked for gradient masking: standard, adaptive" in page.text
    assert "not checked" in page.text


def test_conclusions_of_the_suite_are_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    point = {"task": "melanoma", "specificity_wanted": 0.9, "sensitivity": 0.731, "sensitivity_interval": [0.5, 0.9]}
    point |= {"specificity": 0.873, "specificity_interval": [0.8, 0.92]}
    calibration = {"ece": 0.123, "ece_scaled": 0.045}
    group = {"n": 40, "accuracy": 0.614, "excess": -0.077, "excess_interval": [-0.2, 0.05]}
    scores = {"clean": [0.6], "hairs": [0.55, 0.5, 0.45, 0.4, 0.333]}
    add_analyses(
        run,
        operating_points={"conditions": {"clean": [point], "4/255": [point]}},
        calibration={"conditions": {"clean": calibration, "4/255": calibration}},
        subgroups={"conditions": {"clean": {"sex": {"male": group, "other": {"n": 3}}}}},
        corruptions={
            "balanced_accuracy": scores,
            "balanced_error": {"clean_error": 0.4, "mean_corruption_error": 0.554},
        },
        curve={"eps": [0, 4 / 255, 0.5], "balanced_accuracy": [0.6, 0.3, 0.0]},
    )
    page = read_page([run], tmp_path / "report.html")
    few = make_run(tmp_path / "few")
    add_analyses(few, subgroups={"conditions": {"clean": {"sex": {"male": {"n": 3}}}}})
    assert "sex: male" in read_page([few], tmp_path / "few.html").text  # nothing to draw
    for words in (
        "melanoma, specificity 90%",
        "73.1",
        "12.3",
        "4.5",
        "sex: male",
        "-7.7",
        "[-20.0, 5.0]",
        "33.3",
        "44.6",
    ):
        assert words in page.text
    assert any("sex: male -7.7" in alt for alt in page.alts)
    assert any(alt.startswith("Security curve") and "0.0 % at 0.5" in alt for alt in page.alts)


def test_markup_in_names_is_only_text(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script> & $x^2$'
    counts = {evil: 9, "b": 12}
    run = make_run(tmp_path / "<i>run", counts=counts, data="<b>data", method="dpaat", licence=evil, command=evil)
    page = read_page([run], tmp_path / "report.html")
    assert not {"script", "i", "b"} & set(page.tags)
    assert html.escape("<i>run") in page.raw
    assert page.text.count(evil) >= 3


def test_hundred_classes(tmp_path: Path) -> None:
    counts = {f"class {k}": 3 + k % 5 for k in range(100)}
    page = read_page([make_run(tmp_path / "run", counts=counts, method="dpaat")], tmp_path / "report.html")
    assert "the 30 most frequent of 100 classes" in page.text
    assert any("94 more lines" in alt for alt in page.alts)
    assert "94 others, grey" in page.raw


def test_missing_parts_are_named(tmp_path: Path) -> None:
    bare = make_run(tmp_path / "bare", radii=())
    (bare / "metrics.csv").unlink()
    page = read_page([bare], tmp_path / "report.html")
    assert "No epoch has been logged yet: bare" in page.text
    assert "No attribution maps yet: bare" in page.text
    other = make_run(tmp_path / "other", radii=(8 / 255,))
    for part in (other / "predictions.parquet").glob("*"):
        part.unlink()
    page = read_page([other, bare], tmp_path / "report.html")
    assert "Not evaluated yet: bare" in page.text
    assert "PGD-20" in page.text
    assert "No confusion matrices" in page.text


def test_synthetic_and_unequal_data_are_said(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", synthetic=True, radii=())
    two = make_run(tmp_path / "two", fingerprint="f" * 16, radii=())
    page = read_page([one, two], tmp_path / "report.html")
    assert "Synthetic images." in page.text
    assert "trained on different data" in page.text


def test_runs_that_cannot_be_paired_are_not(tmp_path: Path) -> None:
    one, two = (make_run(tmp_path / method, method=method) for method in ("pgd", "trades"))
    for part in (two / "predictions.parquet").glob("*"):
        frame = pd.read_parquet(part)
        frame.assign(id="other-" + frame["id"]).to_parquet(part, index=False)
    page = read_page([one, two], tmp_path / "report.html")
    assert "None are shown: compare: trades and pgd were not evaluated on the same images" in page.text
    document = json.loads((two / "evaluation.json").read_text())
    del document["recipe"]
    (two / "evaluation.json").write_text(json.dumps(document))
    page = read_page([one, two], tmp_path / "report.html")
    assert "it has no usable 'recipe'" in page.text


def test_settings_that_differ_are_listed(page: Page) -> None:
    section = page.text[page.text.index("Settings in which") : page.text.index("Images per class")]
    assert {"method", "eps", "epochs"} <= set(section.split())
    assert "image_size" not in section


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a" / "run", radii=()), make_run(tmp_path / "b" / "run", radii=())]
    page = read_page(runs, tmp_path / "report.html")
    assert str(runs[0]) in page.text
    assert str(runs[1]) in page.text


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    old, broken, newer, earlier = (make_run(tmp_path / name) for name in ("old", "broken", "newer", "earlier"))
    (old / "run.json").write_text('{"schema_version": 1}')
    (broken / "evaluation.json").write_text("{")
    (newer / "run.json").write_text('{"schema_version": 99, "dpaat_version": "7.0"}')
    (earlier / "evaluation.json").write_text('{"schema_version": 1}')
    for runs, out, options, message in [
        ([], "r.html", {}, "at least one run"),
        ([tmp_path / "empty"], "r.html", {}, "not a run folder"),
        ([tmp_path / "none"], "r.html", {}, "not a run folder"),
        ([old], "r.html", {}, "no usable 'classes'"),
        ([broken], "r.html", {}, "cannot be read"),
        ([newer], "r.html", {}, "newer version of dpaat .7.0"),
        ([earlier], "r.html", {}, "schema version 1, this dpaat reads"),
        ([run], "r.html", {"format": "pdf"}, "unknown format 'pdf'"),
        ([run], "no/r.html", {"format": "md"}, "cannot be written"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            write_report(runs, tmp_path / out, **options)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / out).exists()


def test_the_common_end_of_names_is_left_out() -> None:
    assert _names([Path("a/pgd-4-net-s0"), Path("a/dpaat-net-s0")]) == ["pgd-4", "dpaat"]
    assert _names([Path("a/dpaat-s0"), Path("a/dpaat-s1")]) == ["dpaat-s0", "dpaat-s1"]
    assert _names([Path("a/ham"), Path("a/big-ham")]) == ["ham", "big-ham"]
    assert _names([Path("a/one-s0"), Path("b/one-s0")]) == ["a/one-s0", "b/one-s0"]
    assert _names([Path("a/one-s0")]) == ["one-s0"]


def test_banners_are_not_folded_away() -> None:
    banner, note = Text("images are left out", "warn"), Text("a note", "note")
    assert folded("more", [note, banner]) == [banner, Fold("more", [note])]
    assert first_open(0, "first", [note]) == [Heading("first"), note]
    assert first_open(1, "second", [note, banner]) == [banner, Fold("second", [note])]


def test_the_head_of_the_page(two_runs: list[Path], tmp_path: Path) -> None:
    page = read_page(two_runs, tmp_path / "report.html", title="Skin & <lesions>", author="A. Author")
    for words in ("Skin & <lesions>", "A. Author", "intended use", f"{datetime.date.today():%d %B %Y}", "7 classes"):
        assert words in page.text
    assert page.text.index("Verdict") < page.text.index("balanced accuracy")
    assert re.search(r"clean: no image differs among 402; at 4/255: adaptive \+\d+\.\d points \[", page.text)


def test_classes_have_one_order(page: Page) -> None:
    """The most frequent of the training set first, in every table and figure that has them all."""
    order = sorted(HAM, key=lambda name: -HAM[name])
    orders = [re.findall(rf"\b({'|'.join(HAM)})\b", alt)[:7] for alt in page.alts if "recall per class" in alt]
    assert orders == [order, order]
    csvs = [base64.b64decode(link.split(",", 1)[1]).decode() for link in page.links if link.startswith("data:text/csv")]
    confusions = [table.splitlines()[0].split(",")[1:] for table in csvs if table.startswith("true class")]
    assert len(confusions) == 4
    assert all(found == [name for name in order if name in found] for found in confusions)
    table = page.text[page.text.index("Images per class") :]
    assert re.findall(rf"\b({'|'.join(HAM)})\b", table)[:7] == order


def in_norm(run: Path, norm: str) -> None:
    """Give results under attack in L2 as well, or instead."""
    document = json.loads((run / "evaluation.json").read_text())
    attacked = [e for e in document["results"] if e["attack"] != "clean"]
    others = [{**e, "norm": "l2", "label": f"{e['label']} L2", "predictions": "gone.parquet"} for e in attacked]
    kept = [e for e in document["results"] if norm == "both" or e["attack"] == "clean"]
    (run / "evaluation.json").write_text(json.dumps({**document, "results": [*others, *kept]}))


def test_what_was_found_in_another_norm_does_not_vouch_for_the_scores(tmp_path: Path) -> None:
    run, curve = make_run(tmp_path / "run"), {"eps": [0, 4 / 255], "balanced_accuracy": [0.6, 0.3]}
    add_analyses(run, masking={**masking("pass", "believable"), "norm": "l2"}, curve={**curve, "norm": "l2"})
    page = read_page([run], tmp_path / "linf.html")
    assert "Not checked for gradient masking: run" in page.text
    assert "no sign" not in page.text
    assert not any(alt.startswith("Security curve") for alt in page.alts)
    assert "Left out, as they are not in the norm of the attack above: security curve, masking checks." in page.text
    in_norm(run, "l2")
    page = read_page([run], tmp_path / "l2.html")
    assert "no sign of gradient masking in 402 images" in page.text
    assert any(alt.startswith("Security curve, L2") for alt in page.alts)
    assert "at 4/255 L2" in page.text
    assert "Left out" not in page.text


def test_a_page_about_both_norms_goes_by_linf_and_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    in_norm(run, "both")
    for norm, last in (("l2", 0.111), ("linf", 0.222)):
        curve = {"eps": [0, 4 / 255], "balanced_accuracy": [0.6, last], "norm": norm}
        add_analyses(run, curve=curve, masking={**masking("pass", "believable"), "norm": norm})
    page = read_page([run], tmp_path / "report.html")
    assert "PGD-20: ham10000, test split, 402 images, Linf" in page.text
    assert "Masking checks: ham10000, test split, 402 images, Linf" in page.text
    (curve_alt,) = [alt for alt in page.alts if alt.startswith("Security curve, Linf")]
    assert "22.2 %" in curve_alt
    assert "Left out, as they are not in the norm of the attack above: security curve, masking checks." in page.text


def test_radii_in_l2_are_not_255ths(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", method="dpaat", radii=(0.5, 1.0), loss_per_radius=1)
    config = TrainConfig(data="ham10000:DIR", method="dpaat", norm="l2", eps="1", epochs=1)
    write_config(run / "config.yaml", config)
    in_norm(run, "l2")
    epochs = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(epochs.replace("@8/255", "@255/255").replace("@2/255", "@51/255"))
    task = {"task": "melanoma", "specificity_wanted": 0.9, "specificity": 0.9, "specificity_interval": [0.8, 1.0]}
    points = {
        at: [{**task, "sensitivity": share, "sensitivity_interval": [0.1, 0.9]}]
        for at, share in (("clean", 0.7), ("255/255", 0.444), ("510/255", 0.333))  # as older files have them
    }
    add_analyses(run, operating_points={"conditions": points, "norm": "l2"})
    page = read_page([run], tmp_path / "report.html")
    assert "at 1 L2" in page.text
    assert "PGD-20 L2 1 " in page.text
    assert "44.4" in page.text
    assert "33.3" not in page.text
    (course,) = [alt for alt in page.alts if "Balanced accuracy on the validation split" in alt]
    assert " at 1:" in course
    assert " at 0.2:" in course
    (told,) = [alt for alt in page.alts if "90th percentile in L2" in alt]
    assert max(map(float, re.findall(r"\b\d\.\d+", told))) <= 1
    assert page.text.count("255/255") == 1  # the condition of the older file


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (0.0, None),
        (0.1, "ends at 10.0 %, not at 0: at 0.5 one class can still be right, as for any constant answer"),
        (0.6, "ends at 60.0 %, not at 0: at most 14.3 % is possible at 0.5"),
    ],
)
def test_a_security_curve_says_why_it_does_not_end_at_0(tmp_path: Path, last: float, words: str | None) -> None:
    run = make_run(tmp_path / "run")
    spared = {"SQUARE-500 1/255": 2, "SQUARE-500 2/255": 1}
    add_analyses(run, curve={"eps": [0, 4 / 255, 0.5], "balanced_accuracy": [0.6, 0.6, last], "spared": spared})
    text = read_page([run], tmp_path / "report.html").text
    assert (words in text) if words else ("not at 0" not in text)
    assert text.count("3 attacks left out on images that had withstood all at a larger radius") == 1


def test_the_choice_of_the_epoch_is_beside_the_test_score(page: Page) -> None:
    section = page.text[page.text.index("Selection optimism") : page.text.index("Calibration: are")]
    assert "adaptive" in section
    assert "validation" in section


def test_nothing_is_said_of_a_choice_where_no_epoch_was_chosen(tmp_path: Path) -> None:
    few, last, chosen = (make_run(tmp_path / name, epochs=n) for name, n in (("few", 1), ("last", 6), ("chosen", 6)))
    write_config(last / "config.yaml", TrainConfig(data="ham10000:DIR", method="pgd", epochs=6, select="last"))
    for run in (few, last, chosen):
        text = read_page([run], tmp_path / f"{run.name}.html").text
        assert ("Selection optimism" in text) == ("epoch was chosen" in text) == (run == chosen)


def test_two_seeds_that_could_not_be_paired_are_two_runs(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("s0", "s1")]
    for seed, run in enumerate(runs):
        document = json.loads((run / "evaluation.json").read_text())
        (run / "evaluation.json").write_text(json.dumps({**document, "recipe": "r", "training_seed": seed}))
    assert "say nothing about another seed" in read_page(runs[:1], tmp_path / "one.html").text
    assert "say nothing about another seed" not in read_page(runs, tmp_path / "two.html").text


def test_runs_that_were_tested_on_other_images_are_not_shown_as_alike(tmp_path: Path) -> None:
    one, same, other = (make_run(tmp_path / f"run{k}", first=first) for k, first in enumerate((0, 0, 30)))
    line = "The runs were not tested on the same images: all of them share"
    assert line not in read_page([one, same], tmp_path / "same.html").text
    n = sum(HAM.values())
    assert f"{line} {n - 30:,} of {n:,}." in read_page([one, other], tmp_path / "other.html").text


@pytest.mark.parametrize("kind", ["curve", "quick"])
def test_attacks_that_a_suite_left_out_are_named_in_page_and_card(tmp_path: Path, kind: str) -> None:
    run = make_run(tmp_path / "run")
    curve = {"eps": [0, 4 / 255], "accuracy": [0.6, 0.3], "balanced_accuracy": [0.6, 0.3]}
    add_analyses(run, **{kind: {**curve, "spared": {"SQUARE-500 1/255": 1200, "SQUARE-500 2/255": 34}}})
    for suffix in ("html", "md"):
        text = write_report([run], tmp_path / f"report.{suffix}", format=suffix, images=False).read_text()
        assert "run: 1,234 attacks left out on images that had withstood all at a larger radius." in text


def test_runs_of_the_same_name_are_compared_as_what_they_are(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name / "run", loss_per_radius=loss) for name, loss in (("x", 20), ("y", 40), ("z", 5))]
    page = read_page(runs, tmp_path / "report.html")
    for other in runs[1:]:
        assert f"{other} against {runs[0]}" in page.text
        assert f"{other} against {other}" not in page.text


def test_masking_checks_at_smaller_radii_do_not_vouch_for_larger_ones(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", radii=(4 / 255, 8 / 255))
    for eps, said in ((4 / 255, "Not checked for gradient masking"), (8 / 255, "no sign of gradient masking")):
        add_analyses(run, masking={**masking("pass", "believable"), "eps": eps})
        assert said in read_page([run], tmp_path / "report.html").text
