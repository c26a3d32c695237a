"""From decoded records to rows of history: every field of the valid events, side by side, and where a file of them ends.

Laws: a row says what its record said, field by field; of a key that a map repeats, the last value counts, as everywhere. Where files end is
a function of offsets and Kafka timestamps, so whoever writes a stretch of the log again from the same offset writes the same files.

The *log day* of a record is the UTC day of the latest Kafka timestamp up to it: it never goes back, however producers' clocks are set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from streamer.core.columns import I32, I64, U8, Bool, read_only  # the types of what is compiled
from streamer.core.compiled import compiled, kernel
from streamer.core.decoding import read_length, read_varint
from streamer.core.opcodes import Column, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.core.columns import Decoded

DAY_MS: Final = 86_400_000
NO_TIME: Final = -1
TEXTS: Final = ("event_id", "customer_id", "event_type", "currency", "product_id", "category", "session_id")
NUMBERS: Final = ("occurred_at", "amount", "quantity")
PROPERTIES: Final = "properties"


class Texts(NamedTuple):
    """`n` texts, joined: text i is `values[bounds[i]:bounds[i + 1]]`, and none at all where `there[i]` is false."""

    values: U8
    bounds: I64  # (n + 1,)
    there: Bool  # (n,)


class Maps(NamedTuple):
    """`n` maps of texts: the items of map i are `bounds[i]` to `bounds[i + 1]` of `keys` and `values`."""

    bounds: I64  # (n + 1,)
    keys: Texts
    values: Texts


class Numbers(NamedTuple):
    """`n` whole numbers, none where `there[i]` is false."""

    values: I64  # (n,)
    there: Bool  # (n,)


@dataclass(frozen=True, slots=True)
class EventColumns:
    """Valid events, `n` of them, in the order of the batch that they came in."""

    partition: I32  # (n,)
    offset: I64  # (n,)
    timestamp: I64  # (n,) Kafka's own, ms
    texts: Mapping[str, Texts]
    numbers: Mapping[str, Numbers]
    properties: Maps

    def __len__(self) -> int:
        """Count the events."""
        return len(self.offset)


def with_whole_events(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Add to a projection the fields of an event that it leaves out; those that it has keep their places."""
    asked = {column.field for column in columns if column.kind != Kind.PROPERTY}
    texts = [Column(Kind.STRING, name) for name in TEXTS if name not in asked]
    numbers = [Column(Kind.NUMBER, name) for name in NUMBERS if name not in asked]
    return (*columns, *texts, *numbers, Column(Kind.MAP, PROPERTIES))


def event_columns(
    columns: Sequence[Column], decoded: Decoded, values: U8, record: I64, partition: I32, offset: I64, timestamp: I64
) -> EventColumns:
    """Take events out of a decoded batch.

    Args:
        columns: what was decoded, made by `with_whole_events`.
        decoded: its columns, of the batch's records.
        values: the batch's joined values.
        record: (n,) which records to take.
        partition: (records,) of each record.
        offset: (records,) of each record.
        timestamp: (records,) Kafka's own, of each record.

    """
    place = {column.field: i for i, column in enumerate(columns) if column.kind != Kind.PROPERTY}

    def texts(name: str) -> Texts:
        return gather(values, decoded.cells[place[name]][record], decoded.lengths[place[name]][record])

    def numbers(name: str) -> Numbers:
        there = decoded.lengths[place[name]][record] >= 0
        return Numbers(np.where(there, decoded.cells[place[name]][record], 0), there)

    return EventColumns(
        partition[record],
        offset[record],
        timestamp[record],
        {name: texts(name) for name in TEXTS},
        {name: numbers(name) for name in NUMBERS},
        split_maps(values, decoded.cells[place[PROPERTIES]][record], decoded.lengths[place[PROPERTIES]][record]),
    )


