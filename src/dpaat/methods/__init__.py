"""Training methods: one objective a file, listed here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from dpaat.errors import UserError, unknown
from dpaat.methods.base import Method, Setting, Visit
from dpaat.methods.dart import DART, DARTOptions
from dpaat.methods.dpaat import DPAAT, DPAATOptions, PaperOptions
from dpaat.methods.fast import FGSMRS, NFGSM, NFGSMOptions
from dpaat.methods.fat import FAT, FATOptions
from dpaat.methods.gairat import GAIRAT, GAIRATOptions
from dpaat.methods.mart import MART, MARTOptions
from dpaat.methods.pgd import PGDTraining
from dpaat.methods.standard import Standard
from dpaat.methods.trades import TRADES, TRADESOptions

FIXED = 4 / 255
"""Default radius of the methods that fix one for all images."""


@dataclass(frozen=True)
class MethodInfo:
    """A training method that can be named on the command line."""

    name: str
    build: Callable[..., Method]
    description: str
    cost: str
    """Per sample and step, in forward passes F, for K attack steps; a clean weight adds 3 F where it is taken."""
    adversarial: bool
    """Whether it trains for robustness, and is therefore selected by robust validation accuracy."""
    eps: float = 0.0
    """Default radius."""
    clean_weight: float = 0.0
    """Default share of the clean loss."""
    options: type[Any] | None = None
    """Dataclass of further options."""


METHODS: dict[str, MethodInfo] = {
    info.name: info
    for info in (
        MethodInfo("standard", Standard, "clean images only", "3 F", adversarial=False),
        MethodInfo(
            "pgd",
            PGDTraining,
            "adversarial training with one fixed radius (Madry et al. 2018)",
            "(2K + 3) F",
            adversarial=True,
            eps=FIXED,
        ),
        MethodInfo(
            "fgsm-rs",
            FGSMRS,
            "one attack step from a random start (Wong et al. 2020)",
            "5 F",
            adversarial=True,
            eps=FIXED,
        ),
        MethodInfo(
            "n-fgsm",
            NFGSM,
            "one attack step from strong noise, not projected (de Jorge et al. 2022)",
            "5 F",
            adversarial=True,
            eps=FIXED,
            options=NFGSMOptions,
        ),
        MethodInfo(
            "trades",
            TRADES,
            "clean loss, and how far an attack moves the output (Zhang et al. 2019)",
            "(2K + 7) F",
            adversarial=True,
            eps=FIXED,
            options=TRADESOptions,
        ),
        MethodInfo(
            "mart",
            MART,
            "misclassified images are pulled harder (Wang et al. 2020)",
            "(2K + 6) F",
            adversarial=True,
            eps=FIXED,
            options=MARTOptions,
        ),
        MethodInfo(
            "fat",
            FAT,
            "the attack stops soon after it has succeeded (Zhang et al. 2020)",
            "(2K + 3) F",
            adversarial=True,
            eps=FIXED,
            options=FATOptions,
        ),
        MethodInfo(
            "gairat",
            GAIRAT,
            "images that an attack turns quickly weigh more (Zhang et al. 2021)",
            "(2K + 3) F",
            adversarial=True,
            eps=FIXED,
            options=GAIRATOptions,
        ),
        MethodInfo(
            "dart",
            DART,
            "the attack has to converge better from epoch to epoch (Wang et al. 2019)",
            "(2K + 3) F",
            adversarial=True,
            eps=FIXED,
            options=DARTOptions,
        ),
        MethodInfo(
            "dpaat",
            DPAAT,
            "a radius per sample, against its class's mean clean loss; half clean, half adversarial",
            "(2K + 3) F",
            adversarial=True,
            eps=8 / 255,
            clean_weight=0.5,
            options=DPAATOptions,
        ),
        MethodInfo(
            "dpaat-paper",
            DPAAT,
            "a radius per sample, against the mean of all adversarial losses (plain reading of arXiv 2403.06798)",
            "(2K + 3) F",
            adversarial=True,
            eps=8 / 255,
            options=PaperOptions,
        ),
    )
}


def find_method(name: str) -> MethodInfo:
    """Look a method up by name.

    Raises:
        UserError: no such method; names the nearest ones.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def complete_options(info: MethodInfo, given: dict[str, Any]) -> dict[str, Any]:
    """Fill a method's further options up with its defaults.

    Raises:
        UserError: an option that the method does not have, or a value of the wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(info.options)} if info.options else {}
    hints = get_type_hints(info.options) if info.options else {}
    values = {name: field.default for name, field in fields.items()}
    for name, value in given.items():
        if name not in fields:
            if not fields:
                raise UserError(f"method {info.name!r} takes no further options, so not {name!r}")
            raise unknown(f"option of method {info.name!r}", name, fields)
        values[name] = _convert(f"options.{name}", hints[name], value)
    return values


def build_method(info: MethodInfo, setting: Setting, options: dict[str, Any]) -> Method:
    """Make the method for a run.

    Raises:
        UserError: an option that the method does not have, or one out of its range.
    """
    completed = complete_options(info, options)
    arguments = (info.options(**completed),) if info.options else ()
    try:
        return info.build(setting, *arguments)
    except ValueError as error:
        raise UserError(f"method {info.name!r}: {error}") from None


def _convert(name: str, hint: Any, value: Any) -> Any:
    choices = get_args(hint)
    if choices:
        if value not in choices:
            raise unknown(f"value of {name}", str(value), choices)
        return value
    try:
        converted = hint(value)
        if hint is int and (isinstance(value, bool) or converted != float(value)):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        kind = {int: "a whole number", float: "a number"}.get(hint, "a name")
        raise UserError(f"{name}: {value!r} is not {kind}") from None
    return converted


__all__ = [
    "METHODS",
    "Method",
    "MethodInfo",
    "Setting",
    "Visit",
    "build_method",
    "complete_options",
    "find_method",
]
