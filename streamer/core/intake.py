"""From decoded columns to valid events of known customers.

Laws: every record is either a row of `Rows` or has a reason in `status`, the first that applies in the order of `Reason`. Customers are
told apart by their bytes; their hashes only say where to look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamer.core.columns import I16, I32, I64, U8, U64, Decoded, read_only
from streamer.core.compiled import compiled, kernel
from streamer.core.decimals import NOT_A_NUMBER, OUT_OF_RANGE, parse_decimal
from streamer.core.declaration import PROPERTY
from streamer.core.fold import ERASE, ERASED, MERGE, MERGED, PASSED, Rows
from streamer.core.hashing import xxh64
from streamer.core.opcodes import Column, Kind
from streamer.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.core.declaration import Declaration, LifetimeMeasure, TileMeasure
    from streamer.core.plan import Plan

EARLIEST_MS = 631_152_000_000  # 1990-01-01
LATEST_MS = 4_102_444_800_000  # 2100-01-01
NUMBER_MAX = 10**12
# The columns every event needs, in the order of the projection; the declaration's follow.
EVENT_ID, CUSTOMER_ID, EVENT_TYPE, OCCURRED_AT, AMOUNT, CURRENCY, QUANTITY = range(7)
FIXED = 7
_DOLLAR = 36
_ERASE_NAME, _ERASED_NAME, _PASSED_NAME, _MERGE_NAME, _MERGED_NAME = (
    np.frombuffer(name, np.uint8) for name in (b"$erase", b"$erased", b"$passed", b"$merge", b"$merged")
)

_BAD_EVENT_ID, _BAD_CUSTOMER_ID, _BAD_EVENT_TYPE = int(Reason.BAD_EVENT_ID), int(Reason.BAD_CUSTOMER_ID), int(Reason.BAD_EVENT_TYPE)
_UNKNOWN_COMMAND, _TIME_RANGE, _TIME_FUTURE = int(Reason.UNKNOWN_COMMAND), int(Reason.TIME_OUT_OF_RANGE), int(Reason.TIME_IN_FUTURE)
_AMOUNT, _QUANTITY, _CURRENCY = int(Reason.AMOUNT_OUT_OF_RANGE), int(Reason.QUANTITY_OUT_OF_RANGE), int(Reason.CURRENCY_REFUSED)
_NOT_A_NUMBER, _OUT_OF_RANGE = int(Reason.PROPERTY_NOT_A_NUMBER), int(Reason.PROPERTY_OUT_OF_RANGE)


class Limits(NamedTuple):
    """Bounds of an event's fields."""

    event_id_bytes_max: int = 128
    customer_id_bytes_max: int = 256
    event_type_bytes_max: int = 64
    future_ms_max: int = 3_600_000


class Wanted(NamedTuple):
    """Where the declaration's sources and texts are in the projection."""

    source: I32  # (v,) column
    decimals: I32  # (v,) of a property; -1 for a number
    source_mask: I64  # (t + 1,) sources that an event of the type uses
    text: I32  # (s,) column
    currency: U8  # (3,)
    refuse_currency: bool


@dataclass(frozen=True, slots=True)
class Customers:
    """The customers of a batch, `u` of them, ordered by partition: those of partition p are `start[p]` to `start[p + 1]`."""

    ids: U8
    id_bounds: I64  # (u + 1,)
    start: I64  # (p + 1,)

    def of(self, part: int) -> tuple[U8, I64]:
        """Give one partition's ids: joined bytes and bounds."""
        bounds = self.id_bounds[self.start[part] : self.start[part + 1] + 1]
        return self.ids[bounds[0] : bounds[-1]], bounds - bounds[0]


def projection(declaration: Declaration) -> tuple[Column, ...]:
    """List the columns to decode: the fixed ones, then one for each text and each property that a measure uses."""
    texts = [
        Column(Kind.PROPERTY, "properties", m.field.removeprefix(PROPERTY), hashed=True)
        if m.field.startswith(PROPERTY)
        else Column(Kind.STRING, m.field, hashed=True)
        for m in declaration.distincts
    ]
    numbers = [
        Column(Kind.PROPERTY, "properties", source.field.removeprefix(PROPERTY))
        for source in declaration.sources
        if source.field.startswith(PROPERTY)
    ]
    fixed = (
        Column(Kind.STRING, "event_id", hashed=True),
        Column(Kind.STRING, "customer_id", hashed=True),
        Column(Kind.STRING, "event_type", hashed=True),
        Column(Kind.NUMBER, "occurred_at"),
        Column(Kind.NUMBER, "amount"),
        Column(Kind.STRING, "currency"),
        Column(Kind.NUMBER, "quantity"),
    )
    return tuple(dict.fromkeys((*fixed, *texts, *numbers)))


