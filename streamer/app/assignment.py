"""Assignment: what a partition's new owner makes of what Redis, Kafka and the output say (5 and 6 of `protocol.py`).

Law: an owner begins exactly at the state's `next_offset`, or with the log where there is no state; it never skips what the log doesn't hold
any more.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamer.adapters.avro import codec, wire
from streamer.app import journal, quarantine
from streamer.app.changes import CHANGE, EXITED
from streamer.app.commits import stamped
from streamer.app.letters import source_partition
from streamer.app.protocol import Base, MovedByHand, Seen, looked_back, number_of, numbered, recover
from streamer.app.publishing import Publication
from streamer.app.quarantine import Attempts
from streamer.core import outbox
from streamer.core.erasure import same_key
from streamer.core.errors import Corrupt, LostOwnership, Misconfigured, Unavailable
from streamer.core.merging import Redirects
from streamer.core.partition import BEGINS, DONE, PartitionData, digest, unpack_erased, unpack_state
from streamer.core.ports import Committed, OffsetOutOfRange, Topic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.app.protocol import Recovery
    from streamer.app.rebuild import Settlement, Told
    from streamer.app.tools import Settings, Tools
    from streamer.core.declaration import Declaration
    from streamer.core.ports import LogRecord, OutRecord, PartitionState

log = logging.getLogger(__name__)

NO_LIMIT = int(np.iinfo(np.int64).max)
NO_ATTEMPTS = Attempts(-1, ())
LATEST_RECORDS = 256
"""How far back a topic is read first, where only its end is of interest."""
TAIL_RECORDS = 10_000
"""How far back the output is searched for the last commit: beyond the most records of one commit, and the markers of transactions."""


@dataclass(slots=True)
class Owned:
    """One partition in a worker's hands: rebuilding `until` a commit, and with the decisions of `script` still to follow."""

    number: int
    token: str
    commit_id: str
    next_offset: int
    data: PartitionData
    script: deque[journal.Entry] = field(default_factory=deque)
    until: Committed | None = None
    clears: bool = False  # the next commit deletes what an earlier life left
    careful_below: int = 0  # records before this offset are taken one at a time: one of them may end processes
    attempts: Attempts = NO_ATTEMPTS
    decides_from: int = 0  # nothing is decided below this offset: what was judged there may have been told
    passed_over: int = -1  # the offset of a record that is not to be read
    settlement: Settlement | None = None  # under way, once the rebuild has come to its end
    strays: deque[tuple[bytes, Told]] | None = None  # those still to be told of (7e); None where they are not known yet
    began_from_state: bool = False  # the rebuild
    visited: int = 0  # customers, by the sweep under way
    heard_s: float = float("inf")  # when its last records came, on the monotonic clock

    @property
    def limit(self) -> int:
        """Give the first offset that must wait for something else to be done."""
        decision = self.script[0].at_offset if self.script else NO_LIMIT
        return min(decision, NO_LIMIT if self.until is None else self.until.next_offset)

    @property
    def decides(self) -> bool:
        """Tell whether its owner may decide anything: what was decided before comes first."""
        return not self.script and self.until is None and self.next_offset >= self.decides_from

    @property
    def careful(self) -> bool:
        """Tell whether records are taken one at a time."""
        return self.next_offset < self.careful_below

    @property
    def rebuilt(self) -> bool:
        """Tell whether a rebuild has come to its end, and is to be settled."""
        if self.until is None or self.next_offset < self.until.next_offset:
            return False
        return not self.script or self.script[0].at_offset > self.until.next_offset

    @property
    def parting(self) -> bool:
        """Tell whether strays are still to be told of; until then no events are taken (7e)."""
        return self.until is None and self.data.strays

    @property
    def rebuild_left(self) -> int:
        """Count the offsets that a rebuild has still to take in; at least 1 until it is settled, 0 where there is none."""
        return 0 if self.until is None else max(1, self.until.next_offset - self.next_offset)

    def next_commit(self, token: str, next_offset: int | None = None) -> str:
        """Name the commit after the last one, which moves on to an offset; a rebuild's are before all that are published (7a)."""
        if self.until is not None:
            return numbered(0, token)
        stays = next_offset is None or next_offset == self.next_offset
        return numbered(1 + number_of(self.commit_id) if stays else 1, token)

    @property
    def sweeping(self) -> bool:
        """Tell whether slices of a sweep are due. A rebuild leaves the last one for afterwards (7b)."""
        return self.until is None and not self.data.swept


class TakenOver(NamedTuple):
    """A partition, and what its last owner may not have published."""

    owned: Owned
    publication: Publication | None


