"""The worker over fakes: what it does with events, and what is left after it was stopped, cut off, overtaken or robbed at any step.

The steps cited are those of `streamer/app/protocol.py`.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamer.app import assignment, journal
from streamer.app.first_model import FirstFit
from streamer.core.errors import Corrupt, Misconfigured, Unavailable
from streamer.core.model import Decision
from streamer.core.ports import OffsetOutOfRange, Topic
from streamer.core.profile import NEW_SEGMENT, SEGMENT, VERSION, pack
from tests.fakes.broker import FakeEventLog
from tests.fakes.faults import Fault, Faults, Killed
from tests.fakes.job import APP, FEATURES, INPUT, NAME, Job, encoded, headers, schema_id, shop
from tests.fakes.state_store import cut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.app.worker import Worker
    from tests.fakes.faults import When

pytestmark = pytest.mark.compiled  # whole jobs, over and over


def counted(events: Sequence[dict[str, Any]]) -> dict[str, int]:
    return Counter(event["customer_id"] for event in events)


def assert_whole(job: Job, events: Sequence[dict[str, Any]]) -> None:
    """Hold a job to its guarantees: events counted once, sums as the profiles say, and every change told that its own journal leads to."""
    assert counted(events) == job.counts()
    assert job.check().clean
    again = job.following(records_max=11, sweep_records=3)
    again.settle(again.worker())
    assert again.told() == job.told()
    assert again.profiles() == job.profiles()
    for one, other in zip(job.data(), again.data(), strict=True):
        assert (one.model, one.epoch) == (other.model, other.epoch)
        assert one.learned is not None
        assert other.learned is not None
        for name in ("count", "total", "square", "members"):
            assert np.array_equal(getattr(one.learned, name), getattr(other.learned, name))


def run_to_the_end(worker: Worker, job: Job) -> None:
    """Work as `run` does, which survives a server's absence, until everything is still."""
    for _ in range(1000):
        try:
            job.settle(worker)
        except Unavailable:
            worker._drop_all()
        else:
            return


# What comes out


def test_events_become_profiles_a_first_model_and_changes_whose_versions_grow() -> None:
    job, events = Job(), shop(600, 60)
    job.send(events)
    job.settle(job.worker())
    assert_whole(job, events)
    changes = job.changes()
    assert len(job.told()) == len(changes)
    assert {"first_seen", "behaviour"} <= {change["cause"] for change in changes}
    assert set(counted(events)) == {change["customer_id"] for change in changes}
    assert {1} == {data.model for data in job.data()}
    assert 1 == len(job.records(Topic.MODELS))
    assert ["version"] * 4 == [entry.kind for entry in job.entries() if entry.epoch == 0]


def test_learning_goes_on_in_epochs_that_every_partition_adopts_and_journals() -> None:
    job = Job(settings={"epoch_interval_s": 1.0, "records_max": 10})
    events = shop(600, 60)
    worker = job.worker()
    for begin in range(0, len(events), 30):
        job.send(events[begin : begin + 30])
        job.step(worker, rounds=10)
    job.settle(worker)
    assert_whole(job, events)
    assert 5 < max(data.epoch for data in job.data())
    assert {"model_drift", "behaviour", "first_seen", "decay"} == {change["cause"] for change in job.changes()}


def test_changes_bear_what_subscribers_and_a_later_rebuild_need() -> None:
    job = Job()
    job.send(shop(200, 30))
    job.settle(job.worker())
    [record, *_] = job.records(Topic.CHANGES)
    [change, *_] = job.changes()
    expected = {"ce_specversion": b"1.0", "ce_source": b"/kafka/customer-events", "content-type": b"application/avro"}
    assert expected.items() <= headers(record).items()
    assert change["change_id"].encode() == headers(record)["ce_id"]
    assert change["customer_id"].encode() == record.key
    assert {"commit_id", "next_offset"} <= headers(record).keys()
    assert (change["source"]["topic"], change["origin"], change["run_id"]) == (INPUT, "live", None)


