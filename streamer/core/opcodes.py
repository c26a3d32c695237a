"""The decoder's instructions, and the compiler from a pair of schemas and a projection to a program of them.

Law: a program is data, never code: one compiled interpreter (`streamer.core.decoding`) runs them all. A program visits every byte of the
writer's schema, projected or not, and refuses where fastavro refuses to resolve what it read.

An instruction is one row of 8 numbers: opcode, column (-1 for none), the branch of null where the value is a union of null and one other
(-1 where it is not), flags, and four operands that each opcode explains.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from streamer.core.avro_schema import NotCovered, Type, contains_itself, match, matches, parse
from streamer.core.columns import I64, U8  # noqa: TC001 - the interpreter's types
from streamer.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.core.avro_schema import Field, Schema

ROWS_MAX: Final = 8_192
"""Instructions a program may have: what is longer, such as a schema whose records fan out exponentially, is not covered."""

INT_MIN, INT_MAX = -(2**31), 2**31 - 1
LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1


class Kind(IntEnum):
    """What a column of the projection holds."""

    NUMBER = 0
    STRING = 1
    BYTES = 2
    PROPERTY = 3
    MAP = 4


@dataclass(frozen=True, slots=True)
class Column:
    """One column: a top-level field of the reader's schema, or with `key` the value of that key in a top-level map of strings.

    A column of kind `MAP` is such a map as a whole: the range of its blocks. Properties may be asked for beside it.
    """

    kind: Kind
    field: str
    key: str = ""
    hashed: bool = False


class Op(IntEnum):
    """Instructions. Operands are named A, B, C, D."""

    END = 0
    STRING = 1  # bytes and string; of a decimal: pool[A:B] is its greatest value, pool[B:C] its least
    LONG = 2  # A and B: least and greatest value of the logical type
    INT = 3  # the same
    MAP_OF_STRINGS = 4  # its properties are keys A to B
    UNION = 5  # A: branches, B: where table has their rows
    JUMP = 6  # A: row
    NULL = 7
    BOOLEAN = 8
    FLOAT = 9
    DOUBLE = 10
    ENUM = 11  # A: symbols, B: where table has the reader's index of each, or -1
    FIXED = 12  # A, B, C: as STRING; D: size in bytes
    ARRAY = 13  # A: the row after its last
    MAP = 14  # the same
    NEXT = 15  # A: the row of the ARRAY or MAP that it ends
    CALL = 16  # A: row
    RETURN = 17
    DEFAULT = 18  # A: cell, of a number or of an empty string
    REFUSE = 19  # A: reason


class Flag(IntFlag):
    """What to do with a value besides reading it."""

    NONE = 0
    TEXT = 1  # check that it is UTF-8
    HASHED = 2
    UUID = 4
    DECIMAL = 8
    FLOATING = 16  # the reader asks for a double


class Program(NamedTuple):
    """A compiled pair of schemas: what the interpreter runs. Made by `compile_program`."""

    code: I64  # (rows, 8)
    table: I64  # targets of unions and indices of enums
    pool: U8  # the bounds of decimals, then the keys of properties
    keys: I64  # (properties, 4): begin and end of its key in pool, column, 1 if hashed


RANGES: Final[dict[str, tuple[int, int]]] = {
    "int-date": (-719_162, 2_932_896),
    "int-time-millis": (0, 86_400_000 - 1),
    "long-time-micros": (0, 86_400_000_000 - 1),
    "long-timestamp-millis": (-62_135_596_800_000, 253_402_300_799_999),
    "long-timestamp-micros": (-62_135_596_800_000_000, 253_402_300_799_999_999),
    "long-local-timestamp-millis": (-62_135_596_800_000, 253_402_300_799_999),
    "long-local-timestamp-micros": (-62_135_596_800_000_000, 253_402_300_799_999_999),
}
"""Least and greatest number of each logical type: the years 1 to 9999, and one day."""

LEAVES: Final = {
    "boolean": Op.BOOLEAN,
    "int": Op.INT,
    "long": Op.LONG,
    "float": Op.FLOAT,
    "double": Op.DOUBLE,
    "bytes": Op.STRING,
    "string": Op.STRING,
    "enum": Op.ENUM,
    "fixed": Op.FIXED,
}
CLASSES: Final = {"boolean": "boolean", "int": "integer", "long": "integer", "float": "floating", "double": "floating"}


@dataclass(frozen=True, slots=True)
class _Target:
    """The columns that want a value, and whether it is always read: what never resolves is refused at once, what may not, when it comes."""

    column: int = -1
    properties: tuple[int, ...] = ()
    always: bool = True


def compile_program(writer_schema: Schema, reader_schema: Schema, projection: Sequence[Column]) -> Program:
    """Compile what reads records of `writer_schema` as `reader_schema`, for the columns of `projection`, in its order.

    Both schemas are plain JSON-like objects, as written in an `.avsc`. The program gives what fastavro's `schemaless_reader` gives for the
    same pair, subject to the rules of `streamer.core.decoding`.

    Raises:
        NotCovered: the interpreter can't express it, with the reason; decode such records one by one with fastavro.
        ValueError: the projection names no field of the reader's schema, or one field twice.
    """
    try:
        writer = parse(writer_schema)
        # fastavro reads equal schemas without resolution, so that a union's branch stays itself also where an earlier one would match it.
        reader = writer if writer_schema == reader_schema else parse(reader_schema)
        if writer.kind != "record" or reader.kind != "record":
            message = "the outermost type is not a record"
            raise NotCovered(message)
        if match(writer, reader) is None:
            message = f"the writer's {writer.name} is not the reader's {reader.name}, nor one of its aliases"
            raise NotCovered(message)
        return _Compiler(writer, reader, projection).compile()
    except RecursionError:
        message = "the schema nests too deep"
        raise NotCovered(message) from None


class _Compiler:
    """Emits the program of one pair of schemas. Records that contain themselves become subroutines; all others are inlined."""

    def __init__(self, writer: Type, reader: Type, projection: Sequence[Column]) -> None:
        self._writer, self._reader, self._projection = writer, reader, projection
        self._rows: list[list[int]] = []
        self._table: list[int] = []
        self._pool = bytearray()
        self._keys: list[tuple[int, int, int, int]] = []
        self._classes: dict[int, str] = {}
        self._starts: dict[tuple[str, str], int] = {}
        self._bodies: dict[tuple[str, str], tuple[Type, Type | None]] = {}
        self._calls: list[tuple[int, tuple[str, str]]] = []

    def compile(self) -> Program:
        self._record(self._writer, self._reader, self._targets(), always=True)
        self._emit(Op.END)
        while pending := [key for key in self._bodies if key not in self._starts]:
            for key in pending:
                self._starts[key] = len(self._rows)
                self._record(*self._bodies[key], {}, always=False)
                self._emit(Op.RETURN)
        for row, key in self._calls:
            self._rows[row][4] = self._starts[key]
        return Program(
            code=np.array(self._rows, np.int64),
            table=np.array(self._table, np.int64),
            pool=np.array(self._pool, np.uint8),
            keys=np.array(self._keys, np.int64).reshape(-1, 4),
        )

    def _targets(self) -> dict[str, _Target]:
        names = {field.name for field in self._reader.fields}
        targets: dict[str, _Target] = {}
        for index, column in enumerate(self._projection):
            if column.field not in names:
                message = f"column {index} asks for {column.field!r}, which is no field of {self._reader.name}"
                raise ValueError(message)
            target = targets.get(column.field, _Target())
            free = target.column < 0 or self._projection[target.column].kind == Kind.MAP
            if column.kind == Kind.PROPERTY and free:
                targets[column.field] = replace(target, properties=(*target.properties, index))
            elif column.field not in targets or (column.kind == Kind.MAP and target.column < 0):
                targets[column.field] = replace(target, column=index)
            else:
                message = f"column {index} asks for {column.field!r} again: only properties may share a field"
                raise ValueError(message)
        return targets

    def _emit(self, op: Op, column: int = -1, null: int = -1, flags: int = 0, operands: tuple[int, ...] = ()) -> int:
        if len(self._rows) >= ROWS_MAX:
            message = f"the schema takes more than {ROWS_MAX} instructions"
            raise NotCovered(message)
        self._rows.append([op, column, null, flags, *operands, *[0] * (4 - len(operands))])
        return len(self._rows) - 1

    def _mismatch(self, target: _Target, message: str) -> None:
        if target.always:
            raise NotCovered(message)
        self._emit(Op.REFUSE, operands=(Reason.BAD_BRANCH,))

    def _describe(self, target: _Target) -> str:
        return f"field {self._projection[max(target.column, *target.properties, -1)].field!r}"

    # Values. `reader` is None where fastavro skips the value.

    def _value(self, writer: Type, reader: Type | None, target: _Target) -> None:
        if reader is not None:
            resolved = match(writer, reader)
            if resolved is None:
                self._mismatch(
                    target, f"the writer's {writer.kind} {writer.name} never resolves to the reader's {reader.kind} {reader.name}"
                )
                return
            reader = resolved
        if writer.kind == "union":
            self._union(writer, reader, target)
        elif writer.kind == "null":
            self._null(target)
        elif writer.kind == "map":
            self._map(writer, reader, target)
        elif writer.kind in LEAVES:
            self._leaf(writer, reader, target)
        elif target.column >= 0 or target.properties:
            message = f"{self._describe(target)} is a {writer.kind}, which no column can hold"
            raise NotCovered(message)
        elif writer.kind == "array":
            self._loop(Op.ARRAY, writer, reader)
        elif contains_itself(writer):
            key = (writer.name, reader.name if reader is not None else "")
            self._bodies.setdefault(key, (writer, reader))
            self._calls.append((self._emit(Op.CALL), key))
        else:
            self._record(writer, reader, {}, always=target.always)

    def _null(self, target: _Target) -> None:
        for column in (target.column, *target.properties):
            if column >= 0:
                self._emit(Op.NULL, column)

    def _record(self, writer: Type, reader: Type | None, targets: dict[str, _Target], *, always: bool) -> None:
        missing: dict[str, Field] = {}
        aliases: dict[str, Field] = {}
        for field in reader.fields if reader is not None else ():
            missing[field.name] = field
            aliases.update(dict.fromkeys(field.aliases, field))
        for field in writer.fields:
            found = missing.get(field.name, aliases.get(field.name))
            if found is None:
                self._value(field.type, None, _Target(always=False))
                continue
            if found.name not in missing:
                message = f"field {found.name!r} is written twice, under its name and under an alias"
                raise NotCovered(message)
            self._value(field.type, found.type, targets.get(found.name, _Target(always=always)))
            del missing[found.name]
        for field in missing.values():
            if not field.default:
                self._mismatch(_Target(always=always), f"field {field.name!r} is not written and has no default")
            elif field.name in targets:
                self._default(field, targets[field.name])

    def _union(self, writer: Type, reader: Type | None, target: _Target) -> None:
        inner = replace(target, always=False)
        resolved = [_resolve_branch(writer, branch, reader) for branch in writer.branches]
        kinds = [branch.kind for branch in writer.branches]
        if len(kinds) == 2 and kinds.count("null") == 1 and all(resolved) and not target.properties:
            null = kinds.index("null")
            if kinds[1 - null] in LEAVES:
                self._leaf(writer.branches[1 - null], resolved[1 - null][0], inner, null)
                return
        base, exits = len(self._table), []
        self._table.extend([0] * len(kinds))
        self._emit(Op.UNION, operands=(len(kinds), base))
        for index, branch in enumerate(writer.branches):
            self._table[base + index] = len(self._rows)
            if resolved[index]:
                self._value(branch, resolved[index][0], inner)
            else:
                self._emit(Op.REFUSE, operands=(Reason.BAD_BRANCH,))
            exits.append(self._emit(Op.JUMP))
        for row in exits:
            self._rows[row][4] = len(self._rows)

    def _map(self, writer: Type, reader: Type | None, target: _Target) -> None:
        item = writer.inner
        item_reader = match(item, reader.inner) if reader is not None else None
        fused = item.kind in {"string", "bytes"} and not item.logical and (reader is None or item_reader is not None)
        whole = target.column >= 0 and self._projection[target.column].kind == Kind.MAP
        asked = whole or bool(target.properties)
        readable = not asked or (fused and item_reader is not None and item_reader.kind == "string")
        if (target.column >= 0 and not whole) or not readable:
            message = f"{self._describe(target)} is a map, of which columns can only hold all or properties, where its values are strings"
            raise NotCovered(message)
        if not fused:
            self._loop(Op.MAP, writer, reader)
            return
        first = len(self._keys)
        for column in target.properties:
            key = self._projection[column].key.encode()
            self._keys.append((len(self._pool), len(self._pool) + len(key), column, int(self._projection[column].hashed)))
            self._pool += key
        self._emit(Op.MAP_OF_STRINGS, target.column, flags=_text_flags(item, item_reader), operands=(first, len(self._keys)))

    def _loop(self, op: Op, writer: Type, reader: Type | None) -> None:
        start = self._emit(op)
        self._value(writer.inner, reader.inner if reader is not None else None, _Target(always=False))
        self._emit(Op.NEXT, operands=(start,))
        self._rows[start][4] = len(self._rows)

    def _leaf(self, writer: Type, reader: Type | None, target: _Target, null: int = -1) -> None:
        column, flags = target.column, _text_flags(writer, reader)
        if target.properties:
            message = f"{self._describe(target)} is not a map"
            raise NotCovered(message)
        if column >= 0 and reader is not None:
            flags |= self._classify(column, writer, reader)
        operands: tuple[int, ...] = ()
        if writer.kind in {"int", "long"}:
            operands = RANGES.get(writer.logical, (INT_MIN, INT_MAX) if writer.kind == "int" else (LONG_MIN, LONG_MAX))
        elif writer.kind == "enum":
            operands = (len(writer.symbols), len(self._table))
            self._table.extend(_symbol_indices(writer, reader))
        elif writer.logical.endswith("decimal"):
            operands = (*self._bounds(writer.precision), writer.size)
        elif writer.kind == "fixed":
            operands = (0, 0, 0, writer.size)
        self._emit(LEAVES[writer.kind], column, null, flags, operands)

    def _classify(self, index: int, writer: Type, reader: Type) -> int:
        """Check that a column can hold a value, and holds one class of values in all branches; give its flags."""
        column = self._projection[index]
        held: dict[Kind, set[str]] = {Kind.NUMBER: {*CLASSES, "enum"}, Kind.STRING: {"string"}, Kind.BYTES: {"bytes", "fixed"}}
        kinds = held.get(column.kind, set())
        if reader.kind not in kinds:
            message = f"field {column.field!r} is a {reader.kind}, which a column of kind {column.kind.name} can't hold"
            raise NotCovered(message)
        value_class = CLASSES.get(reader.kind, f"{column.kind.name} {reader.name if reader.kind == 'enum' else ''}")
        if writer.logical and reader.kind != writer.kind and value_class != "integer":
            message = f"field {column.field!r}: fastavro does not promote {writer.logical} to {reader.kind}"
            raise NotCovered(message)
        if self._classes.setdefault(index, value_class) != value_class:
            message = f"field {column.field!r} is {self._classes[index]} in one branch and {value_class} in another"
            raise NotCovered(message)
        flags = Flag.FLOATING if value_class == "floating" else Flag.NONE
        return int(flags | (Flag.HASHED if column.hashed else Flag.NONE))

    def _bounds(self, precision: int) -> tuple[int, int, int]:
        begin = len(self._pool)
        greatest = 10**precision - 1
        size = (greatest.bit_length() + 8) // 8
        self._pool += greatest.to_bytes(size, "big", signed=True) + (-greatest).to_bytes(size, "big", signed=True)
        return begin, begin + size, begin + 2 * size

    # Defaults of fields that the writer lacks.

    def _default(self, field: Field, target: _Target) -> None:
        value = field.default[0]
        for column in target.properties:
            self._default_value(column, field, value.get(self._projection[column].key) if isinstance(value, dict) else None)
        if target.column >= 0:
            self._default_value(target.column, field, value)

    def _default_value(self, index: int, field: Field, value: Any) -> None:  # noqa: ANN401 - any JSON value
        column = self._projection[index]
        if value is None:
            self._emit(Op.NULL, index)
            return
        cell: int | None = None
        if column.kind == Kind.NUMBER:
            for branch in field.type.branches or (field.type,):
                cell = _default_cell(value, branch)
                if cell is not None:
                    self._classify(index, branch, branch)
                    break
        elif value in ("", {}):
            cell = 0
        if cell is None:
            message = f"the default {value!r} of field {field.name!r} is not one that column {index} can hold"
            raise NotCovered(message)
        self._emit(Op.DEFAULT, index, flags=int(Flag.HASHED if column.hashed else Flag.NONE), operands=(cell,))


def _resolve_branch(writer: Type, branch: Type, reader: Type | None) -> tuple[Type | None, ...]:
    """Give the reader's type of a writer's branch, as a tuple of one (of None where the value is skipped); empty if it doesn't resolve."""
    if reader is None:
        return (None,)
    if reader is writer:
        return (branch,)
    candidates = reader.branches if reader.kind == "union" else (reader,)
    return next(((candidate,) for candidate in candidates if matches(branch, candidate)), ())


