"""An in-memory Kafka: topics, groups, transactions and committed positions as one copyable value, and the ports over it.

Nothing moves by itself: a member takes part in rebalances when it fetches, and time is `now_ms`. A partition that another member is to have
is given to it only when its owner has fetched once more and so given it up, or has been expelled, as in cooperative rebalancing.

A transaction that is decided leaves a marker in every partition it wrote to, and one where the group's positions are kept. They arrive one
by one; until one has, its partition's records (its group's positions) are as those of an open transaction. `arrival` says when:

- `at once`: with the decision.
- `waited for`: when a call waits for them, or `arrive` is called.
- `held`: only when `arrive` is called; a call that waits for them fails as it does when its time is over.
"""

from __future__ import annotations

import logging
import zlib
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from streamer.core.columns import Fetched
from streamer.core.errors import Unavailable
from streamer.core.ports import Committed, LogRecord, MustAbort, OffsetOutOfRange, Rebalanced

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streamer.core.columns import Headers
    from streamer.core.errors import StreamerError
    from streamer.core.ports import OutRecord, Topic

LOG = logging.getLogger("tests.fakes.broker")
TRANSACTION_TIMEOUT_MS = 10_000
_offset = attrgetter("offset")


class Fenced(Exception):  # noqa: N818
    """The broker knows a later epoch of the transactional id: another client has taken it, or the transaction was timed out."""


class FakeMembership(NamedTuple):
    """What a member was in its group at one moment; a generation of -1 is none."""

    group: str
    member: str
    generation: int


class Marker(NamedTuple):
    """What the end of a transaction has still to tell: a partition of a topic, or (partition -1) a group's positions."""

    producer: str
    name: str
    partition: int


@dataclass
class FakePartitionLog:
    """One partition: its records in offset order, with gaps where transactions ended and a test makes them, and its bounds.

    `records` holds those of open transactions too, which `open` names by their transactional ids; nobody can read `aborted` ones.
    """

    records: list[LogRecord] = field(default_factory=list)
    first: int = 0
    high: int = 0
    open: dict[str, list[int]] = field(default_factory=dict)
    aborted: list[LogRecord] = field(default_factory=list)

    def __deepcopy__(self, memo: dict[int, Any]) -> FakePartitionLog:
        """Copy what can change; records can't."""
        opened = {producer: [*offsets] for producer, offsets in self.open.items()}
        return replace(self, records=[*self.records], open=opened, aborted=[*self.aborted])

    @property
    def stable(self) -> int:
        """The last stable offset: a committed reader sees nothing at or above it."""
        return min((offsets[0] for offsets in self.open.values()), default=self.high)

    def committed(self, first: int = 0, end: int | None = None, count: int | None = None) -> list[LogRecord]:
        """Give what a committed reader sees from `first` to before `end`, at most `count`."""
        stable = self.stable
        if first >= stable:
            return []
        begin = bisect_left(self.records, first, key=_offset)
        last = bisect_left(self.records, stable if end is None else min(end, stable), begin, key=_offset)
        return self.records[begin : last if count is None else min(last, begin + count)]

    def append(self, record: tuple[bytes | None, bytes | None, Headers], timestamp: int, producer: str | None = None) -> int:
        """Append a record, of a producer's transaction or of none."""
        key, value, headers = record
        offset = self.high
        self.records.append(LogRecord(offset, timestamp, key, value, headers))
        if producer is not None:
            self.open.setdefault(producer, []).append(offset)
        self.high = offset + 1
        return offset

    def ended(self, producer: str, *, committed: bool) -> None:
        """Take a marker."""
        offsets = self.open.pop(producer, [])
        if offsets and not committed:
            begin, gone = bisect_left(self.records, offsets[0], key=_offset), {*offsets}
            tail = self.records[begin:]
            self.aborted += [record for record in tail if record.offset in gone]
            self.records[begin:] = [record for record in tail if record.offset not in gone]
        self.high += 1


