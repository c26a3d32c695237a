"""From fetched records to events: framings, writers' schemas, and every malformed record with its reason."""

from __future__ import annotations

import copy
import io
import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import fastavro
import numpy as np
import pytest

import schemas
from streamer.adapters.avro import codec, wire
from streamer.adapters.avro.writer_schemas import WriterSchemas
from streamer.app.intake import READINGS_MAX, Intake, Reading, Taken
from streamer.core.columns import Fetched, Headers
from streamer.core.declaration import declare
from streamer.core.intake import Limits
from streamer.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NOW = 1_700_000_000_000
GUID = UUID("0123456789abcdef0123456789abcdef")
EVENT: dict[str, Any] = {"event_id": "e", "customer_id": "c", "event_type": "purchase", "occurred_at": NOW, "amount": 5}
OURS: dict[str, Any] = json.loads(schemas.text("behaviour_event"))
DECLARATION = declare(
    {
        "measures": {
            "spend": {"sum": "amount"},
            "pieces": {"sum": "quantity"},
            "fee": {"sum": "properties.fee", "decimals": 2},
            "kinds": {"distinct": "category"},
        },
        "features": {"f": {"active_days": "1d"}},
    }
)
ITEMS_MAX, BYTES_MAX = 50, 20_000


class Texts:
    """Schemas by number, and by GUID where the number is there in its place; counts what it was asked."""

    def __init__(self, **more: dict[str, Any]) -> None:
        self.texts: dict[object, str] = {1: schemas.text("behaviour_event", 1), GUID: schemas.text("behaviour_event", 1)}
        self.texts |= {int(name.removeprefix("s")): json.dumps(schema) for name, schema in more.items()}
        self.asked: list[object] = []

    def by_id(self, schema_id: int, /) -> str | None:
        self.asked.append(schema_id)
        return self.texts.get(schema_id)

    def by_guid(self, guid: UUID, /) -> str | None:
        self.asked.append(guid)
        return self.texts.get(guid)


def intake(texts: Texts | None = None) -> Intake:
    return Intake(DECLARATION, WriterSchemas(texts or Texts()), Limits(), ITEMS_MAX, BYTES_MAX)


def fetched(values: Sequence[bytes | None], headers: dict[int, Headers] | None = None) -> Fetched:
    n = len(values)
    bounds = np.cumsum([0, *(len(value or b"") for value in values)], dtype=np.int64)
    empty = np.array([value is None for value in values], np.bool_)
    keys = tuple(b"key" for _ in values)
    joined = b"".join(value or b"" for value in values)
    return Fetched(np.full(n, 4, np.int32), np.arange(n) + 100, np.full(n, NOW), joined, bounds, empty, keys, headers or {})


def take(values: Sequence[bytes | None], texts: Texts | None = None, headers: dict[int, Headers] | None = None) -> Taken:
    return intake(texts).take(fetched(values, headers), np.zeros(len(values), np.int32))


def reasons(taken: Taken) -> list[Reason]:
    return [Reason(int(status)) for status in taken.status]


def ids(taken: Taken) -> list[bytes]:
    """The customers of the rows."""
    return [taken.values[start : start + length].tobytes() for start, length in zip(taken.id_start, taken.id_length, strict=True)]


def sources(taken: Taken) -> list[list[int | None]]:
    """What each row's sources are."""
    value, there = taken.rows.value, taken.rows.there
    return [[int(value[v, i]) if there[v, i] else None for v in range(len(value))] for i in range(value.shape[1])]


def written(schema: dict[str, Any], event: dict[str, Any]) -> bytes:
    """An event's body in another writer's schema."""
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(copy.deepcopy(schema)), event)
    return body.getvalue()


def varied(*changed: dict[str, Any], without: Iterable[str] = ()) -> dict[str, Any]:
    """Our schema with some fields of other types, new fields, and some fields left out."""
    fields = [field for field in OURS["fields"] if field["name"] not in {*without, *(one["name"] for one in changed)}]
    return {**OURS, "fields": [*fields, *changed]}


def body(**fields: Any) -> bytes:
    return codec.encode("behaviour_event", {**EVENT, **fields})


def one(value: bytes | None, texts: Texts | None = None) -> Reason:
    """Why a record is refused, between two that are right."""
    right = wire.framed(body(), 1)
    found = reasons(take([right, value, right], texts))
    assert [Reason.OK, Reason.OK] == [found[0], found[2]]
    return found[1]


# Framings and schemas


def test_the_three_framings_give_the_same_event() -> None:
    values = [wire.framed(body(), 1), wire.framed(body(), GUID), body(), body()]
    taken = take(values, headers={2: (wire.header(1),), 3: (wire.header(GUID),)})
    assert [Reason.OK] * 4 == reasons(taken)
    assert [b"c"] * 4 == ids(taken)
    assert [[5, None, None]] * 4 == sources(taken)
    assert 1 == len(set(taken.id_hash.tolist()))


