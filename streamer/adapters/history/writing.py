"""History, written: whole files first, then the manifest that names them.

A file comes to be in four steps; a crash between any two leaves history as it was:

1. The rows are written as a file whose name holds what it is (partition, offsets, a hash of its bytes), so two writers write the same
   file or two files, never one over the other.
2. The partition's manifest is read. If it does not end where the new entry begins, somebody else archives this partition:
   `LostOwnership`. The file is a leftover then, as after a crash.
3. The file is seen to be there: a leftover of long ago may have been deleted as this writer slept.
4. The manifest is replaced, if it still is what was read; else on from 2.

To put files together (`compact`) and to take customers out (`scrub`, `erase`) are the same steps, but that in 2 the entries to be replaced
must be there. What is replaced stays for `keep_s`, for those who read by an older manifest; what customers were taken out of is deleted at
once. `clean` deletes what no manifest names and is older than that.

Erasure: a command is archived like an event, names its customer, and its entry bears their mark. `scrub` takes out what the customer did
before, entry by entry in the order of offsets, and of an event keeps its time where that may have moved the partition's clock; where it
comes to the command itself, the mark takes the id's place. So whoever folds history at any moment either meets all that the customer did
and then a command that names them, or less, or nothing and then the mark.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamer.adapters.history import manifest as manifests
from streamer.adapters.history.manifest import NO_DAY, Entry, Kind, PartitionManifest, Replaced, path_of
from streamer.adapters.history.reading import load
from streamer.adapters.history.tables import (
    COMPRESSION,
    ERASE,
    ERASED,
    GROUP_ROWS,
    MERGE,
    NAMELESS,
    PASSED,
    STILL,
    Batch,
    command_rows,
    merged_into,
    merges_in,
    occurred_of,
    offsets_of,
    ordered_rows,
    parquet,
    read_parquet,
    texts_of,
    timestamps_of,
)
from streamer.core.errors import Corrupt, LostOwnership, Misconfigured, Unavailable
from streamer.core.history import NO_TIME, PROPERTIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from streamer.adapters.history.store import Store
    from streamer.core.columns import Bool

log = logging.getLogger(__name__)

REPLACES_MAX = 20
HASH_DIGITS = 16
_NAMED = re.compile(r"(?:events|journal)/day=[^/]*/(?P<partition>\d{5,})-\d{20}-\d{20}-[0-9a-f]{16}\.parquet")


@dataclass(frozen=True, slots=True)
class Limits:
    """How files are put together, and how long those that were replaced stay."""

    compacted_bytes: int = 128 << 20
    keep_s: int = 86_400


class HistoryWriter:
    """Writes history. Whoever owns a partition appends to it; anybody may compact, clean and erase at any time."""

    def __init__(self, store: Store, topics: Mapping[Kind, str], limits: Limits = Limits(), compression: str = COMPRESSION) -> None:
        """Write to a store; `topics` are those that are archived, to be told from others."""
        self._store = store
        self._topics = dict(topics)
        self._limits = limits
        self._compression = compression

    def state(self, kind: Kind, partition: int) -> PartitionManifest:
        """Read a partition's manifest; an empty one where there is none.

        Raises:
            Misconfigured: it is of another topic.

        """
        return self._current(kind, partition)[0]

    def partitions(self) -> list[tuple[Kind, int]]:
        """Name all that there is."""
        events, journal = load(self._store)
        return [*((Kind.EVENTS, p) for p in sorted(events)), *((Kind.JOURNAL, p) for p in sorted(journal))]

    def append(
        self,
        kind: Kind,
        partition: int,
        first: int,
        end: int,
        batches: Sequence[Batch],
        latest: int,
        quarantined: Sequence[int] = (),
        erased: Sequence[str] = (),
    ) -> PartitionManifest:
        """Add the rows of the offsets from `first` to before `end` (steps 1 to 4); without rows, note that there are none.

        Args:
            kind: of what.
            partition: of which partition.
            first: where history ends so far.
            end: where it ends afterwards.
            batches: the rows, in order, all of one log day.
            latest: the latest Kafka timestamp up to and with them, ms.
            quarantined: of a journal, the offsets that its entries tell to pass over.
            erased: of events, the marks of those whom commands among the rows erase.

        Raises:
            LostOwnership: history does not end at `first`.
            Unavailable: the store does not answer.

        """
        entry = self._written(kind, partition, first, end, batches, latest, tuple(quarantined))
        entry = replace(entry, erased=tuple(erased), unscrubbed=len(erased))

        def change(now: PartitionManifest) -> PartitionManifest:
            if now.next_offset not in (None, first):
                where = f"{kind.value} of partition {partition}"
                message = f"history of {where} ends at offset {now.next_offset}, not at {first}: somebody else archives it"
                raise LostOwnership(message)
            return replace(now, entries=(*now.entries, entry))

        return self._changed(kind, partition, change, [entry])

    def compact(self, kind: Kind, partition: int, before_day: str, now_ms: int) -> int:
        """Put the files of each day before `before_day` (YYYY-MM-DD) together; gives how many there are less.

        A file grows to `compacted_bytes`, and is held in memory (compressed) as it is made.
        """
        less = 0
        for group in list(_groups(self.state(kind, partition).entries, before_day, self._limits.compacted_bytes)):
            merged = self._written(
                kind,
                partition,
                group[0].first,
                group[-1].end,
                self._rows(group),
                group[-1].latest_timestamp,
                tuple(offset for entry in group for offset in entry.quarantined),
            )
            marks = tuple(mark for entry in group for mark in entry.erased)
            merged = replace(merged, erased=marks, unscrubbed=sum(entry.unscrubbed for entry in group))
            if self._exchange(kind, partition, group, merged, now_ms):
                less += len(group) - 1
        return less

    def scrub(self, partition: int, mark: Callable[[str], str]) -> int:
        """Take out of a partition's history who was erased, with all they did before; gives how many events that were.

        Files that hold them are written anew without, and deleted at once, those that are kept for readers by an older manifest and
        leftovers too: such a reader fails and begins again. `mark` gives what stands for a customer's id from now on.
        """
        taken = 0
        while self.state(Kind.EVENTS, partition).unscrubbed:
            now = self.state(Kind.EVENTS, partition)
            commands = self._commands(now)
            done = 0
            for entry in now.entries:
                if not entry.path or not (entry.unscrubbed or self._holds(entry.path, commands)):
                    continue
                counted = _Taken()
                without = self._written(
                    Kind.EVENTS,
                    partition,
                    entry.first,
                    entry.end,
                    _scrubbed(self._rows([entry]), partition, commands, mark, counted),
                    entry.latest_timestamp,
                    entry.quarantined,
                )
                if not self._exchange(Kind.EVENTS, partition, [entry], replace(without, erased=entry.erased), 0):
                    break  # it was put together with others meanwhile
                done += counted.events
            taken += done
            self._delete_traces(partition, commands)
        return taken

    def rows_of(self, partition: int, customer_id: str) -> int:
        """Count the rows of a customer, commands too, in a partition's history and in what is kept of it for readers."""
        return sum(self._count(path, customer_id) for path in self.state(Kind.EVENTS, partition).paths)

    def erase(self, customer_id: str) -> int:
        """Take every event of a customer out of history; gives how many rows that were.

        Files that hold the customer are written anew without, and deleted at once, those that are kept for readers by an older manifest and
        leftovers too: such a reader fails and begins again. Events that an archiver holds in memory come later: call it again then, or
        let the archiver see the command.
        """
        taken = 0
        for kind, partition in self.partitions():
            if kind is Kind.EVENTS:
                taken += self._erase_from(partition, customer_id)
        named = {path for kind, p in self.partitions() for path in self.state(kind, p).paths}
        for stored in self._store.files(Kind.EVENTS.value):
            if stored.path not in named and (not _NAMED.fullmatch(stored.path) or self._holds(stored.path, [customer_id])):
                self._store.delete(stored.path)
        return taken

    def clean(self, partitions: Iterable[int], now_ms: int) -> int:
        """Delete what was replaced in these partitions, and leftovers of them, after `keep_s`; gives how many files."""
        due_ms = now_ms - self._limits.keep_s * 1000
        ours = set(partitions)
        deleted = 0
        for kind in Kind:
            named: dict[int, set[str]] = {}
            for partition in ours:
                gone = [one for one in self.state(kind, partition).replaced if one.at_ms <= due_ms]
                for one in gone:
                    self._store.delete(one.path)
                deleted += len(gone)
                named[partition] = (self._forget(kind, partition, gone) if gone else self.state(kind, partition)).paths
            for stored in self._store.files(kind.value):
                found = _NAMED.fullmatch(stored.path)
                leftover = found is None or (int(found["partition"]) in ours and stored.path not in named[int(found["partition"])])
                if leftover and stored.changed_ms <= due_ms:
                    self._store.delete(stored.path)
                    deleted += 1
        return deleted

    # Files

    def _written(
        self, kind: Kind, partition: int, first: int, end: int, batches: Iterable[Batch], latest: int, quarantined: tuple[int, ...]
    ) -> Entry:
        """Write rows as a file (1); none where there are none."""
        counted = _Counted(batches)
        data = parquet(kind, counted, self._compression)
        day = NO_DAY if latest == NO_TIME else day_of(latest)
        if not counted.rows:
            return Entry(first, end, day, 0, "", 0, "", -1, NO_TIME, latest, quarantined)
        digest = hashlib.sha256(data).hexdigest()
        path = f"{kind.value}/day={day}/{partition:05d}-{first:020d}-{end:020d}-{digest[:HASH_DIGITS]}.parquet"
        self._store.write(path, data)
        return Entry(
            first, end, day, counted.rows, path, data.size, digest, counted.first_row, counted.first_timestamp, latest, quarantined
        )

    def _rows(self, entries: Iterable[Entry]) -> Iterator[Batch]:
        """Read the rows of some entries."""
        for entry in entries:
            if entry.path:
                yield from self._read(entry.path, None)

    def _read(self, path: str, columns: list[str] | None) -> Iterator[Batch]:
        try:
            yield from read_parquet(self._store.open(path), columns, GROUP_ROWS)
        except pa.ArrowInvalid as error:
            message = f"{self._store.place}/{path} can't be read: {error}"
            raise Corrupt(message) from error
        except OSError as error:  # deleted meanwhile, too: what is done is begun again
            message = f"{self._store.place}/{path} can't be read: {error}"
            raise Unavailable(message) from error

    # Manifests

    def _current(self, kind: Kind, partition: int) -> tuple[PartitionManifest, bytes | None]:
        path = path_of(kind, partition)
        data = self._store.read(path)
        if data is None:
            return PartitionManifest(kind, self._topics[kind], partition), None
        found = manifests.read(data, f"{self._store.place}/{path}")
        if found.topic != self._topics[kind]:
            message = f"{self._store.place} holds the history of {found.topic}, not of {self._topics[kind]}: set another `history.url`"
            raise Misconfigured(message)
        return found, data

    def _changed(
        self, kind: Kind, partition: int, change: Callable[[PartitionManifest], PartitionManifest], new: Sequence[Entry] = ()
    ) -> PartitionManifest:
        """Change a manifest (2 to 4)."""
        for _ in range(REPLACES_MAX):
            now, data = self._current(kind, partition)
            after = change(now)
            for entry in new:
                self._see(entry)
            if after == now or self._store.replace(path_of(kind, partition), after.to_bytes(), data):
                return after
        message = f"the manifest of {kind.value} of partition {partition} changes all the time: see what else writes to {self._store.place}"
        raise Unavailable(message)

    def _see(self, entry: Entry) -> None:
        """Make sure that a file is there (3)."""
        if not entry.path:
            return
        try:
            with self._store.open(entry.path) as file:
                size = file.size()
        except FileNotFoundError:
            size = -1
        if size != entry.size_bytes:
            message = f"{self._store.place}/{entry.path} was written and is not there"
            raise Unavailable(message)

    def _exchange(self, kind: Kind, partition: int, group: Sequence[Entry], entry: Entry, now_ms: int) -> bool:
        """Put one entry in the place of some that follow one another; tells whether they were still there."""
        done = False

        def change(now: PartitionManifest) -> PartitionManifest:
            nonlocal done
            place = next((i for i, one in enumerate(now.entries) if one == group[0]), -1)
            done = place >= 0 and now.entries[place : place + len(group)] == tuple(group)
            if not done:
                return now
            gone = tuple(Replaced(one.path, now_ms) for one in group if one.path and one.path != entry.path)
            entries = (*now.entries[:place], entry, *now.entries[place + len(group) :])
            return replace(now, entries=entries, replaced=(*now.replaced, *gone))

        self._changed(kind, partition, change, [entry])
        return done

    def _forget(self, kind: Kind, partition: int, gone: Sequence[Replaced]) -> PartitionManifest:
        return self._changed(kind, partition, lambda now: replace(now, replaced=tuple(one for one in now.replaced if one not in gone)))

    # Erasing

    def _erase_from(self, partition: int, customer_id: str) -> int:
        """Take a customer out of a partition's files, entry by entry, until none is left that holds the customer."""
        taken = 0
        again = True
        while again:
            again = False
            now = self.state(Kind.EVENTS, partition)
            for entry in now.entries:
                if not entry.path or not self._holds(entry.path, [customer_id]):
                    continue
                without = self._without(partition, entry, customer_id)
                if self._exchange(Kind.EVENTS, partition, [entry], without, 0):
                    taken += entry.rows - without.rows
                else:  # it was put together with others meanwhile
                    again = True
        now = self.state(Kind.EVENTS, partition)
        gone = [one for one in now.replaced if one.at_ms == 0 or self._holds(one.path, [customer_id])]
        for one in gone:
            self._store.delete(one.path)
        self._forget(Kind.EVENTS, partition, gone)
        return taken

    def _without(self, partition: int, entry: Entry, customer_id: str) -> Entry:
        def kept() -> Iterator[Batch]:
            for batch in self._rows([entry]):
                nameless = {row: NAMELESS for row, into in merges_in(batch).items() if into == customer_id}
                whole = merged_into(batch, nameless) if nameless else batch
                yield whole.filter(pc.not_equal(whole.column("customer_id"), customer_id))

        latest = entry.latest_timestamp
        without = self._written(Kind.EVENTS, partition, entry.first, entry.end, kept(), latest, entry.quarantined)
        return replace(without, erased=entry.erased, unscrubbed=entry.unscrubbed)

    def _holds(self, path: str, customers: Iterable[str]) -> bool:
        """Tell whether rows of a file name some customers; one that is gone has none."""
        return any(names.any() for names in self._naming(path, list(customers)))

    def _count(self, path: str, customer_id: str) -> int:
        return sum(int(names.sum()) for names in self._naming(path, [customer_id]))

    def _naming(self, path: str, customers: Sequence[str]) -> Iterator[Bool]:
        """Tell which rows of a file name some customers, as theirs or in a command."""
        names, wanted = set(customers), pa.array(customers, pa.string())
        merging = False
        for batch in self._columns(path, ["customer_id", "event_type"]):
            merging |= bool(pc.any(pc.equal(batch.column("event_type"), MERGE)).as_py())
            yield pc.is_in(batch.column("customer_id"), wanted).to_numpy(zero_copy_only=False)
        for batch in self._columns(path, ["event_type", PROPERTIES]) if merging else ():
            yield np.array([into in names for into in merges_in(batch).values()], np.bool_)

    def _columns(self, path: str, columns: Sequence[str]) -> Iterator[Batch]:
        try:
            source = self._store.open(path)
        except FileNotFoundError:
            return
        yield from read_parquet(source, columns, GROUP_ROWS)

    # Scrubbing

    def _commands(self, now: PartitionManifest) -> dict[str, int]:
        """Find who is to be taken out, and the offset of the last command that says so."""
        found: dict[str, int] = {}
        for batch in self._rows(entry for entry in now.entries if entry.unscrubbed):
            asked = batch.filter(pc.equal(batch.column("event_type"), ERASE))
            found |= dict(zip(texts_of(asked, "customer_id"), offsets_of(asked).tolist(), strict=True))
        return found

    def _delete_traces(self, partition: int, customers: Mapping[str, int]) -> None:
        """Delete the files of a partition that no entry names any more and that hold some customers."""
        now = self.state(Kind.EVENTS, partition)
        gone = [one for one in now.replaced if one.at_ms == 0 or self._holds(one.path, customers)]
        for one in gone:
            self._store.delete(one.path)
        named = self._forget(Kind.EVENTS, partition, gone).paths
        for stored in self._store.files(Kind.EVENTS.value):
            found = _NAMED.fullmatch(stored.path)
            ours = found is not None and int(found["partition"]) == partition and stored.path not in named
            if ours and self._holds(stored.path, customers):
                self._store.delete(stored.path)


