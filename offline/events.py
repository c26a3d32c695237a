"""Events of the history, in Arrow's columns, as the columns that the stream's own compiled code checks and folds.

Law: an event is valid here exactly where it is valid in the stream, since the same function judges it, and it becomes the same row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamer.core import intake
from streamer.core.columns import Decoded, read_only
from streamer.core.intake import CUSTOMER_ID, Limits
from streamer.core.opcodes import Kind
from streamer.core.plan import plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.core.columns import I16, I32, I64, U8, U64
    from streamer.core.declaration import Declaration
    from streamer.core.fold import Rows
    from streamer.core.intake import Customers
    from streamer.core.opcodes import Column
    from streamer.core.plan import Plan

PLACE = ("partition", "offset", "kafka_timestamp")
SCHEMA = pa.schema(
    [
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("kafka_timestamp", pa.int64()),
        pa.field("event_id", pa.string()),
        pa.field("customer_id", pa.string()),
        pa.field("event_type", pa.string()),
        pa.field("occurred_at", pa.int64()),
        pa.field("amount", pa.int64()),
        pa.field("currency", pa.string()),
        pa.field("quantity", pa.int64()),
        pa.field("product_id", pa.string()),
        pa.field("category", pa.string()),
        pa.field("session_id", pa.string()),
        pa.field("properties", pa.map_(pa.string(), pa.string())),
    ]
)


@dataclass(frozen=True)
class Reading:
    """How events are read: by which declaration, within which limits. It travels to other processes as it is.

    With `retention_ms`, who was silent for longer, and for longer than the longest window, begins anew, as with a model of that retention.
    """

    declaration: Declaration
    limits: Limits = field(default_factory=Limits)
    retention_ms: int | None = None

    @cached_property
    def plan(self) -> Plan:
        """Lay the declaration out as arrays."""
        return plan(self.declaration)

    @cached_property
    def projection(self) -> tuple[Column, ...]:
        """List the columns that the declaration needs."""
        return intake.projection(self.declaration)

    @property
    def columns(self) -> list[str]:
        """Name the columns of the history that are read."""
        return list(dict.fromkeys([*PLACE, *(column.field for column in self.projection)]))


@dataclass(frozen=True, slots=True)
class Taken:
    """The valid events of a batch, in its order, with their customers numbered."""

    rows: Rows  # `slot` numbers the customers below
    record: I64  # (rows,) which row of the batch each is
    customers: Customers
    status: I16  # (n,) 0, or the `Reason` why a row of the batch is no event


def take(reading: Reading, batch: pa.RecordBatch) -> Taken:
    """Check the rows of a batch with `n` rows and take the valid events; a column that it lacks is empty.

    Commands are none: who was erased is in history until it is scrubbed, and not any more then.
    """
    decoded, values = _decoded(reading.projection, batch)
    n = batch.num_rows
    wanted = intake.wanted(reading.declaration, reading.projection)
    timestamp = _numbers(batch, "kafka_timestamp", -1)[0]
    offset = _numbers(batch, "offset", 0)[0]
    rows, record = intake.take(reading.plan, wanted, reading.limits, values, decoded, np.zeros(n, np.int32), offset, timestamp)
    events = np.flatnonzero(rows.type >= 0)
    if len(events) < len(record):
        rows = rows._replace(**{name: np.ascontiguousarray(getattr(rows, name)[..., events]) for name in rows._fields})
        record = record[events]
    start, length, hashed = decoded.cells[CUSTOMER_ID][record], decoded.lengths[CUSTOMER_ID][record], decoded.hashes[CUSTOMER_ID][record]
    slot, customers = intake.group(values, start, length, hashed, rows.part, 1)
    return Taken(rows._replace(slot=slot), record, customers, decoded.status)


def texts_of(column: Any) -> tuple[U8, I64]:  # noqa: ANN401  # pyarrow has no types
    """Give a column's joined bytes, and their bounds (n + 1,)."""
    data, bounds, _ = _texts(column)
    return data, bounds


def customer_hashes(batch: pa.RecordBatch) -> U64:
    """Hash each row's customer, (n,), as the stream does."""
    data, bounds, _ = _texts(batch.column("customer_id"))
    return intake.hash_ids(data, bounds)


