"""The manifest: which files make up history, and what of the log each accounts for.

Laws, checked as a manifest is read:

1. A partition's entries follow one another without gap or overlap: from the first entry's `first` to `next_offset` every offset is
   accounted for. An offset without a row was refused by validation, or is none of a record (a transaction's end).
2. An entry without rows has no file.
3. An entry's day is the log day (`core/history.py`) of all its rows, and days never go back.

There is one manifest a partition and kind, so that who archives different partitions never contend. Each is replaced whole.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from streamer.core.errors import BadInput, Corrupt, Misconfigured
from streamer.core.history import NO_TIME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

FORMAT = 1
NO_DAY = ""
FOLDER = "manifest"


class Kind(Enum):
    """What is kept; the value is the name of its folder."""

    EVENTS = "events"
    JOURNAL = "journal"


@dataclass(frozen=True, slots=True)
class Entry:
    """The offsets from `first` to before `end` of a partition, and the file of their rows."""

    first: int
    end: int
    day: str  # the log day as YYYY-MM-DD; "" before the first row
    rows: int
    path: str  # "" where there are no rows
    size_bytes: int
    sha256: str
    first_row: int  # the offset of the first row; -1 without rows
    first_timestamp: int  # Kafka's own of the first row, ms; -1 without rows
    latest_timestamp: int  # the latest up to and with this entry, ms; -1 where there was none
    quarantined: tuple[int, ...] = ()  # of a journal: the input's offsets that its entries tell to pass over
    erased: tuple[str, ...] = ()  # of events: the marks of the customers whom commands in it erase, in order
    unscrubbed: int = 0  # how many of these commands still name the customer


@dataclass(frozen=True, slots=True)
class Replaced:
    """A file that no entry names any more, kept for a while for those who read by an older manifest."""

    path: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class PartitionManifest:
    """What history holds of one partition."""

    kind: Kind
    topic: str
    partition: int
    entries: tuple[Entry, ...] = ()
    replaced: tuple[Replaced, ...] = ()

    @property
    def next_offset(self) -> int | None:
        """Give the first offset that is not accounted for; None before there is anything."""
        return self.entries[-1].end if self.entries else None

    @property
    def latest_timestamp(self) -> int:
        """Give the latest Kafka timestamp of any row, ms."""
        return self.entries[-1].latest_timestamp if self.entries else NO_TIME

    @property
    def erased(self) -> tuple[str, ...]:
        """Give the marks of all who were erased."""
        return tuple(mark for entry in self.entries for mark in entry.erased)

    @property
    def unscrubbed(self) -> int:
        """Count the commands whose customers have still to be taken out."""
        return sum(entry.unscrubbed for entry in self.entries)

    @property
    def rows(self) -> int:
        """Count the rows."""
        return sum(entry.rows for entry in self.entries)

    @property
    def paths(self) -> set[str]:
        """Name the files that must be kept."""
        return {entry.path for entry in self.entries if entry.path} | {gone.path for gone in self.replaced}

    def to_bytes(self) -> bytes:
        """Write as JSON, an entry a line; the same manifest gives the same bytes."""
        head = {"format": FORMAT, "kind": self.kind.value, "topic": self.topic, "partition": self.partition}
        lines = [f'"{name}": {json.dumps(value)}' for name, value in head.items()]
        lines += [f'"entries": {_lines(self.entries)}', f'"replaced": {_lines(self.replaced)}']
        return ("{" + ",\n".join(lines) + "}\n").encode()


def _lines(rows: tuple[Any, ...]) -> str:
    return "[" + ",".join(f"\n {json.dumps(asdict(row))}" for row in rows) + "]"


def path_of(kind: Kind, partition: int) -> str:
    """Name a partition's manifest."""
    return f"{FOLDER}/{kind.value}-{partition:05d}.json"


