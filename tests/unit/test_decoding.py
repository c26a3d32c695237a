"""The decoder: one test for each rule and reason, what each kind of column holds, and what is not covered."""

from __future__ import annotations

import datetime as dt
import json
import struct
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastavro
import numpy as np
import pytest
import xxhash

from streamer.core.avro_schema import NotCovered
from streamer.core.decoding import bits_of_single, decode, new_decoded
from streamer.core.opcodes import Column, Kind, compile_program
from streamer.core.reasons import Reason
from streamer.core.utf8 import is_utf8

if TYPE_CHECKING:
    from streamer.core.columns import Decoded

EVENT = json.loads((Path(__file__).parents[2] / "schemas" / "behaviour_event.avsc").read_text())
NODE = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}


def record(*types: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    """Make a record with fields a, b, c and so on."""
    return {"type": "record", "name": name, "fields": [{"name": chr(97 + i), "type": kind} for i, kind in enumerate(types)], **more}


def field(kind: Any, **more: Any) -> dict[str, Any]:
    """Make a record with the one field a."""
    return {"type": "record", "name": "R", "fields": [{"name": "a", "type": kind, **more}]}


def run(body: bytes, writer: Any, reader: Any = None, columns: tuple[Column, ...] = (), items_max: int = 100) -> Decoded:
    program = compile_program(writer, reader or writer, columns)
    out = new_decoded(len(columns), 1)
    decode(program, np.frombuffer(body, np.uint8), np.array([0]), np.array([len(body)]), np.array([0]), items_max, out)
    return out


def reason(body: bytes, kind: Any, items_max: int = 100) -> str:
    return Reason(int(run(body, field(kind), items_max=items_max).status[0])).name


def number(body: bytes, writer: Any, reader: Any = None) -> tuple[str, int, int]:
    out = run(body, writer, reader, (Column(Kind.NUMBER, "a"),))
    return Reason(int(out.status[0])).name, int(out.cells[0, 0]), int(out.lengths[0, 0])


def bits(value: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def date(logical: str, kind: str = "long") -> dict[str, str]:
    return {"type": kind, "logicalType": logical}


def varint(value: int) -> bytes:
    stream = BytesIO()
    fastavro.schemaless_writer(stream, "long", value)
    return stream.getvalue()


DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 1}
UUID = {"type": "string", "logicalType": "uuid"}
ENUM = {"type": "enum", "name": "E", "symbols": ["X", "Y"]}
FIXED = {"type": "fixed", "name": "F", "size": 2}


@pytest.mark.parametrize(
    ("expected", "kind", "body"),
    [
        ("TRUNCATED", "long", b""),
        ("TRUNCATED", "long", b"\x80"),
        ("TRUNCATED", "double", b"\0" * 7),
        ("TRUNCATED", "float", b"\0" * 3),
        ("TRUNCATED", "boolean", b""),
        ("TRUNCATED", FIXED, b"\0"),
        ("TRUNCATED", ["null", "long"], b""),
        ("TRUNCATED", "string", b"\x80"),
        ("TRUNCATED", {"type": "map", "values": "string"}, b"\2"),
        ("TRUNCATED", {"type": "map", "values": "string"}, b"\2\2k"),
        ("TRUNCATED", {"type": "map", "values": "long"}, b"\2\x80"),
        ("OK", "long", b"\xff" * 9 + b"\1"),
        ("OK", "int", b"\xff\xff\xff\xff\x0f"),
        ("OVERLONG_VARINT", "long", b"\xff" * 9 + b"\3"),
        ("OVERLONG_VARINT", "long", b"\xff" * 10 + b"\1"),
        ("OVERLONG_VARINT", "long", b"\x80\0"),
        ("OVERLONG_VARINT", "int", b"\x80\x80\x80\x80\x10"),
        ("OVERLONG_VARINT", date("date", "int"), b"\x80\x80\x80\x80\x10"),
        ("OVERLONG_VARINT", "string", b"\x80\0"),
        ("BAD_LENGTH", "string", b"\1"),
        ("BAD_LENGTH", "bytes", b"\4a"),
        ("BAD_LENGTH", "string", varint(2**63 - 1)),
        ("BAD_LENGTH", {"type": "map", "values": "string"}, b"\1\1"),
        ("BAD_LENGTH", {"type": "map", "values": "string"}, b"\2\1"),
        ("BAD_LENGTH", {"type": "map", "values": "string"}, b"\2\2k\1"),
        ("BAD_LENGTH", {"type": "map", "values": "string"}, b"\1\6\2k\2v\0"),
        ("BAD_LENGTH", {"type": "map", "values": "long"}, b"\2\4k"),
        ("BAD_LENGTH", {"type": "array", "items": "long"}, b"\1\4\2\0"),
        ("OK", {"type": "map", "values": "string"}, b"\1\x08\2k\2v\2\2k\2v\0"),
        ("OK", {"type": "map", "values": "bytes"}, b"\2\2k\2\xff\0"),
        ("OK", {"type": "array", "items": "long"}, b"\1\2\2\4\2\2\0"),
        ("OK", {"type": "array", "items": "null"}, b"\4\0"),
        ("BAD_BRANCH", ["null", "long"], b"\4"),
        ("BAD_BRANCH", ["null", "long"], b"\1"),
        ("BAD_BRANCH", ["long", "string"], b"\4"),
        ("BAD_BRANCH", ["long", "string"], b"\1"),
        ("BAD_BRANCH", ENUM, b"\4"),
        ("BAD_BRANCH", ENUM, b"\1"),
        ("TRUNCATED", ENUM, b""),
        ("TRUNCATED", ["long", "string"], b""),
        ("OK", ["long", "string"], b"\2\2x"),
        ("BAD_BOOLEAN", "boolean", b"\2"),
        ("BAD_UTF8", "string", b"\2\xff"),
        ("BAD_UTF8", {"type": "map", "values": "string"}, b"\2\2\xff\0\0"),
        ("BAD_UTF8", {"type": "map", "values": "string"}, b"\2\2k\2\xff\0"),
        ("BAD_UTF8", {"type": "map", "values": "long"}, b"\2\2\xff\0\0"),
        ("TOO_MANY_ITEMS", {"type": "array", "items": "null"}, varint(101) + b"\0"),
        ("TOO_MANY_ITEMS", {"type": "array", "items": "null"}, varint(60) + varint(41) + b"\0"),
        ("TOO_MANY_ITEMS", {"type": "array", "items": "null"}, varint(-(2**63)) + b"\0\0"),
        ("TOO_MANY_ITEMS", {"type": "map", "values": "string"}, varint(2**62)),
        ("BAD_NUMBER", date("date", "int"), varint(-719_163)),
        ("OK", date("date", "int"), varint(-719_162)),
        ("OK", date("date", "int"), varint(2_932_896)),
        ("BAD_NUMBER", date("date", "int"), varint(2_932_897)),
        ("BAD_NUMBER", date("time-millis", "int"), varint(-1)),
        ("BAD_NUMBER", date("time-millis", "int"), varint(86_400_000)),
        ("BAD_NUMBER", date("time-micros"), varint(86_400_000_000)),
        ("BAD_NUMBER", date("timestamp-millis"), varint(-62_135_596_800_001)),
        ("OK", date("timestamp-millis"), varint(253_402_300_799_999)),
        ("BAD_NUMBER", date("timestamp-millis"), varint(253_402_300_800_000)),
        ("BAD_NUMBER", date("local-timestamp-micros"), varint(253_402_300_800_000_000)),
        ("OK", date("timestamp-nanos"), varint(2**63 - 1)),
        ("OK", date("date"), varint(2**63 - 1)),
        ("OK", DECIMAL, b"\0"),
        ("OK", DECIMAL, b"\4" + (999).to_bytes(2, "big")),
        ("OK", DECIMAL, b"\x08" + (-999).to_bytes(4, "big", signed=True)),
        ("OK", DECIMAL, b"\4\0\7"),
        ("BAD_NUMBER", DECIMAL, b"\4" + (1000).to_bytes(2, "big")),
        ("BAD_NUMBER", DECIMAL, b"\4" + (-1000).to_bytes(2, "big", signed=True)),
        ("BAD_NUMBER", DECIMAL, b"\6\1\0\0"),
        ("BAD_NUMBER", FIXED | {"logicalType": "decimal", "precision": 2}, b"\0\x64"),
        ("OK", FIXED | {"logicalType": "decimal", "precision": 2}, b"\xff\x9d"),
        ("OK", UUID, b"\x48" + b"aAfF0990-0000-0000-0000-000000000000"),
        ("BAD_NUMBER", UUID, b"\x48" + b"gaff0990-0000-0000-0000-000000000000"),
        ("BAD_NUMBER", UUID, b"\x48" + b"aaff09900-000-0000-0000-000000000000"),
        ("BAD_NUMBER", UUID, b"\x40" + b"aaff0990000000000000000000000000"),
        ("BAD_UTF8", UUID, b"\2\xff"),
        ("TRAILING_BYTES", "long", b"\0\0"),
        ("TRAILING_BYTES", ["null", "long"], b"\0\0"),
    ],
)
def test_each_rule_refuses_with_its_reason_and_no_more_than_it_says(expected: str, kind: Any, body: bytes) -> None:
    assert expected == reason(body, kind)
    # The same in a field that the reader lacks, and for a value that is one of several in an array.
    other = field("null", name="R") | {"fields": []}
    assert expected == Reason(int(run(body, field(kind), other).status[0])).name


def test_a_cut_enum_is_cut_also_where_the_reader_lacks_its_first_symbol() -> None:
    assert ("TRUNCATED", 0, 0) == number(b"", field(ENUM), field(ENUM | {"symbols": ["Y"]}))


def test_records_that_contain_themselves_are_read_to_the_bound_of_the_stack_and_no_deeper() -> None:
    columns = ()
    assert Reason.OK == run(b"\2" * 64 + b"\0", NODE, None, columns).status[0]
    assert Reason.TOO_DEEP == run(b"\2" * 65 + b"\0", NODE, None, columns).status[0]
    forever = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": "Node"}]}
    assert Reason.TOO_DEEP == run(b"", forever).status[0]


def test_arrays_of_records_that_hold_maps_are_read_item_by_item() -> None:
    inner = {"type": "map", "values": record("string", {"type": "array", "items": "int"}, name="Inner")}
    writer = record({"type": "array", "items": inner}, "long")
    value = {"a": [{"k": {"a": "x", "b": [1, 2]}}, {}, {"l": {"a": "", "b": []}, "m": {"a": "é", "b": [3]}}], "b": 77}
    stream = BytesIO()
    fastavro.schemaless_writer(stream, writer, value)
    out = run(stream.getvalue(), writer, None, (Column(Kind.NUMBER, "b"),))
    assert (0, 77, 0) == (out.status[0], out.cells[0, 0], out.lengths[0, 0])


def test_a_behaviour_event_is_read_into_every_kind_of_column() -> None:
    values = {
        "event_id": "e-1", "customer_id": "Zoë", "event_type": "purchase", "occurred_at": dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC),
        "amount": -5, "currency": None, "quantity": None, "product_id": "p", "category": None, "session_id": "",
        "properties": {"price": "1.50", "other": "", "x": "y"},
    }  # fmt: skip
    names = ["event_id", "customer_id", "occurred_at", "amount", "currency", "quantity", "session_id"]
    kinds = [Kind.STRING, Kind.STRING, Kind.NUMBER, Kind.NUMBER, Kind.STRING, Kind.NUMBER, Kind.STRING]
    columns = [Column(kind, name, hashed=kind == Kind.STRING) for kind, name in zip(kinds, names, strict=True)]
    columns += [Column(Kind.PROPERTY, "properties", key, key == "price") for key in ("price", "absent", "other", "y")]
    stream = BytesIO()
    fastavro.schemaless_writer(stream, EVENT, values)
    body = stream.getvalue()
    out = run(body, EVENT, None, tuple(columns))
    assert out.status[0] == Reason.OK
    assert [3, 4, 0, 0, -1, -1, 0, 4, -1, 0, -1] == out.lengths[:, 0].tolist()
    texts = [body[out.cells[i, 0] : out.cells[i, 0] + out.lengths[i, 0]].decode() for i in (0, 1, 6, 7, 9)]
    assert ["e-1", "Zoë", "", "1.50", ""] == texts
    assert [1_709_208_000_000, -5] == out.cells[2:4, 0].tolist()
    assert [xxhash.xxh64_intdigest(text) for text in (b"e-1", "Zoë".encode(), b"", b"1.50")] == out.hashes[[0, 1, 6, 7], 0].tolist()


