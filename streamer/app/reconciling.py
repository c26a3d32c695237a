"""Reconciling: everybody's present segment is told again, when a person asks for it, to subscribers who may have lost something.

A request is an id that `streamer reconcile` writes; owners find it, walk their profiles in slices between batches, and say of each customer
who is in a segment that they are: status `existing`, under the very version and id that they were told it with. Who has it passes it over.

Laws: a slice is an ordinary commit with its outbox, whose state names the request and the walk's cursor, so the next owner goes on with it.
Every customer who is in a segment from the request until the walk is over is told of, by it or by a change of their own: a walk meets all
who are there throughout, and its cursor is refused by any process but the one that gave it (`CursorLost`), upon which it begins anew.
A rebuild forgets the request, and it begins anew too: what the rebuild began from may have been published by nobody.
Whatever is told again is told as it was, so that a slice lost, repeated, or begun anew shows to nobody who goes by versions.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from streamer.app.changes import EXISTING, RECONCILE, Membership
from streamer.app.commits import NO_PROFILES, stamp
from streamer.core import outbox
from streamer.core.columns import read_only
from streamer.core.fold import CENTROID_ONE, VOTE_ONE
from streamer.core.partition import BEGINS, DONE, pack_state
from streamer.core.ports import Commit, CursorLost
from streamer.core.profile import EPOCH, FIRST_CODE, HELD, MODEL, NO_SEGMENT, PRESENT, SEGMENT, SINCE, VERSION, unpack

if TYPE_CHECKING:
    from streamer.app.assignment import Owned
    from streamer.app.decisions import Hands
    from streamer.app.tools import Settings, Tools
    from streamer.core.columns import F64
    from streamer.core.partition import PartitionData
    from streamer.core.ports import OutRecord, Packed
    from streamer.core.profile import Work


class Reconciler:
    """Tells the segments of a worker's customers again."""

    def __init__(self, settings: Settings, tools: Tools, hands: Hands) -> None:
        """Tell those of the partitions that `hands` holds."""
        self._settings = settings
        self._tools = tools
        self._hands = hands
        self._asked = ""
        self._turn = 0
        self._due_s = 0.0

    def heed(self) -> None:
        """Look for a request, now and then."""
        now = self._tools.clock.monotonic_s()
        if now < self._due_s:
            return
        self._due_s = now + self._settings.poll_interval_s
        self._asked = (self._tools.store.announced(RECONCILE) or b"").decode()

    def due(self, owned: Owned) -> bool:
        """Tell whether a slice of a partition is due: never while it is rebuilt or swept."""
        data = owned.data
        idle = owned.until is None and data.swept and not data.strays
        return idle and (data.reconciling or self._asked not in {"", data.reconcile})

    def go_on(self) -> None:
        """Tell the next slice of one partition, each in its turn: live batches wait for no more."""
        due = [owned for _, owned in sorted(self._hands.owned.items()) if self.due(owned)]
        if due:
            self._turn += 1
            commit, data, records = self._slice(due[self._turn % len(due)])
            self._hands.carry_out([(commit, data)], records)

    def _slice(self, owned: Owned) -> tuple[Commit, PartitionData, list[OutRecord]]:
        """Read a slice and write it; another request than the one under way begins anew."""
        tools, data = self._tools, owned.data
        if self._asked not in {"", data.reconcile}:
            data = replace(data, reconcile=self._asked, reconcile_cursor=BEGINS, reconciled=0)
        try:
            cursor, packed = self._scan(owned, data)
        except CursorLost:
            data = replace(data, reconcile_cursor=BEGINS, reconciled=0)
            cursor, packed = self._scan(owned, data)
        members = self._members(data, packed)
        data = replace(data, reconcile_cursor=str(cursor or DONE), reconciled=data.reconciled + len(packed.id_bounds) - 1)
        commit_id = owned.next_commit(tools.clock.token())
        mark = stamp(commit_id, owned.next_offset)
        names = tools.shelf.names(data.model)
        records = tools.changes.write_again(members, owned.number, owned.next_offset, names, mark, tools.clock.now_ms())
        body = pack_state(data), outbox.pack(records), NO_PROFILES
        commit = Commit(owned.number, owned.token, owned.commit_id, commit_id, owned.next_offset, *body, announce={}, clears=owned.clears)
        return commit, data, records

    def _scan(self, owned: Owned, data: PartitionData) -> tuple[int, Packed]:
        return self._tools.store.scan(owned.number, int(data.reconcile_cursor), self._settings.sweep_records, owned.commit_id)

    def _members(self, data: PartitionData, packed: Packed) -> list[Membership]:
        """Say in which segment each customer of a slice is; nothing of who is in none yet."""
        whole = packed.ids.tobytes()
        ids = [whole[begin:end] for begin, end in pairwise(packed.id_bounds.tolist())]
        work = unpack(self._tools.intake.plan, read_only(packed.values), packed.bounds, np.zeros(len(ids), np.int64))
        numbers = [segment.number for segment in self._tools.shelf.get(data.model).active] if data.model else []
        distance, margin = _apart(data, work, numbers)
        members = np.flatnonzero((work.found == PRESENT) & (work.head[:, SEGMENT] != NO_SEGMENT)).tolist()
        columns = work.head[:, [VERSION, SEGMENT, SINCE, MODEL, EPOCH]].tolist()
        told = []
        for u in members:
            version, segment, since, model, epoch = columns[u]
            told.append(Membership(ids[u], version, EXISTING, segment, since, since, model, epoch, float(distance[u]), float(margin[u])))
        return told


def _apart(data: PartitionData, work: Work, numbers: list[int]) -> tuple[F64, F64]:
    """Tell how far each customer's vote is from the centroid of their segment, and how much nearer that is than the best other one.

    Both (u,), and as `SegmentChange` has them: 0 where there is no such centroid, as for `new`.
    """
    u = len(work.head)
    places = {FIRST_CODE + number: k for k, number in enumerate(numbers)}
    place = np.array([places.get(code, -1) for code in work.head[:, SEGMENT].tolist()], np.int64)
    there = np.flatnonzero((place >= 0) & (work.head[:, HELD] > 0) & (work.head[:, MODEL] == data.model))
    distance, margin = np.zeros(u), np.zeros(u)
    if data.centroids is not None and len(there):
        points = work.vote[there] / VOTE_ONE
        far = np.linalg.norm(points[:, None, :] - data.centroids[None, :, :] / CENTROID_ONE, axis=2)
        rows = np.arange(len(there))
        here = far[rows, place[there]]
        far[rows, place[there]] = np.inf
        other = far.min(axis=1)
        distance[there] = here
        margin[there] = np.maximum(0.0, 1.0 - here / np.where(other > 0.0, other, np.inf)) * (other > 0.0)
    return distance, margin
