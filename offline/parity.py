"""Are the profiles in Redis what the history comes to? One partition of the stream after another, beside the running system.

Laws: 1. a difference is reported only if profile and history were compared at the same offset. 2. A profile is what the events of its
customer make of it, so one that is read while the partition moves from offset `a` to `b` is that of both offsets, unless its customer has
an event between the two. 3. Nothing is written and nothing is claimed.

The order of work, for a partition: 1. its state is read, with `a`; 2. its profiles are walked; 3. its state is read again, with `b`; 4. the
events up to `b` are folded, from the history and, beyond its end, from Kafka; 5. both are compared; 6. whoever differs, or had an event
between `a` and `b`, is read again at one commit, folded up to its very offset, and compared once more.

Customers who were erased are left out (`streamer erase --status` looks at them), and who was merged: their events are in two partitions.

What is compared are the measures, the features as of the later of both clocks, and what else is remembered. Which segment a customer is in
depends on a path, and is not looked at here.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from offline.events import SCHEMA, customer_hashes, take, texts_of
from offline.features import BUCKETS, ROWS_IN_MEMORY, Spill
from offline.folding import Profiles
from offline.profiles import DAMAGED, EXTRA, MISMATCH, MISSING, Differing, compared
from streamer.adapters.history import ERASE, MERGE, MERGED
from streamer.core.erasure import NOBODY, among, make_rule, same_key
from streamer.core.erasure import hash_ids as keyed_hashes
from streamer.core.errors import Corrupt, Misconfigured, Unavailable
from streamer.core.intake import hash_ids
from streamer.core.partition import unpack_erased, unpack_state
from streamer.core.ports import CursorLost

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from offline.events import Reading
    from streamer.core.columns import I64, U64, Bool
    from streamer.core.erasure import Rule
    from streamer.core.model import ModelVersion
    from streamer.core.partition import PartitionData
    from streamer.core.ports import Packed, PartitionState

SCAN_RECORDS = 2_000
ATTEMPTS_MAX = 5  # at a walk through a partition whose server is started anew or whose state is rolled back
LOOKS_MAX = 50  # at an exact offset of a partition under load
AGAIN_MAX = 5_000  # customers read again at once; each look takes a few milliseconds
NAMED_MAX = 1_000
PARTITIONS = "partitions"
KINDS = (MISMATCH, MISSING, EXTRA, DAMAGED)
LIVE = pa.schema([pa.field("customer_id", pa.binary()), pa.field("profile", pa.binary())])


class Store(Protocol):
    """Redis, as far as it is looked at here (`streamer.core.ports.StateStore`)."""

    def read(self, partitions: Sequence[int]) -> list[PartitionState]:
        """Read states without claiming."""

    def scan(self, partition: int, cursor: int, count: int, commit_id: str | None = None) -> tuple[int, Packed]:
        """Walk about `count` of the partition's profiles."""

    def load(self, partitions: Sequence[int], ids: Sequence[tuple[Any, I64]], commit_ids: Sequence[str] | None = None) -> list[Packed]:
        """Read the profiles of each partition's customers."""

    def announced(self, name: str) -> bytes | None:
        """Read a value of the application."""

    def erased(self, partition: int) -> bytes:
        """Read what is kept of a partition's erased customers."""


class History(Protocol):
    """The archived events (`streamer.adapters.history.History`)."""

    def manifest(self) -> Any:  # noqa: ANN401  # what is needed of it is `events`, by partition
        """Give its manifest."""

    def events(
        self, cutoff: Mapping[int, int], columns: Sequence[str] | None = None, *, first: Mapping[int, int] | None = None
    ) -> Iterator[Any]:
        """Give the events before a cut-off."""


class Tail(Protocol):
    """The end of the log (`offline.tail.Tail`)."""

    def events(self, partition: int, first: int, end: int, passed_over: Collection[int] = ()) -> Iterator[pa.RecordBatch]:
        """Give the events from offset `first` to before `end`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Customers whose hash falls into one of `of` parts."""

    of: int = 1
    part: int = 0

    def has(self, hashes: U64) -> Bool:
        """Tell of hashes (n,) whose customers belong to it."""
        chosen: Bool = (hashes >> np.uint64(32)) % np.uint64(self.of) == np.uint64(self.part)
        return chosen


@dataclass(frozen=True, slots=True)
class Sources:
    """Where facts come from."""

    store: Store
    history: History
    tail: Tail | None
    reading: Reading
    model: Callable[[int], ModelVersion]
    erasure: Rule = field(default_factory=lambda: make_rule(None, refuse=True))  # only its key counts
    buckets: int = BUCKETS
    rows_in_memory: int = ROWS_IN_MEMORY