def wanted(declaration: Declaration, columns: Sequence[Column]) -> Wanted:
    """Find the declaration's sources and texts among the columns of its projection."""
    texts = [(m.field if not m.field.startswith(PROPERTY) else "properties", m.field.removeprefix(PROPERTY)) for m in declaration.distincts]
    place = {(c.field, c.key or c.field, c.hashed): i for i, c in enumerate(columns)}
    source, decimals = [], []
    for s in declaration.sources:
        is_property = s.field.startswith(PROPERTY)
        source.append(place["properties", s.field.removeprefix(PROPERTY), False] if is_property else place[s.field, s.field, False])
        decimals.append(s.decimals if is_property else -1)
    index = {s: i for i, s in enumerate(declaration.sources)}
    measures: tuple[TileMeasure | LifetimeMeasure, ...] = (*declaration.tiles, *declaration.lifetimes)
    masks = []
    for name in (*declaration.types, None):
        used = {index[m.source] for m in measures if m.source is not None and (not m.of or name in m.of)}
        masks.append(sum(1 << i for i in used))
    return Wanted(
        np.array(source, np.int32),
        np.array(decimals, np.int32),
        np.array(masks, np.int64),
        np.array([place[field, key, True] for field, key in texts], np.int32),
        np.frombuffer(declaration.currency.encode(), np.uint8),
        declaration.refuse_other_currencies,
    )


@kernel
def _same(a: U8, i: int, b: U8, j: int, length: int) -> bool:
    for n in range(length):  # noqa: SIM110  # compiled code has no generators
        if a[i + n] != b[j + n]:
            return False
    return True


@kernel
def _event_type(plan: Plan, values: U8, start: int, length: int, hashed: int) -> int:
    """Find the declared type, or the number of declared types for any other."""
    for t in range(len(plan.type_hashes)):
        begin = plan.type_bounds[t]
        if (
            plan.type_hashes[t] == hashed
            and plan.type_bounds[t + 1] - begin == length
            and _same(values, start, plan.type_bytes, begin, length)
        ):
            return t
    return len(plan.type_hashes)


@kernel
def _is(values: U8, start: int, length: int, name: U8) -> bool:
    return length == len(name) and _same(values, start, name, 0, length)


@kernel
def _command(values: U8, start: int, length: int) -> int:
    """Find a command by its event type; 0 for one that is not known."""
    if _is(values, start, length, _ERASE_NAME):
        return ERASE
    if _is(values, start, length, _MERGE_NAME):
        return MERGE
    if _is(values, start, length, _MERGED_NAME):
        return MERGED
    if _is(values, start, length, _ERASED_NAME):
        return ERASED
    return PASSED if _is(values, start, length, _PASSED_NAME) else 0


@kernel
def _numbers(wanted: Wanted, values: U8, cells: I64, lengths: I32, i: int, kind: int, money: bool, value: I64, there: U8, n: int) -> int:  # noqa: FBT001
    """Take an event's sources into row n; returns a reason or 0."""
    reason = 0
    for v in range(len(wanted.source)):
        column = wanted.source[v]
        there[v, n] = 0
        if lengths[column, i] < 0 or not wanted.source_mask[kind] >> v & 1:
            continue
        if wanted.decimals[v] < 0:
            value[v, n] = cells[column, i]
            there[v, n] = 1 if money or column != AMOUNT else 0
            continue
        code, number = parse_decimal(values, cells[column, i], lengths[column, i], int(wanted.decimals[v]))
        if code == NOT_A_NUMBER:
            return _NOT_A_NUMBER
        if code == OUT_OF_RANGE:
            reason = _OUT_OF_RANGE
        value[v, n] = number
        there[v, n] = 1
    return reason


