"""Confluent's wire format: which schema a record was written with, and where its Avro body begins.

Three framings, of which a record uses one:

1. `0x00`, the schema's id as 4 bytes, big-endian, then the body;
2. `0x01`, the schema's GUID as 16 bytes, then the body;
3. the header `__value_schema_id`, whose value is the 5 bytes of 1 or the 17 bytes of 2, and the value is the body alone.

Law: the first header of that name wins over the value's own first bytes; where its value is null it counts as absent. A header of any other
length is no schema id. `openings` says of every record what `opening` says of it alone.
Source: the serializers and deserializers of Confluent's clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import UUID

import numpy as np

from streamer.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamer.core.columns import I16, I32, I64, U8, Bool, Fetched, Headers

SchemaId: TypeAlias = "int | UUID"

HEADER: Final = "__value_schema_id"
MAGIC_ID: Final = 0
MAGIC_GUID: Final = 1
ID_BYTES: Final = 5
GUID_BYTES: Final = 17
ID_MAX: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Opening:
    """How one record begins. `body` is the body's first byte in the value; `schema_id` is None where `reason` is not OK."""

    schema_id: SchemaId | None
    body: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Openings:
    """How `n` records begin.

    `writer[i]` is the place of record i's schema in `ids`, -1 where `status[i]` is not 0. `body[i]` is its body's first byte in
    `Fetched.values`; the body ends at `bounds[i + 1]`.
    """

    ids: tuple[SchemaId, ...]
    writer: I32  # (n,)
    body: I64  # (n,)
    status: I16  # (n,) 0, or Reason.NO_VALUE or Reason.NO_SCHEMA_ID


def prefix(schema_id: SchemaId) -> bytes:
    """Write a schema's id as it stands before a body or in the header.

    Raises:
        ValueError: the id is not a number of 32 bits.

    >>> prefix(7).hex()
    '0000000007'

    """
    if isinstance(schema_id, UUID):
        return bytes([MAGIC_GUID]) + schema_id.bytes
    if not 0 <= schema_id <= ID_MAX:
        message = f"a schema id is a number from 0 to {ID_MAX}, not {schema_id}"
        raise ValueError(message)
    return bytes([MAGIC_ID]) + schema_id.to_bytes(4, "big")


def framed(body: bytes, schema_id: SchemaId) -> bytes:
    """Write a value in framing 1 or 2: for a number or for a GUID."""
    return prefix(schema_id) + body


def header(schema_id: SchemaId) -> tuple[str, bytes]:
    """Write the header of framing 3; the value is then the body alone."""
    return HEADER, prefix(schema_id)


def opening(value: bytes | None, headers: Headers = ()) -> Opening:
    """Tell how one record begins."""
    if value is None:
        return Opening(None, 0, Reason.NO_VALUE)
    named = _header_value(headers)
    if named is not None:
        schema_id = _parse(named) if len(named) in {ID_BYTES, GUID_BYTES} else None
        size = len(named)
        body = 0
    else:
        schema_id = _parse(value)
        size = GUID_BYTES if isinstance(schema_id, UUID) else ID_BYTES
        body = size
    if schema_id is None or len(prefix(schema_id)) != size:
        return Opening(None, 0, Reason.NO_SCHEMA_ID)
    return Opening(schema_id, body, Reason.OK)


def _parse(data: bytes) -> SchemaId | None:
    """Read the id that the bytes begin with; None if they begin with none."""
    if len(data) >= ID_BYTES and data[0] == MAGIC_ID:
        return int.from_bytes(data[1:ID_BYTES], "big")
    if len(data) >= GUID_BYTES and data[0] == MAGIC_GUID:
        return UUID(bytes=data[1:GUID_BYTES])
    return None


def _header_value(headers: Headers) -> bytes | None:
    for name, value in headers:
        if name == HEADER:
            return value
    return None


def openings(fetched: Fetched) -> Openings:
    """Tell how all records of a batch begin; rows without headers cost no Python each."""
    count = len(fetched)
    start, length = fetched.bounds[:-1], np.diff(fetched.bounds)
    null = fetched.empty
    table = _Ids(count)
    named = _read_headers(fetched.headers, null, table)
    values = np.frombuffer(fetched.values, np.uint8)
    plain = ~(null | named)
    magic = np.full(count, MAGIC_GUID + 1, np.uint8)
    filled = length > 0
    magic[filled] = values[start[filled]]
    by_id = plain & (magic == MAGIC_ID) & (length >= ID_BYTES)
    by_guid = plain & (magic == MAGIC_GUID) & (length >= GUID_BYTES)
    _read_ids(values, start, by_id, table)
    if by_guid.any():
        _read_guids(values, start, by_guid, table)
    writer = table.writer
    status = np.where(writer < 0, np.int16(Reason.NO_SCHEMA_ID), np.int16(Reason.OK))
    status[null] = Reason.NO_VALUE
    body = start + np.where(by_id, ID_BYTES, 0) + np.where(by_guid, GUID_BYTES, 0)
    return Openings(tuple(table.places), writer, body, status)


class _Ids:
    """The distinct schemas of a batch, in the order in which they are met, and each record's place among them."""

    __slots__ = ("places", "writer")

    def __init__(self, count: int) -> None:
        self.places: dict[SchemaId, int] = {}
        self.writer: I32 = np.full(count, -1, np.int32)

    def place(self, schema_id: SchemaId) -> int:
        return self.places.setdefault(schema_id, len(self.places))


def _read_headers(headers: Mapping[int, Headers], null: Bool, table: _Ids) -> Bool:
    """Place the rows whose header names a schema; returns which rows have that header, a wrong one too."""
    named = np.zeros(len(null), np.bool_)
    known: dict[bytes, int] = {}
    for row, pairs in headers.items():
        value = _header_value(pairs)
        if value is None:
            continue
        named[row] = True
        if value not in known:
            schema_id = _parse(value)
            known[value] = -1 if schema_id is None or prefix(schema_id) != value else table.place(schema_id)
        table.writer[row] = known[value]
    table.writer[null] = -1
    return named


def _read_ids(values: U8, start: I64, rows: Bool, table: _Ids) -> None:
    first = start[rows]
    if not len(first):
        return
    ids = np.zeros(len(first), np.int64)
    for position in range(1, ID_BYTES):
        ids = (ids << 8) | values[first + position]
    if (ids == ids[0]).all():
        table.writer[rows] = table.place(int(ids[0]))
        return
    distinct, inverse = np.unique(ids, return_inverse=True)
    table.writer[rows] = np.array([table.place(int(one)) for one in distinct], np.int32)[inverse]


def _read_guids(values: U8, start: I64, rows: Bool, table: _Ids) -> None:
    first = start[rows]
    guids = values[first[:, None] + np.arange(1, GUID_BYTES)]
    if (guids == guids[0]).all():
        table.writer[rows] = table.place(UUID(bytes=guids[0].tobytes()))
        return
    distinct, inverse = np.unique(guids, axis=0, return_inverse=True)
    table.writer[rows] = np.array([table.place(UUID(bytes=one.tobytes())) for one in distinct], np.int32)[inverse.reshape(-1)]