@dataclass(frozen=True, slots=True)
class Finding:
    """One way in which a customer's profile is not what the history comes to; `live` and `history` are None where there is no number."""

    partition: int
    customer: str
    kind: str
    what: str = ""  # the feature or measure
    live: float | None = None
    history: float | None = None


@dataclass(slots=True)
class Report:
    """What a comparison found. `offsets` says up to where each partition was compared."""

    equal: int = 0
    erased: int = 0  # customers left out, for they were erased or merged
    unsettled: int = 0  # customers who could not be read at an exact offset, for the load
    customers: Counter[str] = field(default_factory=Counter)  # by kind
    features: Counter[str] = field(default_factory=Counter)  # customers whose feature or measure differs
    findings: list[Finding] = field(default_factory=list)
    busy: list[int] = field(default_factory=list)  # partitions that are rebuilt just now, or that Redis loses
    offsets: dict[int, int] = field(default_factory=dict)
    from_kafka: int = 0  # offsets beyond the history's end

    @property
    def found(self) -> int:
        """Count the customers who differ."""
        return sum(self.customers.values())

    @property
    def compared(self) -> int:
        """Count the customers of whom something is known for certain."""
        return self.equal + self.found

    @property
    def clean(self) -> bool:
        """Tell whether everybody was compared and is equal."""
        return not (self.found or self.unsettled or self.busy)

    def add(self, partition: int, differing: Differing) -> None:
        """Take in a customer who differs."""
        self.customers[differing.kind] += 1
        self.features.update(part.what for part in differing.parts)
        customer = differing.customer.decode(errors="backslashreplace")
        parts = [Finding(partition, customer, differing.kind, part.what, part.live, part.history) for part in differing.parts]
        self.findings += (parts or [Finding(partition, customer, differing.kind)])[: NAMED_MAX - len(self.findings)]


class _Cut(NamedTuple):
    """A partition at one commit."""

    commit_id: str
    offset: int
    data: PartitionData


def parity(sources: Sources, sample: Sample, progress: Callable[[str, int, int], None] = lambda _step, _done, _of: None) -> Report:
    """Compare the profiles of every partition with the history.

    Raises:
        Misconfigured: nothing has ever run there, or profiles are of another declaration; or events are neither in history nor in Kafka.
        Unavailable: a server does not answer.

    """
    recorded = sources.store.announced(PARTITIONS)
    if recorded is None:
        message = "Redis holds no such application: see `app.name`, `app.namespace` and `redis.url` of the stream's configuration"
        raise Misconfigured(message)
    report = Report()
    partitions = int(recorded)
    for partition in range(partitions):
        progress("partition", partition + 1, partitions)
        for _ in range(ATTEMPTS_MAX):
            with suppress(CursorLost):
                if _Comparison(sources, sample, partition, report).run():
                    break
        else:
            report.busy.append(partition)
    return report


