"""A merge through the whole worker: in band, once, across partitions, and nothing of it lost, whatever befalls."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, get_args

import pytest

from streamer.adapters.avro import codec, wire
from streamer.app.changes import CHANGE, EXITED
from streamer.app.intake import HOPS
from streamer.core.erasure import make_rule
from streamer.core.merging import HOPS_MAX
from streamer.core.model import features_as_of_each
from streamer.core.ports import Topic
from streamer.core.profile import CLOCK, LAST
from tests.fakes.faults import Fault, Faults, Killed, When
from tests.fakes.job import INPUT, Job, headers, placed, shop

if TYPE_CHECKING:
    from streamer.core.ports import LogRecord
    from streamer.core.profile import Work

OLD, NEW = "c003", "c004"  # in different partitions
DAY_MS = 86_400_000
LATER = 1_700_000_000_000 + 41 * DAY_MS
QUIET = {"epoch_interval_s": 0.6, "poll_interval_s": 0.2, "idle_check_s": 1.0, "tick_after_s": None}
pytestmark = pytest.mark.compiled  # whole jobs


def learned(**settings: Any) -> Job:
    """A job that has come to know its customers."""
    job = Job(settings=QUIET | settings)
    job.send(shop(300, 20))
    job.settle(job.worker())
    job.gone("a")
    return job


def input_of(job: Job) -> list[LogRecord]:
    return [record for log in job.broker.topics[INPUT] for record in log.committed()]


def events(job: Job) -> list[dict[str, Any]]:
    """Give the events of the log that a worker wrote."""
    written = [record for record in input_of(job) if "commit_id" in headers(record)]
    return [codec.decode("behaviour_event", record.value[wire.ID_BYTES :]) for record in written if record.value is not None]


def types(job: Job) -> list[str]:
    return [event["event_type"] for event in events(job)]


def work_of(job: Job, customer: str) -> tuple[int, Work]:
    customers, work = job.work()
    return customers.index(customer), work


def measures(job: Job, customer: str) -> dict[str, Any]:
    """Give all of a customer's profile that events make, and the features as of a day later."""
    u, work = work_of(job, customer)
    found: dict[str, Any] = {"head": work.head[u, [CLOCK, LAST]].tolist(), "life": work.life[u].tolist(), "seen": work.seen[u].tolist()}
    for name, tiles in (("days", work.days), ("hours", work.hours)):
        rows = slice(tiles.start[u], tiles.start[u] + tiles.count[u])
        masked = [
            [v if mask >> m & 1 else None for m, v in enumerate(row)]
            for row, mask in zip(tiles.value[rows].tolist(), tiles.mask[rows].tolist(), strict=True)
        ]
        found[name] = list(zip(tiles.index[rows].tolist(), masked, strict=True))
    clocks = work.head[:, CLOCK] + DAY_MS
    found["features"] = features_as_of_each(job.plan, work, clocks)[u].tolist()
    return found


def test_what_was_known_of_the_old_id_becomes_the_new_ones() -> None:
    job = learned()
    before = job.counts()
    job.merge(OLD, NEW, LATER)
    job.settle(job.worker("b"))
    counts = job.counts()
    assert OLD not in counts
    assert before[OLD] + before[NEW] == counts[NEW]
    assert ["$merged"] == types(job)
    assert job.check().clean
    [left] = [change for change in job.changes() if change["customer_id"] == OLD and change["status"] == EXITED]
    assert ("merged", LATER) == (left["cause"], left["occurred_at"])


def test_the_new_ones_profile_is_what_it_were_had_all_events_been_theirs() -> None:
    for seed in range(5):
        made = shop(300, 20, seed)
        split, whole = (Job(settings=QUIET) for _ in range(2))
        cut = 40 * (1 + seed)
        split.send(made[:-cut])
        split.settle(worker := split.worker(redirect_ms=40 * DAY_MS))
        split.merge(OLD, NEW, made[-cut]["occurred_at"])
        split.send(made[-cut:])
        split.settle(worker)
        whole.send({**event, "customer_id": NEW if event["customer_id"] == OLD else event["customer_id"]} for event in made)
        whole.settle(whole.worker())
        assert measures(split, NEW) == measures(whole, NEW)
        assert split.check().clean


