"""Commits: what a folded batch makes of each partition, and how it gets into Redis.

Law: an outbox holds all that its commit will publish, each record under a stamp that names the commit: the end of an output partition then
tells how far its input's owner was. A lost reply of Redis is no failure: the commit id is read back.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamer.app import journal, letters, merging
from streamer.app.changes import Written
from streamer.core import outbox
from streamer.core.columns import Fetched
from streamer.core.errors import Unavailable
from streamer.core.fold import MERGED, PASSED
from streamer.core.partition import Learned, PartitionData, pack_erased, pack_state, unstack_sums
from streamer.core.plan import hourly
from streamer.core.ports import Commit, Committed, Outcome, OutRecord, Packed, Topic
from streamer.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.app.assignment import Owned
    from streamer.app.batch import Folded
    from streamer.app.clock import Clock
    from streamer.app.intake import Taken
    from streamer.app.tools import Settings, Tools
    from streamer.core.columns import I64, Bool, Headers
    from streamer.core.fold import Sums
    from streamer.core.ports import StateStore

log = logging.getLogger(__name__)

NO_PROFILES = Packed(np.zeros(0, np.uint8), np.zeros(1, np.int64), np.zeros(0, np.uint8), np.zeros(1, np.int64))
NO_RECORDS = Fetched(
    np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64), b"", np.zeros(1, np.int64), np.zeros(0, np.bool_), (), {}
)
NOTHING_WRITTEN = Written(b"", [])
READ_BACKS_MAX = 20
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.05, 5.0


@dataclass(frozen=True, slots=True)
class FoldedBatch:
    """A batch after the fold, over `p` partitions."""

    fetched: Fetched
    taken: Taken
    folded: Folded
    slices: Mapping[int, tuple[int, Packed]]  # of sweeps, by partition: the cursor after each, and its profiles
    watermark: I64  # (p,)


class Decided(NamedTuple):
    """What a batch comes to: a commit for each partition that it moves, and what they publish."""

    commits: list[tuple[Commit, PartitionData]]
    records: list[OutRecord]
    told: Bool  # (changed,) which of the changes are published; tombstones alone too


def stamp(commit_id: str, next_offset: int) -> Headers:
    """Say which commit a record is of."""
    return ("commit_id", commit_id.encode()), ("next_offset", str(next_offset).encode())


def stamped(headers: Headers) -> Committed | None:
    """Read a stamp; None where there is none."""
    found = dict(headers)
    commit_id, next_offset = found.get("commit_id"), found.get("next_offset")
    return None if commit_id is None or next_offset is None else Committed(int(next_offset), commit_id.decode())


def decide(tools: Tools, settings: Settings, partitions: Sequence[Owned], sums: Sums, batch: FoldedBatch) -> Decided:
    """Decide the commit of each partition that has events or a slice of a sweep, and what they publish; `partitions` as in the fold."""
    folded, rows = batch.folded, batch.folded.rows
    refusals = _letters(batch.fetched, batch.taken, settings.topic)
    began = np.full(len(partitions), np.iinfo(np.int64).max)
    timed = (rows.type >= 0) | (rows.type == PASSED) | (rows.type == MERGED)
    np.minimum.at(began, rows.part[timed], rows.time[timed])
    ends = np.full(settings.partitions, -1, np.int64)
    np.maximum.at(ends, batch.fetched.partition, batch.fetched.offset + 1)
    next_offsets = [max(owned.next_offset, int(ends[owned.number])) for owned in partitions]
    commit_ids = [owned.next_commit(tools.clock.token(), end) for owned, end in zip(partitions, next_offsets, strict=True)]
    numbers = tuple(owned.number for owned in partitions)
    stamps = {number: stamp(commit_ids[i], next_offsets[i]) for i, number in enumerate(numbers)}
    told = _wanted(folded, partitions)
    written = tools.changes.write(
        folded.changes,
        folded.changed,
        folded.customers,
        numbers,
        [tools.shelf.names(owned.data.model) for owned in partitions],
        stamps,
        tools.clock.now_ms(),
        told,
    )
    commits, published = [], []
    for i, owned in enumerate(partitions):
        number, next_offset = owned.number, next_offsets[i]
        if ends[number] < 0 and number not in batch.slices:
            continue
        refused = [] if owned.until else refusals.get(number, [])
        refused = [letter._replace(headers=(*letter.headers, *stamps[number])) for letter in refused]
        passed_over = _passed_over(owned, batch)
        also = refused + [r._replace(headers=stamps[number]) for r in _quarantines(tools, settings, owned, passed_over, commit_ids[i])]
        if folded.sent and owned.until is None and settings.sends_on:
            also += [r._replace(headers=(*r.headers, *stamps[number])) for r in _sent_on(tools, settings, owned, batch, i, commit_ids[i])]
        changes = written.get(number, NOTHING_WRITTEN)
        data = replace(
            owned.data.passing(passed_over),
            watermark=int(batch.watermark[i]),
            began=min(owned.data.began, int(began[i])),
            learned=_learned(owned.data, sums, i),
            scrub=bool(folded.erasures[i] or (refused and len(folded.erased[i]))) and owned.until is None,  # letters may be of the erased
        ).went_on(hourly(tools.intake.plan), batch.slices[number][0] if number in batch.slices else None)
        erased = None
        if folded.erased[i] is not owned.data.erased:
            data = data.erasing(settings.erasure.key_name, folded.erased[i])
            erased = pack_erased(data.erased)
        redirects = None
        if folded.redirects[i] is not owned.data.redirects:
            data = data.redirecting(folded.redirects[i])
            redirects = data.redirects.pack()
        body = pack_state(data), outbox.pack(also, changes.packed), folded.profiles(i)
        commit = Commit(number, owned.token, owned.commit_id, commit_ids[i], next_offset, *body, {}, owned.clears, erased, redirects)
        commits.append((commit, data))
        published += [*changes.records, *also]
    return Decided(commits, published, told)


def _wanted(folded: Folded, partitions: Sequence[Owned]) -> Bool:
    """Choose the changes to tell, (changed,): a rebuild tells none (7a)."""
    quiet = np.array([owned.until is not None for owned in partitions], np.bool_)
    told: Bool = ~quiet[folded.changes.part[: folded.changed]]
    return told


def _passed_over(owned: Owned, batch: FoldedBatch) -> list[int]:
    """Give the offsets of the partition's records that were passed over unread."""
    found: list[int] = batch.fetched.offset[(batch.taken.status == Reason.QUARANTINED) & (batch.fetched.partition == owned.number)].tolist()
    return found


