"""Scales, ticks and labels that don't run into each other: what all charts share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from offline.report.drawing import SHAPES, SIZE, Drawing, Line, Marks, Text, text_width
from offline.report.palette import segment_token

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIDE, NARROW = 760.0, 340.0  # units: of a page on a desk, and on a phone
SMALL = 11.0
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
THREE_YEARS, TWO_MONTHS = 3 * 365, 62


@dataclass(frozen=True, slots=True)
class Key:
    """How a segment is told from the others: its place among them, its number, its name."""

    place: int
    number: str
    name: str

    @property
    def color(self) -> str:
        """Name its colour."""
        return segment_token(self.place)

    @property
    def shape(self) -> str:
        """Name its shape: of segments of one colour each has another."""
        return SHAPES[(self.place + self.place // len(SHAPES)) % len(SHAPES)] if self.place >= 0 else "circle"

    @property
    def label(self) -> str:
        """Give number and name."""
        return f"{self.number} {self.name}" if self.number else self.name


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear scale from `low` to `high` onto `begin` to `end`."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        """Place a value."""
        span = self.high - self.low
        return self.begin + (value - self.low) / span * (self.end - self.begin) if span else (self.begin + self.end) / 2


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Choose round numbers from `low` to `high`, at most `most` of them where that can be.

    >>> ticks(0, 1, 5)
    [0.0, 0.5, 1.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(nice * power for nice in (1, 2, 5, 10) if nice * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def keyed(drawing: Drawing, key: Key, x: float, y: float, *, size: float = 9.0) -> None:
    """Draw a segment's mark about a text of that baseline."""
    drawing.add(Marks([(x, y - SIZE * 0.34)], key.shape, key.color, size))


def spaced(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart by at least `gap`, within bounds as far as there is room, in their order, as little as can be."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    placed: list[float] = []
    for n, i in enumerate(order):
        floor = placed[-1] + gap if placed else low
        placed.append(max(min(wanted[i], high - gap * (len(order) - 1 - n)), floor))
    for n in range(len(placed) - 2, -1, -1):
        placed[n] = max(min(placed[n], placed[n + 1] - gap), low)
    found = [0.0] * len(wanted)
    for place, i in zip(placed, order, strict=True):
        found[i] = place
    return found


def across(drawing: Drawing, scale: Scale, at: Sequence[float], words: Callable[[float], str], top: float, bottom: float) -> None:
    """Draw vertical grid lines and the numbers below them; numbers that would touch are left out."""
    end = -math.inf
    for value in at:
        x = scale(value)
        drawing.add(Line([(x, top), (x, bottom)], "line"))
        text = words(value)
        half = text_width(text, SMALL) / 2
        middle = min(max(x, half), drawing.width - half)
        if middle - half > end + 4:
            drawing.add(Text(middle, bottom + 15, text, "muted", SMALL, "middle"))
            end = middle + half


def upwards(drawing: Drawing, scale: Scale, at: Sequence[float], words: Callable[[float], str], left: float, right: float) -> None:
    """Draw horizontal grid lines and the numbers left of them."""
    for value in at:
        y = scale(value)
        drawing.add(Line([(left, y), (right, y)], "line"), Text(left - 6, y + 4, words(value), "muted", SMALL, "end"))


def date_words(span_days: float) -> Callable[[float], str]:
    """Choose how dates are written on an axis of so many days; times are in ms."""

    def day(time_ms: float) -> str:
        then = datetime.fromtimestamp(time_ms / 1000, UTC)
        if span_days > THREE_YEARS:
            return str(then.year)
        month = MONTHS[then.month - 1]
        return f"{then.day} {month}" if span_days < TWO_MONTHS else f"{month} {then.year}"

    return day


def month_starts(low: int, high: int, most: int) -> list[float]:
    """Choose beginnings of months, or days where there are few, from `low` to `high` (ms)."""
    begin, end = datetime.fromtimestamp(low / 1000, UTC), datetime.fromtimestamp(high / 1000, UTC)
    found = []
    year, month = begin.year, begin.month
    while (year, month) <= (end.year, end.month):
        at = datetime(year, month, 1, tzinfo=UTC).timestamp() * 1000
        if low <= at <= high:
            found.append(at)
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)  # noqa: PLR2004  # December
    if len(found) < 3:  # noqa: PLR2004  # too few to read an axis by
        days = max((high - low) // 86_400_000, 1)
        step = max(round(days / most), 1) * 86_400_000
        return [float(at) for at in range(low, high + 1, step)]
    return found[:: max(math.ceil(len(found) / most), 1)]
