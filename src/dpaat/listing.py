"""Tables of what can be named on the command line."""

from collections.abc import Callable

from dpaat.errors import unknown
from dpaat.radii import format_radius
from dpaat.tables import Column, Row, Table

MORE_MODELS = "also torchvision:NAME, and with --pretrained true hf-hub:NAME and local-dir:DIR"
Listing = tuple[Table, *tuple[str, ...]]
"""A table, and notes below it."""


def listing(what: str, containing: str = "") -> Listing:
    """Make the list of methods, models, attacks, datasets, kinds of map or grids whose names contain a text.

    Raises UserError: nothing of that name can be listed.
    """
    if what not in LISTS:
        raise unknown("list", what, LISTS)
    return LISTS[what](containing)


def _methods(containing: str) -> Listing:
    from dpaat.methods import METHODS

    rows, notes = [], ["F: one forward pass; K: attack steps; mean over a run; in L2, eps n/255 is n/4"]
    for info in METHODS.values():
        if containing not in info.name:
            continue
        own = info.defaults
        cost = str(info.step_cost(info.clean_weight, own, info.adv_start, info.self_teacher))
        source = f" ({info.reference})" if info.reference else ""
        radius, weight = (format_radius(info.eps), f"{info.clean_weight:g}") if info.adversarial else ("", "")
        rows.append(Row(info.name, [info.description + source, cost, radius, weight]))
        if own:
            shown = {name: f"{value:g}" if isinstance(value, float) else value for name, value in own.items()}
            defaults = ", ".join(f"{name}={value}" for name, value in shown.items())
            notes.append(f"--options of {info.name}: {defaults}")
    return _table("method", ["what it does", "cost per step", "eps", "clean weight"], rows, *notes)


def _models(containing: str) -> Listing:
    import timm

    names = [name for name in timm.list_models() if containing in name]
    note = f"{len(names)} models of timm; those without convolutions are not meant"
    return _table("model", [], [Row(name, []) for name in names], note, MORE_MODELS)


def _attacks(containing: str) -> Listing:
    from dpaat.attacks import ATTACKS

    rows = [
        Row(info.name, [info.description, str(info.cost), str(info.steps or ""), ", ".join(info.norms)])
        for info in sorted(ATTACKS.values(), key=lambda info: info.name)
        if containing in info.name
    ]
    note = "F: one forward pass; K: steps, or queries of an attack without gradients"
    return _table("attack", ["what it does", "cost per image", "K", "norms"], rows, note)


def _datasets(containing: str) -> Listing:
    from dpaat.data.registry import DATASETS, import_loaders

    import_loaders()
    kinds = sorted((info for info in DATASETS.values() if containing in info.name), key=lambda info: info.name)
    return _table("dataset", ["what it is"], [Row(info.syntax, [info.description]) for info in kinds])


def _maps(containing: str) -> Listing:
    from dpaat.interpret.maps import MAPS

    kinds = [info for info in MAPS.values() if containing in info.name]
    rows = [Row(info.name, [info.description, f"{info.passes} F"]) for info in kinds]
    return _table("map", ["what it shows", "cost per image"], rows, "F: one forward pass")


def _grids(containing: str) -> Listing:
    from dpaat.benchmark.overrides import GRIDS

    paths = sorted(path for path in GRIDS.glob("*.yaml") if containing in path.stem)
    rows = [Row(path.stem, [path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")]) for path in paths]
    note = f"run one with `dpaat benchmark NAME`, or copy its file and change it: {GRIDS}"
    return _table("grid", ["what it is for"], rows, note)


def _table(corner: str, headings: list[str], rows: list[Row], *notes: str) -> Listing:
    return Table(corner, [Column(text, left=True) for text in headings], rows), *notes


LISTS: dict[str, Callable[[str], Listing]] = {
    "methods": _methods,
    "models": _models,
    "attacks": _attacks,
    "datasets": _datasets,
    "maps": _maps,
    "grids": _grids,
}
