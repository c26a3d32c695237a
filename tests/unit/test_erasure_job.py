"""An erasure through the whole worker: in band, once, and nothing of the id stays in Redis, whatever befalls."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest

from streamer.adapters.avro import codec, wire
from streamer.app import erasing
from streamer.app.changes import CHANGE, EXITED
from streamer.app.erasing import DONE, NOT_FOUND, WAITING
from streamer.app.looking import Needs, Place, Sources
from streamer.core import outbox
from streamer.core.erasure import make_rule
from streamer.core.errors import Misconfigured
from streamer.core.ports import Topic
from tests.fakes.faults import Fault, Faults, Killed, When
from tests.fakes.job import INPUT, Job, encoded, shop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.core.ports import LogRecord

WHO = "c003"
pytestmark = pytest.mark.compiled  # whole jobs

LATER = 1_700_000_000_000 + 41 * 86_400_000


class Tail:
    """Looks at the topics of a fake broker."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def partitions(self, topic: str) -> int | None:
        return len(self.job.broker.topics[topic]) if topic in self.job.broker.topics else None

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        log = self.job.broker.topics[topic][partition]
        return log.first, log.high

    def between(self, topic: str, partition: int, first: int, end: int) -> list[LogRecord]:
        return [record for record in self.job.broker.topics[topic][partition].committed() if first <= record.offset < end]


def held(job: Job) -> Iterator[bytes]:
    """Give every text that Redis holds."""
    for namespace in job.redis.namespaces.values():
        yield from namespace.announced.values()
        for kept in namespace.partitions.values():
            yield from (kept.state, kept.outbox, kept.erased, kept.attempts, *kept.profiles, *kept.profiles.values())


def names(job: Job, customer: str = WHO) -> bool:
    return any(customer.encode() in text for text in held(job))


def learned() -> Job:
    """A job that has come to know its customers."""
    job = Job(settings={"epoch_interval_s": 0.6, "poll_interval_s": 0.2, "idle_check_s": 1.0, "tick_after_s": None})
    job.send(shop(300, 20))
    job.settle(job.worker())
    job.gone("a")
    assert names(job)
    return job


def of(job: Job, customer: str = WHO) -> list[Any]:
    return [record for record in job.records(Topic.CHANGES) if record.key == customer.encode()]


NOTHING_NEEDED = Needs(enabled=False, customers_min=0, history_days_min=0)


def left(job: Job, customer: str = WHO, changes: str | None = None, scan: int = 1000) -> erasing.Left:
    place, rule = Place("shop", "live", INPUT, changes or job.topics(job.run)[Topic.CHANGES]), make_rule(None, refuse=True)
    model: Any = None  # nothing is asked of it
    found = Sources(place, job.store, Tail(job), job.declaration, job.plan, model, NOTHING_NEEDED)
    return erasing.look(found, rule, customer, scan, None)


def test_who_is_erased_leaves_with_a_notice_and_a_tombstone_in_every_partition() -> None:
    job = learned()
    [*_, last] = [record for record in of(job) if record.value is not None]
    job.erase(WHO, LATER)
    job.settle(job.worker("b"))
    [*_, before, notice] = [record for record in of(job) if record.value is not None]
    assert last == before
    change = codec.decode(CHANGE, notice.value[wire.ID_BYTES :])
    assert (EXITED, "erased", LATER) == (change["status"], change["cause"], change["occurred_at"])
    assert change["version"] > codec.decode(CHANGE, last.value[wire.ID_BYTES :])["version"]
    assert job.partitions == sum(record.value is None for record in of(job))
    logs = job.broker.topics[job.topics(job.run)[Topic.CHANGES]]
    assert [True] * job.partitions == [any(r.key == WHO.encode() and r.value is None for r in log.committed()) for log in logs]
    [own] = [log for log in logs if notice in log.committed()]
    assert [False, True] == [record.value is None for record in own.committed() if record.key == WHO.encode()][-2:]


def test_no_byte_of_the_id_stays_in_redis_though_nothing_else_ever_comes() -> None:
    job = learned()
    job.erase(WHO, LATER)
    job.settle(job.worker("b"))
    assert not names(job)
    assert [False] * job.partitions == [data.scrub for data in job.data()]
    assert job.check().clean


@pytest.mark.parametrize("when", get_args(When))
@pytest.mark.parametrize("call", ["transactions.commit", "transactions.positions", "store.commit"])
@pytest.mark.parametrize("nth", [0, 1])
def test_no_byte_of_the_id_stays_in_redis_where_a_worker_dies(call: str, when: When, nth: int) -> None:
    job = learned()
    job.erase(WHO, LATER)
    faults = Faults()
    worker = job.worker("b", faults)
    job.step(worker, rounds=nth)
    faults.plan[call] = Fault(Killed, when)
    with pytest.raises(Killed):
        job.settle(worker)
    job.gone("b")
    job.settle(job.worker("c"))
    assert not names(job)
    assert 1 + job.partitions == len(of(job)) - len([r for r in of(job) if r.value is not None]) + 1
    assert 1 == [change["cause"] for change in job.changes()].count("erased")
    assert job.check().clean


def test_later_events_are_dropped_without_a_dead_letter_and_counted() -> None:
    job = learned()
    job.erase(WHO, LATER)
    job.settle(worker := job.worker("b"))
    told, marks = len(job.records(Topic.CHANGES)), [data.watermark for data in job.data()]
    job.send(
        [{**event, "event_id": f"again-{n}", "occurred_at": LATER} for n, event in enumerate(shop(300, 20)) if event["customer_id"] == WHO]
    )
    job.settle(worker)
    assert (told, marks) == (len(job.records(Topic.CHANGES)), [data.watermark for data in job.data()])
    assert [] == job.records(Topic.DEAD_LETTERS)
    assert not names(job)


