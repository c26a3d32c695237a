"""Dead letters: what is written of a refused record, how it is found again, and what is sent round once more.

Laws:

1. A letter fits wherever its record did: a record that is too long for a message is cut in its letter, which says so, and never stops the
   worker. (What comes compressed may be hundreds of times longer than any message that a producer of ours may send.)
2. What is said of a letter is what the worker wrote last: a record may bear headers of these names itself.
3. A letter is retried once: that it was is noted on the topic of dead letters, in its own partition, after the record is acknowledged. A
   crash between the two leaves it to be sent twice at the worst, and of the two one counts, as with any producer's repetition.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from streamer.core.ports import OutRecord, Topic
from streamer.core.reasons import REMEDIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from streamer.app.looking import Log
    from streamer.core.columns import Fetched, Headers
    from streamer.core.ports import LogRecord
    from streamer.core.reasons import Reason

LETTER_BYTES_MAX = 900_000  # librdkafka refuses messages beyond 1,000,000 bytes, brokers beyond 1,048,588, by default
KEY_BYTES_MAX = 65_536
OWN_HEADERS_BYTES_MAX = 131_072
HEADER_BYTES = 16  # what a header costs beside its name and value, with room to spare

PREFIX = "dlq."
REASON, ERROR, SOURCE, CUT, RETRIED_FROM, NOTE = (
    f"{PREFIX}{name}" for name in ("reason", "error", "source", "cut", "retried_from", "note")
)
CHUNK_OFFSETS = 1_000
CHUNK_RETRIED = 500


# Writing


def write(fetched: Fetched, i: int, reason: Reason, topic: str) -> OutRecord:
    """Write a refused record of a batch as a dead letter."""
    key, own = fetched.keys[i], fetched.headers.get(i, ())
    value = None if fetched.empty[i] else fetched.values[fetched.bounds[i] : fetched.bounds[i + 1]]
    ours = headers_of(fetched, i, reason, topic)
    if len(key or b"") + len(value or b"") + _size(own) > LETTER_BYTES_MAX:
        whole = {"key": len(key or b""), "value": len(value or b""), "headers": len(own)}
        key, own = None if key is None else key[:KEY_BYTES_MAX], tuple(_fitting(own))
        value = None if value is None else value[: LETTER_BYTES_MAX - len(key or b"") - _size(own)]
        ours = (*ours, (CUT, json.dumps(whole).encode()))
    return OutRecord(Topic.DEAD_LETTERS, None, key, value, (*own, *ours))


def headers_of(fetched: Fetched, i: int, reason: Reason, topic: str) -> Headers:
    """Say why a record was refused, what to do about it, and where it came from."""
    source = {
        "topic": topic,
        "partition": int(fetched.partition[i]),
        "offset": int(fetched.offset[i]),
        "timestamp": int(fetched.timestamp[i]),
    }
    return (
        (REASON, reason.name.lower().encode()),
        (ERROR, REMEDIES[reason].encode()),
        (SOURCE, json.dumps(source).encode()),
    )


def _size(headers: Headers) -> int:
    return sum(len(name) * 4 + len(value or b"") + HEADER_BYTES for name, value in headers)  # a character takes 4 bytes at most


def _fitting(headers: Headers) -> Iterator[tuple[str, bytes | None]]:
    """Keep headers, from the first, as long as there is room."""
    left = OWN_HEADERS_BYTES_MAX
    for header in headers:
        left -= _size((header,))
        if left < 0:
            return
        yield header


# Finding


class Address(NamedTuple):
    """Where a letter is on the topic of dead letters."""

    partition: int
    offset: int

    def __str__(self) -> str:
        """Write it as people give it."""
        return f"{self.partition}:{self.offset}"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a record was refused. `timestamp` is its own in Kafka, in milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter without its value. `retried` tells that it was sent again, `again` that its record had been sent again before it came."""

    address: Address
    refused_ms: int
    reason: str
    error: str
    source: Source | None
    key: bytes | None
    value_bytes: int | None
    cut: bool
    again: bool
    retried: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters are meant: those that every filter lets through; an empty one lets all. `partitions` are the input's."""

    reasons: frozenset[str] = frozenset()
    partitions: frozenset[int] = frozenset()
    since_ms: int = 0
    addresses: frozenset[Address] = frozenset()

    def lets(self, letter: Letter) -> bool:
        """Tell whether a letter is meant."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (not self.partitions or (letter.source is not None and letter.source.partition in self.partitions))
            and letter.refused_ms >= self.since_ms
            and (not self.addresses or letter.address in self.addresses)
        )


class Searched(NamedTuple):
    """A stretch of the topic that was looked through; it begins at `earliest`."""

    partition: int
    first: int
    end: int
    earliest: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to: the letters meant, by partition and offset, and how many there were whether meant or not."""

    letters: tuple[Letter, ...]
    seen: int
    searched: tuple[Searched, ...]

    @property
    def complete(self) -> bool:
        """Tell whether nothing older is on the topic."""
        return all(part.first <= part.earliest for part in self.searched)