def read(data: bytes, where: str) -> PartitionManifest:
    """Read a manifest.

    Raises:
        Corrupt: it is not what this program writes, or breaks a law.
        Misconfigured: it is of a later release.

    """
    try:
        given = json.loads(data)
        if given["format"] != FORMAT:
            message = f"{where} has format {given['format']}, this release reads {FORMAT}: use the release that wrote it, or a later one"
            raise Misconfigured(message)
        entries = tuple(
            Entry(**{**one, "quarantined": tuple(one["quarantined"]), "erased": tuple(one.get("erased", ()))}) for one in given["entries"]
        )
        gone = tuple(Replaced(**one) for one in given["replaced"])
        found = PartitionManifest(Kind(given["kind"]), given["topic"], given["partition"], entries, gone)
    except (ValueError, KeyError, TypeError) as error:
        message = f"{where} can't be read ({type(error).__name__}: {error}): put back a copy of it, or begin a new history"
        raise Corrupt(message) from error
    _check(found, where)
    return found


def _check(found: PartitionManifest, where: str) -> None:
    for entry in found.entries:
        if entry.first >= entry.end or (entry.rows > 0) != bool(entry.path) or entry.rows > entry.end - entry.first:
            message = f"{where}: the entry of offsets {entry.first} to {entry.end} contradicts itself"
            raise Corrupt(message)
    for before, after in pairwise(found.entries):
        if before.end != after.first:
            message = f"{where}: an entry ends at offset {before.end}, and the next begins at {after.first}"
            raise Corrupt(message)
        if before.day > after.day or before.latest_timestamp > after.latest_timestamp:
            message = f"{where}: the log goes back in time at offset {after.first}"
            raise Corrupt(message)


@dataclass(frozen=True, slots=True)
class Manifest:
    """All of history, as of the moment at which it was opened: what is added later, or put together anew, changes nothing here."""

    events: Mapping[int, PartitionManifest]
    journal: Mapping[int, PartitionManifest]
    digest: str  # SHA-256 of all partitions' entries: equal digests are equal files
    look: Callable[[Entry, int], int] = field(repr=False, compare=False)  # the first offset of an entry at or after an instant

    @property
    def partitions(self) -> tuple[int, ...]:
        """Name the partitions that there are events of."""
        return tuple(sorted(self.events))

    @property
    def entries(self) -> Iterator[Entry]:
        """Give every entry of events, by partition and offset."""
        for partition in self.partitions:
            yield from self.events[partition].entries

    def cutoff(self, as_of_ms: int) -> dict[int, int]:
        """Give, of each partition, the first offset that is not included as of an instant.

        Law: an instant that a partition's log has passed gives the same offset for ever, whatever comes later. It is that of the first
        record with a Kafka timestamp at or after the instant, so every record before it in the log is included, and where producers'
        timestamps are out of order, an earlier one that comes behind is not. Before that, it is the end of what there is.
        A midnight (UTC) is found without reading a file.
        """
        return {partition: self._first_at(self.events[partition], as_of_ms) for partition in self.partitions}

    def _first_at(self, of: PartitionManifest, as_of_ms: int) -> int:
        place = bisect_left(of.entries, as_of_ms, key=lambda entry: entry.latest_timestamp)
        if place == len(of.entries):
            return of.next_offset or 0
        entry = of.entries[place]
        return entry.first_row if entry.first_timestamp >= as_of_ms else self.look(entry, as_of_ms)

    def check(self, cutoff: Mapping[int, int]) -> None:
        """Refuse a cut-off that history does not reach.

        Raises:
            BadInput: a partition is unknown, or ends before it.

        """
        for partition, offset in cutoff.items():
            end = self.events[partition].next_offset if partition in self.events else None
            if end is None or offset > end:
                message = f"history ends at offset {end} of partition {partition}, before the cut-off at {offset}"
                raise BadInput(message)


def whole(events: Mapping[int, PartitionManifest], journal: Mapping[int, PartitionManifest], look: Callable[[Entry, int], int]) -> Manifest:
    """Join partitions' manifests."""
    hashed = hashlib.sha256()
    for found in (events, journal):
        for partition in sorted(found):
            hashed.update(replace(found[partition], replaced=()).to_bytes())
    return Manifest(dict(events), dict(journal), hashed.hexdigest(), look)
