"""The worker: events in, segment changes out, for the partitions that the group gives it.

A batch goes through these steps:

1. One Redis commit per partition, guarded by the owner token and the commit id at which the batch began: profiles, sums, next offset,
   outbox.
2. The outbox is published, then the group's position with the commit's id as metadata.
3. Only when that is acknowledged may the next Redis commit replace the outbox.

Laws: whatever stops the worker, at any point, the partition's next owner goes on from Redis's `next_offset` and publishes the outbox again
where Kafka's position doesn't carry its commit id. A failed check is no failure: the assignment is run anew.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from streamer.app import journal
from streamer.app.assignment import NO_LIMIT, take_over
from streamer.app.batch import Parts, fold_batch
from streamer.app.commits import BACKOFF_FIRST_S, BACKOFF_MAX_S, NO_PROFILES, NO_RECORDS, FoldedBatch, commit_all, decide, stamp
from streamer.app.models import ANNOUNCED, encoded, record, stored_name
from streamer.app.recording import look_around
from streamer.app.tools import Settings, Tools, Totals
from streamer.core import outbox
from streamer.core.columns import select
from streamer.core.errors import Unavailable
from streamer.core.fold import FINER
from streamer.core.partition import (
    Announcement,
    PartitionData,
    adopt_epoch,
    adopt_version,
    next_centroids,
    pack_state,
    stack_judge,
    stack_sums,
    unpack_state,
)
from streamer.core.ports import Commit, Committed, Outcome, OutRecord, Packed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from streamer.app.assignment import Owned, TakenOver
    from streamer.app.recording import Counted
    from streamer.core.columns import I64, U8, Fetched
    from streamer.core.declaration import Declaration
    from streamer.core.fold import Judge, Sums
    from streamer.core.model import ModelVersion

log = logging.getLogger(__name__)

NOTHING: Mapping[str, bytes] = MappingProxyType({})
UNCOUNTED: Mapping[int, Counted] = MappingProxyType({})


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
        self._due = {"poll": 0.0, "fit": 0.0, "epoch": 0.0, "idle": 0.0, "look": 0.0}
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
                self._tools.recorder.unavailable()
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
        recorder = self._tools.recorder
        recorder.turned(self._owned, [p for p in self._waiting if p not in self._owned], self._tools.shelf.known)
        self._assign()
        busy = any(not owned.data.swept for owned in self._owned.values())
        wait_s = 0.0 if busy or self._unconfirmed else self._settings.wait_s
        with recorder.stage("fetch"):
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
        """Take in what the group did."""
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
        """Run the assignments that are due."""
        tools, settings = self._tools, self._settings
        now = self._tools.clock.monotonic_s()
        ready = [partition for partition, (at, _) in self._waiting.items() if at <= now and partition not in self._owned]
        for partition in ready:
            pause_s = self._waiting[partition][1]
            try:
                self._begin(take_over(tools, self._declaration, partition, settings.publish_timeout_s, follow=settings.follow))
            except Unavailable as error:
                log.warning("partition %d: %s; trying again in %.1f s", partition, error, pause_s)
                tools.recorder.unavailable()
                self._waiting[partition] = (now + pause_s, min(2 * pause_s, BACKOFF_MAX_S))
            else:
                self._waiting[partition] = (float("inf"), BACKOFF_FIRST_S)
        if ready:
            self._last_event_s = now  # who has just been given partitions is not idle
            self._restack()

    def _begin(self, taken_over: TakenOver) -> None:
        """Publish what a partition's last owner left, and go on from there."""
        owned = taken_over.owned
        self._publish(taken_over.unpublished)
        if taken_over.position is not None:
            self._unconfirmed[owned.number] = taken_over.position
        self._tools.log.start(owned.number, owned.next_offset)
        self._owned[owned.number] = owned
        self._tools.recorder.taken_over(rebuilding=owned.quiet_below > 0)
        log.info("partition %d: from offset %d, model %d, epoch %d", owned.number, owned.next_offset, owned.data.model, owned.data.epoch)

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
            limit = np.full(self._settings.partitions, NO_LIMIT)
            for number, owned in self._owned.items():
                limit[number] = owned.limit
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
        tools, stage = self._tools, self._tools.recorder.stage
        with stage("sweep"):
            slices = self._slices(self._order)
        lookup = np.full(self._settings.partitions, -1, np.int32)
        lookup[list(self._order)] = np.arange(len(self._order))
        batch = NO_RECORDS if fetched is None else fetched
        with stage("decode"):
            taken = tools.intake.take(batch, lookup[batch.partition])
        watermark = np.array([self._owned[p].data.watermark for p in self._order], np.int64)
        swept = {int(lookup[p]): packed for p, (_, packed) in slices.items()}
        parts = Parts(self._order, self._judge, self._sums, watermark, self._settings.era, tools.pseudonyms)
        with stage("fold"):
            folded = fold_batch(tools.intake.plan, parts, taken, swept, self._load)
        self.totals.add(taken, folded)
        owned = [self._owned[partition] for partition in self._order]
        through = FoldedBatch(batch, taken, folded, slices, watermark)
        with stage("decide"):
            decided = decide(tools, self._settings, owned, self._sums, through)
        self._carry_out(decided.commits, decided.records, tools.recorder.count(owned, through, decided))

    def _load(self, partitions: Sequence[int], ids: Sequence[tuple[U8, I64]]) -> list[Packed]:
        with self._tools.recorder.stage("load"):
            return self._tools.store.load(partitions, ids)

    # Commits

    def _carry_out(
        self, commits: Sequence[tuple[Commit, PartitionData]], records: Iterable[OutRecord], counted: Mapping[int, Counted] = UNCOUNTED
    ) -> None:
        """Carry out steps 1 and 2 for one commit per partition, after step 3 of the commits before."""
        self._confirm()
        with self._tools.recorder.stage("commit"):
            outcomes = commit_all(self._tools.store, self._tools.clock, [commit for commit, _ in commits])
        refused = set()
        for (commit, data), outcome in zip(commits, outcomes, strict=True):
            self._tools.recorder.committed(outcome, counted.get(commit.partition))
            if outcome is Outcome.APPLIED:
                owned = self._owned[commit.partition]
                owned.commit_id, owned.next_offset, owned.data = commit.commit_id, commit.next_offset, data
                if not owned.quiet_below:  # until a rebuild is over, Kafka's position says how far it must go
                    self._unconfirmed[commit.partition] = Committed(commit.next_offset, commit.commit_id)
            else:
                log.warning(
                    "partition %d: a commit was refused, %s has written: running its assignment anew", commit.partition, outcome.value
                )
                refused.add(commit.partition)
        if not refused:
            self._publish(records)
            return
        for (commit, _), outcome in zip(commits, outcomes, strict=True):
            if outcome is Outcome.APPLIED:
                self._publish(outbox.unpack(commit.outbox))
        for partition in refused:
            self._again(partition)

    def _publish(self, records: Iterable[OutRecord]) -> None:
        sent = list(records)
        if sent:
            with self._tools.recorder.stage("publish"):
                self._tools.publisher.send(sent)
            self._unpublished = True

    def _confirm(self) -> None:
        """Wait until everything published is acknowledged, then commit the positions."""
        if self._unpublished:
            with self._tools.recorder.stage("confirm"):
                self._tools.publisher.wait(self._settings.publish_timeout_s)
            self._unpublished = False
            self._tools.recorder.acknowledged()
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
                self._adopt(
                    owned, adopt_version(owned.data, self._tools.shelf.get(entry.model), entry.at_offset, entry.as_of), entry, told=True
                )
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
        records = [] if told else [r._replace(headers=(*r.headers, *stamp(commit_id, owned.next_offset))) for r in (*also, written)]
        self._commit_decision(owned, commit_id, data, records, announce)
        if owned.commit_id == commit_id:
            log.info("partition %d: %s %d.%d adopted at offset %d", owned.number, entry.kind, data.model, data.epoch, owned.next_offset)

    def _commit_decision(
        self, owned: Owned, commit_id: str, data: PartitionData, records: Sequence[OutRecord], announce: Mapping[str, bytes]
    ) -> None:
        """Carry out a commit that moves no profile."""
        packed = pack_state(data), outbox.pack(records), NO_PROFILES, announce
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
        if self._tools.recorder.watches and due("look", settings.look_s):
            look_around(self._tools.recorder, self._tools.log, self._tools.store, self._owned)
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
        if numbers:
            self._tools.recorder.answered()

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
        if not self._announce(owned) or self._settings.follow or self._owned.get(owned.number) is not owned:
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
            self._commit_decision(owned, self._tools.clock.token(), data, [], announce)
        return True

    def _lead_first(self, owned: Owned) -> None:
        """Make the first model: only partition 0's owner does."""
        first_model = self._tools.first_model
        if first_model is None or self._settings.follow or self._tools.store.announced(ANNOUNCED) is not None:
            return
        version = first_model.fit(self._tools.store, self._settings.partitions, self._tools.clock.now_ms())
        if version is None:
            return
        body = encoded(version)
        self._tools.shelf.put(version, body)
        self._adopt_version(owned, version, {stored_name(version.version): body}, [record(version, body, self._settings.models_schema)])
        self._announce(owned)