def test_someone_unknown_before_begins_with_what_the_old_id_was() -> None:
    job = learned()
    known = measures(job, OLD)
    job.merge(OLD, "somebody new", LATER)
    job.settle(job.worker("b"))
    assert known == measures(job, "somebody new")
    assert "first_seen" in [change["cause"] for change in job.changes() if change["customer_id"] == "somebody new"]


def test_a_merge_before_there_is_a_model_tells_nothing_and_loses_nothing() -> None:
    job = Job(first_fit=None, settings=QUIET)
    job.send(shop(300, 20))
    job.settle(worker := job.worker())
    before = job.counts()
    job.merge(OLD, NEW, LATER)
    job.settle(worker)
    assert [] == job.changes()
    assert before[OLD] + before[NEW] == job.counts()[NEW]


def test_who_is_not_known_is_merged_without_a_trace_but_for_what_comes() -> None:
    job = learned()
    told = len(job.changes())
    job.merge("a stranger", NEW, LATER)
    job.settle(worker := job.worker("b"))
    assert ([], told) == (types(job), len(job.changes()))
    before = job.counts()[NEW]
    job.send([{**shop(1, 1)[0], "customer_id": "a stranger", "occurred_at": LATER}])
    job.settle(worker)
    assert before + 1 == job.counts()[NEW]


def stragglers(count: int, customer: str = OLD, at: int = LATER) -> list[dict[str, Any]]:
    return [
        {**shop(1, 1)[0], "event_id": f"straggler {n} {customer} {at}", "customer_id": customer, "occurred_at": at} for n in range(count)
    ]


def test_later_events_are_sent_on_to_the_new_id_for_a_while() -> None:
    job = learned()
    job.merge(OLD, NEW, LATER)
    job.send(stragglers(3))
    job.settle(worker := job.worker("b", redirect_ms=DAY_MS))
    before = job.counts()[NEW]
    job.send(stragglers(2, at=LATER + DAY_MS - 1))
    job.settle(worker)
    assert before + 2 == job.counts()[NEW]
    assert OLD not in job.counts()
    job.send(stragglers(1, at=LATER + DAY_MS))
    job.settle(worker)
    assert {OLD: 1, NEW: before + 2} == {customer: n for customer, n in job.counts().items() if customer in {OLD, NEW}}
    sent = [event for event in events(job) if not event["event_type"].startswith("$")]
    assert [(NEW, "1")] * 5 == [(event["customer_id"], event["properties"][HOPS]) for event in sent]


def test_a_chain_of_merges_ends_with_its_last_id() -> None:
    job = learned()
    total = sum(job.counts().values())
    three = [job.counts()[customer] for customer in (OLD, NEW, "c005")]
    job.merge(OLD, NEW, LATER)
    job.merge(NEW, "c005", LATER + 1)
    job.send(stragglers(2))
    job.settle(job.worker("b"))
    assert {OLD, NEW}.isdisjoint(job.counts())
    assert (sum(three) + 2, total + 2) == (job.counts()["c005"], sum(job.counts().values()))


@pytest.mark.parametrize("orders", [((0, 1), (0, 1)), ((0, 1), (1, 0)), ((1, 0), (0, 1)), ((1, 0), (1, 0))])
def test_merges_of_two_ids_into_each_other_lose_nothing_and_end(orders: tuple[tuple[int, int], tuple[int, int]]) -> None:
    job = learned()
    total = sum(job.counts().values())
    sides = [job.broker.topics[INPUT][placed(customer.encode(), job.partitions)] for customer in (OLD, NEW)]
    before = [log.high for log in sides]
    job.merge(OLD, NEW, LATER)
    job.merge(NEW, OLD, LATER)
    for log, first, order in zip(sides, before, orders, strict=True):
        two = [record for record in log.records if record.offset >= first]
        values = [two[i].value for i in order]
        for record, value in zip(two, values, strict=True):
            object.__setattr__(record, "value", value)
    job.send(stragglers(2) + stragglers(2, NEW))
    job.settle(job.worker("b"))
    assert total + 4 == sum(job.counts().values())
    assert job.check().clean
    assert all(int(event["properties"].get(HOPS, 0)) <= HOPS_MAX for event in events(job))


