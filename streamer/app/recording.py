"""What a worker tells of its work to whoever counts it, a few calls a batch; nothing that the worker does depends on the answers.

Law: only what is committed is counted, partition by partition: of a refused commit nothing, for its records come again.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args

import numpy as np

from streamer.core.errors import Unavailable
from streamer.core.fold import APPLIED, CAUSES, DUPLICATE, ERASURE, LATE, UNITED
from streamer.core.profile import NO_SEGMENT
from streamer.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from streamer.app.assignment import Owned
    from streamer.app.commits import Decided, FoldedBatch
    from streamer.core.columns import I64, Bool
    from streamer.core.model import ModelVersion
    from streamer.core.ports import EventLog, Outcome, StateStore

Stage: TypeAlias = Literal["fetch", "sweep", "decode", "load", "fold", "decide", "commit", "publish", "confirm"]
STAGES: tuple[Stage, ...] = get_args(Stage)
REASONS = max(Reason) + 1
_OFFSET_BITS = 48


@dataclass(frozen=True, slots=True)
class Counted:
    """What one partition's part of a batch came to."""

    partition: int
    records: int
    refused: int  # whether told or not
    applied: int
    duplicates: int
    late: int
    erasures: int  # commands to erase somebody that were carried out
    erased: int  # events refused because their customer was erased
    merges: int  # profiles that joined those of customers they were merged into
    redirected: int  # events sent on to the customer whom theirs was merged into
    causes: I64  # (len(CAUSES),) changes told
    reasons: I64  # (REASONS,) dead letters told
    sources: I64  # Kafka timestamps, ms, of the events behind the changes told
    latest: int | None  # Kafka timestamp, ms, of the latest record


class Recorder(Protocol):
    """Who counts. Every call is quick, keeps to this process and raises nothing."""

    watches: bool  # whether `looked` is of use: finding out costs calls

    def turned(self, owned: Mapping[int, Owned], waiting: Iterable[int], versions: Mapping[int, ModelVersion]) -> None:
        """Take in that a round begins, with these partitions in hand and these still to be taken over."""

    def stage(self, stage: Stage) -> AbstractContextManager[None]:
        """Time a stage; what a stage within it takes is not the outer one's."""

    def count(self, owned: Sequence[Owned], batch: FoldedBatch, decided: Decided) -> Mapping[int, Counted]:
        """Count a batch that is not committed yet, by partition."""

    def committed(self, outcome: Outcome, counted: Counted | None) -> None:
        """Take in a commit's outcome, with what the batch came to for its partition."""

    def acknowledged(self) -> None:
        """Take in that all that was published so far is acknowledged."""

    def taken_over(self, *, rebuilding: bool) -> None:
        """Take in that an assignment was carried out."""

    def answered(self) -> None:
        """Take in that the servers answered."""

    def unavailable(self) -> None:
        """Take in that a server did not answer, and that what was being done is given up."""

    def looked(self, ends: Mapping[int, int], backlogs: Mapping[int, int]) -> None:
        """Take in where the input's partitions end, and how many customers each unfinished sweep has still to judge."""

    def promoted(self, number: int | None) -> None:
        """Take in which version is promoted, adopted or not: 0 where that can't be read, None where there is none."""


class NoRecorder:
    """Counts nothing."""

    watches = False

    def turned(self, owned: Mapping[int, Owned], waiting: Iterable[int], versions: Mapping[int, ModelVersion]) -> None:
        """Do nothing."""

    def stage(self, stage: Stage) -> AbstractContextManager[None]:  # noqa: ARG002  # the protocol's
        """Time nothing."""
        return nullcontext()

    def count(self, owned: Sequence[Owned], batch: FoldedBatch, decided: Decided) -> Mapping[int, Counted]:  # noqa: ARG002  # the protocol's
        """Count nothing."""
        return {}

    def committed(self, outcome: Outcome, counted: Counted | None) -> None:
        """Do nothing."""

    def acknowledged(self) -> None:
        """Do nothing."""

    def taken_over(self, *, rebuilding: bool) -> None:
        """Do nothing."""

    def answered(self) -> None:
        """Do nothing."""

    def unavailable(self) -> None:
        """Do nothing."""

    def looked(self, ends: Mapping[int, int], backlogs: Mapping[int, int]) -> None:
        """Do nothing."""

    def promoted(self, number: int | None) -> None:
        """Do nothing."""