def test_refused_records_come_out_once_with_reasons_and_as_they_were() -> None:
    job, events = Job(), shop(60, 10)
    bad: dict[bytes | None, bytes] = {b"nonsense": b"no_schema_id", encoded(events[0])[:-3]: b"truncated"}
    bad[encoded({**events[0], "event_id": ""})] = b"bad_event_id"
    job.send(events[:30])
    for value in bad:
        job.broker.append(INPUT, 1, b"key", value, (("origin", b"till 7"),))
    job.broker.append(INPUT, 2, None, None)
    job.send(events[30:])
    worker = job.worker()
    job.settle(worker)
    letters = job.records(Topic.DEAD_LETTERS)
    assert {**bad, None: b"no_value"} == {letter.value: headers(letter)["dlq.reason"] for letter in letters}
    assert 4 == len(letters) == worker.totals.letters
    [first, *_] = letters
    assert (b"key", b"till 7") == (first.key, headers(first)["origin"])
    source = json.loads(headers(first)["dlq.source"] or b"")
    assert {"topic": INPUT, "partition": 1} == {name: source[name] for name in ("topic", "partition")}
    assert bad.keys() - {None} == {
        job.broker.topics[INPUT][1].records[json.loads(headers(letter)["dlq.source"] or b"")["offset"]].value
        for letter in letters
        if letter.value
    }
    assert counted(events) == job.counts()


def test_totals_say_what_was_done() -> None:
    job, events = Job(), shop(100, 10)
    job.send([*events, events[-1]])
    worker = job.worker()
    job.settle(worker)
    totals = worker.totals
    assert (101, 100, 1, 0) == (totals.events, totals.applied, totals.duplicates, totals.letters)
    assert len(job.changes()) == totals.changes


# Stopped at any step

SMALL = {"records_max": 25, "sweep_records": 20}


def small() -> tuple[Job, list[dict[str, Any]]]:
    events = list(shop(120, 20))
    job = Job(partitions=2, settings=SMALL)
    job.send(events)
    return job, events


def calls_of_a_whole_run() -> list[str]:
    job, _ = small()
    faults = Faults()
    job.settle(job.worker(faults=faults))
    return faults.calls


def test_the_small_job_calls_every_method_that_is_cut_short_below() -> None:
    expected = {"store.claim", "store.load", "store.commit", "store.scan", "store.read", "store.announced", "store.count"}
    expected |= {"store.owners", "log.fetch", "log.start", "log.committed", "log.bounds", "reader.bounds"}
    expected |= {f"transactions.{method}" for method in ("settle", "begin", "send", "positions", "commit")}
    calls = calls_of_a_whole_run()
    assert expected == set(calls)
    assert 60 < len(calls) < 180


@pytest.mark.parametrize("stop", ["killed", "killed midway"])
def test_a_worker_killed_at_any_call_leaves_what_another_needs_to_lose_and_double_nothing(stop: str) -> None:
    when: When = "before" if stop == "killed" else "midway"
    for number, name in enumerate(calls_of_a_whole_run()):
        if when == "midway" and name not in {"transactions.send", "transactions.commit", "store.commit"}:
            continue
        job, events = small()
        with pytest.raises(Killed):
            job.settle(job.worker("a", Faults({number: Fault(Killed, when)})))
        job.gone("a")
        job.settle(job.worker("b"))
        assert_whole(job, events)


@pytest.mark.parametrize("when", ["before", "midway", "after"])
def test_a_call_that_is_lost_is_made_good_by_the_same_worker(when: When) -> None:
    for number in range(len(calls_of_a_whole_run())):
        job, events = small()
        run_to_the_end(job.worker(faults=Faults({number: Fault(Unavailable, when)})), job)
        assert_whole(job, events)


def test_a_worker_told_to_stop_leaves_nothing_to_be_told_again() -> None:
    job, events = small()
    worker = job.worker("a")
    worker.run(lambda: worker.totals.batches > 2)
    job.settle(job.worker("b"))
    assert_whole(job, events)
    assert len(job.told()) == len(job.changes())


def test_a_worker_that_stops_while_kafka_is_away_leaves_its_last_commit_to_the_next() -> None:
    job, events = small()
    job.settle(job.worker("a"))
    job.gone("a")
    more = shop(60, 20, seed=1)
    job.send(more)
    worker = job.worker("b", Faults({"transactions.commit": Fault()}))
    worker.run(lambda: worker.totals.batches > 0)
    told = len(job.told())
    job.settle(job.worker("c"))
    assert len(job.told()) > told
    assert_whole(job, [*events, *more])


def test_run_starts_again_from_what_is_committed_when_a_server_was_away() -> None:
    job, events = small()
    worker = job.worker("a", Faults({"store.load": Fault(), "transactions.positions": Fault(), "log.fetch": Fault()}))
    rounds = iter(range(200))

    def stopping() -> bool:
        job.clock.sleep(0.2)
        return next(rounds, None) is None

    worker.run(stopping)
    job.settle(job.worker("b"))
    assert_whole(job, events)


# Lost replies (a lost reply of Redis is no failure: read back and see)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_reply_of_redis_is_read_back_and_neither_loses_nor_doubles(when: When) -> None:
    job, events = small()
    worker = job.worker(faults=Faults({"store.commit": Fault(Unavailable, when)}))
    job.settle(worker)  # nothing is raised
    assert_whole(job, events)
    assert len(job.told()) == len(job.changes())