def test_an_empty_batch_is_taken() -> None:
    taken = take([])
    assert ([], []) == (reasons(taken), ids(taken))


def test_a_batch_without_any_value_is_taken() -> None:
    taken = take([None, b"", b"\0"])
    assert [Reason.NO_VALUE, Reason.NO_SCHEMA_ID, Reason.NO_SCHEMA_ID] == reasons(taken)


def test_several_writers_in_one_batch_are_read_each_by_its_schema() -> None:
    older = varied(without=["quantity", "properties", "category", "session_id"])
    newer = varied({"name": "mood", "type": "string", "default": ""}, {"name": "amount", "type": "int"})
    texts = Texts(s7=older, s8=newer)
    values = [
        wire.framed(written(older, {**EVENT, "customer_id": "old"}), 7),
        wire.framed(body(customer_id="ours", quantity=2, properties={"fee": "1.5"}), 1),
        wire.framed(written(newer, {**EVENT, "customer_id": "new", "mood": "fine"}), 8),
        wire.framed(written(older, {**EVENT, "customer_id": "old", "amount": None}), 7),
    ]
    taken = take(values, texts)
    assert [Reason.OK] * 4 == reasons(taken)
    assert [b"old", b"ours", b"new", b"old"] == ids(taken)
    assert [[5, None, None], [5, 2, 150], [5, None, None], [None, None, None]] == sources(taken)
    assert [1, 7, 8] == sorted(texts.asked, key=str)


def test_what_the_compiled_decoder_does_not_cover_is_read_all_the_same() -> None:
    odd = varied({"name": "properties", "type": {"type": "map", "values": ["string", "int"]}})
    texts = Texts(s9=odd)
    values = [
        wire.framed(body(customer_id="before"), 1),
        wire.framed(written(odd, {**EVENT, "customer_id": "odd", "quantity": 3, "properties": {"fee": "2.5", "é": "x"}}), 9),
        wire.framed(body(customer_id="between"), 1),
        wire.framed(written(odd, {**EVENT, "customer_id": "odder", "properties": {"fee": 7}}), 9),
        wire.framed(written(odd, {**EVENT, "customer_id": "", "properties": {}}), 9),
        wire.framed(written(odd, {**EVENT, "properties": {str(i): "x" for i in range(ITEMS_MAX + 1)}}), 9),
        wire.framed(b"\x02", 9),
    ]
    taken = take(values, texts)
    assert not reading(odd).whole
    expected = [Reason.OK, Reason.OK, Reason.OK, Reason.BAD_BRANCH, Reason.BAD_CUSTOMER_ID, Reason.TOO_MANY_ITEMS]
    assert expected == reasons(taken)[:-1]
    assert Reason.OK != reasons(taken)[-1]
    assert [b"before", b"odd", b"between"] == ids(taken)
    assert [[5, None, None], [5, 3, 250], [5, None, None]] == sources(taken)


def reading(schema: dict[str, Any]) -> Reading:
    """How a writer's records are read."""
    taker = intake(Texts(s9=schema))
    taker.take(fetched([wire.framed(b"", 9)]), np.zeros(1, np.int32))
    found = taker._readings[9]
    assert found is not None
    return found


ODD_PROPERTIES = {"name": "properties", "type": {"type": "map", "values": ["string", "int"]}}


def nest(levels: int) -> Any:
    return {"type": "record", "name": f"L{levels}", "fields": [{"name": "x", "type": nest(levels - 1)}]} if levels else "int"


@pytest.mark.parametrize(
    ("expected", "kind", "tail"),
    [
        (Reason.BAD_BRANCH, ["null", "int"], b"\1\2"),  # the branch before the first
        (Reason.TOO_MANY_ITEMS, {"type": "array", "items": "int"}, b"\x80\x80\x80\x80\x10" + b"\0" * 60),
        (Reason.TOO_MANY_ITEMS, {"type": "array", "items": "int"}, b"\xff" * 9 + b"\1\0\0"),  # the least of all counts
        (Reason.BAD_LENGTH, {"type": "array", "items": "int"}, b"\1\3\0\0"),  # a block of less than no bytes
        (Reason.BAD_LENGTH, {"type": "array", "items": "int"}, b"\1\x0a\0\0"),
        (Reason.TOO_MANY_ITEMS, {"type": "array", "items": nest(28)}, b"\xf0\x02" + b"\0" * 185),
        (Reason.BAD_LENGTH, "bytes", b"\xfe" + b"\xff" * 8 + b"\1"),  # longer than any memory
        (Reason.BAD_LENGTH, "bytes", b"\x09"),
        (Reason.OVERLONG_VARINT, "long", b"\x80\0"),
        (Reason.BAD_BOOLEAN, "boolean", b"\2"),
        (Reason.BAD_UTF8, "string", b"\2\xff"),
        (Reason.BAD_NUMBER, {"type": "bytes", "logicalType": "decimal", "precision": 3}, b"\x80\1" + b"\x7f" * 64),
        (Reason.OK, {"type": "bytes", "logicalType": "decimal", "precision": 0}, b"\2\x7f"),  # no decimal, so bytes
    ],
)
def test_what_fastavro_reads_for_us_is_held_to_the_decoders_rules_before(expected: Reason, kind: Any, tail: bytes) -> None:
    odd = varied(ODD_PROPERTIES, {"name": "more", "type": kind})
    head = written(varied(ODD_PROPERTIES), {**EVENT, "properties": {}})
    assert not reading(odd).whole
    assert expected == one(wire.framed(head + tail, 9), Texts(s9=odd))


