"""The command line: parses, calls, and turns every error into one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings

from dpaat.arguments import make_parser
from dpaat.commands import COMMANDS, train
from dpaat.errors import Interrupted, UserError, one_line, out_of_memory
from dpaat.parsing import readable, with_underscores
from dpaat.plugins import VARIABLE, load_plugins
from dpaat.shapes import check_yaml
from dpaat.terminal import lasting_output, use_utf8

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
YAML = get_loader("yaml")
LESS_MEMORY = {
    "benchmark": "fewer --workers, or a smaller batch_size in the grid",
    "data": "a smaller --image-size",
    "export": "fewer --images",
    "profile": "a smaller --batch-size or --image-size",
    "report": "--no-images",
    "train": "a smaller --image-size or --model, or fewer --workers",
}
"""What takes less memory, by command; of those without an entry, the batch size."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; default those of the process.

    Returns:
        The exit code: 0, 1 when a check found problems, 2 for bad input or too little memory, 128 and the number of
        the signal that ended it: 129 when the terminal was closed, 130 for Ctrl-C, 143 when told to end. That nobody
        reads the output any more changes nothing.
    """
    if argv is None:
        use_utf8()
    argv = list(sys.argv[1:] if argv is None else argv)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("ignore", message="tqdm:disabling monitor")  # no thread for it, which changes nothing
    with lasting_output():
        return _guarded(argv)


def _guarded(argv: list[str]) -> int:
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
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
    except OSError as error:  # a full disk, a folder that may not be written, a name that is too long
        return _fail(_environment(error))


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
    if plugin := (given.check if command == "data" else given).plugin:
        # A file that somebody passes on must not name code to run.
        typed = {after for before, after in pairwise(hyphenated) if before == "--plugin"}
        typed |= {text.partition("=")[2] for text in hyphenated if text.startswith("--plugin=")}
        if plugin not in typed | {os.environ.get(VARIABLE)}:
            raise UserError("plugin: give it on the command line, not in a configuration file")
        load_plugins(plugin)
    try:
        if command == "train":
            explicit = parser.parse_args(hyphenated, defaults=False).train
            return train(given, explicit, argv)
        return COMMANDS[command](given)
    except Exception as error:
        if not out_of_memory(error):
            raise
    raise UserError(_too_little_memory(command, getattr(given, "batch_size", None)))


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
