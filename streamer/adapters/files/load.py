"""A whole file to events, with the account of every row; no Kafka here.

The order of work: 1. read a chunk; 2. apply the mapping to it; 3. when all chunks are in, take out duplicate lines; 4. group and order.
Law: `Totals.balanced` holds for every file.
Memory: the lines of a whole file are held until they are in order, 0.1 to 0.8 kB a row (texts that many rows share are held once), so
files of more than `rows_max` rows are refused before anything is sent. Split such a file by time, never through a group, and load the parts
in order.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from streamer.adapters.files import ROWS_MAX
from streamer.adapters.files.events import events_of, joined, without_duplicates
from streamer.adapters.files.mapping_file import MappingError
from streamer.adapters.files.rows import REJECTED, Limits, Vocabularies, lines_of
from streamer.adapters.files.tables import CHUNK_ROWS, Unreadable, read_table

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from collections.abc import Mapping as MappingOf
    from pathlib import Path

    from streamer.adapters.files.events import Events, Record
    from streamer.adapters.files.mapping import Mapping
    from streamer.adapters.files.rows import Refused

BATCH_EVENTS = 1_000


@dataclass(frozen=True, slots=True)
class Totals:
    """The account of a file: each row is used in an event, rejected for a reason, or skipped by a declared rule."""

    rows_read: int
    rows_used: int
    rejected: MappingOf[str, int]  # rows by reason
    skipped: MappingOf[str, int]  # rows by rule
    events: int
    customers: int
    event_types: MappingOf[str, int]  # events by type
    amounts: MappingOf[tuple[str, str], int]  # minor units by type and currency
    first_ms: int | None
    last_ms: int | None

    @property
    def balanced(self) -> bool:
        """Tell whether every row is accounted for."""
        return self.rows_read == self.rows_used + sum(self.rejected.values()) + sum(self.skipped.values())


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file's events in order, the rows left out, and the account."""

    events: Events
    refused: tuple[Refused, ...]
    totals: Totals

    def batches(self, events_max: int = BATCH_EVENTS) -> Iterator[list[Record]]:
        """Give the events in order, up to `events_max` at a time."""
        for first in range(0, len(self.events), events_max):
            yield list(self.events.records(first, first + events_max))


def load(
    path: Path,
    mapping: Mapping,
    *,
    limits: Limits | None = None,
    rows_max: int = ROWS_MAX,
    chunk_rows: int = CHUNK_ROWS,
    progress: Callable[[int, float], None] | None = None,
) -> Loaded:
    """Read a file and make its events; after each chunk, `progress` is told the rows read and the part of the file done.

    Raises `Unreadable` where the file can't be read or has more than `rows_max` rows, `MappingError` where it lacks a column.
    """
    limits = limits or Limits()
    vocabularies = Vocabularies()
    parts = []
    refused: list[Refused] = []
    seen: dict[str, None] = {}
    rows_read = 0
    for chunk in read_table(path, mapping.table, chunk_rows):
        seen.update(dict.fromkeys(chunk.columns))
        if chunk.closed:
            check_columns(path, mapping, seen)
        rows_read += len(chunk.rows) + len(chunk.broken)
        if rows_read > rows_max:
            message = f"{path}: over {rows_max:,} rows, too many to hold: split it by time (groups whole) or raise --rows-max"
            raise Unreadable(message)
        lines, left_out = lines_of(mapping, chunk, vocabularies, limits)
        parts.append(lines)
        refused += left_out
        if progress is not None:
            progress(rows_read, chunk.done)
    check_columns(path, mapping, seen)
    lines, duplicates = without_duplicates(joined(parts))
    events, left_out = events_of(mapping, lines, vocabularies)
    refused += [*duplicates, *left_out]
    return Loaded(events, tuple(refused), _totals(rows_read, refused, events))


def events_from(path: Path, mapping: Mapping, events_max: int = BATCH_EVENTS) -> Iterator[list[Record]]:
    """Give a file's events in the order of their time, up to `events_max` at a time; see `load` for the account of the rows."""
    yield from load(path, mapping).batches(events_max)


def check_columns(path: Path, mapping: Mapping, present: Collection[str]) -> None:
    """Raise `MappingError` where the file lacks a column that the mapping reads."""
    faults = []
    for name in mapping.columns():
        if name not in present:
            near = get_close_matches(name, present, 1) or [other for other in present if other.casefold() == name.casefold()]
            hint = f"did you mean {near[0]!r}?" if near else f"its columns are {', '.join(map(repr, present)) or 'none'}"
            faults.append(f"{path}: the mapping {mapping.name!r} reads the column {name!r}, which the file does not have: {hint}")
    if faults:
        raise MappingError("\n".join(faults))


def _totals(rows_read: int, refused: Iterable[Refused], events: Events) -> Totals:
    rejected: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for piece in refused:
        (rejected if piece.outcome == REJECTED else skipped)[str(piece.reason)] += len(piece.rows)
    kinds = events.texts.get("event_type", ())
    currencies = events.texts.get("currency", (None,) * len(events))
    amounts: Counter[tuple[str, str]] = Counter()
    for kind, currency, amount in zip(kinds, currencies, events.amount.tolist(), strict=True):
        amounts[str(kind), currency or ""] += amount
    times = events.occurred_at
    return Totals(
        rows_read,
        int(events.lines.sum()),
        dict(rejected.most_common()),
        dict(skipped.most_common()),
        len(events),
        len(set(events.texts.get("customer_id", ()))),
        dict(Counter(str(kind) for kind in kinds).most_common()),
        dict(amounts),
        int(times[0]) if len(times) else None,
        int(times[-1]) if len(times) else None,
    )
