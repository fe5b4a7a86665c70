"""Registry of training methods: each registers itself where it is defined, with its defaults and its cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from dpaat.errors import UserError, unknown
from dpaat.methods.base import Method, MethodContext

FIXED = 4 / 255
"""Default radius of the methods that fix one for all images."""
LARGEST = 8 / 255
"""Default largest radius of the methods that move it."""
VIEW = 3
"""Forward passes that learning from one more view of an image costs: a forward and a backward pass."""
Cls = TypeVar("Cls", bound=type[Method])


@dataclass(frozen=True)
class Cost:
    """Cost of a training step per image, in forward passes F.

    Attributes:
        per_step: for each attack step K.
        base: for all else.
        views: of an image that are learned from, which is part of `base`.
    """

    per_step: float = 0.0
    base: float = VIEW
    views: float = 1.0

    def passes(self, steps: int) -> float:
        """Forward passes of a step whose attack takes `steps` iterations."""
        return self.per_step * steps + self.base

    def __str__(self) -> str:
        if not self.per_step:
            return f"{self.base:g} F"
        return f"({'' if self.per_step == 1 else f'{self.per_step:g}'}K + {self.base:g}) F"

    def mixed(self, other: Cost, share: float) -> Cost:
        """Mean cost where `other` takes the place of this one in a share of the steps."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Cost(*((1 - share) * one + share * two for one, two in pairs))


PGD_COST = Cost(2, VIEW)
"""K steps of a forward and an input-gradient pass, and one view to learn from."""


@dataclass(frozen=True)
class MethodInfo:
    """A training method that can be named on the command line, with its defaults.

    Attributes:
        name: on the command line.
        build: makes the method from a `MethodContext` and, where there are options, an instance of them.
        description: one line.
        reference: where it was published.
        cost: of an attacking step without a clean view beside it.
        adversarial: whether it trains for robustness, and is therefore selected by robust validation accuracy.
        eps: default radius.
        moves_radius: whether a run's `eps` is only the largest radius of a sample.
        clean_weight: default share of the clean loss.
        adv_start: default share of the epochs before the attacks begin.
        self_teacher: default weight of the self-teacher.
        options: dataclass instance with the defaults of further options.
        share: share of the visits that attack, in an epoch with attacks, from the clean weight and the options.
        own_cost: its `cost` from the clean weight and the options, where `cost` alone does not tell.
    """

    name: str
    build: Callable[..., Method]
    description: str
    reference: str = ""
    cost: Cost = PGD_COST
    adversarial: bool = True
    eps: float = 0.0
    moves_radius: bool = False
    clean_weight: float = 0.0
    adv_start: float = 0.0
    self_teacher: float = 0.0
    options: Any = None
    share: Callable[[float, Mapping[str, Any]], float] | None = None
    own_cost: Callable[[float, Mapping[str, Any]], Cost] | None = None

    def attacked(self, clean_weight: float, options: Mapping[str, Any]) -> float:
        """Share of the visits that attack, in an epoch with attacks."""
        return float(self.adversarial) if self.share is None else self.share(clean_weight, options)

    def step_cost(
        self, clean_weight: float, options: Mapping[str, Any], adv_start: float = 0.0, self_teacher: float = 0.0
    ) -> Cost:
        """Mean cost of a step over a run."""
        if self.own_cost is not None:
            cost = self.own_cost(clean_weight, options)
        else:
            second = clean_weight > 0 and self.adversarial
            cost = Cost(self.cost.per_step, self.cost.base + VIEW * second, self.cost.views + second)
        teacher = bool(self_teacher) * self.attacked(clean_weight, options)
        return Cost().mixed(dataclasses.replace(cost, base=cost.base + teacher), 1 - adv_start)


METHODS: dict[str, MethodInfo] = {}


def register_method(name: str, description: str, **defaults: Any) -> Callable[[Cls], Cls]:
    """Make a method known by a name: a class decorator; `defaults` are fields of `MethodInfo`."""

    def register(build: Cls) -> Cls:
        if name in METHODS and METHODS[name].build is not build:
            raise ValueError(f"a method called {name!r} is registered already")
        METHODS[name] = MethodInfo(name, build, description, **defaults)
        return build

    return register


def find_method(name: str) -> MethodInfo:
    """Look a method up by name.

    Raises:
        UserError: no such method; names the nearest ones.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def complete_options(info: MethodInfo, given: Mapping[str, Any]) -> dict[str, Any]:
    """Fill a method's further options up with its defaults.

    Raises:
        UserError: an option that the method does not have, a value of the wrong type, or one out of its range.
    """
    values = {} if info.options is None else dataclasses.asdict(info.options)
    hints = {} if info.options is None else get_type_hints(type(info.options))
    for name, value in given.items():
        if name not in values:
            if not values:
                raise UserError(f"method {info.name!r} takes no further options, so not {name!r}")
            raise unknown(f"option of method {info.name!r}", name, values)
        values[name] = _convert(f"options.{name}", hints[name], value)
    make_options(info, values)
    return values


def make_options(info: MethodInfo, values: Mapping[str, Any]) -> Any:
    """Make the options of a method from all of their values; None for a method without.

    Raises:
        UserError: a value out of its range.
    """
    try:
        return None if info.options is None else type(info.options)(**values)
    except ValueError as error:
        raise UserError(f"method {info.name!r}: {error}") from None


def build_method(info: MethodInfo, context: MethodContext, options: Mapping[str, Any]) -> Method:
    """Make the method for a run.

    Raises:
        UserError: an option that the method does not have, or one out of its range.
    """
    made = make_options(info, complete_options(info, options))
    try:
        return info.build(context) if made is None else info.build(context, made)
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