def test_of_a_key_that_a_map_repeats_the_last_value_counts() -> None:
    column = Column(Kind.PROPERTY, "a", "k", hashed=True)
    body = b"\4\2k\4v1\2k\2v\0"
    out = run(body, field({"type": "map", "values": "string"}), None, (column,))
    start = int(out.cells[0, 0])
    assert (1, b"v") == (out.lengths[0, 0], body[start : start + 1])
    assert xxhash.xxh64_intdigest(b"v") == out.hashes[0, 0]


def test_only_the_rows_asked_for_are_written_and_several_writers_share_the_columns() -> None:
    writers = [field("long"), field("int"), field("double")]
    reader, columns = field("double"), (Column(Kind.NUMBER, "a"),)
    bodies = [varint(3), varint(-4), struct.pack("<d", 0.25), b"\x80\0"]
    values, ends = np.frombuffer(b"".join(bodies), np.uint8), np.cumsum([len(body) for body in bodies])
    starts = np.concatenate(([0], ends[:-1]))
    out = new_decoded(1, 4)
    for rows, writer in (([3, 0], writers[0]), ([1], writers[1]), ([2], writers[2])):
        decode(compile_program(writer, reader, columns), values, starts, ends, np.array(rows), 10, out)
    assert [0, 0, 0, Reason.OVERLONG_VARINT] == out.status.tolist()
    assert [bits(3.0), bits(-4.0), bits(0.25)] == out.cells[0, :3].tolist()
    decode(compile_program(writers[0], reader, columns), values, starts, ends, np.array([], np.int64), 10, out)


