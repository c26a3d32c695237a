"""Parity: whatever is altered by hand is found and named, and whatever moves meanwhile is not taken for a difference."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from offline.events import Reading, batch_of
from offline.parity import Finding, Report, Sample, Sources, parity
from offline.parity_command import COPY
from offline.profiles import DAYS, gone_at
from offline.tail import Tail
from streamer.adapters.avro import codec
from streamer.adapters.registry import PackagedSchemas
from streamer.app.first_model import FirstFit
from streamer.app.models import ModelShelf, stored_name
from streamer.core.errors import Misconfigured
from streamer.core.intake import hash_ids
from streamer.core.model import Decision
from streamer.core.partition import pack_state, unpack_state
from streamer.core.profile import CLOCK, DAY_MS, LAST, pack
from tests.corekit import opened
from tests.fakes.job import INPUT, NAME, Job, shop
from tests.fakes.state_store import FakeStateStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from streamer.app.worker import Worker
    from streamer.core.ports import LogRecord, Packed, PartitionState
    from streamer.core.profile import Work
    from tests.fakes.state_store import FakePartition

BODY = 5  # after the framing
EVERYBODY = Sample()


@dataclass
class Archived:
    """What a history says of one partition."""

    next_offset: int

    @property
    def rows(self) -> int:
        return self.next_offset


@dataclass
class FakeHistory:
    """The beginning of every partition of a fake broker's log."""

    job: Job
    ends: dict[int, int]

    def manifest(self) -> FakeHistory:
        return self

    @property
    def events_of(self) -> dict[int, Archived]:
        return {partition: Archived(end) for partition, end in self.ends.items()}

    def read(
        self, cutoff: Mapping[int, int], columns: Sequence[str] | None = None, *, first: Mapping[int, int] | None = None
    ) -> Iterator[Any]:
        for partition, end in cutoff.items():
            begin = (first or {}).get(partition, 0)
            for record in self.job.broker.topics[INPUT][partition].committed(begin, end):
                if record.value == b"nothing":
                    continue
                event = {**codec.decode("behaviour_event", (record.value or b"")[BODY:]), "kafka_timestamp": record.timestamp}
                batch = batch_of([event], partition, record.offset)
                yield batch.select(list(columns or batch.schema.names))


class Manifest:
    """`History.manifest`."""

    def __init__(self, events: dict[int, Archived]) -> None:
        self.events = events


class History:
    """Gives what a `FakeHistory` has."""

    def __init__(self, job: Job, ends: dict[int, int]) -> None:
        self._fake = FakeHistory(job, ends)

    def manifest(self) -> Manifest:
        return Manifest(self._fake.events_of)

    def events(
        self, cutoff: Mapping[int, int], columns: Sequence[str] | None = None, *, first: Mapping[int, int] | None = None
    ) -> Iterator[Any]:
        return self._fake.read(cutoff, columns, first=first)


@dataclass
class FakeLog:
    """Looks at a fake broker's topics."""

    job: Job
    asked: list[tuple[int, int, int]] = field(default_factory=list)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        log = self.job.broker.topics[topic][partition]
        return log.first, log.high

    def between(self, topic: str, partition: int, first: int, end: int) -> list[LogRecord]:
        self.asked.append((partition, first, end))
        return list(self.job.broker.topics[topic][partition].committed(first, end))


def heights(job: Job) -> dict[int, int]:
    return {partition: log.high for partition, log in enumerate(job.broker.topics[INPUT])}


def sources(job: Job, ends: dict[int, int] | None = None, store: FakeStateStore | None = None, **more: Any) -> Sources:
    shelf = ModelShelf(job.store, job.reader, NAME)
    history = History(job, heights(job) if ends is None else ends)
    tail = Tail(FakeLog(job), INPUT, PackagedSchemas(), 100, 10_000)
    return Sources(store or job.store, history, tail, Reading(job.declaration), shelf.get, **more)


def compare(
    job: Job, ends: dict[int, int] | None = None, store: FakeStateStore | None = None, sample: Sample = EVERYBODY, **more: Any
) -> Report:
    return parity(sources(job, ends, store, **more), sample)


@pytest.fixture(scope="module")
def settled() -> Job:
    job = Job()
    job.store.record_partitions(job.partitions)
    job.send(shop(400, 40))
    job.broker.append(INPUT, 1, b"c001", b"nothing")
    job.settle(job.worker())
    job.gone("a")
    return job