@kernel
def _reason(wanted: Wanted, limits: Limits, values: U8, cells: I64, lengths: I32, timestamp: int, i: int) -> int:
    """Check one event's own fields, in the order of `Reason`; returns a reason or 0."""
    if not 0 < lengths[EVENT_ID, i] <= limits.event_id_bytes_max:
        return _BAD_EVENT_ID
    if not 0 < lengths[CUSTOMER_ID, i] <= limits.customer_id_bytes_max:
        return _BAD_CUSTOMER_ID
    if not 0 < lengths[EVENT_TYPE, i] <= limits.event_type_bytes_max:
        return _BAD_EVENT_TYPE
    start = cells[EVENT_TYPE, i]
    if values[start] == _DOLLAR and _command(values, start, lengths[EVENT_TYPE, i]) == 0:
        return _UNKNOWN_COMMAND
    time = cells[OCCURRED_AT, i]
    if lengths[OCCURRED_AT, i] < 0 or not EARLIEST_MS <= time < LATEST_MS:
        return _TIME_RANGE
    if timestamp >= 0 and time - timestamp > limits.future_ms_max:  # a record that Kafka gave no time can't be judged by it
        return _TIME_FUTURE
    if lengths[AMOUNT, i] >= 0 and not -NUMBER_MAX <= cells[AMOUNT, i] <= NUMBER_MAX:
        return _AMOUNT
    if lengths[QUANTITY, i] >= 0 and not -NUMBER_MAX <= cells[QUANTITY, i] <= NUMBER_MAX:
        return _QUANTITY
    if wanted.refuse_currency and lengths[AMOUNT, i] >= 0 and not _ours(wanted, values, cells, lengths, i):
        return _CURRENCY
    return 0


@kernel
def _ours(wanted: Wanted, values: U8, cells: I64, lengths: I32, i: int) -> bool:
    """Tell whether an event's amount is in the declared currency."""
    if lengths[CURRENCY, i] < 0:
        return True
    return lengths[CURRENCY, i] == len(wanted.currency) and _same(values, cells[CURRENCY, i], wanted.currency, 0, len(wanted.currency))


@compiled
def _take(
    plan: Plan,
    wanted: Wanted,
    limits: Limits,
    values: U8,
    cells: I64,
    lengths: I32,
    hashes: U64,
    status: I16,
    part: I32,
    offset: I64,
    timestamp: I64,
) -> tuple[Rows, I64]:
    """Check every record and take the valid ones as rows; sets `status` of the others. Also returns each row's record."""
    room = len(status)
    sources, texts = len(wanted.source), len(wanted.text)
    rows = Rows(
        np.empty(room, np.int32),
        np.zeros(room, np.int32),
        np.empty(room, np.int64),
        np.empty(room, np.int64),
        np.empty(room, np.int32),
        np.empty(room, np.uint64),
        np.zeros((sources, room), np.int64),
        np.zeros((sources, room), np.uint8),
        np.zeros((texts, room), np.uint64),
        np.zeros((texts, room), np.uint8),
    )
    record = np.empty(room, np.int64)
    n = 0
    for i in range(room):
        if status[i]:
            continue
        reason = _reason(wanted, limits, values, cells, lengths, timestamp[i], i)
        start, length = cells[EVENT_TYPE, i], lengths[EVENT_TYPE, i]
        if not reason and values[start] == _DOLLAR:
            rows.type[n] = _command(values, start, length)
            for v in range(sources):
                rows.there[v, n] = 0
        elif not reason:
            kind = _event_type(plan, values, start, length, hashes[EVENT_TYPE, i])
            money = _ours(wanted, values, cells, lengths, i)
            reason = _numbers(wanted, values, cells, lengths, i, kind, money, rows.value, rows.there, n)
            rows.type[n] = kind
        if reason:
            status[i] = reason
            continue
        rows.part[n] = part[i]
        rows.offset[n] = offset[i]
        rows.time[n] = cells[OCCURRED_AT, i]
        rows.event_id[n] = hashes[EVENT_ID, i]
        for s in range(texts):
            rows.text[s, n] = hashes[wanted.text[s], i]
            rows.text_there[s, n] = lengths[wanted.text[s], i] >= 0
        record[n] = i
        n += 1
    return (
        Rows(
            rows.part[:n],
            rows.slot[:n],
            rows.offset[:n],
            rows.time[:n],
            rows.type[:n],
            rows.event_id[:n],
            rows.value[:, :n],
            rows.there[:, :n],
            rows.text[:, :n],
            rows.text_there[:, :n],
        ),
        record[:n],
    )


