"""Registry of training methods: each registers itself where it is defined, with its defaults and its cost."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from dpaat.errors import UserError, unknown
from dpaat.methods.base import Method, MethodContext
from dpaat.radii import L2_PER_LINF
from dpaat.registry import Registry

FIXED = 4 / 255  #: Default radius of the methods that fix one for all images
LARGEST = 8 / 255  #: Default largest radius of the methods that move it
VIEW = 3  #: Forward passes that learning from one more view of an image costs: a forward and a backward pass


@dataclass(frozen=True)
class Cost:
    """Cost of a training step per image, in forward passes F: for each attack step K, and for all else.

    `views` of an image are learned from, which is part of `base`.
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

    def mixed(self, other: Self, share: float) -> Self:
        """Mean cost where `other` takes the place of this one in a share of the steps."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return type(self)(*((1 - share) * one + share * two for one, two in pairs))


@dataclass(frozen=True)
class MethodInfo:
    """A training method that can be named on the command line, with its defaults."""

    name: str
    build: type[Method]  #: its class
    description: str
    reference: str = ""  #: where it was published
    cost: Cost = Cost(2, VIEW)  #: of an attacking step without a clean view beside it
    #: whether it trains for robustness, and is therefore selected by robust validation accuracy
    adversarial: bool = True
    eps: float = FIXED  #: default radius
    moves_radius: bool = False  #: whether a run's `eps` is only the largest radius of a sample
    clean_weight: float = 0.0  #: default share of the clean loss
    adv_start: float = 0.0  #: default share of the epochs before the attacks begin
    self_teacher: float = 0.0  #: default weight of the self-teacher
    #: defaults of further options, where they are others than those of the class
    options: Mapping[str, Any] = field(default_factory=dict)
    #: share of the visits that attack, in an epoch with attacks, from the clean weight and the options
    share: Callable[[float, Mapping[str, Any]], float] | None = None
    #: its `cost` from the clean weight and the options, where `cost` alone does not tell
    own_cost: Callable[[float, Mapping[str, Any]], Cost] | None = None

    @property
    def defaults(self) -> dict[str, Any]:
        """All further options with their defaults."""
        return self.build.checked(self.options)

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


METHODS = Registry("method", MethodInfo)
register_method, find_method = METHODS.register, METHODS.find


def complete_options(info: MethodInfo, given: Mapping[str, Any], norm: str = "linf") -> dict[str, Any]:
    """Fill a method's further options up with its defaults; UserError for one that it does not have, or cannot take.

    Defaults that are radii in Linf are taken to the run's `norm`.
    """
    values, declared = info.defaults, info.build.declared()
    if norm == "l2":
        values |= {name: values[name] * L2_PER_LINF**each.radius for name, each in declared.items() if each.radius}
    for name, value in given.items():
        if name not in values:
            if not values:
                raise UserError(f"method {info.name!r} takes no further options, so not {name!r}")
            raise unknown(f"option of method {info.name!r}", name, values)
        values[name] = declared[name].convert(f"options.{name}", value)
    try:
        return info.build.checked(values)
    except ValueError as error:
        raise UserError(f"method {info.name!r}: {error}") from None


def build_method(info: MethodInfo, context: MethodContext, options: Mapping[str, Any]) -> Method:
    """Make the method for a run; errors as of `complete_options`."""
    values = complete_options(info, options)
    try:
        return info.build(context, **values)
    except ValueError as error:
        raise UserError(f"method {info.name!r}: {error}") from None
