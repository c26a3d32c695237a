"""A period of history walked through the stream's own core: one partition, no server, day after day.

Laws: nobody is judged by anything but `streamer.core`; between two days only packed profiles and the partition's own data are kept, as in
the store. Events are taken in the order of their time, and a midnight comes before the events that bear its instant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from offline.events import take
from offline.features import PURCHASE
from streamer.core.columns import read_only
from streamer.core.errors import BadInput
from streamer.core.fold import FINER, TALLIES, fold
from streamer.core.model import features_as_of
from streamer.core.partition import (
    DONE,
    PartitionData,
    adopt_epoch,
    adopt_version,
    next_centroids,
    stack_judge,
    stack_sums,
    tick,
    unstack_sums,
)
from streamer.core.plan import hourly
from streamer.core.profile import CLOCK, DAY_MS, HELD, NEVER, SEGMENT, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from offline.events import Reading
    from streamer.core.columns import F64, I16, I32, I64, U8, Bool
    from streamer.core.fold import Rows
    from streamer.core.model import ModelVersion
    from streamer.core.profile import Work

EVENTS_MAX = 20_000_000  # they are held in memory, about 100 bytes each
_FLAT = ("part", "slot", "offset", "time", "type", "event_id")
_WIDE = ("value", "there", "text", "text_there")


class Spending(NamedTuple):
    """Every purchase with an amount in the declaration's currency, in the order of time."""

    slot: I32  # (m,) whose
    time: I64  # (m,)
    amount: I64  # (m,) minor units


@dataclass(frozen=True)
class Log:
    """All events, in the order of their time; `rows.slot` numbers the `customers`."""

    reading: Reading
    rows: Rows
    customers: int
    spending: Spending


class Moves(NamedTuple):
    """Changes of segment, in order; segment codes are those of `streamer.core.profile`."""

    customer: I64  # (c,)
    cause: U8  # (c,)
    before: I64  # (c,)
    after: I64  # (c,)
    occurred: I64  # (c,)


class Seen(NamedTuple):
    """Everybody who is there, as of an instant."""

    customer: I64  # (n,)
    code: I64  # (n,) the segment that they were told
    values: F64  # (n, f) features
    eligible: Bool  # (n,) whether enough is behind them


def log_of(reading: Reading, batches: Iterable[pa.RecordBatch]) -> Log:
    """Take the valid events of some batches and put them in the order of time, those of one instant as they came.

    Raises:
        BadInput: there is no valid event, or there are more than memory is meant for.

    """
    return log_of_whom(reading, batches)[0]


def log_of_whom(reading: Reading, batches: Iterable[pa.RecordBatch]) -> tuple[Log, tuple[str, ...], I64]:
    """Take a log as `log_of` does; besides, the ids of its customers, by slot, and which row each of its purchases (m,) is."""
    held, n = [], 0
    for batch in batches:
        held.append(batch)
        n += batch.num_rows
        if n > EVENTS_MAX:
            message = f"there are more than {EVENTS_MAX:,} events: backtest a part of the customers, or a shorter history"
            raise BadInput(message)
    whole = pa.concat_batches(held) if held else None
    taken = take(reading, whole) if whole is not None else None
    if whole is None or taken is None or not len(taken.record):
        message = f"no event is valid of {n:,}: check the mapping and the declaration"
        raise BadInput(message)
    order = np.argsort(taken.rows.time, kind="stable")
    rows = _rows(taken.rows, order)
    numbered = rows.slot
    rows = rows._replace(slot=_by_appearance(rows.slot), offset=np.arange(len(order), dtype=np.int64))
    ours = pc.fill_null(pc.equal(whole.column("currency"), reading.declaration.currency), fill_value=True)
    bought = pc.and_(pc.and_(ours, pc.equal(whole.column("event_type"), PURCHASE)), whole.column("amount").is_valid())
    chosen = np.flatnonzero(bought.to_numpy(zero_copy_only=False)[taken.record[order]])
    amount = pc.fill_null(whole.column("amount"), 0).to_numpy(zero_copy_only=False)[taken.record[order]]
    spending = Spending(rows.slot[chosen], rows.time[chosen], amount[chosen].astype(np.int64))
    joined_ids, bounds = taken.customers.of(0)
    text = joined_ids.tobytes()
    names = [text[begin:end].decode() for begin, end in pairwise(bounds.tolist())]
    numbers = np.zeros(len(names), np.int64)
    numbers[rows.slot] = numbered
    return Log(reading, rows, len(names), spending), tuple(names[i] for i in numbers.tolist()), chosen