def test_a_merge_into_who_was_merged_ends_what_sends_them_elsewhere() -> None:
    job = learned()
    job.merge(OLD, NEW, LATER)
    job.settle(worker := job.worker("b"))
    job.merge("c005", OLD, LATER + 1)
    job.send(stragglers(1))
    job.settle(worker)
    assert OLD in job.counts()
    assert "c005" not in job.counts()


@pytest.mark.parametrize("into", [{}, {"into": ""}, {"into": OLD}, {"into": "x" * 257}])
def test_a_command_that_names_nobody_of_use_is_a_dead_letter(into: dict[str, str]) -> None:
    job = learned()
    kept = job.profiles()
    event = {**shop(1, 1)[0], "event_type": "$merge", "customer_id": OLD, "properties": into, "occurred_at": LATER}
    job.send([event])
    job.settle(job.worker("b"))
    [letter] = job.records(Topic.DEAD_LETTERS)
    assert b"bad_merge" == headers(letter)["dlq.reason"]
    assert kept == job.profiles()


@pytest.mark.parametrize("profile", ["", "not base64", "AAAA", "AgAAAAAAAAAAAAAAAAAAAAAA"])
def test_what_brings_no_profile_is_a_dead_letter(profile: str) -> None:
    job = learned()
    kept = job.profiles()
    job.send([{**shop(1, 1)[0], "event_type": "$merged", "customer_id": OLD, "properties": {"profile": profile}}])
    job.settle(job.worker("b"))
    [letter] = job.records(Topic.DEAD_LETTERS)
    assert b"bad_merge" == headers(letter)["dlq.reason"]
    assert kept == job.profiles()


@pytest.mark.parametrize("when", get_args(When))
@pytest.mark.parametrize("call", ["transactions.commit", "transactions.positions", "transactions.send", "store.commit"])
@pytest.mark.parametrize("nth", [0, 1, 2])
def test_nothing_is_lost_or_doubled_where_a_worker_dies(call: str, when: When, nth: int) -> None:
    job = learned()
    before = job.counts()
    job.merge(OLD, NEW, LATER)
    job.send(stragglers(3))
    faults = Faults()
    worker = job.worker("b", faults, records_max=4)
    job.step(worker, rounds=nth)
    faults.plan[call] = Fault(Killed, when)
    job.send(stragglers(20, "c007"))  # so that there is something to commit, batch after batch
    with pytest.raises(Killed):
        job.step(worker, rounds=20)
    job.gone("b")
    job.settle(job.worker("c"))
    assert before[OLD] + before[NEW] + 3 == job.counts()[NEW]
    assert OLD not in job.counts()
    assert 1 == types(job).count("$merged")
    assert job.check().clean


@pytest.mark.parametrize("loss", ["wiped", "rolled back", "expired", "wiped and expired"])
def test_a_redis_that_was_lost_is_rebuilt_and_sends_nothing_again(loss: str) -> None:
    job = learned()
    earlier = copy.deepcopy(job.redis.namespaces)
    job.merge(OLD, NEW, LATER)
    job.send(stragglers(3))
    job.settle(worker := job.worker("b"))
    job.send(stragglers(1))  # what follows tells nothing but this
    job.settle(worker)
    told, kept, high = job.told(), job.profiles(), [log.high for log in job.broker.topics[INPUT]]
    job.gone("b")
    if loss.startswith("wiped"):
        job.redis.namespaces.clear()
    elif loss == "rolled back":
        job.redis.namespaces = earlier
    if loss.endswith("expired"):
        job.broker.groups[job.run].committed.clear()
    job.settle(worker := job.worker("c"))
    assert (told, kept) == (job.told(), job.profiles())
    assert high == [log.high for log in job.broker.topics[INPUT]]
    job.send(stragglers(1, at=LATER + 1))
    job.settle(worker)
    assert OLD not in job.counts()


