"""The command line: parses, calls, and turns every error into one line and an exit code."""

import errno
import json
import os
import re
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings

import dpaat
from dpaat.errors import Interrupted, UserError, one_line, out_of_memory, unknown
from dpaat.own_code import FIELDS, named_in, require_trust, trusting
from dpaat.parsing import Parser, call, command_parser, readable, with_hyphens, with_underscores
from dpaat.registry import VARIABLE, load_plugins
from dpaat.terminal import lasting_output, remove_bars, silenced, use_utf8

ABOUT = "Train and measure medical image classifiers that withstand adversarial attacks."
EXAMPLES = """examples:
  dpaat quickstart              everything once, on images that come with it
  dpaat data check folder:DIR   what is in your own images
  dpaat train --data folder:DIR --out runs/mine
  dpaat evaluate runs/mine --eps 2/255,4/255,8/255
  dpaat report runs/mine --out report.html"""
COMMANDS = {
    "quickstart": ("training", "three methods on embedded images, side by side"),
    "train": ("training", "train a classifier into a run folder"),
    "evaluate": ("measuring", "measure a run, clean and under attack"),
    "explain": ("measuring", "where a run looks, in numbers: maps and masks"),
    "compare": ("measuring", "compare evaluated runs, with intervals"),
    "benchmark": ("benchmarking", "train, evaluate and compare a grid of recipes"),
    "tune": ("training", "search for good settings on the validation split"),
    "profile": ("training", "where a training step's time goes, and the run's time"),
    "predict": ("measuring", "classify images with a run"),
    "report": ("sharing", "write one HTML page about one or more runs"),
    "export": ("sharing", "write a run's network as ONNX and safetensors"),
    "push": ("sharing", "publish a run's network on the Hugging Face hub"),
    "data check": ("sharing", "print what is in a dataset, and what is wrong with it"),
    "list": ("sharing", "list methods, models, attacks, datasets, maps or grids"),
    "completion": ("sharing", "print a script that completes dpaat's options in a shell"),
}
"""Module in `dpaat.commands`, and what it does."""
FUNCTIONS = {"data check": "data_check", "list": "list_names"}
"""Functions that are not called as their command."""
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
YAML = get_loader("yaml")
LESS_MEMORY = {
    "benchmark": "fewer --workers, or a smaller batch_size in the grid",
    "data check": "a smaller --image-size",
    "export": "fewer --images",
    "profile": "a smaller --batch-size or --image-size",
    "report": "--no-images",
    "train": "a smaller --image-size or --model, or fewer --workers",
    "tune": "a smaller --batch-size, --image-size or --model",
}
"""What takes less memory, by command; of those without an entry, the batch size."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with these arguments, by default those of the process; returns the exit code.

    That is 0, 1 when a check found problems, 2 for bad input or too little memory, 128 and the number of the signal
    that ended it: 129 when the terminal was closed, 130 for Ctrl-C, 143 when told to end. That nobody reads the output
    any more changes nothing.
    """
    if argv is None:
        use_utf8()
        # Threads that spin while they wait take the cores from a second run; read when torch is imported, later on.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    argv = list(sys.argv[1:] if argv is None else argv)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("ignore", message="tqdm:disabling monitor")  # no thread for it, which changes nothing
    with lasting_output():
        return _guarded(argv)