def test_ranges_outside_the_values_and_columns_of_another_projection_are_refused() -> None:
    program = compile_program(field("long"), field("long"), [Column(Kind.NUMBER, "a")])
    values, rows = np.zeros(4, np.uint8), np.array([0])
    for start, end in ((-1, 2), (0, 5), (3, 2)):
        with pytest.raises(ValueError, match="ranges"):
            decode(program, values, np.array([start]), np.array([end]), rows, 10, new_decoded(1, 1))
    for columns, records in ((0, 1), (1, 2)):
        with pytest.raises(ValueError, match="projection"):
            decode(program, values, np.array([0]), np.array([1]), rows, 10, new_decoded(columns, records))


@pytest.mark.parametrize(
    ("expected", "writer", "reader", "body"),
    [
        (("OK", 5, 0), field("int"), field("long"), b"\x0a"),
        (("OK", bits(5.0), 0), field("long"), field("float"), b"\x0a"),
        (("OK", bits(2.5), 0), field("float"), field("double"), struct.pack("<f", 2.5)),
        (("OK", bits(-0.1), 0), field("double"), field("double"), struct.pack("<d", -0.1)),
        (("OK", 1, 0), field("boolean"), field("boolean"), b"\1"),
        (("OK", 7, 0), field("long"), field(["null", "long"]), b"\x0e"),
        (("OK", 7, 0), field(["null", "int"]), field("long"), b"\2\x0e"),
        (("BAD_BRANCH", 0, 0), field(["null", "int"]), field("long"), b"\0"),
        (("OK", 0, -1), field(["string", "null"]), field(["null", "long"]), b"\2"),
        (("OK", 1, 0), field(ENUM), field(ENUM | {"symbols": ["Z", "X"]}), b"\0"),
        (("BAD_BRANCH", 0, 0), field(ENUM), field(ENUM | {"symbols": ["Z", "X"]}), b"\2"),
        (("OK", 0, 0), field(ENUM), field(ENUM | {"symbols": ["Z", "X"], "default": "Z"}), b"\2"),
        (("OK", 0, -1), field("null"), field(["null", "long"]), b""),
        (("OK", 9, 0), field("string"), record("string") | {"fields": [{"name": "a", "type": "long", "default": 9}]}, b""),
    ],
)  # fmt: skip
def test_numbers_resolve_by_promotion_branch_and_symbol(expected: Any, writer: Any, reader: Any, body: bytes) -> None:
    if reader["fields"][0].get("default") is not None:
        writer = {"type": "record", "name": "R", "fields": []}
    assert expected == number(body, writer, reader)


