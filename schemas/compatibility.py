"""FULL_TRANSITIVE: every version of a schema reads what every other version wrote. Checked by Avro's rules of schema resolution.

Law: if `differences(reader, writer)` is empty, any datum of `writer` can be read as `reader`. It refuses more than Avro does: a change of a
logical type passes Avro's rules, but changes what the numbers mean.
Source: Apache Avro 1.12 specification, "Schema Resolution" and "Aliases".
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING, Any, TypeAlias

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

import schemas

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

Schema: TypeAlias = "str | dict[str, Any] | list[Any]"

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
NAMED = frozenset({"record", "enum", "fixed"})
PROMOTIONS = {
    "int": frozenset({"long", "float", "double"}),
    "long": frozenset({"float", "double"}),
    "float": frozenset({"double"}),
    "string": frozenset({"bytes"}),
    "bytes": frozenset({"string"}),
}
"""What a writer's type may be read as, beside itself."""

INT_BITS = {"int": 31, "long": 63}
BYTE_MAX = 0xFF
WORKING_COPY = "working copy"


@dataclass(frozen=True, slots=True)
class Difference:
    """Why a datum cannot be read. `path`: `$`, then `.field`, `[]` an array's items, `{}` a map's values, `|type` a union's branch."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of a schema (`writer` is empty), or of a pair of its versions."""

    schema: str
    reader: str
    writer: str
    path: str
    reason: str

    def __str__(self) -> str:
        """Say it in one line."""
        pair = f"{self.reader} cannot read {self.writer}" if self.writer else self.reader
        return f"{self.schema}: {pair}: {self.path}: {self.reason}"


def differences(reader: Schema, writer: Schema) -> list[Difference]:
    """List why data of `writer` cannot be read as `reader`; empty when they always can.

    Raises:
        SchemaParseException, UnknownType: one of the two is not an Avro schema.

    >>> differences("long", "int")
    []
    >>> differences("int", "long")
    [Difference(path='$', reason='long cannot be read as int')]

    """
    reader_names: dict[str, Any] = {}
    writer_names: dict[str, Any] = {}
    reader, writer = fastavro.parse_schema(reader, reader_names), fastavro.parse_schema(writer, writer_names)
    resolution = _Resolution(reader_names, writer_names)
    resolution.compare(reader, writer, "$")
    return resolution.found


@dataclass(slots=True)
class _Resolution:
    """One walk over a reader's and a writer's schema side by side. Pairs of named types are visited once, so recursive schemas end."""

    reader_names: Mapping[str, Any]
    writer_names: Mapping[str, Any]
    found: list[Difference] = field(default_factory=list)
    visited: set[tuple[str, str]] = field(default_factory=set)

    def compare(self, reader: Schema, writer: Schema, path: str) -> None:
        if isinstance(writer, list):
            for branch in writer:
                self.compare(reader, branch, f"{path}|{_label(branch)}")
            return
        if isinstance(reader, list):
            # The first branch that matches is the one that the datum is resolved against, also where a later one would fit better.
            branch = next((branch for branch in reader if self._matches(branch, writer)), None)
            if branch is None:
                self._report(path, f"the reader's union has no branch for {_label(writer)}")
            else:
                self.compare(branch, writer, path)
            return
        read, written = _definition(reader, self.reader_names), _definition(writer, self.writer_names)
        reason = _mismatch(read, written)
        if reason is not None:
            self._report(path, reason)
        else:
            self._compare_inside(read, written, path)

    def _compare_inside(self, read: dict[str, Any], written: dict[str, Any], path: str) -> None:
        if _logical(read) != _logical(written):
            self._report(path, f"{_logical_label(written)} would be read as {_logical_label(read)}")
        kind = written["type"]
        if kind in {"array", "map"} and kind == read["type"]:
            inner, mark = ("items", "[]") if kind == "array" else ("values", "{}")
            self.compare(read[inner], written[inner], path + mark)
        elif kind == "enum":
            missing = [symbol for symbol in written["symbols"] if symbol not in read["symbols"]]
            if missing and "default" not in read:
                self._report(path, f"the reader's enum has neither {', '.join(missing)} nor a default")
        elif kind == "record":
            pair = (read["name"], written["name"])
            if pair not in self.visited:
                self.visited.add(pair)
                self._compare_fields(read, written, path)

    def _compare_fields(self, read: dict[str, Any], written: dict[str, Any], path: str) -> None:
        offered = {item["name"]: item for item in written["fields"]}
        claimed: dict[str, str] = {}
        for item in read["fields"]:
            here = f"{path}.{item['name']}"
            sources = [name for name in (item["name"], *item.get("aliases", ())) if name in offered]
            if not sources:
                if "default" not in item:
                    self._report(here, "the writer does not have the field and the reader's has no default")
                continue
            if len(set(sources)) > 1:
                self._report(here, f"the writer's fields {' and '.join(sources)} both answer to it, by name and by alias")
            if sources[0] in claimed:
                self._report(here, f"the writer's field {sources[0]} answers to {claimed[sources[0]]} as well")
            claimed[sources[0]] = item["name"]
            self.compare(item["type"], offered[sources[0]]["type"], here)

    def _matches(self, reader: Schema, writer: Schema) -> bool:
        """Tell whether a union's branch is for a type: by kind and name, looking into arrays and maps but not into records."""
        if isinstance(reader, list) or isinstance(writer, list):
            return True
        read, written = _definition(reader, self.reader_names), _definition(writer, self.writer_names)
        if _mismatch(read, written) is not None:
            return False
        inner = {"array": "items", "map": "values"}.get(written["type"])
        return inner is None or self._matches(read[inner], written[inner])

    def _report(self, path: str, reason: str) -> None:
        self.found.append(Difference(path, reason))


