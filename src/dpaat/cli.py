"""The command line: parses, calls, prints."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace, set_parsing_settings

from dpaat.arguments import make_parser, readable, with_underscores
from dpaat.config import TrainConfig
from dpaat.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; default those of the process.

    Returns:
        The exit code: 0, 1 when a check found problems, 2 for bad input, 130 when interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(argv)
    except UserError as error:
        return _fail(str(error))
    except ArgumentError as error:
        return _fail(readable(error))
    except KeyboardInterrupt:
        print("dpaat: interrupted; what was finished is kept", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(argv: list[str]) -> int:
    set_parsing_settings(validate_defaults=False)
    parser = make_parser()
    hyphenated = [with_underscores(argument) for argument in argv]
    if not argv:
        parser.print_help()
        return EXIT_USER_ERROR
    arguments = parser.parse_args(hyphenated)
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
    if given.resume and (out / "config.yaml").is_file():
        _check_same(out, {name: value for name, value in vars(explicit).items() if name in names})
    from dpaat.training import train

    config = TrainConfig(**{name: given[name] for name in names})
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


def _check_same(out: Path, given: dict[str, Any]) -> None:
    """Refuse to resume a run under other options than it was begun with."""
    from dpaat.config import complete
    from dpaat.runs import read_config

    begun = read_config(out / "config.yaml")
    same_method = given.get("method", begun.method) == begun.method
    kept = {"options": begun.options if same_method else {}, "trainer": begun.trainer}
    nested = {name: values | given.get(name, {}) for name, values in kept.items()}
    wanted = complete(dataclasses.replace(begun, **given | nested))
    for name in given:
        before, now = getattr(begun, name), getattr(wanted, name)
        if before != now and (name != "eps" or begun.radius != wanted.radius):
            raise UserError(
                f"{out}: was begun with {name} {before!r}, not {now!r}; resume it without that option, or train anew "
                "into another --out"
            )


def _evaluate(given: Namespace) -> int:
    from dpaat.evaluation import evaluate_run, evaluation_table
    from dpaat.radii import parse_radii

    document = evaluate_run(
        Path(given.run),
        attacks=[name.strip() for name in given.attack.split(",")],
        steps=given.steps,
        eps=parse_radii(given.eps),
        norm=given.norm,
        data=given.data,
        split=given.split,
        batch_size=given.batch_size,
        device=given.device,
        max_samples=given.max_samples,
        seed=given.seed,
    )
    console = _console()
    console.print(evaluation_table(document))
    console.print(f"written to {Path(given.run) / 'evaluation.json'}", highlight=False, soft_wrap=True)
    return 0


def _predict(given: Namespace) -> int:
    from dpaat.evaluation import predict

    images = given.images[0] if len(given.images) == 1 else [Path(name) for name in given.images]
    out = predict(Path(given.run), images, Path(given.out), batch_size=given.batch_size, device=given.device)
    _console().print(f"written to {out}", highlight=False, soft_wrap=True)
    return 0


def _report(given: Namespace) -> int:
    from dpaat.report import write_report

    out = write_report([Path(run) for run in given.runs], Path(given.out))
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
    "predict": _predict,
    "report": _report,
    "data": _data,
    "list": _list,
    "quickstart": _quickstart,
}


def _console() -> Console:
    from rich.console import Console

    return Console()


def _fail(message: str) -> int:
    print(f"dpaat: error: {' '.join(message.split())}", file=sys.stderr)
    return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
