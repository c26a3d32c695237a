"""From fetched records to valid events: framing, decoding, validation.

Law: every record comes out either as a row or with a reason. What the compiled decoder does not cover is held to its rules by a program
that reads every byte and gives no columns. Only then does fastavro read it, which alone would follow a hostile length or count; it is
written again in our own schema, and decoded like the rest, so there is one path behind it.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from schemas import latest
from streamer.adapters.avro import codec, wire
from streamer.adapters.avro.writer_schemas import SchemaRefused
from streamer.core import intake
from streamer.core.avro_schema import NotCovered
from streamer.core.columns import read_only
from streamer.core.decoding import decode, new_decoded
from streamer.core.fold import ERASED, MERGE, MERGED
from streamer.core.history import with_whole_events
from streamer.core.opcodes import compile_program
from streamer.core.plan import plan
from streamer.core.profile import CLOCK, PRESENT, unpack
from streamer.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streamer.adapters.avro.writer_schemas import WriterSchema, WriterSchemas
    from streamer.core.columns import I16, I32, I64, U8, U64, Bool, Decoded, Fetched
    from streamer.core.declaration import Declaration
    from streamer.core.fold import Rows
    from streamer.core.opcodes import Program

EVENT = "behaviour_event"
READINGS_MAX = 256
# Arguments among an event's properties: whom a command merges the customer into, the packed profile of one who was merged, and how often an
# event was sent on.
INTO, PROFILE, HOPS = "into", "profile", "$hops"


def _nothing(record: int) -> dict[str, Any]:
    raise IndexError(record)


@dataclass(frozen=True, slots=True)
class Taken:
    """The events of a batch, and what became of each record."""

    rows: Rows
    record: I64  # (rows,) which record of the batch each row is
    status: I16  # (n,) 0 or a Reason
    values: U8  # what the ids' ranges refer to
    id_start: I64  # (rows,)
    id_length: I32  # (rows,)
    id_hash: U64  # (rows,)
    said: Mapping[int, bytes] = field(default_factory=dict)  # by record: whom a MERGE is into, the profile that a MERGED brings
    event: Callable[[int], dict[str, Any]] = _nothing  # decodes a valid record whole

    def hops(self, record: int) -> int:
        """Tell how often a record was sent on."""
        digits = self.event(record)["properties"].get(HOPS, "0")
        return int(digits) if digits.isdecimal() and digits.isascii() else 0


@dataclass(frozen=True, slots=True)
class Reading:
    """How a writer's records are read: where `program` is not `whole`, it holds them to the rules and fastavro reads them."""

    program: Program
    whole: bool


def rules_of(writer: WriterSchema) -> Program | None:
    """Compile what holds a writer's records to the decoder's rules and gives no columns; None where that can't be done."""
    # A logical type that is none, such as a decimal without digits, is ignored, as the specification asks.
    for schema in (writer.declared, writer.plain):
        with suppress(NotCovered):
            return compile_program(schema, schema, ())
    return None


