"""An input that reaches back beyond what Kafka keeps: history first, then the topic, at exactly the next offset.

Law: from whatever offset a partition is started, `fetch` gives the valid events of the log from there on, each once and in order, be they
read from history or from Kafka. What history holds was valid when it was archived, and is put into our own schema again, so that it passes
through the same decoding, validation and fold as everything else; refused records do not come again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from streamer.adapters.avro import codec, wire
from streamer.core.columns import Fetched
from streamer.core.history import NUMBERS, PROPERTIES, TEXTS
from streamer.core.ports import OffsetOutOfRange, Rebalanced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from streamer.adapters.history import Batch, History
    from streamer.core.ports import Committed, EventLog, Membership

log = logging.getLogger(__name__)

EVENT = "behaviour_event"
BATCH_ROWS = 5_000
NOTHING = Rebalanced((), (), ())


class _Reading:
    """A partition that is being read from history, up to `end`, in parts."""

    def __init__(self, history: History, partition: int, position: int, end: int) -> None:
        self.end = end
        self._batches: Iterator[Batch] = history.events({partition: end}, batch_rows=BATCH_ROWS, first={partition: position})
        self._left: Batch | None = None

    def next(self, records_max: int) -> Batch | None:
        """Give the next rows, up to so many; None at the end."""
        left = self._left if self._left is not None else next(self._batches, None)
        self._left = None
        if left is not None and left.num_rows > records_max:
            left, self._left = left.slice(0, records_max), left.slice(records_max)
        return left


class LongLog:
    """`EventLog` on another one and on history."""

    def __init__(self, inner: EventLog, history: Callable[[int], History | None], schema_id: wire.SchemaId) -> None:
        """Read what `inner` does not hold any more from history, as records of the schema that the intake knows by `schema_id`.

        Args:
            inner: the log.
            history: opens a partition's history as it is then; None where there is none yet.
            schema_id: stands before each event; nobody else may use it.

        """
        self._inner = inner
        self._history = history
        self._schema_id = schema_id
        self._reading: dict[int, _Reading] = {}
        self._told = NOTHING

    def fetch(self, records_max: int, wait_s: float, gather_s: float) -> Fetched:
        """Fetch as the inner log does, and read on in history."""
        fetched = self._fetch(records_max, wait_s, gather_s)
        self._take_told()
        parts = [fetched] if len(fetched) else []
        room = records_max - len(fetched)
        for partition in list(self._reading):
            if room > 0:
                parts += self._read_on(partition, room)
                room = records_max - sum(map(len, parts))
        return joined(parts) if parts else fetched

    def rebalanced(self) -> Rebalanced:
        """Tell, and forget, what the group did, as of the last fetch."""
        self._take_told()
        told, self._told = self._told, NOTHING
        return told

    def start(self, partition: int, offset: int) -> None:
        """Deliver the partition's records from exactly this offset on."""
        self._reading.pop(partition, None)
        if not self._from_history(partition, offset):
            self._inner.start(partition, offset)

    def pause(self, partitions: Sequence[int]) -> None:
        """Deliver nothing from these until `start`."""
        for partition in partitions:
            self._reading.pop(partition, None)
        self._inner.pause(partitions)

    def before_revoked(self, call: Callable[[Sequence[int]], None]) -> None:
        """Have `call` called while partitions about to be revoked are still owned."""
        self._inner.before_revoked(call)

    def membership(self) -> Membership:
        """Give what this member was in the group as of the last `fetch`."""
        return self._inner.membership()

    def committed(self, partitions: Sequence[int]) -> dict[int, Committed]:
        """Read the group's stable positions."""
        return self._inner.committed(partitions)

    def commit(self, positions: Mapping[int, Committed], *, wait: bool = False) -> None:
        """Send positions with their commit ids on their way."""
        self._inner.commit(positions, wait=wait)

    def bounds(self, partition: int) -> tuple[int, int]:
        """Give the first offset that is in history or in Kafka, without a hole behind it, and Kafka's high watermark."""
        first, high = self._inner.bounds(partition)
        if first:
            reach = _reach(self._history(partition), partition)
            if reach is not None and reach[0] < first <= reach[1]:
                return reach[0], high
        return first, high

    def end(self, partition: int) -> int | None:
        """Give the high watermark that came with the partition's latest records."""
        return self._inner.end(partition)

    def close(self) -> None:
        """Leave the group."""
        self._reading.clear()
        self._inner.close()

    def _fetch(self, records_max: int, wait_s: float, gather_s: float) -> Fetched:
        """Fetch from Kafka; each partition whose offset it holds no more is read from history from now on, if that is possible."""
        while True:
            try:
                return self._inner.fetch(records_max, 0.0 if self._reading else wait_s, gather_s)
            except OffsetOutOfRange as error:
                if not self._from_history(error.partition, error.offset):
                    raise

    def _take_told(self) -> None:
        """Ask what the group did, and stop reading what is not ours any more."""
        new = self._inner.rebalanced()
        gone = {*new.revoked, *new.lost}
        for partition in gone:
            self._reading.pop(partition, None)
        kept = tuple(partition for partition in self._told.assigned if partition not in gone)
        self._told = Rebalanced((*kept, *new.assigned), (*self._told.revoked, *new.revoked), (*self._told.lost, *new.lost))

    def _from_history(self, partition: int, offset: int) -> bool:
        """Begin to read a partition from history, up to what Kafka holds, if it reaches from the offset to there."""
        first = self._inner.bounds(partition)[0]
        if offset >= first:
            return False
        history = self._history(partition)
        reach = _reach(history, partition)
        if history is None or reach is None or not reach[0] <= offset < first <= reach[1]:
            return False
        self._inner.pause([partition])
        self._reading[partition] = _Reading(history, partition, offset, first)
        log.info("partition %d: offsets %d to %d come from history", partition, offset, first)
        return True

    def _read_on(self, partition: int, records_max: int) -> list[Fetched]:
        """Give the next events of a partition from history; at their end it is started in Kafka, or in what history holds by then."""
        reading = self._reading[partition]
        batch = reading.next(records_max)
        if batch is not None:
            return [fetched_of(batch, self._schema_id)]
        self.start(partition, reading.end)
        return []


