"""Command-line parser: spelling of options, help, and error messages."""

import difflib
import inspect
import os
import re
import textwrap
from argparse import Action, ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, get_args, get_origin

import yaml
from docstring_parser import parse
from jsonargparse import ArgumentParser, Namespace

from dpaat.registry import VARIABLE

PLUGIN = "modules with methods, attacks or datasets of your own, comma-separated"
TITLES = {"Data": "data", "Weights": "model", "Model": "model", "MethodAndAttack": "method"}
TITLES |= {"Optimization": "training", "Place": "place", "Attacks": "attack", "Measurement": "images and radii"}
TITLES |= {"Reading": "data", "Inputs": "data", "Foreign": "model", "ExplainConfig": "images and maps"}
"""Groups of options, by the class that holds them."""
APART = {"eps": "attack", "steps": "attack", "norm": "attack", "device": "place"}
PLACEHOLDERS = {"str": "", "Path": "PATH", "int": "N", "float": "X"}
"""What is shown for a value, by the first of the types it may have; "" for the last word of the option."""
TRUST = "run the code (py:...) that files name which you have not written yourself"
JSON = "print the result as JSON; all else goes to standard error"
VERIFY = "read all images again, even where paths, sizes and times of the files are as before (default: no)"


class Changes(dict[str, Any]):
    """What of a training's fields is typed on the command line; a parameter of this kind gives an option for each."""

    OTHERS = ("data", "model", "method", "fold", "splits", "seed", "workers")  # which such a command calls otherwise