@pytest.fixture
def job(settled: Job) -> Job:
    return Job(broker=copy.deepcopy(settled.broker), redis=copy.deepcopy(settled.redis), clock=settled.clock)


def held(job: Job, customer: bytes) -> FakePartition:
    partitions = job.redis.namespaces[job.run, "shop"].partitions
    return next(partition for partition in partitions.values() if customer in partition.profiles)


def alter(job: Job, customer: bytes, change: Callable[[Work], None]) -> None:
    """Alter a profile by hand, with a right checksum."""
    partition = held(job, customer)
    work = opened(job.plan, [partition.profiles[customer]])
    change(work)
    partition.profiles[customer] = pack(job.plan, work, np.arange(1))[0].tobytes()


NOWHERE = dict.fromkeys(range(4), 0)


@pytest.mark.parametrize("ends", [None, dict.fromkeys(range(4), 37), NOWHERE, {}])
def test_nothing_is_found_after_a_run_wherever_history_ends(job: Job, ends: dict[int, int] | None) -> None:
    report = compare(job, ends)
    assert (True, 40, 40) == (report.clean, report.compared, report.equal)
    assert heights(job) == report.offsets
    assert (sum(heights(job).values()) - sum((heights(job) if ends is None else ends).values())) == report.from_kafka


@pytest.mark.parametrize("rows_in_memory", [10_000_000, 10])
def test_what_was_altered_deleted_and_added_is_named(job: Job, rows_in_memory: int) -> None:
    def more_spend(work: Work) -> None:
        work.days.value[0, 1] += 7
        work.days.mask[0] |= 2

    def fewer_events(work: Work) -> None:
        work.life[0, 0] -= 1

    names = [measure.name for measure in job.declaration.tiles]
    assert ["views", "spend"] == names
    alter(job, b"c003", more_spend)
    alter(job, b"c007", fewer_events)
    del held(job, b"c011").profiles[b"c011"]
    held(job, b"c002").profiles[b"somebody"] = held(job, b"c002").profiles[b"c002"]
    broken = held(job, b"c005").profiles
    broken[b"c005"] = broken[b"c005"][:-1]
    report = compare(job, dict.fromkeys(range(4), 50), rows_in_memory=rows_in_memory)
    assert {"mismatch": 2, "missing": 1, "extra": 1, "damaged": 1} == report.customers
    found = {(one.customer, one.kind, one.what) for one in report.findings}
    assert {("c007", "mismatch", "events"), ("c011", "missing", ""), ("somebody", "extra", ""), ("c005", "damaged", "")} <= found
    [spend] = [one for one in report.findings if one.what == "spend_30d" or (one.customer == "c003" and one.what == DAYS)][:1]
    assert ("c003", "mismatch") == (spend.customer, spend.kind)
    assert 36 == report.equal
    assert 1 == report.features["events"]


def test_a_difference_says_both_numbers(job: Job) -> None:
    def another_last(work: Work) -> None:
        work.days.value[work.days.start[0] + work.days.count[0] - 1, 1] += 70_000
        work.days.mask[work.days.start[0] + work.days.count[0] - 1] |= 2
        work.days.value[work.days.start[0] + work.days.count[0] - 1, 1] = 70_000

    alter(job, b"c003", another_last)
    report = compare(job)
    [one] = [finding for finding in report.findings if finding.what == "spend_30d"]
    assert isinstance(one, Finding)
    assert one.live is not None
    assert one.history is not None
    assert one.live >= 70_000
    assert one.live != one.history
    assert {"c003"} == {finding.customer for finding in report.findings}


def test_a_measure_that_no_window_shows_is_compared_too(job: Job) -> None:
    """A purchase moved to another day of the same window changes no feature yet."""

    def moved(work: Work) -> None:
        work.days.index[work.days.start[0]] -= 1

    assert job.plan.horizon_days >= 29
    alter(job, b"c001", moved)
    report = compare(job)
    assert {("c001", "mismatch")} == {(one.customer, one.kind) for one in report.findings}


def test_samples_are_parts_that_make_up_the_whole(job: Job) -> None:
    del held(job, b"c011").profiles[b"c011"]
    reports = [compare(job, sample=Sample(5, part)) for part in range(5)]
    assert 40 == sum(report.compared for report in reports)
    assert 1 == sum(report.found for report in reports)
    assert all(report.compared < 25 for report in reports)
    again = compare(job, sample=Sample(5, 2))
    assert (reports[2].compared, reports[2].findings) == (again.compared, again.findings)


