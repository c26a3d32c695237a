"""The charts of sizes, money and time: bars, ranges, bands, lines and grids.

Each takes numbers and a width, and gives a drawing; texts have at least 11 units, whatever the width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from offline.report.axes import SMALL, Key, Scale, across, date_words, keyed, month_starts, spaced, ticks, upwards
from offline.report.drawing import BOLD, SIZE, Area, Drawing, Line, Marks, Rect, Text, shortened, text_width
from offline.report.words import number, percent
from streamer.core.declaration import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from offline.report.facts import Grid, Sizes
    from streamer.core.columns import F64, I64

BAR, ROW = 16.0, 46.0


class Bar(NamedTuple):
    """One bar: how long, what stands at its end, its colour."""

    value: float
    text: str
    fill: str


def bars(rows: Sequence[tuple[Key, Sequence[Bar]]], width: float) -> Drawing:
    """Draw one row a segment: its name above, its bars below, each with its value at the end."""
    longest = max((bar.value for _, some in rows for bar in some), default=0.0) or 1.0
    room = max((text_width(bar.text) for _, some in rows for bar in some), default=0.0) + 12
    drawing, y = Drawing(width), 4.0
    for key, some in rows:
        keyed(drawing, key, 6, y + 13)
        drawing.add(Text(18, y + 13, shortened(key.label, (width - 18) / BOLD), bold=True))
        y += 20
        for bar in some:
            long = max(bar.value / longest * (width - room), 1.0)
            drawing.add(Rect(0, y, long, BAR, bar.fill, 2, f"{key.label}: {bar.text}"), Text(long + 6, y + 12.5, bar.text))
            y += BAR + 3
        y += ROW - BAR - 23
    drawing.height = y
    return drawing


def ranges(rows: Sequence[tuple[Key, F64]], words: Callable[[float], str], width: float) -> Drawing:
    """Draw one row a segment: a bar from the first to the third quartile, and a mark at the median; a row of NaN has none."""
    drawing = Drawing(width)
    known = [quartiles for _, quartiles in rows if np.isfinite(quartiles).all()]
    high = max((float(quartiles[2]) for quartiles in known), default=1.0) or 1.0
    scale = Scale(0, high, 8, width - 14 - max((text_width(words(float(quartiles[1])), SMALL) for quartiles in known), default=0))
    bottom = 6 + len(rows) * ROW
    across(drawing, scale, ticks(0, high, 4), words, 4, bottom)
    for n, (key, quartiles) in enumerate(rows):
        y = 8.0 + n * ROW
        label = shortened(key.label, (width - 18) / BOLD)
        drawing.add(Rect(0, y, text_width(label) * BOLD + 22, 17, "paper"))
        keyed(drawing, key, 6, y + 12)
        drawing.add(Text(18, y + 12, label, bold=True))
        if not np.isfinite(quartiles).all():
            drawing.add(Text(18, y + 31, "no order", "muted"))
            continue
        low, middle, up = (float(q) for q in quartiles)
        told = f"{key.label}: half of the orders from {words(low)} to {words(up)}, the middle one {words(middle)}"
        drawing.add(Rect(scale(low), y + 23, max(scale(up) - scale(low), 2), 9, key.color, 2, told))
        drawing.add(Line([(scale(middle), y + 19), (scale(middle), y + 36)], "ink", 2.5))
        drawing.add(Text(max(scale(up), scale(middle) + 2) + 6, y + 32, words(middle), size=SMALL))
    drawing.height = bottom + 22
    return drawing


def bands(keys: Sequence[Key], sizes: Sizes, width: float) -> Drawing:
    """Draw shares over time, one above the other, the first key on top; the last column is of those with too little behind them."""
    drawing = Drawing(width, 300)
    top, bottom, left, right = 8.0, 270.0, 40.0, width - 30
    share = sizes.customers / np.maximum(sizes.customers.sum(axis=1, keepdims=True), 1)
    begin, end = sizes.instants[0], sizes.instants[-1]
    x, y = Scale(begin, end, left, right), Scale(0, 1, bottom, top)
    above = 1 - np.cumsum(share, axis=1) + share
    all_keys = [*keys, Key(-1, "", "too little known")]
    for n, key in enumerate(all_keys):
        high = [(x(at), y(above[t, n])) for t, at in enumerate(sizes.instants)]
        low = [(x(at), y(above[t, n] - share[t, n])) for t, at in enumerate(sizes.instants)]
        if len(high) == 1:
            high, low = [(left, high[0][1]), (right, high[0][1])], [(left, low[0][1]), (right, low[0][1])]
        told = f"{key.label}: {percent(share[-1, n])} of the customers at the end"
        drawing.add(Area([("M", high[:1]), ("L", [*high[1:], *reversed(low)])], key.color, title=told))
        drawing.add(Line(high, "paper", 1.5))
    upwards(drawing, y, (0, 0.5, 1), percent, left, left)
    days = (end - begin) / DAY_MS
    across(drawing, x, month_starts(begin, end, 4 if width < 500 else 8), date_words(days), bottom, bottom + 4)  # noqa: PLR2004  # narrow
    middles = [y(above[-1, n] - share[-1, n] / 2) for n in range(len(all_keys))]
    shown = [n for n in range(len(all_keys)) if share[-1, n] > 0]
    for n, at in zip(shown, spaced([middles[n] for n in shown], 13, top + 5, bottom - 3), strict=True):
        keyed(drawing, all_keys[n], right + 9, at + 4, size=8)
        drawing.add(Text(right + 16, at + 4, all_keys[n].number, size=SMALL))
    return drawing


def lines(
    rows: Sequence[tuple[Key, F64]], labels: Sequence[str], words: Callable[[float], str], width: float, *, high: float | None = None
) -> Drawing:
    """Draw one line a segment over the same few steps; a row of NaN has none. Numbers of segments stand at the ends."""
    drawing = Drawing(width, 290)
    top, bottom, left, right = 10.0, 252.0, 44.0, width - 44
    most = max((float(np.nanmax(row)) for _, row in rows if np.isfinite(row).any()), default=1.0)
    y = Scale(0, high or most * 1.05 or 1.0, bottom, top)
    x = Scale(0, max(len(labels) - 1, 1), left + 14, right - 6)
    upwards(drawing, y, ticks(0, y.high, 5), words, left, right)
    for step, label in enumerate(labels):
        drawing.add(Text(x(step), bottom + 18, label, "muted", SMALL, "middle"))
    ends = []
    for key, row in rows:
        points = [(x(step), y(float(value))) for step, value in enumerate(row) if math.isfinite(value)]
        if not points:
            continue
        told = f"{key.label}: {', '.join(words(float(value)) for value in row)}"
        drawing.add(Line(points, key.color, 2, title=told), Marks(points, key.shape, key.color, 9, title=told))
        ends.append((key, points[-1]))
    for (key, (end, _)), at in zip(ends, spaced([point[1] for _, point in ends], 13, top, bottom), strict=True):
        keyed(drawing, key, end + 18, at + 4, size=8)
        drawing.add(Text(end + 26, at + 4, key.number, size=SMALL))
    return drawing


def cells(grid: Grid, keys: Sequence[Key], words: Callable[[float], str], width: float) -> Drawing:
    """Draw buyers by recency and number of orders: how many in figures and colour, what they spent, and the segment that most are in."""
    rows, columns = grid.customers.shape
    left, top = 78.0 if width > 500 else 62.0, 44.0  # noqa: PLR2004  # narrow
    w, h = (width - left) / columns, 58.0
    drawing = Drawing(width, top + rows * h + 2)
    drawing.add(Text(width, 14, "orders ever →", "muted", SMALL, "end"), Text(0, 14, "last order ↓", "muted", SMALL))
    for c, (low, high) in enumerate(grid.orders):
        drawing.add(Text(left + (c + 0.5) * w, 34, _span(low, high), anchor="middle", bold=True, size=SMALL))
    most = float(grid.customers.max())
    for r, (low, high) in enumerate(grid.recency_days):
        y = top + r * h
        drawing.add(Text(0, y + h / 2 - 2, _span(low, high), bold=True, size=SMALL), Text(0, y + h / 2 + 12, "days ago", "muted", SMALL))
        for c in range(columns):
            count = int(grid.customers[r, c])
            step = 0 if not count else min(int(math.sqrt(count / most) * 5) + 1, 5)
            fill = f"q{step}" if step else "panel"
            x = left + c * w
            place = int(grid.place[r, c])
            most_in = keys[place].label if 0 <= place < len(keys) else "no segment: too little is known of them"
            told = (
                f"{count:,} customers, half spent more than {words(float(grid.spent[r, c]))}; most are in {most_in}" if count else "nobody"
            )
            drawing.add(Rect(x + 1, y + 1, w - 2, h - 2, fill, 3, told))
            if not count:
                continue
            ink = f"on-q{step}"
            drawing.add(Text(x + w / 2, y + 19, f"{count:,}", ink, 13, "middle", bold=True))
            drawing.add(Text(x + w / 2, y + 34, words(float(grid.spent[r, c])), ink, SMALL, "middle"))
            whose = f"segment {keys[place].number}" if 0 <= place < len(keys) else "too little known"
            if text_width(whose, SMALL) > w - 4:
                whose = f"seg {keys[place].number}" if 0 <= place < len(keys) else "new"
            drawing.add(Text(x + w / 2, y + 49, whose, ink, SMALL, "middle"))
    return drawing


def _span(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"  # noqa: RUF001  # a range has a dash


def daily(days: I64, events: I64, odd: Sequence[int], width: float) -> Drawing:
    """Draw events a day; days (since 1970) that are `odd` have a mark."""
    drawing = Drawing(width, 190)
    top, bottom, left, right = 14.0, 160.0, 52.0, width - 6
    first, last = int(days[0]), int(days[-1])
    x, y = Scale(first, last + 1, left, right), Scale(0, float(events.max()) or 1.0, bottom, top)
    upwards(drawing, y, ticks(0, y.high, 4), number, left, right)
    across(
        drawing,
        Scale(first * DAY_MS, (last + 1) * DAY_MS, left, right),
        month_starts(first * DAY_MS, (last + 1) * DAY_MS, 4 if width < 500 else 8),  # noqa: PLR2004  # narrow
        date_words(last + 1 - first),
        bottom,
        bottom + 4,
    )
    each = max(x(first + 1) - x(first) - 0.4, 0.5)
    outline = [(x(first), bottom)]
    for day, n in zip(days.tolist(), events.tolist(), strict=True):
        outline += [(x(day), bottom), (x(day), y(n)), (x(day) + each, y(n)), (x(day) + each, bottom)]
    drawing.add(Area([("M", outline[:1]), ("L", outline[1:])], "q4"))
    drawing.add(Marks([(x(day + 0.5), y(int(events[np.searchsorted(days, day)])) - 7) for day in odd], "inverted", "bad", 8, title="odd"))
    return drawing


class Panel(NamedTuple):
    """One small chart of figures by k."""

    title: str
    series: Sequence[tuple[str, str, str, Sequence[float]]]  # name, colour, shape, a value for each k
    high: float | None
    words: Callable[[float], str]


def by_k(ks: Sequence[int], panels: Sequence[Panel], chosen: int, width: float) -> Drawing:
    """Draw figures by number of segments, one panel beside the other where there is room; the number chosen has a line across."""
    beside = width > 500  # noqa: PLR2004  # narrow
    w, h = (width / len(panels) if beside else width), 230.0
    drawing = Drawing(width, h if beside else h * len(panels))
    for n, panel in enumerate(panels):
        x0, y0 = (n * w, 0.0) if beside else (0.0, n * h)
        values = [v for _, _, _, some in panel.series for v in some if math.isfinite(v)]
        low, high = min(0.0, *values), panel.high or max(values) * 1.05 or 1.0
        x, y = Scale(ks[0], ks[-1], x0 + 56, x0 + w - 26), Scale(low, high, y0 + h - 44, y0 + 48)
        drawing.add(Text(x0 + 2, y0 + 14, panel.title, bold=True))
        legend = x0 + 8
        for name, color, shape, _ in panel.series if len(panel.series) > 1 else ():
            drawing.add(Marks([(legend, y0 + 30)], shape, color, 8), Text(legend + 9, y0 + 34, name, "muted", SMALL))
            legend += text_width(name, SMALL) + 26
        upwards(drawing, y, ticks(low, high, 4), panel.words, x0 + 46, x0 + w - 14)
        if ks[0] <= chosen <= ks[-1]:
            drawing.add(Line([(x(chosen), y0 + 44), (x(chosen), y0 + h - 44)], "ink", 1.5, dash=True))
        for k in ks:
            drawing.add(Text(x(k), y0 + h - 26, str(k), "ink" if k == chosen else "muted", SIZE, "middle", bold=k == chosen))
        drawing.add(Text(x0 + w / 2 + 14, y0 + h - 8, "segments", "muted", SMALL, "middle"))
        for name, color, shape, some in panel.series:
            points = [(x(k), y(v)) for k, v in zip(ks, some, strict=True) if math.isfinite(v)]
            told = f"{name}: " + ", ".join(f"{k}: {panel.words(v)}" for k, v in zip(ks, some, strict=True) if math.isfinite(v))
            drawing.add(Line(points, color, 2, title=told), Marks(points, shape, color, 9, title=told))
    return drawing
