"""Evaluation of a model, whose results are kept in its folder."""

import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from dpaat.attacks import find_attack
from dpaat.data.table import tasks_of
from dpaat.errors import UserError
from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.certified import ALPHA, run_certified
from dpaat.evaluation.clinical import clinical_analyses
from dpaat.evaluation.corruptions import run_corruptions
from dpaat.evaluation.elsewhere import target_from_elsewhere, target_of_folder
from dpaat.evaluation.entries import Document
from dpaat.evaluation.images import stratified_draw
from dpaat.evaluation.labels import strata
from dpaat.evaluation.masking import run_masking
from dpaat.evaluation.masking_verdicts import summary
from dpaat.evaluation.results import EVALUATION_FILE, UNWRITTEN, read_evaluation, require_present
from dpaat.evaluation.schema import ANALYSES
from dpaat.evaluation.specs import CLEAN, AttackSpec
from dpaat.evaluation.suite import Curve, Result, run_attacks, run_ensemble, run_standard
from dpaat.evaluation.target import EvalTarget
from dpaat.evaluation.writer import Analyses, Writer
from dpaat.measurement import EvaluateConfig, Foreign
from dpaat.precision import bfloat16_pays
from dpaat.runs import CONFIG, SUBJECT, read_config, read_info
from dpaat.storage import writing
from dpaat.validation import misfit


def evaluate_run(
    run: Path,
    *,
    data: str | None = None,
    window: str | None = None,
    source: Path | None = None,
    device: str = "auto",
    progress: bool = True,
    **options: Any,
) -> Document:
    """Measure a trained run on clean images and under attack, and keep the results in its folder.

    Args:
        run: the run folder.
        data: another dataset, or where the run's own is now; its classes must be among the run's, by name. None for the
            run's own, as it was split. What the run has learned from is left out of another dataset.
        window: how the values of those data are read, see `dpaat.data.prepare`; None as the run's own were.
        source: run folder of the model on which transfer attacks make their images.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        progress: show a progress bar with the time left on stderr.
        options: fields of `EvaluateConfig`.

    Returns the document, as written to `evaluation.json`. Raises UserError for bad input, or a folder that cannot be
    written.
    """
    plan = EvaluateConfig(**options)
    target = target_of_folder(run, data=data, device=device, progress=progress, window=window)
    return evaluate(target, plan, source=source_of(target, source), progress=progress)


def source_of(target: EvalTarget, run: Path | None) -> EvalTarget | None:
    """The run on which transfer attacks make the images for a model, if there is to be one.

    Raises UserError for no run folder, or a model that answers other classes or takes other images.
    """
    if run is None:
        return None
    source = target_of_folder(run, data=target.data, device=target.device, progress=False)
    if (source.classes, source.channels) != (target.classes, target.channels):
        raise UserError(
            f"source {run}: classes {', '.join(source.classes)} of {source.channels}-channel images, not "
            f"{', '.join(target.classes)} of {target.channels}; take a run of the same classes in the same order"
        )
    config = vars(read_config(run / CONFIG)) if (run / CONFIG).is_file() else read_info(run / SUBJECT)["config"]
    if (side := config.get("image_size")) != (own := target.data.images.shape[-1]):
        raise UserError(f"source {run}: takes images of {side} px, not {own}; take a run of the same size")
    return source


def evaluate(
    target: EvalTarget, plan: EvaluateConfig, *, source: EvalTarget | None = None, progress: bool = True
) -> Document:
    """Measure a model by a plan, and keep the results in its folder; returns and errors as of `evaluate_run`.

    Each result is merged into `evaluation.json`, and its predictions written to `predictions.parquet/`, as soon as it
    is finished. Finished batches are kept aside, so that the same call after an interruption goes on where it
    stopped and ends with the same results. Other results of the same checkpoint are kept.
    """
    return _written(target, plan, source=source, progress=progress).document


def evaluate_arrays(
    model: nn.Module,
    images: Any,
    labels: np.ndarray,
    *,
    classes: Sequence[str],
    specs: Sequence[AttackSpec] | None,
    out: Path,
    device: str = "cpu",
    progress: bool = True,
    source: nn.Module | None = None,
    **options: Any,
) -> list[Result]:
    """Do what `dpaat.evaluation.evaluate_model` does, with the results kept in a folder; images are taken as 8-bit."""
    if labels.ndim == 2:
        raise UserError("out: results of several labels an image are kept of run folders only; leave it out")
    if source is not None:
        raise UserError("out: attacks with a source are kept by dpaat.evaluate only, which takes a run folder for it")
    if specs is None:
        options["suites"] = ["standard"]
    else:
        options |= {"attacks": [spec.name for spec in specs], "norm": specs[0].norm if specs else options["norm"]}
        options["steps"] = {spec.name: spec.steps for spec in specs if spec.steps}
    if specs and (len({spec.name for spec in specs}) < len(specs) or len({spec.norm for spec in specs}) > 1):
        raise UserError("out: keeps attacks of one norm, each once; leave it out, or make several calls")
    if images.shape[-1] != images.shape[-2]:
        raise UserError(f"out: images of {images.shape[-2]} x {images.shape[-1]} would be cropped; make them square")
    plan, given = EvaluateConfig(split="all", **options), Foreign(out=str(out), image_size=int(images.shape[-1]))
    data = [(image, classes[label]) for image, label in zip(images, labels, strict=True)]
    about: dict[str, Any] = {"module": model, "classes": classes, "seed": plan.seed}
    target = target_from_elsewhere(given, data, device=device, progress=progress, **about)
    return _written(target, plan, source=None, progress=progress).saved


