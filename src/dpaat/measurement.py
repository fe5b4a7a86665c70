"""Every choice of an evaluation and of an explanation: field, type, default, range and help."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, ValidationInfo
from pydantic.dataclasses import dataclass

from dpaat.config import Norm, Weights
from dpaat.errors import UserError, unknown
from dpaat.radii import DEFAULT_RADII, parse_radii
from dpaat.validation import STRICT, Checked, option

if TYPE_CHECKING:
    from dpaat.evaluation.specs import AttackSpec
    from dpaat.interpret.maps import Attribution

Precision = Literal["32", "bf16", "auto"]
Split = Literal["train", "val", "test", "all"]
SPLITS: tuple[Split, ...] = get_args(Split)
FLAGS = {"suites": "suite", "attacks": "attack"}
"""Option of a field that is called otherwise on the command line."""
SUITES = ("standard", "quick", "masking", "corruptions", "certified")
SIGMA, DRAWS = (0.12, 0.25, 0.5), 1000


def _names(value: Any) -> Any:
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return list(value) if isinstance(value, Iterable) else value


def _radii(value: Any, info: ValidationInfo) -> Any:
    # Where the run's own norm is to be taken, the radii are looked at again when it is known.
    return None if value is None else tuple(parse_radii(value, norm=info.data.get("norm") or "l2"))


def _budgets(value: Any, info: ValidationInfo) -> Any:
    """Budgets as people write them: "20" for every attack, or "apgd-t=50,square=1000"."""
    from dpaat.attacks import find_attack

    if not isinstance(value, str | int) or isinstance(value, bool):
        return value
    single = [*info.data.get("attacks", ()), *info.data.get("ensemble", ())]
    attacks = _with_budget(info.data.get("suites", ()), single)
    budgets: dict[str, int] = {}
    for part in filter(None, str(value).split(",")):
        name, equals, number = part.strip().rpartition("=")
        try:
            steps = int(number)
        except ValueError:
            raise UserError(f"steps: {part.strip()!r} is not a number of steps, such as 20 or square=1000") from None
        if not (equals or attacks):
            raise UserError(f"steps: {number} is for no attack; none of those that are made takes a number of steps")
        budgets |= dict.fromkeys([find_attack(name).name] if equals else attacks, steps)
    return budgets


def _with_budget(suites: Sequence[str], single: Sequence[str]) -> list[str]:
    """Attacks of an evaluation that take a number of steps."""
    from dpaat.attacks import find_attack
    from dpaat.evaluation.suite import QUICK_ATTACKS, SUITE_ATTACKS

    whole = SUITE_ATTACKS if "standard" in suites else QUICK_ATTACKS if "quick" in suites else ()
    return [name for name in (whole if suites else single) if find_attack(name).steps]


def _numbers(value: Any) -> Any:
    try:
        return tuple(map(float, str(value).split(","))) if isinstance(value, str | int | float) else value
    except ValueError:
        raise UserError(f"sigma: {value!r} is not numbers such as 0.12,0.25") from None


Names = Annotated[list[str], BeforeValidator(_names)]


@dataclass(config=STRICT)
class Reading(Checked):
    """How images are read, and where."""

    window: str | None = option(None, "values that become black and white, see `dpaat train --help`; default the run's")
    device: str = option("auto", "auto, cpu, cuda or cuda:1")


@dataclass(config=STRICT)
class Inputs(Reading):
    """Images to try a run on."""

    data: str | None = option(
        None,
        "another dataset, or where the run's own is now; by default as trained; images it was trained on are left out",
    )


@dataclass(config=STRICT)
class Measurement(Checked):
    """Radii, images and seed."""

    norm: Norm | None = option("linf", "norm of the radii")
    eps: Annotated[tuple[float, ...] | None, BeforeValidator(_radii)] = option(
        None, "radii in units of a [0, 1] image, from small to large; by default 1, 2, 4 and 8/255, in L2 0.25 to 2"
    )
    split: Split = option("test", "images to take")
    max_samples: int | None = option(None, "a seeded stratified draw of so many; by default all", ge=1)
    batch_size: int = option(128, "images per batch", ge=1)
    seed: int = option(0, "of the draw and of random starts", ge=0)


@dataclass(config=STRICT)
class Attacks(Checked):
    """Attacks of an evaluation."""

    suites: Names = option(list, ", ".join(SUITES) + "; empty for single attacks")
    attacks: Names = option(lambda: ["pgd"], "single attacks; see `dpaat list attacks`")
    ensemble: Names = option(list, "further attacks, made only on images that are still classified correctly")
    steps: Annotated[dict[str, int], BeforeValidator(_budgets)] = option(
        dict, "budget: 20, or square=1000,apgd-t=50; by default the attack's own"
    )
    precision: Precision = option("32", "of the attacks' search, auto takes the faster one; verdicts are always in 32")
    sigma: Annotated[tuple[float, ...], BeforeValidator(_numbers)] = option(
        SIGMA, "standard deviations of the noise of the suite certified"
    )
    draws: int = option(DRAWS, "its noise draws an image; published work takes 100,000", ge=100)


@dataclass(config=STRICT)
class EvaluateConfig(Measurement, Attacks):
    """Attacks, radii and images of an evaluation; fields, defaults and ranges are those of `dpaat evaluate --help`.

    Raises UserError for an unknown field, or a value of a wrong type or out of its range; names the field.
    """

    norm: Norm = option("linf", "norm of the radii")

    def __post_init__(self) -> None:
        from dpaat.attacks import find_attack

        for suite in self.suites:
            if suite not in SUITES:
                raise unknown("suite", suite, SUITES)
        taken = _with_budget(self.suites, [spec.name for spec in self.all_specs])
        for name, value in self.steps.items():
            if find_attack(name).steps is None:
                raise UserError(f"steps: attack {name!r} takes no number of steps")
            if value < 1:
                raise UserError(f"steps: {value} for {name} must be at least 1")
            if name not in taken:
                raise UserError(f"steps: {name} is not used here; a budget is taken by {', '.join(taken) or 'none'}")
        suites, whole = set(self.suites), self.suites or self.ensemble
        rules = {
            "eps: a suite or an ensemble needs a radius above 0, such as 8/255": whole and not self.radii,
            "eps: corruptions have levels, not radii": suites == {"corruptions"} and self.eps is not None,
            "ensemble: goes with single attacks, not with a suite, which has its own": suites and self.ensemble,
            "attacks: go without a suite, which has its own; make two calls": suites and self.attacks != ["pgd"],
            "attacks: name at least one, see `dpaat list attacks`": not (suites or self.attacks or self.ensemble),
            "suites: quick is a part of standard; name one of them": {"quick", "standard"} <= suites,
            f"sigma: {self.sigma} must be numbers above 0, at most 2": not all(0 < s <= 2 for s in self.sigma or [0]),
            "sigma and draws: are those of the suite certified; name it with --suite": "certified" not in suites
            and (self.sigma, self.draws) != (SIGMA, DRAWS),
        }
        if broken := [line for line, rule in rules.items() if rule]:
            raise UserError(broken[0])

    @property
    def radii(self) -> list[float]:
        """Radii above 0, ascending."""
        return [eps for eps in self.eps or DEFAULT_RADII[self.norm] if eps > 0]

    @property
    def specs(self) -> "list[AttackSpec]":
        """The single attacks with their budgets."""
        return [self.spec(name) for name in dict.fromkeys(self.attacks)]

    @property
    def ensemble_specs(self) -> "list[AttackSpec]":
        """Those of the ensemble that are not among the single attacks."""
        return [self.spec(name) for name in dict.fromkeys(self.ensemble) if name not in self.attacks]

    @property
    def all_specs(self) -> "list[AttackSpec]":
        """The single attacks, then those of the ensemble."""
        return self.specs + self.ensemble_specs

    def spec(self, name: str) -> "AttackSpec":
        """One attack with its budget."""
        from dpaat.evaluation.specs import attack_spec

        return attack_spec(name, steps=self.steps.get(name), norm=self.norm)


@dataclass(config=STRICT)
class ExplainConfig(Measurement):
    """What to explain, and how; fields, defaults and ranges are those of `dpaat explain --help`.

    Raises UserError for an unknown field, or a value of a wrong type or out of its range; names the field.
    """

    norm: Norm | None = option(None, "norm of the radii; by default the run's")
    eps: Annotated[tuple[float, ...] | None, BeforeValidator(_radii)] = option(
        None, "radii of the adversarial images, from small to large; by default 4/255, in L2 1"
    )
    max_samples: int = option(100, "a seeded draw of so many, half of them shared out evenly among the classes", ge=1)
    batch_size: int = option(50, "images per batch", ge=1)
    maps: Names = option(list, "kinds of map, by default all; see `dpaat list maps`")
    steps: int = option(20, "of PGD", ge=1)
    layer: str | None = option(None, "for grad-cam; by default the deepest with a map of 8 x 8 or more")

    def __post_init__(self) -> None:
        if min(self.radii) <= 0:
            raise UserError("eps: the clean images are explained anyway; give radii above 0, such as 4/255")
        if self.layer is not None and not self.needs_layer:
            raise UserError(f"layer: {', '.join(self.maps)} does not look at a layer; add grad-cam to --maps")
        self.kinds  # noqa: B018 - looked up here for its error

    @property
    def kinds(self) -> "list[Attribution]":
        """The kinds of map."""
        from dpaat.interpret.maps import MAPS, find_maps

        return find_maps(list(self.maps or MAPS))

    @property
    def needs_layer(self) -> bool:
        """Whether any of them looks at a layer."""
        return any(kind.needs_layer for kind in self.kinds)

    @property
    def radii(self) -> list[float]:
        """Radii, ascending."""
        return list(self.eps or DEFAULT_RADII[self.norm or "linf"][2:3])

    @property
    def spec(self) -> "AttackSpec":
        """The attack."""
        from dpaat.evaluation.specs import attack_spec

        return attack_spec("pgd", steps=self.steps, norm=self.norm or "linf")


@dataclass(config=STRICT)
class Foreign(Weights):
    """Weights from elsewhere, in place of a run folder; they need model, weights, data and out."""

    model: str | None = option(None, "timm model of --weights, or py:PKG.MODULE:NAME, with or without weights")
    image_size: int | None = option(None, "pixels at the side; by default as trained, else 64", ge=1)
    classes: str | None = option(None, "outputs of --weights in their order: a,b,c")
    out: str | None = option(None, "folder for the results")
