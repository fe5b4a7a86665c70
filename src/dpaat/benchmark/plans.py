"""The evaluations of a cell: one on all images, perhaps one by costlier attacks on a draw, and masking checks."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from dpaat.errors import UserError, at, unknown
from dpaat.evaluation.specs import WORST_CASE, AttackSpec, is_worst_case, worst_of, worst_of_suite
from dpaat.evaluation.suite import SCORED, SUITE_ATTACKS
from dpaat.measurement import DRAWS, FLAGS, SIGMA, EvaluateConfig
from dpaat.validation import STRICT, fields_of, option

DRAWN = ("suites", "attacks", "ensemble", "steps", "eps", "max_samples", "batch_size", "precision")
LATER = ("ensemble", "sigma", "draws")  # fields that were added later
INHERITED = ("eps", "norm", "split", "batch_size", "precision", "seed")
RANKED = "apgd-ce"
"""The attack whose outputs are ranked for the mean average precision, where a plan has it."""


@dataclasses.dataclass(frozen=True)
class Plans:
    """What every cell is evaluated by."""

    main: EvaluateConfig  # on all images of the split, or on a draw if it says so
    draw: EvaluateConfig | None = None  # further attacks on a smaller draw; None if there are none
    masking: EvaluateConfig | None = None  # checks alone, on a draw of their own; None where a suite of these has them

    @property
    def all(self) -> tuple[EvaluateConfig, ...]:
        """Those that there are."""
        return tuple(plan for plan in (self.main, self.draw, self.masking) if plan is not None)


@dataclass(config=STRICT)
class JobEvaluation(EvaluateConfig):
    """The field `evaluate` of a grid."""

    subset: dict[str, Any] | None = option(None, "costlier attacks on a draw, by fields of its own")
    masking: int | None = option(None, "images for masking checks alone", ge=1)


def read_plans(values: dict[str, Any]) -> Plans:
    """Read the field `evaluate` of a grid; the draw takes the radii and more from what is on all images."""
    found = JobEvaluation(**values)
    main = _tabled(**{name: value for name, value in vars(found).items() if name in fields_of(EvaluateConfig)})
    draw = masking = None
    if found.subset is not None:
        with at("subset"):
            if "max_samples" not in found.subset:
                raise UserError("needs max_samples, the number of images to draw")
            if strange := [name for name in found.subset if name not in DRAWN]:
                raise unknown("field", str(strange[0]), DRAWN)
            draw = _tabled(**{name: values[name] for name in INHERITED if name in values} | found.subset)
    if found.masking is not None:
        changes: dict[str, Any] = {"suites": ["masking"], "attacks": ["pgd"], "ensemble": [], "steps": {}}
        changes |= {"sigma": SIGMA, "draws": DRAWS}
        masking = dataclasses.replace(main, **changes, max_samples=found.masking)
    return Plans(main, draw, masking)


def _tabled(**values: Any) -> EvaluateConfig:
    """An evaluation that tables can be made of."""
    plan = EvaluateConfig(**values)
    if plan.suites and "standard" not in plan.suites:
        raise UserError("suites: needs 'standard', whose verdicts the table shows; masking alone has its own field")
    if not plan.suites and "transfer" in (*plan.attacks, *plan.ensemble):
        raise UserError("attacks: transfer needs a source model, which cells do not have")
    if not (plan.suites or plan.attacks):
        raise UserError("attacks: name at least one that is made on all images, for the mean average precision")
    if not plan.radii:
        raise UserError("eps: needs a radius above 0")
    return plan


def attacks_of(plan: EvaluateConfig) -> list[AttackSpec]:
    """Attacks of a plan whose results are in `evaluation.json`, including the worst case over several."""
    if not plan.suites:
        return plan.specs + ([worst_of(plan.all_specs)] if plan.ensemble_specs else [])
    worst = worst_of_suite(WORST_CASE, [plan.spec(name) for name in SUITE_ATTACKS], plan.norm)
    return [*(plan.spec(name) for name in SCORED), worst]


def ranked_attack(plan: EvaluateConfig) -> AttackSpec:
    """The attack that the mean average precision is measured under: APGD-CE, or else the last one of the plan."""
    specs = [spec for spec in attacks_of(plan) if not is_worst_case(spec.name)]
    return next((spec for spec in specs if spec.name == RANKED), specs[-1])


def words(plan: EvaluateConfig) -> str:
    """The attacks behind a plan's verdicts, for people: "FGSM, PGD-20, APGD-CE-100, ..."."""
    specs = [plan.spec(name) for name in SUITE_ATTACKS] if plan.suites else plan.all_specs
    return ", ".join(spec.label for spec in specs)


def digest(plan: EvaluateConfig) -> str:
    """8 hex digits that tell plans apart; a plan has those of before there were fields that it leaves as they are."""
    usual = values_of(EvaluateConfig())
    fields = {name: value for name, value in values_of(plan).items() if name not in LATER or value != usual[name]}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]


def values_of(plan: EvaluateConfig) -> dict[str, Any]:
    """All that a plan says, ready for JSON."""
    return {**vars(plan), "eps": plan.radii, "sigma": list(plan.sigma)}


def arguments_of(plan: EvaluateConfig, run: Path, device: str) -> list[str]:
    """The command line that carries a plan out."""
    texts: dict[str, Any] = {
        "eps": ",".join(map(repr, plan.radii)),
        "steps": ",".join(f"{name}={steps}" for name, steps in plan.steps.items()),
        "suites": ",".join(plan.suites),
        "attacks": "" if plan.suites else ",".join(plan.attacks),
        "ensemble": ",".join(plan.ensemble),
        "sigma": ",".join(map(repr, plan.sigma)),
        "device": device,
    }
    said = {FLAGS.get(name, name): value for name, value in (vars(plan) | texts).items() if value not in (None, "")}
    return ["evaluate", str(run), *(f"--{name.replace('_', '-')}={value}" for name, value in said.items())]
