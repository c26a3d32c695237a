"""The worker: events in, segment changes out, for the partitions that the group gives it.

Law: whatever stops it, at any point, the partition's next owner goes on as `protocol.py` says, whose steps are cited here by their numbers.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from streamer.app.assignment import NO_LIMIT, take_over
from streamer.app.batch import Parts, fold_batch
from streamer.app.commits import BACKOFF_FIRST_S, BACKOFF_MAX_S, NO_RECORDS, FoldedBatch, commit_all, decide
from streamer.app.decisions import Decisions
from streamer.app.leading import Leader
from streamer.app.publishing import Publication
from streamer.app.rebuild import Forked, settle
from streamer.app.reconciling import Reconciler
from streamer.app.recording import look_around
from streamer.app.strays import part
from streamer.app.tools import Settings, Tools, Totals
from streamer.core.columns import select
from streamer.core.errors import LostOwnership, Unavailable
from streamer.core.partition import BEGINS, stack_judge, stack_sums
from streamer.core.ports import Committed, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streamer.app.assignment import Owned, TakenOver
    from streamer.app.recording import Counted
    from streamer.core.columns import I64, U8, Bool, Fetched
    from streamer.core.declaration import Declaration
    from streamer.core.fold import Judge, Sums
    from streamer.core.partition import PartitionData
    from streamer.core.ports import Commit, OutRecord, Packed

log = logging.getLogger(__name__)

UNCOUNTED: Mapping[int, Counted] = MappingProxyType({})


class Worker:
    """Consumes, commits, publishes, until told to stop."""

    def __init__(self, settings: Settings, declaration: Declaration, tools: Tools) -> None:
        """Own nothing yet: partitions come with the first poll."""
        self._settings = settings
        self._declaration = declaration
        self._tools = tools
        self._life = tools.clock.token()
        self._owned: dict[int, Owned] = {}
        self._swept_last = -1
        self._forked: set[int] = set()
        self._waiting: dict[int, tuple[float, float]] = {}  # partition -> when to run its assignment, back-off after that
        self._judge: Judge | None = None
        self._sums: Sums | None = None
        self._order: tuple[int, ...] = ()
        self._last_event_s = tools.clock.monotonic_s()
        self._due = {"poll": 0.0, "fit": 0.0, "epoch": 0.0, "idle": 0.0, "look": 0.0, "tick": 0.0}
        self._decisions = Decisions(settings, tools, self)
        self._leader = Leader(settings, tools, self._decisions)
        self._reconciler = Reconciler(settings, tools, self)
        self.totals = Totals()
        tools.log.before_revoked(self._hand_over)

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
        """Publish what is committed, and leave the group."""
        try:
            self._tools.publishing.handed_over()
        except Unavailable as error:
            log.warning("stopping without confirmation: the next owner publishes the last commit: %s", error)
        self._tools.log.close()
        self._tools.publishing.close()

    def step(self) -> None:
        """Do one round: fetch, fold, commit, publish, and what time asks for."""
        recorder = self._tools.recorder
        recorder.turned(self._owned, [p for p in self._waiting if p not in self._owned], self._tools.shelf.known)
        self._assign()
        busy = any(owned.sweeping or owned.rebuilt or owned.parting or self._reconciler.due(owned) for owned in self._owned.values())
        wait_s = 0.0 if busy or self._tools.publishing.pending else self._settings.wait_s
        with recorder.stage("fetch"):
            fetched = self._tools.log.fetch(self._settings.records_max, wait_s, self._settings.gather_s)
        self._rebalance()
        if len(fetched):
            self._last_event_s = self._tools.clock.monotonic_s()
            for number in np.flatnonzero(np.bincount(fetched.partition)).tolist():
                if number in self._owned:
                    self._owned[number].heard_s = self._last_event_s
            self._through(fetched)
            if len(fetched) < self._settings.records_max:  # no full batch waits: let nobody wait for the next
                self._confirm()
        elif any(owned.sweeping for owned in self._owned.values()):
            self._commit_batch(None)
        else:
            self._confirm()
        for owned in list(self._owned.values()):
            self._decisions.follow(owned)
            if (owned.rebuilt or owned.parting) and self._owned.get(owned.number) is owned:
                try:
                    self._settle(owned)
                except Unavailable as error:  # such as a transaction still open where it must read: the other partitions go on
                    log.warning("partition %d: its rebuild can't end yet: %s", owned.number, error)
                    self._again(owned.number)
        self._scrub(fetched)
        self._reconciler.heed()
        self._reconciler.go_on()
        self._timers()

    def idle(self, for_s: float | None) -> bool:
        """Tell whether everything is done and nothing has come for so long; never, for None."""
        left = any(
            owned.until or owned.script or owned.parting or owned.data.scrub or not owned.data.swept or self._reconciler.due(owned)
            for owned in self._owned.values()
        )
        done = not self._tools.publishing.pending and not left
        return for_s is not None and bool(self._owned) and done and self._tools.clock.monotonic_s() - self._last_event_s >= for_s

    @property
    def owned(self) -> Mapping[int, Owned]:
        """Tell which partitions the worker has."""
        return self._owned

    # Assignment

    def _hand_over(self, partitions: Sequence[int]) -> None:
        """Publish what is committed while partitions that are about to be revoked are still ours: their next owner need not."""
        if any(partition in self._owned for partition in partitions):
            self._tools.publishing.handed_over()

    def _rebalance(self) -> None:
        """Take in what the group did."""
        changed = self._tools.log.rebalanced()
        gone = (*changed.revoked, *changed.lost)
        for partition in gone:
            self._owned.pop(partition, None)
            self._waiting.pop(partition, None)
        for partition in changed.lost:
            self._tools.publishing.withdraw(partition)
        for partition in changed.assigned:
            self._waiting[partition] = (0.0, BACKOFF_FIRST_S)
        if gone:
            self.restack()
            self._confirm()  # last: the group is not told twice, so what it said is taken in whether or not Kafka answers now

    def _drop_all(self) -> None:
        """Forget what is in memory; run every assignment anew."""
        self._tools.publishing.give_up()
        for partition in list(self._owned):
            self._again(partition)

    def _again(self, partition: int) -> None:
        """Run a partition's assignment anew, after a while (8a)."""
        if self._owned.pop(partition, None) is None:
            return  # given up meanwhile
        self._tools.publishing.withdraw(partition)
        self._tools.log.pause([partition])
        pause_s = self._waiting.get(partition, (0.0, BACKOFF_FIRST_S))[1]
        self._waiting[partition] = (self._tools.clock.monotonic_s() + pause_s, min(2 * pause_s, BACKOFF_MAX_S))
        self.restack()

    def _assign(self) -> None:
        """Run the assignments that are due (5, 6)."""
        tools = self._tools
        now = tools.clock.monotonic_s()
        ready = [partition for partition, (at, _) in self._waiting.items() if at <= now and partition not in self._owned]
        for partition in ready:
            pause_s = self._waiting[partition][1]
            try:
                tools.publishing.ready()
                self._begin(take_over(tools, self._settings, self._declaration, partition, forked=partition in self._forked))
            except (Unavailable, LostOwnership) as error:
                log.warning("partition %d: %s; trying again in %.1f s", partition, error, pause_s)
                tools.recorder.unavailable()
                self._owned.pop(partition, None)
                tools.publishing.withdraw(partition)  # what it left may be on its way already, and is sent again next time
                self._waiting[partition] = (now + pause_s, min(2 * pause_s, BACKOFF_MAX_S))
            else:
                if partition in self._owned:  # else its first commit was refused, and it is to be assigned anew after a while
                    self._waiting[partition] = (float("inf"), BACKOFF_FIRST_S)
        if ready:
            self._last_event_s = now  # who has just been given partitions is not idle
            self.restack()

    def _begin(self, taken_over: TakenOver) -> None:
        """Publish what a partition's last owner left, or empty what is to be built from nothing, and go on from there."""
        owned = taken_over.owned
        if taken_over.publication is not None:
            self._tools.publishing.send([taken_over.publication])
        self._owned[owned.number] = owned
        owned.heard_s = self._tools.clock.monotonic_s()
        if owned.clears:
            self._decisions.commit(owned, owned.next_commit(self._tools.clock.token()), owned.data)
            if self._owned.get(owned.number) is not owned:
                return
        if not owned.parting:
            self._tools.log.start(owned.number, owned.next_offset)
        self._tools.recorder.taken_over(rebuilding=owned.until is not None)
        log.info("partition %d: from offset %d, model %d, epoch %d", owned.number, owned.next_offset, owned.data.model, owned.data.epoch)

    def restack(self) -> None:
        """Lay the partitions' models and sums side by side again."""
        if 0 not in self._owned:
            self._tools.shelf.forget_unpublished()
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
                if owned.careful:
                    limit[number] = min(owned.limit, 1 + int(fetched.offset[fetched.partition == number].min(initial=NO_LIMIT - 1)))
            ready = fetched.offset < limit[fetched.partition] if len(fetched) else np.zeros(0, bool)
            held = select(fetched, np.flatnonzero(~ready))
            if ready.any():
                self._commit_batch(select(fetched, np.flatnonzero(ready)))
            for number in np.unique(held.partition).tolist():
                if number in self._owned:
                    owned = self._owned[number]
                    owned.next_offset = max(owned.next_offset, int(limit[number]))  # nothing below is left to come, gaps or not
                    self._decisions.follow(owned)
                    if owned.rebuilt:
                        self._tools.log.pause([number])  # what is held comes again once the rebuild is settled
                        held = select(held, np.flatnonzero(held.partition != number))
            fetched = held

    def _slices(self, draining: int | None, *, live: bool) -> dict[int, tuple[int, Packed]]:
        """Read the next slices of the sweeps that are due: by partition, the cursor after it and the profiles.

        Beside a batch of live events it is one slice alone, of the partition that has waited longest, so that live events need not wait.
        """
        due = [number for number, owned in self._owned.items() if owned.sweeping or (number == draining and not owned.data.swept)]
        if draining is not None:
            due = [draining]
        elif live and due:
            due = [min(due, key=lambda number: (number <= self._swept_last, number))]
            self._swept_last = due[0]
        slices = {}
        for number in sorted(due):
            owned = self._owned[number]
            owned.visited *= owned.data.cursor != BEGINS
            slices[number] = self._tools.store.scan(number, int(owned.data.cursor), self._settings.sweep_records, owned.commit_id)
            owned.visited += len(slices[number][1].bounds) - 1
        return slices

    def _commit_batch(self, fetched: Fetched | None, draining: int | None = None) -> None:
        """Fold a batch and the next slices of sweeps, and commit each partition that has either."""
        if self._judge is None or self._sums is None or not self._owned:
            return
        tools, stage = self._tools, self._tools.recorder.stage
        with stage("sweep"):
            slices = self._slices(draining, live=fetched is not None)
        lookup = np.full(self._settings.partitions, -1, np.int32)
        lookup[list(self._order)] = np.arange(len(self._order))
        batch = NO_RECORDS if fetched is None else fetched
        unread = self._beware(batch)
        with stage("decode"):
            taken = tools.intake.take(batch, lookup[batch.partition], unread)
        watermark = np.array([self._owned[p].data.watermark for p in self._order], np.int64)
        swept = {int(lookup[p]): packed for p, (_, packed) in slices.items()}
        erased, rule = [self._owned[p].data.erased for p in self._order], self._settings.erasure
        redirects = [self._owned[p].data.redirects for p in self._order]
        beside = erased, rule, redirects, self._settings.redirect_ms, tools.pseudonyms
        parts = Parts(self._order, self._judge, self._sums, watermark, self._settings.era, *beside)
        with stage("fold"):
            folded = fold_batch(tools.intake.plan, parts, taken, swept, self._load)
        self.totals.add(taken, folded)
        owned = [self._owned[partition] for partition in self._order]
        through = FoldedBatch(batch, taken, folded, slices, watermark)
        with stage("decide"):
            decided = decide(tools, self._settings, owned, self._sums, through)
        self.carry_out(decided.commits, decided.records, tools.recorder.count(owned, through, decided))

    def _beware(self, batch: Fetched) -> Bool | None:
        """Choose the records not to be read, (n,), and note who begins one that is taken alone; None where nothing is suspicious."""
        wary = [owned for owned in self._owned.values() if owned.careful or owned.passed_over >= 0]
        if not wary:
            return None
        unread = np.zeros(len(batch), np.bool_)
        for owned in wary:
            mine = batch.partition == owned.number
            unread |= mine & (batch.offset == owned.passed_over)
            if not owned.careful or not mine.any():
                continue
            offset = int(batch.offset[mine][0])
            if owned.attempts.offset == offset and len(owned.attempts.lives) >= self._settings.deaths_max:
                deaths = len(owned.attempts.lives)
                log.error("partition %d: %d processes ended as they read offset %d: it is quarantined", owned.number, deaths, offset)
                unread |= mine & (batch.offset == offset)
                continue
            owned.attempts = owned.attempts.by(offset, self._life)
            self._tools.store.note_attempts(owned.number, owned.attempts.pack())
        return unread

    def _load(self, partitions: Sequence[int], ids: Sequence[tuple[U8, I64]]) -> list[Packed]:
        with self._tools.recorder.stage("load"):
            return self._tools.store.load(partitions, ids, [self._owned[partition].commit_id for partition in partitions])

    # Commits

    def carry_out(
        self, commits: Sequence[tuple[Commit, PartitionData]], records: Sequence[OutRecord], counted: Mapping[int, Counted] = UNCOUNTED
    ) -> None:
        """Carry out 1 and begin 2 for one commit per partition, after 4 of the commits before."""
        folded_into = self._sums
        self._confirm()
        still = [(commit, data) for commit, data in commits if self._holds(commit)]
        with self._tools.recorder.stage("commit"):
            outcomes = commit_all(self._tools.store, self._tools.clock, [commit for commit, _ in still])
        publications = []
        for (commit, data), outcome in zip(still, outcomes, strict=True):
            self._tools.recorder.committed(outcome, counted.get(commit.partition))
            if outcome is Outcome.APPLIED:
                owned = self._owned[commit.partition]
                owned.commit_id, owned.next_offset, owned.data, owned.clears = commit.commit_id, commit.next_offset, data, False
                if owned.until is None:  # 7a
                    position = Committed(commit.next_offset, commit.commit_id)
                    publications.append(Publication(commit.partition, commit.owner, commit.outbox, position))
        whole = len(still) == len(commits) and all(outcome is Outcome.APPLIED for outcome in outcomes)
        with self._tools.recorder.stage("publish"):
            self._tools.publishing.send(publications, records if whole else None)
        for (commit, _), outcome in zip(still, outcomes, strict=True):
            if outcome is not Outcome.APPLIED:
                log.warning("partition %d: a commit was refused, %s has written: assigning anew", commit.partition, outcome.value)
                self._again(commit.partition)
        if not whole or self._sums is not folded_into:  # what was folded into is gone, or holds what was not committed
            self.restack()

    def _scrub(self, fetched: Fetched) -> None:
        """Let another commit follow one whose outbox names erased customers, so that Redis holds nothing of them (9).

        Where records come, the next batch's does.
        """
        due = [owned for owned in self._owned.values() if owned.data.scrub and owned.until is None and not owned.parting]
        for owned in due:
            if self._owned.get(owned.number) is owned and not (fetched.partition == owned.number).any():
                self._decisions.commit(owned, owned.next_commit(self._tools.clock.token()), replace(owned.data, scrub=False))

    def _holds(self, commit: Commit) -> bool:
        """Tell whether a commit goes on from where this worker still is."""
        owned = self._owned.get(commit.partition)
        return owned is not None and (owned.token, owned.commit_id) == (commit.owner, commit.expected)

    def _confirm(self) -> None:
        """Finish what is on its way (3, 4); what can't be told to be published begins anew."""
        publishing = self._tools.publishing
        if not publishing.pending:
            return
        with self._tools.recorder.stage("confirm"):
            failed = publishing.finish()
        for partition in failed:
            self._again(partition)
        if not failed:
            self._tools.recorder.acknowledged()

    def drained(self, owned: Owned) -> bool:
        """Finish the partition's sweep; False if the partition was lost meanwhile."""
        while self._owned.get(owned.number) is owned and not owned.data.swept:
            self._commit_batch(None, draining=owned.number)
        return self._owned.get(owned.number) is owned

    def _settle(self, owned: Owned) -> None:
        """Go on with ending a rebuild, a part at a time (7d, 7e)."""
        if owned.parting:
            self._part(owned)
            return
        try:
            outcome = settle(self._tools, self._settings, owned)
        except Forked:
            log.warning("partition %d: what Redis was rolled back to is not what was told of: rebuilding from nothing", owned.number)
            self._forked.add(owned.number)
            self._again(owned.number)
            return
        if outcome is None:
            return
        self._tools.recorder.committed(outcome, None)
        if outcome is not Outcome.APPLIED:
            self._again(owned.number)
            return
        self._forked.discard(owned.number)
        self.restack()
        if owned.data.strays:
            self._tools.log.pause([owned.number])
        else:
            self._tools.log.start(owned.number, owned.next_offset)

    def _part(self, owned: Owned) -> None:
        """Go on with telling that strays left; then events may come (7e)."""
        self._confirm()  # what its last owner left is read back
        if self._owned.get(owned.number) is owned:
            part(self._tools, self._settings, owned, self)
        if self._owned.get(owned.number) is owned and not owned.parting:
            self._tools.log.start(owned.number, owned.next_offset)

    # Time

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
        if leader is not None and leader.decides:
            if leader.data.model == 0 and due("fit", settings.poll_interval_s):
                self._leader.lead_first(leader)
            elif leader.data.model and due("epoch", settings.epoch_interval_s):
                self._leader.lead(leader)
        if not settings.follow and due("poll", settings.poll_interval_s):
            self._decisions.heed()
        if settings.tick_after_s is not None and not settings.follow and due("tick", settings.tick_after_s / 12):
            self._decisions.tick()

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
