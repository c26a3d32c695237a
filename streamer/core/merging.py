"""Merging: which rows of a batch are of customers who were merged into another, and where they are sent.

Laws:
1. A command that merges OLD into NEW takes OLD's profile away. After it an event of OLD is NEW's, if it occurred before the command's time
   plus `redirect_ms`: it is sent on to NEW's partition, and leaves no trace in the one that it came to.
2. Where an event goes is a function of its partition's log and its own time: not of any clock, nor of where batches begin and end.
3. What is sent on comes to rest: a command ends what sends NEW's events elsewhere, so a partition's table has no cycles. Partitions may
   take contradicting commands in different orders, so an event that has been sent on `HOPS_MAX` times is taken in where it is.
4. Who is erased stands in no table, neither as OLD nor as NEW.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamer.core.erasure import among, is_marked
from streamer.core.fold import ERASE, ERASED, MERGE, MERGED
from streamer.core.hashing import xxh64
from streamer.core.intake import hash_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streamer.core.columns import I64, U8, U64, Bool
    from streamer.core.erasure import Rule
    from streamer.core.fold import Rows
    from streamer.core.intake import Customers

HOPS_MAX = 8
REDIRECTS_MAX = 10_000
_NUMBER_BYTES = 8


def _joined(ids: Mapping[bytes, object]) -> tuple[U8, I64]:
    return np.frombuffer(b"".join(ids), np.uint8), np.cumsum([0, *map(len, ids)], dtype=np.int64)


def _number(value: int) -> bytes:
    return value.to_bytes(_NUMBER_BYTES, "little", signed=True)


class Target(NamedTuple):
    """Whose events a customer's are now, if they occurred before `until` (ms)."""

    customer: bytes
    until: int


class Redirects:
    """The table of one partition: at most `REDIRECTS_MAX` customers, in the order of their commands. Not to be changed once made."""

    def __init__(self, to: Mapping[bytes, Target] | None = None) -> None:
        """Hold whose events are whose."""
        self.to: dict[bytes, Target] = dict(to or {})
        ids, bounds = _joined(self.to)
        self.hashes: U64 = np.sort(hash_ids(ids, bounds))

    def __len__(self) -> int:
        """Count the customers whose events are sent on."""
        return len(self.to)

    def pack(self) -> bytes:
        """Pack: of each entry the lengths of both ids and the time as 64-bit little-endian integers, and the ids."""
        parts = []
        for customer, target in self.to.items():
            parts += [_number(len(customer)), _number(len(target.customer)), _number(target.until), customer, target.customer]
        return b"".join(parts)

    @classmethod
    def unpack(cls, packed: bytes) -> Redirects:
        """Unpack what `pack` packed."""
        to: dict[bytes, Target] = {}
        at = 0
        while at < len(packed):
            old, new, until = (int(n) for n in np.frombuffer(packed, "<i8", 3, at))
            at += 3 * _NUMBER_BYTES
            to[packed[at : at + old]] = Target(packed[at + old : at + old + new], until)
            at += old + new
        return cls(to)

    def digest(self) -> str:
        """Tell tables apart; an empty one has none."""
        packed = np.frombuffer(self.pack(), np.uint8)
        return f"{xxh64(packed, 0, len(packed)):016x}" if len(packed) else ""


NO_REDIRECTS = Redirects()


def merge(to: dict[bytes, Target], old: bytes, new: bytes, at: int, redirect_ms: int) -> None:
    """Take a command into a table: OLD's events that occurred before `at + redirect_ms` are NEW's.

    Entries that ended more than `redirect_ms` before the command go, oldest commands first, and so do the oldest where there are too many.
    """
    to.pop(new, None)
    to.pop(old, None)
    to[old] = Target(new, at + redirect_ms)
    while to:
        first, entry = next(iter(to.items()))
        if len(to) <= REDIRECTS_MAX and entry.until + redirect_ms > at:
            break
        del to[first]


