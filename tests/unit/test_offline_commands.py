"""What the offline tools make of erasures and merges in history, held against the profiles that the stream has."""

from __future__ import annotations

import random

import numpy as np
import pytest

from offline.commands import events_of
from offline.events import Reading
from offline.features import Computed, compute
from streamer.core.erasure import make_rule
from streamer.core.model import features_as_of_each
from streamer.core.ports import Topic
from streamer.core.profile import CLOCK
from tests.fakes.archive import Archive
from tests.fakes.job import Job, shop

pytestmark = pytest.mark.compiled  # whole jobs

DAY_MS = 86_400_000
END = 1_700_000_000_000 + 41 * DAY_MS
QUIET = {"epoch_interval_s": 0.6, "poll_interval_s": 0.2, "idle_check_s": 1.0, "tick_after_s": None}


def archived(job: Job, *, scrubs: bool = False) -> Archive:
    """Archive all that is in the log."""
    found = Archive(job.partitions, broker=job.broker, journal=job.topics(job.run)[Topic.JOURNAL])
    found.broker.now_ms = max(found.broker.now_ms, END)
    found.finish()
    if scrubs:
        for partition in range(job.partitions):
            found.writer().scrub(partition, lambda customer: make_rule(None, refuse=True).mark(customer.encode()))
    return found


def computed(archive: Archive, job: Job, as_of: int = END) -> Computed:
    history, reading = archive.history(), Reading(job.declaration)
    return compute(reading, events_of(history, history.manifest().cutoff(2**62), reading.columns), as_of)


def hold(job: Job, found: Computed, as_of: int = END) -> None:
    """Hold features to those of the profiles, to the bit."""
    customers, work = job.work()
    wanted = features_as_of_each(job.plan, work, np.maximum(work.head[:, CLOCK], as_of))
    assert sorted(customers) == found.features.index.tolist()
    rows = dict(zip(found.features.index, found.features.to_numpy().tolist(), strict=True))
    assert rows == dict(zip(customers, wanted.tolist(), strict=True))


def merged(seed: int, pairs: list[tuple[str, str]]) -> Job:
    """A job in the midst of whose events some are merged."""
    rng = random.Random(seed)
    made = list(shop(400, 20, seed))
    job = Job(settings=QUIET)
    worker = job.worker(redirect_ms=60 * DAY_MS, records_max=rng.choice([5, 40]))
    cuts = sorted(rng.sample(range(50, 390), len(pairs)))
    begin = 0
    for cut, pair in zip(cuts, pairs, strict=True):
        job.send(made[begin:cut])
        job.settle(worker)
        job.merge(*pair, made[cut]["occurred_at"])
        begin = cut
    job.send(made[begin:])
    job.settle(worker)
    job.gone("a")
    return job


@pytest.mark.parametrize(
    "pairs",
    [
        [("c003", "c004")],
        [("c003", "c004"), ("c005", "c004")],
        [("c003", "c004"), ("c004", "c005")],
        [("c003", "somebody new"), ("somebody new", "c006")],
        [("c003", "c004"), ("c005", "c003")],
        [("c003", "c004"), ("c004", "c003")],
        [("nobody", "c004"), ("c001", "c002"), ("c002", "c007"), ("c008", "c001")],
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(3))
def test_who_was_merged_has_the_features_that_the_stream_has(seed: int, pairs: list[tuple[str, str]]) -> None:
    job = merged(seed, pairs)
    hold(job, computed(archived(job), job))


def test_what_is_on_its_way_is_nobodys() -> None:
    job = merged(1, [])
    job.merge("c003", "c004", END)
    job.settle(job.worker("b"))
    archive = archived(job)
    history, reading = archive.history(), Reading(job.declaration)
    [brought] = [p for p, log in enumerate(job.broker.topics["customer-events"]) for r in log.records if b"$merged" in (r.value or b"")]
    at = next(r.offset for r in job.broker.topics["customer-events"][brought].records if b"$merged" in (r.value or b""))
    cutoff = {**history.manifest().cutoff(2**62), brought: at}
    found = compute(reading, events_of(history, cutoff, reading.columns), END)
    assert "c003" not in found.features.index


@pytest.mark.parametrize("scrubs", [False, True])
def test_who_was_erased_is_not_there_scrubbed_or_not(*, scrubs: bool) -> None:
    job = merged(2, [("c003", "c004")])
    job.erase("c007", END)
    job.settle(job.worker("b"))
    found = computed(archived(job, scrubs=scrubs), job)
    assert "c007" not in found.features.index
    hold(job, found)


def test_without_commands_history_is_read_as_it_is() -> None:
    job = merged(0, [])
    hold(job, computed(archived(job), job))


def test_history_names_nobody_who_was_erased_after_a_merge_not_in_commands_either() -> None:
    job = merged(3, [("c003", "c004")])
    gone = ("c003", "c004")
    for customer in gone:
        job.erase(customer, END)
    job.settle(job.worker("b"))
    archive = archived(job, scrubs=True)
    assert [0] * len(gone) == [sum(archive.writer().rows_of(p, one) for p in range(job.partitions)) for one in gone]
    hold(job, computed(archive, job))
