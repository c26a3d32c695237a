"""`streamer check`: do the model's sums equal what the profiles say?

Law checked: a partition's counts, sums and squares are the sum of its customers' votes for the adopted version, and its members the
count of their segments. A profile that is damaged or was altered by hand is named.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from streamer.app.walk import walk
from streamer.core.partition import Learned, PartitionData, unpack_state
from streamer.core.profile import (
    CORRUPT,
    FIRST_CODE,
    HELD,
    MODEL,
    NEW_SEGMENT,
    OTHER_VERSION,
    PRESENT,
    SEGMENT,
    VERSION,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.app.walk import Met
    from streamer.core.columns import Bool
    from streamer.core.model import ModelVersion
    from streamer.core.plan import Plan
    from streamer.core.ports import StateStore
    from streamer.core.profile import Work

ATTEMPTS_MAX = 5
NAMED_MAX = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be."""

    partition: int
    what: str
    customer: str | None = None


@dataclass(slots=True)
class Report:
    """What a check found."""

    customers: int = 0
    votes: int = 0
    findings: list[Finding] = field(default_factory=list)
    busy: list[int] = field(default_factory=list)  # partitions that changed while they were read

    @property
    def clean(self) -> bool:
        """Tell whether everything was read and nothing found."""
        return not self.findings and not self.busy


def check(
    store: StateStore,
    partitions: int,
    plan: Plan,
    feature_version: str,
    model: Callable[[int], ModelVersion],
    progress: Callable[[int], None],
) -> Report:
    """Check every partition; one that changes while it is read is read again, a few times."""
    report = Report()
    for partition in range(partitions):
        for _ in range(ATTEMPTS_MAX):
            before = store.read([partition])[0]
            if not before.commit_id:
                break
            data = unpack_state(before.state)
            if data.feature_version != feature_version:
                what = f"its feature version is {data.feature_version}, the declaration's is {feature_version}"
                report.findings.append(Finding(partition, what))
                break
            found, votes, customers = _recount(store, partition, plan, data, model, progress)
            if store.read([partition])[0].commit_id == before.commit_id:
                report.findings += found
                report.votes += votes
                report.customers += customers
                break
        else:
            report.busy.append(partition)
    return report


def _recount(
    store: StateStore,
    partition: int,
    plan: Plan,
    data: PartitionData,
    model: Callable[[int], ModelVersion],
    progress: Callable[[int], None],
) -> tuple[list[Finding], int, int]:
    """Add up a partition's profiles and compare."""
    findings: list[Finding] = []
    numbers = [segment.number for segment in model(data.model).active] if data.model else []
    counted = Learned.nothing(len(numbers), len(plan.kind))
    customers = 0
    for met in walk(store, partition, plan):
        work, present = met.work, met.fresh & (met.work.found == PRESENT)
        findings += _unreadable(partition, met)[: NAMED_MAX - len(findings)]
        if numbers:
            _add(counted, work, present & (work.head[:, MODEL] == data.model), numbers)
            findings += _lagging(partition, data, met, present)[: NAMED_MAX - len(findings)]
        customers += int(met.fresh.sum())
        progress(int(met.fresh.sum()))
    if data.learned is not None:
        for name in ("count", "total", "square", "members"):
            if not np.array_equal(getattr(counted, name), getattr(data.learned, name)):
                findings.append(Finding(partition, f"the model's {name} is not what the profiles say"))
    return findings, int(counted.count.sum()), customers


def _add(counted: Learned, work: Work, chosen: Bool, numbers: list[int]) -> None:
    held = work.head[:, HELD]
    for k in range(len(numbers)):
        votes = work.vote[chosen & (held == k + 1)].astype(np.int64)
        counted.count[k] += len(votes)
        counted.total[k] += votes.sum(axis=0)
        counted.square[k] += (votes**2).sum(axis=0)
    for k, code in enumerate([*(FIRST_CODE + number for number in numbers), NEW_SEGMENT]):
        counted.members[k] += int(np.count_nonzero(chosen & (work.head[:, SEGMENT] == code)))


def _unreadable(partition: int, met: Met) -> list[Finding]:
    """Find profiles that can't be read."""
    what = {CORRUPT: "its profile is damaged or was altered", OTHER_VERSION: "its profile is of another feature version"}
    found = zip(met.ids, met.fresh.tolist(), met.work.found.tolist(), strict=True)
    return [Finding(partition, what[sort], customer.decode(errors="replace")) for customer, fresh, sort in found if fresh and sort in what]


def _lagging(partition: int, data: PartitionData, met: Met, present: Bool) -> list[Finding]:
    """Find customers that a finished sweep should have judged, and those with a segment but no version."""
    if not data.swept:
        return []
    rows = np.flatnonzero(present & ((met.work.head[:, MODEL] != data.model) | (met.work.head[:, VERSION] == 0)))
    what = "the sweep is over, but it has not been judged by the adopted model"
    return [Finding(partition, what, met.ids[i].decode(errors="replace")) for i in rows]
