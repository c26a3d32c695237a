"""Batches to an event sink, as fast as it takes them or at a rate; or to a Parquet file.

Law: what is counted is what was queued, and it is acknowledged when `send` returns.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from streamer.adapters.kafka.events_producer import EventRecord
from streamer.app.simulation.personas import PERSONAS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from streamer.app.clock import Clock
    from streamer.app.ingest.sending import EventSink
    from streamer.app.simulation.traffic import Batch, Counts

SLICE_S: Final = 0.02  # how much is sent at once where there is a rate
FATES: Final = ("sound", "late", "duplicate", "malformed")


@dataclass(frozen=True, slots=True)
class Feed:
    """Where records go, and the id of the schema that they are written in."""

    sink: EventSink
    schema_id: int


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast records go. With `follow`, events happen when they are sent; `stopped` is asked before every slice."""

    clock: Clock
    rate: float | None = None  # records a second
    follow: bool = False
    stopped: Callable[[], bool] = field(default=lambda: False)


def send(batches: Iterable[Batch], feed: Feed, pace: Pace, counts: Counts, told: Callable[[int], None], timeout_s: float) -> None:
    """Send batches until they end or `pace` is told to stop; `told` gets the number of records sent so far.

    Raises:
        Unavailable: the sink did not take them, or did not acknowledge within `timeout_s`.

    """
    begun_s, sent = pace.clock.monotonic_s(), 0
    for batch in batches:
        size = len(batch) if pace.rate is None else max(1, int(pace.rate * SLICE_S))
        for first in range(0, len(batch), size):
            if pace.stopped() or (pace.rate is not None and not _due(pace, begun_s + sent / pace.rate)):
                feed.sink.wait(timeout_s)
                return
            part = batch.part(first, first + size)
            if pace.follow:
                part = part.at(pace.clock.now_ms())
            records = zip(part.record_keys(), part.values(feed.schema_id), strict=True)
            feed.sink.send(EventRecord(key, value) for key, value in records)
            counts.add(part)
            sent += len(part)
            told(sent)
    feed.sink.wait(timeout_s)


def _due(pace: Pace, at_s: float) -> bool:
    """Wait until it is time; false if told to stop before."""
    while (left_s := at_s - pace.clock.monotonic_s()) > 0:
        if pace.stopped():
            return False
        pace.clock.sleep(min(left_s, 0.2))
    return True


@contextmanager
def parquet(path: Path) -> Iterator[Callable[[Batch, int], None]]:
    """Open a file for batches: a row for each record.

    It has the event's fields before any damage, key and value as on the topic, and the truth about the record.
    """
    import pyarrow as pa  # noqa: PLC0415  # slow to import, and sending does without it
    import pyarrow.parquet as pq  # noqa: PLC0415

    time, text, number, raw = pa.timestamp("ms", tz="UTC"), pa.string(), pa.int64(), pa.binary()
    names = {"event_id": text, "customer_id": text, "event_type": text, "occurred_at": time, "amount": number, "currency": text}
    names |= {"quantity": number, "product_id": text, "category": text, "session_id": text, "properties": pa.map_(text, text)}
    names |= {"sent_at": time, "persona": text, "fate": text, "reason": text, "key": raw, "value": raw}
    schema = pa.schema(list(names.items()))
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:

        def write(batch: Batch, schema_id: int) -> None:
            rows = batch.records()
            columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]} if rows else {name: [] for name in names}
            columns["properties"] = [list(row["properties"].items()) for row in rows]
            columns["sent_at"] = batch.rows["sent"].tolist()
            columns["persona"] = [PERSONAS[persona].name for persona in batch.rows["persona"].tolist()]
            columns["fate"] = [FATES[fate] for fate in batch.rows["fate"].tolist()]
            columns["reason"] = [None if reason is None else reason.name.lower() for reason in batch.reasons()]
            columns["key"], columns["value"] = batch.record_keys(), batch.values(schema_id)
            writer.write_table(pa.table({name: pa.array(columns[name], kind) for name, kind in names.items()}, schema=schema))

        yield write