def test_without_transactions_a_profile_that_is_brought_twice_joins_once() -> None:
    job = learned(exactly_once=False)
    before = job.counts()
    job.merge(OLD, NEW, LATER)
    job.settle(worker := job.worker("b"))
    [brought] = [record for record in input_of(job) if "commit_id" in headers(record)]
    assert brought.value is not None
    job.broker.append(INPUT, placed(NEW.encode(), job.partitions), NEW.encode(), brought.value)
    job.settle(worker)
    assert before[OLD] + before[NEW] == job.counts()[NEW]


def test_an_application_that_sends_nothing_on_relies_on_the_one_that_does() -> None:
    job = learned()
    job.merge(OLD, NEW, LATER)
    job.settle(job.worker("b", sends_on=False))
    assert [] == types(job)
    assert OLD not in job.counts()


def test_a_follower_comes_to_the_same_and_sends_nothing() -> None:
    job = learned()
    job.merge(OLD, NEW, LATER)
    job.send(stragglers(3))
    job.settle(job.worker("b"))
    high = [log.high for log in job.broker.topics[INPUT]]
    again = job.following()
    again.settle(again.worker("follower"))
    assert (job.told(), job.profiles()) == (again.told(), again.profiles())
    assert high == [log.high for log in job.broker.topics[INPUT]]


@pytest.mark.parametrize("refuse", [True, False])
@pytest.mark.parametrize("whom", [OLD, NEW])
def test_an_erasure_takes_the_redirection_with_it(whom: str, *, refuse: bool) -> None:
    job = learned()
    job.merge(OLD, NEW, LATER)
    job.settle(worker := job.worker("b", erasure=make_rule(None, refuse=refuse)))
    job.erase(whom, LATER + 1)
    job.settle(worker)
    texts = [
        text
        for space in job.redis.namespaces.values()
        for p in space.partitions.values()
        for text in (p.state, p.outbox, p.redirects, *p.profiles)
    ]
    assert not any(whom.encode() in text for text in texts)
    assert [0] * job.partitions == [data.redirects_digest != "" for data in job.data()]
    job.send(stragglers(1))
    job.settle(worker)
    assert (OLD in job.counts()) == (whom == NEW or not refuse)


@pytest.mark.parametrize("pair", [(OLD, NEW), (NEW, OLD)])
def test_a_command_that_names_an_erased_customer_is_refused(pair: tuple[str, str]) -> None:
    job = learned()
    job.erase(OLD, LATER)
    job.settle(worker := job.worker("b"))
    kept = job.profiles()
    job.merge(*pair, LATER + 1)
    job.settle(worker)
    assert kept == job.profiles()
    assert {b""} == {p.redirects for space in job.redis.namespaces.values() for p in space.partitions.values()}


def test_events_of_the_old_id_leave_no_trace_in_the_clock_of_their_partition() -> None:
    job = learned()
    job.merge(OLD, NEW, LATER)
    job.settle(worker := job.worker("b"))
    before = [data.watermark for data in job.data()]
    job.send(stragglers(1, at=LATER + 3 * DAY_MS))
    job.settle(worker)
    moved = [p for p, (data, mark) in enumerate(zip(job.data(), before, strict=True)) if data.watermark != mark]
    assert [placed(NEW.encode(), job.partitions)] == moved


def test_what_left_is_told_with_its_last_segment() -> None:
    job = learned()
    last = next(change for change in reversed(job.changes()) if change["customer_id"] == OLD)
    job.merge(OLD, NEW, LATER)
    job.settle(job.worker("b"))
    records = [record for record in job.records(Topic.CHANGES) if record.key == OLD.encode()]
    change = codec.decode(CHANGE, records[-1].value[wire.ID_BYTES :])
    assert (last["segment_id"], EXITED) == (change["previous_segment_id"], change["status"])
    assert change["version"] > last["version"]
