"""Records to be hostile with: six writers' schemas, six framings, valid events, and mutations that know where values begin and end.

A case is bytes, so that any fuzzer can keep it: the writer, the framing, then what the framing holds.
"""

from __future__ import annotations

import io
import json
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import fastavro

import schemas
from streamer.adapters.avro import wire
from streamer.adapters.avro.writer_schemas import WriterSchema, parse
from tests.properties.strategies import NO_NUMBERS, NUMBERS
from tests.properties.strict_avro import Generator, RefusedError, StrictReader, named

if TYPE_CHECKING:
    import random

    from streamer.core.columns import Headers

NOW_MS = 1_700_000_000_000
FIRST_ID = 10
FRAMINGS = 6
OURS: dict[str, Any] = json.loads(schemas.text("behaviour_event"))
BY_NAME: dict[str, Any] = {field["name"]: field for field in OURS["fields"]}
MOOD = {"type": "enum", "name": "Mood", "symbols": ["FINE", "SO_SO", "BAD"]}
PLACE = {
    "type": "record",
    "name": "Place",
    "fields": [
        {"name": "at", "type": {"type": "fixed", "name": "At", "size": 3}},
        {"name": "tags", "type": {"type": "map", "values": "bytes"}},
        {"name": "mood", "type": ["null", "Mood"]},
    ],
}
EXTRA: list[dict[str, Any]] = [
    {"name": "mood", "type": MOOD},
    {"name": "places", "type": {"type": "array", "items": PLACE}},
    {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
    {"name": "weight", "type": {"type": "fixed", "name": "Weight", "size": 5, "logicalType": "decimal", "precision": 9}},
    {"name": "trace", "type": {"type": "string", "logicalType": "uuid"}},
    {"name": "born", "type": ["null", {"type": "int", "logicalType": "date"}]},
    {"name": "at", "type": {"type": "long", "logicalType": "time-micros"}},
    {"name": "score", "type": ["double", "float", "boolean", "null"]},
    {"name": "nested", "type": {"type": "array", "items": {"type": "map", "values": {"type": "array", "items": ["null", "int"]}}}},
]


def _fields(*changed: dict[str, Any], without: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    names = {*without, *(field["name"] for field in changed)}
    return [*changed, *(field for field in OURS["fields"] if field["name"] not in names)]


DECLARED: tuple[dict[str, Any], ...] = (
    OURS,
    {**OURS, "fields": [*EXTRA[:5], *reversed(OURS["fields"]), *EXTRA[5:]]},
    {
        **OURS,
        "fields": _fields({"name": "amount", "type": "int"}, {"name": "event_type", "type": "bytes"}, {"name": "currency", "type": "null"}),
    },
    {**OURS, "fields": _fields(without=("amount", "currency", "quantity", "properties", "session_id"))},
    {
        **OURS,
        "fields": _fields(
            {"name": "customer_id", "type": ["null", "string"]},
            {"name": "occurred_at", "type": ["string", "long", "int"]},
            {"name": "quantity", "type": ["long", "null", "string"]},
            {"name": "category", "type": ["string", "null"]},
        ),
    },
    # What follows has no columns in the compiled decoder: fastavro reads it, once it has kept the rules.
    {**OURS, "fields": [*_fields({"name": "properties", "type": {"type": "map", "values": ["string", "bytes", "int"]}}), *EXTRA]},
)


@cache
def writer(index: int) -> WriterSchema:
    return parse(json.dumps(DECLARED[index]))


class Texts:
    """The writers' schemas by number and by GUID."""

    def by_id(self, schema_id: int, /) -> str | None:
        index = schema_id - FIRST_ID
        return json.dumps(DECLARED[index]) if 0 <= index < len(DECLARED) else None

    def by_guid(self, guid: UUID, /) -> str | None:
        return self.by_id(guid.int)


def record_of(case: bytes) -> tuple[bytes, Headers]:
    """Give a case's value and headers."""
    index, framing, body = case[0] % len(DECLARED) if case else 0, case[1] % FRAMINGS if len(case) > 1 else 0, case[2:]
    number = FIRST_ID + index
    if framing == 0:
        return wire.framed(body, number), ()
    if framing == 1:
        return wire.framed(body, UUID(int=number)), ()
    if framing == 2:
        return body, (wire.header(number),)
    if framing == 3:
        return body, (("other", None), wire.header(UUID(int=number)))
    if framing == 4:
        return body, ()  # the value's first bytes are what they are
    size = body[0] % 20 if body else 0
    return body[1 + size :], ((wire.HEADER, body[1 : 1 + size]),)


def written(index: int, event: dict[str, Any]) -> bytes:
    """Write an event with a writer's schema."""
    body = io.BytesIO()
    fastavro.schemaless_writer(body, writer(index).plain, event)
    return body.getvalue()


TEXTS = (
    "",
    "a",
    "käse",
    "EUR",
    "USD",
    "purchase",
    "view",
    "$erase",
    "$erased",
    "$merge",
    "$merged",
    "c" * 256,
    "c" * 257,
    "t" * 64,
    "t" * 65,
    "\0",
    "\U0001f600" * 9,
)
WHOLES = (0, 1, -1, 63, -64, 64, 2**31 - 1, -(2**31), 10**12, 10**12 + 1, -(10**12) - 1, 2**63 - 1, -(2**63))
TIMES = (NOW_MS, NOW_MS - 1, NOW_MS + 3_600_000, NOW_MS + 3_600_001, 631_152_000_000, 631_151_999_999, 0, -1, 4_102_444_800_000)


def event_of(rng: random.Random, index: int) -> dict[str, Any]:
    """Make an event that its writer can write: right more often than not, else at some limit."""

    def text() -> str:
        return rng.choice(TEXTS) if rng.random() < 0.2 else f"id-{rng.randrange(100)}"

    def whole() -> int:
        return rng.choice(WHOLES) if rng.random() < 0.2 else rng.randrange(10_000)

    def or_none(value: Any) -> Any:
        return None if rng.random() < 0.5 else value

    numbers = [*NUMBERS, *NO_NUMBERS]
    properties: dict[str, Any] = {rng.choice(["fee", "colour", "x", "é"]): rng.choice(numbers) for _ in range(rng.randrange(4))}
    event: dict[str, Any] = {
        "event_id": text(),
        "customer_id": text(),
        "event_type": rng.choice(["purchase", "view", "search", text()]),
        "occurred_at": rng.choice(TIMES) if rng.random() < 0.2 else NOW_MS - rng.randrange(10**9),
        "amount": or_none(whole()),
        "currency": or_none(rng.choice(["EUR", "EUR", "EUR", text()])),
        "quantity": or_none(whole()),
        "product_id": or_none(text()),
        "category": or_none(text()),
        "session_id": or_none(text()),
        "properties": properties,
    }
    if index == 2:
        event |= {"amount": rng.randrange(1_000), "event_type": event["event_type"].encode(), "currency": None}
    return event


def fresh(rng: random.Random) -> bytes:
    """Make a case: an event under some writer and framing, or some body of the writer's schema."""
    index, framing = rng.randrange(len(DECLARED)), rng.choice([0, 0, 0, 1, 2, 3])
    head = bytes([index, framing])
    declared = DECLARED[index]
    if rng.random() < 0.15:
        return head + Generator(rng).body(declared, named(declared))
    event = event_of(rng, index)
    names = [field["name"] for field in declared["fields"]]
    body = b""
    generator = Generator(rng)
    for field, name in zip(declared["fields"], names, strict=True):
        if name in event:
            body += _one(index, name, event[name])
        else:
            body += generator.body(field["type"], named(declared))
    return head + body


ODD_TEXT = tuple(
    bytes.fromhex(digits)
    for digits in (
        *("e09fbf", "e0a080", "ed9fbf", "eda080", "f08fbfbf", "f0908080", "f48fbfbf", "f4908080"),
        *("c1bf", "c280", "dfc0", "f5808080", "80", "c2"),
    )
)
SPELLINGS = (
    b"\x80\0",
    b"\x81\0",
    b"\xff\x80\0",
    *(b"\xff" * 9 + bytes([last]) for last in range(5)),
    b"\xff" * 10 + b"\1",
    b"\x80" * 9 + b"\1",
)


def boundaries() -> list[bytes]:
    """Give what lies on both sides of each limit, which no coverage tells apart."""
    event = {"event_id": "e", "customer_id": "c", "event_type": "view", "occurred_at": NOW_MS, "currency": "EUR", "properties": {}}
    changed: list[dict[str, Any]] = [{name: text} for name in ("event_id", "customer_id", "event_type", "session_id") for text in TEXTS]
    changed += [
        {name: "x" * size} for name, most in (("event_id", 128), ("customer_id", 256), ("event_type", 64)) for size in (most, most + 1)
    ]
    changed += [{name: whole} for name in ("amount", "quantity") for whole in WHOLES] + [{"occurred_at": time} for time in TIMES]
    changed += [{"properties": {"fee": text}} for text in (*NUMBERS, *NO_NUMBERS)]
    cases = [b"\0\0" + written(0, {**event, **fields}) for fields in changed]
    cases += [b"\0\0" + bytes([2 * len(text)]) + text + written(0, event)[2:] for text in ODD_TEXT]
    head = b"".join(_one(0, name, event[name]) for name in ("event_id", "customer_id", "event_type"))
    tail = b"".join(_one(0, field["name"], event.get(field["name"])) for field in OURS["fields"][4:])
    return cases + [b"\0\0" + head + spelling + tail for spelling in SPELLINGS]


@cache
def _field_schema(index: int, name: str) -> Any:
    (kind,) = [field["type"] for field in writer(index).plain["fields"] if field["name"] == name]
    return kind


def _one(index: int, name: str, value: Any) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, _field_schema(index, name), value)
    return body.getvalue()


class Tracing(StrictReader):
    """Notes where values begin and end, as far as a body keeps the rules."""

    def __init__(self, body: bytes, names: dict[str, Any]) -> None:
        super().__init__(body, 10_000, names)
        self.spans: list[tuple[int, int]] = []

    def number(self, bits: int = 64) -> int:
        begin = self.pos
        try:
            return super().number(bits)
        finally:
            self.spans.append((begin, self.pos))

    def value(self, schema: Any) -> None:
        begin = self.pos
        try:
            super().value(schema)
        finally:
            self.spans.append((begin, self.pos))


def _spans(index: int, body: bytes) -> list[tuple[int, int]]:
    reader = Tracing(body, named(DECLARED[index]))
    with suppress(RefusedError):
        reader.value(DECLARED[index])
    return reader.spans


def mutate(rng: random.Random, case: bytes) -> bytes:
    """Change a case: bytes, a value or count where one begins, the order of values, or the framing."""
    if len(case) < 2:
        return fresh(rng)
    head, body = case[:2], case[2:]
    index = head[0] % len(DECLARED)
    roll = rng.random()
    generator = Generator(rng)
    if roll < 0.05:
        head = bytes([rng.randrange(256), rng.randrange(256)])
    elif roll < 0.45:
        body = generator.mutate(body)
    elif roll < 0.5:
        body += rng.choice([b"\0", body, rng.randbytes(3)])
    else:
        for _ in range(rng.choice([1, 1, 2])):
            spans = _spans(index, body)
            begin, end = rng.choice(spans)
            other, stop = rng.choice(spans)
            token = rng.choice(
                [
                    generator.varint(rng.choice([*WHOLES, -2, 2, 1_000, 1_001, 2**30, 2**62])),
                    generator.varint(-rng.randrange(1, 5)) + generator.varint(rng.choice([0, 1, 2, 3, -1, 1_000, 2**62])),
                    body[other:stop],
                    b"",
                    b"\x80" * rng.randrange(1, 12) + rng.choice([b"\0", b"\1", b""]),
                    generator.varint(len(body)) + body,
                    generator.varint(3) + rng.randbytes(3),
                    generator.text(),
                ]
            )
            body = body[:begin] + token + body[end if rng.random() < 0.8 else begin :]
    return head + body[:6_000]
