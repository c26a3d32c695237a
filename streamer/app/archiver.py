"""The archiver: events and journal from Kafka into history, for the partitions that the group gives it.

Laws:

1. Where a partition goes on is what its manifest says. The group's position follows the manifest and is read by nobody but those who
   watch the lag; whatever stops an archiver, the next one takes in again what is in no manifest, so each row is there once.
2. What the worker refuses is not in history, by the same decoding and validation; the offset is accounted for.
3. A file ends where its range of offsets or its log day ends (`core/history.py`), when rows have waited `roll_s`, or when all that is held
   in memory comes to `buffer_bytes_max`: then the largest part is written.
4. The journal of a partition is brought up to date before its events are begun, so that a record that ends whoever reads it, which the
   journal tells to pass over, is passed over here too.
5. Events that the worker refuses because their customer was erased are not in history either.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from streamer.adapters.avro import codec, wire
from streamer.adapters.history import JournalRecord, Kind, day_of, erased_in, event_rows, joined_rows, journal_rows
from streamer.app.archive_metrics import NoArchiveRecorder, Progress
from streamer.app.commits import BACKOFF_FIRST_S, BACKOFF_MAX_S
from streamer.app.journal import ENTRY, QUARANTINE
from streamer.app.tools import REFUSE
from streamer.core.erasure import NOBODY, heed, marked
from streamer.core.errors import LostOwnership, Misconfigured, Unavailable
from streamer.core.history import cuts, event_columns
from streamer.core.intake import group
from streamer.core.ports import Committed, OffsetOutOfRange, Topic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamer.adapters.history import Batch, HistoryWriter
    from streamer.app.archive_metrics import ArchiveRecorder
    from streamer.app.clock import Clock
    from streamer.app.intake import Intake, Taken
    from streamer.core.columns import I64, U64, Fetched
    from streamer.core.erasure import Rule
    from streamer.core.ports import EventLog, LogRecord, TopicReader

log = logging.getLogger(__name__)

JOURNAL_OFFSETS = 20_000
READ_TIMEOUT_S = 30.0
CALM_S = 1.0
PIECES_MAX = 256
"""How many small pieces of a file are held before they are joined: each costs a few kilobytes beside its rows."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How an archiver goes about it; times in seconds."""

    file_offsets: int = 250_000
    buffer_bytes_max: int = 256 << 20
    roll_s: float = 300.0
    tidy_s: float = 3_600.0
    records_max: int = 5_000
    erasure: Rule = REFUSE  # how later events of erased customers are treated
    wait_s: float = 0.1
    gather_s: float = 0.05


@dataclass(frozen=True, slots=True)
class Tools:
    """All that an archiver works with."""

    log: EventLog
    reader: TopicReader
    left: Callable[[int, int, int], bool]  # whether any record is left between two offsets of a partition of the input
    intake: Intake  # of whole events
    history: HistoryWriter
    clock: Clock
    recorder: ArchiveRecorder = NoArchiveRecorder()  # noqa: RUF009  # it keeps nothing


@dataclass(slots=True)
class Held:
    """One partition in hand: the file that is being filled begins at `first`."""

    number: int
    first: int
    position: int  # the next offset to be read
    latest: int  # the latest Kafka timestamp in history or in hand, ms
    kept: int  # the same in history alone
    last: int = -1  # the offset of the last row in hand
    batches: list[Batch] = field(default_factory=list)
    rows: int = 0
    size_bytes: int = 0
    since_s: float = float("inf")  # since when something has waited to be written
    journal_due_s: float = float("-inf")
    started: bool = False
    nothing_before: int = 0  # from the position to here there is no record
    quarantined: set[int] = field(default_factory=set)
    erased: U64 = field(default_factory=lambda: NOBODY)  # the keyed hashes of who was erased, in history or in hand, and is refused
    marks: list[str] = field(default_factory=list)  # of those whom commands in hand erase

    @property
    def read_to(self) -> int:
        """Give the offset up to which every record was read."""
        return max(self.position, self.nothing_before)

    def add(self, batch: Batch) -> None:
        """Put rows into the file."""
        self.batches.append(batch)
        self.rows += batch.num_rows
        self.size_bytes += batch.nbytes

    def written(self, end: int) -> None:
        """Begin the next file."""
        self.first, self.batches, self.rows, self.size_bytes, self.marks = end, [], 0, 0, []
        self.kept = self.latest
        self.since_s = float("inf")


