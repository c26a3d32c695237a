"""Writes events to the input topic, for `streamer ingest` and whoever simulates customers."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from streamer.adapters.kafka.outgoing import Outgoing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from streamer.adapters.kafka.client import KafkaSettings
    from streamer.core.columns import Headers

CHUNK_RECORDS = 1_000


class EventRecord(NamedTuple):
    """One event to be written. `timestamp` is Kafka's own, in milliseconds; 0 is now. The key decides the partition where it is -1."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp: int = 0
    partition: int = -1


class EventsProducer:
    """Partitions by customer id, so that all of a customer's events are in one partition."""

    def __init__(self, settings: KafkaSettings, topic: str, partitioner: str = "murmur2_random") -> None:
        """Prepare; at most 100,000 records or 64 MB are under way at a time, unless properties say otherwise."""
        self._topic = topic
        given = replace(settings, properties={"partitioner": partitioner, **settings.properties})
        self._outgoing = Outgoing(given, f"writing to {topic}", {"linger.ms": 20, "compression.type": "lz4"})

    def send(self, events: Iterable[EventRecord], progress: Callable[[int], None] | None = None) -> int:
        """Queue events; returns how many.

        Args:
            events: read once; not held.
            progress: called with the number of events queued since it was last called, every 1,000.

        Raises:
            Unavailable: the queue stayed full for the settings' time-out.

        """
        given = iter(events)
        total = 0
        while chunk := list(islice(given, CHUNK_RECORDS)):
            for event in chunk:
                self._outgoing.produce(self._topic, event.key, event.value, event.headers, event.partition, event.timestamp)
            self._outgoing.serve()
            total += len(chunk)
            if progress is not None:
                progress(len(chunk))
        return total

    def wait(self, timeout_s: float) -> None:
        """Return once all are acknowledged; raises what failed, or `Unavailable` at the bound."""
        self._outgoing.flush(timeout_s)

    def close(self) -> None:
        """End; waits for nothing."""
        self._outgoing.close()