@pytest.mark.parametrize(
    ("expected", "kind", "default"),
    [
        (("OK", 0, -1), ["null", "long"], None),
        (("OK", 5, 0), ["null", "long"], 5),
        (("OK", bits(5.0), 0), "double", 5),
        (("OK", bits(0.5), 0), ["null", "float"], 0.5),
        (("OK", 1, 0), "boolean", True),
        (("OK", 1, 0), ENUM, "Y"),
    ],
)
def test_a_number_that_the_writer_lacks_is_the_readers_default(expected: Any, kind: Any, default: Any) -> None:
    assert expected == number(b"", {"type": "record", "name": "R", "fields": []}, field(kind, default=default))


def test_a_string_or_property_that_the_writer_lacks_is_empty_or_null() -> None:
    nothing = {"type": "record", "name": "R", "fields": []}
    out = run(b"", nothing, field("string", default=""), (Column(Kind.STRING, "a", hashed=True),))
    assert (0, xxhash.xxh64_intdigest(b"")) == (out.lengths[0, 0], out.hashes[0, 0])
    maps = {"type": "map", "values": "string"}
    for default, expected in (({}, -1), ({"k": ""}, 0), ({"l": "x"}, -1)):
        out = run(b"", nothing, field(maps, default=default), (Column(Kind.PROPERTY, "a", "k"),))
        assert expected == out.lengths[0, 0]
    out = run(b"", nothing, field(["null", maps], default=None), (Column(Kind.PROPERTY, "a", "k"),))
    assert out.lengths[0, 0] == -1


