"""Features of every customer as of an instant, from the history, in bounded memory.

Laws: features are, to the bit, those that the stream computes from the same events. A customer's features depend on its own events alone:
neither batches nor buckets leave a trace, so a bucket can be worked on anywhere.

Customers are dealt out to buckets by the hash of their id. A history that fits into `rows_in_memory` is one bucket; a larger one is
spilled, each bucket to a file of its own, and buckets are worked on one after the other.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from offline.events import customer_hashes, take
from offline.folding import Profiles
from streamer.adapters import memory
from streamer.core.declaration import DAY_MS
from streamer.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from offline.cluster import Pool
    from offline.events import Reading, Taken
    from streamer.core.columns import I64, U64

BUCKETS = 64
ROWS_IN_MEMORY = 2_000_000
PENDING_ROWS = 8_192  # of a bucket, before they are written
FOLDED_ROWS = 500_000  # at a time: a customer is unpacked and packed once for all of its events among them
PURCHASE, REFUND = "purchase", "refund"


@dataclass(frozen=True, slots=True)
class Computed:
    """What was computed of some customers. `features` and `facts` have one row a customer, in the order of their ids' bytes.

    `facts` tells of the customer's raw events: `eligible`, `clock` (ms), `events` (valid ones, repetitions included), `repeated` (events
    whose id an earlier one had), `busiest_day` (the most events of one day), `purchased` and `refunded` (minor units). `days` has one row
    for each day of event time: `events`, `repeated`, `purchased`. `counts` are rows by what became of them.
    """

    features: pd.DataFrame
    facts: pd.DataFrame
    days: pd.DataFrame
    counts: dict[str, int] = field(default_factory=dict)


def compute(
    reading: Reading,
    batches: Iterable[pa.RecordBatch],
    as_of: int,
    *,
    buckets: int = BUCKETS,
    rows_in_memory: int = ROWS_IN_MEMORY,
    progress: Callable[[str, int, int], None] | None = None,
    pool: Pool | None = None,
) -> Computed:
    """Compute the features of every customer in `batches`, which are in the order of the log, as of an instant in ms.

    `progress` is told the step, how far it is, and of how many (0 where that is not known). Where there is a `pool`, it computes the
    buckets, however few events there are.
    """
    told = progress or (lambda _step, _done, _of: None)
    parts = []
    with spilled(batches, buckets, rows_in_memory if pool is None else 0, lambda rows: told("reading", rows, 0)) as pieces:
        work = (bucket(reading, piece, as_of) for piece in pieces) if pool is None else pool.computed(reading, pieces, as_of)
        for done, part in enumerate(work, 1):
            parts.append(part)
            told("computing", done, len(pieces))
    _give_back()
    found = joined(reading, parts)
    _give_back()
    return found


def _give_back() -> None:
    """Give back what a step has freed: the next one makes arrays as large, and would have both."""
    pa.default_memory_pool().release_unused()
    memory.give_back()


@contextmanager
def spilled(
    batches: Iterable[pa.RecordBatch], buckets: int, rows_in_memory: int, progress: Callable[[int], None]
) -> Iterator[list[Iterable[pa.RecordBatch]]]:
    """Deal batches out to buckets of customers, each in the order of the log: one in memory if they fit, else temporary files."""
    held: list[pa.RecordBatch] = []
    rows = 0
    incoming = iter(batches)
    for batch in incoming:
        held.append(batch)
        rows += batch.num_rows
        progress(rows)
        if rows > rows_in_memory:
            break
    else:
        yield [held]
        return
    with tempfile.TemporaryDirectory(prefix="offline-") as directory:
        spill = Spill(Path(directory), buckets, held[0].schema)
        for batch in chain(held, incoming):
            spill.add(batch)
            progress(spill.rows)
        held.clear()
        yield spill.close()


class Spill:
    """Files of Arrow's own format, one a bucket."""

    def __init__(self, directory: Path, buckets: int, schema: pa.Schema) -> None:
        """Begin `buckets` files in a directory."""
        self._paths = [directory / f"{n:05d}.arrow" for n in range(buckets)]
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writers = [pa.ipc.new_stream(pa.OSFile(str(path), "wb"), schema, options=options) for path in self._paths]
        self._pending: list[list[pa.RecordBatch]] = [[] for _ in self._paths]
        self.rows = 0

    def add(self, batch: pa.RecordBatch, hashes: U64 | None = None) -> None:
        """Deal a batch out by the hashes (n,) of its rows' customers."""
        self.rows += batch.num_rows
        hashes = customer_hashes(batch) if hashes is None else hashes
        bucket_of = (hashes % np.uint64(len(self._paths))).astype(np.uint16)  # short numbers are sorted digit by digit
        order = np.argsort(bucket_of, kind="stable")
        sorted_batch = batch.take(pa.array(order))
        ends = np.cumsum(np.bincount(bucket_of, minlength=len(self._paths))).tolist()
        for n, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            if end > begin:
                self._pending[n].append(sorted_batch.slice(begin, end - begin))
                if sum(piece.num_rows for piece in self._pending[n]) >= PENDING_ROWS:
                    self._flush(n)

    def _flush(self, n: int) -> None:
        self._writers[n].write_batch(pa.concat_batches(self._pending[n]))
        self._pending[n].clear()

    def close(self) -> list[Iterable[pa.RecordBatch]]:
        """Write what is pending and give each bucket's batches."""
        for n, writer in enumerate(self._writers):
            if self._pending[n]:
                self._flush(n)
            writer.close()
        return [_Stored(path) for path in self._paths]