def target(to: Mapping[bytes, Target], customer: bytes, time: int) -> bytes | None:
    """Find whose an event of a customer is that occurred at a time; None where it is the customer's own."""
    found = None
    entry = to.get(customer)
    while entry is not None and time < entry.until:
        found = entry.customer
        entry = to.get(found)
    return found


def forget(to: dict[bytes, Target], gone: Callable[[bytes], bool]) -> None:
    """Let a table know nothing of a customer, whom `gone` tells by the id."""
    for old in [old for old, entry in to.items() if gone(old) or gone(entry.customer)]:
        del to[old]


class SentOn(NamedTuple):
    """A record that is sent on: somebody's event, or what a command takes away, if that is anything."""

    part: int
    record: int  # of the batch
    customer: bytes  # whom it is for
    command: bool


class Directed(NamedTuple):
    """What merges make of a batch of `n` rows over `p` partitions."""

    kept: Bool  # (n,) the rows that stay
    sent: list[SentOn]  # in the order of the rows
    redirects: Sequence[Redirects]  # (p,) as they are after the batch


@dataclass(frozen=True, slots=True)
class Merges:
    """How merges are carried out, and what the commands of a batch say.

    `said` has by record whom a MERGE is into, and the packed profile that a MERGED brings; `hops` tells how often a record was sent on.
    """

    redirect_ms: int
    said: Mapping[int, bytes]
    hops: Callable[[int], int]


def direct(merges: Merges, rule: Rule, rows: Rows, record: I64, customers: Customers, redirects: Sequence[Redirects]) -> Directed:
    """Find the rows that are sent on, and the tables after a batch.

    Args:
        merges: how, and what the commands say.
        rule: how erased customers are known.
        rows: the batch without the rows that are refused, `slot` filled in.
        record: (n,) which record each row is.
        customers: the batch's customers.
        redirects: (p,) the tables before it.

    """
    kept = np.ones(len(rows.slot), np.bool_)
    commands = (rows.type == MERGE) | (rows.type == ERASE) | (rows.type == ERASED)
    merging = rows.type == MERGE
    if not merging.any() and not any(map(len, redirects)):
        return Directed(kept, [], redirects)
    concerned = np.zeros(len(customers.id_bounds) - 1, np.bool_)
    concerned[rows.slot[merging]] = True
    hashes = hash_ids(customers.ids, customers.id_bounds)
    for part, table in enumerate(redirects):
        mine = slice(customers.start[part], customers.start[part + 1])
        concerned[mine] |= among(hashes[mine], table.hashes)
    changed: dict[int, dict[bytes, Target]] = {}
    sent: list[SentOn] = []
    for i in np.flatnonzero(commands | concerned[rows.slot]).tolist():
        part, slot, kind = int(rows.part[i]), int(rows.slot[i]), int(rows.type[i])
        customer = customers.ids[customers.id_bounds[slot] : customers.id_bounds[slot + 1]].tobytes()
        to = changed.get(part, redirects[part].to)
        if kind == MERGE:
            into = merges.said[int(record[i])]
            merge(changed.setdefault(part, dict(to)), customer, into, int(rows.time[i]), merges.redirect_ms)
            sent.append(SentOn(part, int(record[i]), into, command=True))
        elif kind == ERASE:
            forget(changed.setdefault(part, dict(to)), customer.__eq__)
        elif kind == ERASED:
            forget(changed.setdefault(part, dict(to)), is_marked(rule, customer))
        elif kind >= 0 or kind == MERGED:
            whose = target(to, customer, int(rows.time[i]))
            if whose is not None and merges.hops(int(record[i])) < HOPS_MAX:
                kept[i] = False
                sent.append(SentOn(part, int(record[i]), whose, command=False))
    after = [Redirects(changed[part]) if part in changed else table for part, table in enumerate(redirects)]
    return Directed(kept, sent, after)