def _written(target: EvalTarget, plan: EvaluateConfig, *, source: EvalTarget | None, progress: bool) -> Writer:
    transfers = any(find_attack(spec.name).needs_source for spec in plan.all_specs)
    if transfers and source is None:
        raise UserError("attack 'transfer' makes its images on another model: give --source RUN")
    if source is not None and not (transfers or "masking" in plan.suites):
        raise UserError("source: nothing here takes one; add transfer to --attack, or masking to --suite")
    if "certified" in plan.suites and target.thresholds is not None:
        raise UserError("suite certified: is for one class an image, not for several labels")
    target.check_radii(plan.radii, plan.norm)
    check_writable(target.folder)
    require_present(target.folder, target.head)
    if where := misfit((read_evaluation(target.folder) or {}).get("analyses") or {}, ANALYSES):
        place = f"{target.folder / EVALUATION_FILE}: damaged at {f'analyses.{where}'!r}"
        raise UserError(f"{place}; move it away and evaluate again")
    rows = target.rows(plan.split)
    if plan.max_samples is not None:
        rows = rows[stratified_draw(strata(target.view(target.data, rows)[1]), plan.max_samples, seed=plan.seed)]
    if plan.precision == "auto":
        images, labels = target.view(target.data, rows[: plan.batch_size])
        with Attacker(target.model, images, labels, num_classes=len(target.classes), device=target.device) as attacker:
            half, line = bfloat16_pays(target.model.eval(), *attacker.load(np.arange(len(labels))))
        print(line, file=sys.stderr)
        plan = dataclasses.replace(plan, precision="bf16" if half else "32")
    writer = Writer(target, plan, rows, source)
    with writer.attacker(source, progress) as attacker:
        for found in _measured(writer, attacker):
            writer.save(found)
    return writer


def _measured(writer: Writer, attacker: Attacker) -> Iterator[Result | Analyses]:
    """What a plan asks for, as it comes: results, and what is concluded from several, by name."""
    plan, classes, eps = writer.plan, writer.target.classes, writer.plan.radii
    if plan.ensemble_specs:
        yield from run_ensemble(attacker, plan.specs, plan.ensemble_specs, eps, classes)
    elif not plan.suites:
        yield from run_attacks(attacker, plan.specs, eps, classes)
    if "quick" in plan.suites or "standard" in plan.suites:
        quick, parts, budgets = "quick" in plan.suites, list[Result](), dict[str, int]()
        for part in run_standard(attacker, eps, classes, norm=plan.norm, steps=plan.steps, quick=quick):
            if isinstance(part, Curve):
                budgets = part.budgets
                yield {"quick" if quick else "curve": vars(part)}
            else:
                yield part
                parts.append(part)
        if not quick:
            yield _clinical(writer, parts, budgets)
    if "certified" in plan.suites:
        yield next(run_attacks(attacker, [], [], classes))
        noise = run_certified(attacker, eps, norm=plan.norm, sigmas=plan.sigma, draws=plan.draws)
        about = {"eps": eps, "draws": plan.draws, "alpha": ALPHA, "ids": writer.ids.tolist()}
        yield {"certified": {**about, "noise": noise}}
    if "masking" in plan.suites:
        checks = run_masking(attacker, eps=max(eps), norm=plan.norm)
        verdict, line = summary(checks)
        said = {"eps": max(eps), "verdict": verdict, "summary": line}
        yield {"masking": {**said, "checks": [vars(check) for check in checks]}}
    if "corruptions" in plan.suites:
        yield {"corruptions": run_corruptions(attacker, writer.ids, classes)}


def _clinical(writer: Writer, results: Sequence[Result], budgets: dict[str, int]) -> Analyses:
    """Clinical analyses; thresholds are chosen on the model's own validation images, unless they are evaluated here."""
    target, plan, table, validation = writer.target, writer.plan, writer.target.data.table, None
    own, evaluated = target.own_data, plan.split in ("val", "all")
    if own is not None and not (own is target.data and evaluated) and len(rows := own.rows("val")):
        images, answers = target.view(own, rows)
        options: dict[str, Any] = {"batch_size": plan.batch_size, "device": target.device, "progress": False}
        other = Attacker(target.model, images, answers, num_classes=len(target.classes), **options)
        validation = other.outputs(CLEAN).logits.numpy(), answers
    found = clinical_analyses(
        results,
        validation=validation,
        labels=writer.labels,
        groups=writer.groups,
        frame=table.frame.iloc[writer.rows],
        tasks=tasks_of(table),
        classes=target.classes,
    )
    return {name: {"conditions": values, "budgets": budgets} for name, values in found.items()}


def check_writable(folder: Path) -> None:
    """Find out before hours of work whether results can be written; UserError where they cannot."""
    probe = folder / f".write-test-{os.getpid()}"
    with writing(folder, f"{UNWRITTEN} there"):
        probe.write_bytes(b"")
        probe.unlink()