def take_over(tools: Tools, settings: Settings, declaration: Declaration, partition: int, *, forked: bool = False) -> TakenOver:
    """Take a partition over. Where its state is `forked`, a rebuild begins from nothing (6c).

    Raises:
        Misconfigured: the partition's profiles are of another feature version, or its position was moved by hand.
        Corrupt: its state is not what this program writes.
        OffsetOutOfRange: what Redis lost, the log doesn't hold any more.
        LostOwnership: somebody else claimed it meanwhile.
        Unavailable: one of the servers didn't answer.

    """
    token = tools.clock.token()
    tools.store.claim(partition, token)
    kafka = tools.log.committed([partition]).get(partition)
    [state] = tools.store.read([partition])
    if state.owner != token:
        message = f"partition {partition} was claimed by another worker, or Redis forgot our claim"
        raise LostOwnership(message)
    seen = Seen(state, kafka) if kafka else _look_back(tools, settings, state, partition)
    try:
        recovery = recover(seen, exactly_once=settings.exactly_once)
    except MovedByHand as error:
        message = (
            f"the position of partition {partition} in Kafka bears no commit id: somebody moved it by hand, and nothing is skipped or read "
            "twice. To process a period again, replay it into a namespace of its own; to go on, delete the group's offset of the partition"
        )
        raise Misconfigured(message) from error
    entries: list[journal.Entry] = []
    if recovery.until is not None or settings.follow:
        entries = journal.read(tools.reader.read(Topic.JOURNAL, partition, 0, settings.publish_timeout_s))
    builds_on = recovery.until is not None and recovery.base is Base.STATE
    if builds_on and (forked or not _led_to(tools, declaration, state, partition, entries) or _let_go(tools, settings, state, partition)):
        recovery = replace(recovery, base=Base.NOTHING)
    owned = _owned(tools, settings, declaration, partition, token, state, recovery)
    owned.began_from_state = recovery.until is not None and recovery.base is Base.STATE
    if not (settings.follow or settings.exactly_once):  # what it lacks may have been told of before Kafka knew it
        owned.decides_from = _told_up_to(tools, settings, partition)
        entries = entries or _latest_entries(tools, settings, partition, owned.data)
    owned.script = journal.script(entries, owned.data, owned.next_offset)
    owned.attempts = quarantine.attempts(state.attempts)
    if quarantine.suspicious(state, owned.next_offset) and owned.next_offset < tools.log.bounds(partition)[1]:
        owned.careful_below = owned.next_offset + settings.records_max
        log.warning("partition %d: claimed %d times without a commit: taking its next records one at a time", partition, state.claims)
    if recovery.publishes:
        tools.shelf.learn(outbox.unpack(state.outbox))
    if owned.data.model:
        tools.shelf.get(owned.data.model)
    if not recovery.publishes:
        return TakenOver(owned, None)
    return TakenOver(owned, Publication(partition, token, state.outbox, Committed(state.next_offset, state.commit_id)))


def _led_to(tools: Tools, declaration: Declaration, state: PartitionState, partition: int, entries: Sequence[journal.Entry]) -> bool:
    """Tell whether the decisions that were published lead to a state (6c)."""
    data = _data(partition, state, declaration)
    told = data.model in {entry.model for entry in entries if entry.kind != journal.QUARANTINE}
    fixed = tools.shelf.get(data.model).fixed_centroids() if told else None
    complete_from = _complete_from(tools, partition, entries) if data.passed_over else 0
    return journal.leads_to(entries, data, state.next_offset, fixed, complete_from)


def _let_go(tools: Tools, settings: Settings, state: PartitionState, partition: int) -> bool:
    """Tell whether a state's last commit let customers go, and was not published (6c).

    No profile is left of them that could know more than was told (7d). A state is trusted where the log does not reach back to its start.
    """
    left = any(record.topic is Topic.CHANGES and _tells_of_leaving(record) for record in outbox.unpack(state.outbox))
    if not left or tools.log.bounds(partition)[0]:
        return False
    first, end = tools.reader.bounds(Topic.CHANGES, partition)
    while first < end:  # from the end, as far as what was published after it
        begin = max(first, end - TAIL_RECORDS)
        read = tools.reader.read(Topic.CHANGES, partition, begin, settings.publish_timeout_s, end)
        stamps = [found for record in read if (found := stamped(record.headers)) is not None]
        if any(found.commit_id == state.commit_id for found in stamps):
            return False
        if any(found.next_offset < state.next_offset for found in stamps):
            return True
        end = begin
    return True


def _tells_of_leaving(record: OutRecord) -> bool:
    value = record.value or b""
    return bool(value) and codec.decode(CHANGE, value[wire.opening(value, record.headers).body :])["status"] == EXITED


def _latest_entries(tools: Tools, settings: Settings, partition: int, data: PartitionData) -> list[journal.Entry]:
    """Read the end of the journal, far enough back to hold all decisions that the state has not taken."""
    first, end = tools.reader.bounds(Topic.JOURNAL, partition)
    records = LATEST_RECORDS
    while True:
        begin = max(first, end - records)
        read = tools.reader.read(Topic.JOURNAL, partition, begin, settings.publish_timeout_s, end) if begin < end else ()
        entries = journal.read(read)
        adopted = next((entry.epoch for entry in entries if entry.kind in journal.ADOPTIONS), None)
        if begin == first or (adopted is not None and adopted <= data.adopted):
            return entries
        records *= 2