def cuts(offset: I64, timestamp: I64, latest: int, last: int, file_offsets: int) -> tuple[I64, I64]:
    """Tell where files begin in a stretch of one partition's rows.

    A file holds rows of one log day, and of offsets between two multiples of `file_offsets`.

    Args:
        offset: (n,) ascending.
        timestamp: (n,) Kafka's own, ms.
        latest: the latest Kafka timestamp before the stretch; `NO_TIME` where there is none.
        last: the offset of the row before the stretch; -1 where there is none.
        file_offsets: how many offsets a file covers at most.

    Returns:
        (k,) the rows that begin a file, and (n,) the latest timestamp up to and with each row.

    >>> cuts(np.array([3, 4, 9]), np.array([5, 86_400_000, 7]), 3, 2, 8)
    (array([1, 2]), array([       5, 86400000, 86400000]))

    """
    running = np.maximum.accumulate(np.concatenate([[latest], timestamp]))
    offsets = np.concatenate([[last], offset])
    changed = (np.diff(running // DAY_MS) != 0) | (np.diff(offsets // file_offsets) != 0)
    return np.flatnonzero(changed), running[1:]


def gather(values: U8, start: I64, length: I32) -> Texts:
    """Join texts that lie anywhere in `values`; a negative length is a text that is not there."""
    there = length >= 0
    bounds = np.zeros(len(length) + 1, np.int64)
    np.cumsum(np.where(there, length, 0), out=bounds[1:])
    return Texts(_joined(read_only(values), np.ascontiguousarray(start, np.int64), bounds), bounds, there)


@compiled
def _joined(values: U8, start: I64, bounds: I64) -> U8:
    joined = np.empty(bounds[-1], np.uint8)
    for i in range(len(start)):
        begin, first = bounds[i], start[i]
        for b in range(bounds[i + 1] - begin):
            joined[begin + b] = values[first + b]
    return joined


def split_maps(values: U8, start: I64, length: I32) -> Maps:
    """Take maps of texts, whose blocks lie anywhere in `values` and were read by the decoder, apart.

    Keys keep the order in which they are first met. A map without bytes is empty.
    """
    begin, size = np.ascontiguousarray(start, np.int64), np.maximum(length, 0).astype(np.int64)
    given = read_only(values)
    items = np.zeros((_count(given, begin, size), 4), np.int64)
    bounds = _split(given, begin, size, items)
    kept = items[: bounds[-1]]
    keys, texts = (gather(values, kept[:, at], kept[:, at + 1].astype(np.int32)) for at in (0, 2))
    return Maps(bounds, keys, texts)


@kernel
def _block(values: U8, pos: int, end: int) -> tuple[int, int]:
    """Read the head of a block: how many items follow, and where."""
    if pos >= end:
        return 0, pos
    count, pos = read_varint(values, pos, end)
    if count < 0:
        _, pos = read_varint(values, pos, end)
        count = -count
    return count, pos


@compiled
def _count(values: U8, start: I64, length: I64) -> int:
    """Count the items of all maps, repeated keys included."""
    total = 0
    for i in range(len(start)):
        end = start[i] + length[i]
        count, pos = _block(values, start[i], end)
        while count > 0:
            total += count
            for _ in range(2 * count):
                size, pos = read_length(values, pos, end)
                pos += size
            count, pos = _block(values, pos, end)
    return total


@compiled
def _split(values: U8, start: I64, length: I64, items: I64) -> I64:
    """Note each item's key and value as (begin, length, begin, length); gives where each map's items begin."""
    bounds = np.zeros(len(start) + 1, np.int64)
    n = 0
    for i in range(len(start)):
        end = start[i] + length[i]
        count, pos = _block(values, start[i], end)
        while count > 0:
            for _ in range(count):
                size, key = read_length(values, pos, end)
                value_size, value = read_length(values, key + size, end)
                pos = value + value_size
                at = _find(values, items, bounds[i], n, key, size)
                if at == n:
                    items[n, 0], items[n, 1] = key, size
                    n += 1
                items[at, 2], items[at, 3] = value, value_size
            count, pos = _block(values, pos, end)
        bounds[i + 1] = n
    return bounds


@kernel
def _find(values: U8, items: I64, first: int, end: int, key: int, size: int) -> int:
    """Find a key among a map's items, or give `end`."""
    for at in range(first, end):
        if items[at, 1] == size:
            begin = items[at, 0]
            b = 0
            while b < size and values[begin + b] == values[key + b]:
                b += 1
            if b == size:
                return at
    return end
