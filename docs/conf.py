"""The documentation site: sphinx-build -W docs OUT."""

import dpaat

project, author = "dpaat", "The dpaat authors"
version = release = dpaat.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "dpaat"
html_show_copyright = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
nitpicky = False


def describe_fields(app, what, name, obj, options, lines):  # type: ignore[no-untyped-def]
    """List the fields of a configuration with their helps and defaults, which stand in the class alone."""
    for field, info in getattr(obj, "__pydantic_fields__", {}).items():
        default = info.get_default(call_default_factory=True)
        lines.append(f":param {field}: {info.description}" + (f" (default: ``{default!r}``)" if default else ""))


def setup(app):  # type: ignore[no-untyped-def]
    """Hook into autodoc."""
    app.connect("autodoc-process-docstring", describe_fields)
