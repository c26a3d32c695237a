"""The decoder's rules once more, slowly and plainly, and generators of schemas, bodies and evolved readers to hold it to them.

It shares no code with `streamer.core`. Schemas have simple names without namespaces.
"""

from __future__ import annotations

import copy
import re
import struct
import uuid
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

UUID_FORM = re.compile(rb"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
DAY_MS = 86_400_000
YEAR_1_MS, YEAR_10000_MS = -62_135_596_800_000, 253_402_300_800_000
RANGES = {
    ("int", "date"): (-719_162, 2_932_897),
    ("int", "time-millis"): (0, DAY_MS),
    ("long", "time-micros"): (0, DAY_MS * 1000),
    ("long", "timestamp-millis"): (YEAR_1_MS, YEAR_10000_MS),
    ("long", "local-timestamp-millis"): (YEAR_1_MS, YEAR_10000_MS),
    ("long", "timestamp-micros"): (YEAR_1_MS * 1000, YEAR_10000_MS * 1000),
    ("long", "local-timestamp-micros"): (YEAR_1_MS * 1000, YEAR_10000_MS * 1000),
}


class Rule(Enum):
    """The rules, as the decoder's reasons name them."""

    TRUNCATED = auto()
    OVERLONG_VARINT = auto()
    BAD_LENGTH = auto()
    BAD_BRANCH = auto()
    BAD_BOOLEAN = auto()
    BAD_UTF8 = auto()
    TOO_MANY_ITEMS = auto()
    BAD_NUMBER = auto()


class RefusedError(Exception):
    """A rule is broken."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule.name)


class StrictReader:
    """Reads one body and raises at the first rule that it breaks."""

    def __init__(self, body: bytes, items_max: int, names: dict[str, Any]) -> None:
        self.body, self.pos, self.left, self.names = body, 0, items_max, names

    def take(self, size: int) -> bytes:
        if self.pos + size > len(self.body):
            raise RefusedError(Rule.TRUNCATED)
        self.pos += size
        return self.body[self.pos - size : self.pos]

    def number(self, bits: int = 64) -> int:
        spelled = b""
        while not spelled or spelled[-1] >= 0x80:
            spelled += self.take(1)
            if len(spelled) == 10 and spelled[-1] > 1:
                raise RefusedError(Rule.OVERLONG_VARINT)
        if len(spelled) > 1 and spelled[-1] == 0:
            raise RefusedError(Rule.OVERLONG_VARINT)
        zigzag = sum((byte & 0x7F) << 7 * i for i, byte in enumerate(spelled))
        if zigzag >= 2**bits:
            raise RefusedError(Rule.OVERLONG_VARINT)
        return -(zigzag + 1) // 2 if zigzag % 2 else zigzag // 2

    def sized(self) -> bytes:
        length = self.number()
        if not 0 <= length <= len(self.body) - self.pos:
            raise RefusedError(Rule.BAD_LENGTH)
        return self.take(length)

    def text(self) -> bytes:
        data = self.sized()
        try:
            data.decode()
        except UnicodeDecodeError:
            raise RefusedError(Rule.BAD_UTF8) from None
        return data

    def entry(self, values: Any) -> None:
        self.text()
        self.value(values)

    def items(self, read: Any) -> None:
        while count := self.number():
            if abs(count) > self.left:
                raise RefusedError(Rule.TOO_MANY_ITEMS)
            self.left -= abs(count)
            end = -1
            if count < 0:
                size = self.number()
                end = self.pos + size
                if not 0 <= size <= len(self.body) - self.pos:
                    raise RefusedError(Rule.BAD_LENGTH)
            for _ in range(abs(count)):
                read()
            if end not in {-1, self.pos}:
                raise RefusedError(Rule.BAD_LENGTH)

    def value(self, schema: Any) -> None:
        if isinstance(schema, list):
            index = self.number()
            if not 0 <= index < len(schema):
                raise RefusedError(Rule.BAD_BRANCH)
            self.value(schema[index])
            return
        if isinstance(schema, str) and schema in self.names:
            self.value(self.names[schema])
            return
        kind = schema["type"] if isinstance(schema, dict) else schema
        self.plain(kind, schema if isinstance(schema, dict) else {})

    def plain(self, kind: str, schema: dict[str, Any]) -> None:  # noqa: C901, PLR0912 - one branch for each type
        logical = schema.get("logicalType")
        if kind in {"int", "long"}:
            number = self.number(32 if kind == "int" else 64)
            least, end = RANGES.get((kind, str(logical)), (number, number + 1))
            if not least <= number < end:
                raise RefusedError(Rule.BAD_NUMBER)
        elif kind == "boolean":
            if self.take(1) > b"\1":
                raise RefusedError(Rule.BAD_BOOLEAN)
        elif kind in {"float", "double"}:
            self.take(4 if kind == "float" else 8)
        elif kind == "string":
            text = self.text()
            if logical == "uuid" and UUID_FORM.fullmatch(text) is None:
                raise RefusedError(Rule.BAD_NUMBER)
        elif kind in {"bytes", "fixed"}:
            data = self.sized() if kind == "bytes" else self.take(schema["size"])
            if logical == "decimal" and abs(int.from_bytes(data, "big", signed=True)) >= 10 ** schema["precision"]:
                raise RefusedError(Rule.BAD_NUMBER)
        elif kind == "enum":
            if not 0 <= self.number() < len(schema["symbols"]):
                raise RefusedError(Rule.BAD_BRANCH)
        elif kind == "array":
            self.items(lambda: self.value(schema["items"]))
        elif kind == "map":
            self.items(lambda: self.entry(schema["values"]))
        elif kind == "record":
            for field in schema["fields"]:
                self.value(field["type"])


def named(schema: Any) -> dict[str, Any]:
    """Find the named types that a schema defines."""
    names: dict[str, Any] = {}
    for part in schema if isinstance(schema, list) else schema.values() if isinstance(schema, dict) else ():
        names |= named(part)
    if (
        isinstance(schema, dict)
        and "name" in schema
        and isinstance(schema.get("type"), str)
        and schema["type"] in {"record", "enum", "fixed"}
    ):
        names[schema["name"]] = schema
    return names


def refusal(schema: Any, body: bytes, items_max: int) -> str | None:
    """Name the rule that a body breaks first, or None."""
    reader = StrictReader(body, items_max, named(schema))
    try:
        reader.value(schema)
    except RefusedError as error:
        return str(error)
    return None if reader.pos == len(body) else "TRAILING_BYTES"


# Generators. All draw from one seeded source, so that a failing example is its seed.

PRIMITIVES = ["boolean", "int", "long", "float", "double", "bytes", "string"]
LOGICAL: list[dict[str, Any]] = [
    *({"type": kind, "logicalType": logical} for kind, logical in RANGES),
    {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2},
    {"type": "bytes", "logicalType": "decimal", "precision": 20},
    {"type": "string", "logicalType": "uuid"},
    {"type": "string", "logicalType": "date"},
    {"type": "long", "logicalType": "timestamp-nanos"},
]
DEFAULTS: list[tuple[Any, Any]] = [
    (["null", "string"], None),
    (["null", "long"], 4),
    ("long", 5),
    ("double", 0.5),
    ("double", 3),
    ("string", ""),
    ("string", "text"),
    ("boolean", True),
    ({"type": "map", "values": "string"}, {}),
    ({"type": "map", "values": "string"}, {"k": ""}),
]
SYMBOLS = ["A", "B", "C", "D"]


class Generator:
    """Makes schemas, bodies, mutations and evolved readers."""

    def __init__(self, source: random.Random) -> None:
        self.source = source
        self.names: list[str] = []
        self.schemas: dict[str, Any] = {}

    def name(self) -> str:
        self.names.append(f"N{len(self.names)}")
        return self.names[-1]

    def leaf(self) -> Any:
        roll = self.source.random()
        if roll < 0.6:
            return self.source.choice(PRIMITIVES)
        if roll < 0.8:
            return dict(self.source.choice(LOGICAL))
        if roll < 0.9:
            return {"type": "enum", "name": self.name(), "symbols": SYMBOLS[: self.source.randint(1, 4)]}
        fixed = {"type": "fixed", "name": self.name(), "size": self.source.choice([0, 1, 5, 16])}
        if fixed["size"] == 5 and self.source.random() < 0.5:
            fixed |= {"logicalType": "decimal", "precision": 9, "scale": 3}
        return fixed

    def schema(self, depth: int) -> Any:  # noqa: PLR0911 - one kind of schema each
        roll = self.source.random()
        if depth == 0 or roll < 0.45:
            return self.leaf()
        if roll < 0.62:
            pair = ["null", self.leaf()]
            return pair if self.source.random() < 0.8 else pair[::-1]
        if roll < 0.7:
            kinds = self.source.sample(PRIMITIVES, self.source.randint(1, 3))
            extra = self.source.choice(
                [
                    list,
                    lambda: ["null"],
                    lambda: [self.record(depth - 1)],
                    lambda: [{"type": "map", "values": self.schema(depth - 1)}],
                ]
            )
            return [*kinds, *extra()]
        if roll < 0.78:
            return {"type": "map", "values": self.source.choice(["string", "string", "bytes", ""]) or self.schema(depth - 1)}
        if roll < 0.86:
            return {"type": "array", "items": self.source.choice(["null", ""]) or self.schema(depth - 1)}
        if roll < 0.92 and self.schemas:
            return self.source.choice(list(self.schemas))
        return self.record(depth - 1)

    def record(self, depth: int, fields: int = 3) -> Any:
        name = self.name()
        made: dict[str, Any] = {"type": "record", "name": name, "fields": []}
        for index in range(self.source.randint(0, fields)):
            made["fields"].append({"name": f"f{index}", "type": self.schema(depth)})
        if self.source.random() < 0.15:
            link = self.source.choice([["null", name], {"type": "array", "items": name}, {"type": "map", "values": ["null", name]}])
            made["fields"].append({"name": "again", "type": link})
        self.schemas[name] = made
        return made

    def varint(self, number: int) -> bytes:
        zigzag = number * 2 if number >= 0 else -number * 2 - 1
        out = b""
        while zigzag > 0x7F:
            out, zigzag = out + bytes([zigzag & 0x7F | 0x80]), zigzag >> 7
        return out + bytes([zigzag])

    def text(self) -> bytes:
        return "".join(self.source.choice("abc:-é€\U0001f600\0\x7f") for _ in range(self.source.choice([0, 1, 3, 9, 40]))).encode()

    def body(self, schema: Any, names: dict[str, Any], depth: int = 0) -> bytes:
        """Encode some value of a schema, also in the rarer spellings that the specification allows."""
        if isinstance(schema, list):
            index = self.source.randrange(len(schema)) if depth < 6 or "null" not in schema else schema.index("null")
            return self.varint(index) + self.body(schema[index], names, depth + 1)
        if isinstance(schema, str) and schema in names:
            return self.body(names[schema], names, depth + 1)
        kind = schema["type"] if isinstance(schema, dict) else schema
        details = schema if isinstance(schema, dict) else {}
        if kind == "record":
            return b"".join(self.body(field["type"], names, depth + 1) for field in details["fields"])
        if kind in {"array", "map"}:
            return self.blocks(kind, details, names, depth)
        return self.plain(kind, details)

    def blocks(self, kind: str, details: dict[str, Any], names: dict[str, Any], depth: int) -> bytes:
        out = b""
        for _ in range(self.source.choice([0, 1, 1, 2]) if depth < 6 else 0):
            count = self.source.randint(1, 3)
            items = b""
            for _ in range(count):
                if kind == "map":
                    key = self.source.choice([b"k", b"price", self.text()])
                    items += self.varint(len(key)) + key
                items += self.body(details["items" if kind == "array" else "values"], names, depth + 1)
            head = self.varint(count) if self.source.random() < 0.6 else self.varint(-count) + self.varint(len(items))
            out += head + items
        return out + b"\0"

    def plain(self, kind: str, details: dict[str, Any]) -> bytes:  # noqa: PLR0911 - one type each
        source, logical = self.source, details.get("logicalType")
        if kind in {"int", "long"}:
            bits = 31 if kind == "int" else 63
            least, end = RANGES.get((kind, str(logical)), (-(2**bits), 2**bits))
            choices = [least, end - 1, min(max(least, source.randint(-100, 100)), end - 1), source.randrange(least, end)]
            return self.varint(source.choice([*choices, *choices, least - 1 if source.random() < 0.1 else least]))
        if kind == "boolean":
            return bytes([source.randrange(2)])
        if kind in {"float", "double"}:
            size = 4 if kind == "float" else 8
            special = struct.pack("<f" if size == 4 else "<d", source.choice([0.0, -0.0, 1.5, float("inf"), float("nan"), 1e-40]))
            return source.choice([special, source.randbytes(size)])
        if kind == "string":
            text = str(uuid.UUID(int=source.getrandbits(128))).encode() if logical == "uuid" else self.text()
            return self.varint(len(text)) + text
        if kind == "bytes":
            size = source.choice([0, 1, 2, 3, 8, 9, 33]) if logical != "decimal" else source.choice([0, 1, 2, 3, 8])
            data = source.choice([source.randbytes(size), self.text()[:size], b"\0" * size, b"\xff" * size])
            return self.varint(len(data)) + data
        if kind == "fixed":
            return source.choice([source.randbytes(details["size"]), b"\0\xff" * 8, b"\xff" * 16, b"\0" * 16])[: details["size"]]
        if kind == "enum":
            return self.varint(source.randrange(len(details["symbols"])))
        return b""

    def mutate(self, body: bytes) -> bytes:
        """Flip, insert, delete or cut."""
        out = bytearray(body)
        for _ in range(self.source.choice([0, 1, 1, 2, 4])):
            at = self.source.randrange(len(out) + 1)
            roll = self.source.random()
            if roll < 0.4 and at < len(out):
                out[at] = self.source.choice([out[at] ^ 1 << self.source.randrange(8), self.source.randrange(256), 0x80, 0xFF, 0, 1, 2, 3])
            elif roll < 0.6:
                out[at:at] = self.source.choice([self.source.randbytes(1), b"\x80", b"\x80\0", b"\xff" * 9 + b"\1", b"\xff" * 10, b"\0"])
            elif roll < 0.8:
                del out[at : at + self.source.randint(1, 3)]
            else:
                del out[at:]
        return bytes(out)

    def evolve(self, writer: Any) -> Any:
        """Give a reader's schema: the writer's with fields dropped, added, renamed, reordered, promoted, wrapped and unwrapped."""
        reader = copy.deepcopy(writer)
        for record in [
            reader,
            *(field["type"] for field in reader["fields"] if isinstance(field["type"], dict) and "fields" in field["type"]),
        ]:
            self.evolve_record(record)
        return reader

    def evolve_record(self, record: Any) -> None:
        source, fields = self.source, record["fields"]
        for field in fields:
            roll = source.random()
            if roll < 0.15:
                field["aliases"], field["name"] = [field["name"]], f"new_{field['name']}"
            elif roll < 0.5:
                field["type"] = self.evolve_type(field["type"])
        if fields and source.random() < 0.2 and not str(fields).count("'name': 'N"):
            del fields[source.randrange(len(fields))]
        if source.random() < 0.3 and not str(fields).count("'name': 'N"):
            source.shuffle(fields)
        for index in range(source.choice([0, 0, 1, 2])):
            kind, default = source.choice([*DEFAULTS, ({"type": "enum", "name": self.name(), "symbols": ["X", "Y"]}, "Y")])
            fields.append({"name": f"added{index}", "type": kind, "default": default})

    def evolve_type(self, kind: Any) -> Any:
        source = self.source
        if isinstance(kind, list):
            return source.choice([kind[::-1], kind[-1], [*kind, "string"] if "string" not in kind else kind, kind])
        promoted = {
            "int": ["long", "float", "double"],
            "long": ["float", "double"],
            "float": ["double"],
            "string": ["bytes"],
            "bytes": ["string"],
        }
        if isinstance(kind, str):
            other = source.choice(promoted.get(kind, [kind]))
            return source.choice([other, ["null", kind], ["null", other], [other, kind] if other != kind else kind])
        if kind["type"] == "enum":
            return kind | {"symbols": source.sample(SYMBOLS, 3)} | ({"default": "A"} if source.random() < 0.5 else {})
        if "logicalType" in kind and kind["type"] != "fixed":
            return source.choice([kind["type"], ["null", kind["type"]]])
        if kind["type"] == "map":
            return {"type": "map", "values": self.evolve_type(kind["values"])}
        return kind
