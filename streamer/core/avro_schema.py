"""Avro schemas as a graph of types, and which of a reader's types a writer's type resolves to.

Law: two types match exactly when fastavro matches them: by kind, by promotion, by unqualified name or alias, and to the first branch of a
reader's union that matches. What is outside the specification, or where fastavro departs from it, is refused here with `NotCovered`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Schema: TypeAlias = "str | list[Any] | Mapping[str, Any]"

PRIMITIVES: Final = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
NAMED: Final = frozenset({"record", "enum", "fixed"})
PROMOTIONS: Final[dict[str, frozenset[str]]] = {
    "int": frozenset({"long", "float", "double"}),
    "long": frozenset({"float", "double"}),
    "float": frozenset({"double"}),
    "string": frozenset({"bytes"}),
    "bytes": frozenset({"string"}),
}
LOGICAL: Final = frozenset(
    {
        "int-date",
        "int-time-millis",
        "long-time-micros",
        "long-timestamp-millis",
        "long-timestamp-micros",
        "long-local-timestamp-millis",
        "long-local-timestamp-micros",
        "bytes-decimal",
        "fixed-decimal",
        "string-uuid",
    }
)
"""The pairs of type and logical type that fastavro converts. Any other logical type is ignored, as the specification asks."""

PRECISION_MAX: Final = 1_000


class NotCovered(Exception):  # noqa: N818 - it is an answer, not a fault: the caller decodes such records one by one
    """The compiled decoder can't express a pair of schemas or a projection; the message says which part and why."""


@dataclass(slots=True, eq=False)
class Field:
    """One field of a record. `default` is a one-element tuple, or empty where there is none (null is a default too)."""

    name: str
    type: Type
    aliases: tuple[str, ...] = ()
    default: tuple[Any, ...] = ()


@dataclass(slots=True, eq=False)
class Type:
    """One Avro type.

    `branches` are a union's, or the one type of an array's items or a map's values. A use of a named type by its name is a copy that
    shares `fields`, so that a record can contain itself.
    """

    kind: str
    name: str = ""
    aliases: tuple[str, ...] = ()
    fields: list[Field] = field(default_factory=list)
    branches: tuple[Type, ...] = ()
    symbols: tuple[str, ...] = ()
    default: str | None = None
    size: int = 0
    logical: str = ""
    precision: int = 0
    by_name: bool = False

    @property
    def inner(self) -> Type:
        """The type of an array's items or a map's values."""
        return self.branches[0]


def parse(schema: Schema) -> Type:
    """Resolve a schema's names into a graph of types.

    Raises:
        NotCovered: the schema is not one that fastavro accepts, with the part that is wrong.
    """
    return _parse(schema, "", {})


def _parse(schema: object, namespace: str, names: dict[str, Type]) -> Type:
    if isinstance(schema, list):
        return Type("union", branches=tuple(_parse(branch, namespace, names) for branch in schema))
    if isinstance(schema, str):
        if schema in PRIMITIVES:
            return Type(schema)
        full = f"{namespace}.{schema}" if namespace and "." not in schema else schema
        if full not in names:
            message = f"unknown type {full!r}"
            raise NotCovered(message)
        return replace(names[full], by_name=True)
    if not isinstance(schema, dict):
        message = f"a schema is a string, a list or an object, not {schema!r}"
        raise NotCovered(message)
    kind = "record" if schema.get("type") == "error" else schema.get("type")
    if kind == "array":
        return Type("array", branches=(_parse(schema.get("items"), namespace, names),))
    if kind == "map":
        return Type("map", branches=(_parse(schema.get("values"), namespace, names),))
    if isinstance(kind, str) and kind in NAMED:
        return _parse_named(schema, kind, namespace, names)
    if isinstance(kind, str) and kind in PRIMITIVES:
        return _with_logical(Type(kind), schema)
    message = f"unknown type {kind!r}"
    raise NotCovered(message)


