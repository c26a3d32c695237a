"""The checker of schema resolution finds each kind of break, and what it lets through fastavro reads."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from schemas.compatibility import Difference, differences


def record(*fields: dict[str, Any], name: str = "R", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": list(symbols), **more}


def fixed(size: int, **more: Any) -> dict[str, Any]:
    return {"type": "fixed", "name": "F", "size": size, **more}


def decimal(precision: int, scale: int) -> dict[str, Any]:
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}


A = {"name": "a", "type": "int"}
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
LIST = {"name": "value", "type": "long"}, {"name": "next", "type": ["null", "R"]}


@pytest.mark.parametrize(
    ("reader", "writer"),
    [
        *((kind, kind) for kind in ("null", "boolean", "int", "long", "float", "double", "bytes", "string")),
        *(("long", "int"), ("float", "int"), ("double", "int"), ("float", "long"), ("double", "long"), ("double", "float")),
        *(("bytes", "string"), ("string", "bytes")),
        (["null", "long"], "int"),
        ("long", ["int", "long"]),
        (["null", "string"], ["string", "null"]),
        ({"type": "array", "items": "long"}, {"type": "array", "items": "int"}),
        ({"type": "map", "values": ["null", "long"]}, {"type": "map", "values": "int"}),
        (record(A), record(A, {"name": "b", "type": "int"})),
        (record(A, {"name": "b", "type": "int", "default": 0}), record(A)),
        (record({"name": "b", "type": "int", "aliases": ["a"]}), record(A)),
        (record(A, name="S", aliases=["R"]), record(A)),
        (record(A, name="n.S", aliases=["R"]), record(A, name="n.R")),
        (record(A, name="n.S", aliases=["m.R"]), record(A, name="m.R")),
        (record(A, name="n.R"), record(A, name="m.R")),
        (enum("a", "b"), enum("b")),
        (enum("b", default="b"), enum("a", "b")),
        (fixed(4), fixed(4)),
        (MILLIS, MILLIS),
        (decimal(9, 2), decimal(9, 2)),
        (record(*LIST), record(*LIST)),
    ],
)
def test_what_avro_resolves_is_let_through(reader: Any, writer: Any) -> None:
    assert [] == differences(reader, writer)


@pytest.mark.parametrize(
    ("reader", "writer", "path", "reason"),
    [
        ("int", "long", "$", "long cannot be read as int"),
        ("float", "double", "$", "double cannot be read as float"),
        ("long", "float", "$", "float cannot be read as long"),
        ("string", "int", "$", "int cannot be read as string"),
        ("null", "int", "$", "int cannot be read as null"),
        ("boolean", "int", "$", "int cannot be read as boolean"),
        ({"type": "array", "items": "int"}, {"type": "map", "values": "int"}, "$", "map cannot be read as array"),
        ({"type": "array", "items": "int"}, {"type": "array", "items": "long"}, "$[]", "long cannot be read as int"),
        ({"type": "map", "values": "int"}, {"type": "map", "values": "long"}, "${}", "long cannot be read as int"),
        ("long", ["null", "long"], "$|null", "null cannot be read as long"),
        (["null", "int"], "long", "$", "the reader's union has no branch for long"),
        (["null", "int"], ["null", "string"], "$|string", "the reader's union has no branch for string"),
        (["null", {"type": "array", "items": "int"}], {"type": "array", "items": "string"}, "$", "has no branch for array"),
        (record(A, {"name": "b", "type": "int"}), record(A), "$.b", "the reader's has no default"),
        (record({"name": "b", "type": "int"}), record({**A, "aliases": ["b"]}), "$.b", "the reader's has no default"),
        (record({"name": "a", "type": "int"}), record({"name": "a", "type": "string"}), "$.a", "string cannot be read as int"),
        (record(A, name="S"), record(A), "$", "the name R is neither S nor one of its aliases"),
        (record(A, name="n.S", aliases=["R"]), record(A, name="m.R"), "$", "the name m.R is neither n.S"),
        (record(A), record(A, name="S", aliases=["R"]), "$", "the name S is neither R"),
        (enum("a"), enum("a", "b", "c"), "$", "the reader's enum has neither b, c nor a default"),
        (enum("a"), {**enum("a"), "name": "G"}, "$", "the name G is neither E"),
        (fixed(4), fixed(5), "$", "fixed of 5 bytes cannot be read as fixed of 4"),
        (fixed(4), {**fixed(4), "name": "G"}, "$", "the name G is neither F"),
        (enum("a"), fixed(4, aliases=["E"]), "$", "F cannot be read as E"),
        ("long", MILLIS, "$", "timestamp-millis would be read as plain long"),
        ({"type": "long", "logicalType": "timestamp-micros"}, MILLIS, "$", "timestamp-millis would be read as timestamp-micros"),
        (decimal(9, 3), decimal(9, 2), "$", "decimal(9, 2) would be read as decimal(9, 3)"),
        (record({**A, "aliases": ["b"]}), record(A, {"name": "b", "type": "int"}), "$.a", "a and b both answer to it"),
        (record(A, {"name": "b", "type": "int", "aliases": ["a"]}), record(A), "$.b", "the writer's field a answers to a as well"),
        (record({"name": "a", "type": record(A, name="S")}), record({"name": "a", "type": record(name="S")}), "$.a.a", "has no default"),
        (record(LIST[0], {"name": "next", "type": ["null", "R"]}, {**A}), record(*LIST), "$.a", "has no default"),
    ],
)
def test_each_break_is_found_with_its_path_and_reason(reader: Any, writer: Any, path: str, reason: str) -> None:
    found = differences(reader, writer)
    assert [path] == [difference.path for difference in found]
    assert reason in found[0].reason


def test_all_breaks_are_found_at_once() -> None:
    reader = record({"name": "a", "type": "int"}, {"name": "b", "type": "int"}, {"name": "c", "type": "int"})
    writer = record({"name": "a", "type": "long"}, {"name": "b", "type": "int"})
    expected = [
        Difference("$.a", "long cannot be read as int"),
        Difference("$.c", "the writer does not have the field and the reader's has no default"),
    ]
    assert expected == differences(reader, writer)


def test_the_first_branch_that_matches_decides_also_where_a_later_one_would_fit() -> None:
    reader = [record(A, {"name": "b", "type": "int"}, name="n.R"), record(A, name="m.R")]
    assert ["$.b"] == [difference.path for difference in differences(reader, record(A, name="m.R"))]


# Pairs of schemas near to each other: one record changed in a few places, so that many pairs resolve and many do not.

DEFAULTS = {"null": None, "boolean": False, "int": 0, "long": 0, "float": 0.0, "double": 0.0, "bytes": "", "string": ""}
primitives = st.sampled_from(sorted(DEFAULTS))
enums = st.lists(st.sampled_from("xyz"), min_size=1, max_size=3, unique=True)


@st.composite
def types(draw: st.DrawFn, path: str = "T", depth: int = 2) -> Any:  # noqa: PLR0911  # a table of types
    """Draw a type; a named type's name tells its place, so no name is used twice."""
    choice = draw(st.integers(0, 9 if depth else 4))
    match choice:
        case 5:
            return {"type": "array", "items": draw(types(path + "i", depth - 1))}
        case 6:
            return {"type": "map", "values": draw(types(path + "v", depth - 1))}
        case 7:
            branches = draw(st.lists(primitives, min_size=1, max_size=3, unique=True))
            return [*branches, draw(records(path + "u", depth - 1))] if draw(st.booleans()) else branches
        case 8:
            return draw(records(path, depth - 1))
        case 9:
            symbols = draw(enums)
            default = {"default": symbols[0]} if draw(st.booleans()) else {}
            return {"type": "enum", "name": path + "e", "symbols": symbols, **default}
        case 4:
            return {"type": "fixed", "name": path + "f", "size": draw(st.integers(1, 2))}
    return draw(primitives)


