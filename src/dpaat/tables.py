"""Tables: one model for the terminal, Markdown and HTML."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from jinja2 import Environment
from markupsafe import Markup, escape
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.console import Group as Lines
from rich.table import Table as RichTable
from rich.text import Text

Kind = Literal["", "key", "pass", "warn", "fail", "skipped"]
COLOURS = {"pass": "green", "warn": "yellow", "fail": "red", "skipped": "dim"}
MAX_HEAD = 16
"""Characters of a heading or a score up to which a terminal does not break it."""
GAP = 2
"""Characters between two columns on a terminal."""
STYLES = {**COLOURS, "key": "bold"}
HTML = """\
{% macro names() %}{{ varargs | select | join(" ") }}{% endmacro %}
{% if table.folded %}
<details{{ " open" if table.open }}><summary>{{ table.folded }}</summary>
{% endif %}
<div class="scroll"><table>
<thead>
{% if heads | selectattr("group") | first %}
<tr><td></td>
{%- for name, columns in groups %}<th colspan="{{ columns }}" class="group start" scope="colgroup">{{ name }}</th>
{%- endfor %}</tr>
{% endif %}
<tr><th scope="col">{{ table.corner }}</th>
{%- for c in heads %}<th scope="col" class="{{ names(c.left and "text", starts[loop.index0]) }}">{{ c.text }}</th>
{%- endfor %}</tr>
</thead>
<tbody>
{% for row, cells in table.body %}
<tr{% if row.quiet %} class="floor"{% endif %}><th scope="row" title="{{ row.name }}">{{ row.name }}</th>
{% for each in cells %}
{% set k, c = loop.index0, heads[loop.index0] %}
<td class="{{ names(c.left and "text", c.long and "long", starts[k], each.kind == "key" and "key") }}">
{%- if each.kind in colours %}<span class="{{ each.kind }}">{{ each.text }}</span>{% else %}{{ each.text }}{% endif %}
{%- if each.small %}<small>{{ each.small }}</small>{% endif %}
{%- for name, address in each.links %}<a href="{{ address }}">{{ name }}</a> {% endfor %}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
{% if table.note %}
<p class="note">{{ note }}</p>
{% endif %}
{{- "</details>\n" | safe if table.folded }}"""


@dataclass(frozen=True)
class Cell:
    """A cell; `small` is small print after the text, `kind` a verdict or "key" for the column that matters most.

    `links` are names and addresses that follow on a page.
    """

    text: str
    small: str = ""
    kind: Kind = ""
    links: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Column:
    """Head of a column."""

    text: str
    group: str = ""  # heading shared with the neighbours of the same group
    left: bool = False  # words rather than numbers
    long: bool = False  # words enough to be broken into lines
    whole: bool = False  # never broken into lines on a terminal


@dataclass(frozen=True)
class Row:
    """A row; a quiet one is for comparison only."""

    name: str
    cells: Sequence[Cell | str]
    quiet: bool = False


@dataclass(frozen=True)
class Table:
    """A table."""

    corner: str  # heading of the row names
    columns: Sequence[Column | str]  # a text is a column of numbers
    rows: Sequence[Row]  # as many cells each as there are columns; a text is a plain cell
    title: str = ""  # above it, on a terminal
    note: str = ""  # below it, in small print, on a page
    folded: str = ""  # the line to click on where a page folds the table away
    open: bool = False  # whether a folded table begins unfolded
    whole: bool = False  # row names are never broken into lines on a terminal

    @property
    def heads(self) -> list[Column]:
        """The columns after the row names."""
        return [Column(each) if isinstance(each, str) else each for each in self.columns]

    @property
    def headings(self) -> list[str]:
        """Texts of the columns, with those they share."""
        return [f"{head.group} {head.text}".strip() for head in self.heads]

    @property
    def body(self) -> list[tuple[Row, list[Cell]]]:
        """Every row with its cells."""
        return [(row, [Cell(each) if isinstance(each, str) else each for each in row.cells]) for row in self.rows]

    def to_rich(self) -> Lines:
        """For a terminal: the title, the table, an empty line."""
        # A table's own title would be broken at the width of the table, and read as markup.
        return Lines(*([Text(self.title, style="bold")] if self.title else []), _Terminal(self), Text())

    def records(self) -> list[dict[str, str]]:
        """For JSON: a row's cells by their headings."""
        names = [self.corner, *self.headings]
        return [dict(zip(names, [row.name, *(each.text for each in cells)], strict=True)) for row, cells in self.body]

    def to_markdown(self) -> str:
        """As GitHub writes tables, between the line to click on and the note."""
        lines = [[escape_markdown(text) for text in (self.corner, *self.headings)]]
        lines.append(["---", *("---" if column.left else "---:" for column in self.heads)])
        for row, cells in self.body:
            texts = ((escape_markdown(each.text), each) for each in cells)
            bold = (f"**{text}** {e.small}" if e.kind == "key" else f"{text} {e.small}" for text, e in texts)
            lines.append([escape_markdown(row.name), *(text.strip() for text in bold)])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join(part for part in (escape_markdown(self.folded), table, escape_markdown(self.note)) if part)

    def to_html(self) -> Markup:
        """For the body of a page, escaped."""
        heads, groups = self.heads, [(name, len([*each])) for name, each in groupby(self.heads, lambda c: c.group)]
        starts = ["start" if name and not k else "" for name, columns in groups for k in range(columns)]
        environment = Environment(autoescape=True, trim_blocks=True, keep_trailing_newline=True)
        told = {"groups": groups, "starts": starts, "note": code_html(self.note), "colours": COLOURS}
        return Markup(environment.from_string(HTML).render(table=self, heads=heads, **told))