def _guarded(argv: list[str]) -> int:
    try:
        try:
            code = _run(argv)
            sys.stdout.flush()
            return code
        finally:
            remove_bars()
    except UserError as error:
        return _fail(str(error))
    except Interrupted as stop:
        print(f"dpaat: {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("dpaat: interrupted; what was finished is kept", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:  # a full disk, a folder that may not be written, a name that is too long
        return _fail(_environment(error))


def _run(argv: list[str]) -> int:
    asked = next((name for name in COMMANDS if argv[: len(name.split())] == name.split()), "")
    if not argv:
        print(f"{ABOUT}\n\n{EXAMPLES}\n\ndpaat --help lists all commands, dpaat COMMAND --help the options of one.")
        return EXIT_USER_ERROR
    if not asked:
        return _no_command(argv)
    from dpaat.validation import load_yaml

    set_parsing_settings(validate_defaults=False)
    set_loader("yaml", lambda text: load_yaml(text, YAML), exceptions=(yaml.YAMLError,))
    hyphenated = _with_choices([with_underscores(argument) for argument in argv[len(asked.split()) :]])
    command = _function(asked)
    parser = command_parser(command, asked)
    try:
        given = parser.parse_args(hyphenated)
    except UnicodeDecodeError as error:
        raise UserError(f"--config: not a text file in UTF-8 ({error})") from None
    except ArgumentError as error:
        raise UserError(readable(error, [*parser.options])) from None
    if plugin := given.plugin:
        # A file that somebody passes on must not name code to run.
        typed = {after for before, after in pairwise(hyphenated) if before == "--plugin"}
        typed |= {text.partition("=")[2] for text in hyphenated if text.startswith("--plugin=")}
        if plugin not in typed | {os.environ.get(VARIABLE)}:
            raise UserError("plugin: give it on the command line, not in a configuration file")
        load_plugins(plugin)
    if given.verify:
        os.environ["DPAAT_VERIFY"] = "1"
    try:
        if given.trust and "--trust" not in argv:
            raise UserError("trust: give it on the command line, not in a configuration file")
        with trusting(named_in(argv), everything=given.trust), silenced(given.quiet, given.get("json")):
            require_trust((given.get(name) for name in FIELDS), None, "--config")
            explicit = lambda: vars(parser.parse_args(hyphenated, defaults=False))  # noqa: E731
            found = call(command, given, _argv=argv, _explicit=explicit)
    except Exception as error:
        if not out_of_memory(error):
            raise
    else:
        if given.get("json"):
            print(json.dumps(found, indent=1))
        return int(bool(found and found.get("problems")))
    raise UserError(_too_little_memory(asked, given.get("batch_size")))


def _with_choices(argv: Sequence[str]) -> list[str]:
    """In the place of a run's --config file, its text without what its method, norm and weights have by default."""
    if not any(part.startswith("--config") for part in argv):
        return [*argv]  # without the time that the import takes
    from dpaat.config import chosen
    from dpaat.validation import load_yaml

    found, parts = list[str](), iter(argv)
    for part in parts:
        name, equals, value = part.partition("=")
        if name == "--config" and (equals or (value := next(parts, ""))):
            with suppress(OSError, ValueError, yaml.YAMLError, TypeError, UserError):  # the parser will tell
                values = load_yaml(Path(value).read_text(encoding="utf-8"))
                if isinstance(values, dict) and (kept := chosen(values)) != values:
                    value = yaml.safe_dump({name: each for name, each in kept.items() if each is not None})
            part = f"--config={value}"
        found.append(part)
    return found


def _no_command(argv: Sequence[str]) -> int:
    """What there is to say where no command is named."""
    first, *rest = argv
    if first == "--version":
        print(f"dpaat {dpaat.__version__}")
    elif first in ("-h", "--help") or argv == ["data", "--help"]:
        print(f"usage: dpaat COMMAND [options]\n\n{ABOUT}\n\ncommands:")
        print("\n".join(f"  {name:<12} {text}" for name, (_, text) in COMMANDS.items()))
        print(f"\n{EXAMPLES}\n\ndpaat COMMAND --help lists the options of a command, with their defaults.")
    elif first.startswith("-"):
        raise UserError(f"name a command before {first}, such as dpaat train; see dpaat --help")
    elif first == "data":
        raise unknown("command", " ".join(["data", *rest[:1]]), COMMANDS)
    else:
        raise unknown("command", first, COMMANDS)
    return 0


def _function(name: str) -> Callable[..., Any]:
    module = import_module(f"dpaat.commands.{COMMANDS[name][0]}")
    function: Callable[..., Any] = getattr(module, FUNCTIONS.get(name, name))
    return function


def completion_script(shell: str) -> str:
    """The shell's script that completes commands, options and values; UserError without shtab, or for another shell."""
    if find_spec("shtab") is None:
        raise UserError("completion: needs shtab: pip install 'dpaat[completion]'")
    import shtab

    if shell not in shtab.SUPPORTED_SHELLS:
        raise unknown("shell", shell, shtab.SUPPORTED_SHELLS)
    parser = Parser(ABOUT, prog="dpaat")
    commands = parser.add_subcommands(required=True, metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        one = command_parser(_function(name), name)
        first, _, second = name.partition(" ")
        commands.add_subcommand(first, group := Parser(text) if second else one, help=text)
        if second:
            group.add_subcommands(required=True, metavar="COMMAND").add_subcommand(second, one, help=text)
    script = parser.get_completion_script(f"shtab-{shell}")
    options = re.compile(r"(?<= -l )[a-z_]+")  # as fish is told them
    return options.sub(lambda match: match.group().replace("_", "-"), with_hyphens(script))


def _too_little_memory(command: str, batch_size: int | None) -> str:
    if command in LESS_MEMORY:
        return f"too little memory; try {LESS_MEMORY[command]}"
    if batch_size is None or batch_size < 2:
        return "too little memory; end other programs, or take a larger machine"
    kept = "; what was finished is kept" if command == "evaluate" else ""
    return f"too little memory for --batch-size {batch_size}; try --batch-size {batch_size // 2}{kept}"


def _fail(message: str) -> int:
    print(f"dpaat: error: {one_line(message)}", file=sys.stderr)
    return EXIT_USER_ERROR


def _environment(error: OSError) -> str:
    about = f"{error.filename}: " if error.filename else ""
    text = f"{about}{error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        text += "; make room and run the same command again, a training with --resume: what was finished is kept"
    return text


if __name__ == "__main__":
    sys.exit(main())
