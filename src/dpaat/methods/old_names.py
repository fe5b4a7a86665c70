"""Names of methods and options in version 0.1, for run folders, grids and published results of that time."""

from collections.abc import Mapping
from typing import Any

from dpaat.errors import UserError

METHODS = {
    "mean-radius": ("dpaat-half", {"radius": "mean"}),
    "class-mean-radius": ("dpaat-half", {"radius": "class-mean"}),
    "permuted-radius": ("dpaat-half", {"radius": "permuted"}),
    "uniform-radius": ("dpaat-half", {"radius": "uniform"}),
    "mean-radius-fast": ("dpaat-fast", {"radius": "mean"}),
    "permuted-radius-fast": ("dpaat-fast", {"radius": "permuted"}),
}
"""Old name to the present one and the options that tell it apart."""
OPTIONS = {"graded": "steps_scale", "least": "min_steps", "floor": "eps_min", "collect": "track"}
"""Old option of the DPAAT methods to the present one."""
GONE = {"signal": "loss", "update": "additive", "schedule": "constant", "warmup": 1, "loss_decay": 0.0, "momentum": 0.0}
"""Option that is gone to the only value it can still have."""


def present_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Put the present names into the fields of a `TrainConfig`; UserError for a value that is gone."""
    options = dict(values.get("options") or {})
    method, own = METHODS.get(values.get("method", ""), (values.get("method"), {}))
    old = (OPTIONS.keys() | GONE.keys() | {"start", "attacked"}) & options.keys()
    if not own and not (old and str(method).startswith("dpaat")):
        return dict(values)
    changed = dict(values)
    for name in GONE.keys() & old:
        if options.pop(name) != GONE[name]:
            raise UserError(f"options.{name}: only {GONE[name]!r} is left of it; version 0.1 has the others")
    if "start" in options:
        changed["adv_start"] = options.pop("start")
    if "attacked" in options:
        share = options.pop("attacked")
        options |= {"views": "both", "adv_fraction": share} if share else {"views": "alternate"}
    if method == "dpaat-paper" and values.get("clean_weight"):
        options["views"] = "both"
    options = {OPTIONS.get(name, name): value for name, value in options.items()}
    return changed | {"method": "dpaat-v1" if method == "dpaat" else method, "options": own | options}
