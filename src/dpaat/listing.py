"""Tables of what can be named on the command line."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dpaat.errors import unknown
from dpaat.radii import format_radius


def listing(what: str, containing: str = "") -> RenderableType:
    """Make the list of methods, models, attacks, datasets, kinds of map or grids.

    Args:
        what: "methods", "models", "attacks", "datasets", "maps" or "grids".
        containing: only names that contain this.

    Raises:
        UserError: nothing of that name can be listed.
    """
    kinds = {
        "methods": _methods,
        "models": _models,
        "attacks": _attacks,
        "datasets": _datasets,
        "maps": _maps,
        "grids": _grids,
    }
    if what not in kinds:
        raise unknown("list", what, kinds)
    return kinds[what](containing)


def _methods(containing: str) -> RenderableType:
    from dpaat.methods import METHODS

    table = Table("method", "what it does", "cost per step", "eps", "clean weight", box=None, pad_edge=False)
    options: list[Text] = []
    for info in METHODS.values():
        if containing not in info.name:
            continue
        radius = format_radius(info.eps) if info.adversarial else ""
        own = {} if info.options is None else vars(info.options)
        cost = str(info.step_cost(info.clean_weight, own, info.adv_start, info.self_teacher))
        source = f" ({info.reference})" if info.reference else ""
        table.add_row(info.name, info.description + source, cost, radius, f"{info.clean_weight:g}" if radius else "")
        if own:
            defaults = ", ".join(f"{name}={_short(value)}" for name, value in own.items())
            options.append(Text(f"--options of {info.name}: {defaults}"))
    return Group(table, Text("F: one forward pass; K: attack steps; mean over a run"), *options)


def _models(containing: str) -> RenderableType:
    import timm

    names = [name for name in timm.list_models() if containing in name]
    return Text("\n".join([*names, f"{len(names)} models of timm; those without convolutions are not meant"]))


def _attacks(containing: str) -> RenderableType:
    from dpaat.attacks import ATTACKS

    table = Table("attack", "what it does", "cost per image", "K", "norms", box=None, pad_edge=False)
    for info in sorted(ATTACKS.values(), key=lambda info: info.name):
        if containing in info.name:
            steps = str(info.steps or "")
            table.add_row(info.name, info.description, str(info.cost), steps, ", ".join(info.norms))
    return Group(table, Text("F: one forward pass; K: steps, or queries of an attack without gradients"))


def _datasets(containing: str) -> RenderableType:
    from dpaat.data.registry import DATASETS, import_loaders

    import_loaders()
    table = Table("dataset", "what it is", box=None, pad_edge=False)
    for info in sorted(DATASETS.values(), key=lambda info: info.name):
        if containing in info.name:
            table.add_row(Text(info.syntax), info.description)
    return table


def _maps(containing: str) -> RenderableType:
    from dpaat.interpret.maps import MAPS

    table = Table("map", "what it shows", "cost per image", box=None, pad_edge=False)
    for info in MAPS.values():
        if containing in info.name:
            table.add_row(info.name, info.description, f"{info.passes} F")
    return Group(table, Text("F: one forward pass"))


def _grids(containing: str) -> RenderableType:
    from dpaat.benchmark.grid import GRIDS

    table = Table("grid", "what it is for", box=None, pad_edge=False)
    for path in sorted(GRIDS.glob("*.yaml")):
        if containing in path.stem:
            first = path.read_text(encoding="utf-8").partition("\n")[0]
            table.add_row(path.stem, first.removeprefix("# "))
    return Group(table, Text(f"run one with `dpaat benchmark NAME`, or copy its file and change it: {GRIDS}"))


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
