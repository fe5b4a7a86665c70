"""YAML, JSON and typed models of what comes from elsewhere, and the one line that a bad value gets."""

import json
import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, NotRequired, Self

import yaml
from pydantic import ConfigDict, Field, ModelWrapValidatorHandler, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_core import ArgsKwargs, ErrorDetails
from typing_extensions import TypedDict

from dpaat.errors import UserError, unknown

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
TAGS = ("str", "int", "float", "list[float]", "list[any]", "literal", "bool")
"""What pydantic adds to the place of a value that could be of several types."""
Int = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1 + 1e-6)]  # earlier versions wrote what float32 had rounded up
MAX_YAML_VALUES = 100_000
"""A hand-written file is far below; aliases of aliases unfold a few lines to billions."""
RULES = {"ge": "at least {:n}", "gt": "above {:n}", "le": "at most {:n}", "lt": "below {:n}"}


def load_yaml(text: str, load: Callable[[str], Any] = yaml.safe_load) -> Any:
    """Read YAML without running code in it; `load` is what reads it when it was found harmless.

    Raises yaml.YAMLError: not YAML, nested too deeply, or unfolding to more than `MAX_YAML_VALUES` values.
    """
    try:
        _unfolded(yaml.compose(text, Loader=yaml.SafeLoader), {})
        return load(text)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply, or within itself") from None
    except ValueError as error:  # such as a date that does not exist
        raise yaml.YAMLError(str(error)) from None


def _unfolded(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Number of values below a node, what an alias refers to counted every time."""
    if id(node) not in known:
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for pair in inner for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_unfolded(part, known) for part in parts)
        if known[id(node)] > MAX_YAML_VALUES:
            raise yaml.YAMLError(f"more than {MAX_YAML_VALUES:,} values")
    return known[id(node)]


def load_json(text: str) -> Any:
    """Read JSON; NaN and infinity, which are not JSON, are refused.

    Raises ValueError: not JSON, or nested too deeply.
    """
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def misfit(value: object, kind: Any) -> str | None:
    """The first place where a value read from JSON is not of a type, such as "results[2].n"; None if it is."""
    try:
        _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        return _place(error.errors(include_url=False)[0])
    return None


def record(**fields: Any) -> Any:
    """The type of a JSON object with these fields, and perhaps others; those of `maybe` may be null or missing."""
    return TypedDict("record", fields)  # type: ignore[operator]


def maybe(kind: Any) -> Any:
    """The type of a field that may be null or missing."""
    return NotRequired[kind | None]


def many(kind: Any, *rules: Any) -> Any:
    """The type of a list of values of a type, each of which follows some rules."""
    if rules:
        kind = Annotated[kind, *rules]
    return list[kind]


def named(kind: Any, *rules: Any) -> Any:
    """The type of an object with values of a type under any names, which as a whole follows some rules."""
    return Annotated[dict[str, kind], *rules] if rules else dict[str, kind]


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def option(default: Any, description: str, **rules: Any) -> Any:
    """A field of a configuration: its default, or what makes it, its help, and its range as `ge`, `gt`, `le`, `lt`."""
    made = {"default_factory": default} if callable(default) else {"default": default}
    return Field(**made, description=description, **rules)


@dataclass(config=STRICT)
class Checked:
    """Base of the configurations: a bad value is a `UserError` that names its field."""

    @model_validator(mode="wrap")
    @classmethod
    def _told(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        given = values.kwargs if isinstance(values, ArgsKwargs) else values
        for name, found in (given or {}).items():
            hint = str(fields_of(cls)[name].annotation) if name in fields_of(cls) else "bool"
            if isinstance(found, bool) and "bool" not in hint:  # which would pass for 0 or 1
                raise UserError(f"{name}: needs {'a text' if 'str' in hint else 'a number'}, not {str(found).lower()}")
        try:
            return handler(values)
        except ValidationError as error:
            raise UserError(explain(error, fields_of(cls))) from None


def fields_of(kind: type[Any]) -> dict[str, FieldInfo]:
    """Fields of a configuration, with their defaults, helps and ranges."""
    found: dict[str, FieldInfo] = kind.__pydantic_fields__
    return found


def explain(error: ValidationError, known: Mapping[str, FieldInfo]) -> str:
    """The first fault in one line: the field, what is wrong, what to do; `known` are the fields."""
    found = error.errors(include_url=False)[0]
    kind, value, context = found["type"], found["input"], found.get("ctx", {})
    where = re.sub(r"\[\d+\]", "", _place(found))
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return str(unknown("field", where, known))
    if kind == "value_error":
        return str(context["error"]) if isinstance(context["error"], UserError) else f"{where}: {context['error']}"
    if value is None or kind.startswith("missing"):
        return f"{where}: needs a value, not null"
    if kind == "literal_error":
        return str(unknown(where, str(value), re.findall(r"'([^']*)'", context["expected"])))
    if kind == "string_type":
        return f"{where}: {not_text(value)}"
    field = known.get(where.partition(".")[0])
    bounds = [
        (text, getattr(each, name, None)) for each in (field.metadata if field else ()) for name, text in RULES.items()
    ]
    rules = [text.format(bound) for text, bound in bounds if bound is not None] or [
        text.format(context[name]) for name, text in RULES.items() if name in context
    ]
    if rules and (kind == "finite_number" or context.keys() & RULES.keys()):
        return f"{where}: {value} is out of range; it must be {' and '.join(rules)}"
    return f"{where}: {value!r}: {found['msg'][0].lower()}{found['msg'][1:]}"


def _place(found: ErrorDetails) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in found["loc"] if part not in TAGS)
    return "".join(parts).removeprefix(".")


def not_text(value: object) -> str:
    """What to say of a value where a text is needed, and YAML read something else."""
    if isinstance(value, bool):
        said = "yes, true or on" if value else "no, false or off"
        return f"needs a text; YAML reads {said} without quotes as a truth value, so put it into quotes"
    if isinstance(value, int | float):
        return f"needs a text, but YAML reads the number {value}; put it into quotes, such as '{value}'"
    return f"needs a text, not {value}"
