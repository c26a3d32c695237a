"""Events to an event sink, in order and in batches.

Law: events of a customer are sent in the order of their time, under one key, by one producer. A run that stops half-way may be run again:
ids are the same, so what was sent already counts once where the worker still remembers the id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from streamer.adapters.kafka.events_producer import EventRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from streamer.adapters.files.events import Record
    from streamer.adapters.files.load import Loaded

BATCH_EVENTS = 1_000


class EventSink(Protocol):
    """The producer of events. Both calls are bounded in time and raise `Unavailable`."""

    def send(self, events: Iterable[EventRecord]) -> int:
        """Queue events, in order; waits for room in the queue. Returns how many."""

    def wait(self, timeout_s: float) -> None:
        """Return once everything queued is acknowledged."""


@dataclass(frozen=True, slots=True)
class Channel:
    """Where events go: a sink, and how an event is written as a record's value."""

    sink: EventSink
    encode: Callable[[Record], bytes]


def send_events(
    loaded: Loaded,
    channel: Channel,
    *,
    limit: int | None = None,
    timeout_s: float = 60.0,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Send a file's events, or the first `limit` of them; returns how many. `progress` is told the number sent so far."""
    sent = 0
    wanted = len(loaded.events) if limit is None else min(limit, len(loaded.events))
    while sent < wanted:
        last = min(sent + BATCH_EVENTS, wanted)
        records = loaded.events.records(sent, last)
        channel.sink.send(EventRecord(record["customer_id"].encode(), channel.encode(record)) for record in records)
        sent = last
        if progress is not None:
            progress(sent)
    channel.sink.wait(timeout_s)
    return sent
