"""The evaluations of a cell: one on all images, perhaps one by costlier attacks on a draw, and masking checks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpaat.benchmark.fields import as_mapping, as_positive, at, check_known, make
from dpaat.errors import UserError
from dpaat.evaluation.plan import Plan, parse_steps
from dpaat.evaluation.specs import WORST_CASE, AttackSpec, is_worst_case, worst_of
from dpaat.evaluation.suite import SCORED, SUITE_ATTACKS
from dpaat.radii import parse_radii

SUBSET, MASKING = "subset", "masking"
DRAW_FIELDS = ("suites", "attacks", "ensemble", "steps", "eps", "max_samples", "batch_size", "precision")
INHERITED = ("eps", "norm", "split", "batch_size", "precision", "seed")
RANKED = "apgd-ce"
"""The attack whose outputs are ranked for the mean average precision, where a plan has it."""


@dataclass(frozen=True)
class Plans:
    """What every cell is evaluated by.

    Attributes:
        main: on all images of the split, or on a draw if it says so.
        draw: further attacks on a smaller draw; None if there are none.
        masking: masking checks alone, on a draw of their own; None where a suite of `main` or `draw` has them.
    """

    main: Plan
    draw: Plan | None = None
    masking: Plan | None = None

    @property
    def all(self) -> tuple[Plan, ...]:
        """Those that there are."""
        return tuple(plan for plan in (self.main, self.draw, self.masking) if plan is not None)


def read_plans(values: Any) -> Plans:
    """Read the field `evaluate` of a grid: fields of `Plan`, `subset` with those of the draw, and `masking`."""
    with at("evaluate"):
        values = as_mapping(values, "{suites: [standard]}")
        own = {name: value for name, value in values.items() if name not in (SUBSET, MASKING)}
        inherited = {name: value for name, value in own.items() if name in INHERITED}
        main, draw, masking = _make_plan(own, Plan.__dataclass_fields__), None, None
        if values.get(SUBSET) is not None:
            with at(SUBSET):
                drawn = as_mapping(values[SUBSET], "{attacks: [square], max_samples: 200}")
                if "max_samples" not in drawn:
                    raise UserError("needs max_samples, the number of images to draw")
                check_known("field", drawn, DRAW_FIELDS)
                draw = _make_plan(inherited | drawn, Plan.__dataclass_fields__)
        if values.get(MASKING) is not None:
            checked = as_positive(MASKING, values[MASKING])
            masking = dataclasses.replace(
                main, suites=(MASKING,), attacks=("pgd",), ensemble=(), steps={}, max_samples=checked
            )
        return Plans(main, draw, masking)


def attacks_of(plan: Plan) -> list[AttackSpec]:
    """The attacks of a plan whose results stand in `evaluation.json`, the worst case over several included."""
    if not plan.suites:
        return plan.specs + ([worst_of(plan.all_specs)] if plan.ensemble_specs else [])
    return [*(plan.spec(name) for name in SCORED), AttackSpec(WORST_CASE, norm=plan.norm)]


def ranked_attack(plan: Plan) -> AttackSpec:
    """The attack that the mean average precision is measured under: APGD-CE, or else the last one of the plan."""
    specs = [spec for spec in attacks_of(plan) if not is_worst_case(spec.name)]
    return next((spec for spec in specs if spec.name == RANKED), specs[-1])


def words(plan: Plan) -> str:
    """The attacks behind a plan's verdicts, for people: "FGSM, PGD-20, APGD-CE-100, ..."."""
    specs = [plan.spec(name) for name in SUITE_ATTACKS] if plan.suites else plan.all_specs
    return ", ".join(spec.label for spec in specs)


def digest(plan: Plan) -> str:
    """8 hex digits that tell plans apart; a plan without an ensemble has those of before there were any."""
    fields = {name: value for name, value in fields_of(plan).items() if value or name != "ensemble"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]


def fields_of(plan: Plan) -> dict[str, Any]:
    """All that a plan says, ready for JSON."""
    fields = {**vars(plan), "steps": dict(plan.steps), "eps": plan.radii}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def arguments_of(plan: Plan, run: Path, device: str) -> list[str]:
    """The command line that carries a plan out."""
    options: dict[str, Any] = {
        "eps": ",".join(repr(eps) for eps in plan.radii),
        "norm": plan.norm,
        "split": plan.split,
        "batch-size": plan.batch_size,
        "precision": plan.precision,
        "seed": plan.seed,
        "device": device,
    }
    if plan.suites:
        options["suite"] = ",".join(plan.suites)
    else:
        options |= {"attack": ",".join(plan.attacks), "ensemble": ",".join(plan.ensemble)}
    if plan.steps:
        options["steps"] = ",".join(f"{name}={steps}" for name, steps in plan.steps.items())
    if plan.max_samples is not None:
        options["max-samples"] = plan.max_samples
    return ["evaluate", str(run), *(f"--{name}={value}" for name, value in options.items())]


def _make_plan(values: Mapping[str, Any], known: Iterable[str]) -> Plan:
    check_known("field", values, known)
    values = dict(values)
    for name in ("suites", "attacks", "ensemble"):
        if isinstance(values.get(name), str):
            values[name] = [part.strip() for part in values[name].split(",")]
    if not isinstance(values.get("steps", {}), dict):
        lists = (values.get("attacks", Plan.attacks), values.get("ensemble"))
        single = [name for names in lists if isinstance(names, list | tuple) for name in names]
        chosen = SUITE_ATTACKS if values.get("suites") else single
        values["steps"] = parse_steps(values["steps"], chosen)
    if values.get("eps") is not None:
        values["eps"] = parse_radii(values["eps"], norm=values.get("norm", Plan.norm))
    plan = make(Plan, values)
    if plan.suites and "standard" not in plan.suites:
        raise UserError("suites: needs 'standard', whose verdicts the table shows; masking alone has its own field")
    if not plan.suites and "transfer" in (*plan.attacks, *plan.ensemble):
        raise UserError("attacks: transfer needs a source model, which cells do not have")
    if not (plan.suites or plan.attacks):
        raise UserError("attacks: name at least one that is made on all images, for the mean average precision")
    if not plan.radii:
        raise UserError("eps: needs a radius above 0")
    return plan


__all__ = ["Plans", "arguments_of", "attacks_of", "digest", "fields_of", "ranked_attack", "read_plans", "words"]
