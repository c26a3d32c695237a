"""The end of a rebuild (7d of `protocol.py`): the state is made to agree with what was published, in one commit that takes C's id.

Laws: what subscribers were told wins. A customer of whom more was told than the state knows was judged by a slice of a sweep that was lost:
the state learns the segment, its version and since when, and the sweep, coming by again, goes on from there; who was told to have left
leaves. A state that knows more than was told is a fork, where an owner that was none any more committed to a Redis that had been rolled
back: the rebuild begins anew, from nothing. Should that know more too, the customer goes back to what was told, and is judged anew by the
sweep. A customer who was told to be in a segment, and whom the state does not know, is a stray: `strays.py` tells that they left.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamer.adapters.avro import codec, wire
from streamer.app.batch import joined
from streamer.app.changes import CHANGE, EXITED
from streamer.app.commits import NO_PROFILES, commit_all, stamped
from streamer.app.walk import walk
from streamer.core.partition import BEGINS, Learned, pack_state
from streamer.core.ports import Commit, Outcome, Packed, Topic
from streamer.core.profile import CLOCK, FIRST_CODE, HELD, MODEL, NEVER, NEW_SEGMENT, NO_SEGMENT, PRESENT, SEGMENT, SINCE, VERSION, pack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.app.assignment import Owned
    from streamer.app.tools import Settings, Tools
    from streamer.app.walk import Met
    from streamer.core.columns import I64
    from streamer.core.partition import PartitionData
    from streamer.core.plan import Plan
    from streamer.core.ports import Committed, LogRecord, StateStore, TopicReader
    from streamer.core.profile import Work

log = logging.getLogger(__name__)

READ_RECORDS = 20_000


class Forked(Exception):  # noqa: N818  # says what happened
    """The state that a rebuild began from knows more than was told."""


class Told(NamedTuple):
    """The last that subscribers were told of a customer: a segment's code, its version, and since when."""

    version: int
    segment: int
    since: int


NOTHING_TOLD = Told(0, NO_SEGMENT, NEVER)


class Agreed(NamedTuple):
    """What makes a state agree with what was told: its own data, and the profiles that differ."""

    data: PartitionData
    profiles: Packed
    taught: int  # customers of whom more was told than the state knew
    taken_back: int  # customers of whom less was told
    strays: dict[bytes, Told]  # customers who were told to be in a segment, and have no profile


@dataclass(slots=True)
class Settlement:
    """Reads what was published of a partition, a part at a time, so that other partitions are not kept waiting."""

    partition: int
    until: Committed
    told: dict[bytes, Told]
    next_offset: int
    end: int

    @classmethod
    def begin(cls, reader: TopicReader, partition: int, until: Committed) -> Settlement:
        """Fix the end: the high watermark of now, whatever transactions are open. Raises `Unavailable`."""
        first, end = reader.bounds(Topic.CHANGES, partition)
        return cls(partition, until, {}, first, end)

    @property
    def read(self) -> bool:
        """Tell whether everything was read."""
        return self.next_offset >= self.end

    def go_on(self, reader: TopicReader, timeout_s: float) -> None:
        """Read the next part; waits until no transaction in it is open. Raises `Unavailable`."""
        end = min(self.next_offset + READ_RECORDS, self.end)
        for record in reader.read(Topic.CHANGES, self.partition, self.next_offset, timeout_s, end):
            self._take(record)
        self.next_offset = end

    def _take(self, record: LogRecord) -> None:
        stamp = stamped(record.headers)
        if stamp is not None and stamp.next_offset > self.until.next_offset:
            return  # without transactions more may have been told than Kafka's position covers: it is told again
        customer = record.key or b""
        if record.value is None:
            self.told.pop(customer, None)
            return
        change = codec.decode(CHANGE, record.value[wire.opening(record.value, record.headers).body :])
        if change["version"] > self.told.get(customer, NOTHING_TOLD).version:
            segment = NO_SEGMENT if change["status"] == EXITED else _code(change["segment_id"])
            self.told[customer] = Told(change["version"], segment, change["occurred_at"])

    def agree(self, store: StateStore, commit_id: str, plan: Plan, data: PartitionData, numbers: list[int]) -> Agreed:
        """Compare every profile, as of a commit, with what was told; `numbers` are those of the adopted version's segments.

        Raises:
            Unavailable: Redis does not answer, or is not at that commit any more.

        """
        votes = _Votes(data, numbers)
        changed: list[Packed] = []
        taught = taken_back = 0
        strays = self._members()
        for met in walk(store, self.partition, plan, commit_id=commit_id):
            rows = []
            for u, told in self._differing(met):
                head = met.work.head[u]
                votes.take_back(met.work, u)
                if told.version > head[VERSION]:
                    taught += 1
                    left = told.segment == NO_SEGMENT
                    head[CLOCK] = NEVER if left else max(head[CLOCK], told.since)  # who left has no profile
                else:
                    taken_back += 1
                head[VERSION], head[SEGMENT], head[SINCE] = told
                rows.append(u)
            for customer in met.ids:
                strays.pop(customer, None)
            if rows:
                changed.append(_packed(plan, met, rows))
        data = replace(votes.data(), strays=bool(strays))
        return Agreed(data, joined(changed) if changed else NO_PROFILES, taught, taken_back, strays)

    def strays(self, store: StateStore, commit_id: str, plan: Plan) -> dict[bytes, Told]:
        """Find, as of a commit, the customers who were told to be in a segment, and have no profile. Raises as `agree` does."""
        left = self._members()
        for met in walk(store, self.partition, plan, commit_id=commit_id) if left else ():
            for customer in met.ids:
                left.pop(customer, None)
        return left

    def _members(self) -> dict[bytes, Told]:
        """Give those who were told to be in a segment."""
        return {customer: told for customer, told in self.told.items() if told.segment != NO_SEGMENT}

    def _differing(self, met: Met) -> Iterator[tuple[int, Told]]:
        head = met.work.head
        found = zip(met.ids, met.fresh.tolist(), met.work.found.tolist(), head[:, VERSION].tolist(), head[:, SEGMENT].tolist(), strict=True)
        for u, (customer, fresh, sort, version, segment) in enumerate(found):
            told = self.told.get(customer, NOTHING_TOLD)
            if fresh and sort == PRESENT and (told.version, told.segment) != (version, segment):
                yield u, told