def test_a_map_as_a_whole_is_its_blocks_with_properties_beside_it() -> None:
    maps = {"type": "map", "values": "string"}
    body = b"\4\2k\2v\2l\0\0"
    both = (Column(Kind.MAP, "a"), Column(Kind.PROPERTY, "a", "k"))
    for columns in (both, both[::-1]):
        out = run(body, field(maps), None, columns)
        place = columns.index(both[0])
        assert (0, len(body)) == (out.cells[place, 0], out.lengths[place, 0])
        assert 1 == out.lengths[1 - place, 0]
    assert [-1, -1] == run(b"\0", field(["null", maps]), None, both).lengths[:, 0].tolist()
    nothing = {"type": "record", "name": "R", "fields": []}
    assert [0, -1] == run(b"", nothing, field(maps, default={}), both).lengths[:, 0].tolist()
    assert Reason.TRUNCATED == run(body[:-1], field(maps), None, both).status[0]


def test_a_map_that_is_not_empty_by_default_is_not_covered_as_a_whole() -> None:
    nothing = {"type": "record", "name": "R", "fields": []}
    with pytest.raises(NotCovered, match="the default"):
        compile_program(nothing, field({"type": "map", "values": "string"}, default={"k": "v"}), (Column(Kind.MAP, "a"),))


def test_a_null_map_has_no_properties() -> None:
    maps = ["null", {"type": "map", "values": "string"}]
    columns = (Column(Kind.PROPERTY, "a", "k"), Column(Kind.PROPERTY, "a", "l"))
    assert [-1, -1] == run(b"\0", field(maps), None, columns).lengths[:, 0].tolist()
    assert [-1, 1] == run(b"\2\2\2l\2v\0", field(maps), None, columns).lengths[:, 0].tolist()