@st.composite
def records(draw: st.DrawFn, path: str = "T", depth: int = 2) -> Any:
    fields = []
    for name in draw(st.lists(st.sampled_from("abc"), max_size=3, unique=True)):
        kind = draw(types(path + name, depth))
        item = {"name": name, "type": kind}
        if isinstance(kind, str) and draw(st.booleans()):
            item["default"] = DEFAULTS[kind]
        if draw(st.integers(0, 3)) == 0:
            item["aliases"] = [draw(st.sampled_from("abc"))]
        fields.append(item)
    return {"type": "record", "name": path + "r", "fields": fields}


def data(schema: Any) -> st.SearchStrategy[Any]:  # noqa: PLR0911  # a table of types
    """Draw data of a schema; unions' branches by name, so that fastavro writes the branch that was drawn."""
    if isinstance(schema, list):
        return st.one_of([st.tuples(st.just(branch), data(branch)).map(_branch) for branch in schema])
    kind = schema if isinstance(schema, str) else schema["type"]
    match kind:
        case "array":
            return st.lists(data(schema["items"]), max_size=2)
        case "map":
            return st.dictionaries(st.text(max_size=2), data(schema["values"]), max_size=2)
        case "enum":
            return st.sampled_from(schema["symbols"])
        case "fixed":
            return st.binary(min_size=schema["size"], max_size=schema["size"])
        case "record":
            return st.fixed_dictionaries({item["name"]: data(item["type"]) for item in schema["fields"]})
    return {
        "null": st.none(),
        "boolean": st.booleans(),
        "int": st.integers(-(1 << 31), (1 << 31) - 1),
        "long": st.integers(-(1 << 63), (1 << 63) - 1),
        "float": st.floats(width=32),
        "double": st.floats(),
        "bytes": st.text(max_size=3).map(str.encode),  # so that they can be read as a string
        "string": st.text(max_size=3),
    }[kind]


