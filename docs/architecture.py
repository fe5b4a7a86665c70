"""Architecture picture: packages and their imports, read from the code into ARCHITECTURE.md by running this file."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE, PAGE = ROOT / "src" / "dpaat", ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- made by docs/architecture.py -->\n", "<!-- end -->\n"
STATE = {"perturbation", "sample_state"}
"""Modules beside the packages that hold the method's state per sample."""

Graph = dict[str, set[str]]


def imports(path: Path) -> set[str]:
    """Packages, and modules beside them, that a file imports anywhere, such as "data" for `dpaat.data.splits`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "dpaat":
            names = [f"dpaat.{alias.name}" for alias in node.names]
        else:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found |= {name.split(".")[1] for name in names if name.startswith("dpaat.")}
    return found


def read_code() -> tuple[Graph, Graph]:
    """What every package imports, and every module beside them."""
    packages = {
        folder.name: set().union(*map(imports, folder.rglob("*.py"))) - {folder.name}
        for folder in sorted(SOURCE.iterdir())
        if (folder / "__init__.py").is_file()
    }
    modules = {path.stem: imports(path) for path in SOURCE.glob("*.py") if not path.stem.startswith("__")}
    modules["commands"] = packages.pop("commands", set())  # a part of the command line
    return packages, dict(sorted(modules.items()))


def reachable(graph: Graph, start: str) -> set[str]:
    """All that a node imports, directly or not."""
    found: set[str] = set()
    left = [start]
    while left:
        new = graph.get(left.pop(), set()) - found
        found |= new
        left += new
    return found


def picture() -> str:
    """The generated part of the page: a Mermaid graph, and the modules beside the packages.

    Raises:
        graphlib.CycleError: packages that import each other in a circle.
    """
    packages, modules = read_code()
    below = set().union(*packages.values())
    for name in [name for name in modules if name in below]:
        below |= reachable(modules, name)
    front = [name for name in modules if name not in below]
    nodes: Graph = {name: {"perturbation" if n in STATE else n for n in used} for name, used in packages.items()}
    nodes["cli"] = set().union(*(modules[name] for name in front))
    nodes["perturbation"] = set()
    graph = {name: used & nodes.keys() - {name} for name, used in nodes.items()}
    lines = ["```mermaid", "flowchart TD", '    cli["command line"]', '    perturbation["perturbation.py"]']
    ordered = TopologicalSorter({name: sorted(used) for name, used in graph.items()}).static_order()
    for name in reversed([*ordered]):
        implied = set().union(*(reachable(graph, other) for other in graph[name]))
        lines += [f"    {name} --> {other}" for other in sorted(graph[name] - implied)]
    shared = [name for name in modules if name in below and name not in STATE]
    return "\n".join(
        [
            *lines,
            "```",
            "",
            "An arrow reads *imports*; arrows that follow from others are left out. Beside the packages:",
            "",
            f"- the command line: {', '.join(f'`{name}`' for name in front)};",
            f"- used by several packages: {', '.join(f'`{name}`' for name in shared)}.",
            "",
        ]
    )


def page(text: str) -> str:
    """The page with its generated part renewed."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + picture() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
