"""Who was in which segment as of some instants, walked through once from the log.

Law: a place as of an instant is that of the segment nearest to the features as of it, by the version that the report is of; who was silent
for longer than the version keeps a customer is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from offline.replaying import Replay
from offline.report.facts import ABSENT, places
from streamer.core.declaration import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from offline.report.ledger import Ledger
    from streamer.core.columns import F64, I64, Bool
    from streamer.core.model import ModelVersion

INSTANTS_MAX = 26
STEPS = (1, 2, 7, 14, 28, 56, 91, 182, 364, 728)  # days between two


class Then(NamedTuple):
    """Customers as of an instant, by the ledger's slots: places (n,) by each version asked for, by its number."""

    place: Mapping[int, I64]


class Now(NamedTuple):
    """Customers as of the last instant: who is there (by slot), their features and places."""

    slots: I64  # (n,)
    values: F64  # (n, f)
    eligible: Bool  # (n,)


def regular(first: int, as_of: int) -> list[int]:
    """Choose midnights from the first event to `as_of`, evenly, at most INSTANTS_MAX, back from the last."""
    span = max((as_of - first) // DAY_MS, 0)
    step = next((days for days in STEPS if span // days < INSTANTS_MAX), STEPS[-1]) * DAY_MS
    found = [as_of - n * step for n in range(INSTANTS_MAX) if as_of - n * step > first]
    return found[::-1] or [as_of]


def walk(ledger: Ledger, instants: Iterable[int], versions: Iterable[ModelVersion], retention_ms: int) -> tuple[dict[int, Then], Now]:
    """Walk through the log and place everybody as of each instant, by each version."""
    log, by = ledger.log, list(versions)
    replay = Replay(log)
    found: dict[int, Then] = {}
    now = Now(np.zeros(0, np.int64), np.zeros((0, 0)), np.zeros(0, np.bool_))
    last, read = np.zeros(log.customers, np.int64), 0
    longest = max(retention_ms, (log.reading.declaration.horizon_days + 1) * DAY_MS)
    for at in sorted(set(instants)):
        replay.play(at)
        seen = replay.look(at)
        until = int(np.searchsorted(log.rows.time, at, side="left"))
        last[log.rows.slot[read:until]] = log.rows.time[read:until]  # in the order of time, so the latest stays
        read = until
        there = at - last[seen.customer] <= longest
        now = Now(seen.customer[there], seen.values[there], seen.eligible[there])
        by_version = {}
        for version in by:
            place = np.full(log.customers, ABSENT, np.int64)
            place[now.slots] = places(version, now.values, now.eligible)
            by_version[version.version] = place
        found[at] = Then(by_version)
    return found, now