class _Comparison:
    """One partition's."""

    def __init__(self, sources: Sources, sample: Sample, partition: int, report: Report) -> None:
        self._sources, self._sample, self._partition, self._report = sources, sample, partition, report
        manifest = sources.history.manifest().events.get(partition)
        self._archived = (manifest.next_offset or 0) if manifest is not None else 0
        self._rows = manifest.rows if manifest is not None else 0
        self._commanded: set[bytes] = set()  # who was merged, or is erased by a command that names them still
        self._erased = NOBODY  # the hashes of all who were erased

    def run(self) -> bool:
        """Compare; tells whether that came to an end, which it does not while the partition is rebuilt."""
        begin = self._cut()
        if begin is None:
            return True
        beyond = max(0, begin.offset - self._archived)
        many = self._rows // self._sample.of + beyond > self._sources.rows_in_memory
        with tempfile.TemporaryDirectory(prefix="offline-") as place:
            live = _Live(Path(place) / "live", self._sources.buckets if many else 1)
            self._walk(live)
            end = self._cut()
            if end is None or begin.data.rebuilding or end.data.rebuilding or end.offset < begin.offset:
                return False
            reading = self._reading(begin.data)
            self._erased = self._hashes_of_erased(end.data)
            pieces = self._dealt(reading, end, Path(place) / "events", live.buckets)
            for profiles, events in zip(live.close(), pieces, strict=True):
                self._bucket(reading, profiles, events, begin, end)
        self._report.offsets[self._partition] = end.offset
        self._report.from_kafka += max(0, end.offset - self._archived)
        return True

    def _cut(self) -> _Cut | None:
        state = self._sources.store.read([self._partition])[0]
        if not state.commit_id:
            return None
        try:
            data = unpack_state(state.state)
        except (ValueError, TypeError, KeyError) as error:
            message = f"the state of partition {self._partition} can't be read: {error}: look with the release that wrote it"
            raise Corrupt(message) from error
        declared = self._sources.reading.declaration.version
        if data.feature_version != declared:
            message = (
                f"partition {self._partition} has profiles of feature version {data.feature_version}, the declaration is {declared}: "
                "give the workers' own declaration with --features"
            )
            raise Misconfigured(message)
        return _Cut(state.commit_id, state.next_offset, data)

    def _reading(self, data: PartitionData) -> Reading:
        """Let who was silent for too long begin anew, as by the version that the partition judges by."""
        retention_ms = self._sources.model(data.model).decision.retention_ms if data.model else None
        return replace(self._sources.reading, retention_ms=retention_ms)

    def _hashes_of_erased(self, data: PartitionData) -> U64:
        """Read who was erased and is refused. Raises `Misconfigured` where that was under another key."""
        if not data.erased_key:
            return NOBODY
        same_key(self._sources.erasure, data.erased_key)
        return unpack_erased(self._sources.store.erased(self._partition))

    def _are_erased(self, ids: Any, bounds: I64) -> Bool:  # noqa: ANN401  # bytes as an array
        return among(keyed_hashes(self._sources.erasure, ids, bounds), self._erased)

    def _walk(self, live: _Live) -> None:
        cursor, begun = 0, False
        while cursor or not begun:
            begun = True
            cursor, packed = self._sources.store.scan(self._partition, cursor, SCAN_RECORDS)
            hashes = hash_ids(packed.ids, packed.id_bounds)
            rows = np.flatnonzero(self._sample.has(hashes))
            live.add(_cut_apart(packed, rows), hashes[rows])

    def _events(self, reading: Reading, first: int, cut: _Cut, chosen: Callable[[U64], Bool]) -> Iterator[pa.RecordBatch]:
        """Give the chosen customers' events from offset `first` to the cut."""
        partition, columns = self._partition, reading.columns
        archived = min(self._archived, cut.offset)
        found: list[Iterable[pa.RecordBatch]] = []
        if first < archived:
            found.append(self._sources.history.events({partition: archived}, columns, first={partition: first}))
        begin = max(first, archived)
        if begin < cut.offset:
            if self._sources.tail is None:
                message = f"history ends at offset {begin} of partition {partition}, and the stream is at {cut.offset}: Kafka must be asked"
                raise Misconfigured(message)
            found.append(self._sources.tail.events(partition, begin, cut.offset, cut.data.passed_over))
        for batch in chain.from_iterable(found):
            wanted = chosen(customer_hashes(batch))
            commands = batch.filter(pc.is_in(batch.column("event_type"), pa.array([ERASE, MERGE, MERGED])))
            self._commanded.update(str(one).encode() for one in commands.column("customer_id").to_pylist())
            if len(self._erased):
                wanted &= ~self._are_erased(*texts_of(batch.column("customer_id")))
            mine = np.flatnonzero(wanted)
            if len(mine):
                yield _laid(batch if len(mine) == batch.num_rows else batch.take(pa.array(mine)), columns)

    def _dealt(self, reading: Reading, cut: _Cut, place: Path, buckets: int) -> list[Iterable[pa.RecordBatch]]:
        """Deal the sampled events out by customer, as the profiles were."""
        events = self._events(reading, 0, cut, self._sample.has)
        if buckets == 1:
            return [events]
        place.mkdir()
        spill = Spill(place, buckets, pa.schema([SCHEMA.field(name) for name in reading.columns]))
        for batch in events:
            spill.add(batch)
        return spill.close()

    def _bucket(self, reading: Reading, live: dict[bytes, bytes], events: Iterable[pa.RecordBatch], begin: _Cut, end: _Cut) -> None:
        """Compare some customers, and look again at those of whom nothing is certain yet."""
        profiles, touched = Profiles(reading), set[int]()
        for batch in events:
            touched |= _fold(reading, profiles, batch, begin.offset)
        customers = profiles.customers
        late = {customers[i] for i in touched}
        differing = compared(reading, profiles, live, _leaving(reading, begin.data, end.data))
        everybody = {*customers, *live}
        left_out = self._left_out(everybody)
        again = ({one.customer for one in differing} | late) - left_out
        self._report.erased += len(left_out)
        self._report.equal += len(everybody - again - left_out)
        self._again(reading, profiles, again, end)

    def _left_out(self, customers: set[bytes]) -> set[bytes]:
        """Find those of some customers who were erased or merged."""
        found = customers & self._commanded
        if len(self._erased) and customers:
            ordered = sorted(customers)
            bounds = np.cumsum([0, *map(len, ordered)], dtype=np.int64)
            gone = self._are_erased(np.frombuffer(b"".join(ordered), np.uint8), bounds)
            found |= {ordered[i] for i in np.flatnonzero(gone).tolist()}
        return found

    def _again(self, reading: Reading, profiles: Profiles, customers: set[bytes], at: _Cut) -> None:
        """Compare customers at exact offsets, some at a time."""
        ordered = sorted(customers)
        for begin in range(0, len(ordered), AGAIN_MAX):
            asked = ordered[begin : begin + AGAIN_MAX]
            differing = self._exactly(reading, profiles.of(asked), asked, at)
            if differing is None:
                self._report.unsettled += len(asked)
                continue
            self._report.equal += len(asked) - len(differing)
            for one in differing:
                self._report.add(self._partition, one)

    def _exactly(self, reading: Reading, profiles: Profiles, asked: Sequence[bytes], at: _Cut) -> list[Differing] | None:
        """Compare at one commit; None where the partition never stood still for as long as that takes."""
        joined, bounds = np.frombuffer(b"".join(asked), np.uint8), np.cumsum([0, *map(len, asked)], dtype=np.int64)
        hashes = hash_ids(joined, bounds)
        for _ in range(LOOKS_MAX):
            cut = self._cut()
            if cut is None or cut.offset < at.offset or cut.data.rebuilding:
                return None
            try:
                [packed] = self._sources.store.load([self._partition], [(joined, bounds)], [cut.commit_id])
            except Unavailable:  # it went on meanwhile; a server that is away is noticed as the state is read
                continue
            for batch in self._events(reading, at.offset, cut, lambda hashed: np.isin(hashed, hashes)):
                _fold(reading, profiles, batch, 0)
            live = {customer: profile for customer, profile in _cut_apart(packed, np.arange(len(asked))) if profile}
            wanted = profiles.of(asked)  # who shares a hash with one of them is left out
            differing = compared(reading, wanted, live, _leaving(reading, cut.data, cut.data))
            return [one for one in differing if one.customer not in self._commanded]  # by now
        return None


