"""Writers' schemas under limits, and records encoded and decoded one at a time."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from streamer.adapters.avro.codec import BodyRefused, RecordRefused, decode, decode_one, encode, readable
from streamer.adapters.avro.writer_schemas import Limits, SchemaRefused, WriterSchemas, parse
from streamer.adapters.registry import PackagedSchemas
from streamer.core.errors import Unavailable
from streamer.core.reasons import Reason

LONG = st.integers(-(1 << 63), (1 << 63) - 1)
GUID = UUID("00112233-4455-6677-8899-aabbccddeeff")


def record(*fields: dict[str, Any], name: str = "R", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def a(kind: Any) -> dict[str, Any]:
    return record({"name": "a", "type": kind})


def datum(schema: Any) -> st.SearchStrategy[Any]:
    """Draw data of one of our schemas: no named type occurs twice and no union has more than null and one other."""
    if isinstance(schema, list):
        return st.one_of([datum(branch) for branch in schema])
    if isinstance(schema, dict) and schema["type"] == "record":
        return st.fixed_dictionaries({item["name"]: datum(item["type"]) for item in schema["fields"]})
    if isinstance(schema, dict) and schema["type"] == "array":
        return st.lists(datum(schema["items"]), max_size=3)
    if isinstance(schema, dict) and schema["type"] == "map":
        return st.dictionaries(st.text(max_size=5), datum(schema["values"]), max_size=3)
    kind = schema["type"] if isinstance(schema, dict) else schema
    primitives: dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(),
        "boolean": st.booleans(),
        "int": st.integers(-(1 << 31), (1 << 31) - 1),
        "long": LONG,
        "double": st.floats(allow_nan=False),
        "string": st.text(max_size=20),
        "bytes": st.binary(max_size=20),
    }
    return primitives[kind]


named_data = st.sampled_from(schemas.NAMES).flatmap(lambda name: st.tuples(st.just(name), datum(schemas.load(name))))


@given(named_data)
def test_what_we_encode_we_decode(drawn: tuple[str, dict[str, Any]]) -> None:
    name, value = drawn
    assert value == decode(name, encode(name, value))


@given(named_data)
def test_a_subscriber_with_plain_fastavro_reads_what_we_encode(drawn: tuple[str, dict[str, Any]]) -> None:
    name, value = drawn
    source = io.BytesIO(encode(name, value))
    fastavro.schemaless_reader(source, _without_times(schemas.load(name)), None)
    assert b"" == source.read()


def _without_times(schema: Any) -> Any:
    """Random numbers are no dates: read them as numbers."""
    if isinstance(schema, dict):
        return {key: _without_times(value) for key, value in schema.items() if key != "logicalType"}
    return [_without_times(item) for item in schema] if isinstance(schema, list) else schema


EVENT = {"event_id": "e1", "customer_id": "c1", "event_type": "view", "occurred_at": 1_700_000_000_000}
FULL = {
    **EVENT,
    "amount": None,
    "currency": None,
    "quantity": None,
    "product_id": None,
    "category": None,
    "session_id": None,
    "properties": {},
}


def written(schema: dict[str, Any], value: dict[str, Any]) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, schema, value)
    return body.getvalue()


def test_what_is_left_out_takes_its_default() -> None:
    assert FULL == decode("behaviour_event", encode("behaviour_event", EVENT))


@pytest.mark.parametrize(
    "wrong",
    [
        {"event_id": "e1"},
        {**EVENT, "no_such": 1},
        {**EVENT, "occurred_at": "now"},
        {**EVENT, "amount": 1.5},
        {**EVENT, "occurred_at": 1 << 63},
    ],
)
def test_a_record_that_does_not_fit_is_not_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecordRefused, match="does not fit behaviour_event"):
        encode("behaviour_event", wrong)


def test_an_older_writer_without_the_optional_fields_is_read() -> None:
    schema = schemas.load("behaviour_event")
    schema["fields"] = schema["fields"][:4]
    assert FULL == decode_one(written(schema, EVENT), parse(json.dumps(schema)))


def test_a_newer_writer_with_more_fields_in_another_order_is_read() -> None:
    schema = schemas.load("behaviour_event")
    more = {"name": "loyalty", "type": ["null", {"type": "array", "items": "string"}], "default": None, "doc": "New."}
    schema["fields"] = [more, *reversed(schema["fields"])]
    body = written(schema, {**FULL, "loyalty": ["gold", "silver"]})
    assert FULL == decode_one(body, parse(json.dumps(schema)))


def test_a_writer_whose_every_field_may_be_null_is_read_while_none_is() -> None:
    schema = record(
        *({"name": name, "type": ["null", "string" if name != "occurred_at" else "long"]} for name in EVENT), name="BehaviourEvent"
    )
    assert FULL == decode_one(written(schema, EVENT), parse(json.dumps(schema)))
    with pytest.raises(BodyRefused) as refused:
        decode_one(written(schema, {**EVENT, "customer_id": None}), parse(json.dumps(schema)))
    assert Reason.BAD_BRANCH is refused.value.reason


def test_narrower_numbers_and_bytes_for_text_are_read() -> None:
    schema = schemas.load("behaviour_event")
    narrow = {"amount": {"name": "amount", "type": "int"}, "event_type": {"name": "event_type", "type": "bytes"}}
    schema["fields"] = [narrow.get(item["name"], item) for item in schema["fields"]]
    body = written(schema, {**FULL, "amount": 12, "event_type": b"view"})
    assert {**FULL, "amount": 12} == decode_one(body, parse(json.dumps(schema)))


def test_times_of_any_size_come_as_numbers() -> None:
    far = {**FULL, "occurred_at": (1 << 63) - 1}
    assert far == decode("behaviour_event", encode("behaviour_event", far))


BODY = encode("behaviour_event", {**EVENT, "properties": {"a": "b"}})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", Reason.TRUNCATED),
        (BODY[:-1], Reason.TRUNCATED),
        (BODY + b"\x00", Reason.TRAILING_BYTES),
        (b"\x02\xff" + BODY[3:], Reason.BAD_UTF8),
        (BODY.replace(b"\x00" * 6, b"\x08" + b"\x00" * 5, 1), Reason.BAD_BRANCH),
    ],
)
def test_a_body_that_is_not_what_its_schema_says_is_refused(body: bytes, reason: Reason) -> None:
    with pytest.raises(BodyRefused) as refused:
        decode("behaviour_event", body)
    assert reason is refused.value.reason


@given(st.binary(max_size=60), st.integers(0, len(BODY)))
def test_any_bytes_are_decoded_or_refused(noise: bytes, kept: int) -> None:
    try:
        decode("behaviour_event", BODY[:kept] + noise)
    except BodyRefused as refused:
        assert refused.reason is not Reason.OK  # noqa: PT017  # either way is right


def test_a_decoded_record_is_shown_in_one_line_of_json() -> None:
    assert '{"a": "é", "b": "00ff"}' == readable({"a": "é", "b": b"\x00\xff"})


def doubling(levels: int, leaf: Any) -> dict[str, Any]:
    """Nest records so that each level doubles what the names stand for."""
    schema = record({"name": "x", "type": leaf}, name="L0")
    for level in range(1, levels + 1):
        schema = record({"name": "x", "type": schema}, {"name": "y", "type": f"L{level - 1}"}, name=f"L{level}")
    return schema


def nested(levels: int) -> Any:
    return {"type": "array", "items": nested(levels - 1)} if levels else "int"


HOSTILE: list[tuple[Any, str]] = [
    (record({"name": "next", "type": ["null", "R"]}), "contains itself"),
    (record({"name": "b", "type": record({"name": "c", "type": {"type": "array", "items": "R"}}, name="B")}), "contains itself"),
    (a({"type": "array", "items": "null"}), "take no bytes"),
    (a({"type": "map", "values": "null"}), "take no bytes"),
    (a({"type": "array", "items": record(name="Empty")}), "take no bytes"),
    (a({"type": "array", "items": record({"name": "n", "type": "null"}, name="N")}), "take no bytes"),
    (a({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}), "size of the fixed"),
    (a({"type": "fixed", "name": "F", "size": -1}), "size of the fixed"),
    (a({"type": "fixed", "name": "F", "size": 1 << 40}), "size of the fixed"),
    (a({"type": "fixed", "name": "F", "size": "9"}), "size of the fixed"),
    (doubling(40, "int"), "beyond|deeper"),
    (doubling(14, "int"), "types_max"),
    (doubling(5, "null"), "free_max"),
    (a(nested(40)), "deeper than"),
    (a(["null", ["null", "int"]]), "a union among its branches"),
    (a([]), "no branches"),
    (a({"type": "enum", "name": "E", "symbols": []}), "no symbols"),
    (record({"name": "a", "type": "int"}, {"name": "a", "type": "int"}), "the same name"),
    (record({"name": 1, "type": "int"}), "the same name"),
    (a("Unknown"), "not Avro"),
    (a({"type": {"type": "string"}}), "not Avro|none here"),
    (a({"type": []}), "not Avro"),
    (a(None), "not Avro"),
    (a(7), "not Avro"),
    (record("field"), "not Avro"),  # type: ignore[arg-type]
    (record({"name": "a"}), "not Avro"),
    ({"type": "record", "name": "R", "fields": 7}, "not Avro"),
    ({"type": "record", "name": "R", "fields": None}, "not Avro"),
    ({"type": "record", "name": 7, "fields": []}, "not Avro"),
    ({"type": "record", "fields": []}, "not Avro"),
    ({"type": "array", "items": "int"}, "not a record's"),
    ("string", "not a record's"),
    (["null", "string"], "not a record's"),
    (a({"type": "enum", "name": "E", "symbols": 7}), "not Avro"),
    (a({"type": "enum", "name": "E", "symbols": [7]}), "not Avro"),
    (a({"type": "request"}), "not Avro|none here"),
    (record({"name": "a", "type": "int", "aliases": "b"}), "not Avro"),
    (record(a("int"), aliases=7), "not Avro"),
]


@pytest.mark.parametrize(("schema", "reason"), HOSTILE)
def test_a_schema_beyond_the_limits_is_refused(schema: Any, reason: str) -> None:
    with pytest.raises(SchemaRefused, match=reason):
        parse(json.dumps(schema))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"type": "record", "x": ' + "9" * 5_000 + "}", "not JSON"),
        (json.dumps(a("int") | {"doc": "x" * 262_144}), "262144 are allowed"),
    ],
)
def test_a_text_that_is_no_schema_is_refused(text: str, reason: str) -> None:
    with pytest.raises(SchemaRefused, match=reason):
        parse(text)


@pytest.mark.parametrize(
    "schema",
    [
        record(),
        a("null"),
        a({"type": "array", "items": ["null", "int"]}),
        a({"type": "map", "values": {"type": "fixed", "name": "F", "size": 16}}),
        doubling(4, "int"),
        doubling(4, ["null", "string"]),
        a(nested(30)),
        *(schemas.load(name) for name in schemas.NAMES),
    ],
)
def test_a_schema_within_the_limits_is_taken(schema: dict[str, Any]) -> None:
    assert schema == parse(json.dumps(schema)).declared


def test_a_limit_is_the_last_size_that_is_taken() -> None:
    wide = record(*({"name": f"f{i}", "type": "int"} for i in range(9)))
    parse(json.dumps(wide), Limits(types_max=10))
    with pytest.raises(SchemaRefused, match="types_max"):
        parse(json.dumps(wide), Limits(types_max=9))


@given(
    st.recursive(
        st.none() | st.booleans() | LONG | st.sampled_from(["record", "int", "array", "R"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["type", "name", "fields", "items", "symbols", "size", "aliases"]), inner)
        ),
    )
)
def test_any_json_is_a_schema_or_refused(noise: Any) -> None:
    for schema in (noise, a(noise), record(noise), {"type": "record", "name": "R", "fields": noise}):
        try:
            assert schema == parse(json.dumps(schema)).declared
        except SchemaRefused as refused:
            assert str(refused)  # noqa: PT017  # either way is right


@dataclass
class FakeTexts:
    """Schemas by id, and what was asked for."""

    texts: dict[int | UUID, str] = field(default_factory=dict)
    asked: list[int | UUID] = field(default_factory=list)
    silent: bool = False

    def by_id(self, schema_id: int, /) -> str | None:
        return self.answer(schema_id)

    def by_guid(self, guid: UUID, /) -> str | None:
        return self.answer(guid)

    def answer(self, schema_id: int | UUID) -> str | None:
        self.asked.append(schema_id)
        if self.silent:
            message = "no answer"
            raise Unavailable(message)
        return self.texts.get(schema_id)


TEXT = json.dumps(a("int"))


def test_a_schema_is_read_and_parsed_once() -> None:
    texts = FakeTexts({1: TEXT, GUID: TEXT})
    known = WriterSchemas(texts)
    assert known.get(1) is known.get(1)
    assert known.get(GUID) is known.get(GUID)
    assert [1, GUID] == texts.asked


def test_a_refused_schema_is_refused_again_without_being_read() -> None:
    texts = FakeTexts({1: "{}"})
    known = WriterSchemas(texts)
    for _ in range(2):
        with pytest.raises(SchemaRefused, match="schema 1: "):
            known.get(1)
    assert [1] == texts.asked


def test_an_unknown_id_is_asked_for_anew_since_its_source_remembers() -> None:
    texts = FakeTexts()
    known = WriterSchemas(texts)
    with pytest.raises(SchemaRefused, match="schema 1 is not known"):
        known.get(1)
    texts.texts[1] = TEXT
    assert json.loads(TEXT) == known.get(1).declared


def test_a_silent_source_refuses_no_record() -> None:
    texts = FakeTexts({1: TEXT}, silent=True)
    known = WriterSchemas(texts)
    with pytest.raises(Unavailable):
        known.get(1)
    texts.silent = False
    assert json.loads(TEXT) == known.get(1).declared


def test_the_least_recently_used_schema_is_forgotten() -> None:
    texts = FakeTexts(dict.fromkeys((1, 2, 3), TEXT))
    known = WriterSchemas(texts, entries_max=2)
    for schema_id in (1, 2, 1, 3, 1, 2):
        known.get(schema_id)
    assert [1, 2, 3, 2] == texts.asked


def test_packaged_schemas_read_what_we_write() -> None:
    writer = WriterSchemas(PackagedSchemas()).get(schemas.packaged_id("behaviour_event", 1))
    assert FULL == decode_one(encode("behaviour_event", EVENT), writer)
