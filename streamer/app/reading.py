"""Reading one record for people: what it decodes to, or what stops that. Nothing that bytes say can do harm here either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from streamer.adapters.avro import codec, wire
from streamer.adapters.avro.writer_schemas import SchemaRefused, WriterSchemas
from streamer.app.intake import EVENT, rules_of
from streamer.app.wiring import schema_source
from streamer.core.decoding import decode, new_decoded
from streamer.core.errors import Misconfigured, Unavailable
from streamer.core.reasons import REMEDIES, Reason

if TYPE_CHECKING:
    from streamer.adapters.avro.writer_schemas import Texts
    from streamer.app.config import Config
    from streamer.core.columns import Headers


def read_event(config: Config, value: bytes | None, headers: Headers) -> tuple[dict[str, Any] | None, str | None]:
    """Decode a record as an event; where it can't be, say why."""
    try:
        texts = schema_source(config)
    except Misconfigured as error:
        return None, str(error)
    return read(texts, value, headers, config.limits.items_max)


def read(texts: Texts, value: bytes | None, headers: Headers, items_max: int) -> tuple[dict[str, Any] | None, str | None]:
    """Decode a record with the schema that it names, once it keeps the decoder's rules."""
    opening = wire.opening(value, headers)
    if value is None or opening.schema_id is None:
        return None, REMEDIES[opening.reason]
    try:
        writer = WriterSchemas(texts).get(opening.schema_id)
    except (SchemaRefused, Unavailable) as error:
        return None, str(error)
    rules = rules_of(writer)
    if rules is None:
        return None, f"schema {opening.schema_id} can't be held to the decoder's rules"
    out = new_decoded(0, 1)
    body = np.frombuffer(value, np.uint8)
    decode(rules, body, np.array([opening.body]), np.array([len(value)]), np.array([0]), items_max, out)
    if out.status[0]:
        reason = Reason(int(out.status[0]))
        return None, f"{reason.name.lower()}: {REMEDIES[reason]}"
    try:
        return codec.decode_one(value[opening.body :], writer, EVENT), None
    except codec.BodyRefused as error:
        return None, f"{error.reason.name.lower()}: {error}"