class _Live:
    """The profiles of a partition as they were walked past, by bucket of their customers; one that is met twice counts as met last."""

    def __init__(self, place: Path, buckets: int) -> None:
        self.buckets = buckets
        self._held: dict[bytes, bytes] = {}
        self._spill: Spill | None = None
        if buckets > 1:
            place.mkdir()
            self._spill = Spill(place, buckets, LIVE)

    def add(self, profiles: Sequence[tuple[bytes, bytes]], hashes: U64) -> None:
        """Take profiles with their customers, whose hashes (n,) are given."""
        if self._spill is None:
            self._held.update(profiles)
        elif profiles:
            columns = [pa.array([one[column] for one in profiles], pa.binary()) for column in range(2)]
            self._spill.add(pa.RecordBatch.from_arrays(columns, schema=LIVE), hashes)

    def close(self) -> Iterator[dict[bytes, bytes]]:
        """Give each bucket's."""
        if self._spill is None:
            yield self._held
            return
        for batches in self._spill.close():
            found: dict[bytes, bytes] = {}
            for batch in batches:
                found.update(zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True))
            yield found


def _leaving(reading: Reading, settled: PartitionData, now: PartitionData) -> tuple[int | None, int | None]:
    """Say up to when customers must have left, and up to when they may have, by the times at which they leave."""
    if reading.retention_ms is None:
        return None, None
    return settled.settled if settled.model else None, now.watermark


def _fold(reading: Reading, profiles: Profiles, batch: pa.RecordBatch, since: int) -> set[int]:
    """Fold a batch; gives the numbers of those who have an event from offset `since` on."""
    taken = take(reading, batch)
    if not len(taken.record):
        return set()
    number = profiles.fold(taken)
    return set(np.unique(number[taken.rows.slot[taken.rows.offset >= since]]).tolist())


def _cut_apart(packed: Packed, rows: I64) -> list[tuple[bytes, bytes]]:
    """Give some customers and their profiles."""
    ids, values = packed.ids.tobytes(), packed.values.tobytes()
    begins = (packed.id_bounds[rows], packed.id_bounds[rows + 1], packed.bounds[rows], packed.bounds[rows + 1])
    return [(ids[a:b], values[c:d]) for a, b, c, d in zip(*(column.tolist() for column in begins), strict=True)]


def _laid(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    """Lay a batch out in the types of `SCHEMA`, wherever it came from."""
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    found = [batch.column(name) for name in columns]
    return pa.RecordBatch.from_arrays(
        [one if one.type == wanted.type else one.cast(wanted.type) for one, wanted in zip(found, schema, strict=True)], schema=schema
    )