@dataclass
class FakeGroup:
    """One consumer group over one topic: who is in it, who has what, who is to have what, which positions are committed or pending."""

    members: list[str] = field(default_factory=list)
    owners: dict[int, str] = field(default_factory=dict)
    target: dict[int, str] = field(default_factory=dict)
    committed: dict[int, Committed] = field(default_factory=dict)
    generation: int = 0
    pending: dict[str, dict[int, tuple[int, Committed]]] = field(default_factory=dict)
    written: int = 0
    order: dict[int, int] = field(default_factory=dict)

    def write(self, positions: Mapping[int, Committed], producer: str | None = None) -> None:
        """Take positions, of a producer's transaction or of none; of two, the one written later wins, whichever is committed later."""
        self.written += 1
        if producer is not None:
            self.pending.setdefault(producer, {}).update({partition: (self.written, at) for partition, at in positions.items()})
            return
        self.committed |= positions
        self.order |= dict.fromkeys(positions, self.written)

    def ended(self, producer: str, *, committed: bool) -> None:
        """Take a marker."""
        for partition, (written, at) in self.pending.pop(producer, {}).items():
            if committed and written > self.order.get(partition, 0):
                self.committed[partition] = at
                self.order[partition] = written


@dataclass
class FakeProducer:
    """What the broker knows of a transactional id. `outcome` is None while its transaction is not decided; `markers` have not arrived."""

    epoch: int = 0
    began_ms: int | None = None
    outcome: bool | None = None
    wrote: list[Marker] = field(default_factory=list)
    markers: list[Marker] = field(default_factory=list)


