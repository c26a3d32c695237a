"""Decisions that the log does not say: which version and epoch a partition judges by from which offset on, and when its clock went on.

Laws: a decision is a commit of its own between two batches, with its journal entry in the outbox. Nothing is adopted before every customer
has been judged by what was adopted last. Who follows a journal decides nothing of its own.
"""

from __future__ import annotations

import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from streamer.app import journal
from streamer.app.commits import NO_PROFILES, stamp
from streamer.app.models import ANNOUNCED
from streamer.core import outbox
from streamer.core.errors import Corrupt
from streamer.core.partition import Announcement, adopt_epoch, adopt_version, pack_state, tick, unpack_state
from streamer.core.plan import hourly
from streamer.core.ports import Commit
from streamer.core.profile import DAY_MS, HOUR_MS, NEVER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.app.assignment import Owned
    from streamer.app.tools import Settings, Tools
    from streamer.core.columns import I64
    from streamer.core.model import ModelVersion
    from streamer.core.partition import PartitionData
    from streamer.core.ports import OutRecord

log = logging.getLogger(__name__)

NOTHING: Mapping[str, bytes] = MappingProxyType({})


class Hands(Protocol):
    """Who holds partitions, and carries commits out: a worker, as far as decisions need one."""

    @property
    def owned(self) -> Mapping[int, Owned]:
        """Tell which partitions are held."""

    def carry_out(self, commits: Sequence[tuple[Commit, PartitionData]], records: Sequence[OutRecord]) -> None:
        """Carry out 1 and begin 2 of `protocol.py`; a partition whose commit is refused is held no more."""

    def restack(self) -> None:
        """Take in that a partition judges by something else now."""

    def drained(self, owned: Owned) -> bool:
        """Finish a partition's sweep; False if the partition was lost meanwhile."""