def settle(tools: Tools, settings: Settings, owned: Owned) -> Outcome | None:
    """Go on with ending a rebuild that has come to C: read a part, or commit; None while it is not over.

    Raises:
        Forked: it is to begin from nothing.
        Unavailable: a server does not answer, a transaction is open where it reads, or Redis is not as the rebuild left it.

    """
    until = owned.until
    if until is None:
        return None
    owned.settlement = owned.settlement or Settlement.begin(tools.reader, owned.number, until)
    if not owned.settlement.read:
        owned.settlement.go_on(tools.reader, settings.publish_timeout_s)
        return None
    numbers = [segment.number for segment in tools.shelf.get(owned.data.model).active] if owned.data.model else []
    agreed = owned.settlement.agree(tools.store, owned.commit_id, tools.intake.plan, owned.data, numbers)
    if owned.began_from_state and (agreed.taken_back or (agreed.strays and tools.log.bounds(owned.number)[0] == 0)):
        raise Forked  # strays of a log that is whole were let go by a sweep of that fork
    takes = Commit(
        owned.number,
        owned.token,
        owned.commit_id,
        until.commit_id,
        until.next_offset,
        pack_state(agreed.data),
        outbox=b"",
        profiles=agreed.profiles,
        announce={},
    )
    [outcome] = commit_all(tools.store, tools.clock, [takes])
    if outcome is Outcome.APPLIED:
        log.info(
            "partition %d: rebuilt up to offset %d; %d customers were told of more, %d of less than was found again, %d are unknown",
            owned.number,
            until.next_offset,
            agreed.taught,
            agreed.taken_back,
            len(agreed.strays),
        )
        owned.commit_id, owned.data, owned.until, owned.settlement = until.commit_id, agreed.data, None, None
        owned.strays = deque(agreed.strays.items())
    return outcome


class _Votes:
    """A partition's sums while customers are moved about in them."""

    def __init__(self, data: PartitionData, numbers: list[int]) -> None:
        self._data = data
        self._codes = [FIRST_CODE + number for number in numbers]
        self._sweeps_again = False
        self._learned: Learned | None = None
        if data.learned is not None:
            one = data.learned
            self._learned = Learned(one.count.copy(), one.total.copy(), one.square.copy(), one.members.copy())

    def take_back(self, work: Work, u: int) -> None:
        """Make a customer one that the adopted version has yet to judge."""
        head = work.head[u]
        if self._learned is None or head[MODEL] != self._data.model:
            return
        if head[HELD]:
            k, vote = head[HELD] - 1, work.vote[u].astype(np.int64)
            self._learned.count[k] -= 1
            self._learned.total[k] -= vote
            self._learned.square[k] -= vote * vote
        self._learned.members[self._place(int(head[SEGMENT]))] -= 1
        head[HELD], head[MODEL] = 0, 0
        self._sweeps_again = True

    def data(self) -> PartitionData:
        cursor = BEGINS if self._sweeps_again else self._data.cursor
        return replace(self._data, learned=self._learned, cursor=cursor, rebuilding=False)

    def _place(self, code: int) -> int:
        return self._codes.index(code) if code in self._codes else len(self._codes)


def _packed(plan: Plan, met: Met, rows: list[int]) -> Packed:
    ids = [met.ids[u] for u in rows]
    bounds: I64 = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    return Packed(np.frombuffer(b"".join(ids), np.uint8), bounds, *pack(plan, met.work, np.array(rows, np.int64)))


def _code(segment_id: str) -> int:
    """Read a segment's code from its id, such as seg_0003."""
    return NEW_SEGMENT if segment_id == "new" else FIRST_CODE + int(segment_id.removeprefix("seg_"))
