"""The journal: what partitions' owners decided that the log does not say, written with each decision and read to follow it again.

Laws: an entry is in the same commit as the decision it records. Whoever follows a partition's journal from the state it had at an offset
takes the same decisions at the same offsets.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamer.adapters.avro import codec, wire
from streamer.core.partition import PASSED_OVER_KEPT
from streamer.core.ports import OutRecord, Topic
from streamer.core.profile import NEVER

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streamer.core.columns import I64
    from streamer.core.partition import PartitionData
    from streamer.core.ports import LogRecord

ENTRY = "journal_entry"
VERSION, EPOCH, QUARANTINE, TICK = "version", "epoch", "quarantine", "tick"
SENT = "sent"
"""No decision: that a commit sent customers' events on, which no other output of the partition need tell of."""
ADOPTIONS = (VERSION, EPOCH)


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision: which epoch of which version was adopted at which offset, and as of when customers are judged by a new version.

    Or that the record at an offset is passed over unread, under the epoch that was adopted then. Or that an idle partition's clock went on
    to `as_of`.
    """

    kind: str
    at_offset: int
    as_of: int
    model: int
    epoch: int
    payload: bytes

    def centroids(self, shape: tuple[int, int]) -> I64:
        """Read an epoch's centroids, (k, f)."""
        return np.frombuffer(self.payload, "<i4").astype(np.int64).reshape(shape)


def record(entry: Entry, partition: int, commit_id: str, written_at: int, schema_id: wire.SchemaId) -> OutRecord:
    """Write an entry as an outbox record."""
    body = codec.encode(
        ENTRY,
        {
            "commit_id": commit_id,
            "kind": entry.kind,
            "at_offset": entry.at_offset,
            "as_of": entry.as_of,
            "model_version": entry.model,
            "epoch": entry.epoch,
            "payload": entry.payload,
            "written_at": written_at,
        },
    )
    return OutRecord(Topic.JOURNAL, partition, entry.kind.encode(), wire.framed(body, schema_id), ())


def version_entry(data: PartitionData, digest: bytes) -> Entry:
    """Record that a partition has adopted a version."""
    return Entry(VERSION, data.at_offset, data.as_of, data.model, data.epoch, digest)


def epoch_entry(data: PartitionData, at_offset: int) -> Entry:
    """Record that a partition has adopted an epoch."""
    payload = b"" if data.centroids is None else data.centroids.astype("<i4").tobytes()
    return Entry(EPOCH, at_offset, data.watermark, data.model, data.epoch, payload)


def tick_entry(data: PartitionData, at_offset: int) -> Entry:
    """Record that the wall clock moved a partition's watermark."""
    return Entry(TICK, at_offset, data.ticked, data.model, data.epoch, b"")


def quarantine_entry(data: PartitionData, at_offset: int) -> Entry:
    """Record that the record at an offset is passed over unread."""
    return Entry(QUARANTINE, at_offset, data.watermark, data.model, data.epoch, b"")


def sent_entry(data: PartitionData, at_offset: int) -> Entry:
    """Record that events were sent on, the last of them that at an offset."""
    return Entry(SENT, at_offset, data.watermark, data.model, data.epoch, b"")


def read(records: Iterable[LogRecord]) -> list[Entry]:
    """Read decisions, dropping repetitions: the journal may hold an entry twice in at-least-once mode.

    Adoptions grow in their epochs, ticks in time.
    """
    entries: list[Entry] = []
    adopted = -1
    ticked = NEVER
    passed_over: set[int] = set()
    for r in records:
        if r.value is None:
            continue
        fields = codec.decode(ENTRY, r.value[wire.opening(r.value, r.headers).body :])
        entry = Entry(fields["kind"], fields["at_offset"], fields["as_of"], fields["model_version"], fields["epoch"], fields["payload"])
        if entry.kind == QUARANTINE:
            if entry.at_offset not in passed_over:
                passed_over.add(entry.at_offset)
                entries.append(entry)
        elif entry.kind == TICK:
            if entry.as_of > ticked:
                ticked = entry.as_of
                entries.append(entry)
        elif entry.kind == SENT:
            continue
        elif entry.kind not in ADOPTIONS:
            entries.append(entry)  # who follows must stop there
        elif entry.epoch > adopted:
            adopted = entry.epoch
            entries.append(entry)
    return entries


def script(entries: Iterable[Entry], data: PartitionData, next_offset: int) -> deque[Entry]:
    """Give the decisions that a state, which is at `next_offset`, has not taken yet."""

    def is_due(entry: Entry) -> bool:
        if entry.kind == TICK:
            return entry.as_of > data.ticked
        return entry.epoch > data.adopted if entry.kind in ADOPTIONS else entry.at_offset >= next_offset

    return deque(entry for entry in entries if is_due(entry))


def leads_to(entries: Sequence[Entry], data: PartitionData, next_offset: int, fixed_centroids: I64 | None, complete_from: int = 0) -> bool:
    """Tell whether a state, which is at `next_offset`, is what comes of following the journal.

    It is not where an owner that was none any more has decided upon a Redis that had been rolled back: where it adopted something else, or
    elsewhere, or read a record that was passed over when it was published, or the reverse. What a state passed over it says itself, so both
    must name the same records below `next_offset`, as far back as the state remembers (`PASSED_OVER_KEPT`) and the journal is complete.

    `fixed_centroids`, (k, f), are those that the state's version began with; None where it has none. `complete_from` is the first offset
    whose decisions are all in the journal still.
    """
    ticks = [entry for entry in entries if entry.kind == TICK]
    taken_ticks = [entry for entry in ticks if entry.as_of <= data.ticked]
    same_ticks = data.ticked == max((entry.as_of for entry in taken_ticks), default=NEVER)
    if not same_ticks or not _passed_over_alike(entries, data, next_offset, complete_from):
        return False
    if any(entry.at_offset > next_offset for entry in taken_ticks) or any(e.at_offset < next_offset for e in ticks[len(taken_ticks) :]):
        return False
    adoptions = [entry for entry in entries if entry.kind in ADOPTIONS]
    taken = [entry for entry in adoptions if entry.epoch <= data.adopted]
    if any(entry.at_offset < next_offset for entry in adoptions[len(taken) :]):
        return False
    if not taken or data.centroids is None or fixed_centroids is None:
        return not taken and data.centroids is None
    last = taken[-1]
    if (last.model, last.epoch) != (data.model, data.epoch) or last.at_offset > next_offset:
        return False
    told = fixed_centroids if last.kind == VERSION else last.centroids(data.centroids.shape)
    return np.array_equal(told, data.centroids)


def _passed_over_alike(entries: Sequence[Entry], data: PartitionData, next_offset: int, complete_from: int) -> bool:
    told = sorted(entry.at_offset for entry in entries if entry.kind == QUARANTINE and complete_from <= entry.at_offset < next_offset)
    return told[-PASSED_OVER_KEPT:] == [offset for offset in data.passed_over if offset >= complete_from]