@dataclass(slots=True)
class _Taken:
    """Counts the events that were taken out."""

    events: int = 0


def _scrubbed(
    batches: Iterable[Batch], partition: int, commands: Mapping[str, int], mark: Callable[[str], str], taken: _Taken
) -> Iterator[Batch]:
    """Take customers out of the rows of a file: their events before their last command, and their names in commands, others' too.

    The time of an event stays where it is the greatest or the least of the file so far: it may have moved the partition's clock.
    """
    wanted = pa.array(list(commands), pa.string())
    latest, earliest = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    for batch in batches:
        offset, timestamp, occurred = offsets_of(batch), timestamps_of(batch), occurred_of(batch)
        still = pc.is_in(batch.column("event_type"), pa.array(STILL)).to_numpy(zero_copy_only=False)
        named = np.flatnonzero(pc.is_in(batch.column("customer_id"), wanted).to_numpy(zero_copy_only=False))
        commanding = pc.equal(batch.column("event_type"), ERASE).to_numpy(zero_copy_only=False)
        ids = dict(zip(named.tolist(), texts_of(batch.take(pa.array(named)), "customer_id"), strict=True))
        before = np.array([offset[row] < commands[customer] and not commanding[row] for row, customer in ids.items()], np.bool_)
        gone, marked = named[before], named[commanding[named]]
        greatest = np.maximum.accumulate(np.concatenate([[latest], np.where(still, latest, occurred)]))
        least = np.minimum.accumulate(np.concatenate([[earliest], np.where(still, earliest, occurred)]))
        moved = gone[~still[gone] & ((occurred[gone] > greatest[gone]) | (occurred[gone] < least[gone]))]
        latest, earliest = int(greatest[-1]), int(least[-1])
        taken.events += len(gone)
        nameless = {row: mark(into) for row, into in merges_in(batch).items() if offset[row] < commands.get(into, -1)}
        batch = merged_into(batch, nameless) if nameless else batch  # noqa: PLW2901  # the same rows
        left = np.ones(batch.num_rows, np.bool_)
        left[gone] = left[marked] = False
        rows = np.concatenate([moved, marked])
        names, texts = [PASSED] * len(moved) + [ERASED] * len(marked), [NAMELESS] * len(moved) + [mark(ids[row]) for row in marked.tolist()]
        put = command_rows(partition, offset[rows], timestamp[rows], occurred[rows], names, texts)
        if left.any() or len(rows):
            yield ordered_rows([batch.filter(pa.array(left)), put]) if len(gone) or len(marked) else batch


class _Counted:
    """Counts rows as they go by, and notes the first."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches
        self.rows = 0
        self.first_row = -1
        self.first_timestamp = NO_TIME

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            if batch.num_rows and not self.rows:
                self.first_row, self.first_timestamp = int(offsets_of(batch)[0]), int(timestamps_of(batch)[0])
            self.rows += batch.num_rows
            yield batch


def _groups(entries: Sequence[Entry], before_day: str, bytes_max: int) -> Iterator[list[Entry]]:
    """Choose what to put together: neighbours of one day that is over, as many as make up a file."""
    for day, of_day in groupby(entries, key=lambda entry: entry.day):
        if day >= before_day:
            return
        group: list[Entry] = []
        for entry in of_day:
            if group and sum(one.size_bytes for one in group) + entry.size_bytes > bytes_max:
                if len(group) > 1:
                    yield group
                group = []
            group.append(entry)
        if len(group) > 1:
            yield group


def day_of(time_ms: int) -> str:
    """Name the UTC day of a time, ms."""
    return str(np.datetime64(time_ms, "ms").astype("datetime64[D]"))