def look_around(recorder: Recorder, log: EventLog, store: StateStore, owned: Mapping[int, Owned]) -> None:
    """Tell what is still to be done. A server that does not answer is not asked again: the work itself finds out soon enough."""
    ends = {number: log.end(number) for number in owned}
    met = {number: one.visited for number, one in owned.items() if not one.data.swept}
    backlogs: dict[int, int] = {}
    if met:
        with suppress(Unavailable):
            backlogs = {n: max(0, all_ - met[n]) for n, all_ in zip(met, store.count(list(met)), strict=True)}
    recorder.looked({number: end for number, end in ends.items() if end is not None}, backlogs)


def count_batch(owned: Sequence[Owned], batch: FoldedBatch, decided: Decided) -> dict[int, Counted]:
    """Count a batch by partition, with no Python per record; `owned` are the partitions as in the fold.

    Law: a change or dead letter counts where it is told: what a rebuild finds again and nobody is told does not.
    """
    fetched, folded, parts = batch.fetched, batch.folded, len(owned)
    place = np.full(max((one.number for one in owned), default=0) + 1, -1, np.int64)
    place[[one.number for one in owned]] = np.arange(parts)
    part = place[fetched.partition]
    records = np.bincount(part, minlength=parts)
    latest = np.full(parts, -1, np.int64)
    np.maximum.at(latest, part, fetched.timestamp)
    bad = np.flatnonzero(batch.taken.status)
    reasons = np.bincount(part[bad] * REASONS + batch.taken.status[bad], minlength=parts * REASONS).reshape(parts, REASONS)
    silent = (folded.changes.cause[: folded.changed] == ERASURE) & (folded.changes.before[: folded.changed] == NO_SEGMENT)
    told = np.flatnonzero(decided.told & ~silent)
    told_part = folded.changes.part[told]
    causes = np.bincount(told_part * len(CAUSES) + folded.changes.cause[told], minlength=parts * len(CAUSES)).reshape(parts, len(CAUSES))
    source_part, sources = _sources(owned, batch, decided.told)
    counted = {}
    for commit, _ in decided.commits:
        i = int(place[commit.partition])
        again = owned[i].until is not None
        tally = folded.tally[i]
        counted[commit.partition] = Counted(
            partition=commit.partition,
            records=int(records[i]),
            refused=int(reasons[i].sum()),
            applied=int(tally[APPLIED]),
            duplicates=int(tally[DUPLICATE]),
            late=int(tally[LATE]),
            erasures=int(folded.erasures[i]),
            erased=int(folded.refused[i]),
            merges=int(tally[UNITED]),
            redirected=0 if again else sum(one.part == i and one.away is None for one in folded.sent),
            causes=causes[i],
            reasons=np.zeros(REASONS, np.int64) if again else reasons[i],
            sources=sources[source_part == i],
            latest=int(latest[i]) if records[i] else None,
        )
    return counted


def _sources(owned: Sequence[Owned], batch: FoldedBatch, told: Bool) -> tuple[I64, I64]:
    """Find the Kafka timestamps of the events behind changes: (part, timestamp), a row for each change that an event of the batch made.

    A change that an adoption made bears the adoption's offset, so the one event at that offset is left out with them.
    """
    changes, fetched = batch.folded.changes, batch.fetched
    rows = np.flatnonzero(told)
    adopted = np.array([one.data.at_offset if one.data.model else -1 for one in owned], np.int64)
    rows = rows[changes.offset[rows] != adopted[changes.part[rows]]]
    if not len(rows) or not len(fetched):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    keys = (fetched.partition.astype(np.int64) << _OFFSET_BITS) | fetched.offset
    order = np.argsort(keys, kind="stable")  # a merge of runs: partitions are in order already
    keys = keys[order]
    numbers = np.array([one.number for one in owned], np.int64)
    wanted = (numbers[changes.part[rows]] << _OFFSET_BITS) | changes.offset[rows]
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found = keys[at] == wanted
    return changes.part[rows][found].astype(np.int64), fetched.timestamp[order[at[found]]]
