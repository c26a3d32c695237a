"""Assignment: what a partition's new owner makes of what Redis, Kafka and the journal say.

1. Write a new owner token to Redis, and read the state there: whatever the last owner still tries to commit is refused from now on.
2. Read Kafka's position C and the commit id in its metadata, then compare with Redis's R.
3. R's outbox is published again unless C carries its id: nobody else knows whether it was.
4. Where C is beyond R, or there is no R, Redis lost writes: the log is folded again up to C, and of that only what may not have been told
   is told. The journal is followed at its offsets, so that the rebuild lands where the lost state was. It is read as well where C's id is
   none of R's last two, for then it may hold decisions that R lacks.

Law: an owner begins exactly at R's `next_offset`, or with the log where there is no R; it never skips what the log doesn't hold any more.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from streamer.app import journal
from streamer.core import outbox
from streamer.core.errors import Corrupt, Misconfigured
from streamer.core.partition import PartitionData, unpack_state
from streamer.core.ports import Committed, OffsetOutOfRange, Topic

if TYPE_CHECKING:
    from streamer.app.tools import Tools
    from streamer.core.declaration import Declaration
    from streamer.core.ports import OutRecord, PartitionState

log = logging.getLogger(__name__)

NO_LIMIT = int(np.iinfo(np.int64).max)


@dataclass(slots=True)
class Owned:
    """One partition in a worker's hands: rebuilding while it is below `quiet_below`, and with the decisions of `script` still to follow."""

    number: int
    token: str
    commit_id: str
    next_offset: int
    data: PartitionData
    script: deque[journal.Entry] = field(default_factory=deque)
    quiet_below: int = 0

    @property
    def limit(self) -> int:
        """Give the first offset that must wait for something else to be done."""
        decision = self.script[0].at_offset if self.script else NO_LIMIT
        return min(decision, self.quiet_below if self.next_offset < self.quiet_below else NO_LIMIT)

    def was_told(self, next_offset: int) -> bool:
        """Tell whether a commit up to an offset is within what was told before Redis was lost."""
        return 0 < next_offset <= self.quiet_below


@dataclass(frozen=True, slots=True)
class TakenOver:
    """A partition, what its last owner may not have published, and the position to commit once that is published."""

    owned: Owned
    unpublished: list[OutRecord]
    position: Committed | None


def take_over(tools: Tools, declaration: Declaration, partition: int, timeout_s: float, *, follow: bool) -> TakenOver:
    """Take a partition over; `follow` says to take decisions from the journal alone.

    Raises:
        Misconfigured: the partition's profiles are of another feature version.
        Corrupt: its state is not what this program writes.
        OffsetOutOfRange: what Redis lost, the log doesn't hold any more.
        Unavailable: one of the servers didn't answer.

    """
    token = tools.clock.token()
    state = tools.store.claim(partition, token)  # 1
    kafka = tools.log.committed([partition]).get(partition)  # 2
    data = _data(partition, state, declaration)
    next_offset = state.next_offset if state.commit_id else tools.log.bounds(partition)[0]
    if kafka is not None and not state.commit_id and kafka.next_offset < next_offset:
        raise OffsetOutOfRange(partition, kafka.next_offset)
    owned = Owned(partition, token, state.commit_id, next_offset, data)
    behind = kafka is not None and (not state.commit_id or kafka.next_offset > next_offset)
    known = kafka is not None and kafka.commit_id in {state.commit_id, state.previous_commit_id}
    if behind or not known or follow:
        entries = journal.read(tools.reader.read(Topic.JOURNAL, partition, 0, timeout_s))
        owned.script = journal.script(entries, data)
    if kafka is not None and behind:  # 4
        owned.quiet_below = kafka.next_offset
        log.warning("partition %d: Redis is at offset %d, published up to %d: rebuilding", partition, next_offset, kafka.next_offset)
    unpublished: list[OutRecord] = []
    position = None
    if state.commit_id and (kafka is None or kafka.commit_id != state.commit_id):  # 3
        unpublished = outbox.unpack(state.outbox)
        position = None if behind else Committed(state.next_offset, state.commit_id)
    if data.model:
        tools.shelf.get(data.model)
    return TakenOver(owned, unpublished, position)


def _data(partition: int, state: PartitionState, declaration: Declaration) -> PartitionData:
    """Read a partition's state."""
    if not state.commit_id:
        return PartitionData(declaration.version)
    try:
        data = unpack_state(state.state)
    except ValueError as error:
        message = f"the state of partition {partition} in Redis can't be read: {error}: run the version of the program that wrote it"
        raise Corrupt(message) from error
    if data.feature_version != declaration.version:
        message = (
            f"partition {partition} holds profiles of feature version {data.feature_version}, the declaration is {declaration.version}: "
            "restore the declaration, or begin in a new `app.namespace`"
        )
        raise Misconfigured(message)
    return data