def test_a_sample_is_by_the_customers_hash() -> None:
    ids = b"".join(b"%04d" % n for n in range(1000))
    hashes = hash_ids(np.frombuffer(ids, np.uint8), np.arange(0, 4001, 4, dtype=np.int64))
    parts = np.stack([Sample(4, part).has(hashes) for part in range(4)])
    assert (parts.sum(axis=0) == 1).all()
    assert (parts.sum(axis=1) > 200).all()


class Busy(FakeStateStore):
    """A store whose worker goes on at every call that reads profiles."""

    def __init__(self, job: Job, worker: Worker, events: Sequence[dict[str, Any]], every: int = 1) -> None:
        super().__init__(job.redis, job.run, "shop")
        self._job, self._worker, self._events, self._every = job, worker, list(events), every
        self.calls = 0

    def _goes_on(self) -> None:
        self.calls += 1
        if self._events and self.calls % self._every == 0:
            some, self._events = self._events[:5], self._events[5:]
            self._job.send(some)
            self._job.step(self._worker, rounds=3)

    def scan(self, partition: int, cursor: int, count: int, commit_id: str | None = None) -> tuple[int, Packed]:
        found = super().scan(partition, cursor, min(count, 3), commit_id)
        self._goes_on()
        return found

    def load(self, partitions: Any, ids: Any, commit_ids: Any = None) -> list[Packed]:
        self._goes_on()
        return super().load(partitions, ids, commit_ids)


@pytest.mark.parametrize("seed", range(6))
def test_a_stream_that_goes_on_meanwhile_differs_in_nothing(seed: int) -> None:
    job = Job()
    job.store.record_partitions(job.partitions)
    events = shop(700, 40, seed)
    worker = job.worker()
    job.send(events[:400])
    job.settle(worker)
    report = compare(job, dict.fromkeys(range(4), 60), Busy(job, worker, events[400:], every=1 + seed % 3))
    assert (0, []) == (report.found, report.findings)
    assert (40, 0, []) == (report.compared, report.unsettled, report.busy)


def test_what_was_altered_is_found_while_the_stream_goes_on(job: Job) -> None:
    def fewer_events(work: Work) -> None:
        work.life[0, 0] -= 1

    worker = job.worker("b")
    job.settle(worker)
    alter(job, b"c007", fewer_events)
    del held(job, b"c011").profiles[b"c011"]
    events = [event for event in shop(700, 40)[400:] if event["customer_id"] not in {"c007", "c011"}]
    report = compare(job, None, Busy(job, worker, events, every=2))
    assert {"c007", "c011"} == {one.customer for one in report.findings}


class Restless(FakeStateStore):
    """A store that is another one each time that profiles are to be read at one commit."""

    def load(self, partitions: Any, ids: Any, commit_ids: Any = None) -> list[Packed]:
        for partition in partitions:
            self._partition(partition).commit_id += "'"
        return super().load(partitions, ids, commit_ids)


def test_what_never_stands_still_is_told_apart_from_a_difference(job: Job) -> None:
    del held(job, b"c011").profiles[b"c011"]
    report = compare(job, None, Restless(job.redis, job.run, "shop"))
    assert (1, 0, 39, False) == (report.unsettled, report.found, report.equal, report.clean)


class Rebuilding(FakeStateStore):
    """A store whose partition 2 is being rebuilt."""

    def read(self, partitions: Sequence[int]) -> list[PartitionState]:
        found = super().read(partitions)
        if partitions[0] != 2:
            return found
        [state] = found
        data = unpack_state(state.state)
        object.__setattr__(data, "rebuilding", True)
        return [type(state)(state.owner, state.commit_id, "", state.next_offset, pack_state(data), b"")]


def test_a_partition_that_is_rebuilt_is_not_compared(job: Job) -> None:
    report = compare(job, None, Rebuilding(job.redis, job.run, "shop"))
    assert ([2], 0, False) == (report.busy, report.found, report.clean)


def test_sweeps_move_clocks_and_differ_in_nothing(job: Job) -> None:
    """Midnights that pass without an event drop what no window sees any more."""
    for days in (3, 20, 60):
        late = {
            "event_id": f"late {days}",
            "customer_id": "c001",
            "event_type": "view",
            "occurred_at": 1_700_000_000_000 + (40 + days) * DAY_MS,
        }
        job.send(
            [
                {**late, "amount": None},
                *({**late, "customer_id": f"c{n:03d}", "event_id": f"{n} {days}", "amount": None} for n in (2, 3, 0)),
            ]
        )
        job.settle(job.worker("b"))
        job.gone("b")
        report = compare(job, dict.fromkeys(range(4), 80))
        assert (True, 40) == (report.clean, report.compared)


