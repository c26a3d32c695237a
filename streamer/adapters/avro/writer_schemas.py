"""Writers' schemas, parsed under limits: a schema that comes with the data is input like the data.

Law: whatever a parsed schema's bodies say, reading one costs at most a small multiple of its length in time and memory. So a schema is
refused that is recursive, that has arrays or maps of items without bytes, or that is larger or deeper than the limits.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from uuid import UUID

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

from streamer.core.errors import BadInput

if TYPE_CHECKING:
    from streamer.adapters.avro.wire import SchemaId

Schema: TypeAlias = "str | dict[str, Any] | list[Any]"

LOGICAL_KEYS = frozenset({"logicalType", "precision", "scale"})
NAMED = frozenset({"record", "enum", "fixed"})
LEAF_BYTES = {"null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8, "bytes": 1, "string": 1}
"""The fewest bytes that a value of a primitive type takes."""


class SchemaRefused(BadInput):
    """A writer's schema is unknown, is not Avro, or is beyond the limits; the message says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a writer's schema may be.

    `types_max` counts types with every use of a named type written out; `free_max` counts those of them that take no bytes, such as a null
    outside of a union.
    """

    text_chars_max: int = 262_144
    depth_max: int = 32
    types_max: int = 4_096
    free_max: int = 16
    fixed_bytes_max: int = 65_536


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True, eq=False)
class WriterSchema:
    """A writer's schema within the limits: `declared` as the JSON says it, `plain` parsed for fastavro without logical types."""

    declared: dict[str, Any]
    plain: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Weight:
    """What a type costs: with names written out, its number of types, those without bytes, its depth, and the fewest bytes of a value."""

    types: int
    free: int
    depth: int
    size: int


def parse(text: str, limits: Limits = DEFAULT_LIMITS) -> WriterSchema:
    """Parse a writer's schema.

    Raises:
        SchemaRefused: it is not the schema of a record, or is beyond the limits.

    """
    if len(text) > limits.text_chars_max:
        message = f"the schema's text has {len(text)} characters: {limits.text_chars_max} are allowed"
        raise SchemaRefused(message)
    try:
        declared = json.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"the schema is not JSON: {error}"
        raise SchemaRefused(message) from error
    if not isinstance(declared, dict) or declared.get("type") != "record":
        message = "the schema is not a record's"
        raise SchemaRefused(message)
    plain = _plain(declared, limits.depth_max)
    names: dict[str, Any] = {}
    try:
        parsed: dict[str, Any] = fastavro.parse_schema(plain, names)  # type: ignore[assignment]
        _Scales(names, limits).weigh(parsed)
    except (SchemaParseException, UnknownType, KeyError, TypeError, AttributeError) as error:
        message = f"the schema is not Avro: {type(error).__name__}: {error}"
        raise SchemaRefused(message) from error
    return WriterSchema(declared, parsed)


