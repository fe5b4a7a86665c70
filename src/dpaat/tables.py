"""Tables: one model for the terminal, Markdown and HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from markupsafe import Markup, escape
from rich import box
from rich.console import Group as Lines
from rich.table import Table as RichTable
from rich.text import Text

Kind = Literal["", "key", "pass", "warn", "fail", "skipped"]
COLOURS = {"pass": "green", "warn": "yellow", "fail": "red", "skipped": "dim"}


@dataclass(frozen=True)
class Cell:
    """A cell; `small` is small print after the text, `kind` a verdict or "key" for the column that matters most."""

    text: str
    small: str = ""
    kind: Kind = ""


@dataclass(frozen=True)
class Column:
    """Head of a column; neighbours of one `group` share a heading above theirs.

    Attributes:
        text: the heading.
        group: the heading shared; "" for none.
        left: words rather than numbers.
        long: words enough to be broken into lines.
        whole: never broken into lines on a terminal.
    """

    text: str
    group: str = ""
    left: bool = False
    long: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Row:
    """A row; a quiet one is for comparison only."""

    name: str
    cells: Sequence[Cell | str]
    quiet: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        corner: heading of the row names.
        columns: those after the row names; a text stands for a column of numbers.
        rows: as many cells each as there are columns; a text stands for a plain cell.
        title: a line above it, on a terminal.
        note: below it, in small print, on a page.
        folded: the line to click on where a page folds the table away at first; "" for a table in plain sight.
        open: whether a folded table begins unfolded.
        whole: row names are never broken into lines on a terminal.
    """

    corner: str
    columns: Sequence[Column | str]
    rows: Sequence[Row]
    title: str = ""
    note: str = ""
    folded: str = ""
    open: bool = False
    whole: bool = False

    @property
    def heads(self) -> list[Column]:
        """The columns after the row names."""
        return [Column(each) if isinstance(each, str) else each for each in self.columns]

    @property
    def body(self) -> list[tuple[Row, list[Cell]]]:
        """Every row with its cells."""
        return [(row, [Cell(each) if isinstance(each, str) else each for each in row.cells]) for row in self.rows]

    def to_rich(self) -> Lines:
        """For a terminal: the title, the table, an empty line."""
        table = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for column in (Column(self.corner, left=True, whole=self.whole), *self.heads):
            table.add_column(
                Text(column.text),
                justify="left" if column.left else "right",
                no_wrap=column.whole,
                overflow="fold",
            )
        for row, cells in self.body:
            shown = (Text(f"{each.text} {each.small}".strip(), style=COLOURS.get(each.kind, "")) for each in cells)
            table.add_row(Text(row.name), *shown, style="dim" if row.quiet else None)
        # A table's own title would be broken at the width of the table, and read as markup.
        return Lines(*([Text(self.title, style="bold")] if self.title else []), table, Text())

    def to_markdown(self) -> str:
        """As GitHub writes tables, between the line to click on and the note."""
        heads = [f"{column.group} {column.text}".strip() for column in self.heads]
        lines = [[escape_markdown(text) for text in (self.corner, *heads)]]
        lines.append(["---", *("---" if column.left else "---:" for column in self.heads)])
        for row, cells in self.body:
            texts = [escape_markdown(each.text) for each in cells]
            bold = [f"**{text}**" if each.kind == "key" else text for text, each in zip(texts, cells, strict=True)]
            shown = (f"{text} {each.small}".strip() for text, each in zip(bold, cells, strict=True))
            lines.append([escape_markdown(row.name), *shown])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join(part for part in (escape_markdown(self.folded), table, escape_markdown(self.note)) if part)

    def to_html(self) -> Markup:
        """For the body of a page, escaped."""
        heads, groups = self.heads, [(name, len([*each])) for name, each in groupby(self.heads, lambda c: c.group)]
        starts = [bool(name) and not k for name, width in groups for k in range(width)]
        above = _html(
            '<th colspan="{}" class="group start" scope="colgroup">{}</th>', ((n, name) for name, n in groups)
        )
        over = Markup("<tr><td></td>{}</tr>\n").format(above) if any(name for name, _ in groups) else ""
        named = [(_classes(text=c.left, start=s), c.text) for c, s in zip(heads, starts, strict=True)]
        rows = []
        for row, cells in self.body:
            at = zip(heads, starts, cells, strict=True)
            shown = [(_classes(text=c.left, long=c.long, start=s, key=e.kind == "key"), _content(e)) for c, s, e in at]
            floor = Markup(' class="floor"') if row.quiet else ""
            rows.append((floor, row.name, row.name, _html('<td class="{}">{}</td>\n', shown)))
        table = Markup(
            '<div class="scroll"><table>\n<thead>\n{}<tr><th scope="col">{}</th>{}</tr>\n</thead>\n<tbody>\n{}</tbody>'
            "</table></div>\n"
        ).format(
            over,
            self.corner,
            _html('<th scope="col" class="{}">{}</th>', named),
            _html('<tr{}><th scope="row" title="{}">{}</th>\n{}</tr>\n', rows),
        )
        note = Markup('<p class="note">{}</p>\n').format(code_html(self.note)) if self.note else ""
        if not self.folded:
            return table + note
        begin = Markup("<details{}><summary>{}</summary>\n").format(Markup(" open" if self.open else ""), self.folded)
        return begin + table + note + Markup("</details>\n")


def percent(fraction: float | None) -> str:
    """Write a fraction as percent with one decimal; "-" for None."""
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def score_cell(
    value: float | None, interval: Sequence[float] | None = None, *, sign: bool = False, kind: Kind = "", more: str = ""
) -> Cell:
    """A fraction as percent, such as "56.4 [53.0, 59.9]", with a sign for differences and more small print."""
    if value is None:
        return Cell("-", kind=kind)
    around = "" if interval is None else f"[{percent(interval[0])}, {percent(interval[1])}]"
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


def _html(form: str, items: Iterable[Sequence[object]]) -> Markup:
    return Markup("").join(Markup(form).format(*each) for each in items)


def _classes(**names: bool) -> str:
    return " ".join(name for name, wanted in names.items() if wanted)


def _content(cell: Cell) -> Markup:
    text = Markup('<span class="{}">{}</span>').format(cell.kind, cell.text) if cell.kind in COLOURS else cell.text
    return Markup("{}{}").format(text, Markup("<small>{}</small>").format(cell.small) if cell.small else "")
