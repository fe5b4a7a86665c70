"""How options are typed, and how they and their errors read."""

from __future__ import annotations

import os
import re
from argparse import ArgumentError, RawDescriptionHelpFormatter
from typing import Any

from jsonargparse import ArgumentParser

from dpaat.plugins import VARIABLE


class _Formatter(RawDescriptionHelpFormatter):
    """Shows options with hyphens, as people type them."""

    def format_help(self) -> str:
        text = super().format_help()
        return re.sub(r"--[a-z_]+", lambda match: match.group().replace("_", "-"), text)


class Parser(ArgumentParser):
    """A parser that raises `ArgumentError` instead of leaving the process.

    Args:
        description: what the command does.
        epilog: examples.
        group: whether it only holds further commands.
        options: of the parser.
    """

    def __init__(self, description: str, epilog: str = "", *, group: bool = False, **options: Any) -> None:
        super().__init__(
            description=description,
            epilog=epilog,
            exit_on_error=False,
            allow_abbrev=False,
            formatter_class=_Formatter,
            **options,
        )
        if not group:
            self.add_argument(
                "--plugin",
                type=str | None,
                default=os.environ.get(VARIABLE),
                help="modules with methods, attacks, datasets or report sections of your own, comma-separated",
            )
        # `--window -1000,400` has a value, not a further option.
        self._negative_number_matcher = re.compile(r"-[\d.]+(,-?[\d.]+)?$")


def with_underscores(argument: str) -> str:
    """Let --image-size and --image_size both be typed."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


TEXT = re.compile(r"(?:Does not validate against.* - )?Expected a str\b.*?(?:Got|Given) value: (.*)$")
"""What the parser says of a number, a list or the like in a YAML file, where a field is text."""


def readable(error: ArgumentError) -> str:
    """Bring the parser's message into one line, with the option as people type it."""
    text = " ".join(str(error).split())
    text = re.sub(r'^Parser key "([^"]+)":', lambda match: f"--{match.group(1).replace('_', '-')}:", text)
    text = re.sub(r"<class '(\w+)'>", r"\1", text).replace("a typing.Literal", "one of ").replace("a int", "an int")
    text = TEXT.sub(_not_text, text)
    text = re.sub(r"(?<=required: )[\w.]*\.", "", text)
    text = re.sub(r"--\w+", lambda match: match.group().replace("_", "-"), text)
    return text if "help" in text else f"{text} (see --help)"


def _not_text(match: re.Match[str]) -> str:
    value = match[1].strip("'")
    if re.match(r"[\[{]", value):
        return f"needs a text, not {value}"
    said = {"True": "yes, true or on", "False": "no, false or off"}.get(value)
    if said:
        return f"needs a text; YAML reads {said} without quotes as a truth value, so put it into quotes"
    return f"needs a text, but YAML reads the number {value}; put it into quotes, such as '{value}'"
