"""The command line: parses, calls, prints."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

import dpaat
from dpaat.config import TrainConfig
from dpaat.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

TRAIN_EXAMPLES = """examples:
  dpaat train --data ham10000:DIR --image-size 64 --model resnet18 --method dpaat --out runs/ham
  dpaat train --data folder:photos --method pgd --eps 4/255 --clean-weight 0.5 --out runs/pgd
  dpaat train --config runs/ham/config.yaml --seed 1 --out runs/ham-seed1
  dpaat train --resume --out runs/ham"""
EVALUATE_EXAMPLES = """examples:
  dpaat evaluate runs/ham
  dpaat evaluate runs/ham --attack fgsm,pgd --steps 20 --eps 2/255,4/255,8/255
  dpaat evaluate runs/ham --data folder:other-clinic --split all"""
PREDICT_EXAMPLES = """examples:
  dpaat predict runs/ham photo1.jpg photo2.jpg --out predictions.csv
  dpaat predict runs/ham folder-of-photos --out predictions.csv"""
CHECK_EXAMPLES = """examples:
  dpaat data check ham10000:DIR
  dpaat data check csv:images.csv --fold 2/5"""
MAIN_EXAMPLES = """examples:
  dpaat quickstart                       everything once, on embedded synthetic images
  dpaat train --data ham10000:DIR --out runs/ham
  dpaat evaluate runs/ham --eps 2/255,4/255,8/255
  dpaat report runs/ham --out report.html
  dpaat train --help                     all options of a command"""


class _Formatter(RawDescriptionHelpFormatter):
    """Shows options with hyphens, as people type them."""

    def format_help(self) -> str:
        text = super().format_help()
        return re.sub(r"--[a-z_]+", lambda match: match.group().replace("_", "-"), text)


class _Parser(ArgumentParser):
    def __init__(self, description: str, epilog: str = "", **options: Any) -> None:
        super().__init__(
            description=description, epilog=epilog, exit_on_error=False, formatter_class=_Formatter, **options
        )


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
        return _fail(_readable(error))
    except KeyboardInterrupt:
        print("dpaat: interrupted; what was finished is kept", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(argv: list[str]) -> int:
    set_parsing_settings(validate_defaults=False)
    parser = _make_parser()
    hyphenated = [_with_underscores(argument) for argument in argv]
    if not argv or not set(argv) - {"--verbose"}:
        parser.print_help()
        return EXIT_USER_ERROR
    arguments = parser.parse_args(hyphenated)
    command = str(arguments.subcommand)
    given = arguments[command]
    if command == "train":
        explicit = parser.parse_args(hyphenated, defaults=False).train
        return _train(given, explicit, argv)
    return COMMANDS[command](given)


def _make_parser() -> ArgumentParser:
    parser = _Parser(
        "Train medical image classifiers that stay accurate and withstand adversarial perturbations, and prove it.",
        MAIN_EXAMPLES,
        prog="dpaat",
        version=dpaat.__version__,
    )
    commands = parser.add_subcommands(required=True, metavar="COMMAND")
    commands.add_subcommand("quickstart", _quickstart_parser(), help="three methods on embedded images, side by side")
    commands.add_subcommand("train", _train_parser(), help="train a classifier into a run folder")
    commands.add_subcommand("evaluate", _evaluate_parser(), help="measure a run, clean and under attack")
    commands.add_subcommand("predict", _predict_parser(), help="classify images with a run")
    commands.add_subcommand("report", _report_parser(), help="write one HTML page about one or more runs")
    data = _Parser("Look into a dataset.")
    commands.add_subcommand("data", data, help="look into a dataset")
    commands.add_subcommand("list", _list_parser(), help="list methods, models or attacks")
    data.add_subcommands(required=True, metavar="COMMAND").add_subcommand(
        "check", _data_check_parser(), help="print what is in it, and what is wrong with it"
    )
    return parser


def _train_parser() -> ArgumentParser:
    parser = _Parser("Train a classifier and leave a run folder.", TRAIN_EXAMPLES)
    parser.add_argument("--config", action="config", help="YAML file with any of these options, such as a run's own")
    parser.add_class_arguments(TrainConfig, as_group=False)
    parser.add_argument("--out", type=str | None, default=None, help="run folder to make (required)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, by its own configuration")
    parser.add_argument("--stop_after", type=int | None, default=None, help="end this call after so many epochs")
    parser.add_argument("--cache", type=str | None, default=None, help="folder for decoded images")
    return parser


def _evaluate_parser() -> ArgumentParser:
    parser = _Parser(
        "Measure a run on clean images and under attack at fixed radii; results go to its evaluation.json.",
        EVALUATE_EXAMPLES,
    )
    parser.add_argument("run", type=str, help="run folder")
    parser.add_argument("--attack", type=str, default="pgd", help="comma-separated; see `dpaat list attacks`")
    parser.add_argument("--steps", type=int, default=20, help="iterations of iterative attacks")
    parser.add_argument("--eps", type=str, default="1/255,2/255,4/255,8/255", help="radii, comma-separated")
    parser.add_argument("--norm", type=str, default="linf", help="linf or l2")
    parser.add_argument("--data", type=str | None, default=None, help="another dataset, classes matched by name")
    parser.add_argument("--split", type=str, default="test", help="train, val, test or all")
    parser.add_argument("--max_samples", type=int | None, default=None, help="a seeded stratified draw of so many")
    parser.add_argument("--batch_size", type=int, default=128, help="images per batch")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--seed", type=int, default=0, help="of random starts and of the draw")
    return parser


def _predict_parser() -> ArgumentParser:
    parser = _Parser("Classify images with a run; probabilities go to a CSV file.", PREDICT_EXAMPLES)
    parser.add_argument("run", type=str, help="run folder")
    parser.add_argument("images", type=str, nargs="+", help="image files, folders of images, or one dataset spec")
    parser.add_argument("--out", type=str, default="predictions.csv", help="CSV file to write")
    parser.add_argument("--batch_size", type=int, default=128, help="images per batch")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    return parser


def _report_parser() -> ArgumentParser:
    parser = _Parser("Write one self-contained HTML page about one or more runs.")
    parser.add_argument("runs", type=str, nargs="+", help="run folders")
    parser.add_argument("--out", type=str, default="report.html", help="HTML file to write")
    return parser


def _data_check_parser() -> ArgumentParser:
    parser = _Parser("Print classes, groups, splits, leaks, duplicate and unreadable files.", CHECK_EXAMPLES)
    parser.add_argument("data", type=str, help="dataset, as for `dpaat train --data`")
    parser.add_argument("--image_size", type=int, default=64, help="pixels at the side")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--fold", type=str | None, default=None, help="k/K")
    parser.add_argument("--splits", type=str | None, default=None, help="CSV with columns id and split")
    parser.add_argument("--export", type=str | None, default=None, help="write the splits to this CSV")
    return parser


def _list_parser() -> ArgumentParser:
    parser = _Parser("List what can be named on the command line.")
    parser.add_argument("what", type=str, help="methods, models or attacks")
    parser.add_argument("filter", type=str, nargs="?", default="", help="only names that contain this")
    return parser


def _quickstart_parser() -> ArgumentParser:
    parser = _Parser(
        "Train standard, fixed-radius and DPAAT models on the embedded synthetic images (or --data), evaluate them "
        "and write a report. Takes a few minutes on two cores."
    )
    parser.add_argument("--data", type=str, default="synthetic", help="dataset, as for `dpaat train --data`")
    parser.add_argument("--epochs", type=int | None, default=None, help="passes over the training set")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--out", type=str | None, default=None, help="folder to make; default runs/quickstart")
    return parser


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


def _with_underscores(argument: str) -> str:
    """Let --image-size and --image_size both be typed."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _readable(error: ArgumentError) -> str:
    """Bring the parser's message into one line, with the option as people type it."""
    text = " ".join(str(error).split())
    text = re.sub(r'^Parser key "([^"]+)":', lambda match: f"--{match.group(1).replace('_', '-')}:", text)
    text = re.sub(r"<class '(\w+)'>", r"\1", text).replace("a typing.Literal", "one of ").replace("a int", "an int")
    text = re.sub(r"(?<=required: )[\w.]*\.", "", text)
    text = re.sub(r"--\w+", lambda match: match.group().replace("_", "-"), text)
    return text if "help" in text else f"{text} (see --help)"


def _fail(message: str) -> int:
    print(f"dpaat: error: {' '.join(message.split())}", file=sys.stderr)
    return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
