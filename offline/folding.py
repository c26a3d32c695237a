"""Profiles of some customers, built from the history by the stream's own fold; nothing else of the job calls it.

Law: what is kept between two batches is what the stream keeps in Redis, packed profiles, so batches leave no trace.

The stream lets a customer leave at the first boundary of time (a midnight, or an hour while hours still count) that is more than the
model's retention after the customer's last event; who comes back is somebody new. Here a customer is forgotten as of the event that finds
it gone, which is the same unless that event is late.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from streamer.core.columns import read_only
from streamer.core.fold import DUPLICATE, LATE, TALLIES, fold
from streamer.core.model import features_as_of_each
from streamer.core.partition import PartitionData, stack_judge, stack_sums
from streamer.core.plan import horizon_ms
from streamer.core.profile import CLOCK, DAY_MS, HOUR_MS, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from offline.events import Reading, Taken
    from streamer.core.columns import F64, I64, Bool
    from streamer.core.profile import Work

UNKNOWN = 0  # no event is as early
SLICE = 50_000  # customers whose features are computed at once


class Profiles:
    """Packed profiles by customer, in order of first appearance."""

    def __init__(self, reading: Reading) -> None:
        """Begin with none."""
        self._reading = reading
        self._number: dict[bytes, int] = {}
        self._packed: list[bytes] = []
        self.tally = np.zeros(TALLIES, np.int64)
        nobody = [PartitionData(reading.declaration.version)]
        self._judge = stack_judge(nobody, {}, reading.declaration)
        self._sums = stack_sums(nobody, self._judge)
        self._last = np.zeros(0, np.int64)  # each customer's latest event time

    def __len__(self) -> int:
        """Count the customers."""
        return len(self._packed)

    @property
    def customers(self) -> list[bytes]:
        """List the customers' ids."""
        return list(self._number)

    @property
    def packed(self) -> list[bytes]:
        """Give the customers' packed profiles, in the order of `customers`."""
        return self._packed

    @property
    def duplicates(self) -> int:
        """Count the events that were left out because their id was remembered."""
        return int(self.tally[DUPLICATE])

    @property
    def late(self) -> int:
        """Count the events that were too old for any window."""
        return int(self.tally[LATE])

    def of(self, customers: Sequence[bytes]) -> Profiles:
        """Copy the profiles of some customers; who is not known is left out."""
        found = Profiles(self._reading)
        chosen = [self._number[one] for one in customers if one in self._number]
        found._number = {one: place for place, one in enumerate(one for one in customers if one in self._number)}
        found._packed = [self._packed[i] for i in chosen]
        found._last = self._last[np.array(chosen, np.int64)]
        return found

    def fold(self, taken: Taken) -> I64:
        """Fold a batch; returns which of all customers each of the batch's is, (u,)."""
        ids, bounds = taken.customers.of(0)
        whole = ids.tobytes()
        names = [whole[begin:end] for begin, end in pairwise(bounds.tolist())]
        known = len(self._number)
        number = np.array([self._number.setdefault(name, len(self._number)) for name in names], np.int64)
        self._packed += [b""] * (len(self._number) - known)
        self._last = np.append(self._last, np.full(len(self._number) - known, UNKNOWN))
        taken = self._without_forgotten(taken, number)
        extra = np.bincount(taken.rows.slot, minlength=len(names)).astype(np.int64)
        work = self._unpacked([self._packed[i] for i in number.tolist()], extra)
        self._apply(work, taken)
        data, ends = pack(self._reading.plan, work, np.arange(len(names)))
        joined = data.tobytes()
        for i, (begin, end) in zip(number.tolist(), pairwise(ends.tolist()), strict=True):
            self._packed[i] = joined[begin:end]
        return number

    def _without_forgotten(self, taken: Taken, number: I64) -> Taken:
        """Forget the customers whom a silence has let leave, and the rows of the batch before it; `number` (u,) is as `fold` returns it."""
        if self._reading.retention_ms is None or not len(taken.record):
            return taken
        rows = taken.rows
        order = np.argsort(rows.slot, kind="stable")
        owner, time = rows.slot[order].astype(np.int64), rows.time[order]
        begin = np.flatnonzero(np.diff(owner, prepend=-1))
        heard = time.copy()
        heard[begin] = np.maximum(time[begin], self._last[number])  # every customer of the batch has a row, and they are in order
        heard = pd.Series(heard).groupby(owner).cummax().to_numpy()
        before = np.roll(heard, 1)
        before[begin] = self._last[number]
        self._last[number] = heard[np.append(begin[1:], len(owner)) - 1]
        gone = np.flatnonzero(self._gone(before, time, self._reading.retention_ms))
        if not len(gone):
            return taken
        since = np.zeros(len(number), np.int64)  # of each customer of the batch, where in `order` its present life begins
        since[owner[gone]] = gone
        for i in number[np.unique(owner[gone])].tolist():
            self._packed[i] = b""
        kept = np.sort(order[np.arange(len(order)) >= since[owner]])
        flat = {name: getattr(rows, name)[kept] for name in ("part", "slot", "offset", "time", "type", "event_id")}
        wide = {name: np.ascontiguousarray(getattr(rows, name)[:, kept]) for name in ("value", "there", "text", "text_there")}
        return replace(taken, rows=rows._replace(**flat, **wide), record=taken.record[kept])

    def _gone(self, last: I64, time: I64, retention_ms: int) -> Bool:
        """Tell which customers had left by `time` (n,) who were heard of at `last` (n,)."""
        boundary = time // DAY_MS * DAY_MS
        if self._reading.plan.horizon_hours:
            hours = np.minimum(time // HOUR_MS, last // HOUR_MS + self._reading.plan.horizon_hours + 1)
            boundary = np.maximum(boundary, hours * HOUR_MS)
        longest = max(retention_ms, horizon_ms(self._reading.plan))
        gone: Bool = (last != UNKNOWN) & (boundary - last > longest)
        return gone

    def _apply(self, work: Work, taken: Taken) -> None:
        """Fold without a model: nobody is judged, so there are no changes and no room for any."""
        plan = self._reading.plan
        none = np.zeros(0, np.int32)
        tally = np.zeros((1, TALLIES), np.int64)
        fold(plan, self._judge, self._sums, work, taken.rows, none, none, 0, np.zeros(1, np.int64), tally, room=1)
        self.tally += tally[0]

    def slices(self, as_of: int) -> Iterator[tuple[F64, I64, Bool]]:
        """Give the features, clocks and eligibility of all customers, some at a time: (u, f), (u,) and (u,).

        Each is evaluated as of `as_of`, or as of their clock where that is later, as the stream does.
        """
        for begin in range(0, len(self._packed), SLICE):
            packed = self._packed[begin : begin + SLICE]
            work = self._unpacked(packed, np.zeros(len(packed), np.int64))
            clock = work.head[:, CLOCK].copy()
            yield features_as_of_each(self._reading.plan, work, np.maximum(clock, as_of)), clock, self._eligible(work)

    def _eligible(self, work: Work) -> Bool:
        declaration = self._reading.declaration
        lifetime = {measure.name: i for i, measure in enumerate(declaration.lifetimes)}
        chosen = np.ones(len(work.found), np.bool_)
        for measure, least in declaration.eligibility:
            chosen &= work.life[:, lifetime[measure]] >= least
        return chosen

    def _unpacked(self, packed: list[bytes], extra: I64) -> Work:
        bounds = np.cumsum([0, *map(len, packed)], dtype=np.int64)
        return unpack(self._reading.plan, read_only(np.frombuffer(b"".join(packed), np.uint8)), bounds, extra)