def _text_flags(writer: Type, reader: Type | None) -> int:
    flags = Flag.NONE
    if writer.kind == "string" or (writer.kind == "bytes" and not writer.logical and reader is not None and reader.kind == "string"):
        flags |= Flag.TEXT
    if writer.logical == "string-uuid":
        flags |= Flag.UUID
    if writer.logical.endswith("decimal"):
        flags |= Flag.DECIMAL
    return int(flags)


def _symbol_indices(writer: Type, reader: Type | None) -> list[int]:
    """Give the reader's index of each of the writer's symbols: that of the reader's default where it lacks it, -1 where there is none."""
    if reader is None:
        return [0] * len(writer.symbols)
    known = {symbol: index for index, symbol in enumerate(reader.symbols)}
    other = known[reader.default] if reader.default is not None else -1
    return [known.get(symbol, other) for symbol in writer.symbols]


def _default_cell(value: object, kind: Type) -> int | None:
    """Give the cell of a default number; None if it is not of this type."""
    if isinstance(value, str):
        return kind.symbols.index(value) if value in kind.symbols else None
    if isinstance(value, bool):
        return int(value) if kind.kind == "boolean" else None
    if isinstance(value, int) and kind.kind in {"int", "long"}:
        return value if LONG_MIN <= value <= LONG_MAX else None
    if isinstance(value, (int, float)) and kind.kind in {"float", "double"} and abs(value) < 2**1023:
        return int(struct.unpack("<q", struct.pack("<d", value))[0])
    return None