class _Terminal:
    """A table as wide as a terminal; columns that have no room beside the others follow in tables below."""

    def __init__(self, table: Table) -> None:
        self.table = table
        names = [word for row in table.rows for word in row.name.split()]
        self.names = max(_unbroken(table.corner), min(MAX_HEAD, max(map(len, names), default=0)))
        self.widths = [_unbroken(head.text) for head in table.heads]
        for _, cells in table.body:
            for k, cell in enumerate(cells):
                text = f"{cell.text} {cell.small}".strip()
                unbroken = table.heads[k].whole or len(text) <= MAX_HEAD
                parts = [] if table.heads[k].left else [text] if unbroken else text.split()
                self.widths[k] = max(self.widths[k], *map(len, parts), 0)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts, room = [list[int]()], 0
        for k, width in enumerate(self.widths):
            if parts[-1] and width + GAP > room:
                parts.append([])
            room = (room if parts[-1] else options.max_width - self.names) - width - GAP
            parts[-1].append(k)
        for number, columns in enumerate(parts):
            if number:
                yield Text()
            yield self._part(columns)

    def _part(self, columns: Sequence[int]) -> RichTable:
        shown = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
        shown.add_column(Text(self.table.corner), overflow="fold", no_wrap=self.table.whole, min_width=self.names)
        for k in columns:
            head = self.table.heads[k]
            justify: Literal["left", "right"] = "left" if head.left else "right"
            options: dict[str, Any] = {"no_wrap": head.whole, "overflow": "fold", "min_width": self.widths[k]}
            shown.add_column(Text(head.text), justify=justify, **options)
        for row, cells in self.table.body:
            texts = [Text(f"{c.text} {c.small}".strip(), style=STYLES.get(c.kind, "")) for c in cells]
            shown.add_row(Text(row.name), *(texts[k] for k in columns), style="dim" if row.quiet else None)
        return shown


def _unbroken(heading: str) -> int:
    """The least width of a heading."""
    return len(heading) if len(heading) <= MAX_HEAD else max(map(len, heading.split()))


def percent(fraction: float | None) -> str:
    """Write a fraction as percent with one decimal; "-" for None."""
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def score_cell(
    value: float | None, interval: Sequence[float] | None = None, *, sign: bool = False, kind: Kind = "", more: str = ""
) -> Cell:
    """A fraction as percent, such as "56.4 [53.0, 59.9]", with a sign for differences and more small print.

    Where two models are alike on every image, no interval can be told; the cell says so instead of "[0.0, 0.0]".
    """
    if value is None:
        return Cell("-", kind=kind)
    # Against a steep line an interval can be endless, but no score differs by more than 100 points.
    ends = [percent(min(max(end, -1.0), 1.0)) for end in interval or ()]
    around = f"[{', '.join(ends)}]" if ends else ""
    if sign and interval and interval[0] == interval[1]:  # no spread in the images at hand says nothing of others
        around = "none differs"
    return Cell(f"{100 * value:+.1f}" if sign else percent(value), f"{around}{more}", kind)


def code_html(text: str) -> Markup:
    """Text as HTML, words between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def escape_markdown(text: str) -> str:
    """Text as Markdown that shows it as it is, apart from code between backticks."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(
        part.replace("|", r"\|") if number % 2 else re.sub(r"([\\*_\[\]<>|#$])", r"\\\1", part)
        for number, part in enumerate(parts)
    )
