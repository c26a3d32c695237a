"""Why a record is refused: each reason, its header text and what to do about it.

Law: a refused record is published to the dead-letter topic with exactly one reason: the first that applies in the order below, where the
reasons of an Avro body count as one, as they are met in the order of its bytes.
"""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """Why a record was refused. The name, in lower case, is the value of the dead letter's `dlq.reason` header; numbers are not published."""

    OK = 0
    QUARANTINED = 15
    # The framing.
    NO_VALUE = 1
    NO_SCHEMA_ID = 2
    TOO_LARGE = 14
    UNKNOWN_SCHEMA = 3
    # The Avro body.
    TRUNCATED = 4
    OVERLONG_VARINT = 5
    BAD_LENGTH = 6
    BAD_BRANCH = 7
    BAD_BOOLEAN = 8
    BAD_UTF8 = 9
    TOO_MANY_ITEMS = 10
    TOO_DEEP = 11
    BAD_NUMBER = 12
    TRAILING_BYTES = 13
    # The event.
    BAD_EVENT_ID = 20
    BAD_CUSTOMER_ID = 21
    BAD_EVENT_TYPE = 22
    UNKNOWN_COMMAND = 23
    TIME_OUT_OF_RANGE = 24
    TIME_IN_FUTURE = 25
    AMOUNT_OUT_OF_RANGE = 26
    QUANTITY_OUT_OF_RANGE = 27
    CURRENCY_REFUSED = 28
    PROPERTY_NOT_A_NUMBER = 29
    PROPERTY_OUT_OF_RANGE = 30
    BAD_MERGE = 31


REMEDIES: dict[Reason, str] = {
    Reason.QUARANTINED: "processes that began to read the record ended, again and again: look at it with `streamer dlq show`, and report what it does",
    Reason.NO_VALUE: "the record has no value: events are never null, and erasure is the command $erase",
    Reason.NO_SCHEMA_ID: "the value is not in Confluent's wire format: begin it with 0x00 and a schema id, 0x01 and a GUID, or send the __value_schema_id header",
    Reason.TOO_LARGE: "the value is longer than `limits.value_bytes_max`: send less, or raise the limit",
    Reason.UNKNOWN_SCHEMA: "the schema id is not known here, or its schema is refused: register the schema, or name it in the configuration (docs/schemas.md)",
    Reason.TRUNCATED: "the value ends inside a field: the producer's schema is not the one that the id names, or the value was cut",
    Reason.OVERLONG_VARINT: "a number takes more bytes than it needs or does not fit its type: the producer's schema is not the one that the id names",
    Reason.BAD_LENGTH: "a length is negative or reaches beyond the value: the producer's schema is not the one that the id names",
    Reason.BAD_BRANCH: "a union branch or enum symbol is out of range: the producer's schema is not the one that the id names",
    Reason.BAD_BOOLEAN: "a boolean is neither 0 nor 1: the producer's schema is not the one that the id names",
    Reason.BAD_UTF8: "a string is not UTF-8: encode it as UTF-8",
    Reason.TOO_MANY_ITEMS: "the arrays and maps of the record have more items than `limits.items_max`: send fewer, or raise the limit",
    Reason.TOO_DEEP: "values nest deeper than the decoder's stack: send a flatter record",
    Reason.BAD_NUMBER: "a date, time, decimal or UUID is outside its logical type's range: send one inside it",
    Reason.TRAILING_BYTES: "bytes are left over after the last field: the producer's schema is not the one that the id names",
    Reason.BAD_EVENT_ID: "event_id is empty or longer than `limits.event_id_bytes_max`: send an id of the event, or raise the limit",
    Reason.BAD_CUSTOMER_ID: "customer_id is empty or longer than `limits.customer_id_bytes_max`: send the customer's id, or raise the limit",
    Reason.BAD_EVENT_TYPE: "event_type is empty or longer than `limits.event_type_bytes_max`: send the event's type, or raise the limit",
    Reason.UNKNOWN_COMMAND: "event types that begin with $ are commands, and this one is not known: rename the event type",
    Reason.TIME_OUT_OF_RANGE: "occurred_at is before 1990-01-01, or 2100-01-01 or later: send milliseconds since 1970-01-01 UTC",
    Reason.TIME_IN_FUTURE: "occurred_at is later than the record's Kafka timestamp by more than `limits.future_s_max`: set the producer's clock",
    Reason.AMOUNT_OUT_OF_RANGE: "amount is beyond 10^12 minor units: send minor units, not micros",
    Reason.QUANTITY_OUT_OF_RANGE: "quantity is beyond 10^12: send a number of pieces",
    Reason.CURRENCY_REFUSED: "currency is not the declared one and `money.others` is refuse: convert the amount, or declare `others: ignore`",
    Reason.PROPERTY_NOT_A_NUMBER: "a property that a measure takes as a number is none: send digits such as 12.50, or leave the property out",
    Reason.PROPERTY_OUT_OF_RANGE: "a property that a measure takes as a number is beyond 10^12 of its unit (10^-decimals): send it in the declared unit",
    Reason.BAD_MERGE: "a command names nobody, or the customer, in its property `into`, or brings no profile of this feature version: send merges with `streamer merge`",
}