def last(headers: Headers, name: str) -> bytes | None:
    """Give the last header of a name; None where there is none."""
    return next((value for found, value in reversed(headers) if found == name), None)


def own_headers(headers: Headers) -> Headers:
    """Give a record's own headers, of a letter or of a record: what the worker wrote begins with the last reason and goes to the end."""
    reasons = [place for place, (name, _) in enumerate(headers) if name == REASON]
    own = headers[: reasons[-1]] if reasons else headers
    return tuple((name, value) for name, value in own if not name.startswith(PREFIX))


def letter_of(partition: int, record: LogRecord) -> Letter | None:
    """Read a letter; None for a record of the topic that is none."""
    reason = last(record.headers, REASON)
    if reason is None:
        return None
    return Letter(
        Address(partition, record.offset),
        record.timestamp,
        reason.decode(errors="replace"),
        (last(record.headers, ERROR) or b"").decode(errors="replace"),
        _source(last(record.headers, SOURCE)),
        record.key,
        None if record.value is None else len(record.value),
        cut=last(record.headers, CUT) is not None,
        again=last(record.headers, RETRIED_FROM) is not None,
    )


def _source(packed: bytes | None) -> Source | None:
    fields = _json(packed)
    try:
        return Source(str(fields["topic"]), int(fields["partition"]), int(fields["offset"]), int(fields["timestamp"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _json(packed: bytes | None) -> dict[str, Any]:
    """Read an object; what is none is empty, for anybody may write to a topic."""
    try:
        read = json.loads(packed or b"{}")
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def noted(record: LogRecord) -> list[int]:
    """Read a note: the offsets, in its own partition, of letters that were retried; none for a letter."""
    if last(record.headers, REASON) is not None:
        return []
    offsets = _json(last(record.headers, NOTE)).get("retried", [])
    return [offset for offset in offsets if isinstance(offset, int)] if isinstance(offsets, list) else []


def find(log: Log, topic: str, partitions: int, wanted: Wanted, scan_max: int) -> Found:
    """Look through the last `scan_max` offsets of each partition.

    Raises:
        Unavailable: Kafka doesn't answer.

    """
    letters: list[Letter] = []
    searched: list[Searched] = []
    seen = 0
    for partition in range(partitions):
        earliest, end = log.bounds(topic, partition)
        first = max(earliest, end - scan_max)
        searched.append(Searched(partition, first, end, earliest))
        mine: list[Letter] = []
        retried: set[int] = set()
        for begin in range(first, end, CHUNK_OFFSETS):
            for record in log.between(topic, partition, begin, min(begin + CHUNK_OFFSETS, end)):
                letter = letter_of(partition, record)
                retried.update(noted(record))
                seen += letter is not None
                if letter is not None and wanted.lets(letter):
                    mine.append(letter)
        letters += [replace(letter, retried=letter.address.offset in retried) for letter in mine]
    return Found(tuple(letters), seen, tuple(searched))


# Sending again


class Again(NamedTuple):
    """A record to be sent again: to the partition that it was refused in, or where its key decides for -1."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int


class Sender(Protocol):
    """Sends again, and notes that it did."""

    def send(self, records: Sequence[Again]) -> None:
        """Send records to the input topic; returns once all are acknowledged. Raises `Unavailable`."""

    def note(self, partition: int, headers: Headers) -> None:
        """Write a note to the topic of dead letters; returns once it is acknowledged. Raises `Unavailable`."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which letters are to be sent again; `skipped` counts the others by why, `left` those that are beyond the limit."""

    letters: tuple[Letter, ...]
    skipped: Mapping[str, int]
    left: int


@dataclass(slots=True)
class Retried:
    """What was done so far: letters sent again, and those whose record is no more."""

    sent: list[Address]
    gone: list[Address]


def choose(letters: Iterable[Letter], limit: int, *, again: bool) -> Chosen:
    """Choose, oldest first, what to send again: nothing twice, unless told so."""
    skipped: Counter[str] = Counter()
    chosen: list[Letter] = []
    for letter in sorted(letters, key=lambda letter: (letter.refused_ms, letter.address)):
        if letter.retried and not again:
            skipped["retried"] += 1
        elif letter.again and not again:
            skipped["refused_again"] += 1
        else:
            chosen.append(letter)
    return Chosen(tuple(chosen[:limit]), dict(skipped), max(0, len(chosen) - limit))


@dataclass(frozen=True, slots=True)
class Round:
    """Where letters come from and go to; the input has `partitions`."""

    log: Log
    sender: Sender
    letters: str
    events: str
    partitions: int


def send_again(where: Round, chosen: Sequence[Letter], done: Retried, now_ms: Callable[[], int]) -> None:
    """Send letters' records to the input, some at a time, and note of each lot that it was done; `done` says how far it came.

    Raises:
        Unavailable: Kafka doesn't answer; what is not in `done` may have been sent all the same.

    """
    for begin in range(0, len(chosen), CHUNK_RETRIED):
        records = _records_of(where, chosen[begin : begin + CHUNK_RETRIED])
        there = {address: record for address, record in records.items() if record is not None}
        where.sender.send(list(there.values()))
        for partition in sorted({address.partition for address in there}):
            offsets = [address.offset for address in there if address.partition == partition]
            where.sender.note(partition, ((NOTE, json.dumps({"retried": offsets, "at": now_ms()}).encode()),))
        done.sent += there
        done.gone += (address for address in records if address not in there)


def _records_of(where: Round, letters: Sequence[Letter]) -> dict[Address, Again | None]:
    """Read letters' records: from the letter, or where that was cut, from the input; None for one that is no more."""
    places = {letter.address: _place(where, letter) for letter in letters}
    wanted: dict[tuple[str, int], list[int]] = {}
    for place in places.values():
        if place is not None:
            wanted.setdefault(place[:2], []).append(place[2])
    read = {key: read_at(where.log, *key, offsets) for key, offsets in wanted.items()}
    found: dict[Address, Again | None] = {}
    for letter in letters:
        address, place = letter.address, places[letter.address]
        record = None if place is None else read[place[:2]].get(place[2])
        if record is None:
            found[address] = None
            continue
        retried_from = {"topic": where.letters, "partition": address.partition, "offset": address.offset}
        headers = (*own_headers(record.headers), (RETRIED_FROM, json.dumps(retried_from).encode()))
        source = _on_input(where, letter)
        found[address] = Again(record.key, record.value, headers, -1 if source is None else source.partition)
    return found


def _place(where: Round, letter: Letter) -> tuple[str, int, int] | None:
    """Say where a letter's whole record is."""
    if not letter.cut:
        return (where.letters, *letter.address)
    source = _on_input(where, letter)
    return None if source is None else (where.events, source.partition, source.offset)


def _on_input(where: Round, letter: Letter) -> Source | None:
    """Give where on the input the record was refused; None where that is no place on it."""
    source = letter.source
    return source if source is not None and source.topic == where.events and 0 <= source.partition < where.partitions else None


def read_at(log: Log, topic: str, partition: int, offsets: Iterable[int]) -> dict[int, LogRecord]:
    """Read the records at some offsets, those that are near each other in one go; what is no more is left out."""
    first, end = log.bounds(topic, partition)
    left = sorted({offset for offset in offsets if first <= offset < end}, reverse=True)
    found: dict[int, LogRecord] = {}
    while left:
        wanted = {left.pop()}
        begin = min(wanted)
        while left and left[-1] < begin + CHUNK_OFFSETS:
            wanted.add(left.pop())
        found |= {record.offset: record for record in log.between(topic, partition, begin, max(wanted) + 1) if record.offset in wanted}
    return found


def source_partition(headers: Headers) -> int | None:
    """Tell which partition of the input a letter is of; None where it does not say."""
    source = dict(headers).get(SOURCE)
    try:
        return None if source is None else int(json.loads(source)["partition"])
    except (KeyError, TypeError, ValueError):
        return None
