"""Building blocks of a page: sections of text, tables, figures and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dpaat.report.drawing import Plot
from dpaat.tables import Table


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph; words between backticks are code. Kinds: "" plain, "note" small print, "info", "warn" a banner."""

    text: str
    kind: Literal["", "note", "info", "warn"] = ""


@dataclass(frozen=True)
class Figures:
    """Figures side by side."""

    plots: Sequence[Plot]


@dataclass(frozen=True)
class Facts:
    """Terms and what is to be said of them; words between backticks are code."""

    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Listing:
    """A file, folded away under a line."""

    summary: str
    text: str


@dataclass(frozen=True)
class Picture:
    """A small picture, as a data URI."""

    source: str
    label: str
    alt: str


@dataclass(frozen=True)
class Card:
    """What there is to see of one image: its id, what the model makes of it, pictures side by side, a small line."""

    title: str
    text: str
    pictures: Sequence[Picture]
    curve: Sequence[tuple[float, float]] = ()  # (x, y) from 0 to 1 each; empty for none
    curve_alt: str = ""  # what the line shows


@dataclass(frozen=True)
class Gallery:
    """Cards side by side under a heading of their own."""

    title: str
    cards: Sequence[Card]


@dataclass(frozen=True)
class Download:
    """A link that saves a table as CSV."""

    name: str
    words: str
    csv: str


Block = Heading | Text | Table | Figures | Facts | Listing | Gallery | Download


@dataclass(frozen=True)
class Section:
    """The answer to one question of the reader's; `anchor` is its id on the page."""

    anchor: str
    title: str
    blocks: Sequence[Block]