def test_fields_are_found_by_alias_and_a_record_by_its_unqualified_name() -> None:
    writer = record("long", namespace="one.two")
    reader = {"type": "record", "name": "other.R", "fields": [{"name": "b", "type": "long", "aliases": ["a"]}]}
    out = run(b"\4", writer, reader, (Column(Kind.NUMBER, "b"),))
    assert (0, 2) == (out.status[0], out.cells[0, 0])
    renamed = {"type": "record", "name": "S", "aliases": ["one.two.R"], "fields": []}
    assert run(b"\4", writer, renamed).status[0] == Reason.OK


def test_a_nested_mismatch_is_refused_only_where_it_is_met() -> None:
    inner, other = record("long", name="Inner"), record("string", name="Inner")
    lacking = {"type": "record", "name": "Inner", "fields": [{"name": "z", "type": "long"}]}
    for reader in (other, lacking):
        writer_items, reader_items = field({"type": "array", "items": inner}), field({"type": "array", "items": reader})
        assert run(b"\0", writer_items, reader_items).status[0] == Reason.OK
        assert run(b"\2\2\0", writer_items, reader_items).status[0] == Reason.BAD_BRANCH
        with pytest.raises(NotCovered):
            compile_program(field(inner), field(reader), [])
    strings, longs = field({"type": "map", "values": "string"}), field({"type": "map", "values": ["null", "long"]})
    assert run(b"\0", strings, longs).status[0] == Reason.OK
    assert run(b"\2\2k\2v\0", strings, longs).status[0] == Reason.BAD_BRANCH


def test_named_types_used_by_name_are_read_as_where_they_are_defined() -> None:
    writer = record(FIXED, "F", record("F", name="N"), ["null", "N"], {"type": "error", "name": "X", "fields": []}, namespace="n")
    columns = (Column(Kind.BYTES, "b", hashed=True),)
    body = b"aabbcc\2dd"
    out = run(body, writer, None, columns)
    assert (0, 2, 2) == (out.status[0], out.cells[0, 0], out.lengths[0, 0])
    assert xxhash.xxh64_intdigest(b"bb") == out.hashes[0, 0]
    recursive = record(NODE, {"type": "array", "items": "Node"})
    assert run(b"\0\2\2\0\0", recursive, recursive | {"doc": "not equal"}).status[0] == Reason.OK


@pytest.mark.parametrize(
    ("why", "writer", "reader", "columns"),
    [
        ("outermost", "long", field("long"), []),
        ("outermost", field("long"), ["null", field("long")], []),
        ("nor one of its aliases", field("long"), record("long", name="S"), []),
        ("never resolves", field("string"), field("long"), []),
        ("no default", record(), field("long"), []),
        ("unknown type", field("Unknown"), field("long"), []),
        ("unknown type", field({"type": "date"}), field("long"), []),
        ("a schema is a string", field(5), field("long"), []),
        ("no name", field({"type": "enum", "symbols": []}), field("long"), []),
        ("no size", field({"type": "fixed", "name": "F"}), field("long"), []),
        ("defined twice", record(FIXED, FIXED), field("long"), []),
        ("repeats a symbol", field(ENUM | {"default": "Z"}), field("long"), []),
        ("precision", field({"type": "bytes", "logicalType": "decimal"}), field("bytes"), []),
        ("a schema is a string", field({"type": "array"}), field("long"), []),
        ("no name or no type", {"type": "record", "name": "R", "fields": ["a"]}, field("long"), []),
        ("not a list of strings", record(aliases="S"), field("long"), []),
        (
            "written twice",
            record("long", "long"),
            {"type": "record", "name": "R", "fields": [{"name": "a", "type": "long", "aliases": ["b"]}]},
            [],
        ),
        ("is a record", field(record(name="N")), field(record(name="N")), [Column(Kind.NUMBER, "a")]),
        ("can't hold", field("string"), field("string"), [Column(Kind.NUMBER, "a")]),
        ("can't hold", field("long"), field("long"), [Column(Kind.STRING, "a")]),
        ("can't hold", field("string"), field("string"), [Column(Kind.BYTES, "a")]),
        ("in another", field(["long", "double"]), field(["long", "double"]), [Column(Kind.NUMBER, "a")]),
        ("does not promote", field(date("date", "int")), field("double"), [Column(Kind.NUMBER, "a")]),
        ("is a map", field({"type": "map", "values": "string"}), field({"type": "map", "values": "string"}), [Column(Kind.STRING, "a")]),
        ("is a map", field({"type": "map", "values": "long"}), field({"type": "map", "values": "long"}), [Column(Kind.PROPERTY, "a", "k")]),
        ("not a map", field("string"), field("string"), [Column(Kind.PROPERTY, "a", "k")]),
        ("is a map", field({"type": "map", "values": "long"}), field({"type": "map", "values": "long"}), [Column(Kind.MAP, "a")]),
        ("can't hold", field("string"), field("string"), [Column(Kind.MAP, "a")]),
        ("the default", record(), field("string", default="x"), [Column(Kind.STRING, "a")]),
        ("the default", record(), field("long", default=2**63), [Column(Kind.NUMBER, "a")]),
        ("the default", record(), field("long", default=True), [Column(Kind.NUMBER, "a")]),
        ("the default", record(), field("long", default=0.5), [Column(Kind.NUMBER, "a")]),
        ("the default", record(), field(["long", "string"], default="x"), [Column(Kind.NUMBER, "a")]),
        ("a record for the reader", field(ENUM), field(record(name="E")), []),
        ("by its name", record(record(name="N"), "N"), record("null", ["null", record(name="N")]), []),
    ],
)
def test_what_is_not_covered_is_named(why: str, writer: Any, reader: Any, columns: list[Column]) -> None:
    if why == "by its name":
        reader = {"type": "record", "name": "R", "fields": [{"name": "b", "type": ["null", record(name="N")]}]}
    with pytest.raises(NotCovered, match=why):
        compile_program(writer, reader, columns)