@dataclass(frozen=True, slots=True)
class _Stored:
    """A bucket's file, read as often as it is walked."""

    path: Path

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        with pa.OSFile(str(self.path), "rb") as source, pa.ipc.open_stream(source) as reader:
            yield from reader


def bucket(reading: Reading, batches: Iterable[pa.RecordBatch], as_of: int) -> Computed:
    """Compute one bucket: all events of some customers, in the order of the log. It depends on its arguments alone."""
    profiles = Profiles(reading)
    gathered = _Gathered()
    for batch in _gathered_up(batches, FOLDED_ROWS):
        taken = take(reading, batch)
        gathered.add(batch, taken, profiles.fold(taken), reading.declaration.currency)
    names = [feature.name for feature in reading.declaration.features]
    slices = list(profiles.slices(as_of))
    values = np.concatenate([piece[0] for piece in slices]) if slices else np.zeros((0, len(names)))
    clock = np.concatenate([piece[1] for piece in slices]) if slices else np.zeros(0, np.int64)
    eligible = np.concatenate([piece[2] for piece in slices]) if slices else np.zeros(0, np.bool_)
    customers = profiles.customers
    order = sorted(range(len(customers)), key=customers.__getitem__)
    index = pd.Index([customers[i].decode() for i in order], dtype="object", name="customer_id")
    facts = pd.DataFrame({"eligible": eligible, "clock": clock, **gathered.facts(len(customers))})
    counts = gathered.counts | {"duplicate": profiles.duplicates, "late": profiles.late}
    return Computed(pd.DataFrame(values[order], index, names), facts.iloc[order].set_axis(index), gathered.days(), counts)


