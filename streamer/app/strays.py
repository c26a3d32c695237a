"""Strays: customers who were told to be in a segment, and whom a rebuild did not find again (7e of `protocol.py`).

It happens where Redis was lost and the log does not reach back to them any more. Nobody would ever tell of them again, so subscribers are
told that they left, with the cause `reconcile`, under the version after the one told last.

Laws: each is told once, also where an owner dies at any point. The commit that ends the rebuild says that there are some, the last of those
that tell of them that there are none any more; an owner who finds them said compares again, and who was told of already is in no segment by
then. The partition's events wait: one of a stray would begin a new profile, whose first change must come after.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from streamer.app.changes import EXITED, Membership
from streamer.app.commits import NO_PROFILES, stamp
from streamer.app.rebuild import Settlement
from streamer.core import outbox
from streamer.core.partition import pack_state
from streamer.core.ports import Commit, Committed

if TYPE_CHECKING:
    from streamer.app.assignment import Owned
    from streamer.app.decisions import Hands
    from streamer.app.rebuild import Told
    from streamer.app.tools import Settings, Tools

log = logging.getLogger(__name__)


def part(tools: Tools, settings: Settings, owned: Owned, hands: Hands) -> None:
    """Go on with telling that a partition's strays left: read what was published, a part at a time, or tell of some of them.

    What the partition's last owner published must be published by now. Raises `Unavailable` as ending a rebuild does.
    """
    if owned.strays is None:
        at = Committed(owned.next_offset, owned.commit_id)
        owned.settlement = owned.settlement or Settlement.begin(tools.reader, owned.number, at)
        if not owned.settlement.read:
            owned.settlement.go_on(tools.reader, settings.publish_timeout_s)
            return
        owned.strays = deque(owned.settlement.strays(tools.store, owned.commit_id, tools.intake.plan).items())
        owned.settlement = None
    some = [owned.strays.popleft() for _ in range(min(settings.sweep_records, len(owned.strays)))]
    commit_id, data = owned.next_commit(tools.clock.token()), replace(owned.data, strays=bool(owned.strays))
    left = [_left(owned, customer, told) for customer, told in some]
    mark = stamp(commit_id, owned.next_offset)
    records = tools.changes.write_again(left, owned.number, owned.next_offset, tools.shelf.names(data.model), mark, tools.clock.now_ms())
    packed = pack_state(data), outbox.pack(records), NO_PROFILES
    commit = Commit(owned.number, owned.token, owned.commit_id, commit_id, owned.next_offset, *packed, announce={})
    hands.carry_out([(commit, data)], records)
    log.info("partition %d: told that %d customers left who were not found again", owned.number, len(some))


def _left(owned: Owned, customer: bytes, told: Told) -> Membership:
    data = owned.data
    return Membership(customer, told.version + 1, EXITED, told.segment, told.since, max(told.since, data.watermark), data.model, data.epoch)