class Decisions:
    """Takes a partition's decisions: by what was announced, or by the journal."""

    def __init__(self, settings: Settings, tools: Tools, hands: Hands) -> None:
        """Decide for the partitions that `hands` holds."""
        self._settings = settings
        self._tools = tools
        self._hands = hands

    def holds(self, owned: Owned) -> bool:
        """Tell whether a partition is still held."""
        return self._hands.owned.get(owned.number) is owned

    def follow(self, owned: Owned) -> None:
        """Take the journal's decisions up to where the partition is.

        Raises:
            Corrupt: the journal has a decision that this program does not know.

        """
        while owned.script and owned.next_offset >= owned.script[0].at_offset and owned.number in self._hands.owned:
            entry = owned.script[0]
            if entry.kind == journal.QUARANTINE:
                owned.passed_over = owned.script.popleft().at_offset
                continue
            if entry.kind == journal.TICK:
                owned.script.popleft()
                self._adopt(owned, tick(owned.data, entry.as_of, hourly=hourly(self._tools.intake.plan)), entry, told=True)
                continue
            if not self._hands.drained(owned):
                return
            owned.script.popleft()
            if entry.kind == journal.VERSION:
                version = self._told_of(entry, owned.number)
                self._adopt(owned, adopt_version(owned.data, version, entry.epoch, entry.at_offset, entry.as_of), entry, told=True)
            elif entry.kind == journal.EPOCH and owned.data.centroids is not None:
                self._adopt(owned, adopt_epoch(owned.data, entry.epoch, entry.centroids(owned.data.centroids.shape)), entry, told=True)
            elif entry.kind != journal.EPOCH:
                message = f"the journal of partition {owned.number} has the decision {entry.kind!r}: run the version that wrote it"
                raise Corrupt(message)

    def heed(self) -> None:
        """Adopt what partition 0's owner has announced."""
        packed = self._tools.store.announced(ANNOUNCED)
        if packed is None:
            return
        said = Announcement.unpack(packed)
        for owned in list(self._hands.owned.values()):
            data = owned.data
            if not owned.decides:
                continue
            if not data.swept:
                continue  # nothing is adopted before every customer has been judged by what was adopted last
            if said.epoch > data.adopted and said.model != data.model:
                self.adopt_version(owned, self._tools.shelf.get(said.model), said.first_epoch)
            elif said.epoch > data.adopted:
                self.adopt_epoch(owned, said.epoch, said.centroids)

    def _told_of(self, entry: journal.Entry, partition: int) -> ModelVersion:
        """Find the version that the journal names."""
        version, found = self._tools.shelf.get(entry.model), self._tools.shelf.digest(entry.model)
        if entry.payload != found:
            message = (
                f"the journal of partition {partition} names version {entry.model} by the SHA-256 {entry.payload.hex()}, "
                f"and the models' topic has another one under this number ({found.hex()}): restore the topic"
            )
            raise Corrupt(message)
        return version

    def adopt_version(
        self, owned: Owned, version: ModelVersion, epoch: int, announce: Mapping[str, bytes] = NOTHING, also: Sequence[OutRecord] = ()
    ) -> None:
        """Adopt a version where the partition is, as the epoch of that number.

        `also` is published with it, `announce` written in the same step.
        """
        adopted = adopt_version(owned.data, version, epoch, owned.next_offset, owned.data.watermark)
        self._adopt(owned, adopted, journal.version_entry(adopted, self._tools.shelf.digest(version.version)), announce, also)

    def adopt_epoch(self, owned: Owned, epoch: int, centroids: I64) -> None:
        """Adopt an epoch's centroids, (k, f), where the partition is."""
        adopted = adopt_epoch(owned.data, epoch, centroids)
        self._adopt(owned, adopted, journal.epoch_entry(adopted, owned.next_offset))

    def tick(self) -> None:
        """Let the clocks of idle partitions go on to the boundary of time that has come due, while the job's data are of today."""
        settings, clock, in_hours = self._settings, self._tools.clock, hourly(self._tools.intake.plan)
        if settings.tick_after_s is None:
            return
        tile_ms = HOUR_MS if in_hours else DAY_MS
        now_ms, quiet_since = clock.now_ms(), clock.monotonic_s() - settings.tick_after_s
        boundary = (now_ms - int(1000 * settings.tick_after_s)) // tile_ms * tile_ms
        idle = [
            owned
            for owned in self._hands.owned.values()
            if owned.data.model and owned.data.watermark < boundary and owned.heard_s <= quiet_since and owned.decides
        ]
        if not idle or now_ms - self._latest() > 1000 * settings.tick_within_s:
            return
        for owned in idle:
            if self.holds(owned):
                ticked = tick(owned.data, boundary, hourly=in_hours)
                self._adopt(owned, ticked, journal.tick_entry(ticked, owned.next_offset))

    def _latest(self) -> int:
        """Read the latest watermark of any partition."""
        states = self._tools.store.read(range(self._settings.partitions))
        return max((unpack_state(state.state).watermark for state in states if state.commit_id), default=NEVER)

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
        commit_id = owned.next_commit(clock.token())
        written = journal.record(entry, owned.number, commit_id, clock.now_ms(), self._settings.journal_schema)
        records = [] if told else [r._replace(headers=(*r.headers, *stamp(commit_id, owned.next_offset))) for r in (*also, written)]
        self.commit(owned, commit_id, data, records, announce)
        if owned.commit_id == commit_id:
            log.info("partition %d: %s at offset %d, model %d.%d", owned.number, entry.kind, owned.next_offset, data.model, data.epoch)

    def commit(
        self,
        owned: Owned,
        commit_id: str,
        data: PartitionData,
        records: Sequence[OutRecord] = (),
        announce: Mapping[str, bytes] = NOTHING,
    ) -> None:
        """Carry out a commit that moves no profile."""
        packed = pack_state(data), outbox.pack(records), NO_PROFILES, announce
        commit = Commit(owned.number, owned.token, owned.commit_id, commit_id, owned.next_offset, *packed, clears=owned.clears)
        self._hands.carry_out([(commit, data)], records)
        self._hands.restack()
