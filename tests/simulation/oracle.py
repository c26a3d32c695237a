"""What a job must come to: its log folded from the start, one partition after another, with the journal's decisions at their offsets.

It shares the fold with the worker (which has an oracle of its own, `tests/oracle.py`), and nothing of batches, commits, sweeps in slices,
recovery or publishing. It knows no server: `tests/simulation` gives it the logs of a fake broker, `tests/chaos` those of a real one.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from streamer.adapters.avro import codec, wire
from streamer.app import journal, merging
from streamer.app.batch import WEEK_MS, Sent
from streamer.app.changes import CHANGE
from streamer.app.tools import REFUSE
from streamer.core.erasure import heed
from streamer.core.fold import MERGED, PASSED, TALLIES, fold
from streamer.core.intake import group, hash_ids
from streamer.core.merging import Merges, direct
from streamer.core.partition import PartitionData, adopt_epoch, adopt_version, stack_judge, stack_sums, tick, unstack_sums
from streamer.core.plan import hourly
from streamer.core.profile import pack, unpack
from tests.fakes.broker import as_fetched
from tests.fakes.state_store import cut, joined_with_bounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.adapters.avro.wire import SchemaId
    from streamer.app.changes import ChangeWriter
    from streamer.app.intake import Intake, Taken
    from streamer.app.models import ModelShelf
    from streamer.core.columns import I64, Bool, Headers
    from streamer.core.declaration import Declaration
    from streamer.core.erasure import Rule
    from streamer.core.fold import Rows
    from streamer.core.plan import Plan
    from streamer.core.ports import LogRecord

UNTOLD = {"detected_at", "origin", "run_id"}


class Rules(NamedTuple):
    """What events are folded by."""

    declaration: Declaration
    plan: Plan
    intake: Intake
    shelf: ModelShelf
    writer: ChangeWriter
    erasure: Rule = REFUSE
    redirect_ms: int = WEEK_MS
    events_schema: SchemaId = 0


class Said(NamedTuple):
    """All that is known of a partition: its events up to `high`, and what its owners decided."""

    records: Sequence[LogRecord]
    high: int
    entries: Sequence[journal.Entry]


class Expected(NamedTuple):
    """What a partition comes to. `letters` has the offsets of refused records, `tombstones` the customers of tombstones."""

    changes: list[dict[str, Any]]
    profiles: dict[bytes, bytes]
    data: PartitionData
    letters: list[int]
    tombstones: list[bytes]
    sent: list[tuple[bytes, bytes]]  # what merges send on: key and value


class Replay:
    """One partition, from the start of its log."""

    def __init__(self, rules: Rules, partition: int) -> None:
        self.rules = rules
        self.partition = partition
        self.data = PartitionData(rules.declaration.version)
        self.profiles: dict[bytes, bytes] = {}
        self.changes: list[dict[str, Any]] = []
        self.tombstones: list[bytes] = []
        self.sent: list[tuple[bytes, bytes]] = []

    def run(self, said: Said) -> Expected:
        """Fold everything."""
        fetched = as_fetched([(self.partition, record) for record in said.records])
        taken = self.rules.intake.take(fetched, np.zeros(len(fetched), np.int32))
        self.fetched = fetched
        first = 0
        for entry in said.entries:
            first = self._events(taken, first, entry.at_offset)
            if entry.kind == journal.TICK:
                self.data = tick(self.data, entry.as_of, hourly=hourly(self.rules.plan))
                self._sweep()
            elif entry.kind == journal.VERSION:
                self._sweep()
                self.data = adopt_version(self.data, self.rules.shelf.get(entry.model), entry.epoch, entry.at_offset, entry.as_of)
                self._sweep()
            elif entry.kind == journal.EPOCH and self.data.centroids is not None:
                self._sweep()
                self.data = adopt_epoch(self.data, entry.epoch, entry.centroids(self.data.centroids.shape))
        self._events(taken, first, said.high)
        self._sweep()
        refused = fetched.offset[taken.status != 0].tolist()
        return Expected(self.changes, self.profiles, self.data, refused, self.tombstones, self.sent)

    def _events(self, taken: Any, first: int, end: int) -> int:
        """Fold the valid events from the `first` row to before the offset `end`; returns the row after them."""
        last = int(np.searchsorted(taken.rows.offset, end))
        if last > first:
            rows = taken.rows._replace(
                **{name: np.ascontiguousarray(getattr(taken.rows, name)[..., first:last]) for name in taken.rows._fields}
            )
            whole = taken.values.tobytes()
            starts, lengths = taken.id_start[first:last], taken.id_length[first:last]
            ids = [whole[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
            self._fold(rows, ids, 0, replace(taken, record=taken.record[first:last]))
        return max(last, first)

    def _sweep(self) -> None:
        """Judge every customer by the version adopted, and as of every boundary."""
        nothing = self.rules.intake.take(as_fetched([]), np.zeros(0, np.int32))
        self._fold(nothing.rows, sorted(self.profiles), len(self.profiles), nothing)

    def _fold(self, rows: Rows, ids: list[bytes], swept: int, taken: Taken) -> None:
        rules, plan = self.rules, self.rules.plan
        joined, bounds = joined_with_bounds(ids)
        slot, customers = group(
            joined, bounds[:-1], np.diff(bounds).astype(np.int32), hash_ids(joined, bounds), np.zeros(len(ids), np.int32), 1
        )
        known = cut(customers.ids, customers.id_bounds)
        rows = rows._replace(slot=slot[swept:])
        heeded = heed(rules.erasure, rows, taken.record, customers, [self.data.erased], taken.said)
        rows, record = _only(rows, taken.record, heeded.kept)
        how = Merges(rules.redirect_ms, taken.said, taken.hops)
        directed = direct(how, rules.erasure, rows, record, customers, [self.data.redirects])
        rows, record = _only(rows, record, directed.kept)
        brought = [taken.said[one] for one in record[rows.type == MERGED].tolist()]
        arriving = unpack(plan, *joined_with_bounds(brought), np.zeros(len(brought), np.int64))
        room = np.bincount(np.concatenate([slot[:swept], rows.slot]), minlength=len(known)).astype(np.int64)
        np.add.at(room, rows.slot[rows.type == MERGED], np.maximum(arriving.days.count, arriving.hours.count))
        work = unpack(plan, *joined_with_bounds([self.profiles.get(customer, b"") for customer in known]), room)
        judge = stack_judge([self.data], rules.shelf.known, rules.declaration)
        sums = stack_sums([self.data], judge)
        watermark, tally = np.array([self.data.watermark]), np.zeros((1, TALLIES), np.int64)
        sweeping = slot[:swept], np.zeros(swept, np.int32)
        changes, count, away = fold(plan, judge, sums, work, rows, *sweeping, 0, watermark, tally, arriving)
        values, bounds = pack(plan, work, np.arange(len(known)))
        self.profiles |= dict(zip(known, cut(values, bounds), strict=True))
        self.profiles = {customer: body for customer, body in self.profiles.items() if body}
        timed = rows.time[(rows.type >= 0) | (rows.type == PASSED) | (rows.type == MERGED)]
        began = min(self.data.began, int(timed.min()) if len(timed) else self.data.began)
        learned = None if self.data.centroids is None else unstack_sums(sums, 0, len(self.data.centroids))
        self.data = PartitionData(**{**_fields(self.data), "watermark": int(watermark[0]), "began": began, "learned": learned})
        if heeded.erased[0] is not self.data.erased:
            self.data = self.data.erasing(rules.erasure.key_name, heeded.erased[0])
        if directed.redirects[0] is not self.data.redirects:
            self.data = self.data.redirecting(directed.redirects[0])
        taken_away = {int(record[row]): one for row, one in away.items()}
        for away_or_event in directed.sent:
            if not away_or_event.command or away_or_event.record in taken_away:
                sent = Sent(*away_or_event[:3], taken_away.get(away_or_event.record))
                self.sent.append((sent.customer, merging.written(merging.sent_on(taken, self.fetched, sent), rules.events_schema)))
        stamp: Headers = (("commit_id", b""), ("next_offset", b"0"))
        names = [rules.shelf.names(self.data.model)]
        written = rules.writer.write(
            changes, count, customers, (self.partition,), names, {self.partition: stamp}, 0, np.ones(count, np.bool_)
        )
        for one in written.values():
            self.changes += [plain(record.value) for record in one.records if record.value is not None]
            self.tombstones += [record.key for record in one.records if record.value is None and record.key is not None]


def _only(rows: Rows, record: I64, kept: Bool) -> tuple[Rows, I64]:
    return rows._replace(**{name: np.ascontiguousarray(getattr(rows, name)[..., kept]) for name in rows._fields}), record[kept]


@lru_cache(maxsize=10_000)
def plain(value: bytes | None) -> dict[str, Any]:
    """Decode a change, less what differs from run to run; nobody may write to what is found."""
    assert value is not None
    return {name: field for name, field in codec.decode(CHANGE, value[wire.ID_BYTES :]).items() if name not in UNTOLD}


def _fields(data: PartitionData) -> dict[str, Any]:
    return {name: getattr(data, name) for name in PartitionData.__slots__}