def test_a_reply_that_stays_lost_starts_the_assignment_anew() -> None:
    job, events = small()
    faults = Faults()
    worker = job.worker(faults=faults)
    job.step(worker, rounds=2)
    faults.plan, faults.down = {"store.commit": Fault(Unavailable, "after")}, {"store.read"}
    with pytest.raises(Unavailable, match="did not say within 20 attempts what became of a commit"):
        worker._commit_batch(_next_records(job, worker))
    faults.down = set()
    worker._drop_all()
    job.settle(worker)
    assert_whole(job, events)


@pytest.mark.parametrize("when", ["before", "midway", "after"])
def test_a_lost_reply_of_the_transactions_commit_neither_loses_nor_doubles(when: When) -> None:
    """8c: the assignments are run anew, and Kafka's position says what became of it."""
    job, events = small()
    job.settle(job.worker("a"))
    job.gone("a")
    more = shop(60, 20, seed=1)
    job.send(more)
    run_to_the_end(job.worker("b", Faults({"transactions.commit": Fault(Unavailable, when)})), job)
    assert len(job.told()) == len(job.changes())
    assert_whole(job, [*events, *more])


def test_an_assignment_that_fails_once_its_publication_is_on_its_way_does_not_publish_twice() -> None:
    """6b, run anew: the transaction that is still open must hold the outbox once."""
    job, events, faults = Job(partitions=1), shop(200, 30), Faults()
    worker = job.worker("a", faults)
    job.send(events[:100])
    job.settle(worker)
    job.broker.append(INPUT, 0, b"bad", b"nonsense")
    job.send(events[100:])
    faults.plan = {"store.commit": Fault(Killed, "after")}
    with pytest.raises(Killed):
        job.settle(worker)
    job.gone("a")
    run_to_the_end(job.worker("b", Faults({"log.start": Fault(Unavailable, "after")})), job)
    assert len(job.records(Topic.DEAD_LETTERS)) == 1
    assert len(job.told()) == len(job.changes())
    assert_whole(job, events)


