"""Building blocks of a page, and the registry of sections that are made of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from dpaat.registry import Registry
from dpaat.report.comparison import Report
from dpaat.report.drawing import Plot
from dpaat.tables import Table


class Heading(NamedTuple):
    """A heading within a section."""

    text: str


class Text(NamedTuple):
    """A paragraph; words between backticks are code. Kinds: "" plain, "note" small print, "warn" a banner."""

    text: str
    kind: Literal["", "note", "warn"] = ""


class Figures(NamedTuple):
    """Figures side by side."""

    plots: Sequence[Plot]


class Facts(NamedTuple):
    """Terms and what is to be said of them; words between backticks are code."""

    facts: Sequence[tuple[str, str]]


class Listing(NamedTuple):
    """A file, folded away under a line."""

    summary: str
    text: str


class Fold(NamedTuple):
    """Blocks folded away under a line."""

    summary: str
    blocks: "Sequence[Block]"


class Picture(NamedTuple):
    """A small picture, as a data URI."""

    source: str
    label: str
    alt: str


class Card(NamedTuple):
    """What there is to see of one image: its id, what the model makes of it, pictures side by side, a small line."""

    title: str
    text: str
    pictures: Sequence[Picture]
    curve: Sequence[tuple[float, float]] = ()  # (x, y) from 0 to 1 each; empty for none
    curve_alt: str = ""  # what the line shows


class Gallery(NamedTuple):
    """Cards side by side under a heading of their own."""

    title: str
    cards: Sequence[Card]


class Download(NamedTuple):
    """A link that saves a table as CSV."""

    name: str
    words: str
    csv: str


Block = Heading | Text | Table | Figures | Facts | Listing | Fold | Gallery | Download


@dataclass(frozen=True)
class Section:
    """A section of the report; `anchor` is its id on the page, sections are sorted by `order`."""

    anchor: str
    make: Callable[[Report], Sequence[Block]]
    title: str
    order: float


SECTIONS = Registry("section", Section)
register_section = SECTIONS.register


def first_open(number: int, title: str, blocks: Sequence[Block]) -> list[Block]:
    """Blocks about a set of images: under a heading for the first set, which counts most, folded away for others."""
    return [Heading(title), *blocks] if number == 0 else folded(title, blocks)


def folded(summary: str, blocks: Sequence[Block]) -> list[Block]:
    """Blocks folded away under a line, apart from banners, which must be seen."""
    banners = [block for block in blocks if isinstance(block, Text) and block.kind == "warn"]
    return [*banners, Fold(summary, [block for block in blocks if block not in banners])]


def make_sections(report: Report) -> dict[Section, Sequence[Block]]:
    """Make all sections in their order, without those that have nothing to show."""
    made = ((each, each.make(report)) for each in sorted(SECTIONS.values(), key=lambda each: each.order))
    return {each: blocks for each, blocks in made if blocks}