def _definition(schema: str | dict[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(schema, dict):
        return schema
    return {"type": schema} if schema in PRIMITIVES else names[schema]


def _mismatch(read: dict[str, Any], written: dict[str, Any]) -> str | None:
    """Say why two definitions do not match in kind, name or size; None if they do."""
    if written["type"] != read["type"]:
        if read["type"] in PROMOTIONS.get(written["type"], ()):
            return None
        return f"{_label(written)} cannot be read as {_label(read)}"
    if written["type"] in NAMED:
        aliases = _aliases(read)
        if _unqualified(read["name"]) != _unqualified(written["name"]) and written["name"] not in aliases:
            return f"the name {written['name']} is neither {read['name']} nor one of its aliases"
        if written["type"] == "fixed" and read["size"] != written["size"]:
            return f"fixed of {written['size']} bytes cannot be read as fixed of {read['size']}"
    return None


def _unqualified(name: str) -> str:
    return name.rpartition(".")[2]


def _aliases(definition: dict[str, Any]) -> set[str]:
    """List a named type's aliases as full names: one without a dot is in the namespace of the type itself."""
    namespace = definition["name"].rpartition(".")[0]
    return {alias if "." in alias or not namespace else f"{namespace}.{alias}" for alias in definition.get("aliases", ())}


def _logical(definition: dict[str, Any]) -> tuple[Any, ...]:
    kind = definition.get("logicalType")
    return (kind, definition.get("precision"), definition.get("scale", 0)) if kind == "decimal" else (kind,)


def _logical_label(definition: dict[str, Any]) -> str:
    kind = definition.get("logicalType")
    if kind == "decimal":
        return f"decimal({definition.get('precision')}, {definition.get('scale', 0)})"
    return str(kind) if kind is not None else f"plain {definition['type']}"


def _label(schema: Schema) -> str:
    if isinstance(schema, list):
        return "union"
    if isinstance(schema, str):
        return schema
    return str(schema["name"]) if schema["type"] in NAMED else str(schema["type"])


def faults(schema: Schema) -> list[Difference]:
    """List what is wrong with one schema alone: records and fields without a `doc`, defaults that do not fit their type.

    Raises:
        SchemaParseException, UnknownType: it is not an Avro schema.

    """
    names: dict[str, Any] = {}
    parsed = fastavro.parse_schema(schema, names)
    return list(_faults(parsed, names, "$"))


def _faults(schema: Schema, names: Mapping[str, Any], path: str) -> Iterator[Difference]:
    """Walk the schema where types are defined; a name that refers back is not followed, so the walk ends."""
    if isinstance(schema, list):
        for branch in schema:
            yield from _faults(branch, names, f"{path}|{_label(branch)}")
    if not isinstance(schema, dict):
        return
    if schema["type"] == "array":
        yield from _faults(schema["items"], names, f"{path}[]")
    elif schema["type"] == "map":
        yield from _faults(schema["values"], names, path + "{}")
    elif schema["type"] == "record":
        yield from _record_faults(schema, names, path)


def _record_faults(record: dict[str, Any], names: Mapping[str, Any], path: str) -> Iterator[Difference]:
    if not record.get("doc"):
        yield Difference(path, "the record has no doc")
    for item in record["fields"]:
        here = f"{path}.{item['name']}"
        if not item.get("doc"):
            yield Difference(here, "the field has no doc")
        if "default" in item and not _fits(item["default"], item["type"], names):
            yield Difference(here, f"the default {json.dumps(item['default'])} does not fit {_label(item['type'])}")
        yield from _faults(item["type"], names, here)


def _fits(value: object, schema: Schema, names: Mapping[str, Any]) -> bool:  # noqa: C901, PLR0911  # a table of types
    """Tell whether a JSON default fits its type; a union's must fit the first branch, as every Avro version reads it so."""
    if isinstance(schema, list):
        return bool(schema) and _fits(value, schema[0], names)
    definition = _definition(schema, names)
    kind = definition["type"]
    match kind:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "int" | "long":
            bound = 1 << INT_BITS[kind]
            return isinstance(value, int) and not isinstance(value, bool) and -bound <= value < bound
        case "float" | "double":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "bytes" | "fixed":
            # Bytes stand in JSON as the code points 0 to 255.
            size = definition.get("size")
            return isinstance(value, str) and all(ord(char) <= BYTE_MAX for char in value) and size in {None, len(value)}
        case "enum":
            return value in definition["symbols"]
        case "array":
            return isinstance(value, list) and all(_fits(item, definition["items"], names) for item in value)
        case "map":
            return isinstance(value, dict) and all(_fits(item, definition["values"], names) for item in value.values())
    return isinstance(value, dict) and all(
        _fits(value[item["name"]], item["type"], names) if item["name"] in value else "default" in item for item in definition["fields"]
    )


def check(name: str, versions: Sequence[tuple[str, Schema]]) -> list[Finding]:
    """Check each labelled version alone, and each against every other in both directions."""
    sound = []
    found = []
    for label, schema in versions:
        try:
            found += [Finding(name, label, "", fault.path, fault.reason) for fault in faults(schema)]
        except (SchemaParseException, UnknownType, KeyError, TypeError) as error:
            found.append(Finding(name, label, "", "$", f"not an Avro schema: {type(error).__name__}: {error}"))
        else:
            sound.append((label, schema))
    for (reader, read), (writer, written) in permutations(sound, 2):
        found += [Finding(name, reader, writer, item.path, item.reason) for item in differences(read, written)]
    return found


def check_all(directory: Path = schemas.DIRECTORY) -> list[Finding]:
    """Check every schema of the package: all published versions and the working copy."""
    found = []
    for name in schemas.NAMES:
        numbers = schemas.versions(name, directory)
        if not numbers or numbers != tuple(range(1, len(numbers) + 1)) or len(numbers) > schemas.VERSIONS_MAX:
            found.append(Finding(name, "published versions", "", "$", f"they must count from 1 without a gap, and are {list(numbers)}"))
        files = [(f"version {number}", directory / "published" / name / f"{number}.avsc") for number in numbers]
        files.append((WORKING_COPY, directory / f"{name}.avsc"))
        found += check(name, [(label, json.loads(path.read_text(encoding="utf-8"))) for label, path in files])
    return found


def main() -> int:
    """Print the findings, one a line; returns the exit code, 1 if there are any."""
    found = check_all()
    for finding in found:
        sys.stdout.write(f"{finding}\n")
    if not found:
        sys.stdout.write(f"{len(schemas.NAMES)} schemas, every version reads every other\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