def test_a_schema_whose_records_cannot_be_held_to_the_rules_is_refused() -> None:
    odd = varied({"name": "mood", "type": {"type": "enum", "name": "Mood", "symbols": ["FINE", "FINE"]}})
    value = wire.framed(written(varied({"name": "mood", "type": "int"}), {**EVENT, "properties": {}, "mood": 0}), 9)
    assert Reason.UNKNOWN_SCHEMA == one(value, Texts(s9=odd))


def test_a_record_that_fastavro_reads_and_will_not_write_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = varied({"name": "properties", "type": {"type": "map", "values": ["string", "int"]}})
    right = wire.framed(written(odd, {**EVENT, "properties": {}}), 9)
    framed = wire.framed(body(), 1)

    def refusing(name: str, record: dict[str, Any]) -> bytes:
        message = f"{name} has no room for {record}"
        raise codec.RecordRefused(message)

    monkeypatch.setattr(codec, "encode", refusing)
    assert [Reason.OK, Reason.OVERLONG_VARINT, Reason.OK] == reasons(take([framed, right, framed], Texts(s9=odd)))


def test_a_writer_without_a_field_that_every_event_needs_is_refused_record_by_record() -> None:
    for field in ("event_id", "customer_id", "event_type", "occurred_at"):
        lacking = varied(without=[field])
        event = {name: value for name, value in EVENT.items() if name != field}
        assert Reason.BAD_BRANCH == one(wire.framed(written(lacking, event), 9), Texts(s9=lacking))


def test_a_writer_whose_fields_may_be_null_is_read_while_they_are_not() -> None:
    nullable = varied(
        {"name": "customer_id", "type": ["null", "string"]}, {"name": "properties", "type": ["null", OURS["fields"][-1]["type"]]}
    )
    texts = Texts(s9=nullable)
    assert Reason.OK == one(wire.framed(written(nullable, {**EVENT, "properties": {"fee": "1"}}), 9), texts)
    for event in ({**EVENT, "customer_id": None, "properties": {}}, {**EVENT, "properties": None}):
        assert Reason.BAD_BRANCH == one(wire.framed(written(nullable, event), 9), texts)


def test_a_schema_is_compiled_once_and_forgotten_beyond_the_limit() -> None:
    texts = Texts(**{f"s{100 + i}": OURS for i in range(READINGS_MAX + 1)})
    taker = intake(texts)
    for _ in range(2):
        for i in range(READINGS_MAX + 1):
            assert [Reason.OK] == reasons(taker.take(fetched([wire.framed(body(), 100 + i)]), np.zeros(1, np.int32)))
        assert len(taker._readings) <= READINGS_MAX


def test_a_schema_is_not_asked_for_where_no_record_is_left_that_needs_it() -> None:
    texts = Texts()
    assert Reason.TOO_LARGE == one(wire.framed(b"x" * BYTES_MAX, 77), texts)
    assert [1] == texts.asked


# Malformed records, each with its reason

