"""Merges: the commands that `streamer merge` sends, and what a worker sends on because of one.

Law: what is sent on is a function of the record that it comes of, and of where that stands, so whoever writes it again writes the same.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from streamer.adapters.avro import codec, wire
from streamer.adapters.kafka.events_producer import EventRecord
from streamer.app.intake import EVENT, HOPS, INTO, PROFILE

if TYPE_CHECKING:
    from streamer.app.batch import Sent
    from streamer.app.intake import Taken
    from streamer.core.columns import Fetched

MERGE, MERGED = "$merge", "$merged"
SOURCE = "source_partition"
"""The header of what is sent on that names the partition whose owner did so."""


def commands(old: str, new: str, partitions: int, schema_id: wire.SchemaId, now_ms: int) -> list[EventRecord]:
    """Write the command that merges `old` into `new` for every partition: nobody need know which holds a customer."""
    value = written(_command(f"merge-{uuid4()}", old, MERGE, now_ms, {INTO: new}), schema_id)
    return [EventRecord(old.encode(), value, partition=partition) for partition in range(partitions)]


def sent_on(taken: Taken, fetched: Fetched, sent: Sent) -> dict[str, Any]:
    """Make the event that is sent on: what it was but for its customer, or the profile that a command took away."""
    event, customer = taken.event(sent.record), sent.customer.decode()
    if sent.away is None:
        hops = taken.hops(sent.record) + 1
        return {**event, "customer_id": customer, "properties": {**event["properties"], HOPS: str(hops)}}
    place = f"merged-{fetched.partition[sent.record]}-{fetched.offset[sent.record]}"
    return _command(place, customer, MERGED, sent.away.clock, {PROFILE: b64encode(sent.away.profile).decode()})


def written(event: dict[str, Any], schema_id: wire.SchemaId) -> bytes:
    """Write an event as a record's value."""
    return wire.framed(codec.encode(EVENT, event), schema_id)


def _command(event_id: str, customer_id: str, event_type: str, occurred_at: int, properties: dict[str, str]) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "customer_id": customer_id,
        "event_type": event_type,
        "occurred_at": occurred_at,
        **dict.fromkeys(("amount", "currency", "quantity", "product_id", "category", "session_id")),
        "properties": properties,
    }
