"""The end of the log, which is not in the history yet: events from Kafka, as batches of the history.

Law: an event is taken exactly where the stream takes it. Each record is held to the decoder's rules by the stream's own compiled program
before fastavro reads it, and what the fields say is judged by `offline.events.take`, as of everything else.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from offline.events import batch_of
from streamer.adapters.avro import codec, wire
from streamer.adapters.avro.writer_schemas import SchemaRefused, WriterSchemas
from streamer.core.avro_schema import NotCovered
from streamer.core.decoding import decode, new_decoded
from streamer.core.errors import Misconfigured
from streamer.core.opcodes import compile_program

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from streamer.adapters.avro.writer_schemas import Texts, WriterSchema
    from streamer.core.opcodes import Program
    from streamer.core.ports import LogRecord

OFFSETS = 20_000  # read at a time


class Log(Protocol):
    """Looks at topics, without a group."""

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Read a partition's first offset and high watermark."""

    def between(self, topic: str, partition: int, first: int, end: int) -> list[LogRecord]:
        """Read the committed records from `first` to before `end`."""


class Tail:
    """Reads stretches of the topic of events."""

    def __init__(self, log: Log, topic: str, schemas: Texts, items_max: int = 1_000, value_bytes_max: int = 1 << 20) -> None:
        """Read `topic`; records beyond the limits are refused, as the stream refuses them."""
        self._log, self._topic = log, topic
        self._writers = WriterSchemas(schemas)
        self._items_max, self._value_bytes_max = items_max, value_bytes_max
        self._rules: dict[wire.SchemaId, Program | None] = {}

    def events(self, partition: int, first: int, end: int, passed_over: Collection[int] = ()) -> Iterator[pa.RecordBatch]:
        """Give the decodable events from offset `first` to before `end`, but those that the stream has `passed_over` unread.

        Raises:
            Misconfigured: Kafka does not hold `first` any more.
            Unavailable: Kafka or the registry does not answer.

        """
        if first >= end:
            return
        kept = self._log.bounds(self._topic, partition)[0]
        if kept > first:
            message = (
                f"history ends at offset {first} of partition {partition}, and Kafka begins at {kept}: what is between is nowhere. "
                "See whether `streamer archive` runs, and for how long the topic is kept"
            )
            raise Misconfigured(message)
        unread = frozenset(passed_over)
        for begin in range(first, end, OFFSETS):
            found = self._log.between(self._topic, partition, begin, min(begin + OFFSETS, end))
            records = [record for record in found if record.offset not in unread]
            batch = self._batch(partition, records)
            if batch.num_rows:
                yield batch

    def _batch(self, partition: int, records: Sequence[LogRecord]) -> pa.RecordBatch:
        events: list[dict[str, Any]] = []
        offsets = []
        for record, writer, body in self._sound(records):
            with suppress(codec.BodyRefused):
                events.append({**codec.decode_one(body, writer), "kafka_timestamp": record.timestamp})
                offsets.append(record.offset)
        batch = batch_of(events, partition)
        place = batch.schema.get_field_index("offset")
        return batch.set_column(place, batch.schema.field(place), pa.array(offsets, pa.int64()))

    def _sound(self, records: Sequence[LogRecord]) -> Iterator[tuple[LogRecord, WriterSchema, bytes]]:
        """Give the records that keep the decoder's rules, with their schemas and bodies, in their order."""
        values = [record.value or b"" for record in records]
        bounds = np.cumsum([0, *map(len, values)], dtype=np.int64)
        joined = np.frombuffer(b"".join(values), np.uint8)
        starts, out = bounds[:-1].copy(), new_decoded(0, len(records))
        rows: dict[wire.SchemaId, list[int]] = {}
        for i, record in enumerate(records):
            opening = wire.opening(record.value, record.headers)
            if opening.schema_id is not None and len(values[i]) <= self._value_bytes_max:
                starts[i] += opening.body
                rows.setdefault(opening.schema_id, []).append(i)
        writers: dict[int, WriterSchema] = {}
        for schema_id, wanted in rows.items():
            with suppress(SchemaRefused):
                writer = self._writers.get(schema_id)
                program = self._program(schema_id, writer)
                if program is not None:
                    decode(program, joined, starts, bounds[1:], np.array(wanted), self._items_max, out)
                    writers |= dict.fromkeys(wanted, writer)
        for i in sorted(writers):
            if not out.status[i]:
                yield records[i], writers[i], values[i][starts[i] - bounds[i] :]

    def _program(self, schema_id: wire.SchemaId, writer: WriterSchema) -> Program | None:
        """Compile what holds a writer's records to the rules and gives no columns; None where that can't be done."""
        if schema_id not in self._rules:
            self._rules[schema_id] = _rules_of(writer)
        return self._rules[schema_id]


def _rules_of(writer: WriterSchema) -> Program | None:
    for schema in (writer.declared, writer.plain):
        with suppress(NotCovered):
            return compile_program(schema, schema, ())
    return None