def _decoded(columns: tuple[Column, ...], batch: pa.RecordBatch) -> tuple[Decoded, U8]:
    """Lay a batch out as the decoder does: numbers in cells, texts as places in joined bytes."""
    c, n = len(columns), batch.num_rows
    cells, lengths, hashes = np.zeros((c, n), np.int64), np.full((c, n), -1, np.int32), np.zeros((c, n), np.uint64)
    joined: list[U8] = []
    laid: dict[tuple[str, str], tuple[U8, I64, I32, int]] = {}
    end = 0
    for i, column in enumerate(columns):
        if column.field not in batch.schema.names:
            continue
        if column.kind is Kind.NUMBER:
            cells[i], lengths[i] = _numbers(batch, column.field, 0)
            continue
        key = (column.field, column.key)
        if key not in laid:
            texts = batch.column(column.field)
            data, bounds, long = _texts(_property(texts, column.key) if column.kind is Kind.PROPERTY else texts)
            laid[key] = data, bounds, long, end
            joined.append(data)
            end += len(data)
        data, bounds, lengths[i], begin = laid[key]
        cells[i] = bounds[:-1] + begin
        if column.hashed:
            hashes[i] = intake.hash_ids(data, bounds)
    values = np.concatenate(joined) if joined else np.zeros(0, np.uint8)
    return Decoded(cells, lengths, hashes, np.zeros(n, np.int16)), read_only(values)


def _numbers(batch: pa.RecordBatch, name: str, empty: int) -> tuple[I64, I32]:
    """Give a column's numbers (n,), and 0 for each that is there, -1 for each that is not."""
    if name not in batch.schema.names:
        return np.full(batch.num_rows, empty, np.int64), np.full(batch.num_rows, -1, np.int32)
    column = batch.column(name)
    there = np.where(column.is_valid().to_numpy(zero_copy_only=False), 0, -1).astype(np.int32)
    return pc.fill_null(column.cast(pa.int64()), empty).to_numpy(zero_copy_only=False), there


def _texts(column: Any) -> tuple[U8, I64, I32]:  # noqa: ANN401  # pyarrow has no types
    """Give a column's joined bytes, their bounds (n + 1,) and each text's length, -1 where there is none."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    column = column.cast(pa.large_string())
    there = column.is_valid().to_numpy(zero_copy_only=False)
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1] if len(column) else np.zeros(1, np.int64)
    whole = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    joined = whole[bounds[0] : bounds[-1]]
    return joined, bounds - bounds[0], np.where(there, np.diff(bounds), -1).astype(np.int32)


def _property(column: Any, key: str) -> pa.Array:  # noqa: ANN401
    """Take one property of each row's map; of a repeated key the last value counts."""
    bounds = column.offsets.to_numpy()
    hits = np.flatnonzero(pc.equal(column.keys, key).to_numpy(zero_copy_only=False))
    row = np.searchsorted(bounds, hits, side="right") - 1  # -1 and n for what is outside, as the keys are those of all that was sliced
    inside = np.append(column.is_valid().to_numpy(zero_copy_only=False), [False])[row]
    place = np.full(len(column), -1, np.int64)
    place[row[inside]] = hits[inside]
    return column.items.take(pa.array(place, mask=place < 0))


def batch_of(records: Sequence[Mapping[str, Any]], partition: int = 0, first_offset: int = 0) -> pa.RecordBatch:
    """Lay events as dictionaries out as a batch of the history, in the order given."""
    n = len(records)
    columns: dict[str, Any] = {
        "partition": pa.array([partition] * n, pa.int32()),
        "offset": pa.array(range(first_offset, first_offset + n), pa.int64()),
    }
    for one in SCHEMA:
        if one.name == "properties":
            columns[one.name] = pa.array([list((record.get("properties") or {}).items()) for record in records], one.type)
        elif one.name not in columns:
            columns[one.name] = pa.array([record.get(one.name) for record in records], one.type)
    return pa.RecordBatch.from_arrays([columns[one.name] for one in SCHEMA], schema=SCHEMA)
