"""The documentation site: sphinx-build -W -n docs OUT."""

import contextlib
import io
import re
from typing import Any

import dpaat
from dpaat.cli import COMMANDS, main

project, author = "dpaat", "The dpaat authors"
version = release = dpaat.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "dpaat"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
nitpick_ignore_regex = [
    # Names of other packages: their sites are not asked for, so that the build needs no network.
    (
        "py:.*",
        r"(torch|numpy|pandas|pathlib|collections|types|pydantic|rich|lightning|matplotlib|transformers|ignite)\..*",
    ),
    ("py:.*", r"(?!dpaat\.).*[ =~].*"),  # pieces of types that the reader of docstrings cuts at their commas
    ("py:class", r"dpaat\.(evaluation\.attacking\.ImageArray|benchmark\.(grid\.Grid|executors\.Needs))"),
    ("py:class", r"[A-Z]\w*(\[.*)?|nn\.Module|np\.ndarray"),  # aliases of types within the package
]


def describe_fields(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """List the fields of a configuration with their helps and defaults, which are in the class alone."""
    for field, info in getattr(obj, "__pydantic_fields__", {}).items():
        default = info.get_default(call_default_factory=True)
        lines.append(f":param {field}: {info.description}" + (f" (default: ``{default!r}``)" if default else ""))


def find_home(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Resolve a name that is documented elsewhere than where it is defined, such as `UserError`."""
    domain = env.get_domain("py")
    last = node.get("reftarget", "").rpartition(".")[2]
    homes = [name for name in domain.objects if name.rpartition(".")[2] == last]
    if not last or not homes:
        return None
    place = min(homes, key=len)
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", place, node, content)


def show_help(app: Any, docname: str, source: list[str]) -> None:
    """Put the help of every command on its page."""
    if docname != "commands":
        return
    parts = []
    for command, about in COMMANDS.items():
        does = about if isinstance(about, str) else about[-1]
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main([*command.split(), "--help"])
        text = re.sub(r" \x08|\x1b\[[0-9;]*m", "", out.getvalue()).strip()
        parts.append(f"## dpaat {command}\n\n{does[0].upper()}{does[1:]}.\n\n```text\n{text}\n```")
    source[0] = source[0].replace("<!-- help -->", "\n\n".join(parts))


def setup(app: Any) -> None:
    """Hook into Sphinx."""
    app.connect("autodoc-process-docstring", describe_fields)
    app.connect("missing-reference", find_home)
    app.connect("source-read", show_help)