def test_a_dead_letter_of_who_was_erased_does_not_stay_in_redis() -> None:
    job = learned()
    job.erase(WHO, LATER)
    job.settle(worker := job.worker("b"))
    job.send([{**shop(1, 1)[0], "customer_id": WHO, "quantity": 10**13}])
    job.settle(worker)
    [letter] = job.records(Topic.DEAD_LETTERS)
    assert WHO.encode() in letter.value
    assert not names(job)


def test_where_they_are_accepted_later_events_begin_a_new_customer() -> None:
    job = learned()
    rule = make_rule(None, refuse=False)
    job.erase(WHO, LATER)
    job.settle(worker := job.worker("b", erasure=rule))
    counted = sum(job.counts().values())
    again = [{**event, "event_id": f"again-{n}"} for n, event in enumerate(shop(300, 20)) if event["customer_id"] == WHO]
    job.send(again)
    job.settle(worker)
    assert len(again) == job.counts()[WHO] == sum(job.counts().values()) - counted
    assert {b""} == {kept.erased for kept in job.redis.namespaces["live", "shop"].partitions.values()}
    assert job.check().clean


def test_who_was_erased_is_refused_after_redis_was_lost() -> None:
    job = learned()
    job.erase(WHO, LATER)
    job.settle(job.worker("b"))
    told, kept = job.told(), job.profiles()
    job.gone("b")
    job.redis.namespaces.clear()
    job.send([{**shop(1, 1)[0], "customer_id": WHO, "occurred_at": LATER}])
    job.settle(job.worker("c"))
    assert (told, kept) == (job.told(), job.profiles())
    assert not names(job)


def test_who_was_erased_is_refused_after_redis_was_rolled_back_to_before_it() -> None:
    job = learned()
    earlier = copy.deepcopy(job.redis.namespaces)
    job.erase(WHO, LATER)
    job.settle(worker := job.worker("b"))
    told, kept = job.told(), job.profiles()
    job.redis.namespaces = earlier
    job.later(10)
    job.settle(worker)
    assert (told, kept) == (job.told(), job.profiles())
    assert not names(job)


def test_another_key_is_refused_once_somebody_was_erased() -> None:
    job = learned()
    job.erase(WHO, LATER)
    job.settle(job.worker("b"))
    job.gone("b")
    with pytest.raises(Misconfigured, match=r"another `erasure\.key`"):
        job.settle(job.worker("c", erasure=make_rule("another", refuse=True)))


def test_commands_that_only_history_has_are_refused_from_anybody_else() -> None:
    job = learned()
    for name in ("$erased", "$passed"):
        event = {**shop(1, 1)[0], "customer_id": "0" * 24, "event_type": name}
        job.broker.append(INPUT, 0, b"x", encoded(event))
    job.settle(job.worker("b"))
    assert [b"unknown_command"] * 2 == [dict(record.headers)["dlq.reason"].lower() for record in job.records(Topic.DEAD_LETTERS)]


def test_status_tells_what_was_deleted_and_what_still_waits() -> None:
    job = learned()
    assert {NOT_FOUND} == {p.command for p in left(job).partitions}
    job.erase(WHO, LATER)
    waiting = left(job)
    assert {WAITING} == {p.command for p in waiting.partitions}
    assert 1 == sum(p.profile for p in waiting.partitions)
    assert not waiting.clean
    job.settle(job.worker("b"))
    after = left(job)
    assert ({DONE}, {False}, {False}, {True}) == tuple(
        {getattr(p, name) for p in after.partitions} for name in ("command", "profile", "outbox", "tombstone")
    )
    assert len([record for record in of(job) if record.value is not None]) == sum(p.changes for p in after.partitions) > 0
    assert not after.clean
    for log in job.broker.topics[job.topics(job.run)[Topic.CHANGES]]:  # what compaction leaves
        log.records[:] = [record for record in log.records if record.key != WHO.encode()]
    assert left(job).clean


def test_status_says_how_far_it_looked() -> None:
    job = learned()
    assert not left(job, changes="nothing", scan=1).complete
    assert left(job, changes="nothing").complete


def test_the_outbox_of_an_erasure_names_the_customer_until_another_takes_its_place() -> None:
    """Else the test above would hold for nothing."""
    job = learned()
    job.erase(WHO, LATER)
    faults = Faults()
    worker = job.worker("b", faults)
    faults.plan["transactions.commit"] = Fault(Killed, "after")
    with pytest.raises(Killed):
        job.settle(worker)
    kept = job.redis.namespaces["live", "shop"].partitions.values()
    assert any(record.key == WHO.encode() for one in kept for record in outbox.unpack(one.outbox))
    assert any(data.scrub for data in job.data())


def test_hashes_are_kept_in_order() -> None:
    job = Job(partitions=1)
    for who in ("a", "b", "c", "d"):
        job.erase(who, LATER)
    job.settle(job.worker())
    [kept] = job.redis.namespaces["live", "shop"].partitions.values()
    hashes = np.frombuffer(kept.erased, "<u8")
    rule = make_rule(None, refuse=True)
    assert sorted(rule.of(who) for who in (b"a", b"b", b"c", b"d")) == hashes.tolist()