def _rows(rows: Rows, chosen: I64 | slice) -> Rows:
    flat = {name: getattr(rows, name)[chosen] for name in _FLAT}
    wide = {name: np.ascontiguousarray(getattr(rows, name)[:, chosen]) for name in _WIDE}
    return rows._replace(**flat, **wide)


def _by_appearance(slot: I32) -> I32:
    """Number customers in the order in which they appear, so that it can't show how the log was stored."""
    _, first, inverse = np.unique(slot, return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int32)
    place[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return place[inverse]


def _grouped(customer: I32) -> tuple[I64, I64]:
    """Number the customers of some rows: those that there are (u,), and which of them each row's is (n,)."""
    who, slot = np.unique(customer, return_inverse=True)
    return who.astype(np.int64), slot.astype(np.int64)


class Replay:
    """The one partition: profiles, model and clock as they are after what has been played."""

    def __init__(self, log: Log) -> None:
        """Begin before the first event, without a model."""
        self._log = log
        self._packed = [b""] * log.customers
        self._next = 0  # row
        self._versions: dict[int, ModelVersion] = {}
        self._data = PartitionData(log.reading.declaration.version)

    @property
    def version(self) -> ModelVersion:
        """Give the version in force."""
        return self._versions[self._data.model]

    @property
    def centroids(self) -> I64:
        """Give the centroids (k, f) that are judged by, in fixed point."""
        assert self._data.centroids is not None  # noqa: S101  # a version was adopted
        return self._data.centroids

    def play(self, until: int, *, still: bool = False) -> Moves:
        """Fold the events before an instant. With `still`, boundaries of time that they cross are passed over unjudged."""
        rows = self._upto(until)
        return self._fold(rows, *_grouped(rows.slot), still=still)

    def play_one_by_one(self, until: int) -> tuple[Moves, I16]:
        """Fold the events before an instant; also gives each one's vote in their order, (n, f), of those that have one."""
        rows = self._upto(until)
        n = len(rows.slot)
        order = np.argsort(rows.slot, kind="stable")
        begin = np.flatnonzero(np.diff(rows.slot[order], prepend=-1))
        nth = np.empty(n, np.int64)
        nth[order] = np.arange(n) - np.repeat(begin, np.diff(np.append(begin, n)))
        votes, held = np.zeros((n, len(self._log.reading.declaration.features)), np.int16), np.zeros(n, np.bool_)
        moves = []
        for turn in range(int(nth.max(initial=-1)) + 1):  # a customer's path does not depend on others', nor on batches
            chosen = np.flatnonzero(nth == turn)
            who, slot = _grouped(rows.slot[chosen])
            moves.append(self._fold(_rows(rows, chosen), who, slot))
            work = self._unpacked(who)
            votes[chosen], held[chosen] = work.vote[slot], work.head[slot, HELD] > 0
        return joined(moves), votes[held]

    def midnight(self, at: int) -> Moves:
        """Let time pass up to a midnight, and judge everybody as of it."""
        self._data = tick(self._data, at, hourly=hourly(self._log.reading.plan))
        return self._sweep()

    def adopt(self, version: ModelVersion, at: int) -> Moves:
        """Adopt a version, and judge everybody by it as of an instant."""
        self._versions[version.version] = version
        self._data = adopt_version(self._data, version, self._data.adopted + 1, self._next, at)
        return self._sweep()

    def learn(self, centroids: I64 | None = None) -> None:
        """Begin the next epoch: with given centroids (k, f), else with those of everybody's votes."""
        learned = self._data.learned
        assert learned is not None  # noqa: S101  # a version was adopted
        moved = next_centroids(self.centroids, [learned], FINER) if centroids is None else centroids
        self._data = adopt_epoch(self._data, self._data.epoch + 1, moved)

    def look(self, at: int) -> Seen:
        """Compute the features of all who are there as of an instant that no event is later than."""
        who = self._there()
        work = self._unpacked(who)
        declaration = self._log.reading.declaration
        lifetime = {measure.name: i for i, measure in enumerate(declaration.lifetimes)}
        eligible = np.ones(len(who), np.bool_)
        for measure, least in declaration.eligibility:
            eligible &= work.life[:, lifetime[measure]] >= least
        return Seen(who, work.head[:, SEGMENT].copy(), features_as_of(self._log.reading.plan, work, at), eligible)

    def _upto(self, until: int) -> Rows:
        begin, self._next = self._next, int(np.searchsorted(self._log.rows.time, until, side="left"))
        return _rows(self._log.rows, slice(begin, self._next))

    def _there(self) -> I64:
        return np.array([i for i, body in enumerate(self._packed) if body], np.int64)

    def _sweep(self) -> Moves:
        who = self._there()
        moves = self._fold(_rows(self._log.rows, slice(0, 0)), who, np.zeros(0, np.int64), sweep=True)
        self._data = replace(self._data, cursor=DONE)
        return moves

    def _fold(self, rows: Rows, who: I64, slot: I64, *, sweep: bool = False, still: bool = False) -> Moves:
        """Fold rows of some customers (u,), `slot` (n,) saying whose each is; with `sweep`, let what is due for them come first."""
        plan, declaration = self._log.reading.plan, self._log.reading.declaration
        rows = rows._replace(slot=slot.astype(np.int32))
        work = self._unpacked(who, np.bincount(slot, minlength=len(who)).astype(np.int64))
        if still and len(slot):
            clock = work.head[:, CLOCK]
            clock[:] = np.where(clock == NEVER, NEVER, np.maximum(clock, int(rows.time[0]) // DAY_MS * DAY_MS))
        judge = stack_judge([self._data], self._versions, declaration)
        sums = stack_sums([self._data], judge)
        watermark, tally = np.array([self._data.watermark], np.int64), np.zeros((1, TALLIES), np.int64)
        swept = np.arange(len(who) if sweep else 0, dtype=np.int32)
        changes, n, _ = fold(plan, judge, sums, work, rows, swept, np.zeros(len(swept), np.int32), 0, watermark, tally)
        learned = None if self._data.centroids is None else unstack_sums(sums, 0, len(self._data.centroids))
        self._data = replace(self._data, watermark=int(watermark[0]), learned=learned)
        data, ends = pack(plan, work, np.arange(len(who)))
        whole = data.tobytes()
        for i, (begin, end) in zip(who.tolist(), pairwise(ends.tolist()), strict=True):
            self._packed[i] = whole[begin:end]
        columns = (getattr(changes, name)[:n].copy() for name in Moves._fields[1:])
        return Moves(who[changes.slot[:n]], *columns)

    def _unpacked(self, who: I64, extra: I64 | None = None) -> Work:
        packed = [self._packed[i] for i in who.tolist()]
        bounds = np.cumsum([0, *map(len, packed)], dtype=np.int64)
        rooms = np.zeros(len(who), np.int64) if extra is None else extra
        return unpack(self._log.reading.plan, read_only(np.frombuffer(b"".join(packed), np.uint8)), bounds, rooms)


def joined(moves: Iterable[Moves]) -> Moves:
    """Put changes one after the other."""
    pieces: Iterator[Moves] = iter(moves)
    columns = list(zip(*pieces, strict=True))
    if not columns:
        none = np.zeros(0, np.int64)
        return Moves(none, none.astype(np.uint8), none, none, none)
    return Moves(*(np.concatenate(column) for column in columns))
