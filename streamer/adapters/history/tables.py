"""Rows of history as Arrow's columns and as Parquet files.

Law: the same rows in the same order, cut into batches however, give the same bytes (of one release of pyarrow).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from streamer.adapters.history.manifest import Kind
from streamer.core.history import NUMBERS, PROPERTIES, TEXTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from streamer.core.columns import I32, I64, Bool
    from streamer.core.history import EventColumns, Texts

GROUP_ROWS = 100_000
"""Rows of a row group: what a reader holds at a time."""
COMPRESSION = "zstd"
NAMELESS = "$"
"""What stands where a customer's or an event's id was taken out."""
ERASE, ERASED, PASSED = "$erase", "$erased", "$passed"
"""Commands by their event types; the last two are history's own: a customer was erased, and the time of an event of theirs."""
MERGE, MERGED, INTO, HOPS = "$merge", "$merged", "into", "$hops"
"""The command that merges its customer into another, what brings that one the profile, the command's property that names that one, and the
property of what was sent on that counts how often it was."""
STILL = ERASE, ERASED, MERGE
"""Commands that move no partition's clock."""

Batch: TypeAlias = "Any"  # a `pyarrow.RecordBatch`: Arrow has no types


def _needed(name: str, kind: Any) -> Any:  # noqa: ANN401  # Arrow has no types
    return pa.field(name, kind, nullable=False)


_TIME = pa.timestamp("ms", "UTC")
_PLACE = [_needed("partition", pa.int32()), _needed("offset", pa.int64()), _needed("kafka_timestamp", _TIME)]
EVENTS = pa.schema(
    [
        *_PLACE,
        _needed("event_id", pa.string()),
        _needed("customer_id", pa.string()),
        _needed("event_type", pa.string()),
        _needed("occurred_at", _TIME),
        pa.field("amount", pa.int64()),
        pa.field("currency", pa.string()),
        pa.field("quantity", pa.int64()),
        pa.field("product_id", pa.string()),
        pa.field("category", pa.string()),
        pa.field("session_id", pa.string()),
        _needed(PROPERTIES, pa.map_(pa.string(), pa.string())),
    ]
)
JOURNAL = pa.schema(
    [
        *_PLACE,
        _needed("commit_id", pa.string()),
        _needed("kind", pa.string()),
        _needed("at_offset", pa.int64()),
        _needed("as_of", pa.int64()),  # not a time where there was no watermark yet
        _needed("model_version", pa.int64()),
        _needed("epoch", pa.int64()),
        _needed("payload", pa.binary()),
        _needed("written_at", _TIME),
    ]
)
SCHEMAS = {Kind.EVENTS: EVENTS, Kind.JOURNAL: JOURNAL}


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """One entry of the journal; times in milliseconds, fields as in the topic's schema."""

    offset: int
    kafka_timestamp: int
    commit_id: str
    kind: str
    at_offset: int
    as_of: int
    model_version: int
    epoch: int
    payload: bytes
    written_at: int


def event_rows(events: EventColumns) -> Batch:
    """Lay events out as Arrow's columns; their buffers are copied."""
    found: dict[str, Any] = {
        "partition": pa.array(events.partition, pa.int32()),
        "offset": pa.array(events.offset, pa.int64()),
        "kafka_timestamp": _times(events.timestamp),
        PROPERTIES: pa.MapArray.from_arrays(
            pa.array(events.properties.bounds.astype(np.int32)), _texts(events.properties.keys), _texts(events.properties.values)
        ),
    }
    for name in TEXTS:
        found[name] = _texts(events.texts[name])
    for name in NUMBERS:
        values, there = events.numbers[name]
        found[name] = _times(values) if name == "occurred_at" else pa.array(values, pa.int64(), mask=~there)
    return pa.RecordBatch.from_arrays([found[field.name] for field in EVENTS], schema=EVENTS)


def journal_rows(partition: int, records: Sequence[JournalRecord]) -> Batch:
    """Lay entries of a partition's journal out as Arrow's columns."""
    columns = [pa.array([partition] * len(records), pa.int32())]
    columns += [pa.array([getattr(record, field.name) for record in records], field.type) for field in list(JOURNAL)[1:]]
    return pa.RecordBatch.from_arrays(columns, schema=JOURNAL)


def journal_records(batch: Batch) -> list[JournalRecord]:
    """Read entries back."""
    names = [field.name for field in list(JOURNAL)[1:]]
    return [JournalRecord(*row) for row in zip(*(batch.column(name).to_pylist() for name in names), strict=True)]


def _times(values: I64) -> Any:  # noqa: ANN401  # Arrow has no types
    return pa.array(values, pa.int64()).view(_TIME)


def _texts(texts: Texts) -> Any:  # noqa: ANN401  # Arrow has no types
    n = len(texts.there)
    missing = None if texts.there.all() else pa.py_buffer(_bits(texts.there))
    return pa.Array.from_buffers(
        pa.string(), n, [missing, pa.py_buffer(texts.bounds.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(texts.values))]
    )


def _bits(there: Bool) -> bytes:
    return np.packbits(there, bitorder="little").tobytes()


def joined_rows(batches: Sequence[Batch]) -> Batch:
    """Join batches of some rows into one."""
    [joined] = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return joined


