"""Confluent's framings, one record at a time and in columns."""

from __future__ import annotations

import io
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from confluent_kafka import schema_registry
from confluent_kafka.schema_registry.serde import SchemaId as TheirSchemaId
from confluent_kafka.serialization import MessageField, SerializationContext, SerializationError
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.adapters.avro.wire import HEADER, ID_MAX, Opening, SchemaId, framed, header, opening, openings, prefix
from streamer.core.columns import Fetched, Headers
from streamer.core.reasons import Reason

confluent: Any = schema_registry  # its type hints lag behind it

GUID = UUID("00112233-4455-6677-8899-aabbccddeeff")
OTHER = UUID(int=1)

Record = tuple[bytes | None, Headers]

ids: st.SearchStrategy[SchemaId] = st.one_of(st.sampled_from([1, 2, GUID, OTHER]), st.integers(0, ID_MAX), st.uuids())
prefixes = st.one_of(ids.map(prefix), st.binary(max_size=18), st.sampled_from([b"\x00", b"\x01", b"\x02\x00\x00\x00\x01"]))
values = st.one_of(
    st.none(), st.tuples(prefixes, st.binary(max_size=4)).map(b"".join), st.tuples(st.just(prefix(1)), st.binary()).map(b"".join)
)
headers = st.lists(st.tuples(st.sampled_from([HEADER, "traceparent"]), st.one_of(st.none(), prefixes)), max_size=3).map(tuple)
records = st.lists(st.tuples(values, st.one_of(st.just(()), headers)), max_size=12)


def fetched(rows: list[Record]) -> Fetched:
    bounds = np.cumsum([0, *(len(value or b"") for value, _ in rows)], dtype=np.int64)
    zeros = np.zeros(len(rows), np.int64)
    return Fetched(
        partition=zeros.astype(np.int32),
        offset=zeros,
        timestamp=zeros,
        values=b"".join(value or b"" for value, _ in rows),
        bounds=bounds,
        empty=np.array([value is None for value, _ in rows], np.bool_),
        keys=(None,) * len(rows),
        headers={row: pairs for row, (_, pairs) in enumerate(rows) if pairs},
    )


def context_of(pairs: Headers) -> Any:
    """Give Confluent's context of a value; its type hints are wrong about headers."""
    context: Any = SerializationContext
    return context("topic", MessageField.VALUE, list(pairs))


def theirs(value: bytes, pairs: Headers) -> tuple[SchemaId | None, bytes]:
    """Read with Confluent's own client: the id and the body."""
    found = TheirSchemaId("AVRO")
    context = context_of(pairs)
    body: bytes = confluent.dual_schema_id_deserializer(value, context, found).read()
    return (found.id if found.id is not None else found.guid), body


@pytest.mark.parametrize("schema_id", [0, 1, 1001, ID_MAX, GUID])
def test_a_body_comes_back_from_each_framing(schema_id: SchemaId) -> None:
    size = len(prefix(schema_id))
    assert Opening(schema_id, size, Reason.OK) == opening(framed(b"body", schema_id))
    assert Opening(schema_id, 0, Reason.OK) == opening(b"body", (("traceparent", b"x"), header(schema_id)))


def test_what_confluent_s_serializers_write_is_read() -> None:
    numbered, named = TheirSchemaId("AVRO", schema_id=7), TheirSchemaId("AVRO", guid=str(GUID))
    context = context_of(())
    body = confluent.header_schema_id_serializer(b"body", context, named)
    assert Opening(7, 5, Reason.OK) == opening(confluent.prefix_schema_id_serializer(b"body", context, numbered))
    assert Opening(GUID, 0, Reason.OK) == opening(body, tuple(context.headers))
    assert header(GUID) == context.headers[0]


@given(ids, st.binary(max_size=30))
def test_confluent_s_deserializer_reads_what_we_write(schema_id: SchemaId, body: bytes) -> None:
    assert (schema_id, body) == theirs(framed(body, schema_id), ())
    assert (schema_id, body) == theirs(body, (header(schema_id),))


@pytest.mark.parametrize("value", [b"", b"\x00", b"\x00\x00\x00\x01", b"\x01" + b"\x00" * 15, b"\x02" * 20, b"{}"])
def test_a_value_in_no_framing_has_no_schema_id(value: bytes) -> None:
    assert Opening(None, 0, Reason.NO_SCHEMA_ID) == opening(value)


@pytest.mark.parametrize("value", [b"", b"7", prefix(1) + b"\x00", b"\x01" + b"\x00" * 4, b"\x00" * 17])
def test_a_malformed_header_is_not_passed_over_for_the_value(value: bytes) -> None:
    assert Opening(None, 0, Reason.NO_SCHEMA_ID) == opening(framed(b"body", 1), ((HEADER, value),))


def test_a_null_header_is_passed_over_for_the_value() -> None:
    assert Opening(1, 5, Reason.OK) == opening(framed(b"body", 1), ((HEADER, None),))


def test_the_first_of_two_headers_counts() -> None:
    assert Opening(2, 0, Reason.OK) == opening(b"body", (header(2), header(3)))


def test_a_null_value_is_refused_whatever_its_headers_say() -> None:
    assert Opening(None, 0, Reason.NO_VALUE) == opening(None, (header(1),))


@pytest.mark.parametrize("schema_id", [-1, ID_MAX + 1])
def test_an_id_beyond_32_bits_is_not_written(schema_id: int) -> None:
    with pytest.raises(ValueError, match="a schema id is a number"):
        prefix(schema_id)


@given(st.binary(max_size=40), headers)
def test_what_we_read_confluent_s_client_reads_the_same(value: bytes, pairs: Headers) -> None:
    found = opening(value, pairs)
    if found.reason is Reason.OK:
        assert (found.schema_id, value[found.body :]) == theirs(value, pairs)


@given(records)
@example([(framed(b"a", 1), ()), (framed(b"b", 1), ())])
@example([(framed(b"a", GUID), ()), (framed(b"b", OTHER), ()), (framed(b"b", GUID), ())])
@example([(b"", ()), (None, ()), (b"\x00", ())])
@example([(b"", (header(1),)), (None, (header(1),)), (framed(b"", 1), ())])
@example([])
def test_columns_say_what_one_record_at_a_time_says(rows: list[Record]) -> None:
    batch = fetched(rows)
    found = openings(batch)
    for row, (value, pairs) in enumerate(rows):
        alone = opening(value, pairs)
        assert alone.reason == found.status[row]
        if alone.reason is Reason.OK:
            assert alone.schema_id == found.ids[found.writer[row]]
            assert batch.bounds[row] + alone.body == found.body[row]
        else:
            assert -1 == found.writer[row]
    assert len(found.ids) == len(set(found.ids))


def test_many_schemas_in_one_batch_are_told_apart() -> None:
    rows: list[Record] = [(framed(b"x", schema_id), ()) for schema_id in (9, 3, 9, GUID, 3)]
    found = openings(fetched(rows))
    assert [9, 3, 9, GUID, 3] == [found.ids[place] for place in found.writer]


def test_a_column_s_types_are_those_of_its_contract() -> None:
    found = openings(fetched([(framed(b"x", 1), ()), (None, ())]))
    assert ["int32", "int64", "int16"] == [column.dtype.name for column in (found.writer, found.body, found.status)]


def test_confluent_s_client_refuses_other_first_bytes_too() -> None:
    with pytest.raises(SerializationError):
        TheirSchemaId("AVRO").from_bytes(io.BytesIO(b"\x02\x00\x00\x00\x01"))