def _quarantines(tools: Tools, settings: Settings, owned: Owned, offsets: Sequence[int], commit_id: str) -> list[OutRecord]:
    """Write what is passed over in the journal, unless it stands there already: whoever reads the log again must pass it over too."""
    if owned.until is not None or settings.follow:
        return []
    entries = [journal.quarantine_entry(owned.data, offset) for offset in offsets if offset != owned.passed_over]
    return [journal.record(entry, owned.number, commit_id, tools.clock.now_ms(), settings.journal_schema) for entry in entries]


def _sent_on(tools: Tools, settings: Settings, owned: Owned, batch: FoldedBatch, i: int, commit_id: str) -> list[OutRecord]:
    """Write what merges send on, and an entry of the journal, so that the end of the output tells of this commit whatever else it tells."""
    sent = [one for one in batch.folded.sent if one.part == i]
    if not sent:
        return []
    schema_id = tools.events_schema()
    records = []
    for one in sent:
        value = merging.written(merging.sent_on(batch.taken, batch.fetched, one), schema_id)
        place = settings.place(one.customer, settings.partitions)
        records.append(OutRecord(Topic.EVENTS, place, one.customer, value, ((merging.SOURCE, b"%d" % owned.number),)))
    entry = journal.sent_entry(owned.data, int(batch.fetched.offset[sent[-1].record]))
    return [*records, journal.record(entry, owned.number, commit_id, tools.clock.now_ms(), settings.journal_schema)]


def _learned(data: PartitionData, sums: Sums, i: int) -> Learned | None:
    return None if data.centroids is None else unstack_sums(sums, i, len(data.centroids))


def _letters(batch: Fetched, taken: Taken, topic: str) -> dict[int, list[OutRecord]]:
    """Write the refused records of a batch as dead letters."""
    written: dict[int, list[OutRecord]] = {}
    for i in np.flatnonzero(taken.status).tolist():
        letter = letters.write(batch, i, Reason(int(taken.status[i])), topic)
        written.setdefault(int(batch.partition[i]), []).append(letter)
    return written


def commit_all(store: StateStore, clock: Clock, commits: Sequence[Commit]) -> list[Outcome]:
    """Commit to Redis; where a reply is lost, read back what became of each commit.

    Raises:
        Unavailable: Redis did not say, for as long as is worth waiting.

    """
    try:
        return store.commit(commits)
    except Unavailable as error:
        log.warning("a reply of Redis was lost, reading back: %s", error)
    return [_read_back(store, clock, commit) for commit in commits]


def _read_back(store: StateStore, clock: Clock, commit: Commit) -> Outcome:
    """Find out whether a commit was applied; apply it if it was not and still may be."""
    pause_s = BACKOFF_FIRST_S
    for _ in range(READ_BACKS_MAX):
        try:
            state = store.read([commit.partition])[0]
            if state.commit_id == commit.commit_id:
                return Outcome.APPLIED
            if state.owner != commit.owner:
                return Outcome.OTHER_OWNER
            if state.commit_id != commit.expected:
                return Outcome.OTHER_COMMIT
            return store.commit([commit])[0]
        except Unavailable:
            clock.sleep(pause_s)
            pause_s = min(2 * pause_s, BACKOFF_MAX_S)
    message = f"Redis did not say within {READ_BACKS_MAX} attempts what became of a commit of partition {commit.partition}"
    raise Unavailable(message)