def _parse_named(schema: dict[str, Any], kind: str, namespace: str, names: dict[str, Type]) -> Type:
    name = schema.get("name")
    if not isinstance(name, str):
        message = f"a {kind} has no name"
        raise NotCovered(message)
    namespace = schema.get("namespace", namespace)
    if "." in name:
        namespace = name.rsplit(".", 1)[0]
    elif namespace:
        name = f"{namespace}.{name}"
    if name in names:
        message = f"{name} is defined twice"
        raise NotCovered(message)
    named = Type(kind, name=name, aliases=_strings(schema, "aliases", name))
    names[name] = named
    if kind == "enum":
        named.symbols, named.default = _strings(schema, "symbols", name), schema.get("default")
        if len(set(named.symbols)) != len(named.symbols) or (named.default is not None and named.default not in named.symbols):
            message = f"enum {name} repeats a symbol, or its default is none of them"
            raise NotCovered(message)
    elif kind == "fixed":
        size = schema.get("size")
        if not isinstance(size, int) or size < 0:
            message = f"fixed {name} has no size"
            raise NotCovered(message)
        named.size = size
        _with_logical(named, schema)
    else:
        for entry in schema.get("fields", ()):
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or "type" not in entry:
                message = f"a field of {name} has no name or no type"
                raise NotCovered(message)
            default = (entry["default"],) if "default" in entry else ()
            aliases = _strings(entry, "aliases", f"{name}.{entry['name']}")
            named.fields.append(Field(entry["name"], _parse(entry["type"], namespace, names), aliases, default))
    return named


def _strings(schema: dict[str, Any], key: str, name: str) -> tuple[str, ...]:
    strings = schema.get(key, [])
    if not isinstance(strings, list) or not all(isinstance(string, str) for string in strings):
        message = f"{key} of {name} is not a list of strings"
        raise NotCovered(message)
    return tuple(strings)


def _with_logical(plain: Type, schema: dict[str, Any]) -> Type:
    logical = f"{plain.kind}-{schema.get('logicalType')}"
    if logical not in LOGICAL:
        return plain
    plain.logical = logical
    if logical.endswith("decimal"):
        precision = schema.get("precision")
        if not isinstance(precision, int) or not 0 < precision <= PRECISION_MAX:
            message = f"a decimal's precision is a number from 1 to {PRECISION_MAX}, not {precision!r}"
            raise NotCovered(message)
        plain.precision = precision
    return plain


def matches(writer: Type, reader: Type) -> bool:
    """Tell whether a writer's type may resolve to a reader's; a union on either side may, until its branch is known."""
    return "union" in {writer.kind, reader.kind} or match(writer, reader) is not None


def match(writer: Type, reader: Type) -> Type | None:
    """Give the reader's type that a writer's type resolves to: itself, or the first matching branch of a union; None if there is none."""
    if writer.kind == "union" or writer is reader:
        return reader
    if reader.kind == "union":
        found = next((branch for branch in reader.branches if matches(writer, branch)), None)
        if found is not None and writer.by_name != found.by_name:
            message = f"{writer.name} is defined in a union on one side and used there by its name on the other: fastavro can't read that"
            raise NotCovered(message)
        return found
    if writer.kind in NAMED and reader.kind in NAMED:
        return reader if _same_name(writer, reader) else None
    if writer.kind == reader.kind and writer.kind in {"array", "map"}:
        return reader if matches(writer.inner, reader.inner) else None
    return reader if writer.kind == reader.kind or reader.kind in PROMOTIONS.get(writer.kind, ()) else None


def _same_name(writer: Type, reader: Type) -> bool:
    unqualified = writer.name.rsplit(".", 1)[-1]
    if unqualified != reader.name.rsplit(".", 1)[-1] and unqualified not in reader.aliases and writer.name not in reader.aliases:
        return False
    if writer.kind != reader.kind:
        message = f"{writer.name} is a {writer.kind} for the writer and a {reader.kind} for the reader"
        raise NotCovered(message)
    return writer.kind != "fixed" or writer.size == reader.size


def contains_itself(record: Type) -> bool:
    """Tell whether a record can be found inside itself."""
    pending, seen = [inner.type for inner in record.fields], set()
    while pending:
        current = pending.pop()
        if current.kind == "record":
            if current.name == record.name:
                return True
            if current.name in seen:
                continue
            seen.add(current.name)
            pending.extend(inner.type for inner in current.fields)
        pending.extend(current.branches)
    return False