def _reach(history: History | None, partition: int) -> tuple[int, int] | None:
    """Tell from where to where history reaches."""
    found = None if history is None else history.manifest().events.get(partition)
    return None if found is None or not found.entries else (found.entries[0].first, found.entries[-1].end)


def fetched_of(batch: Batch, schema_id: wire.SchemaId) -> Fetched:
    """Write events of history as records of our own schema."""
    names = (*TEXTS, *NUMBERS, PROPERTIES)
    values, keys = [], []
    for row in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
        event: dict[str, Any] = dict(zip(names, row, strict=True))
        event[PROPERTIES] = dict(event[PROPERTIES])
        values.append(wire.framed(codec.encode(EVENT, event), schema_id))
        keys.append(event["customer_id"].encode())
    return Fetched(
        partition=batch.column("partition").to_numpy(),
        offset=batch.column("offset").to_numpy(),
        timestamp=batch.column("kafka_timestamp").to_numpy(),
        values=b"".join(values),
        bounds=np.cumsum([0, *map(len, values)], dtype=np.int64),
        empty=np.zeros(len(values), np.bool_),
        keys=tuple(keys),
        headers={},
    )


def joined(parts: Sequence[Fetched]) -> Fetched:
    """Join batches, in the order given."""
    if len(parts) == 1:
        return parts[0]
    at = np.cumsum([0, *(len(part) for part in parts)])
    begin = np.cumsum([0, *(len(part.values) for part in parts)])
    return Fetched(
        np.concatenate([part.partition for part in parts]),
        np.concatenate([part.offset for part in parts]),
        np.concatenate([part.timestamp for part in parts]),
        b"".join(part.values for part in parts),
        np.concatenate([np.zeros(1, np.int64), *(part.bounds[1:] + first for part, first in zip(parts, begin, strict=False))]),
        np.concatenate([part.empty for part in parts]),
        tuple(key for part in parts for key in part.keys),
        {row + int(first): some for part, first in zip(parts, at, strict=False) for row, some in part.headers.items()},
    )
