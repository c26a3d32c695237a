"""How what is seen is shown to people: times, numbers and tables."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streamer.app.looking import Apart, SegmentLook

UNKNOWN = "-"
THOUSAND = 1000.0
SMALLEST = 0.0005  # below it, a feature is as good as 0
LARGEST_MS = 253_402_300_799_999  # the end of the year 9999, the last that has a date


def utc(time_ms: int | None) -> str:
    """Write a time to the second."""
    if time_ms is None:
        return UNKNOWN
    if not 0 <= time_ms <= LARGEST_MS:
        return f"{time_ms} ms"
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def number(value: float) -> str:
    """Write a number as short as it can be read."""
    if abs(value) >= THOUSAND or value == int(value):
        return f"{value:,.0f}"
    if abs(value) < SMALLEST:
        return "0"
    return f"{value:,.3g}"


def apart_words(features: Iterable[Apart]) -> str:
    """Tell what sets a segment apart: standard deviations from the average customer, and the value that this is."""
    return ", ".join(f"{a.feature} {number(a.typical)} ({a.z:+.1f})" for a in features)


def segments_table(segments: Sequence[SegmentLook]) -> Table:
    """Lay segments out with what sets them apart."""
    found = table(("id", ""), ("name", ""), ("customers", "right"), ("share", "right"), ("what sets it apart: typical value (z)", ""))
    for segment in segments:
        words = apart_words(segment.apart) or (
            "too little behind them to say" if segment.segment_id == "new" else "not in the latest version"
        )
        found.add_row(segment.segment_id, escape(segment.name), f"{segment.customers:,}", f"{segment.share:.1%}", words)
    return found


def table(*columns: tuple[str, str]) -> Table:
    """Make a table of columns, each a heading and `right` where it holds numbers."""
    found = Table(box=box.SIMPLE_HEAD)
    for heading, side in columns:
        found.add_column(heading, justify="right" if side == "right" else "left")
    return found


def titled(title: str, found: Table) -> Group:
    """Put a title above a table; it may be wider than that."""
    return Group(Text(title, style="bold"), found)


def as_json(seen: Any, *, indent: int | None = 2) -> str:  # noqa: ANN401  # any of the dataclasses that are shown
    """Write what was seen for machines."""
    return json.dumps(asdict(seen), indent=indent, ensure_ascii=False)