def test_who_was_silent_for_too_long_must_have_left_and_is_not_missing() -> None:
    fit = FirstFit(NAME, 3, 12, 0, 1000, Decision(dwell_ms=0, retention_ms=50 * DAY_MS))
    job = Job(first_fit=fit)
    job.store.record_partitions(job.partitions)
    job.send(shop(400, 40))
    worker = job.worker()
    job.settle(worker)
    before = job.profiles()
    at = 1_700_000_000_000 + 120 * DAY_MS
    job.send({"event_id": f"late {n}", "customer_id": f"c00{n}", "event_type": "view", "occurred_at": at, "amount": None} for n in range(4))
    job.settle(worker)
    assert len(job.profiles()) < 40
    report = compare(job)
    assert (True, 40) == (report.clean, report.compared)
    gone = next(iter(before.keys() - job.profiles().keys()))
    partition = job.redis.namespaces[job.run, "shop"].partitions[int.from_bytes(gone, "big") % 4]
    partition.profiles[gone] = before[gone]
    assert [("extra", gone.decode())] == [(one.kind, one.customer) for one in compare(job).findings]


def test_who_was_erased_is_left_out_wherever_the_command_stands(job: Job) -> None:
    job.erase("c011", 1_700_000_000_000 + 41 * DAY_MS)
    job.send([{**shop(1, 1)[0], "customer_id": "c011", "event_id": "after"}])
    job.settle(job.worker("b"))
    assert b"c011" not in job.profiles()
    for ends in (None, dict.fromkeys(range(4), 37)):
        report = compare(job, ends)
        assert (True, 39) == (report.clean, report.compared)
    scrubbed = compare(job, {partition: log.high - 3 for partition, log in enumerate(job.broker.topics[INPUT])})
    assert scrubbed.clean


def test_customers_leave_at_the_first_midnight_after_the_retention() -> None:
    last = np.array([100 * DAY_MS, 100 * DAY_MS + 1, 101 * DAY_MS - 1], np.int64)
    assert [111 * DAY_MS, 111 * DAY_MS, 111 * DAY_MS] == gone_at(last, 10 * DAY_MS, 0).tolist()
    assert [131 * DAY_MS] * 3 == gone_at(last, 10 * DAY_MS, 30 * DAY_MS).tolist()


def test_another_declaration_is_refused(job: Job) -> None:
    other = Job(features={**job.features, "eligibility": {"events": 3}})
    with pytest.raises(Misconfigured, match="give the workers' own declaration"):
        parity(Sources(job.store, History(job, {}), None, Reading(other.declaration), lambda _: None), Sample())  # type: ignore[arg-type, return-value]


def test_where_nothing_ever_ran_it_says_so() -> None:
    with pytest.raises(Misconfigured, match="Redis holds no such application"):
        compare(Job())


def test_a_hole_between_history_and_kafka_is_no_difference_but_an_error(job: Job) -> None:
    job.broker.expire(INPUT, 2, 60)
    with pytest.raises(Misconfigured, match="history ends at offset 37 of partition 2, and Kafka begins at 60"):
        compare(job, dict.fromkeys(range(4), 37))


def test_the_copy_of_a_version_has_the_name_that_the_workers_give_it() -> None:
    assert stored_name(7) == COPY.format(7)


def test_a_tail_takes_what_the_stream_takes(job: Job) -> None:
    job.broker.append(INPUT, 1, b"c001", b"\x00\x00\x00\x00\x01truncated")
    job.broker.append(INPUT, 1, b"c001", None)
    job.broker.append(INPUT, 1, b"c001", b"x" * 20_000)
    tail = Tail(FakeLog(job), INPUT, PackagedSchemas(), 100, 10_000)
    end = heights(job)[1]
    table = pa.Table.from_batches(list(tail.events(1, 10, end, passed_over=[12])))
    assert [offset for offset in range(10, end - 4) if offset != 12] == table["offset"].to_pylist()
    assert {1} == {*table["partition"].to_pylist()}


def test_clock_and_last_event_are_of_the_profile(job: Job) -> None:
    """The kit's own: an altered profile keeps what was not altered."""
    alter(job, b"c007", lambda _work: None)
    work = opened(job.plan, [held(job, b"c007").profiles[b"c007"]])
    assert work.head[0, CLOCK] >= work.head[0, LAST]
    assert compare(job).clean
