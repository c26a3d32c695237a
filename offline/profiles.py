"""Two packed profiles of a customer compared: what the stream keeps, and what the history comes to.

Law: two profiles are equal if, without what a path decides (segment, vote, version), and as of the later of both clocks, they pack to equal
bytes. Sweeps move a clock and drop what no window can see any more, so the clocks themselves may differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from streamer.core.columns import read_only
from streamer.core.model import features_as_of_each
from streamer.core.plan import horizon_ms
from streamer.core.profile import CLOCK, DAY_MS, HELD, LAST, NEVER, PRESENT, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offline.events import Reading
    from offline.folding import Profiles
    from streamer.core.columns import I64, Bool
    from streamer.core.profile import Tiles, Work

MISMATCH, MISSING, EXTRA, DAMAGED = "mismatch", "missing", "extra", "damaged"
SLICE = 50_000  # customers compared at once
DAYS, HOURS, DISTINCT, REMEMBERED, LAST_TIME = (
    "tiles of days",
    "tiles of hours",
    "distinct values",
    "remembered ids",
    "time of the last event",
)


@dataclass(frozen=True, slots=True)
class Part:
    """A feature, a measure or another part of a profile that differs; a number is None where there is none."""

    what: str
    live: float | None = None
    history: float | None = None


@dataclass(frozen=True, slots=True)
class Differing:
    """A customer whose profile is not what the history comes to."""

    customer: bytes
    kind: str
    parts: tuple[Part, ...] = ()


def compared(
    reading: Reading, profiles: Profiles, live: Mapping[bytes, bytes], leaving: tuple[int | None, int | None] = (None, None)
) -> list[Differing]:
    """Find the customers of `profiles` and of `live` (packed, by customer) who differ.

    `leaving` says, of the times at which a silence lets customers leave, up to when they must have left the stream, and up to when they
    may have; None where nobody leaves.
    """
    customers, packed = profiles.customers, profiles.packed
    found: list[Differing] = []
    for begin in range(0, len(customers), SLICE):
        some = customers[begin : begin + SLICE]
        found += _slice(reading, some, packed[begin : begin + SLICE], [live.get(customer, b"") for customer in some], leaving)
    known = frozenset(customers)
    return found + [Differing(customer, EXTRA) for customer in live if customer not in known]


def gone_at(last: I64, retention_ms: int, longest_window_ms: int) -> I64:
    """Give the midnight at which customers leave who were heard of `last` (n,), in ms."""
    midnight: I64 = ((last + max(retention_ms, longest_window_ms)) // DAY_MS + 1) * DAY_MS
    return midnight


def _slice(
    reading: Reading, customers: Sequence[bytes], history: Sequence[bytes], live: Sequence[bytes], leaving: tuple[int | None, int | None]
) -> list[Differing]:
    expected, actual = _unpacked(reading, history), _unpacked(reading, live)
    must, may = _left(reading, expected, leaving)
    as_of = np.maximum(expected.head[:, CLOCK], actual.head[:, CLOCK])
    ours, theirs = _canonical(reading, expected, as_of), _canonical(reading, actual, as_of)
    found = []
    unequal = []
    for i, customer in enumerate(customers):
        if not live[i]:
            if not may[i]:
                found.append(Differing(customer, MISSING))
        elif actual.found[i] != PRESENT:
            found.append(Differing(customer, DAMAGED))
        elif must[i]:
            found.append(Differing(customer, EXTRA))
        elif ours[i] != theirs[i]:
            unequal.append(i)
    if unequal:
        rows = np.array(unequal)
        pair = _unpacked(reading, [ours[i] for i in unequal]), _unpacked(reading, [theirs[i] for i in unequal])
        for place, parts in enumerate(_parts(reading, *pair, as_of[rows])):
            found.append(Differing(customers[unequal[place]], MISMATCH, parts))
    return found


def _left(reading: Reading, work: Work, leaving: tuple[int | None, int | None]) -> tuple[Bool, Bool]:
    must, may = leaving
    if reading.retention_ms is None:
        return np.zeros(len(work.found), np.bool_), np.zeros(len(work.found), np.bool_)
    at = gone_at(work.head[:, LAST], reading.retention_ms, horizon_ms(reading.plan))
    return at <= (NEVER if must is None else must), at <= (NEVER if may is None else may)


def _canonical(reading: Reading, work: Work, as_of: I64) -> list[bytes]:
    """Pack profiles as of given clocks, without what a path decides."""
    there = work.found == PRESENT
    last = work.head[:, LAST].copy()
    work.head[:] = 0
    work.head[:, CLOCK] = np.where(there, as_of, NEVER)
    work.head[:, LAST] = last
    work.head[:, HELD] = 0
    data, bounds = pack(reading.plan, work, np.arange(len(work.found)))
    whole = data.tobytes()
    return [whole[begin:end] for begin, end in pairwise(bounds.tolist())]


def _parts(reading: Reading, expected: Work, actual: Work, as_of: I64) -> list[tuple[Part, ...]]:
    """Name what differs, for each customer: features, then measures, then what else a profile holds."""
    declaration = reading.declaration
    ours, theirs = features_as_of_each(reading.plan, expected, as_of), features_as_of_each(reading.plan, actual, as_of)
    found = []
    for i in range(len(as_of)):
        parts = [
            Part(feature.name, float(theirs[i, f]), float(ours[i, f]))
            for f, feature in enumerate(declaration.features)
            if theirs[i, f] != ours[i, f]
        ]
        parts += [
            Part(measure.name, _number(actual.life[i, m]), _number(expected.life[i, m]))
            for m, measure in enumerate(declaration.lifetimes)
            if actual.life[i, m] != expected.life[i, m]
        ]
        parts += [Part(what) for what, same in _rest(expected, actual, i).items() if not same]
        found.append(tuple(parts))
    return found


def _rest(expected: Work, actual: Work, i: int) -> dict[str, bool]:
    ours, theirs = int(expected.id_count[i]), int(actual.id_count[i])
    return {
        DAYS: _tiles(expected.days, i) == _tiles(actual.days, i),
        HOURS: _tiles(expected.hours, i) == _tiles(actual.hours, i),
        DISTINCT: bool(np.array_equal(expected.seen[i], actual.seen[i])),
        REMEMBERED: ours == theirs
        and bool(np.array_equal(expected.ids[i, :ours], actual.ids[i, :ours]))
        and bool(np.array_equal(expected.id_time[i, :ours], actual.id_time[i, :ours])),
        LAST_TIME: bool(expected.head[i, LAST] == actual.head[i, LAST]),
    }


def _tiles(tiles: Tiles, i: int) -> list[tuple[int, int, tuple[int, ...]]]:
    """List a customer's tiles: which, which measures, and their values."""
    rows = range(int(tiles.start[i]), int(tiles.start[i]) + int(tiles.count[i]))
    found = []
    for row in rows:
        mask = int(tiles.mask[row])
        values = tuple(int(value) for m, value in enumerate(tiles.value[row]) if mask >> m & 1)
        found.append((int(tiles.index[row]), mask, values))
    return found


def _number(value: int) -> float | None:
    return None if value == NEVER else float(value)


def _unpacked(reading: Reading, packed: Sequence[bytes]) -> Work:
    bounds = np.cumsum([0, *map(len, packed)], dtype=np.int64)
    return unpack(reading.plan, read_only(np.frombuffer(b"".join(packed), np.uint8)), bounds, np.zeros(len(packed), np.int64))
