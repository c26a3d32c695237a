"""Events as the values of records: the latest published BehaviourEvent, in Confluent's first framing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import schemas
from streamer.adapters.avro import codec, wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.adapters.files.events import Record
    from streamer.adapters.registry import SchemaSource

EVENT = "behaviour_event"


def encoder(source: SchemaSource, topic: str) -> Callable[[Record], bytes]:
    """Give the function that writes an event for a topic; the schema's id is asked for once, now.

    Raises `Misconfigured` or `Unavailable` where the source gives no id.
    """
    schema_id = source.register(f"{topic}-value", schemas.text(EVENT, schemas.latest(EVENT)))

    def encode(record: Record) -> bytes:
        return wire.framed(codec.encode(EVENT, record), schema_id)

    return encode