class OvertakenOnce(Faults):
    """Lets somebody else claim the partitions just before the first commit."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job, self.overtaken = job, False

    def call(self, name: str, method: str, port: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if method == "commit" and name == "store" and not self.overtaken:
            self.overtaken = True
            self.job.store.claim(0, "somebody else, who does not know yet that it lost the partition")
        return super().call(name, method, port, args, kwargs)


def test_an_assignment_whose_first_commit_is_refused_is_run_anew() -> None:
    """8a, in a rebuild from nothing, which begins with a commit that empties Redis."""
    job, events = Job(partitions=1), shop(200, 30)
    job.send(events[:100])
    job.settle(job.worker("a"))
    job.gone("a")
    held = job.redis.namespaces[job.run, "shop"].partitions[0]
    held.commit_id, held.previous_commit_id, held.next_offset = "another", "world", held.next_offset + 1
    job.send(events[100:])
    job.settle(job.worker("b", OvertakenOnce(job)))
    assert len(job.told()) == len(job.changes())
    assert_whole(job, events)


def test_without_transactions_what_the_broker_did_not_acknowledge_is_published_again() -> None:
    job, events = small()
    job.settle(job.worker("a"))
    job.gone("a")
    more = shop(60, 20, seed=1)
    job.send(more)
    faults = Faults({"publisher.wait": Fault(Unavailable, "after")})
    run_to_the_end(job.worker("b", faults, exactly_once=False), job)
    assert len(job.told()) < len(job.changes())  # told twice, under the same ids
    assert_whole(job, [*events, *more])


# Other owners


def test_a_zombies_commit_is_refused_and_it_begins_anew() -> None:
    job, events = small()
    zombie = job.worker("a")
    job.step(zombie, rounds=2)
    token = zombie.owned[0].token
    job.store.claim(0, "another")
    job.settle(zombie)
    assert token != zombie.owned[0].token
    assert_whole(job, events)


def test_a_zombie_that_lost_its_partitions_writes_nothing_more() -> None:
    job, events = small()
    zombie = job.worker("a")
    job.step(zombie, rounds=2)
    job.gone("a")
    successor = job.worker("b")
    job.step(successor, rounds=2)
    with pytest.raises(Unavailable, match="not at commit"):
        zombie._through(_next_records(job, zombie))
    zombie._drop_all()
    assert not zombie.owned
    job.settle(successor)
    assert_whole(job, events)


def _next_records(job: Job, worker: Worker) -> Any:
    """Give records that a worker had fetched before it learned that it is no member any more."""
    before = FakeEventLog(copy.deepcopy(job.broker), INPUT, "zombie", "z")
    before.fetch(0, 0, 0)
    for number, owned in worker.owned.items():
        before.start(number, owned.next_offset)
    return before.fetch(1000, 0, 0)


def test_two_workers_share_partitions_and_a_third_that_comes_and_goes_loses_nothing() -> None:
    events = shop(600, 60)
    job = Job(settings={"records_max": 10})
    a, b = job.worker("a"), job.worker("b")
    job.send(events[:200])
    job.step(a, b, rounds=8)
    assert {0, 1, 2, 3} == {*a.owned, *b.owned}
    assert 2 == len(a.owned) == len(b.owned)
    c = job.worker("c")
    job.send(events[200:400])
    job.step(a, b, c, rounds=8)
    assert c.owned
    c.stop()
    job.send(events[400:])
    job.settle(a, b)
    assert {0, 1, 2, 3} == {*a.owned, *b.owned}
    assert_whole(job, events)
    assert len(job.told()) == len(job.changes())


@pytest.mark.parametrize("call", ["transactions.commit", "publisher.wait"])
def test_a_partition_that_is_taken_away_while_kafka_does_not_answer_is_left_to_its_new_owner(call: str) -> None:
    events = shop(400, 40)
    job = Job(partitions=2, settings={"records_max": 20, "exactly_once": call != "publisher.wait"})
    faults = Faults()
    a = job.worker("a", faults)
    job.send(events[:200])
    job.settle(a)
    job.send(events[200:])
    job.step(a)
    b = job.worker("b")
    faults.plan[call] = Fault()
    run_to_the_end(a, job)
    job.settle(a, b)
    assert [1, 1] == [len(a.owned), len(b.owned)]
    assert_whole(job, events)


# Lost Redis


def wiped(job: Job) -> None:
    job.redis.namespaces.clear()


def test_an_idle_worker_finds_that_redis_was_wiped_and_rebuilds_what_it_held() -> None:
    job, events = small()
    worker = job.worker()
    job.settle(worker)
    profiles, told, changes = job.profiles(), job.told(), len(job.changes())
    wiped(job)
    job.settle(worker)
    assert profiles == job.profiles()
    assert told == job.told()
    assert_whole(job, events)
    assert changes == len(job.changes())  # nothing below Kafka's position is told again


def test_a_rebuild_tells_neither_changes_nor_dead_letters_again() -> None:
    job = Job(partitions=1)
    job.send(shop(100, 20))
    worker = job.worker()
    job.settle(worker)
    job.broker.append(INPUT, 0, b"key", b"nonsense")
    job.send(shop(100, 20, seed=1))
    job.settle(worker)
    before = [len(job.records(topic)) for topic in Topic]
    wiped(job)
    job.settle(worker)
    assert before == [len(job.records(topic)) for topic in Topic]
    assert 1 == len(job.records(Topic.DEAD_LETTERS))


def test_redis_wiped_while_events_come_is_rebuilt_along_the_journal_and_nothing_is_lost() -> None:
    job = Job(settings={"epoch_interval_s": 1.0, "records_max": 10})
    events = shop(600, 60)
    a, b = job.worker("a"), job.worker("b")
    for begin in range(0, len(events), 50):
        job.send(events[begin : begin + 50])
        for worker in (a, b):
            try:
                job.step(worker, rounds=8)
            except Unavailable:
                worker._drop_all()
        if begin == 300:
            wiped(job)
    job.settle(a, b)
    assert_whole(job, events)


def test_redis_wiped_before_there_is_a_model_is_rebuilt_before_one_is_made() -> None:
    job = Job(settings={"records_max": 10}, first_fit=None)
    events = shop(400, 40)
    job.send(events)
    job.settle(job.worker("a"))
    job.gone("a")
    wiped(job)
    again = Job(settings={"records_max": 10}, broker=job.broker, redis=job.redis, clock=job.clock)
    again.settle(again.worker("b"))
    assert_whole(again, events)
    assert len(set(counted(events))) == len({change["customer_id"] for change in again.changes()})


def test_a_rolled_back_redis_is_taken_forward_again() -> None:
    job = Job(settings={"epoch_interval_s": 1.0, "records_max": 10})
    events = shop(600, 60)
    worker = job.worker("a")
    job.send(events[:300])
    job.settle(worker)
    earlier = copy.deepcopy(job.redis.namespaces)
    job.send(events[300:])
    job.settle(worker)
    told = job.told()
    job.redis.namespaces = earlier
    job.settle(worker)
    assert told.items() <= job.told().items()
    assert_whole(job, events)


def test_a_state_that_knows_more_than_was_told_is_rebuilt_from_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A worker that was cut off judged somebody anew, in a Redis that was put back, and told nobody."""
    job = Job(partitions=1, settings={"records_max": 10})
    events = shop(300, 30)
    job.send(events)
    job.settle(job.worker("a"))
    job.gone("a")
    told, profiles = job.changes(), job.profiles()
    customers, work = job.work()
    work.head[0, VERSION] += 1
    work.head[0, SEGMENT] = NEW_SEGMENT
    held = job.redis.namespaces["live", APP].partitions[0]
    bodies = cut(*pack(job.plan, work, np.arange(len(customers))))
    held.profiles = dict(zip([customer.encode() for customer in customers], bodies, strict=True))
    held.commit_id, held.previous_commit_id = "cut off", "before"
    assert profiles != job.profiles()
    with caplog.at_level("WARNING"):
        job.settle(job.worker("b"))
    assert "is not what was told of: rebuilding from nothing" in caplog.text
    assert (told, profiles) == (job.changes(), job.profiles())
    assert_whole(job, events)