CUT = wire.framed(body(), 1)
MALFORMED: list[tuple[str, bytes | None, Reason]] = [
    ("a null", None, Reason.NO_VALUE),
    ("no bytes", b"", Reason.NO_SCHEMA_ID),
    ("text", b"hello", Reason.NO_SCHEMA_ID),
    ("JSON", b'{"event_id": "e"}', Reason.NO_SCHEMA_ID),
    ("a bare body", body(), Reason.NO_SCHEMA_ID),
    ("a cut id", b"\0\0\0\0", Reason.NO_SCHEMA_ID),
    ("a cut GUID", b"\1" + GUID.bytes[:15], Reason.NO_SCHEMA_ID),
    ("an unknown id", wire.framed(body(), 99), Reason.UNKNOWN_SCHEMA),
    ("an unknown GUID", wire.framed(body(), UUID(int=5)), Reason.UNKNOWN_SCHEMA),
    ("a schema that is none", wire.framed(body(), 66), Reason.UNKNOWN_SCHEMA),
    ("an id and no body", wire.framed(b"", 1), Reason.TRUNCATED),
    ("a body that is cut", CUT[:-1], Reason.TRUNCATED),
    ("a length beyond the end", wire.framed(b"\x7e" + body(), 1), Reason.BAD_LENGTH),
    ("a negative length", wire.framed(b"\x01" + body(), 1), Reason.BAD_LENGTH),
    ("an endless number", wire.framed(b"\xff" * 30, 1), Reason.OVERLONG_VARINT),
    ("bytes left over", CUT + b"\0", Reason.TRAILING_BYTES),
    ("text that is not UTF-8", wire.framed(b"\x02\xff" + body()[2:], 1), Reason.BAD_UTF8),
    ("zeros", b"\0\0\0\0\1" + b"\0" * 40, Reason.TRAILING_BYTES),
    ("a branch that is not there", wire.framed(body(amount=None)[:-7] + b"\x08", 1), Reason.BAD_BRANCH),
    ("too many properties", wire.framed(body(properties={str(i): "" for i in range(ITEMS_MAX + 1)}), 1), Reason.TOO_MANY_ITEMS),
    ("a value too long", wire.framed(body(session_id="x" * BYTES_MAX), 1), Reason.TOO_LARGE),
    ("no event id", wire.framed(body(event_id=""), 1), Reason.BAD_EVENT_ID),
    ("no customer id", wire.framed(body(customer_id=""), 1), Reason.BAD_CUSTOMER_ID),
    ("a customer id of 10 kB", wire.framed(body(customer_id="c" * 10_240), 1), Reason.BAD_CUSTOMER_ID),
    ("no type", wire.framed(body(event_type=""), 1), Reason.BAD_EVENT_TYPE),
    ("a command", wire.framed(body(event_type="$merg"), 1), Reason.UNKNOWN_COMMAND),
    ("the year 1970", wire.framed(body(occurred_at=0), 1), Reason.TIME_OUT_OF_RANGE),
    ("the year 1", wire.framed(body(occurred_at=-62_135_596_800_000), 1), Reason.TIME_OUT_OF_RANGE),
    ("the year 9999", wire.framed(body(occurred_at=253_402_300_799_999), 1), Reason.TIME_OUT_OF_RANGE),
    ("the year 292278994", wire.framed(body(occurred_at=2**63 - 1), 1), Reason.BAD_NUMBER),
    ("seconds for milliseconds", wire.framed(body(occurred_at=NOW // 1000), 1), Reason.TIME_OUT_OF_RANGE),
    ("tomorrow", wire.framed(body(occurred_at=NOW + 86_400_000), 1), Reason.TIME_IN_FUTURE),
    ("an absurd amount", wire.framed(body(amount=-(2**63)), 1), Reason.AMOUNT_OUT_OF_RANGE),
    ("an absurd quantity", wire.framed(body(quantity=10**13), 1), Reason.QUANTITY_OUT_OF_RANGE),
    ("another currency", wire.framed(body(currency="USD"), 1), Reason.CURRENCY_REFUSED),
    ("NaN", wire.framed(body(properties={"fee": "NaN"}), 1), Reason.PROPERTY_NOT_A_NUMBER),
    ("infinity", wire.framed(body(properties={"fee": "Infinity"}), 1), Reason.PROPERTY_NOT_A_NUMBER),
    ("minus infinity", wire.framed(body(properties={"fee": "-inf"}), 1), Reason.PROPERTY_NOT_A_NUMBER),
    ("a number too great", wire.framed(body(properties={"fee": "1e300"}), 1), Reason.PROPERTY_OUT_OF_RANGE),
]


@pytest.mark.parametrize(("value", "expected"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_a_malformed_record_is_refused_with_its_reason_and_its_neighbours_are_not(value: bytes | None, expected: Reason) -> None:
    assert expected == one(value, Texts(s66={"type": "string"}))


def test_a_wrong_header_is_refused_though_the_value_is_framed() -> None:
    taken = take([CUT, CUT, CUT], headers={0: (("__value_schema_id", b"\0\0\0\1"),), 1: (("__value_schema_id", None),)})
    assert [Reason.NO_SCHEMA_ID, Reason.OK, Reason.OK] == reasons(taken)


def test_all_malformed_records_at_once_have_the_same_reasons() -> None:
    taken = take([value for _, value, _ in MALFORMED], Texts(s66={"type": "string"}))
    assert [expected for _, _, expected in MALFORMED] == reasons(taken)
    assert [] == ids(taken)


def test_no_cut_of_a_record_is_taken() -> None:
    values = [CUT[:length] for length in range(len(CUT))]
    assert Reason.OK not in reasons(take(values))