def _gathered_up(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Put batches together until they have so many rows, in their order."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(one.num_rows for one in held) >= rows:
            yield pa.concat_batches(held)
            held.clear()
    if held:
        yield pa.concat_batches(held)


def joined(reading: Reading, parts: Iterable[Computed]) -> Computed:
    """Put buckets together, customers in the order of their ids' bytes. A list of parts is emptied on the way, to need no room for both."""
    left = parts if isinstance(parts, list) else list(parts)
    left = left or [bucket(reading, [], 0)]
    days = pd.concat([part.days for part in left]).groupby(level=0).sum()
    counts: Counter[str] = Counter()
    for part in left:
        counts.update(part.counts)
    ids = np.concatenate([part.features.index.to_numpy(object) for part in left])
    order = pc.sort_indices(pa.array(ids, pa.large_string())).to_numpy()  # by bytes
    place = np.empty(len(ids), np.int64)
    place[order] = np.arange(len(ids))
    index = pd.Index(ids[order], dtype="object", name="customer_id")
    names, kinds = list(left[0].features.columns), left[0].facts.dtypes
    values = np.empty((len(ids), len(names)), np.float64)
    facts = {str(name): np.empty(len(ids), kind) for name, kind in kinds.items()}
    end = len(ids)
    while left:
        part = left.pop()
        rows = place[end - len(part.features) : end]
        end -= len(part.features)
        values[rows] = part.features.to_numpy()
        for name, column in facts.items():
            column[rows] = part.facts[name].to_numpy()
    features = pd.DataFrame(values, index, names, copy=False)  # there may be millions of customers
    return Computed(features, pd.DataFrame(facts, copy=False).set_axis(index), days, dict(counts))


class _Gathered:
    """Facts of a bucket's raw events, added up batch by batch."""

    def __init__(self) -> None:
        none = np.zeros(0, np.int64)
        self.counts: dict[str, int] = {"rows": 0}
        self._customer: list[I64] = [none]
        self._event: list[I64] = [none]
        self._day: list[I64] = [none]
        self._purchased: list[I64] = [none]
        self._refunded: list[I64] = [none]
        self._repeats: I64 | None = None

    def add(self, batch: pa.RecordBatch, taken: Taken, number: I64, currency: str) -> None:
        """Add a batch's valid events; `number` (u,) says which of the bucket's customers each of the batch's is."""
        self.counts["rows"] += batch.num_rows
        reasons, times = np.unique(taken.status, return_counts=True)
        for reason, count in zip(reasons.tolist(), times.tolist(), strict=True):
            name = "valid" if not reason else f"refused: {Reason(reason).name.lower()}"
            self.counts[name] = self.counts.get(name, 0) + count
        self._customer.append(number[taken.rows.slot])
        self._event.append(taken.rows.event_id.view(np.int64).copy())
        self._day.append(taken.rows.time // DAY_MS)
        ours = pc.fill_null(pc.equal(batch.column("currency"), currency), fill_value=True).to_numpy(zero_copy_only=False)
        amount = (pc.fill_null(batch.column("amount"), 0).to_numpy(zero_copy_only=False) * ours)[taken.record]
        for event_type, into in ((PURCHASE, self._purchased), (REFUND, self._refunded)):
            named = pc.equal(batch.column("event_type"), event_type).to_numpy(zero_copy_only=False)[taken.record]
            into.append(np.where(named, amount, 0))

    def facts(self, customers: int) -> dict[str, I64]:
        """Give the facts of each of `customers`, by name."""
        customer, day = np.concatenate(self._customer), np.concatenate(self._day)
        first = int(day.min(initial=0))
        span = int(day.max(initial=0)) - first + 1
        both, events = np.unique(customer * span + (day - first), return_counts=True)
        busiest = np.zeros(customers, np.int64)
        np.maximum.at(busiest, both // span, events)
        return {
            "events": np.bincount(customer, minlength=customers).astype(np.int64),
            "repeated": np.bincount(customer[self._again()], minlength=customers).astype(np.int64),
            "busiest_day": busiest,
            "purchased": _summed(customer, np.concatenate(self._purchased), customers),
            "refunded": _summed(customer, np.concatenate(self._refunded), customers),
        }

    def days(self) -> pd.DataFrame:
        """Give the facts of each day of event time."""
        day, index = np.unique(np.concatenate(self._day), return_inverse=True)
        events = np.bincount(index, minlength=len(day)).astype(np.int64)
        repeated = np.bincount(index[self._again()], minlength=len(day)).astype(np.int64)
        purchased = _summed(index, np.concatenate(self._purchased), len(day))
        return pd.DataFrame({"events": events, "repeated": repeated, "purchased": purchased}, pd.Index(day, name="day"))

    def _again(self) -> I64:
        """Find the events whose id an earlier event of the customer had; all events have been added."""
        if self._repeats is not None:
            return self._repeats
        customer, event = np.concatenate(self._customer), np.concatenate(self._event)
        ids = np.sort(event)
        twice = np.append(ids[1:][np.diff(ids) == 0], [np.iinfo(np.int64).max])  # of whichever customers: few, as a rule
        some = np.flatnonzero(twice[np.searchsorted(twice, event)] == event)
        order = some[np.lexsort((event[some], customer[some]))]
        same = (np.diff(customer[order]) == 0) & (np.diff(event[order]) == 0)
        self._repeats = order[1:][same]  # the sort is stable, so these are the later ones
        return self._repeats


def _summed(number: I64, amount: I64, room: int) -> I64:
    """Add amounts up by number, in whole numbers."""
    total = np.zeros(room, np.int64)
    np.add.at(total, number, amount)
    return total
