"""The command line: parses, calls, prints."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import shlex
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jsonargparse import Namespace, get_loader, set_loader, set_parsing_settings

from dpaat.arguments import make_parser, readable, with_underscores
from dpaat.config import PLACE, TrainConfig
from dpaat.errors import Interrupted, UserError, one_line
from dpaat.shapes import check_yaml

if TYPE_CHECKING:
    from rich.console import Console

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
YAML = get_loader("yaml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; default those of the process.

    Returns:
        The exit code: 0, 1 when a check found problems, 2 for bad input, 130 when interrupted, 143 when told to end.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    _be_robust()
    try:
        return _run(argv)
    except UserError as error:
        return _fail(str(error))
    except ArgumentError as error:
        return _fail(readable(error))
    except Interrupted as stop:
        print(f"dpaat: {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("dpaat: interrupted; what was finished is kept", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder that may not be written, a name that is too long
        return _fail(_environment(error))
    except MemoryError as error:
        return _fail(f"not enough memory ({error}); try smaller images or batches")


def _run(argv: list[str]) -> int:
    set_parsing_settings(validate_defaults=False)
    set_loader("yaml", _load_yaml, exceptions=(yaml.YAMLError,))
    parser = make_parser()
    hyphenated = [with_underscores(argument) for argument in argv]
    if not argv:
        parser.print_help()
        return EXIT_USER_ERROR
    try:
        arguments = parser.parse_args(hyphenated)
    except UnicodeDecodeError as error:
        raise UserError(f"--config: not a text file in UTF-8 ({error})") from None
    command = str(arguments.subcommand)
    given = arguments[command]
    if command == "train":
        explicit = parser.parse_args(hyphenated, defaults=False).train
        return _train(given, explicit, argv)
    return COMMANDS[command](given)


def _train(given: Namespace, explicit: Namespace, argv: list[str]) -> int:
    if given.out is None:
        raise UserError("out: name the run folder to make, such as --out runs/ham")
    names = TrainConfig.__dataclass_fields__
    out = Path(given.out)
    config = TrainConfig(**{name: given[name] for name in names})
    if given.resume and (out / "config.yaml").is_file():
        config = _begun(out, {name: value for name, value in vars(explicit).items() if name in names})
    from dpaat.training import train

    train(
        config,
        out,
        resume=given.resume,
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
        if before != now and name not in PLACE and (name != "eps" or begun.radius != wanted.radius):
            raise UserError(
                f"{out}: was begun with {name} {before!r}, not {now!r}; resume it without that option, or train anew "
                "into another --out"
            )
    return dataclasses.replace(begun, **{name: given[name] for name in PLACE if name in given})


def _evaluate(given: Namespace) -> int:
    from dpaat.evaluation import Plan, analyses_summary, evaluate, evaluation_table, parse_steps
    from dpaat.evaluation.run import resolve_device
    from dpaat.evaluation.subject import subject_of_run, subject_of_weights
    from dpaat.evaluation.suite import SUITE_ATTACKS
    from dpaat.radii import parse_radii

    suites, attacks = _names(given.suite), _names(given.attack)
    plan = Plan(
        suites=suites,
        attacks=attacks,
        steps=parse_steps(given.steps, SUITE_ATTACKS if suites else attacks),
        eps=None if given.eps is None else parse_radii(given.eps),
        norm=given.norm,
        split=given.split,
        max_samples=given.max_samples,
        batch_size=given.batch_size,
        precision=given.precision,
        seed=given.seed,
    )
    device = resolve_device(given.device)
    if given.run is not None:
        subject = subject_of_run(Path(given.run), data=given.data, device=device, progress=True)
    else:
        for name in ("model", "weights", "data", "out"):
            if given[name] is None:
                raise UserError(f"evaluate: name a run folder, or weights from elsewhere with --{name}")
        subject = subject_of_weights(
            given.model,
            Path(given.weights),
            data=given.data,
            image_size=given.image_size,
            stem=given.stem,
            out=Path(given.out),
            seed=given.seed,
            device=device,
            progress=True,
        )
    source = None
    if given.source is not None:
        source = subject_of_run(Path(given.source), data=given.data, device=device, progress=False)
    document = evaluate(subject, plan, source=source, device=device)
    console = _console()
    console.print(evaluation_table(document), analyses_summary(document))
    console.print(f"written to {subject.folder / 'evaluation.json'}", highlight=False, soft_wrap=True)
    return 0


def _names(text: str | None) -> list[str]:
    return [] if text is None else [name.strip() for name in text.split(",")]


def _predict(given: Namespace) -> int:
    from dpaat.evaluation import predict

    images = given.images[0] if len(given.images) == 1 else [Path(name) for name in given.images]
    out = predict(Path(given.run), images, Path(given.out), batch_size=given.batch_size, device=given.device)
    _console().print(f"written to {out}", highlight=False, soft_wrap=True)
    return 0


def _explain(given: Namespace) -> int:
    from dpaat.interpret import MAPS, explain_run, explanation_tables
    from dpaat.radii import parse_radii

    run = Path(given.run)
    document = explain_run(
        run,
        data=given.data,
        norm=given.norm,
        device=given.device,
        maps=_names(given.maps) or list(MAPS),
        layer=given.layer,
        eps=None if given.eps is None else parse_radii(given.eps),
        steps=given.steps,
        split=given.split,
        max_samples=given.max_samples,
        batch_size=given.batch_size,
        seed=given.seed,
    )
    console = _console()
    console.print(explanation_tables(document))
    console.print(f"written to {run / 'interpretability.json'}", highlight=False, soft_wrap=True)
    return 0


def _compare(given: Namespace) -> int:
    from dpaat.evaluation.compare import compare_runs, differences_table, write_comparison

    document = compare_runs([Path(run) for run in given.runs])
    write_comparison(document, Path(given.out))
    console = _console()
    console.print(differences_table(document))
    console.print(f"written to {given.out}", highlight=False, soft_wrap=True)
    return 0


def _benchmark(given: Namespace) -> int:
    from dpaat.benchmark import benchmark, list_cells

    options = {
        "out": Path(given.out) if given.out else None,
        "data": given.data or [],
        "workers": given.workers,
        "only": given.only,
        "console": _console(),
    }
    if given.dry_run:
        list_cells(Path(given.grid), **options)
        return 0
    return int(benchmark(Path(given.grid), **options) > 0)


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


def _console() -> Console:
    from rich.console import Console

    # Names of files and classes are no markup.
    return Console(markup=False)


def _fail(message: str) -> int:
    print(f"dpaat: error: {one_line(message)}", file=sys.stderr)
    return EXIT_USER_ERROR


def _be_robust() -> None:
    """Keep names that the terminal's encoding lacks, and remarks of the image library, from spoiling the output."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _load_yaml(text: str) -> Any:
    check_yaml(text)
    try:
        return YAML(text)
    except ValueError as error:
        raise yaml.YAMLError(str(error)) from None


def _environment(error: OSError) -> str:
    about = f"{error.filename}: " if error.filename else ""
    text = f"{about}{error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        text += "; make room and run the same command again, a training with --resume: what was finished is kept"
    return text


if __name__ == "__main__":
    sys.exit(main())
