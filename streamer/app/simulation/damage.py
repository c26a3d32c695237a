"""Malformed records: what producers get wrong, each kind with the reason for which it must be refused.

Law: a damaged event is refused for its kind's reason and no other, under the packaged declaration and the default limits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from streamer.adapters.avro import codec, wire
from streamer.app.simulation.writing import SCHEMA
from streamer.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

UNKNOWN_SCHEMA_ID: Final = 2_147_400_000
FAR_FUTURE_MS: Final = 4_070_908_800_000  # 2099-01-01
TOO_MUCH: Final = 10**15


@dataclass(frozen=True, slots=True)
class Damage:
    """One kind: fields that are changed before the event is written, or what becomes of the written value."""

    reason: Reason
    fields: Mapping[str, Any] = field(default_factory=dict)
    of_value: Callable[[bytes], bytes | None] = bytes

    def value(self, record: dict[str, Any], schema_id: int) -> bytes | None:
        """Write a record, damaged."""
        changed = {**record, **self.fields}
        if self.reason == Reason.TIME_OUT_OF_RANGE:
            changed["occurred_at"] = record["occurred_at"] // 1000  # seconds where milliseconds belong
        return self.of_value(wire.framed(codec.encode(SCHEMA, changed), schema_id))


DAMAGES: Final = (
    Damage(Reason.NO_VALUE, of_value=lambda _: None),
    Damage(Reason.NO_SCHEMA_ID, of_value=lambda _: b'{"event_type": "view"}'),
    Damage(Reason.UNKNOWN_SCHEMA, of_value=lambda value: wire.framed(value[wire.ID_BYTES :], UNKNOWN_SCHEMA_ID)),
    Damage(Reason.TRUNCATED, of_value=lambda value: value[:-1]),
    Damage(Reason.TRAILING_BYTES, of_value=lambda value: value + b"\x00"),
    Damage(Reason.BAD_UTF8, {"session_id": "??"}, lambda value: value.replace(b"\x02\x04??", b"\x02\x04\xc3\x28")),
    Damage(Reason.BAD_EVENT_ID, {"event_id": ""}),
    Damage(Reason.BAD_CUSTOMER_ID, {"customer_id": ""}),
    Damage(Reason.BAD_EVENT_TYPE, {"event_type": ""}),
    Damage(Reason.UNKNOWN_COMMAND, {"event_type": "$none"}),
    Damage(Reason.TIME_OUT_OF_RANGE),
    Damage(Reason.TIME_IN_FUTURE, {"occurred_at": FAR_FUTURE_MS}),
    Damage(Reason.AMOUNT_OUT_OF_RANGE, {"amount": TOO_MUCH, "currency": None}),
    Damage(Reason.QUANTITY_OUT_OF_RANGE, {"quantity": TOO_MUCH}),
    Damage(Reason.CURRENCY_REFUSED, {"amount": 1_000, "currency": "XXX"}),
)