def _plain(schema: Any, depth_left: int) -> Any:  # noqa: ANN401  # JSON of unknown shape; fastavro judges it
    """Copy a schema without its logical types, so that fastavro reads numbers and bytes as they stand."""
    if depth_left < 0:
        message = "the schema is deeper than `depth_max`: declare a flatter record"
        raise SchemaRefused(message)
    if isinstance(schema, list):
        return [_plain(branch, depth_left - 1) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {key: value for key, value in schema.items() if key not in LOGICAL_KEYS}
    for key in {"items", "values"} & copy.keys():
        copy[key] = _plain(copy[key], depth_left - 1)
    if isinstance(copy.get("fields"), list):
        copy["fields"] = [
            {**item, "type": _plain(item["type"], depth_left - 1)} if isinstance(item, dict) and "type" in item else item
            for item in copy["fields"]
        ]
    return copy


@dataclass(slots=True)
class _Scales:
    """Weighs a parsed schema, each named type once; checks on the way what fastavro leaves unchecked."""

    names: dict[str, Any]
    limits: Limits
    weights: dict[str, _Weight] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)

    def weigh(self, schema: Schema) -> _Weight:
        weight = self._union(schema) if isinstance(schema, list) else self._one(schema)
        for what, limit in (("types", self.limits.types_max), ("free", self.limits.free_max), ("depth", self.limits.depth_max)):
            if getattr(weight, what) > limit:
                message = f"the schema, with its names written out, is beyond `{what}_max` = {limit}"
                raise SchemaRefused(message)
        return weight

    def _one(self, schema: str | dict[str, Any]) -> _Weight:
        kind = schema if isinstance(schema, str) else schema["type"]
        if kind in LEAF_BYTES:
            return _Weight(1, int(LEAF_BYTES[kind] == 0), 1, LEAF_BYTES[kind])
        definition: dict[str, Any] = self.names[schema] if isinstance(schema, str) else schema
        kind = definition["type"]
        if kind in NAMED:
            return self._named(definition, kind)
        if kind in {"array", "map"}:
            return self._items(definition["items" if kind == "array" else "values"], kind)
        message = f"the schema has a type that is none here: {kind!r}"
        raise SchemaRefused(message)

    def _union(self, branches: list[Any]) -> _Weight:
        if not branches or any(isinstance(branch, list) for branch in branches):
            message = "a union has no branches, or a union among its branches"
            raise SchemaRefused(message)
        weights = [self.weigh(branch) for branch in branches]
        # The branch's number takes a byte, which pays for one free type: a null inside a union is not free.
        free = max(0, max(w.free for w in weights) - 1)
        return _Weight(1 + sum(w.types for w in weights), free, 1 + max(w.depth for w in weights), 1)

    def _items(self, items: Schema, kind: str) -> _Weight:
        inner = self.weigh(items)
        if inner.size == 0:
            message = (
                f"the items of {'an array' if kind == 'array' else 'a map'} take no bytes: a few bytes could then count any number of them"
            )
            raise SchemaRefused(message)
        return _Weight(1 + inner.types, inner.free, 1 + inner.depth, 1)

    def _named(self, definition: dict[str, Any], kind: str) -> _Weight:
        name = definition["name"]
        if name in self.open:
            message = f"{name} contains itself: recursive schemas are not read"
            raise SchemaRefused(message)
        if name not in self.weights:
            self.open.add(name)
            self.weights[name] = self._record(definition) if kind == "record" else self._leaf(definition, kind)
            self.open.remove(name)
        return self.weights[name]

    def _leaf(self, definition: dict[str, Any], kind: str) -> _Weight:
        if kind == "enum":
            if not definition["symbols"]:
                message = f"the enum {definition['name']} has no symbols"
                raise SchemaRefused(message)
            return _Weight(1, 0, 1, 1)
        size = definition["size"]
        if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= self.limits.fixed_bytes_max:
            message = f"the size of the fixed {definition['name']} is not a number from 1 to {self.limits.fixed_bytes_max}"
            raise SchemaRefused(message)
        return _Weight(1, 0, 1, size)

    def _record(self, definition: dict[str, Any]) -> _Weight:
        fields = definition["fields"]
        if any(not isinstance(item["name"], str) for item in fields) or len({item["name"] for item in fields}) != len(fields):
            message = f"two fields of {definition['name']} have the same name, or one has none"
            raise SchemaRefused(message)
        weights = [self.weigh(item["type"]) for item in fields]
        size = sum(w.size for w in weights)
        free = sum(w.free for w in weights) + int(size == 0)
        return _Weight(1 + sum(w.types for w in weights), free, 1 + max((w.depth for w in weights), default=0), size)


class Texts(Protocol):
    """Where schemas' texts come from: None for an id that is not known there."""

    def by_id(self, schema_id: int, /) -> str | None:
        """Look a number up."""

    def by_guid(self, guid: UUID, /) -> str | None:
        """Look a GUID up."""


class WriterSchemas:
    """The writers' schemas met so far, parsed once each; the least recently used is forgotten beyond `entries_max`.

    A refusal is remembered as well, for a schema never changes. That an id is unknown is not: its source decides when to ask again.
    """

    def __init__(self, texts: Texts, limits: Limits = DEFAULT_LIMITS, entries_max: int = 256) -> None:
        """Take schemas from `texts` as they are asked for."""
        self._texts = texts
        self._limits = limits
        self._entries_max = entries_max
        self._entries: OrderedDict[SchemaId, WriterSchema | SchemaRefused] = OrderedDict()

    def get(self, schema_id: SchemaId) -> WriterSchema:
        """Give a schema by its id.

        Raises:
            SchemaRefused: the id is not known, or its schema is refused.
            Unavailable: the registry did not answer; the record is not to blame.

        """
        entry = self._entries.get(schema_id)
        if entry is None:
            entry = self._read(schema_id)
            self._entries[schema_id] = entry
            if len(self._entries) > self._entries_max:
                self._entries.popitem(last=False)
        self._entries.move_to_end(schema_id)
        if isinstance(entry, SchemaRefused):
            raise SchemaRefused(*entry.args)
        return entry

    def _read(self, schema_id: SchemaId) -> WriterSchema | SchemaRefused:
        text = self._texts.by_guid(schema_id) if isinstance(schema_id, UUID) else self._texts.by_id(schema_id)
        if text is None:
            message = f"schema {schema_id} is not known"
            raise SchemaRefused(message)
        try:
            return parse(text, self._limits)
        except SchemaRefused as refused:
            message = f"schema {schema_id}: {refused}"
            return SchemaRefused(message)