@dataclass
class FakeBroker:
    """Copy it with `copy.deepcopy`. While `down`, every call raises `Unavailable`."""

    topics: dict[str, list[FakePartitionLog]] = field(default_factory=dict)
    groups: dict[str, FakeGroup] = field(default_factory=dict)
    producers: dict[str, FakeProducer] = field(default_factory=dict)
    now_ms: int = 0
    down: bool = False
    arrival: Literal["at once", "waited for", "held"] = "at once"

    def reached(self) -> None:
        """Begin any call: a broker that is up has ended the transactions whose time is over."""
        if self.down:
            message = "the fake broker is down"
            raise Unavailable(message)
        for name, producer in self.producers.items():
            if producer.began_ms is not None and producer.outcome is None and self.now_ms - producer.began_ms >= TRANSACTION_TIMEOUT_MS:
                producer.epoch += 1
                self._decide(name, committed=False)

    def create(self, topic: str, partitions: int) -> None:
        self.topics[topic] = [FakePartitionLog() for _ in range(partitions)]

    def append(
        self, topic: str, partition: int | None, key: bytes | None, value: bytes | None, headers: Headers = (), timestamp: int | None = None
    ) -> int:
        """Append a record and return its offset; without a partition the key decides."""
        log = self.topics[topic][self._place(topic, partition, key)]
        return log.append((key, value, headers), self.now_ms if timestamp is None else timestamp)

    def _place(self, topic: str, partition: int | None, key: bytes | None) -> int:
        return zlib.crc32(key or b"") % len(self.topics[topic]) if partition is None else partition

    def skip(self, topic: str, partition: int, offsets: int) -> None:
        """Leave a gap, as the end of a transaction does."""
        self.topics[topic][partition].high += offsets

    def expire(self, topic: str, partition: int, first: int) -> None:
        """Delete what is below `first`, as retention does."""
        log = self.topics[topic][partition]
        log.records = [record for record in log.records if record.offset >= first]
        log.first = max(log.first, first)
        log.high = max(log.high, first)

    # Transactions

    def take(self, name: str) -> int:
        """Give a transactional id to a client: end the transaction of the one before, and fence that one."""
        self.reached()
        producer = self.producers.setdefault(name, FakeProducer())
        if producer.began_ms is not None and producer.outcome is None:
            producer.epoch += 1
            self._decide(name, committed=False)
        self.wait_for(producer.markers)
        producer.epoch += 1
        return producer.epoch

    def write(self, name: str, epoch: int, topic: str, record: OutRecord) -> None:
        """Append a record of a transaction."""
        self._opened(name, epoch)
        partition = self._place(topic, record.partition, record.key)
        self._wrote(name, Marker(name, topic, partition))
        self.topics[topic][partition].append((record.key, record.value, record.headers), self.now_ms, name)

    def write_positions(self, name: str, epoch: int, positions: Mapping[int, Committed], membership: FakeMembership) -> None:
        """Make positions part of a transaction. Who owns the partitions is not asked: the generation is all that the broker looks at."""
        self._opened(name, epoch)
        self._wrote(name, Marker(name, membership.group, -1))
        group = self.groups[membership.group]
        if membership.member not in group.members or membership.generation != group.generation:
            message = f"{membership} is out of date in generation {group.generation} of {group.members}"
            raise MustAbort(message)
        group.write(positions, name)

    def finish(self, name: str, epoch: int, *, committed: bool) -> None:
        """Decide a transaction; nothing has been written where it isn't open."""
        self.reached()
        producer = self.producers[name]
        if producer.epoch != epoch:
            raise Fenced(name)
        if producer.began_ms is not None and producer.outcome is None:
            self._decide(name, committed=committed)

    def wait_for(self, markers: Sequence[Marker]) -> None:
        """Wait until these have arrived. Raises `Unavailable` where they don't."""
        if markers and self.arrival == "held":
            message = f"timed out waiting for {markers}"
            raise Unavailable(message)
        for marker in [*markers]:
            self.arrive(marker)

    def under_way(self) -> list[Marker]:
        """Tell which markers have not arrived."""
        return [marker for producer in self.producers.values() for marker in producer.markers]

    def arrive(self, marker: Marker) -> None:
        """Let a marker arrive."""
        producer = self.producers[marker.producer]
        producer.markers.remove(marker)
        where = self.groups[marker.name] if marker.partition < 0 else self.topics[marker.name][marker.partition]
        where.ended(marker.producer, committed=bool(producer.outcome))
        if not producer.markers:
            producer.began_ms = producer.outcome = None

    def _opened(self, name: str, epoch: int) -> None:
        """Begin the transaction with its first write, once the one before has all its markers."""
        self.reached()
        producer = self.producers[name]
        if producer.epoch != epoch:
            raise Fenced(name)
        if producer.outcome is not None:
            self.wait_for(producer.markers)
        if producer.began_ms is None:
            producer.began_ms = self.now_ms

    def _wrote(self, name: str, marker: Marker) -> None:
        wrote = self.producers[name].wrote
        if marker not in wrote:
            wrote.append(marker)

    def _decide(self, name: str, *, committed: bool) -> None:
        producer = self.producers[name]
        producer.outcome = committed
        producer.markers, producer.wrote = producer.wrote, []
        if not producer.markers:
            producer.began_ms = producer.outcome = None
        elif self.arrival == "at once":
            self.wait_for(producer.markers)

    # Groups

    def join(self, group: str, member: str, partitions: int) -> None:
        self.groups.setdefault(group, FakeGroup()).members.append(member)
        self._share_out(group, partitions)

    def leave(self, group: str, member: str, partitions: int) -> None:
        """Take a member out at once: it left, or its session ended and it doesn't know yet."""
        held = self.groups[group]
        if member in held.members:
            held.members.remove(member)
        held.owners = {partition: owner for partition, owner in held.owners.items() if owner != member}
        self._share_out(group, partitions)

    def _share_out(self, group: str, partitions: int) -> None:
        """Share out evenly, leaving with each member what it has or was to have."""
        held = self.groups[group]
        held.generation += 1
        if not held.members:
            held.target = {}
            return
        share, more = divmod(partitions, len(held.members))
        room = {member: share + (i < more) for i, member in enumerate(held.members)}
        target: dict[int, str] = {}
        for partition in range(partitions):
            member = held.owners.get(partition, held.target.get(partition, ""))
            if room.get(member, 0) > 0:
                target[partition] = member
                room[member] -= 1
        for partition in range(partitions):
            if partition not in target:
                member = max(held.members, key=lambda name: room[name])
                target[partition] = member
                room[member] -= 1
        held.target = target