class _Formatter(RawDescriptionHelpFormatter):
    """Shows options with hyphens, as people type them, and short placeholders; no value is broken into lines."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, max_help_position=20, **options)

    def format_help(self) -> str:
        return with_hyphens(super().format_help())

    def _format_action_invocation(self, action: Action) -> str:
        shown = copy(action)  # without the `--mean+` that the library makes for lists
        shown.option_strings = [name for name in action.option_strings if not name.endswith("+")]
        return super()._format_action_invocation(shown)

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        kinds = re.findall(r"\w+", str(getattr(action, "_typehint", "")))
        short = next((PLACEHOLDERS[kind] for kind in kinds if kind in PLACEHOLDERS), "")
        return short or action.dest.rpartition("_")[2].upper()

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)


class Parser(ArgumentParser):
    """A parser that raises `ArgumentError` instead of leaving the process."""

    @property
    def options(self) -> dict[str, Action]:
        """All options."""
        return self._option_string_actions

    def __init__(self, description: str = "", epilog: str = "", **options: Any) -> None:
        super().__init__(
            description=description,
            epilog=epilog,
            exit_on_error=False,
            allow_abbrev=False,
            formatter_class=_Formatter,
            **options,
        )
        # `--window -1000,400` has a value, not a further option.
        self._negative_number_matcher = re.compile(r"-[\d.]+(,-?[\d.]+)?$")


def command_parser(command: Callable[..., Any], name: str) -> Parser:
    """Make the parser of a command, by its name, from its signature and docstring.

    Parameters before a `/` are named by their place; those that are a configuration give an option for every field;
    those that begin with "_" are none. The docstring ends with examples.
    """
    text, _, examples = (inspect.getdoc(command) or "").partition("\nExamples:\n")
    doc = parse(text)
    helps = {each.arg_name: each.description or "" for each in doc.params}
    description = " ".join(filter(None, (doc.short_description, doc.long_description)))
    signature = inspect.signature(command, eval_str=True)
    named = [n for n, each in signature.parameters.items() if each.kind is each.POSITIONAL_ONLY]
    usage = " ".join(["dpaat", name, "[options]", *map(str.upper, named)])
    examples = f"examples:\n{examples.replace('    dpaat', '  dpaat')}" if examples else ""
    parser = Parser(textwrap.fill(description, 79), examples, prog=f"dpaat {name}", usage=usage)
    for name, parameter in signature.parameters.items():
        kind, default = parameter.annotation, parameter.default
        if name.startswith("_"):
            continue
        if hasattr(kind, "__pydantic_fields__"):
            _add_fields(parser, kind)
        elif kind is Changes:
            from dpaat.config import TrainConfig

            _add_fields(parser, TrainConfig, Changes.OTHERS)
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            own: dict[str, Any] = {"type": kind} if default is parameter.empty else {"nargs": "?", "default": default}
            if get_origin(kind) is list:
                own = {"nargs": "+", "type": get_args(kind)[0]}
            parser.add_argument(name, help=_help(helps[name]), **({"type": kind} | own))
        elif kind is bool:
            parser.add_argument(f"--{name}", action="store_true", help=_help(helps[name], False))
        elif kind == list[str]:
            parser.add_argument(f"--{name}", type=str, action="append", help=_help(helps[name], None))
        else:
            parser.add_argument(f"--{name}", type=kind, default=default, help=_help(helps[name], default))
    every = parser.add_argument_group("every command")
    every.add_argument("--plugin", type=str | None, default=os.environ.get(VARIABLE), help=PLUGIN)
    every.add_argument("--trust", action="store_true", help=TRUST)
    every.add_argument("--verify", action="store_true", help=VERIFY)
    every.add_argument("--quiet", action="store_true", help="print nothing but errors")
    if signature.return_annotation is not None:
        every.add_argument("--json", action="store_true", help=JSON)
    return parser


def _add_fields(parser: Parser, config: type[Any], but: Sequence[str] = ()) -> None:
    """One option for every field of a configuration, in a group for each class that it is made of."""
    if config.__name__ == "TrainConfig" and not but:
        parser.add_argument("--config", action="config", help="YAML file with any of these options, as a run's own")
        parser.options["--print_config"].help = "print the configuration that these options make, and stop"
    from dpaat.measurement import FLAGS

    groups: dict[str, Any] = {}
    for name, field in config.__pydantic_fields__.items():
        if name in but:
            continue
        home = next(base for base in reversed(config.__mro__) if name in vars(base).get("__annotations__", {}))
        title = APART.get(name) or TITLES.get(home.__name__) or (home.__doc__ or "").partition("\n")[0].rstrip(".")
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        kind, default = field.annotation, field.get_default(call_default_factory=True)
        if any(type(each).__name__ == "BeforeValidator" for each in field.metadata):  # typed as text
            kind, default = (str | None, None) if default is None else (str, ",".join(map(str, default)))
        text = _help(field.description, default)
        groups[title].add_argument(f"--{FLAGS.get(name, name)}", type=kind, default=default, help=text)


def _help(text: str, default: Any = inspect.Parameter.empty) -> str:
    """The help of an option, with its default where the text does not tell it."""
    text = text.rstrip(".")
    if default is not inspect.Parameter.empty and not re.search(r"\b(default|required)\b", text):
        shown = ["no", "yes"][default] if isinstance(default, bool) else default
        shown = f"{shown:g}" if isinstance(shown, float) else shown
        text = f"{text} (default: {'none' if shown in (None, '', {}, []) else shown})"
    return text.replace("%", "%%")


def call(command: Callable[..., Any], given: Namespace, **further: Any) -> Any:
    """Call a command with what was parsed; `further` are its parameters that begin with "_"."""
    from dpaat.measurement import FLAGS

    positional, named = [], {}
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        kind = parameter.annotation
        if name.startswith("_"):
            named[name] = further[name]
        elif hasattr(kind, "__pydantic_fields__"):
            named[name] = kind(**{field: given[FLAGS.get(field, field)] for field in kind.__pydantic_fields__})
        elif kind is Changes:
            from dpaat.config import TrainConfig

            typed = further["_explicit"]()
            named[name] = {n: typed[n] for n in TrainConfig.__dataclass_fields__ if n in typed and n not in kind.OTHERS}
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append(given[name])
        else:
            named[name] = given[name]
    return command(*positional, **named)


def with_underscores(argument: str) -> str:
    """Let --image-size and --image_size both be typed."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def with_hyphens(text: str) -> str:
    """Write the options in a text as people type them."""
    return re.sub(r"--\w+", lambda match: match.group().replace("_", "-"), text)


TEXT = re.compile(r"(?:Does not validate against.* - )?Expected a str\b.*?(?:Got|Given) value: (.*)$")
"""What the parser says of a number, a list or the like in a YAML file, where a field is text."""


OPTIONAL = re.compile(r"Does not validate against any of the .* Errors: - (.*) - Expected a NoneType .* value: (.*)$")
"""What it says of a field that may be left out."""


def readable(error: ArgumentError, options: Sequence[str] = ()) -> str:
    """Bring the parser's message into one line, with the option as people type it, or the nearest there is."""
    from dpaat.validation import not_text

    text = " ".join(str(error).split())
    if unrecognized := re.match(r"unrecognized arguments: (--\w+)", text):
        nearest = difflib.get_close_matches(unrecognized[1], options, n=1, cutoff=0.6)
        text += f"; nearest: {nearest[0]}" if nearest else ""
    text = re.sub(r'^Parser key "([^"]+)":', lambda match: f"--{match.group(1).replace('_', '-')}:", text)
    text = re.sub(r"<class '(\w+)'>", r"\1", text).replace("a typing.Literal", "one of ").replace("a int", "an int")
    text = TEXT.sub(lambda match: not_text(yaml.safe_load(match[1].strip("'"))), text)
    text = OPTIONAL.sub(r"\1. Got value: \2", text)
    text = re.sub(r"(?<=required: )[\w.]*\.", "", text)
    text = with_hyphens(text)
    return text if "help" in text else f"{text} (see --help)"
