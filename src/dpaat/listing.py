"""Tables of what can be named on the command line."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from dpaat.errors import unknown
from dpaat.radii import format_radius
from dpaat.tables import Column, Row, Table


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

    rows = []
    options: list[Text] = []
    for info in METHODS.values():
        if containing not in info.name:
            continue
        radius = format_radius(info.eps) if info.adversarial else ""
        own = info.defaults
        cost = str(info.step_cost(info.clean_weight, own, info.adv_start, info.self_teacher))
        source = f" ({info.reference})" if info.reference else ""
        weight = f"{info.clean_weight:g}" if radius else ""
        rows.append(Row(info.name, [info.description + source, cost, radius, weight]))
        if own:
            defaults = ", ".join(f"{name}={_short(value)}" for name, value in own.items())
            options.append(Text(f"--options of {info.name}: {defaults}"))
    table = _table("method", ["what it does", "cost per step", "eps", "clean weight"], rows)
    return Group(table, Text("F: one forward pass; K: attack steps; mean over a run"), *options)


def _models(containing: str) -> RenderableType:
    import timm

    names = [name for name in timm.list_models() if containing in name]
    return Text("\n".join([*names, f"{len(names)} models of timm; those without convolutions are not meant"]))


def _attacks(containing: str) -> RenderableType:
    from dpaat.attacks import ATTACKS

    rows = [
        Row(info.name, [info.description, str(info.cost), str(info.steps or ""), ", ".join(info.norms)])
        for info in sorted(ATTACKS.values(), key=lambda info: info.name)
        if containing in info.name
    ]
    table = _table("attack", ["what it does", "cost per image", "K", "norms"], rows)
    return Group(table, Text("F: one forward pass; K: steps, or queries of an attack without gradients"))


def _datasets(containing: str) -> RenderableType:
    from dpaat.data.registry import DATASETS, import_loaders

    import_loaders()
    kinds = sorted((info for info in DATASETS.values() if containing in info.name), key=lambda info: info.name)
    return _table("dataset", ["what it is"], [Row(info.syntax, [info.description]) for info in kinds])


def _maps(containing: str) -> RenderableType:
    from dpaat.interpret.maps import MAPS

    kinds = [info for info in MAPS.values() if containing in info.name]
    rows = [Row(info.name, [info.description, f"{info.passes} F"]) for info in kinds]
    return Group(_table("map", ["what it shows", "cost per image"], rows), Text("F: one forward pass"))


def _table(corner: str, headings: list[str], rows: list[Row]) -> RenderableType:
    return Table(corner, [Column(text, left=True) for text in headings], rows).to_rich()


def _grids(containing: str) -> RenderableType:
    from dpaat.benchmark.grid import GRIDS

    paths = sorted(path for path in GRIDS.glob("*.yaml") if containing in path.stem)
    first_lines = [path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for path in paths]
    rows = [Row(path.stem, [line]) for path, line in zip(paths, first_lines, strict=True)]
    note = Text(f"run one with `dpaat benchmark NAME`, or copy its file and change it: {GRIDS}")
    return Group(_table("grid", ["what it is for"], rows), note)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