def test_schemas_that_fan_out_or_nest_without_measure_are_not_covered() -> None:
    wide: Any = record("long", "long", name="N0")
    for level in range(1, 15):
        wide = record(wide, f"N{level - 1}", name=f"N{level}")
    with pytest.raises(NotCovered, match="instructions"):
        compile_program(wide, wide, [])
    deep: Any = "long"
    for _ in range(2_000):
        deep = {"type": "array", "items": deep}
    with pytest.raises(NotCovered, match="too deep"):
        compile_program(field(deep), field("long"), [])


def test_a_projection_names_fields_of_the_reader_and_each_once() -> None:
    with pytest.raises(ValueError, match="no field"):
        compile_program(field("long"), field("long"), [Column(Kind.NUMBER, "z")])
    with pytest.raises(ValueError, match="again"):
        compile_program(field("long"), field("long"), [Column(Kind.NUMBER, "a"), Column(Kind.NUMBER, "a")])


@pytest.mark.parametrize(
    "pattern", [0, 1, 0x7FFFFF, 0x800000, 0x3F800000, 0x7F800000, 0xFF800000, 0x80000000, 0x80000001, 0x7FC00001, 0xC2F6E979]
)
def test_a_float_is_widened_to_the_equal_double(pattern: int) -> None:
    expected = bits(struct.unpack("<f", struct.pack("<I", pattern))[0])
    assert expected == int(bits_of_single(pattern))


def test_a_signalling_nan_becomes_a_quiet_one() -> None:
    assert int(bits_of_single(0x7F800001)) == 0x7FF8000020000000


LEADS = [bytes([lead]) for lead in range(256)]
EDGES = [b"", b"\x7f", b"\x80", b"\x8f", b"\x90", b"\x9f", b"\xa0", b"\xbf", b"\xc0", b"\xff"]


@pytest.mark.parametrize("lead", LEADS)
def test_utf8_is_judged_as_python_judges_it(lead: bytes) -> None:
    for second in EDGES:
        for rest in (b"", b"\x80", b"\x80\x80", b"\xbf\xbf\xbf", b"a", b"\x80a", b"\x80\xc0", b"\x80\x80abcdefgh"):
            for text in (lead + second + rest, b"12345678" + lead + second + rest):
                try:
                    text.decode()
                    expected = True
                except UnicodeDecodeError:
                    expected = False
                padded = np.frombuffer(b"\xff" + text + b"\x80", np.uint8)
                assert expected == is_utf8(padded, 1, len(text)), text