@compiled
def _group(values: U8, start: I64, length: I32, hashed: U64, part: I32, parts: int) -> tuple[I32, I64, I64]:
    """Number the distinct (partition, id) pairs, ordered by partition, in order of first appearance within each.

    Returns each row's number (n,), each number's first row (u,), and where each partition's numbers begin (parts + 1,).
    """
    n = len(start)
    size = 8
    while size < 2 * n:
        size *= 2
    table = np.full(size, -1, np.int64)
    found = np.empty(n, np.int32)
    first = np.empty(n, np.int64)
    u = 0
    for i in range(n):
        place = np.int64((hashed[i] ^ np.uint64(part[i])) & np.uint64(size - 1))
        while True:
            seen = table[place]
            if seen < 0:
                table[place] = u
                first[u] = i
                found[i] = u
                u += 1
                break
            row = first[seen]
            if (
                hashed[row] == hashed[i]
                and part[row] == part[i]
                and length[row] == length[i]
                and _same(values, start[row], values, start[i], length[i])
            ):
                found[i] = seen
                break
            place = (place + 1) & (size - 1)
    begin = np.zeros(parts + 1, np.int64)
    for j in range(u):
        begin[part[first[j]] + 1] += 1
    for p in range(parts):
        begin[p + 1] += begin[p]
    at = begin.copy()
    number = np.empty(u, np.int32)
    ordered = np.empty(u, np.int64)
    for j in range(u):
        p = part[first[j]]
        number[j] = at[p]
        ordered[at[p]] = first[j]
        at[p] += 1
    for i in range(n):
        found[i] = number[found[i]]
    return found, ordered, begin


@compiled
def _gather(values: U8, start: I64, length: I32, rows: I64) -> tuple[U8, I64]:
    """Join the ids of the given rows."""
    bounds = np.zeros(len(rows) + 1, np.int64)
    for j in range(len(rows)):
        bounds[j + 1] = bounds[j] + length[rows[j]]
    joined = np.empty(bounds[-1], np.uint8)
    for j in range(len(rows)):
        begin = start[rows[j]]
        for b in range(length[rows[j]]):
            joined[bounds[j] + b] = values[begin + b]
    return joined, bounds


def take(
    plan: Plan, wanted: Wanted, limits: Limits, values: U8, decoded: Decoded, part: I32, offset: I64, timestamp: I64
) -> tuple[Rows, I64]:
    """Check decoded records and take the valid ones.

    Args:
        plan: The declaration's arrays.
        wanted: Where its sources and texts are.
        limits: Bounds of the fields.
        values: The records' joined values.
        decoded: Their columns; `status` is set for each record that is refused here.
        part: (n,) which of the batch's partitions each is of.
        offset: (n,) offsets.
        timestamp: (n,) Kafka's own times, by which a time in the future is judged; negative where the record has none.

    Returns:
        The events, with their customers not numbered yet, and (rows,) which record each is.

    """
    rows, record = _take(
        plan, wanted, limits, read_only(values), decoded.cells, decoded.lengths, decoded.hashes, decoded.status, part, offset, timestamp
    )
    if len(record) == len(offset):
        return rows, record
    # Refused records leave gaps between the rows of a matrix. Compiled code would be compiled once more for such an array.
    dense = rows._replace(
        value=np.ascontiguousarray(rows.value, np.int64),
        there=np.ascontiguousarray(rows.there, np.uint8),
        text=np.ascontiguousarray(rows.text, np.uint64),
        text_there=np.ascontiguousarray(rows.text_there, np.uint8),
    )
    return dense, record


@compiled
def _hash_ids(ids: U8, bounds: I64) -> U64:
    hashed = np.empty(len(bounds) - 1, np.uint64)
    for i in range(len(hashed)):
        hashed[i] = xxh64(ids, bounds[i], bounds[i + 1] - bounds[i])
    return hashed


def hash_ids(ids: U8, bounds: I64) -> U64:
    """Hash joined ids with XXH64, (u,)."""
    hashed: U64 = _hash_ids(read_only(ids), bounds)
    return hashed


def group(values: U8, start: I64, length: I32, hashed: U64, part: I32, parts: int) -> tuple[I32, Customers]:
    """Number the customers of a batch: `start` and `length` give each row's id in `values`, `hashed` its XXH64.

    Returns each row's customer (n,), and the customers.
    """
    number, first, begin = _group(read_only(values), start, length, hashed, part, parts)
    ids, bounds = _gather(read_only(values), start, length, first)
    return number, Customers(ids, bounds, begin)
