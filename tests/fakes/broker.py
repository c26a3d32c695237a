"""An in-memory Kafka: topics, groups and committed positions as one copyable value, and the ports over it.

Nothing moves by itself: a member takes part in rebalances when it fetches, and time is `now_ms`. A partition that another member is to have
is given to it only when its owner has fetched once more and so given it up, or has been expelled, as in cooperative rebalancing.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from streamer.core.columns import Fetched
from streamer.core.errors import Unavailable
from streamer.core.ports import Committed, LogRecord, OffsetOutOfRange, Rebalanced

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.core.columns import Headers
    from streamer.core.errors import StreamerError
    from streamer.core.ports import OutRecord, Topic


@dataclass
class FakePartitionLog:
    """One partition: its records in offset order, with gaps where a test makes them, and the offsets it begins and ends at."""

    records: list[LogRecord] = field(default_factory=list)
    first: int = 0
    high: int = 0


@dataclass
class FakeGroup:
    """One consumer group over one topic: who is in it, who has what, who is to have what."""

    members: list[str] = field(default_factory=list)
    owners: dict[int, str] = field(default_factory=dict)
    target: dict[int, str] = field(default_factory=dict)
    committed: dict[int, Committed] = field(default_factory=dict)


@dataclass
class FakeBroker:
    """Copy it with `copy.deepcopy`. While `down`, every call raises `Unavailable`."""

    topics: dict[str, list[FakePartitionLog]] = field(default_factory=dict)
    groups: dict[str, FakeGroup] = field(default_factory=dict)
    now_ms: int = 0
    down: bool = False

    def reached(self) -> None:
        if self.down:
            message = "the fake broker is down"
            raise Unavailable(message)

    def create(self, topic: str, partitions: int) -> None:
        self.topics[topic] = [FakePartitionLog() for _ in range(partitions)]

    def append(
        self, topic: str, partition: int | None, key: bytes | None, value: bytes | None, headers: Headers = (), timestamp: int | None = None
    ) -> int:
        """Append a record and return its offset; without a partition the key decides."""
        logs = self.topics[topic]
        log = logs[zlib.crc32(key or b"") % len(logs) if partition is None else partition]
        log.records.append(LogRecord(log.high, self.now_ms if timestamp is None else timestamp, key, value, headers))
        log.high += 1
        return log.high - 1

    def skip(self, topic: str, partition: int, offsets: int) -> None:
        """Leave a gap, as the end of a transaction does."""
        self.topics[topic][partition].high += offsets

    def expire(self, topic: str, partition: int, first: int) -> None:
        """Delete what is below `first`, as retention does."""
        log = self.topics[topic][partition]
        log.records = [record for record in log.records if record.offset >= first]
        log.first = max(log.first, first)
        log.high = max(log.high, first)

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
            found = [record for record in log.records if record.offset >= self._next[partition]][: records_max - len(taken)]
            taken += [(partition, record) for record in found]
            if found:
                self._next[partition] = found[-1].offset + 1
        self._turn += 1
        if self._deferred and not taken:
            raise self._deferred.pop(0)
        return _fetched(taken)

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

    def committed(self, partitions: Sequence[int]) -> dict[int, Committed]:
        self.broker.reached()
        held = self.broker.groups[self._group].committed
        return {partition: held[partition] for partition in partitions if partition in held}

    def commit(self, positions: Mapping[int, Committed]) -> None:
        self.broker.reached()
        held = self.broker.groups[self._group]
        if self.member in held.members:  # a commit that a rebalance overtook is dropped
            held.committed |= positions

    def bounds(self, partition: int) -> tuple[int, int]:
        self.broker.reached()
        log = self.broker.topics[self._topic][partition]
        return log.first, log.high

    def end(self, partition: int) -> int | None:
        return self.broker.topics[self._topic][partition].high if partition in self._next else None

    def close(self) -> None:
        self.broker.leave(self._group, self.member, self._partitions)
        self._next.clear()
        self._mine.clear()

    def _take_part(self) -> None:
        held = self.broker.groups[self._group]
        if self.member not in held.members:
            self._forget(sorted(self._mine), self._lost)
            self.broker.join(self._group, self.member, self._partitions)
        given_up = sorted(partition for partition in self._mine if held.target[partition] != self.member)
        self._forget(given_up, self._revoked)
        for partition in given_up:
            del held.owners[partition]
        for partition, member in sorted(held.target.items()):
            if member == self.member and partition not in held.owners:
                held.owners[partition] = member
                self._mine.add(partition)
                self._assigned.append(partition)

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

    def read(self, topic: Topic, partition: int, first: int, timeout_s: float) -> list[LogRecord]:  # noqa: ARG002
        self.broker.reached()
        return [record for record in self.broker.topics[self._topics[topic]][partition].records if record.offset >= first]


def _fetched(taken: Sequence[tuple[int, LogRecord]]) -> Fetched:
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
