"""One batch through the core: customers numbered, profiles loaded, folded and packed again.

Law: nothing here outlives the batch but the sums, which the caller keeps or throws away with the commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from streamer.core.columns import read_only
from streamer.core.erasure import heed, make_rule
from streamer.core.errors import Corrupt
from streamer.core.fold import ERASE, MERGED, TALLIES, Changes, fold
from streamer.core.intake import Customers, group, hash_ids
from streamer.core.merging import NO_REDIRECTS, Merges, direct
from streamer.core.ports import Packed
from streamer.core.profile import CORRUPT, OTHER_VERSION, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streamer.app.intake import Taken
    from streamer.app.logs import Pseudonyms
    from streamer.core.columns import I64, U8, U64, Bool
    from streamer.core.erasure import Rule
    from streamer.core.fold import Away, Judge, Rows, Sums
    from streamer.core.merging import Redirects
    from streamer.core.plan import Plan
    from streamer.core.profile import Work

    Load: TypeAlias = Callable[[Sequence[int], Sequence[tuple[U8, I64]]], list[Packed]]


class Sent(NamedTuple):
    """What is sent on to another customer: a record of the batch, or the profile that one of them takes away."""

    part: int
    record: int
    customer: bytes
    away: Away | None


@dataclass(frozen=True, slots=True)
class Folded:
    """What a batch came to: the rows that count, the customers, their changes and their new profiles."""

    rows: Rows  # of the batch, without those of erased customers that are refused, and those that are sent on
    customers: Customers
    changes: Changes
    changed: int
    values: Packed  # of all the batch's customers, in order
    tally: I64  # (p, TALLIES)
    erasures: I64  # (p,) commands to erase somebody that were carried out
    refused: I64  # (p,) rows refused because their customer was erased
    erased: Sequence[U64]  # (p,) the keyed hashes of all who were erased and are refused
    sent: list[Sent]  # in the order of the log
    redirects: Sequence[Redirects]  # (p,) whose events are sent on

    def profiles(self, part: int) -> Packed:
        """Give one partition's new profiles."""
        ids, id_bounds = self.customers.of(part)
        begin, end = self.customers.start[part], self.customers.start[part + 1]
        bounds = self.values.bounds[begin : end + 1]
        return Packed(ids, id_bounds, self.values.values[bounds[0] : bounds[-1]], bounds - bounds[0])


def joined(packs: Sequence[Packed]) -> Packed:
    """Join several sets of profiles into one."""
    if len(packs) == 1:
        return packs[0]
    empty = np.zeros(0, np.uint8)

    def bounds(each: Sequence[I64]) -> I64:
        lengths = np.concatenate([empty, *(np.diff(b) for b in each)])
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])

    return Packed(
        np.concatenate([empty, *(p.ids for p in packs)]),
        bounds([p.id_bounds for p in packs]),
        np.concatenate([empty, *(p.values for p in packs)]),
        bounds([p.bounds for p in packs]),
    )


ACCEPT = make_rule(None, refuse=False)
WEEK_MS = 7 * 86_400_000


class Parts(NamedTuple):
    """The `p` partitions of a batch."""

    numbers: Sequence[int]  # (p,) Kafka's
    judge: Judge
    sums: Sums
    watermark: I64  # (p,)
    era: int
    erased: Sequence[U64]  # (p,) the keyed hashes of those who were erased before
    rule: Rule = ACCEPT  # how these are treated
    redirects: Sequence[Redirects] = ()  # (p,) whose events are sent on; none where it is empty
    redirect_ms: int = WEEK_MS
    pseudonyms: Pseudonyms | None = None  # how an error names a customer; else it names nobody


