"""The worker: events in, segment changes out, for the partitions that the group gives it.

A batch goes through these steps, numbered as DESIGN's protocol has them:

1. One Redis commit per partition, guarded by the owner token and the commit id at which the batch began: profiles, sums, next offset, outbox.
2. The outbox is published, then the group's position with the commit's id as metadata.
3. Only when that is acknowledged may the next Redis commit replace the outbox.

Laws: whatever stops the worker, at any point, the partition's next owner goes on from Redis's `next_offset` and publishes the outbox again
where Kafka's position doesn't carry its commit id. A failed check is no failure: the assignment is run anew.
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from streamer.app import journal
from streamer.app.batch import fold_batch, joined
from streamer.app.changes import Written
from streamer.app.intake import letter_headers
from streamer.app.models import ANNOUNCED, encoded, record, stored_name
from streamer.core import outbox
from streamer.core.columns import select
from streamer.core.errors import Misconfigured, Unavailable
from streamer.core.fold import FINER
from streamer.core.partition import (
    DONE,
    Announcement,
    PartitionData,
    adopt_epoch,
    adopt_version,
    next_centroids,
    pack_state,
    stack_judge,
    stack_sums,
    unpack_state,
    unstack_sums,
)
from streamer.core.ports import Commit, Committed, OffsetOutOfRange, Outcome, OutRecord, Packed, Topic
from streamer.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from streamer.app.batch import Folded
    from streamer.app.changes import ChangeWriter
    from streamer.app.clock import Clock
    from streamer.app.first_model import FirstModel
    from streamer.app.intake import Intake, Taken
    from streamer.app.models import ModelShelf
    from streamer.core.columns import Bool, Fetched, Headers
    from streamer.core.declaration import Declaration
    from streamer.core.fold import Judge, Sums
    from streamer.core.model import ModelVersion
    from streamer.core.partition import Learned
    from streamer.core.ports import EventLog, PartitionState, Publisher, StateStore, TopicReader

log = logging.getLogger(__name__)

EMPTY = Packed(np.zeros(0, np.uint8), np.zeros(1, np.int64), np.zeros(0, np.uint8), np.zeros(1, np.int64))
NOTHING: Mapping[str, bytes] = MappingProxyType({})
NOTHING_WRITTEN = Written(b"", [])
READ_BACKS_MAX = 20
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.05, 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How a worker goes about it; times in seconds."""

    topic: str
    partitions: int
    records_max: int = 5000
    wait_s: float = 0.1
    gather_s: float = 0.005
    publish_timeout_s: float = 30.0
    poll_interval_s: float = 1.0
    epoch_interval_s: float = 5.0
    idle_check_s: float = 5.0
    sweep_records: int = 1000
    era: int = 0
    follow: bool = False  # take decisions from an earlier run's journal alone
    journal_schema: int = 0
    models_schema: int = 0


@dataclass(slots=True)
class Owned:
    """One partition in this worker's hands."""

    number: int
    token: str
    commit_id: str
    next_offset: int
    data: PartitionData
    script: deque[journal.Entry] = field(default_factory=deque)
    quiet_below: int = 0  # up to here a rebuild publishes nothing
    members: int = 0


@dataclass(slots=True)
class Totals:
    """What a worker has done since it started."""

    events: int = 0
    applied: int = 0
    duplicates: int = 0
    late: int = 0
    letters: int = 0
    changes: int = 0
    batches: int = 0


@dataclass(frozen=True, slots=True)
class Tools:
    """All that a worker works with."""

    log: EventLog
    store: StateStore
    publisher: Publisher
    reader: TopicReader
    clock: Clock
    intake: Intake
    changes: ChangeWriter
    shelf: ModelShelf
    first_model: FirstModel | None


