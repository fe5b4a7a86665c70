"""The commands: each takes the parsed arguments, calls the package and prints what came of it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from dpaat.config import PLACE, TrainConfig
from dpaat.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


FOREIGN = ("image_size", "stem", "weights_key", "classes", "mean", "std", "input_range")
"""Options of `evaluate` for weights from elsewhere."""


def train(given: Namespace, explicit: Namespace, argv: list[str]) -> int:
    """Train, or go on with a training; `explicit` holds only what stands in `argv` in so many words."""
    if given.out is None:
        raise UserError("out: name the run folder to make, such as --out runs/ham")
    names = TrainConfig.__dataclass_fields__
    out = Path(given.out)
    config = TrainConfig(**{name: given[name] for name in names})
    if given.resume and (out / "config.yaml").is_file():
        config = _begun(out, {name: value for name, value in vars(explicit).items() if name in names})
    from dpaat import training

    training.train(
        config,
        out,
        resume=given.resume,
        data=explicit.get("data") if given.resume else None,
        stop_after=given.stop_after,
        cache_dir=Path(given.cache) if given.cache else None,
        command=shlex.join(["dpaat", *argv]),
        console=_console(),
    )
    return 0


def _begun(out: Path, given: dict[str, Any]) -> TrainConfig:
    """How a run was begun, at the place that is given now; refuses other options than it was begun with."""
    from dpaat.config import complete
    from dpaat.runs import read_config

    begun = read_config(out / "config.yaml")
    same_method = given.get("method", begun.method) == begun.method
    kept = {"options": begun.options if same_method else {}, "trainer": begun.trainer}
    nested = {name: values | given.get(name, {}) for name, values in kept.items()}
    wanted = complete(dataclasses.replace(begun, **given | nested))
    for name in given:
        before, now = getattr(begun, name), getattr(wanted, name)
        # The data may have been moved: the training looks at the images.
        if before != now and name not in (*PLACE, "data") and (name != "eps" or begun.radius != wanted.radius):
            raise UserError(
                f"{out}: was begun with {name} {before!r}, not {now!r}; resume it without that option, or train anew "
                "into another --out"
            )
    return dataclasses.replace(begun, **{name: given[name] for name in PLACE if name in given})


def _evaluate(given: Namespace) -> int:
    from dpaat.evaluation import Plan, analyses_summary, evaluate, evaluation_table, parse_steps
    from dpaat.evaluation.run import resolve_device, source_of
    from dpaat.evaluation.subject import subject_of_run, subject_of_weights
    from dpaat.evaluation.suite import SUITE_ATTACKS
    from dpaat.models import describe_weights
    from dpaat.precision import emulation

    suites, attacks, ensemble = _names(given.suite), _names(given.attack), _names(given.ensemble)
    plan = Plan(
        suites=suites,
        attacks=attacks,
        ensemble=ensemble,
        steps=parse_steps(given.steps, SUITE_ATTACKS if suites else [*attacks, *ensemble]),
        eps=_radii(given.eps, given.norm),
        norm=given.norm,
        split=given.split,
        max_samples=given.max_samples,
        batch_size=given.batch_size,
        precision=given.precision,
        seed=given.seed,
    )
    device = resolve_device(given.device)
    only = ("weights", "model", "out", *FOREIGN)
    if given.run is not None and (idle := next((name for name in only if given[name] is not None), None)):
        raise UserError(
            f"evaluate: --{idle.replace('_', '-')} belongs to weights from elsewhere; a run folder needs none"
        )
    if given.run is not None:
        subject = subject_of_run(Path(given.run), data=given.data, device=device, progress=True, window=given.window)
    else:
        for name in ("model", "weights", "data", "out"):
            if given[name] is None:
                raise UserError(f"evaluate: name a run folder, or weights from elsewhere with --{name}")
        subject = subject_of_weights(
            given.model,
            Path(given.weights),
            data=given.data,
            out=Path(given.out),
            seed=given.seed,
            device=device,
            progress=True,
            window=given.window or "auto",
            **{name: given[name] for name in FOREIGN if given[name] is not None},
        )
        _console().print(describe_weights(subject.head["network"]), highlight=False, soft_wrap=True)
    source = None
    if given.source is not None:
        source = source_of(subject, Path(given.source), device)
    console = _console()
    for line in subject.warnings:
        console.print(f"warning: {line}", highlight=False, soft_wrap=True)
    if slow := emulation(plan.precision, device):
        console.print(f"warning: {slow}", highlight=False, soft_wrap=True)
    document = evaluate(subject, plan, source=source, device=device)
    console.print(evaluation_table(document), analyses_summary(document))
    console.print(f"written to {subject.folder / 'evaluation.json'}", highlight=False, soft_wrap=True)
    return 0


def _names(text: str | None) -> list[str]:
    return [] if not text else [name.strip() for name in text.split(",")]


def _radii(text: str | None, norm: str | None) -> list[float] | None:
    from dpaat.radii import parse_radii

    # Where the run's own norm is to be taken, the plan that knows it looks at the radii again.
    return None if text is None else parse_radii(text, norm=norm or "l2")


def _predict(given: Namespace) -> int:
    from dpaat.evaluation import predict

    images = given.images[0] if len(given.images) == 1 else [Path(name) for name in given.images]
    out = predict(
        Path(given.run),
        images,
        Path(given.out),
        window=given.window,
        batch_size=given.batch_size,
        device=given.device,
        console=_console(),
    )
    _console().print(f"written to {out}", highlight=False, soft_wrap=True)
    return 0


def _explain(given: Namespace) -> int:
    from dpaat.interpret import MAPS, explain_run, explanation_tables

    run = Path(given.run)
    document = explain_run(
        run,
        data=given.data,
        window=given.window,
        norm=given.norm,
        device=given.device,
        maps=_names(given.maps) or list(MAPS),
        layer=given.layer,
        eps=_radii(given.eps, given.norm),
        steps=given.steps,
        split=given.split,
        max_samples=given.max_samples,
        batch_size=given.batch_size,
        seed=given.seed,
    )
    console = _console()
    for line in document["data_warnings"]:
        console.print(f"warning: {line}", highlight=False, soft_wrap=True)
    console.print(explanation_tables(document))
    console.print(f"written to {run / 'interpretability.json'}", highlight=False, soft_wrap=True)
    return 0


def _compare(given: Namespace) -> int:
    from dpaat.evaluation.compare import compare_runs, differences_table, write_comparison

    document = compare_runs([Path(run) for run in given.runs])
    write_comparison(document, Path(given.out))
    console = _console()
    for name, lines in document["data_warnings"].items():
        for line in lines:
            console.print(f"warning: {name}: {line}", highlight=False, soft_wrap=True)
    console.print(differences_table(document))
    console.print(f"written to {given.out}", highlight=False, soft_wrap=True)
    return 0


def _benchmark(given: Namespace) -> int:
    from dpaat.benchmark import benchmark, list_cells, read_grid

    grid = read_grid(
        Path(given.grid),
        data=given.data or [],
        workers=given.workers,
        reference=given.reference,
        models=_names(given.models),
    )
    options = {
        "out": Path(given.out) if given.out else None,
        "only": given.only,
        "known": Path(given.known) if given.known else None,
        "console": _console(),
    }
    if given.dry_run:
        list_cells(grid, **options)
        return 0
    return int(benchmark(grid, summary_only=given.summary_only, **options) > 0)


def _profile(given: Namespace) -> int:
    from dpaat.runs import write_json
    from dpaat.training.profile import profile, profile_table

    config = TrainConfig(**{name: given[name] for name in TrainConfig.__dataclass_fields__})
    found = profile(config, batches=given.batches, cache_dir=Path(given.cache) if given.cache else None)
    _console().print(profile_table(found))
    if given.out:
        write_json(Path(given.out), found)
    return 0


def _export(given: Namespace) -> int:
    from dpaat.export import export

    card = export(Path(given.run), Path(given.out), images=given.images)
    checked = card["checked"]
    worst = max(checked["largest_difference"].values())
    _console().print(
        f"written to {given.out}: ONNX and safetensors agree with the run on {checked['images']} {checked['of']} "
        f"(largest difference of a logit: {worst:.1e})",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _report(given: Namespace) -> int:
    from dpaat.report import write_report

    out = Path(given.out or ("model-card.md" if given.format == "md" else "report.html"))
    write_report([Path(run) for run in given.runs], out, format=given.format, images=not given.no_images)
    _console().print(f"written to {out}", highlight=False, soft_wrap=True)
    return 0


def _data(given: Namespace) -> int:
    from dpaat.data.check import check

    given = given.check
    problems = check(
        given.data,
        image_size=given.image_size,
        window=given.window,
        seed=given.seed,
        fold=given.fold,
        splits=Path(given.splits) if given.splits else None,
        export=Path(given.export) if given.export else None,
        console=_console(),
    )
    return int(problems > 0)


def _list(given: Namespace) -> int:
    from dpaat.listing import listing

    _console().print(listing(given.what, given.filter))
    return 0


def _quickstart(given: Namespace) -> int:
    from dpaat.quickstart import quickstart

    quickstart(
        data=given.data,
        out=Path(given.out) if given.out else None,
        epochs=given.epochs,
        seed=given.seed,
        console=_console(),
    )
    return 0


def _console() -> Console:
    from rich.console import Console

    # Names of files and classes are no markup.
    return Console(markup=False)


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "evaluate": _evaluate,
    "explain": _explain,
    "compare": _compare,
    "benchmark": _benchmark,
    "predict": _predict,
    "profile": _profile,
    "report": _report,
    "export": _export,
    "data": _data,
    "list": _list,
    "quickstart": _quickstart,
}
"""All but `train`, which wants more than the parsed arguments."""
