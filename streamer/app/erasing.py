"""What `streamer erase` sends, and what it finds left of a customer.

Law: looking changes nothing. What is said to be gone was looked for where it would be; how far the topics were looked through is said too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from streamer.adapters.avro import codec, wire
from streamer.adapters.kafka.events_producer import EventRecord
from streamer.app.looking import data_of, partition_counts
from streamer.core import outbox
from streamer.core.erasure import among
from streamer.core.errors import Misconfigured
from streamer.core.partition import unpack_erased

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamer.app.looking import Log, Sources
    from streamer.core.erasure import Rule
    from streamer.core.ports import LogRecord

EVENT = "behaviour_event"
ERASE = "$erase"
CHUNK = 5_000
_NAMED = b"\x0c$erase"  # the event type as Avro writes it: its length, zigzag, and its bytes
NOT_FOUND, WAITING, DONE = "not found", "waiting", "done"


@dataclass(frozen=True, slots=True)
class PartitionLeft:
    """What is left of a customer in one partition.

    `command` is `waiting` where the latest command has still to be carried out, `done` where it was, else `not found`: not among the
    records that were looked through, and not among those who are refused. `changes` counts the customer's records that the topic of
    changes still holds before the tombstone, and `tombstone` says whether there is one.
    """

    partition: int
    command: str
    command_offset: int | None
    profile: bool
    outbox: bool
    changes: int
    tombstone: bool
    history_rows: int | None  # None where there is no history

    @property
    def clean(self) -> bool:
        """Tell whether nothing is left but, it may be, the tombstone."""
        return self.command == DONE and not (self.profile or self.outbox or self.changes or self.history_rows)


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a customer. `complete` says that the topics were looked through as far as need be."""

    partitions: tuple[PartitionLeft, ...]
    complete: bool

    @property
    def clean(self) -> bool:
        """Tell whether nothing is left, for certain."""
        return self.complete and all(partition.clean for partition in self.partitions)


def commands(customer_id: str, partitions: int, schema_id: wire.SchemaId, now_ms: int) -> list[EventRecord]:
    """Write the command for every partition: nobody need know which holds the customer."""
    event: dict[str, Any] = {
        "event_id": f"erase-{uuid4()}",
        "customer_id": customer_id,
        "event_type": ERASE,
        "occurred_at": now_ms,
        **dict.fromkeys(("amount", "currency", "quantity", "product_id", "category", "session_id")),
        "properties": {},
    }
    value = wire.framed(codec.encode(EVENT, event), schema_id)
    return [EventRecord(customer_id.encode(), value, partition=partition) for partition in range(partitions)]


def look(sources: Sources, rule: Rule, customer_id: str, scan_max: int, history_rows: Callable[[int], int] | None) -> Left:
    """Look for what is left of a customer, in at most `scan_max` records of each partition of a topic, the latest first.

    `history_rows` counts the customer's rows in a partition's history.

    Raises:
        Misconfigured: there is no topic of events.
        Unavailable: a server doesn't answer.

    """
    count = partition_counts(sources)[1]
    if count is None:
        message = f"there is no topic {sources.place.events}: nobody is known"
        raise Misconfigured(message)
    key = customer_id.encode()
    asked = np.frombuffer(key, np.uint8), np.array([0, len(key)], np.int64)
    packed = sources.store.load(range(count), [asked] * count)
    states = sources.store.read(range(count))
    told = sources.log.partitions(sources.place.changes) is not None
    hashed = np.array([rule.of(key)], np.uint64)
    complete = True
    found = []
    for partition in range(count):
        state = states[partition]
        data = data_of(partition, state)
        refused = data is not None and data.erased_key == rule.key_name
        refused = refused and bool(among(hashed, unpack_erased(sources.store.erased(partition)))[0])
        offset, whole = _command(sources.log, sources.place.events, partition, key, scan_max)
        complete &= whole or refused
        command = NOT_FOUND if offset is None else WAITING if offset >= state.next_offset else DONE
        changes, tombstone = 0, False
        if told:
            changes, tombstone, whole = _changes(sources.log, sources.place.changes, partition, key, scan_max)
            complete &= whole
        found.append(
            PartitionLeft(
                partition=partition,
                command=DONE if refused and command == NOT_FOUND else command,
                command_offset=offset,
                profile=bool(len(packed[partition].values)),
                outbox=any(record.key == key for record in outbox.unpack(state.outbox)),
                changes=changes,
                tombstone=tombstone,
                history_rows=None if history_rows is None else history_rows(partition),
            )
        )
    return Left(tuple(found), complete)


def _backwards(log: Log, topic: str, partition: int, key: bytes, scan_max: int) -> Iterator[LogRecord | None]:
    """Give a customer's records, the latest first; ends with None where the topic reaches further back than was looked."""
    earliest, end = log.bounds(topic, partition)
    floor = max(earliest, end - scan_max)
    while end > floor:
        first = max(floor, end - CHUNK)
        yield from (record for record in reversed(log.between(topic, partition, first, end)) if record.key == key)
        end = first
    if floor > earliest:
        yield None


def _command(log: Log, topic: str, partition: int, key: bytes, scan_max: int) -> tuple[int | None, bool]:
    """Find the offset of the latest command; also tells whether all was looked through that had to be."""
    for record in _backwards(log, topic, partition, key, scan_max):
        if record is None:
            return None, False
        if record.value is not None and _NAMED in record.value:
            return record.offset, True
    return None, True


def _changes(log: Log, topic: str, partition: int, key: bytes, scan_max: int) -> tuple[int, bool, bool]:
    """Count a customer's records before the last tombstone, or all where there is none."""
    changes, tombstone = 0, False
    for record in _backwards(log, topic, partition, key, scan_max):
        if record is None:
            return changes, tombstone, False
        if record.value is None:
            if not tombstone:
                changes = 0  # those after it are of a customer who came again
            tombstone = True
        else:
            changes += 1
    return changes, tombstone, True