class Intake:
    """Decodes and validates batches by one declaration."""

    def __init__(
        self,
        declaration: Declaration,
        schemas: WriterSchemas,
        limits: intake.Limits,
        items_max: int,
        value_bytes_max: int,
        *,
        whole: bool = False,
    ) -> None:
        """Compile the projection once, with all fields of an event if `whole`; writers' schemas are compiled as they are met."""
        self.plan = plan(declaration)
        columns = intake.projection(declaration)
        self.columns = with_whole_events(columns) if whole else columns
        self._wanted = intake.wanted(declaration, self.columns)
        self._schemas = schemas
        self._limits = limits
        self._items_max = items_max
        self._value_bytes_max = value_bytes_max
        self._ours = codec.working_copy(EVENT)
        written = codec.published(EVENT, latest(EVENT))  # what `codec.encode` writes
        self._own_program = compile_program(written.declared, self._ours.declared, self.columns)
        self.own_id = uuid4()  # of events that this process has written in our own schema; nobody else can know it
        self._readings: dict[wire.SchemaId, Reading | None] = {}
        self._nothing: Taken | None = None

    def take(self, fetched: Fetched, part: I32, quarantined: Bool | None = None) -> Taken:
        """Decode and validate a batch: `part` says which partition each record is of, `quarantined`, (n,), which are not to be read."""
        if not len(fetched):  # a slice of a sweep alone
            self._nothing = self._nothing or self.read(fetched, part)[0]
            return self._nothing
        return self.read(fetched, part, quarantined)[0]

    def read(self, fetched: Fetched, part: I32, quarantined: Bool | None = None) -> tuple[Taken, Decoded]:
        """Do as `take` does, and give the records' decoded `columns` too, which refer to the values of what was taken."""
        openings = wire.openings(fetched)
        out = new_decoded(len(self.columns), len(fetched))
        out.status[:] = openings.status
        if quarantined is not None:
            out.status[quarantined] = Reason.QUARANTINED
        ends = fetched.bounds[1:]
        out.status[(ends - fetched.bounds[:-1] > self._value_bytes_max) & (out.status == Reason.OK)] = Reason.TOO_LARGE
        values = np.frombuffer(fetched.values, np.uint8)
        rewritten: list[tuple[int, bytes]] = []
        for place, schema_id in enumerate(openings.ids):
            found = np.flatnonzero((openings.writer == place) & (out.status == Reason.OK))
            if not len(found):
                continue
            if schema_id == self.own_id:
                decode(self._own_program, values, openings.body, ends, found, self._items_max, out)
                continue
            try:
                writer = self._schemas.get(schema_id)
            except SchemaRefused:
                out.status[found] = Reason.UNKNOWN_SCHEMA
                continue
            reading = self._reading(schema_id, writer)
            if reading is None:
                out.status[found] = Reason.UNKNOWN_SCHEMA
                continue
            decode(reading.program, values, openings.body, ends, found, self._items_max, out)
            if not reading.whole:
                rewritten.extend(self._rewrite(fetched, openings, found[out.status[found] == Reason.OK], writer, out.status))
        values = self._decode_rewritten(values, rewritten, out)
        rows, record = intake.take(self.plan, self._wanted, self._limits, values, out, part, fetched.offset, fetched.timestamp)
        event = partial(self._event, fetched, openings)
        said: dict[int, bytes] = {}
        if len(rows.type) and rows.type.min() <= MERGE:
            written = np.array([schema_id == self.own_id for schema_id in openings.ids], np.bool_)
            foreign = (rows.type <= ERASED) & ~written[openings.writer[record]]
            out.status[record[foreign]] = Reason.UNKNOWN_COMMAND  # only history has these
            said = self._said(rows, record, event, out.status)
            kept = np.flatnonzero(out.status[record] == Reason.OK)
            rows = rows._replace(**{name: np.ascontiguousarray(getattr(rows, name)[..., kept]) for name in rows._fields})
            record = record[kept]
        column = intake.CUSTOMER_ID
        ids = out.cells[column][record], out.lengths[column][record], out.hashes[column][record]
        return Taken(rows, record, out.status, values, *ids, said, event), out

    def _said(self, rows: Rows, record: I64, event: Callable[[int], dict[str, Any]], status: I16) -> dict[int, bytes]:
        """Read what the commands of merges say, by record; sets `status` of those that say nothing of use."""
        said: dict[int, bytes] = {}
        for row in np.flatnonzero((rows.type == MERGE) | (rows.type == MERGED)).tolist():
            i = int(record[row])
            given = event(i)
            if rows.type[row] == MERGE:
                found = given["properties"].get(INTO, "").encode()
                good = 0 < len(found) <= self._limits.customer_id_bytes_max and found != given["customer_id"].encode()
            else:
                found = b""
                with suppress(binascii.Error, ValueError):
                    found = b64decode(given["properties"].get(PROFILE, ""), validate=True)
                good = self._is_profile(found, int(rows.time[row]))
            if good:
                said[i] = found
            else:
                status[i] = Reason.BAD_MERGE
        return said

    def _is_profile(self, packed: bytes, clock: int) -> bool:
        """Tell whether bytes are a profile of this feature version with that clock."""
        work = unpack(self.plan, read_only(np.frombuffer(packed, np.uint8)), np.array([0, len(packed)], np.int64), np.zeros(1, np.int64))
        return bool(work.found[0] == PRESENT and work.head[0, CLOCK] == clock)

    def _event(self, fetched: Fetched, openings: wire.Openings, i: int) -> dict[str, Any]:
        """Read a valid record whole."""
        schema_id = openings.ids[openings.writer[i]]
        writer = codec.published(EVENT, latest(EVENT)) if schema_id == self.own_id else self._schemas.get(schema_id)
        return codec.decode_one(fetched.values[openings.body[i] : fetched.bounds[i + 1]], writer, EVENT)

    def _reading(self, schema_id: wire.SchemaId, writer: WriterSchema) -> Reading | None:
        """Compile a writer's schema once; None where its records can't be held to the rules."""
        if schema_id not in self._readings:
            if len(self._readings) >= READINGS_MAX:
                self._readings.clear()
            self._readings[schema_id] = self._compile(writer)
        return self._readings[schema_id]

    def _compile(self, writer: WriterSchema) -> Reading | None:
        with suppress(NotCovered):
            return Reading(compile_program(writer.declared, self._ours.declared, self.columns), whole=True)
        rules = rules_of(writer)
        return None if rules is None else Reading(rules, whole=False)

    def _rewrite(self, fetched: Fetched, openings: wire.Openings, rows: I64, writer: WriterSchema, status: I16) -> list[tuple[int, bytes]]:
        """Read records with fastavro and write them in our own schema."""
        written = []
        for i in rows:
            try:
                event = codec.decode_one(fetched.values[openings.body[i] : fetched.bounds[i + 1]], writer, EVENT)
                written.append((int(i), codec.encode(EVENT, event)))
            except codec.BodyRefused as refused:
                status[i] = refused.reason
            except codec.RecordRefused:  # fastavro without its compiled part reads numbers beyond 64 bits
                status[i] = Reason.OVERLONG_VARINT
        return written

    def _decode_rewritten(self, values: U8, rewritten: list[tuple[int, bytes]], out: Decoded) -> U8:
        if not rewritten:
            return values
        rows = np.array([i for i, _ in rewritten], np.int64)
        bounds = len(values) + np.cumsum([0, *(len(body) for _, body in rewritten)], dtype=np.int64)
        starts, ends = np.zeros(len(out.status), np.int64), np.zeros(len(out.status), np.int64)
        starts[rows], ends[rows] = bounds[:-1], bounds[1:]
        joined = np.frombuffer(values.tobytes() + b"".join(body for _, body in rewritten), np.uint8)
        decode(self._own_program, joined, starts, ends, rows, self._items_max, out)
        return joined
