"""`EventLog` on a Kafka consumer group.

Law: `fetch` gives records of started partitions only, of each exactly those from the offset that it was started at, in order, without
repeating any. It holds whatever was prefetched before: `seek` makes the client discard it, and what comes out is checked against the
position that we keep.

Cost, measured on 2 shared cores with records of 120 bytes (orders of magnitude): turning messages into columns takes 0.4 us of CPU a record
(0.1 of it the timestamps, which the client gives in tuples); with fetching, the client's threads included, 1.8. An idle log takes 0.5 % of
a core.
"""

from __future__ import annotations

import time
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streamer.adapters.kafka.client import CALL_S_MAX, LOG, POLL_S, Watch, configuration, error_of, explain, made, retried
from streamer.adapters.kafka.headers import headers_of_all
from streamer.adapters.kafka.offsets import Watermarks
from streamer.core.columns import Fetched
from streamer.core.errors import Misconfigured, Unavailable
from streamer.core.ports import Committed, OffsetOutOfRange, Rebalanced

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streamer.adapters.kafka.client import KafkaSettings
    from streamer.core.columns import I64
    from streamer.core.errors import StreamerError

NEVER = np.iinfo(np.int64).max
"""The position of a partition that is not started: no offset reaches it."""
NO_MEMBER = b""
"""The membership of one who isn't in the group: the broker would let a stranger commit while a group is empty."""
SEEK_S = 1.0
"""A partition just assigned can't be sought for a moment."""
COMMIT_S_MAX = 10.0
"""How long to wait for a commit: the group waits with us where partitions are given up."""

_DEFAULTS = {
    "fetch.queue.backoff.ms": 10,  # the default of a second leaves a partition without records once its queue was full
    "fetch.wait.max.ms": 100,  # a resumed partition waits for the fetch that is under way
    "queued.max.messages.kbytes": 32_768,  # bounds the memory of what is prefetched
    "queued.min.messages": 20_000,
    "fetch.max.bytes": 16 << 20,
    "allow.auto.create.topics": False,
}
_FIXED = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "isolation.level": "read_committed",
    "auto.offset.reset": "error",
    "enable.partition.eof": True,  # tells that all before an offset was delivered: it may be the mark of a transaction alone
}
_OUT_OF_RANGE = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)  # noqa: SLF001  # librdkafka's own codes begin so
_HARMLESS = (KafkaError._MAX_POLL_EXCEEDED,)  # noqa: SLF001
_STALE_COMMIT = (
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    113,  # STALE_MEMBER_EPOCH, which the stubs lack
    KafkaError._NO_OFFSET,  # noqa: SLF001
)

_second = itemgetter(1)