class Archiver:
    """Consumes and writes, until told to stop."""

    def __init__(self, settings: Settings, tools: Tools, partitions: int) -> None:
        """Hold nothing yet, of so many partitions: they come with the first poll."""
        self._settings = settings
        self._partitions = partitions
        self._tools = tools
        self._held: dict[int, Held] = {}
        self._waiting: dict[int, tuple[float, float]] = {}  # partition -> when to take it over, back-off after that
        self._last_record_s = tools.clock.monotonic_s()
        self._tidy_due_s = tools.clock.monotonic_s()
        self._asked_s = float("-inf")
        self.rows = 0

    def run(self, stopping: Callable[[], bool]) -> bool:
        """Work until `stopping` says so, then write what is in hand; tells whether all of it was written.

        Raises:
            Misconfigured: history would have a hole, or is of another topic; nothing will mend by itself.
            Corrupt: a manifest is not what this program writes.
            Unavailable: a server is away as what is in hand is to be written; the next archiver takes that in again.

        """
        try:
            while not stopping():
                self._attempt(self.step)
            in_hand = set(self._held)
            self.finish()
            return in_hand == set(self._held)
        finally:
            self._tools.log.close()

    def step(self) -> None:
        """Do one round: fetch, take in, and write what is due."""
        tools, how = self._tools, self._settings
        self._take_over()
        self._tell()
        busy = any(not held.started for held in self._held.values())
        try:
            fetched = tools.log.fetch(how.records_max, 0.0 if busy else how.wait_s, how.gather_s)
        except OffsetOutOfRange as error:
            raise _hole(Kind.EVENTS, error.partition, error.offset, tools.log.bounds(error.partition)) from error
        self._rebalance()
        if len(fetched):
            self._last_record_s = tools.clock.monotonic_s()
            self._take_in(fetched)
        self._write_due()
        self._tidy()

    def _tell(self) -> None:
        """Tell how far the partitions in hand are. Before any record came, the end is not known."""
        ends = {number: self._tools.log.end(number) if held.started else None for number, held in self._held.items()}
        held = {number: Progress(one.first, one.kept, ends[number]) for number, one in self._held.items()}
        self._tools.recorder.turned(held, [number for number in self._waiting if number not in held])

    def finish(self) -> None:
        """Write all that is in hand, and the journal up to its present end."""
        for held in list(self._held.values()):
            if held.position > held.first:
                self._close(held, held.position)
            while self._held.get(held.number) is held and not self._archive_journal(held):
                pass

    def idle(self, for_s: float | None) -> bool:
        """Tell whether nothing has come for so long; never, for None."""
        started = bool(self._held) and all(held.started for held in self._held.values())
        return for_s is not None and started and self._tools.clock.monotonic_s() - self._last_record_s >= for_s

    def ends(self) -> dict[tuple[Kind, int], int]:
        """Tell where the input and the journal end now, by partition.

        Raises:
            Misconfigured: history would have a hole.

        """
        found: dict[tuple[Kind, int], int] = {}
        for partition in range(self._partitions):
            for kind in Kind:
                bounds = self._bounds(kind, partition)
                _begin(kind, partition, self._tools.history.state(kind, partition).next_offset, bounds)
                found[kind, partition] = bounds[1]
        return found

    def reached(self, ends: dict[tuple[Kind, int], int]) -> bool:
        """Tell whether all before these offsets is in history or in hand; takes out those that history has reached."""
        now_s = self._tools.clock.monotonic_s()
        asks = now_s - self._asked_s >= CALM_S  # both the store and Kafka are asked now and then only
        if asks:
            self._asked_s = now_s
        in_hand = 0
        for (kind, partition), end in list(ends.items()):
            held = self._held.get(partition)
            if kind is Kind.EVENTS and held is not None:
                if asks and held.started and self._calm() and held.read_to < end and not self._tools.left(partition, held.position, end):
                    held.nothing_before = end  # what is left there is no record
                in_hand += held.started and held.read_to >= end
            elif asks and (self._tools.history.state(kind, partition).next_offset or 0) >= end:
                del ends[kind, partition]
        return in_hand == len(ends)

    def _bounds(self, kind: Kind, partition: int) -> tuple[int, int]:
        tools = self._tools
        return tools.log.bounds(partition) if kind is Kind.EVENTS else tools.reader.bounds(Topic.JOURNAL, partition)

    def _calm(self) -> bool:
        """Tell whether a while has passed without a record: then it is worth asking whether any is left."""
        return self._tools.clock.monotonic_s() - self._last_record_s >= CALM_S

    def _attempt(self, work: Callable[[], None]) -> None:
        """Do something; where a server is away, forget what is in hand and begin again from what is written."""
        try:
            work()
        except Unavailable as error:
            log.warning("a server is away, beginning again from what is in history: %s", error)
            self._tools.recorder.unavailable()
            for partition in list(self._held):
                self._again(partition)

    # Partitions

    def _rebalance(self) -> None:
        changed = self._tools.log.rebalanced()
        for partition in (*changed.revoked, *changed.lost):
            self._held.pop(partition, None)
            self._waiting.pop(partition, None)
        for partition in changed.assigned:
            self._waiting[partition] = (0.0, BACKOFF_FIRST_S)

    def _again(self, partition: int) -> None:
        """Drop what is in hand of a partition, and take it over anew after a while."""
        if self._held.pop(partition, None) is None:
            return
        self._tools.log.pause([partition])
        pause_s = self._waiting.get(partition, (0.0, BACKOFF_FIRST_S))[1]
        self._waiting[partition] = (self._tools.clock.monotonic_s() + pause_s, min(2 * pause_s, BACKOFF_MAX_S))

    def _take_over(self) -> None:
        """Take over what is due, and begin the events of those whose journal is up to date."""
        now_s = self._tools.clock.monotonic_s()
        for partition, (at_s, pause_s) in list(self._waiting.items()):
            if partition not in self._held and at_s <= now_s:
                state = self._tools.history.state(Kind.EVENTS, partition)
                first = _begin(Kind.EVENTS, partition, state.next_offset, self._bounds(Kind.EVENTS, partition))
                latest = state.latest_timestamp
                self._held[partition] = Held(partition, first, first, latest, latest, erased=self._erased(state.erased))
                self._waiting[partition] = (now_s, pause_s)
                told = self._tools.history.state(Kind.JOURNAL, partition).entries
                self._held[partition].quarantined |= {offset for entry in told for offset in entry.quarantined if offset >= first}
        for held in list(self._held.values()):
            if not held.started and self._archive_journal(held) and self._held.get(held.number) is held:
                self._tools.log.start(held.number, held.position)
                held.started = True
                log.info("partition %d: from offset %d", held.number, held.position)

    # Events

    def _take_in(self, fetched: Fetched) -> None:
        """Decode and validate a batch, and put its events where they belong."""
        tools = self._tools
        unread = np.zeros(len(fetched), np.bool_)
        for one in self._held.values():
            if one.quarantined:
                unread |= (fetched.partition == one.number) & np.isin(fetched.offset, list(one.quarantined))
        taken, decoded = tools.intake.read(fetched, fetched.partition, unread)
        record = self._heed(taken)
        where = fetched.partition, fetched.offset, fetched.timestamp
        rows = event_rows(event_columns(tools.intake.columns, decoded, taken.values, record, *where))
        partition, offset, timestamp = fetched.partition[record], fetched.offset[record], fetched.timestamp[record]
        for number in np.unique(fetched.partition).tolist():
            held = self._held.get(number)
            if held is None:
                continue
            mine = np.flatnonzero(partition == number)
            if len(mine):
                self._spread(held, rows.take(mine), offset[mine], timestamp[mine])
            if self._held.get(number) is held:
                held.position = int(fetched.offset[fetched.partition == number][-1]) + 1
                held.since_s = min(held.since_s, tools.clock.monotonic_s())
                self._end_range(held)

    def _erased(self, marks: Sequence[str]) -> U64:
        """Tell who was erased, and is refused. Raises `Misconfigured` where that was under another key."""
        rule = self._settings.erasure
        return np.unique(np.array([marked(rule, mark.encode()) for mark in marks if rule.refuse], np.uint64))

    def _heed(self, taken: Taken) -> I64:
        """Leave out the events of those who were erased before; gives the records that are kept."""
        held = self._held
        if not any(len(one.erased) for one in held.values()) and not (len(taken.rows.type) and taken.rows.type.min() < 0):
            return taken.record
        slot, customers = group(taken.values, taken.id_start, taken.id_length, taken.id_hash, taken.rows.part, self._partitions)
        erased = [held[p].erased if p in held else NOBODY for p in range(self._partitions)]
        heeded = heed(self._settings.erasure, taken.rows._replace(slot=slot), taken.record, customers, erased, taken.said)
        for number, one in held.items():
            one.erased = heeded.erased[number]
        return taken.record[heeded.kept]

    def _spread(self, held: Held, rows: Batch, offset: I64, timestamp: I64) -> None:
        """Put one partition's rows into files, closing each where it ends (3)."""
        begins, running = cuts(offset, timestamp, held.latest, held.last, self._settings.file_offsets)
        bounds = [0, *(int(at) for at in begins if at), len(offset)]
        for at, end in pairwise(bounds):
            if at in begins and held.rows:
                same_day = day_of(int(running[at])) == day_of(held.latest)
                boundary = int(offset[at]) // self._settings.file_offsets * self._settings.file_offsets
                self._close(held, max(boundary, held.last + 1) if same_day else int(offset[at]))
                if self._held.get(held.number) is not held:
                    return
            part = rows.slice(at, end - at)
            held.add(part)
            held.marks += [self._settings.erasure.mark(customer.encode()) for customer in erased_in(part)]
            held.last, held.latest = int(offset[end - 1]), int(running[end - 1])

    def _end_range(self, held: Held) -> None:
        """Close the file whose range of offsets has been read to its end."""
        boundary = (held.last // self._settings.file_offsets + 1) * self._settings.file_offsets
        if held.rows and held.position >= boundary:
            self._close(held, boundary)
        elif len(held.batches) > PIECES_MAX:
            held.batches = [joined_rows(held.batches)]

    def _write_due(self) -> None:
        """Write what has waited long enough, and the largest parts while too much is in hand; read on in the journals."""
        now_s, how = self._tools.clock.monotonic_s(), self._settings
        for held in list(self._held.values()):
            if held.position > held.first and now_s - held.since_s >= how.roll_s:
                self._close(held, held.position)
        while sum(held.size_bytes for held in self._held.values()) > how.buffer_bytes_max:
            largest = max(self._held.values(), key=lambda held: held.size_bytes)
            self._close(largest, largest.position)
        for held in list(self._held.values()):
            if held.started and held.journal_due_s <= now_s:
                self._archive_journal(held)

    def _close(self, held: Held, end: int) -> None:
        """Write the file that is being filled, up to before `end`, then let the group know."""
        try:
            self._tools.history.append(Kind.EVENTS, held.number, held.first, end, held.batches, held.latest, erased=held.marks)
        except LostOwnership as error:
            log.warning("partition %d: %s", held.number, error)
            self._again(held.number)
            return
        self.rows += held.rows
        self._tools.recorder.wrote(Kind.EVENTS, held.rows)
        log.info("partition %d: %d events before offset %d are in history", held.number, held.rows, end)
        held.written(end)
        now_s = self._tools.clock.monotonic_s()
        held.since_s = now_s if held.position > end else held.since_s
        self._waiting[held.number] = (now_s, BACKOFF_FIRST_S)
        try:
            self._tools.log.commit({held.number: Committed(end, "")})
        except Unavailable as error:  # nothing rests on it (1)
            log.info("the group's position could not be committed: %s", error)

    # Journal

    def _archive_journal(self, held: Held) -> bool:
        """Write the next part of a partition's journal; tells whether that was all there is."""
        tools, partition = self._tools, held.number
        state = tools.history.state(Kind.JOURNAL, partition)
        bounds = self._bounds(Kind.JOURNAL, partition)
        first = _begin(Kind.JOURNAL, partition, state.next_offset, bounds)
        end = min(first + JOURNAL_OFFSETS, bounds[1])
        if end > first:
            read = tools.reader.read(Topic.JOURNAL, partition, first, READ_TIMEOUT_S, end)
            records = [journal_record(record) for record in read if record.value is not None]
            try:
                self._append_journal(partition, first, end, records, state.latest_timestamp)
            except LostOwnership as error:
                log.warning("partition %d: %s", partition, error)
                self._again(partition)
                return False
            held.quarantined |= {record.at_offset for record in records if record.kind == QUARANTINE}
        done = end == bounds[1]
        held.journal_due_s = tools.clock.monotonic_s() + self._settings.roll_s if done else float("-inf")
        return done

    def _append_journal(self, partition: int, first: int, end: int, records: Sequence[JournalRecord], latest: int) -> None:
        offset = np.array([record.offset for record in records], np.int64)
        timestamp = np.array([record.kafka_timestamp for record in records], np.int64)
        begins, running = cuts(offset, timestamp, latest, -1, np.iinfo(np.int64).max)
        bounds = [0, *(int(at) for at in begins if at), len(records)]
        for at, until in pairwise(bounds):
            part = records[at:until]
            stop = end if until == len(records) else records[until].offset
            batches = [journal_rows(partition, part)] if part else []
            quarantined = [record.at_offset for record in part if record.kind == QUARANTINE]
            latest = int(running[until - 1]) if part else latest
            self._tools.history.append(Kind.JOURNAL, partition, first, stop, batches, latest, quarantined)
            self._tools.recorder.wrote(Kind.JOURNAL, len(part))
            first = stop

    # Files

    def _tidy(self) -> None:
        """Put together the files of days that are over, and delete what nobody needs any more, now and then."""
        now_s, now_ms = self._tools.clock.monotonic_s(), self._tools.clock.now_ms()
        if now_s < self._tidy_due_s or not self._held:
            return
        self._tidy_due_s = now_s + self._settings.tidy_s
        tidy(self._tools.history, sorted(self._held), now_ms, self._settings.erasure)


def tidy(history: HistoryWriter, partitions: Sequence[int], now_ms: int, rule: Rule) -> tuple[int, int]:
    """Take out who was erased, put together the files of days that are over, and delete what nobody needs any more.

    Gives how many files less, and deleted.
    """
    for partition in partitions:
        taken = history.scrub(partition, lambda customer: rule.mark(customer.encode()))
        if taken:
            log.info("partition %d: %d events of erased customers were taken out of history", partition, taken)
    less = sum(history.compact(kind, partition, day_of(now_ms), now_ms) for kind in Kind for partition in partitions)
    deleted = history.clean(partitions, now_ms) if partitions else 0
    if less or deleted:
        log.info("%d files less after putting days together; %d deleted that nobody needs", less, deleted)
    return less, deleted


def journal_record(record: LogRecord) -> JournalRecord:
    """Decode an entry of the journal."""
    value = record.value or b""
    fields = codec.decode(ENTRY, value[wire.opening(value, record.headers).body :])
    return JournalRecord(
        record.offset,
        record.timestamp,
        fields["commit_id"],
        fields["kind"],
        fields["at_offset"],
        fields["as_of"],
        fields["model_version"],
        fields["epoch"],
        fields["payload"],
        fields["written_at"],
    )


def _begin(kind: Kind, partition: int, next_offset: int | None, bounds: tuple[int, int]) -> int:
    """Say where to go on: where history ends, or with the log."""
    if next_offset is None:
        return bounds[0]
    if not bounds[0] <= next_offset <= bounds[1]:
        raise _hole(kind, partition, next_offset, bounds)
    return next_offset


def _hole(kind: Kind, partition: int, offset: int, bounds: tuple[int, int]) -> Misconfigured:
    message = (
        f"history of {kind.value} of partition {partition} ends at offset {offset}, and Kafka holds {bounds[0]} to {bounds[1]}: "
        "it would have a hole. Where the topic was made anew, or what is missing can't be had again, begin a new history at another "
        "`history.url`"
    )
    return Misconfigured(message)
