"""What a page is made of: sections of text, tables, figures and pictures, written as HTML or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from dpaat.evaluation.table import percent
from dpaat.report.drawing import Plot

Kind = Literal["", "key", "pass", "warn", "fail", "skipped"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what stands in it.
        small: a second line in small print, such as an interval.
        kind: "key" for the column that matters most; a verdict for a coloured word; "" for a plain one.
    """

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
    """

    text: str
    group: str = ""
    left: bool = False
    long: bool = False


@dataclass(frozen=True)
class Row:
    """One row of a table; a quiet one is for comparison only."""

    name: str
    cells: Sequence[Cell]
    quiet: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        corner: heading of the row names.
        columns: those after the row names.
        rows: as many cells each as there are columns.
        note: below it, in small print.
        folded: the line to click on where the table is folded away at first; "" for a table in plain sight.
        open: whether a folded table begins unfolded.
    """

    corner: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    note: str = ""
    folded: str = ""
    open: bool = False
    template: ClassVar[str] = "table"

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Shared headings and the number of columns each spans; empty if there are none."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            if found and found[-1][0] == column.group:
                found[-1] = (column.group, found[-1][1] + 1)
            else:
                found.append((column.group, 1))
        return found if any(name for name, _ in found) else []

    @property
    def starts(self) -> list[bool]:
        """Whether each column begins a group."""
        groups = [column.group for column in self.columns]
        return [bool(group) and before != group for before, group in zip([None, *groups], groups, strict=False)]


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str
    template: ClassVar[str] = "heading"


@dataclass(frozen=True)
class Text:
    """A paragraph; words between backticks are code. Kinds: "" plain, "note" small print, "info", "warn" a banner."""

    text: str
    kind: Literal["", "note", "info", "warn"] = ""
    template: ClassVar[str] = "text"


@dataclass(frozen=True)
class Figures:
    """Figures side by side."""

    plots: Sequence[Plot]
    template: ClassVar[str] = "figures"


@dataclass(frozen=True)
class Facts:
    """Terms and what is to be said of them; words between backticks are code."""

    facts: Sequence[tuple[str, str]]
    template: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Listing:
    """A file, folded away under a line."""

    summary: str
    text: str
    template: ClassVar[str] = "listing"


@dataclass(frozen=True)
class Picture:
    """A small picture, as a data URI."""

    source: str
    label: str
    alt: str


@dataclass(frozen=True)
class Card:
    """What there is to see of one image.

    Attributes:
        title: its id.
        text: what the model makes of it.
        pictures: side by side.
        curve: (x, y) from 0 to 1 each, drawn as a small line; empty for none.
        curve_alt: what the line shows.
    """

    title: str
    text: str
    pictures: Sequence[Picture]
    curve: Sequence[tuple[float, float]] = ()
    curve_alt: str = ""


@dataclass(frozen=True)
class Gallery:
    """Cards side by side under a heading of their own."""

    title: str
    cards: Sequence[Card]
    template: ClassVar[str] = "gallery"


@dataclass(frozen=True)
class Download:
    """A link that saves a table as CSV."""

    name: str
    words: str
    csv: str
    template: ClassVar[str] = "download"


Block = Heading | Text | Table | Figures | Facts | Listing | Gallery | Download


@dataclass(frozen=True)
class Section:
    """The answer to one question of the reader's.

    Attributes:
        anchor: its id on the page.
        title: the question.
        blocks: the answer.
    """

    anchor: str
    title: str
    blocks: Sequence[Block]


def score_cell(value: float | None, interval: Sequence[float] | None = None, *, kind: Kind = "") -> Cell:
    """A fraction as percent, its interval below it."""
    small = "" if value is None or interval is None else f"[{percent(interval[0])}, {percent(interval[1])}]"
    return Cell(percent(value), small, kind)