def rows_of(batch: Batch, rows: I64 | I32) -> Batch:
    """Copy some rows."""
    return batch.take(pa.array(rows))


def offsets_of(batch: Batch) -> I64:
    """Give the rows' offsets."""
    found: I64 = batch.column("offset").to_numpy()
    return found


def timestamps_of(batch: Batch) -> I64:
    """Give the rows' Kafka timestamps, ms."""
    found: I64 = batch.column("kafka_timestamp").view(pa.int64()).to_numpy()
    return found


def command_rows(partition: int, offset: I64, timestamp: I64, occurred: I64, names: Sequence[str], ids: Sequence[str]) -> Batch:
    """Lay commands that history alone has out as rows of events: of `n` customers, each named by a text that is no id."""
    n = len(offset)
    found: dict[str, Any] = {
        "partition": pa.array([partition] * n, pa.int32()),
        "offset": pa.array(offset, pa.int64()),
        "kafka_timestamp": _times(timestamp),
        "event_id": pa.array([NAMELESS] * n, pa.string()),
        "customer_id": pa.array(ids, pa.string()),
        "event_type": pa.array(names, pa.string()),
        "occurred_at": _times(occurred),
        PROPERTIES: pa.array([[]] * n, EVENTS.field(PROPERTIES).type),
    }
    return pa.RecordBatch.from_arrays([found.get(field.name, pa.nulls(n, field.type)) for field in EVENTS], schema=EVENTS)


def ordered_rows(batches: Sequence[Batch]) -> Batch:
    """Join batches of some rows into one in the order of offsets."""
    joined = joined_rows(batches)
    return rows_of(joined, np.argsort(offsets_of(joined), kind="stable"))


def texts_of(batch: Batch, column: str) -> list[str]:
    """Give a column's texts."""
    found: list[str] = batch.column(column).to_pylist()
    return found


def erased_in(batch: Batch) -> list[str]:
    """Give the ids of those whom commands among some rows erase, in order."""
    return texts_of(batch.filter(pc.equal(batch.column("event_type"), ERASE)), "customer_id")


def merges_in(batch: Batch) -> dict[int, str]:
    """Give whom each command among some rows merges its customer into, by row; "" where it says nothing."""
    rows = np.flatnonzero(pc.equal(batch.column("event_type"), MERGE).to_numpy(zero_copy_only=False))
    given = batch.column(PROPERTIES).take(pa.array(rows)).to_pylist() if len(rows) else []
    return {row: dict(properties or []).get(INTO, "") for row, properties in zip(rows.tolist(), given, strict=True)}


def hops_in(batch: Batch) -> Batch:
    """Put how often each event was sent on in the place of its properties."""
    said = pc.fill_null(pc.map_lookup(batch.column(PROPERTIES), HOPS, "last"), "0")
    hops = pc.if_else(pc.match_substring_regex(said, r"^[0-9]{1,9}$"), said, "0").cast(pa.int64())
    return batch.set_column(batch.schema.get_field_index(PROPERTIES), "hops", hops)


def merged_into(batch: Batch, names: Mapping[int, str]) -> Batch:
    """Let the commands in some rows merge their customers into others, who are named by row."""
    at = np.zeros(batch.num_rows, np.bool_)
    at[list(names)] = True
    column = batch.column(PROPERTIES)
    said = pa.array([[(INTO, names[row])] for row in sorted(names)], column.type)
    put = pc.replace_with_mask(pa.array(range(batch.num_rows)), pa.array(at), pa.array([batch.num_rows + i for i in range(len(names))]))
    joined = pa.concat_arrays([column, said]).take(put)
    return batch.set_column(batch.schema.get_field_index(PROPERTIES), batch.schema.field(PROPERTIES), joined)


def occurred_of(batch: Batch) -> I64:
    """Give the events' own times, ms."""
    found: I64 = batch.column("occurred_at").view(pa.int64()).to_numpy()
    return found


def plain_times(batch: Batch) -> Batch:
    """Give times as whole numbers of milliseconds."""
    names = batch.schema.names
    columns = [column.view(pa.int64()) if pa.types.is_timestamp(column.type) else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names)


def parquet(kind: Kind, batches: Iterable[Batch], compression: str = COMPRESSION) -> Any:  # noqa: ANN401  # Arrow has no types
    """Write rows as a Parquet file in memory, a row group at a time; gives its bytes as a buffer."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, SCHEMAS[kind], compression=compression) as writer:
        for group in _groups(batches):
            writer.write_table(pa.Table.from_batches(group, SCHEMAS[kind]), row_group_size=GROUP_ROWS)
    return sink.getvalue()


def _groups(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """Cut a stream of batches into row groups."""
    group: list[Batch] = []
    room = GROUP_ROWS
    for batch in batches:
        at = 0
        while at < batch.num_rows:
            part = batch.slice(at, room)
            group.append(part)
            at += part.num_rows
            room -= part.num_rows
            if not room:
                yield group
                group, room = [], GROUP_ROWS
    if group:
        yield group


def read_parquet(source: Any, columns: Sequence[str] | None, batch_rows: int) -> Iterator[Batch]:  # noqa: ANN401  # Arrow has no types
    """Read a Parquet file, a row group at a time at most, in batches of its columns."""
    with source:
        yield from pq.ParquetFile(source, pre_buffer=False).iter_batches(batch_rows, columns=columns)
