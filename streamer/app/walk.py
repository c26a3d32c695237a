"""A walk over a partition's profiles.

Law: what is written while it goes on may be met or not; every other customer is met, and no customer is counted twice.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamer.core.columns import read_only
from streamer.core.profile import unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.core.columns import Bool
    from streamer.core.plan import Plan
    from streamer.core.ports import StateStore
    from streamer.core.profile import Work

SCAN_RECORDS = 2000


class Met(NamedTuple):
    """Some customers, `u` of them."""

    ids: list[bytes]
    fresh: Bool  # (u,) false for one that was met before
    work: Work


def walk(store: StateStore, partition: int, plan: Plan, records: int = SCAN_RECORDS, commit_id: str | None = None) -> Iterator[Met]:
    """Walk a partition's profiles, about `records` at a time; with `commit_id`, as of that commit or not at all."""
    seen: set[bytes] = set()
    cursor, begun = 0, False
    while cursor or not begun:
        begun = True
        cursor, packed = store.scan(partition, cursor, records, commit_id)
        whole = packed.ids.tobytes()
        ids = [whole[begin:end] for begin, end in pairwise(packed.id_bounds.tolist())]
        fresh = np.zeros(len(ids), np.bool_)
        for i, customer in enumerate(ids):
            fresh[i] = customer not in seen
            seen.add(customer)
        yield Met(ids, fresh, unpack(plan, read_only(packed.values), packed.bounds, np.zeros(len(ids), np.int64)))