class FakeEventLog:
    """One member of a group of a `FakeBroker`."""

    def __init__(self, broker: FakeBroker, topic: str, group: str, member: str) -> None:
        self.broker = broker
        self.member = member
        self._topic = topic
        self._group = group
        self._mine: set[int] = set()
        self._next: dict[int, int] = {}
        self._turn = 0
        self._assigned: list[int] = []
        self._revoked: list[int] = []
        self._lost: list[int] = []
        self._deferred: list[StreamerError] = []
        self._before_revoked: Callable[[Sequence[int]], None] | None = None
        self._membership = FakeMembership(group, member, -1)
        broker.join(group, member, self._partitions)

    @property
    def _partitions(self) -> int:
        return len(self.broker.topics[self._topic])

    def fetch(self, records_max: int, wait_s: float, gather_s: float) -> Fetched:  # noqa: ARG002  # nothing arrives while it waits
        self.broker.reached()
        if self._deferred:
            raise self._deferred.pop(0)
        self._take_part()
        taken: list[tuple[int, LogRecord]] = []
        order = sorted(self._next)
        for partition in order[self._turn % max(len(order), 1) :] + order[: self._turn % max(len(order), 1)]:
            log = self.broker.topics[self._topic][partition]
            if not log.first <= self._next[partition] <= log.high:
                self._deferred.append(OffsetOutOfRange(partition, self._next.pop(partition)))
                continue
            found = log.committed(self._next[partition], None, records_max - len(taken))
            taken += [(partition, record) for record in found]
            if found:
                self._next[partition] = found[-1].offset + 1
        self._turn += 1
        if self._deferred and not taken:
            raise self._deferred.pop(0)
        return as_fetched(taken)

    def rebalanced(self) -> Rebalanced:
        told = Rebalanced(tuple(self._assigned), tuple(self._revoked), tuple(self._lost))
        self._assigned, self._revoked, self._lost = [], [], []
        return told

    def start(self, partition: int, offset: int) -> None:
        self.broker.reached()
        if partition not in self._mine:
            message = f"{self._topic}[{partition}] is not assigned here"
            raise Unavailable(message)
        self._next[partition] = offset

    def pause(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._next.pop(partition, None)

    def before_revoked(self, call: Callable[[Sequence[int]], None]) -> None:
        self._before_revoked = call

    def membership(self) -> FakeMembership:
        return self._membership

    def committed(self, partitions: Sequence[int]) -> dict[int, Committed]:
        self.broker.reached()
        held = self.broker.groups[self._group]
        for producer in [name for name, pending in held.pending.items() if not pending.keys().isdisjoint(partitions)]:
            due = [marker for marker in self.broker.producers[producer].markers if marker.partition < 0 and marker.name == self._group]
            if not due:
                message = f"timed out waiting for the transaction of {producer} to end"
                raise Unavailable(message)
            self.broker.wait_for(due)
        return {partition: held.committed[partition] for partition in partitions if partition in held.committed}

    def commit(self, positions: Mapping[int, Committed], *, wait: bool = False) -> None:
        self.broker.reached()
        held = self.broker.groups[self._group]
        if self.member in held.members:
            held.write(positions)
        elif wait:  # else one that a rebalance overtook is dropped
            message = f"{self.member} is not in the group any more"
            raise Unavailable(message)

    def bounds(self, partition: int) -> tuple[int, int]:
        self.broker.reached()
        log = self.broker.topics[self._topic][partition]
        return log.first, log.high

    def end(self, partition: int) -> int | None:
        if partition not in self._next:
            return None
        log, position = self.broker.topics[self._topic][partition], self._next[partition]
        return position if not log.open and not log.committed(position) else log.high

    def close(self) -> None:
        self._tell(sorted(self._mine))
        self.broker.leave(self._group, self.member, self._partitions)
        self._next.clear()
        self._mine.clear()

    def _take_part(self) -> None:
        held = self.broker.groups[self._group]
        if self.member not in held.members:
            self._forget(sorted(self._mine), self._lost)
            self.broker.join(self._group, self.member, self._partitions)
        self._membership = FakeMembership(self._group, self.member, held.generation)
        given_up = sorted(partition for partition in self._mine if held.target[partition] != self.member)
        self._tell(given_up)
        self._forget(given_up, self._revoked)
        for partition in given_up:
            if held.owners.get(partition) == self.member:  # it may have been expelled meanwhile
                del held.owners[partition]
        held.generation += bool(given_up)  # what was given up is shared out in a rebalance of its own
        for partition, member in sorted(held.target.items()):
            if member == self.member and partition not in held.owners:
                held.owners[partition] = member
                self._mine.add(partition)
                self._assigned.append(partition)
        self._membership = FakeMembership(self._group, self.member, held.generation)

    def _tell(self, partitions: Sequence[int]) -> None:
        if self._before_revoked is not None and partitions:
            try:
                self._before_revoked(partitions)
            except Exception:
                LOG.exception("what is done before partitions are revoked failed")

    def _forget(self, partitions: Sequence[int], into: list[int]) -> None:
        for partition in partitions:
            self._mine.discard(partition)
            self._next.pop(partition, None)
            if partition in self._assigned:
                self._assigned.remove(partition)
            if partition not in into:
                into.append(partition)


class FakePublisher:
    """A producer to a `FakeBroker`; records arrive when they are waited for."""

    def __init__(self, broker: FakeBroker, topics: Mapping[Topic, str]) -> None:
        self.broker = broker
        self._topics = dict(topics)
        self.queued: list[OutRecord] = []

    def send(self, records: Sequence[OutRecord]) -> None:
        self.queued += records

    def wait(self, timeout_s: float) -> None:  # noqa: ARG002  # a fake broker answers at once or not at all
        queued, self.queued = self.queued, []
        if queued:
            self.broker.reached()
        for record in queued:
            self.broker.append(self._topics[record.topic], record.partition, record.key, record.value, record.headers)

    def close(self) -> None:
        self.queued = []


class FakeTopicReader:
    """Reads a `FakeBroker`'s topics."""

    def __init__(self, broker: FakeBroker, topics: Mapping[Topic, str]) -> None:
        self.broker = broker
        self._topics = dict(topics)

    def bounds(self, topic: Topic, partition: int) -> tuple[int, int]:
        self.broker.reached()
        log = self.broker.topics[self._topics[topic]][partition]
        return log.first, log.high

    def read(self, topic: Topic, partition: int, first: int, timeout_s: float, end: int | None = None) -> list[LogRecord]:  # noqa: ARG002
        self.broker.reached()
        name = self._topics[topic]
        log = self.broker.topics[name][partition]
        end = log.high if end is None else min(end, log.high)
        if first < end and log.stable < end:
            decided = [self.broker.producers[producer] for producer, offsets in log.open.items() if offsets[0] < end]
            self.broker.wait_for([marker for producer in decided for marker in producer.markers if marker[1:] == (name, partition)])
        if first < end and log.stable < end:
            message = f"{name}[{partition}] could not be read to {end}: a transaction is open at {log.stable}"
            raise Unavailable(message)
        return log.committed(first, end)


def as_fetched(taken: Sequence[tuple[int, LogRecord]]) -> Fetched:
    """Lay records, each with its partition, out as columns."""
    records = [record for _, record in taken]
    values = [record.value or b"" for record in records]
    return Fetched(
        partition=np.array([partition for partition, _ in taken], np.int32),
        offset=np.array([record.offset for record in records], np.int64),
        timestamp=np.array([record.timestamp for record in records], np.int64),
        values=b"".join(values),
        bounds=np.cumsum([0, *map(len, values)], dtype=np.int64),
        empty=np.array([record.value is None for record in records], np.bool_),
        keys=tuple(record.key for record in records),
        headers={i: record.headers for i, record in enumerate(records) if record.headers},
    )
