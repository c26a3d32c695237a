"""What a page is made of: sections with figures, each with its table, and cards of segments."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from offline.report.axes import NARROW, WIDE, Key
from offline.report.drawing import Drawing, svg
from offline.report.palette import SEGMENT_COLORS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from offline.report.study import Study
    from offline.report.words import Suggestion

SEGMENTS_SHOWN = 12  # in figures; tables have all


@dataclass(frozen=True, slots=True)
class Table:
    """A table; every column but those of the first `texts` holds numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing for a desk and one for a phone, what it shows in words, how to read it, and the numbers behind it."""

    name: str
    title: str
    alt: str
    caption: str
    table: Table
    wide: Drawing
    narrow: Drawing
    keys: Sequence[Key] = ()  # of the segments in it, where the drawing has their numbers alone

    @property
    def legend(self) -> Sequence[tuple[str, str, str]]:
        """Give the mark of each key as SVG, its number and its name."""
        return [(mark(key), key.number, key.name) for key in self.keys]

    @property
    def inline(self) -> str:
        """Give both as SVG for the page, which shows the one that fits."""
        return svg(self.wide, self.alt, inline=True, name="wide") + svg(self.narrow, self.alt, inline=True, name="narrow")


@dataclass(frozen=True, slots=True)
class Trait:
    """One thing that sets a segment apart: what, what is usual here and among all; `label` names the feature where `what` does not."""

    what: str
    here: str
    usual: str
    label: str


@dataclass(frozen=True, slots=True)
class Card:
    """One segment in plain words."""

    key: Key
    segment_id: str
    customers: str
    share: str
    traits: Sequence[Trait]
    suggestions: Sequence[Suggestion]

    @property
    def mark(self) -> str:
        """Give its mark as SVG; its number stands beside it."""
        return mark(self.key)


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page; `missing` says why there is nothing to show."""

    name: str
    title: str
    lead: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[tuple[str, Table]] = ()
    cards: Sequence[Card] = ()
    words: Sequence[tuple[str, str]] = ()
    missing: Sequence[str] = ()
    after: Sequence[str] = field(default_factory=tuple)


def figure(
    name: str, title: str, alt: str, caption: str, table: Table, draw: Callable[[float], Drawing], keys: Sequence[Key] = ()
) -> Figure:
    """Draw a figure in both widths."""
    return Figure(name, title, alt, caption, table, draw(WIDE), draw(NARROW), keys)


def mark(key: Key, size: int = 14) -> str:
    """Give a segment's mark alone, as SVG that says nothing: its number stands beside it."""
    from offline.report.drawing import Marks  # noqa: PLC0415  # of which it is one

    drawing = Drawing(size, size, [Marks([(size / 2, size / 2)], key.shape, key.color, size * 0.72)])
    return svg(drawing, "", inline=True, name="mark").replace('role="img" aria-label=""', 'aria-hidden="true"')


def keys_of(study: Study) -> list[Key]:
    """Give the keys of the version's active segments, by place."""
    return [Key(place, str(segment.number), segment.name) for place, segment in enumerate(study.version.active)]


def shown(study: Study) -> list[int]:
    """Choose the places that figures show: the largest segments, in the order of their places."""
    sizes = study.profile.customers
    largest = sorted(range(len(sizes)), key=lambda k: (-int(sizes[k]), k))[:SEGMENTS_SHOWN]
    return sorted(largest)


def left_out(study: Study) -> str:
    """Say which segments figures leave out, where they do."""
    more = len(study.profile.customers) - SEGMENTS_SHOWN
    colors = " Colours come again from the ninth on; numbers and shapes don't." if len(study.profile.customers) > SEGMENT_COLORS else ""
    return (f" The figure has the {SEGMENTS_SHOWN} largest segments, the table all." if more > 0 else "") + colors


def day(time_ms: int) -> str:
    """Write the last day before an instant, as people do."""
    then = datetime.fromtimestamp(time_ms / 1000 - 1, UTC)
    return f"{then.day} {then:%B %Y}"


def date_of(day_number: int) -> str:
    """Write a day since 1970."""
    return datetime.fromtimestamp(day_number * 86_400, UTC).strftime("%Y-%m-%d")