def _complete_from(tools: Tools, partition: int, entries: Sequence[journal.Entry]) -> int:
    """Find the first offset whose decisions are all in the journal: what it holds no more was decided no later than what it still holds."""
    if tools.reader.bounds(Topic.JOURNAL, partition)[0] == 0:
        return 0
    return entries[0].at_offset + 1 if entries else NO_LIMIT


def _owned(
    tools: Tools, settings: Settings, declaration: Declaration, partition: int, token: str, state: PartitionState, recovery: Recovery
) -> Owned:
    """Begin from what the recovery says; a sweep begins anew, since another server counts its cursor otherwise."""
    if recovery.base is Base.STATE:
        data = _with_redirects(tools, partition, _with_erased(tools, settings, partition, _data(partition, state, declaration)))
        data = replace(data, rebuilding=recovery.until is not None, cursor=data.cursor if data.swept else BEGINS)
        if recovery.until is not None:  # a slice of it may have been published by nobody
            data = replace(data, reconcile="", reconcile_cursor=DONE, reconciled=0)
        owned = Owned(partition, token, state.commit_id, state.next_offset, data, until=recovery.until)
    else:
        first = tools.log.bounds(partition)[0]
        if recovery.until is not None and recovery.until.next_offset < first:
            raise OffsetOutOfRange(partition, recovery.until.next_offset)
        data = PartitionData(declaration.version, rebuilding=recovery.until is not None)
        owned = Owned(partition, token, state.commit_id, first, data, until=recovery.until, clears=bool(state.commit_id))
    if recovery.until is not None:
        log.warning(
            "partition %d: Redis is at offset %d, published up to %d: rebuilding from %s",
            partition,
            state.next_offset,
            recovery.until.next_offset,
            recovery.base.value,
        )
    return owned


def _look_back(tools: Tools, settings: Settings, state: PartitionState, partition: int) -> Seen:
    """Look for the last commits in the output: every record of an outbox bears its commit's id and position."""
    where = (Topic.CHANGES,) if settings.follow else (Topic.CHANGES, Topic.JOURNAL, Topic.DEAD_LETTERS)  # others are of who is followed
    read = [stamped(record.headers) for topic in where for record in _tail(tools, settings, topic, partition)]
    return looked_back(state, [found for found in read if found is not None], exactly_once=settings.exactly_once)


def _told_up_to(tools: Tools, settings: Settings, partition: int) -> int:
    """Find the offset before which events were judged, as the end of the output says."""
    read = [record for topic in (Topic.CHANGES, Topic.JOURNAL) for record in _tail(tools, settings, topic, partition, LATEST_RECORDS)]
    return max((found.next_offset for record in read if (found := stamped(record.headers)) is not None), default=0)


def _tail(tools: Tools, settings: Settings, topic: Topic, partition: int, records: int = TAIL_RECORDS) -> list[LogRecord]:
    """Read the last records that a partition's owners wrote to a topic."""
    own = topic in (Topic.CHANGES, Topic.JOURNAL)
    found: list[LogRecord] = []
    for place in [partition] if own else range(settings.topic_partitions.get(topic, 1)):
        first, end = tools.reader.bounds(topic, place)
        if first < end:
            found += tools.reader.read(topic, place, max(first, end - records), settings.publish_timeout_s, end)
    return [record for record in found if topic is not Topic.DEAD_LETTERS or source_partition(record.headers) == partition]


def _with_erased(tools: Tools, settings: Settings, partition: int, data: PartitionData) -> PartitionData:
    """Read who was erased, and is refused."""
    if not data.erased_key:
        return data
    if settings.erasure.refuse:
        same_key(settings.erasure, data.erased_key)
    erased = unpack_erased(tools.store.erased(partition))
    if digest(erased) != data.erased_digest:
        message = f"what Redis keeps of the erased customers of partition {partition} is not of its state: it changed meanwhile"
        raise Unavailable(message)
    return replace(data, erased=erased)


def _with_redirects(tools: Tools, partition: int, data: PartitionData) -> PartitionData:
    """Read whose events are sent on."""
    if not data.redirects_digest:
        return data
    redirects = Redirects.unpack(tools.store.redirects(partition))
    if redirects.digest() != data.redirects_digest:
        message = f"what Redis keeps of the merged customers of partition {partition} is not of its state: it changed meanwhile"
        raise Unavailable(message)
    return replace(data, redirects=redirects)


def _data(partition: int, state: PartitionState, declaration: Declaration) -> PartitionData:
    """Read a partition's state."""
    try:
        data = unpack_state(state.state)
    except ValueError as error:
        message = f"the state of partition {partition} in Redis can't be read: {error}: run the version of the program that wrote it"
        raise Corrupt(message) from error
    if data.feature_version != declaration.version:
        message = (
            f"partition {partition} holds profiles of feature version {data.feature_version}, the declaration is {declaration.version}: "
            "restore the declaration, or begin in a new `app.namespace`"
        )
        raise Misconfigured(message)
    return data