class KafkaEventLog:
    """The input topic, as one member of a consumer group; one thread owns it."""

    def __init__(self, settings: KafkaSettings, topic: str, group: str, *, instance_id: str | None = None) -> None:
        """Join the group; assignments come with later fetches.

        Args:
            settings: the brokers, and properties for the consumer.
            topic: the input topic.
            group: the consumer group.
            instance_id: makes the member static: it can restart within the session time-out without a rebalance.

        Raises:
            Misconfigured: a property is unknown, or contradicts a guarantee.

        """
        what = f"the input topic {topic}"
        self._topic = topic
        self._timeout_s = settings.timeout_s
        self._watch = Watch(what)
        self._watermarks = Watermarks(settings)
        self._floor = np.full(64, NEVER, np.int64)
        self._assigned: list[int] = []
        self._revoked: list[int] = []
        self._lost: list[int] = []
        self._deferred: list[StreamerError] = []
        self._mine: set[int] = set()
        self._stuck: set[int] = set()
        self._delivered: dict[int, int] = {}  # the offset below which everything was, where the end was reached
        self._commit_error: KafkaError | None = None
        self._before_revoked: Callable[[Sequence[int]], None] | None = None
        fixed = {**_FIXED, "group.id": group, **_assignor(settings)}
        if instance_id is not None:
            fixed["group.instance.id"] = instance_id
        config = configuration(settings, defaults=_DEFAULTS, fixed=fixed)
        config |= {"on_commit": self._on_commit, **self._watch.callbacks()}
        self._consumer: Any = made(Consumer, config)
        self._stranger: bytes = self._consumer.consumer_group_metadata()
        self._membership = NO_MEMBER
        self._consumer.subscribe([topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    def fetch(self, records_max: int, wait_s: float, gather_s: float) -> Fetched:
        """Take what is there; where nothing is, wait up to `wait_s` for a record, and take what comes within `gather_s` with it."""
        if self._deferred:
            raise self._deferred.pop(0)
        try:
            messages = self._take(records_max, wait_s, gather_s)
        finally:
            self._learn_membership()
        if any(map(Message.error, messages)):
            messages = self._without_errors(messages)
        count = len(messages)
        partitions = np.fromiter(map(Message.partition, messages), np.int32, count)
        offsets = np.fromiter(map(Message.offset, messages), np.int64, count)
        wanted = offsets >= self._floor[partitions] if count else np.ones(0, np.bool_)
        if not wanted.all():
            messages = [message for message, keep in zip(messages, wanted.tolist(), strict=True) if keep]
            partitions, offsets = partitions[wanted], offsets[wanted]
        self._floor[partitions] = offsets + 1  # of equal indices the last is kept
        if not messages:
            if self._deferred:
                raise self._deferred.pop(0)
            self._watch.check()
        return _columns(messages, partitions, offsets)

    def rebalanced(self) -> Rebalanced:
        """Tell, and forget, what the group did, as of the last fetch."""
        told = Rebalanced(tuple(self._assigned), tuple(self._revoked), tuple(self._lost))
        self._assigned, self._revoked, self._lost = [], [], []
        return told

    def start(self, partition: int, offset: int) -> None:
        """Deliver the partition's records from exactly this offset on.

        Raises:
            Unavailable: the partition is not assigned, or not yet.

        """
        if partition not in self._mine:
            message = f"{self._topic}[{partition}] is not assigned here"
            raise Unavailable(message)
        where = TopicPartition(self._topic, partition, offset)
        self._floor[partition] = NEVER
        try:
            if partition in self._stuck or not self._sought(where):
                # After an offset that is out of range a partition can't be sought any more.
                self._consumer.incremental_unassign([where])
                self._consumer.incremental_assign([where])
                self._stuck.discard(partition)
            self._consumer.resume([where])
        except KafkaException as error:
            raise explain(error_of(error), f"starting {self._topic}[{partition}]") from error
        self._floor[partition] = offset
        self._delivered.pop(partition, None)

    def pause(self, partitions: Sequence[int]) -> None:
        """Deliver nothing from these until `start`."""
        for partition in partitions:
            self._reach(partition)
            self._floor[partition] = NEVER
        try:
            self._consumer.pause([TopicPartition(self._topic, partition) for partition in partitions])
        except KafkaException as error:  # what isn't assigned delivers nothing anyway
            LOG.debug("pausing %s%s: %s", self._topic, list(partitions), error_of(error).str())

    def before_revoked(self, call: Callable[[Sequence[int]], None]) -> None:
        """Have `call` called, within `fetch` or `close`, while partitions about to be revoked are still owned; what it raises is logged."""
        self._before_revoked = call

    def membership(self) -> bytes:
        """Give what this member was in the group as of the last `fetch`, or is while partitions are about to be revoked."""
        return self._membership

    def committed(self, partitions: Sequence[int]) -> dict[int, Committed]:
        """Read the group's stable positions; waits for transactions of a predecessor to end.

        Raises:
            Unavailable: not within the time-out of the settings.

        """
        return self._committed(partitions, self._timeout_s)

    def _committed(self, partitions: Sequence[int], timeout_s: float) -> dict[int, Committed]:
        asked = [TopicPartition(self._topic, partition) for partition in partitions]
        what = f"the committed offsets of {self._topic}"
        answers = retried(what, timeout_s, lambda left: self._consumer.committed(asked, timeout=min(left, CALL_S_MAX)))
        for answer in answers:
            if answer.error is not None:
                raise explain(answer.error, what)
        return {answer.partition: Committed(answer.offset, answer.metadata or "") for answer in answers if answer.offset >= 0}

    def commit(self, positions: Mapping[int, Committed], *, wait: bool = False) -> None:
        """Send positions with their commit ids on their way; with `wait`, return when they are committed.

        Raises:
            Unavailable: this commit failed, or, without `wait`, an earlier one. Where it isn't waited for, one that a rebalance overtook is
                no failure: who has the records now reads them again.

        """
        what = f"committing offsets of {self._topic}"
        error, self._commit_error = self._commit_error, None
        if error is not None and not wait:
            raise explain(error, what)
        offsets = [TopicPartition(self._topic, p, at.next_offset, metadata=at.commit_id) for p, at in positions.items()]
        if not offsets:
            return
        try:
            if wait:
                self._commit_and_wait(positions, offsets, what)
            else:
                self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as failed:
            raise explain(error_of(failed), what) from failed

    def bounds(self, partition: int) -> tuple[int, int]:
        """Read the partition's first offset and high watermark, whatever transactions are open."""
        return self._watermarks.of(self._topic, partition)

    def end(self, partition: int) -> int | None:
        """Give the high watermark that came with the partition's latest records, without asking; None before there was one.

        Where nothing but marks of transactions is left below it, it is the position.
        """
        try:
            _, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
        except KafkaException:
            return None
        if high >= 0 and self._delivered.get(partition, -1) >= high and self._floor[partition] != NEVER:
            return int(self._floor[partition])
        return None if high < 0 else int(high)

    def close(self) -> None:
        """Leave the group once the commits under way are answered (a static member stays in it)."""
        self._tell(sorted(self._mine))
        self._before_revoked = None
        self._watermarks.close()
        self._consumer.close()

    def _commit_and_wait(self, positions: Mapping[int, Committed], offsets: list[TopicPartition], what: str) -> None:
        """Commit, and read back what is committed: the broker answers a connection's requests in order, so the first answer tells.

        The client's own way to wait can't be bounded while its broker hangs; called in another thread, it returns only after the callback
        in which partitions are given up, when it is too late.
        """
        self._consumer.commit(offsets=offsets, asynchronous=True)
        deadline = time.monotonic() + min(self._timeout_s, COMMIT_S_MAX)
        while True:
            found = self._committed(list(positions), max(deadline - time.monotonic(), 0.001))
            if found.items() >= positions.items():
                return
            if time.monotonic() + POLL_S >= deadline:
                message = f"{what}: they are not what was to be committed"
                raise Unavailable(message)
            time.sleep(POLL_S)

    def _take(self, records_max: int, wait_s: float, gather_s: float) -> list[Message]:
        try:
            # What is there came while the last batch was worked on, and has waited enough. `consume` waits its whole time unless it gets
            # all that it may.
            messages: list[Message] = self._consumer.consume(records_max, 0)
            if messages:
                return messages
            first = self._consumer.poll(wait_s)
            if first is None:
                return []
            messages = [first]
            if records_max > 1:
                messages += self._consumer.consume(records_max - 1, gather_s)
        except KafkaException as error:
            raise explain(error_of(error), self._watch.what) from error
        return messages

    def _without_errors(self, messages: list[Message]) -> list[Message]:
        for message in messages:
            error = message.error()
            if error is None:
                continue
            partition = message.partition()
            if error.code() in _OUT_OF_RANGE and partition is not None and partition >= 0:
                self._stuck.add(partition)
                self._reach(partition)
                if self._floor[partition] != NEVER:
                    self._deferred.append(OffsetOutOfRange(partition, int(self._floor[partition])))
                    self._floor[partition] = NEVER
            elif error.code() == KafkaError._PARTITION_EOF and partition is not None:  # noqa: SLF001
                self._delivered[partition] = message.offset() or 0
            elif error.code() in _HARMLESS:
                LOG.warning("%s: %s", self._watch.what, error.str())
            else:
                self._deferred.append(explain(error, self._watch.what))
        return [message for message in messages if message.error() is None]

    def _sought(self, where: TopicPartition) -> bool:
        deadline = time.monotonic() + SEEK_S
        while True:
            try:
                self._consumer.seek(where)
            except KafkaException:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(0.005)
            else:
                return True

    def _reach(self, partition: int) -> None:
        if partition >= len(self._floor):
            self._floor = np.concatenate([self._floor, np.full(partition + 1, NEVER, np.int64)])

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Any absolute offset does until `start`: with a logical one the client would look for a committed offset.
        mine = [TopicPartition(self._topic, where.partition, 0) for where in partitions]
        consumer.incremental_assign(mine)
        consumer.pause(mine)
        for where in mine:
            self._reach(where.partition)
            self._floor[where.partition] = NEVER
            self._mine.add(where.partition)
            self._stuck.discard(where.partition)
            self._assigned.append(where.partition)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._learn_membership()
        self._tell([where.partition for where in partitions])
        self._forget(partitions, self._revoked)
        consumer.incremental_unassign(partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._forget(partitions, self._lost)
        consumer.incremental_unassign(partitions)

    def _learn_membership(self) -> None:
        """Keep what we are in the group, as a callback or a poll ends; never when it is used, when the client's threads may be further on.

        Nobody else has a partition of ours in a generation that the client can be in before we gave it up.
        """
        try:
            metadata = self._consumer.consumer_group_metadata()
        except RuntimeError:  # a client that is closing knows of no group any more, and what a callback raises would end the process
            metadata = self._stranger
        self._membership = NO_MEMBER if metadata == self._stranger else metadata

    def _tell(self, partitions: Sequence[int]) -> None:
        if self._before_revoked is None or not partitions:
            return
        try:
            self._before_revoked(partitions)
        except Exception:  # noqa: BLE001  # it would be raised through the client, which then gives up nothing
            LOG.exception("%s: what is done before partitions are revoked failed", self._watch.what)

    def _forget(self, partitions: list[TopicPartition], into: list[int]) -> None:
        for where in partitions:
            self._reach(where.partition)
            self._floor[where.partition] = NEVER
            self._mine.discard(where.partition)
            if where.partition in self._assigned:
                self._assigned.remove(where.partition)
            if where.partition not in into:
                into.append(where.partition)

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        for failed in (error, *(where.error for where in partitions)):
            if failed is None:
                continue
            if failed.code() in _STALE_COMMIT:
                LOG.info("a commit of offsets of %s came after a rebalance: %s", self._topic, failed.str())
            else:
                self._commit_error = failed


def _assignor(settings: KafkaSettings) -> dict[str, Any]:
    """Tell how partitions are shared out: incrementally, in the group protocol that is asked for."""
    protocol = str(settings.properties.get("group.protocol", "classic")).lower()
    if protocol == "consumer":
        if "partition.assignment.strategy" in settings.properties:
            message = "`kafka.properties`: with group.protocol=consumer the broker assigns; leave partition.assignment.strategy out"
            raise Misconfigured(message)
        return {}
    return {"partition.assignment.strategy": "cooperative-sticky"}


def _columns(messages: list[Message], partitions: Any, offsets: I64) -> Fetched:  # noqa: ANN401  # NumPy's int32
    count = len(messages)
    given = list(map(Message.value, messages))
    empty = np.zeros(count, np.bool_)
    if None in given:
        empty[:] = [value is None for value in given]
        given = [value or b"" for value in given]
    values: list[bytes] = given
    bounds = np.zeros(count + 1, np.int64)
    np.cumsum(np.fromiter(map(len, values), np.int64, count), out=bounds[1:])
    headers = headers_of_all(messages)
    return Fetched(
        partition=partitions,
        offset=offsets,
        timestamp=np.fromiter(map(_second, map(Message.timestamp, messages)), np.int64, count),
        values=b"".join(values),
        bounds=bounds,
        empty=empty,
        keys=tuple(map(Message.key, messages)),
        headers={i: tuple(some) for i, some in enumerate(headers) if some} if any(headers) else {},
    )