def fold_batch(plan: Plan, parts: Parts, taken: Taken, swept: Mapping[int, Packed], load: Load) -> Folded:
    """Fold a batch's events, after the customers that a sweep found.

    `swept` has the profiles that a sweep found, by their place among the partitions; `load` is the store's. Updates the sums and the
    watermark of `parts` in place.

    Raises:
        Corrupt: A profile is not what this program writes, or is of another feature version.
        Misconfigured: Somebody was erased under another key.
        Unavailable: Redis did not answer.

    """
    numbers = parts.numbers
    slot, part, customers = _number(taken, swept, len(numbers))
    found = [i for i in range(len(numbers)) if customers.start[i + 1] > customers.start[i]]
    loaded = joined(load([numbers[i] for i in found], [customers.of(i) for i in found]))
    events = len(taken.rows.slot)
    rows, record = taken.rows._replace(slot=slot[:events]), taken.record
    heeded = heed(parts.rule, rows, record, customers, parts.erased, taken.said)
    rows, record = _only(rows, record, heeded.kept)
    merges = Merges(parts.redirect_ms, taken.said, taken.hops)
    directed = direct(merges, parts.rule, rows, record, customers, parts.redirects or [NO_REDIRECTS] * len(numbers))
    rows, record = _only(rows, record, directed.kept)
    brought, room = _brought(plan, rows, record, taken)
    extra = np.bincount(rows.slot, minlength=len(customers.id_bounds) - 1).astype(np.int64)
    np.add.at(extra, rows.slot[rows.type == MERGED], room)
    work = unpack(plan, read_only(loaded.values), loaded.bounds, extra)
    bad = np.flatnonzero((work.found == OTHER_VERSION) | (work.found == CORRUPT))
    if len(bad):
        raise _unreadable(parts.pseudonyms, customers, int(bad[0]), int(work.found[bad[0]]))
    tally = np.zeros((len(numbers), TALLIES), np.int64)
    swept_slot, swept_part = slot[events:], part[events:]
    changes, changed, away = fold(
        plan, parts.judge, parts.sums, work, rows, swept_slot, swept_part, parts.era, parts.watermark, tally, brought
    )
    values, bounds = pack(plan, work, np.arange(len(extra)))
    packed = Packed(customers.ids, customers.id_bounds, values, bounds)
    erasures = np.bincount(rows.part[rows.type == ERASE], minlength=len(numbers))
    taken_away = {int(record[row]): one for row, one in away.items()}
    sent = [Sent(*one[:3], taken_away.get(one.record)) for one in directed.sent if not one.command or one.record in taken_away]
    return Folded(rows, customers, changes, changed, packed, tally, erasures, heeded.refused, heeded.erased, sent, directed.redirects)


def _only(rows: Rows, record: I64, kept: Bool) -> tuple[Rows, I64]:
    """Leave rows out."""
    if kept.all():
        return rows, record
    return rows._replace(**{name: getattr(rows, name)[..., kept] for name in rows._fields}), record[kept]


def _brought(plan: Plan, rows: Rows, record: I64, taken: Taken) -> tuple[Work | None, I64]:
    """Unpack the profiles that rows bring, and count the tiles of each, by days or by hours, whichever are more."""
    merged = np.flatnonzero(rows.type == MERGED)
    if not len(merged):
        return None, np.zeros(0, np.int64)
    profiles = [taken.said[one] for one in record[merged].tolist()]
    bounds = np.cumsum([0, *map(len, profiles)], dtype=np.int64)
    work = unpack(plan, read_only(np.frombuffer(b"".join(profiles), np.uint8)), bounds, np.zeros(len(profiles), np.int64))
    return work, np.maximum(work.days.count, work.hours.count).astype(np.int64)


def _number(taken: Taken, swept: Mapping[int, Packed], parts: int) -> tuple[np.ndarray, np.ndarray, Customers]:
    """Number the customers of events and sweep together; events come first."""
    values, start, length = taken.values, taken.id_start, taken.id_length
    hashed, part = taken.id_hash, taken.rows.part
    for index, packed in swept.items():
        start = np.concatenate([start, packed.id_bounds[:-1] + len(values)])
        values = np.concatenate([values, packed.ids])
        length = np.concatenate([length, np.diff(packed.id_bounds).astype(np.int32)])
        hashed = np.concatenate([hashed, hash_ids(read_only(packed.ids), packed.id_bounds)])
        part = np.concatenate([part, np.full(len(packed.id_bounds) - 1, index, np.int32)])
    slot, customers = group(values, start, length, hashed, part, parts)
    return slot, part, customers


def _unreadable(pseudonyms: Pseudonyms | None, customers: Customers, u: int, found: int) -> Corrupt:
    ids, bounds = customers.ids, customers.id_bounds
    name = "a customer" if pseudonyms is None else pseudonyms.of(ids[bounds[u] : bounds[u + 1]].tobytes())
    what = "is damaged: `streamer check` tells which, then rebuild its partition"
    if found == OTHER_VERSION:
        what = "was built by another feature version: restore the declaration, or begin in a new namespace"
    return Corrupt(f"the profile of {name} {what}")