def _branch(drawn: tuple[Any, Any]) -> Any:
    branch, value = drawn
    if isinstance(branch, str):
        return value if branch == "null" else (branch, value)
    return (branch["name"], value)


@st.composite
def near(draw: st.DrawFn, schema: Any, path: str = "N") -> Any:  # noqa: PLR0911  # a table of types
    """Draw a schema that differs from the given one in a few places."""
    if draw(st.integers(0, 7)) == 0:
        return draw(types(path, 0))
    if isinstance(schema, list):
        return draw(st.permutations([draw(near(branch, path)) if isinstance(branch, dict) else branch for branch in schema]))
    kind = schema if isinstance(schema, str) else schema["type"]
    match kind:
        case "array":
            return {**schema, "items": draw(near(schema["items"], path + "i"))}
        case "map":
            return {**schema, "values": draw(near(schema["values"], path + "v"))}
        case "enum":
            return {"type": "enum", "name": schema["name"], "symbols": draw(enums)}
        case "fixed":
            return schema
        case "record":
            return draw(near_record(schema, path))
    return draw(st.sampled_from([kind, *NARROWER.get(kind, ())]).flatmap(lambda one: st.sampled_from([one, [one]])))


@st.composite
def near_record(draw: st.DrawFn, schema: dict[str, Any], path: str = "N") -> Any:
    """Draw a record of the same name with some of the same fields, each of a near type, under its name or an alias."""
    fields: list[dict[str, Any]] = []
    for item in draw(st.permutations(schema["fields"])):
        name = draw(st.sampled_from([item["name"], item["name"], item["name"], *item.get("aliases", ()), "d"]))
        if name not in {one["name"] for one in fields}:
            fields.append({"name": name, "type": draw(near(item["type"], path + name))})
    return {"type": "record", "name": schema["name"], "fields": fields}


NARROWER = {"long": ["int"], "float": ["int", "long"], "double": ["int", "long", "float"], "bytes": ["string"], "string": ["bytes"]}
pairs = st.one_of(records().flatmap(lambda one: st.tuples(st.just(one), near_record(one))), st.tuples(records(), records()))


# Most pairs do not resolve, so an example takes many draws.
@settings(max_examples=min(1_000, settings().max_examples), suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(st.data(), pairs)
def test_what_the_checker_lets_through_fastavro_reads(drawn: st.DataObject, pair: tuple[Any, Any]) -> None:
    reader, writer = pair
    assume(_parses(reader) and _parses(writer))
    assume(not differences(reader, writer))
    event(f"{len(reader['fields'])} fields of the reader's, {len(writer['fields'])} of the writer's")
    datum = drawn.draw(data(writer))
    body = io.BytesIO()
    fastavro.schemaless_writer(body, writer, datum)
    body.seek(0)
    found: Any = fastavro.schemaless_reader(body, writer, reader)
    assert {item["name"] for item in reader["fields"]} == set(found)


@given(records())
def test_a_schema_reads_what_it_wrote(schema: Any) -> None:
    ambiguous = [difference for difference in differences(schema, schema) if "answer" not in difference.reason]
    assert [] == ambiguous


def _parses(schema: Any) -> bool:
    try:
        fastavro.parse_schema(schema)
    except fastavro.schema.SchemaParseException:
        return False
    return True