class Worker:
    """Consumes, commits, publishes, until told to stop."""

    def __init__(self, settings: Settings, declaration: Declaration, tools: Tools) -> None:
        """Own nothing yet: partitions come with the first poll."""
        self._settings = settings
        self._declaration = declaration
        self._tools = tools
        self._owned: dict[int, Owned] = {}
        self._waiting: dict[int, tuple[float, float]] = {}  # partition -> when to run its assignment, back-off after that
        self._unconfirmed: dict[int, Committed] = {}
        self._unpublished = False
        self._judge: Judge | None = None
        self._sums: Sums | None = None
        self._order: tuple[int, ...] = ()
        self._last_event_s = tools.clock.monotonic_s()
        self._due = {"poll": 0.0, "fit": 0.0, "epoch": 0.0, "idle": 0.0}
        self.totals = Totals()

    def run(self, stopping: Callable[[], bool]) -> None:
        """Work until `stopping` says so, then leave nothing half-done.

        Raises:
            Misconfigured, Corrupt: nothing will mend by itself.

        """
        while not stopping():
            try:
                self.step()
            except Unavailable as error:
                log.warning("a server is away, starting again from what is committed: %s", error)
                self._drop_all()
        self.stop()

    def stop(self) -> None:
        """Confirm what is published, and leave the group."""
        try:
            self._confirm()
        except Unavailable as error:
            log.warning("stopping without confirmation: the next owner publishes the last commit again: %s", error)
        self._tools.log.close()
        self._tools.publisher.close()

    def step(self) -> None:
        """Do one round: fetch, fold, commit, publish, and what time asks for."""
        self._assign()
        busy = any(not owned.data.swept for owned in self._owned.values())
        wait_s = 0.0 if busy or self._unconfirmed else self._settings.wait_s
        fetched = self._tools.log.fetch(self._settings.records_max, wait_s, self._settings.gather_s)
        self._rebalance()
        if len(fetched):
            self._last_event_s = self._tools.clock.monotonic_s()
            self._through(fetched)
        elif busy:
            self._commit_batch(None)
        else:
            self._confirm()
        for owned in list(self._owned.values()):
            self._follow(owned)
        self._timers()

    def idle(self, for_s: float | None) -> bool:
        """Tell whether everything is done and nothing has come for so long; never, for None."""
        done = not self._unconfirmed and all(owned.data.swept and not owned.script for owned in self._owned.values())
        return for_s is not None and bool(self._owned) and done and self._tools.clock.monotonic_s() - self._last_event_s >= for_s

    @property
    def owned(self) -> Mapping[int, Owned]:
        """Tell which partitions the worker has."""
        return self._owned

    # Assignment

    def _rebalance(self) -> None:
        changed = self._tools.log.rebalanced()
        gone = (*changed.revoked, *changed.lost)
        given_up = [partition for partition in changed.revoked if self._owned.pop(partition, None)]
        for partition in gone:
            self._waiting.pop(partition, None)
        for partition in changed.lost:
            self._owned.pop(partition, None)
            self._unconfirmed.pop(partition, None)
        for partition in changed.assigned:
            self._waiting[partition] = (0.0, BACKOFF_FIRST_S)
        if gone:
            self._restack()
        if given_up:  # last: the group is not told twice, so what it said is taken in whether or not Kafka answers now
            self._confirm()

    def _drop_all(self) -> None:
        """Forget what is in memory; run every assignment anew."""
        for partition in list(self._owned):
            self._again(partition)
        self._unconfirmed.clear()
        if self._unpublished:  # what is still on its way must have arrived before the journal is read again
            self._unpublished = False
            with suppress(Unavailable):
                self._tools.publisher.wait(self._settings.publish_timeout_s)

    def _again(self, partition: int) -> None:
        """Run a partition's assignment anew, after a while."""
        self._owned.pop(partition, None)
        self._unconfirmed.pop(partition, None)
        self._tools.log.pause([partition])
        pause_s = self._waiting.get(partition, (0.0, BACKOFF_FIRST_S))[1]
        self._waiting[partition] = (self._tools.clock.monotonic_s() + pause_s, min(2 * pause_s, BACKOFF_MAX_S))
        self._restack()

    def _assign(self) -> None:
        now = self._tools.clock.monotonic_s()
        ready = [partition for partition, (at, _) in self._waiting.items() if at <= now and partition not in self._owned]
        for partition in ready:
            pause_s = self._waiting[partition][1]
            try:
                self._take_over(partition)
            except Unavailable as error:
                log.warning("partition %d: %s; trying again in %.1f s", partition, error, pause_s)
                self._waiting[partition] = (now + pause_s, min(2 * pause_s, BACKOFF_MAX_S))
            else:
                self._waiting[partition] = (float("inf"), BACKOFF_FIRST_S)
        if ready:
            self._restack()

    def _take_over(self, partition: int) -> None:
        """Write the owner token, read Kafka, read Redis; publish what the last owner left."""
        tools = self._tools
        token = tools.clock.token()
        state = tools.store.claim(partition, token)
        kafka = tools.log.committed([partition]).get(partition)
        first = not state.commit_id
        data = PartitionData(self._declaration.version) if first else unpack_state(state.state)
        if data.feature_version != self._declaration.version:
            message = (
                f"partition {partition} holds profiles of feature version {data.feature_version}, the declaration is {self._declaration.version}: "
                "restore the declaration, or begin in a new `app.namespace`"
            )
            raise Misconfigured(message)
        next_offset = tools.log.bounds(partition)[0] if first else state.next_offset
        if first and kafka is not None and kafka.next_offset < next_offset:
            raise OffsetOutOfRange(partition, kafka.next_offset)
        owned = Owned(partition, token, state.commit_id, next_offset, data)
        behind = kafka is not None and (first or kafka.next_offset > next_offset)
        known = kafka is not None and kafka.commit_id in {state.commit_id, state.previous_commit_id}
        if behind or not known or self._settings.follow:
            entries = journal.read(tools.reader.read(Topic.JOURNAL, partition, 0, self._settings.publish_timeout_s))
            owned.script = journal.script(entries, data)
        if kafka is not None and behind:
            owned.quiet_below = kafka.next_offset
            log.warning("partition %d: Redis is at offset %d, published up to %d: rebuilding", partition, next_offset, kafka.next_offset)
        if state.commit_id and (kafka is None or kafka.commit_id != state.commit_id):
            self._publish(outbox.unpack(state.outbox))
            if not behind:
                self._unconfirmed[partition] = Committed(state.next_offset, state.commit_id)
        if data.model:
            tools.shelf.get(data.model)
        tools.log.start(partition, next_offset)
        self._owned[partition] = owned
        log.info("partition %d: from offset %d, model %d, epoch %d", partition, next_offset, data.model, data.epoch)

    def _restack(self) -> None:
        """Lay the partitions' models and sums side by side again."""
        self._order = tuple(sorted(self._owned))
        data = [self._owned[partition].data for partition in self._order]
        self._judge = stack_judge(data, self._tools.shelf.known, self._declaration)
        self._sums = stack_sums(data, self._judge)

    # Batches

    def _through(self, fetched: Fetched) -> None:
        """Take a batch through, stopping at each offset at which the journal has a decision or a rebuild ends."""
        while len(fetched):
            fetched = select(fetched, np.flatnonzero(np.isin(fetched.partition, list(self._owned))))
            limit = np.full(self._settings.partitions, np.iinfo(np.int64).max)
            for number, owned in self._owned.items():
                limit[number] = self._limit(owned)
            ready = fetched.offset < limit[fetched.partition] if len(fetched) else np.zeros(0, bool)
            held = select(fetched, np.flatnonzero(~ready))
            if ready.any():
                self._commit_batch(select(fetched, np.flatnonzero(ready)))
            for number in np.unique(held.partition).tolist():
                if number in self._owned:
                    owned = self._owned[number]
                    owned.next_offset = max(owned.next_offset, int(limit[number]))  # nothing below is left to come, gaps or not
                    self._follow(owned)
            fetched = held

    def _limit(self, owned: Owned) -> int:
        """Give the first offset that must wait for something else to be done."""
        limits = [np.iinfo(np.int64).max]
        if owned.script:
            limits.append(owned.script[0].at_offset)
        if owned.next_offset < owned.quiet_below:
            limits.append(owned.quiet_below)
        return min(limits)

    def _slices(self, parts: Sequence[int]) -> dict[int, tuple[int, Packed]]:
        """Read the next slice of each unfinished sweep: by partition, the cursor after it and the profiles."""
        return {
            partition: self._tools.store.scan(partition, int(self._owned[partition].data.cursor), self._settings.sweep_records)
            for partition in parts
            if not self._owned[partition].data.swept
        }

    def _commit_batch(self, fetched: Fetched | None) -> None:
        """Fold a batch and the next slices of sweeps, and commit each partition that has either."""
        if self._judge is None or self._sums is None or not self._owned:
            return
        slices = self._slices(self._order)
        lookup = np.full(self._settings.partitions, -1, np.int32)
        lookup[list(self._order)] = np.arange(len(self._order))
        batch = fetched if fetched is not None else _nothing()
        taken = self._tools.intake.take(batch, lookup[batch.partition])
        watermark = np.array([self._owned[p].data.watermark for p in self._order], np.int64)
        swept = {int(lookup[p]): packed for p, (_, packed) in slices.items()}
        folded = fold_batch(
            self._tools.intake.plan, self._judge, self._sums, watermark, self._settings.era, taken, swept, self._order, self._tools.store
        )
        commits, records = self._commits(batch, taken, folded, slices, watermark)
        self._count(batch, taken, folded)
        self._carry_out(commits, records)

    def _commits(
        self, batch: Fetched, taken: Taken, folded: Folded, slices: Mapping[int, tuple[int, Packed]], watermark: np.ndarray
    ) -> tuple[list[tuple[Commit, PartitionData]], list[OutRecord]]:
        """Decide each partition's commit and what it publishes."""
        clock, settings = self._tools.clock, self._settings
        now_ms = clock.now_ms()
        letters = self._letters(batch, taken)
        began = np.full(len(self._order), np.iinfo(np.int64).max)
        np.minimum.at(began, taken.rows.part, taken.rows.time)
        ends = np.full(settings.partitions, -1, np.int64)
        np.maximum.at(ends, batch.partition, batch.offset + 1)
        ids = {partition: clock.token() for partition in self._order}
        next_offsets = {partition: max(self._owned[partition].next_offset, int(ends[partition])) for partition in self._order}
        stamps = {partition: _stamp(ids[partition], next_offsets[partition]) for partition in self._order}
        names, wanted = self._tools.shelf.names, self._wanted(folded, next_offsets)
        changes = self._tools.changes.write(
            folded.changes, folded.changed, folded.customers, self._order, names, stamps, now_ms, wanted
        )
        commits, published = [], []
        for i, partition in enumerate(self._order):
            owned = self._owned[partition]
            if ends[partition] < 0 and partition not in slices:
                continue
            commit_id, next_offset = ids[partition], next_offsets[partition]
            cursor = owned.data.cursor
            if partition in slices:
                cursor = str(slices[partition][0]) if slices[partition][0] else DONE
            data = replace(
                owned.data, watermark=int(watermark[i]), began=min(owned.data.began, int(began[i])), cursor=cursor, learned=self._learned(i)
            )
            refused = [r._replace(headers=(*r.headers, *stamps[partition])) for r in letters.get(partition, ())]
            written = changes.get(partition, NOTHING_WRITTEN)
            if owned.quiet_below and next_offset <= owned.quiet_below:
                refused = []
            commit = Commit(
                partition,
                owned.token,
                owned.commit_id,
                commit_id,
                next_offset,
                pack_state(data),
                outbox.pack(refused, written.packed),
                folded.profiles(i),
                {},
            )
            commits.append((commit, data))
            published += [*written.records, *refused]
        return commits, published

    def _wanted(self, folded: Folded, next_offsets: Mapping[int, int]) -> Bool:
        """Choose the changes to tell, (changed,): where a rebuild is below what was told, only those that may not have been.

        Events' changes were told. A sweep's were if an epoch followed, which waits for it; else nobody knows how far the sweep had come.
        """
        part, offset = folded.changes.part[: folded.changed], folded.changes.offset[: folded.changed]
        wanted = np.ones(folded.changed, np.bool_)
        for i, partition in enumerate(self._order):
            owned = self._owned[partition]
            if owned.quiet_below and next_offsets[partition] <= owned.quiet_below:
                told = any(entry.kind == journal.EPOCH and entry.model == owned.data.model for entry in owned.script)
                wanted &= (part != i) | ((offset == owned.data.at_offset) & (not told))
        return wanted

    def _learned(self, i: int) -> Learned | None:
        data = self._owned[self._order[i]].data
        if data.centroids is None or self._sums is None:
            return None
        return unstack_sums(self._sums, i, len(data.centroids))

    def _letters(self, batch: Fetched, taken: Taken) -> dict[int, list[OutRecord]]:
        """Write the refused records of a batch as dead letters."""
        letters: dict[int, list[OutRecord]] = {}
        for i in np.flatnonzero(taken.status).tolist():
            value = None if batch.empty[i] else batch.values[batch.bounds[i] : batch.bounds[i + 1]]
            headers = letter_headers(batch, i, Reason(int(taken.status[i])), self._settings.topic)
            letters.setdefault(int(batch.partition[i]), []).append(OutRecord(Topic.DEAD_LETTERS, None, batch.keys[i], value, headers))
        return letters

    def _count(self, batch: Fetched, taken: Taken, folded: Folded) -> None:
        totals, tally = self.totals, folded.tally.sum(axis=0)
        totals.batches += 1
        totals.events += len(batch)
        totals.applied += int(tally[0])
        totals.duplicates += int(tally[1])
        totals.late += int(tally[2])
        totals.letters += int(np.count_nonzero(taken.status))
        totals.changes += folded.changed

    # Commits

    def _carry_out(self, commits: Sequence[tuple[Commit, PartitionData]], records: Iterable[OutRecord]) -> None:
        """Carry out steps 1 and 2 for one commit per partition, after step 3 of the commits before."""
        self._confirm()
        outcomes = self._commit([commit for commit, _ in commits])
        refused = set()
        for (commit, data), outcome in zip(commits, outcomes, strict=True):
            if outcome is Outcome.APPLIED:
                owned = self._owned[commit.partition]
                owned.commit_id, owned.next_offset, owned.data = commit.commit_id, commit.next_offset, data
                if not owned.quiet_below:  # until a rebuild is over, Kafka's position says how far it must go
                    self._unconfirmed[commit.partition] = Committed(commit.next_offset, commit.commit_id)
            else:
                log.warning("partition %d: a commit was refused, %s has written: running its assignment anew", commit.partition, outcome.value)
                refused.add(commit.partition)
        if not refused:
            self._publish(records)
            return
        for (commit, _), outcome in zip(commits, outcomes, strict=True):
            if outcome is Outcome.APPLIED:
                self._publish(outbox.unpack(commit.outbox))
        for partition in refused:
            self._again(partition)

    def _commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        """Commit to Redis; a lost reply is no failure: read the commit id back and see."""
        try:
            return self._tools.store.commit(commits)
        except Unavailable as error:
            log.warning("a reply of Redis was lost, reading back: %s", error)
        return [self._read_back(commit) for commit in commits]

    def _read_back(self, commit: Commit) -> Outcome:
        """Find out whether a commit was applied; apply it if it was not and still may be."""
        pause_s = BACKOFF_FIRST_S
        for _ in range(READ_BACKS_MAX):
            try:
                state = self._tools.store.read([commit.partition])[0]
                if state.commit_id == commit.commit_id:
                    return Outcome.APPLIED
                if (state.commit_id, state.owner) != (commit.expected, commit.owner):
                    return Outcome.OTHER_COMMIT
                return self._tools.store.commit([commit])[0]
            except Unavailable:
                self._tools.clock.sleep(pause_s)
                pause_s = min(2 * pause_s, BACKOFF_MAX_S)
        message = f"Redis did not say within {READ_BACKS_MAX} attempts what became of a commit of partition {commit.partition}"
        raise Unavailable(message)

    def _publish(self, records: Iterable[OutRecord]) -> None:
        sent = list(records)
        if sent:
            self._tools.publisher.send(sent)
            self._unpublished = True

    def _confirm(self) -> None:
        """Wait until everything published is acknowledged, then commit the positions."""
        if self._unpublished:
            self._tools.publisher.wait(self._settings.publish_timeout_s)
            self._unpublished = False
        if self._unconfirmed:
            self._tools.log.commit(self._unconfirmed)
            self._unconfirmed = {}

    # Decisions that the log does not say

    def _follow(self, owned: Owned) -> None:
        """Take the journal's decisions up to where the partition is."""
        while owned.script and owned.next_offset >= owned.script[0].at_offset and owned.number in self._owned:
            entry = owned.script[0]
            if not self._drained(owned):
                return
            owned.script.popleft()
            if entry.kind == journal.VERSION:
                self._adopt(owned, adopt_version(owned.data, self._tools.shelf.get(entry.model), entry.at_offset, entry.as_of), entry, told=True)
            elif entry.kind == journal.EPOCH and owned.data.centroids is not None:
                self._adopt(owned, adopt_epoch(owned.data, entry.epoch, entry.centroids(owned.data.centroids.shape)), entry, told=True)
        if owned.quiet_below and owned.next_offset >= owned.quiet_below and not owned.script:
            owned.quiet_below = 0

    def _drained(self, owned: Owned) -> bool:
        """Finish the partition's sweep; False if the partition was lost meanwhile."""
        while self._owned.get(owned.number) is owned and not owned.data.swept:
            self._commit_batch(None)
        return self._owned.get(owned.number) is owned

    def _adopt(
        self,
        owned: Owned,
        data: PartitionData,
        entry: journal.Entry,
        announce: Mapping[str, bytes] = NOTHING,
        also: Sequence[OutRecord] = (),
        *,
        told: bool = False,
    ) -> None:
        """Commit a decision, with its journal entry in the outbox; one that was `told` already is in the journal."""
        clock = self._tools.clock
        commit_id = clock.token()
        written = journal.record(entry, owned.number, commit_id, clock.now_ms(), self._settings.journal_schema)
        records = [] if told else [r._replace(headers=(*r.headers, *_stamp(commit_id, owned.next_offset))) for r in (*also, written)]
        self._decide(owned, commit_id, data, records, announce)
        if owned.commit_id == commit_id:
            log.info("partition %d: %s %d.%d adopted at offset %d", owned.number, entry.kind, data.model, data.epoch, owned.next_offset)

    def _decide(self, owned: Owned, commit_id: str, data: PartitionData, records: Sequence[OutRecord], announce: Mapping[str, bytes]) -> None:
        """Carry out a commit that moves no profile."""
        packed = pack_state(data), outbox.pack(records), EMPTY, announce
        commit = Commit(owned.number, owned.token, owned.commit_id, commit_id, owned.next_offset, *packed)
        self._carry_out([(commit, data)], records)
        self._restack()

    def _timers(self) -> None:
        """Do what is due by now."""
        settings, now = self._settings, self._tools.clock.monotonic_s()

        def due(name: str, interval_s: float) -> bool:
            if self._due[name] > now:
                return False
            self._due[name] = now + interval_s
            return True

        if due("idle", settings.idle_check_s):
            self._check_idle()
        leader = self._owned.get(0)
        if leader is not None and not leader.script and not leader.quiet_below:
            if leader.data.model == 0 and due("fit", settings.poll_interval_s):
                self._lead_first(leader)
            elif leader.data.model and due("epoch", settings.epoch_interval_s):
                self._lead(leader)
        if not settings.follow and due("poll", settings.poll_interval_s):
            self._heed()

    def _check_idle(self) -> None:
        """Look whether Redis still says what this worker knows: a loss goes unseen otherwise while no events come."""
        numbers = list(self._owned)
        for partition, state in zip(numbers, self._tools.store.read(numbers), strict=True):
            owned = self._owned[partition]
            if (state.owner, state.commit_id) != (owned.token, owned.commit_id):
                log.warning("partition %d: Redis is not as this worker left it: running its assignment anew", partition)
                self._again(partition)

    def _heed(self) -> None:
        """Adopt what partition 0's owner has announced."""
        packed = self._tools.store.announced(ANNOUNCED)
        if packed is None:
            return
        said = Announcement.unpack(packed)
        for owned in list(self._owned.values()):
            data = owned.data
            if owned.script or owned.quiet_below:
                continue
            if not data.swept:
                continue  # nothing is adopted before every customer has been judged by what was adopted last
            if said.model > data.model:
                self._adopt_version(owned, self._tools.shelf.get(said.model))
            elif said.model == data.model and said.epoch > data.epoch:
                adopted = adopt_epoch(data, said.epoch, said.centroids)
                self._adopt(owned, adopted, journal.epoch_entry(adopted, owned.next_offset))

    def _adopt_version(
        self, owned: Owned, version: ModelVersion, announce: Mapping[str, bytes] = NOTHING, also: Sequence[OutRecord] = ()
    ) -> None:
        adopted = adopt_version(owned.data, version, owned.next_offset, owned.data.watermark)
        self._adopt(owned, adopted, journal.version_entry(adopted, self._tools.shelf.digest(version.version)), announce, also)

    def _lead(self, owned: Owned) -> None:
        """Add the partitions' votes up to the next epoch: only partition 0's owner does."""
        if not self._announce(owned) or self._settings.follow:
            return
        numbers = range(self._settings.partitions)
        parts = [unpack_state(state.state) for state in self._tools.store.read(numbers) if state.commit_id]
        learned = [part.learned for part in parts if part.learned is not None]
        if owned.data.centroids is None or len(learned) < len(parts) or any(p.model != owned.data.model or not p.swept for p in parts):
            return
        centroids = next_centroids(owned.data.centroids, learned, FINER)
        if np.array_equal(centroids, owned.data.centroids):
            return
        adopted = adopt_epoch(owned.data, owned.data.epoch + 1, centroids)
        self._adopt(owned, adopted, journal.epoch_entry(adopted, owned.next_offset))
        self._announce(owned)

    def _announce(self, owned: Owned) -> bool:
        """Tell all partitions what partition 0 has adopted, if they have not been told; False where they were told of something later.

        It is in a commit of its own, which waits until the adoption is published: what others go by can't be lost any more.
        """
        data = owned.data
        packed = self._tools.store.announced(ANNOUNCED)
        said = None if packed is None else Announcement.unpack(packed)
        if said is not None and (said.model, said.epoch) >= (data.model, data.epoch):
            return (said.model, said.epoch) == (data.model, data.epoch)
        if self._owned.get(owned.number) is owned and data.centroids is not None:
            announcement = Announcement(data.model, data.epoch, data.centroids)
            announce = {stored_name(data.model): self._tools.shelf.body(data.model), ANNOUNCED: announcement.pack()}
            self._decide(owned, self._tools.clock.token(), data, [], announce)
        return True

    def _lead_first(self, owned: Owned) -> None:
        """Make the first model: only partition 0's owner does."""
        first_model = self._tools.first_model
        if first_model is None or self._tools.store.announced(ANNOUNCED) is not None:
            return
        version = first_model.fit(self._tools.store, self._settings.partitions, self._tools.clock.now_ms())
        if version is None:
            return
        body = encoded(version)
        self._tools.shelf.put(version, body)
        self._adopt_version(owned, version, {stored_name(version.version): body}, [record(version, body, self._settings.models_schema)])
        self._announce(owned)


def _stamp(commit_id: str, next_offset: int) -> Headers:
    """Say which commit a record is of: the end of an output partition then tells how far its input's owner was."""
    return ("commit_id", commit_id.encode()), ("next_offset", str(next_offset).encode())


def _nothing() -> Fetched:
    from streamer.core.columns import Fetched  # noqa: PLC0415

    none = np.zeros(0, np.int64)
    return Fetched(none.astype(np.int32), none, none, b"", np.zeros(1, np.int64), np.zeros(0, np.bool_), (), {})