@pytest.mark.parametrize(("published", "base"), [(True, "what Redis holds"), (False, "the start of the log")])
def test_a_state_that_let_customers_go_is_built_upon_only_if_that_was_told(
    published: bool, base: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No profile is left of who left, so nothing else in a Redis that was put back shows that a worker that was cut off let them go."""
    retention_ms = 31 * 86_400_000
    job = Job(partitions=1, first_fit=FirstFit(NAME, 3, 12, 0, 1000, Decision(dwell_ms=0, retention_ms=retention_ms)))
    worker, events = job.worker("a"), list(shop(300, 30))
    job.send(events)
    job.settle(worker)
    later = [{**events[-1], "event_id": f"later {n}", "occurred_at": events[-1]["occurred_at"] + n * retention_ms} for n in (2, 3)]
    job.send(later[:1])
    while all(change["status"] != "exited" for change in job.changes()):
        job.step(worker)
    put_back = copy.deepcopy(job.redis.namespaces)
    job.send(later[1:])
    job.settle(worker)
    job.gone("a")
    told, profiles = job.changes(), job.profiles()
    if not published:
        put_back["live", APP].partitions[0].commit_id = "9.cut off"
    job.redis.namespaces = put_back
    with caplog.at_level("WARNING"):
        job.settle(job.worker("b"))
    assert f"rebuilding from {base}" in caplog.text
    assert (told, profiles) == (job.changes(), job.profiles())


def test_a_decision_beyond_kafkas_position_is_followed_at_its_own_offset() -> None:
    """A decision was journaled, its position was not committed, and Redis was lost."""
    job = Job(partitions=1, settings={"records_max": 10, "epoch_interval_s": 1e9})
    events = shop(200, 20)
    job.send(events[:100])
    job.settle(job.worker("a"))
    committed = copy.deepcopy(job.broker.groups["live"].committed)
    job.send(events[100:])
    job.gone("a")
    worker = job.worker("b", epoch_interval_s=1.0)
    job.settle(worker)
    assert max(data.epoch for data in job.data()) > 0
    job.gone("b")
    job.broker.groups["live"].committed = committed
    profiles, told = job.profiles(), job.told()
    wiped(job)
    job.settle(job.worker("c", epoch_interval_s=1e9))
    assert profiles == job.profiles()
    assert told == job.told()
    assert_whole(job, events)


def expired(job: Job) -> None:
    """Delete the group's positions, as the broker does where nobody was there for days."""
    job.broker.groups["live"].committed.clear()


def test_a_rebuild_that_is_cut_off_is_gone_on_with_where_the_positions_are_gone_too() -> None:
    job = Job(partitions=1, settings={"records_max": 10})
    events = shop(200, 20)
    job.send(events)
    job.settle(job.worker("a"))
    job.gone("a")
    told, changes = job.told(), len(job.changes())
    wiped(job)
    expired(job)
    job.step(job.worker("b"), rounds=6)
    assert 0 < job.store.read([0])[0].next_offset < len(events)  # half a state, and no position (6e)
    job.gone("b")
    job.settle(job.worker("c"))
    assert told == job.told()
    assert changes == len(job.changes())
    assert_whole(job, events)


def test_a_rolled_back_redis_is_taken_forward_again_where_the_positions_are_gone_too() -> None:
    job = Job(partitions=1, settings={"records_max": 10, "epoch_interval_s": 1.0})
    events = shop(300, 30)
    job.send(events[:150])
    job.settle(job.worker("a"))
    earlier = copy.deepcopy(job.redis.namespaces)
    job.send(events[150:])
    job.gone("a")
    job.settle(job.worker("b"))
    job.gone("b")
    told, changes = job.told(), len(job.changes())
    job.redis.namespaces = earlier
    expired(job)
    job.settle(job.worker("c", epoch_interval_s=1e9))
    assert told == job.told()
    assert changes == len(job.changes())
    assert_whole(job, events)


def test_where_only_the_positions_are_gone_nothing_is_told_again_and_nothing_is_rebuilt() -> None:
    job = Job(partitions=1, settings={"records_max": 10})
    events = shop(200, 20)
    job.send(events)
    first = job.worker("a")
    job.settle(first)
    events = [*events, {**events[-1], "event_id": "one more"}]  # after the slices of a sweep, which all stand at one offset
    job.send(events[-1:])
    job.settle(first)
    job.gone("a")
    changes, commit_id = len(job.changes()), job.store.read([0])[0].commit_id
    expired(job)
    worker = job.worker("b", epoch_interval_s=1e9)
    job.settle(worker)
    assert commit_id == job.store.read([0])[0].commit_id
    assert changes == len(job.changes())
    assert_whole(job, events)


def test_without_transactions_an_outbox_that_was_sent_in_part_is_sent_again_where_there_is_no_position() -> None:
    job = Job(partitions=1)
    job.broker.append(INPUT, 0, b"key", b"nonsense")
    job.broker.append(INPUT, 0, b"key", b"more nonsense")
    worker = job.worker("a", exactly_once=False)
    job.settle(worker)
    job.gone("a")
    letters = job.broker.topics[job.topics("live")[Topic.DEAD_LETTERS]][0].records
    assert 2 == len(letters)
    letters.pop()
    expired(job)
    job.settle(job.worker("b", exactly_once=False))
    assert 3 == len(letters)


@pytest.mark.parametrize("read_first", [1, 256])
def test_without_transactions_decisions_that_redis_lost_are_taken_again_where_they_were_told(
    read_first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were journaled and their positions were not committed: what Redis was put back to is what Kafka knows."""
    monkeypatch.setattr(assignment, "LATEST_RECORDS", read_first)
    job = Job(partitions=1, settings={"records_max": 10, "epoch_interval_s": 1.0, "exactly_once": False})
    events = shop(300, 20)
    job.send(events[:100])
    job.settle(job.worker("a"))
    job.gone("a")
    committed, earlier = copy.deepcopy(job.broker.groups["live"].committed), copy.deepcopy(job.redis.namespaces)
    [before] = job.data()
    worker = job.worker("b")
    for begin in range(100, 300, 20):
        job.send(events[begin : begin + 20])
        job.step(worker, rounds=20)
    job.settle(worker)
    job.gone("b")
    [after] = job.data()
    assert after.epoch > before.epoch
    told, profiles, entries = job.told(), job.profiles(), job.entries()
    job.broker.groups["live"].committed, job.redis.namespaces = committed, earlier
    job.settle(job.worker("c", records_max=7, epoch_interval_s=1e9))
    assert (told, profiles, entries) == (job.told(), job.profiles(), job.entries())
    assert counted(events) == job.counts()


def test_without_transactions_nothing_new_is_decided_where_events_may_have_been_told_of() -> None:
    job = Job(partitions=1, settings={"records_max": 10, "epoch_interval_s": 1e9, "exactly_once": False})
    events = shop(300, 20)
    job.send(events[:150])
    job.settle(job.worker("a"))
    job.gone("a")
    committed, earlier = copy.deepcopy(job.broker.groups["live"].committed), copy.deepcopy(job.redis.namespaces)
    job.send(events[150:])
    job.settle(job.worker("b"))
    job.gone("b")
    told = job.told()
    job.broker.groups["live"].committed, job.redis.namespaces = committed, earlier
    job.settle(job.worker("c", epoch_interval_s=0.2))
    assert told.items() <= job.told().items()  # which compares what was told twice
    offsets = [entry.at_offset for entry in job.entries() if entry.kind == journal.EPOCH]
    assert len(events) <= min(offsets)
    assert counted(events) == job.counts()


def test_what_is_announced_is_announced_again_after_redis_was_wiped() -> None:
    job, _ = small()
    worker = job.worker()
    job.settle(worker)
    announced = job.store.announced("model")
    wiped(job)
    job.settle(worker)
    assert announced == job.store.announced("model")


# What can't be mended


def test_another_feature_version_is_refused_with_the_remedy() -> None:
    job, _ = small()
    job.settle(job.worker("a"))
    job.gone("a")
    features = copy.deepcopy(FEATURES)
    features["features"]["views_30d"]["window"] = "20d"
    other = Job(2, features, SMALL, broker=job.broker, redis=job.redis, clock=job.clock)
    with pytest.raises(Misconfigured, match=r"feature version .* restore the declaration, or begin in a new `app\.namespace`"):
        other.settle(other.worker("b"))


def test_a_state_or_a_profile_that_is_damaged_is_refused_by_name() -> None:
    job, _ = small()
    job.settle(job.worker("a"))
    job.gone("a")
    held = job.redis.namespaces["live", "shop"].partitions[1]
    customer = next(iter(held.profiles))
    held.profiles[customer] += b"x"
    job.send([{**event, "event_id": f"more {event['event_id']}"} for event in shop(120, 20)])
    with pytest.raises(Corrupt, match=r"the profile of customer#[0-9a-f]{16} is damaged: `streamer check` tells which"):
        job.settle(job.worker("b"))
    job.gone("b")
    held.state = b"\x63" + held.state[1:]
    with pytest.raises(Corrupt, match=r"the state of partition 1 in Redis can't be read: .* layout 63"):
        job.settle(job.worker("c"))


def test_events_that_the_log_no_longer_holds_are_missed_aloud() -> None:
    job, _ = small()
    job.settle(job.worker("a"))
    job.gone("a")
    job.send(shop(60, 20, seed=1))
    job.broker.expire(INPUT, 0, job.broker.topics[INPUT][0].high - 1)
    with pytest.raises(OffsetOutOfRange, match="partition 0 of the input does not hold offset"):
        job.settle(job.worker("b"))


def test_a_wiped_redis_is_not_rebuilt_from_a_log_that_begins_after_what_was_told() -> None:
    job, _ = small()
    job.settle(job.worker("a"))
    job.gone("a")
    job.send(shop(60, 20, seed=1))
    job.broker.expire(INPUT, 0, job.broker.topics[INPUT][0].high - 1)
    wiped(job)
    with pytest.raises(OffsetOutOfRange, match="partition 0 of the input does not hold offset"):
        job.settle(job.worker("b"))


def test_a_first_start_begins_where_the_log_does() -> None:
    events = list(shop(200, 20))
    job = Job(partitions=2)
    job.send(events)
    job.broker.expire(INPUT, 0, 30)
    job.settle(job.worker("a"))
    held = [record.key for log in job.broker.topics[INPUT] for record in log.records]
    assert Counter(key.decode() for key in held if key) == job.counts()


def test_a_worker_is_idle_once_nothing_is_left_to_do_and_time_has_passed() -> None:
    job, _ = small()
    worker = job.worker()
    assert not worker.idle(1.0)
    job.step(worker)
    assert not worker.idle(0.0)
    job.settle(worker)
    assert worker.idle(1.0)
    assert not worker.idle(None)
    assert not worker.idle(1e9)


def test_gaps_in_the_log_do_not_stop_a_rebuild() -> None:
    job = Job(partitions=1)
    events = list(shop(200, 20))
    for begin in range(0, 200, 20):
        job.send(events[begin : begin + 20])
        job.broker.skip(INPUT, 0, 3)
    worker = job.worker()
    job.settle(worker)
    profiles, told = job.profiles(), job.told()
    wiped(job)
    job.settle(worker)
    assert profiles == job.profiles()
    assert told == job.told()


# Records that end processes


class Poisoned:
    """An intake that ends the process when it reads a certain value."""

    def __init__(self, intake: Any, poison: bytes) -> None:
        self.plan = intake.plan
        self._intake = intake
        self._poison = poison

    def take(self, fetched: Any, part: Any, quarantined: Any = None) -> Any:
        for i in np.flatnonzero(~quarantined) if quarantined is not None else range(len(fetched)):
            if fetched.values[fetched.bounds[i] : fetched.bounds[i + 1]] == self._poison:
                message = "the decoder died"
                raise Killed(message)
        return self._intake.take(fetched, part, quarantined)


def poisoned(job: Job, name: str, poison: bytes = b"poison") -> Worker:
    worker = job.worker(name)
    worker._tools = replace(worker._tools, intake=Poisoned(worker._tools.intake, poison))  # type: ignore[arg-type]
    return worker


def lives_until_settled(job: Job, lives_max: int, poison: bytes = b"poison") -> int:
    """Start processes one after another until one of them outlives the log; returns how many died."""
    for life in range(lives_max):
        try:
            job.settle(poisoned(job, f"life {life}", poison))
        except Killed:
            job.gone(f"life {life}")
        else:
            return life
    message = f"{lives_max} processes died"
    raise AssertionError(message)


def test_a_record_that_ends_processes_is_quarantined_and_nothing_else_is() -> None:
    job, events = Job(partitions=2, settings={"deaths_max": 3}), list(shop(120, 20))
    job.send(events[:60])
    job.broker.append(INPUT, 1, b"key", b"poison")
    job.send(events[60:])
    assert 3 <= lives_until_settled(job, 12) <= 7
    [letter] = job.records(Topic.DEAD_LETTERS)
    assert (b"poison", b"quarantined") == (letter.value, headers(letter)["dlq.reason"])
    assert ["quarantine"] == [entry.kind for entry in job.entries() if entry.kind == "quarantine"]
    assert counted(events) == job.counts()
    assert job.check().clean


def test_what_was_quarantined_is_passed_over_by_a_rebuild_and_a_replay_too() -> None:
    job, events = Job(partitions=2, settings={"deaths_max": 2}), list(shop(120, 20))
    job.send(events[:60])
    job.broker.append(INPUT, 1, b"key", b"poison")
    job.send(events[60:])
    died = lives_until_settled(job, 12)
    profiles, told = job.profiles(), job.told()
    job.gone(f"life {died}")
    wiped(job)
    job.settle(poisoned(job, "another"))
    assert (profiles, told) == (job.profiles(), job.told())
    assert 1 == len(job.records(Topic.DEAD_LETTERS))
    again = job.following(records_max=7)
    again.settle(poisoned(again, "follower"))
    assert (profiles, told) == (again.profiles(), again.told())


@pytest.mark.parametrize("published", ["passed over", "read"])
def test_what_a_zombie_made_of_a_record_in_a_redis_that_was_rolled_back_is_not_built_upon(published: str) -> None:
    """What it published is seen by nobody, as of a worker that is cut off; what it committed is in Redis, and not beyond C."""
    job, events = Job(partitions=1, settings={"deaths_max": 2}, first_fit=None), list(shop(40, 8))
    job.send(events[:20])
    job.settle(job.worker("before"))
    job.gone("before")
    zombies = copy.deepcopy(job)
    zombies.clock.names += 1000  # no two names of theirs are equal
    poison = encoded({**shop(1, 1)[0], "event_id": "poison", "customer_id": "c001"})
    for one in (job, zombies):
        one.broker.append(INPUT, 0, b"c001", poison)
        one.send(events[20:])
    dying, reading = (job, zombies) if published == "passed over" else (zombies, job)
    died = lives_until_settled(dying, 12, poison)
    dying.gone(f"life {died}")
    reading.settle(reading.worker("healthy"))
    reading.gone("healthy")
    profiles = job.profiles()
    assert profiles != zombies.profiles()
    job.redis.namespaces = zombies.redis.namespaces
    job.settle(job.worker("heir"))
    assert profiles == job.profiles()
    assert (published == "passed over") == bool(job.records(Topic.DEAD_LETTERS))


def test_a_record_is_innocent_of_servers_that_do_not_answer_and_of_partitions_that_move() -> None:
    job, events = small()
    faults = Faults()
    worker = job.worker("a", faults, deaths_max=2)
    for _ in range(12):
        faults.plan = {"store.load": Fault()}
        with suppress(Unavailable):
            job.step(worker, rounds=3, seconds=6.0)
        worker._drop_all()
    faults.plan = {}
    run_to_the_end(worker, job)
    assert [] == job.records(Topic.DEAD_LETTERS)
    assert_whole(job, events)


def test_who_moves_while_nothing_comes_takes_what_comes_then_in_whole_batches() -> None:
    job, faults = Job(partitions=2), Faults()
    for name in "abcd":
        job.step(job.worker(name), rounds=3)
        job.gone(name)
    worker = job.worker("e", faults)
    job.step(worker, rounds=3)
    assert 5 == max(state.claims for state in job.store.read(range(2)))
    job.send(shop(120, 20))
    job.settle(worker)
    assert "store.note_attempts" not in faults.calls
    assert counted(list(shop(120, 20))) == job.counts()


def test_a_decision_in_the_journal_that_this_version_does_not_know_stops_the_worker() -> None:
    job, _ = small()
    job.settle(job.worker("a"))
    job.gone("a")
    entry = journal.Entry("tock", 0, 0, 9, 0, b"")
    record = journal.record(entry, 0, "id", 0, schema_id("journal_entry"))
    job.broker.append(job.topics("live")[Topic.JOURNAL], 0, record.key, record.value)
    wiped(job)
    with pytest.raises(Corrupt, match="has the decision 'tock': run the version that wrote it"):
        job.settle(job.worker("b"))
