"""The decoder accepts exactly what fastavro accepts and the rules allow, with equal values."""

from __future__ import annotations

import copy
import random
import struct
from io import BytesIO
from typing import TYPE_CHECKING, Any

import fastavro
import numpy as np
import xxhash
from hypothesis import event, given
from hypothesis import strategies as st

from streamer.core.avro_schema import NotCovered
from streamer.core.decoding import decode, new_decoded
from streamer.core.opcodes import Column, Kind, compile_program
from streamer.core.reasons import Reason
from tests.properties.strict_avro import Generator, named, refusal

if TYPE_CHECKING:
    from streamer.core.columns import Decoded

ITEMS_MAX = 60
BODIES = 6
NUMBERS = {"boolean", "int", "long", "float", "double", "enum"}


def read(writer: Any, reader: Any, body: bytes) -> Any:
    """Read with fastavro; None if it refuses or leaves bytes over. It has no one exception for a bad body."""
    stream = BytesIO(body)
    try:
        record = fastavro.schemaless_reader(stream, copy.deepcopy(writer), copy.deepcopy(reader))
    except Exception:  # noqa: BLE001 - any exception is a refusal
        return None
    return record if stream.tell() == len(body) else None


def without_logical(schema: Any) -> Any:
    if isinstance(schema, list):
        return [without_logical(branch) for branch in schema]
    if isinstance(schema, dict):
        return {key: without_logical(value) for key, value in schema.items() if key != "logicalType"}
    return schema


def kinds_of(schema: Any, names: dict[str, Any]) -> set[str]:
    if isinstance(schema, list):
        return set().union(*(kinds_of(branch, names) for branch in schema)) if schema else set()
    if isinstance(schema, dict):
        return {schema["type"]}
    return {names[schema]["type"]} if schema in names else {schema}


def projection_of(reader: Any, source: random.Random) -> list[Column]:
    """Ask for every field that a column may hold, and for two properties of every map."""
    columns = []
    names = named(reader)
    for field in reader["fields"]:
        kinds = kinds_of(field["type"], names) - {"null"}
        hashed = source.random() < 0.5
        if source.random() < 0.15:
            continue
        if kinds == {"map"} and ("'values': 'string'" in str(field["type"]) or source.random() < 0.1):
            columns += [Column(Kind.PROPERTY, field["name"], key, hashed) for key in ("k", "price")]
        elif kinds and kinds <= NUMBERS and (len(kinds) == 1 or source.random() < 0.2):
            columns.append(Column(Kind.NUMBER, field["name"]))
        elif kinds == {"string"}:
            columns.append(Column(Kind.STRING, field["name"], hashed=hashed))
        elif kinds and kinds <= {"bytes", "fixed"}:
            columns.append(Column(Kind.BYTES, field["name"], hashed=hashed))
    source.shuffle(columns)
    return columns


def expected_cell(column: Column, record: Any, reader: Any) -> tuple[Any, int]:
    """Give what a column should say of fastavro's record: a number's bits or a string's bytes, and the length."""
    value = record[column.field]
    field = next(field for field in reader["fields"] if field["name"] == column.field)
    names = named(reader)
    if column.kind == Kind.PROPERTY:
        value = value.get(column.key) if value is not None else None
    if value is None:
        return None, -1
    if column.kind == Kind.NUMBER:
        if isinstance(value, str):
            for branch in field["type"] if isinstance(field["type"], list) else [field["type"]]:
                details = names[branch] if isinstance(branch, str) and branch in names else branch
                if isinstance(details, dict) and details["type"] == "enum":
                    return details["symbols"].index(value), 0
        if isinstance(value, float) or (kinds_of(field["type"], names) - {"null"} <= {"float", "double"}):
            return struct.unpack("<q", struct.pack("<d", value))[0], 0
        return int(value), 0
    data = value.encode() if isinstance(value, str) else value
    return data, len(data)


def check_row(out: Decoded, row: int, values: bytes, columns: list[Column], record: Any, reader: Any) -> None:
    for index, column in enumerate(columns):
        cell, length = expected_cell(column, record, reader)
        assert length == out.lengths[index, row], column
        start = int(out.cells[index, row])
        if column.kind == Kind.NUMBER and length == 0:
            assert cell == start, column
        elif length >= 0:
            assert cell == values[start : start + length], column
            if column.hashed:
                assert xxhash.xxh64_intdigest(cell) == int(out.hashes[index, row])


def check_pair(writer: Any, reader: Any, generator: Generator) -> None:
    columns = projection_of(reader, generator.source)
    try:
        fastavro.parse_schema(copy.deepcopy(reader))
    except fastavro.schema.SchemaParseException:
        event("evolved to what is no schema")
        return
    try:
        program = compile_program(writer, reader, columns)
    except NotCovered as reason:
        event(f"not covered: {str(reason)[:12]}")
        return
    raw_writer, raw_reader = without_logical(writer), without_logical(reader)
    if writer != reader:
        raw_reader["doc"] = "never equal to the writer's, which fastavro would read without resolution"
    bodies = [generator.body(writer, named(writer)) for _ in range(BODIES)]
    bodies += [generator.mutate(body) for body in bodies for _ in range(3)]
    joined, gap = b"", b"\xff\x02"
    starts, ends = [], []
    for body in bodies:
        starts.append(len(joined) + len(gap))
        joined += gap + body
        ends.append(len(joined))
    out = new_decoded(len(columns), len(bodies))
    values, rows = np.frombuffer(joined, np.uint8), np.arange(len(bodies), dtype=np.int64)
    decode(program, values, np.array(starts, np.int64), np.array(ends, np.int64), rows, ITEMS_MAX, out)
    for row, body in enumerate(bodies):
        status = Reason(int(out.status[row])).name
        broken = refusal(writer, body, ITEMS_MAX)
        if broken is not None:
            # What the reader can't take may come before the broken rule.
            assert status in {broken, "BAD_BRANCH", "BAD_UTF8"}, (body, broken)
            event("refused by a rule")
            continue
        record = read(writer, reader, body)
        assert ("OK" == status) == (record is not None), (body, status, record)
        event(f"fastavro {'refuses' if record is None else 'accepts'}")
        if record is not None:
            check_row(out, row, joined, columns, read(raw_writer, raw_reader, body), reader)


@given(st.integers(0, 2**64 - 1))
def test_a_writers_own_schema_is_read_as_fastavro_reads_it_under_the_rules(seed: int) -> None:
    generator = Generator(random.Random(seed))
    writer = generator.record(3, fields=6)
    check_pair(writer, copy.deepcopy(writer), generator)


@given(st.integers(0, 2**64 - 1))
def test_an_evolved_schema_is_resolved_as_fastavro_resolves_it_under_the_rules(seed: int) -> None:
    generator = Generator(random.Random(seed))
    writer = generator.record(3, fields=6)
    check_pair(writer, generator.evolve(writer), generator)
