"""The command line: parses, calls, and turns every error into one line and an exit code."""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings

from dpaat.arguments import make_parser
from dpaat.commands import COMMANDS, train
from dpaat.errors import Interrupted, UserError, one_line
from dpaat.parsing import readable, with_underscores
from dpaat.shapes import check_yaml

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
        return train(given, explicit, argv)
    return COMMANDS[command](given)


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
