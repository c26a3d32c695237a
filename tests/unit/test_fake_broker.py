"""What the fake broker can show of transactions and a real one can't be made to: markers that arrive one by one, faults midway."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from streamer.core.ports import Committed, MustAbort, OutRecord, Topic, Unavailable, Unclear
from tests.fakes.broker import TRANSACTION_TIMEOUT_MS, FakeBroker, FakeEventLog, FakeTopicReader
from tests.fakes.faults import Fault, Faults, Killed
from tests.fakes.transactions import FakeTransactions

if TYPE_CHECKING:
    from streamer.core.ports import LogRecord

TOPICS = {Topic.CHANGES: "changes"}
AT = Committed(5, "c5")


@pytest.fixture
def broker() -> FakeBroker:
    broker = FakeBroker()
    broker.create("events", 2)
    broker.create("changes", 2)
    return broker


@pytest.fixture
def log(broker: FakeBroker) -> FakeEventLog:
    log = FakeEventLog(broker, "events", "g", "a")
    log.fetch(1, 0.0, 0.0)
    return log


def records(*values: bytes, partition: int = 0) -> list[OutRecord]:
    return [OutRecord(Topic.CHANGES, partition, b"k", value, ()) for value in values]


def seen(broker: FakeBroker, partition: int = 0) -> list[bytes | None]:
    found: list[LogRecord] = FakeTopicReader(broker, TOPICS).read(Topic.CHANGES, partition, 0, 0.0)
    return [record.value for record in found]


def whole(out: Any, log: FakeEventLog) -> None:
    out.begin()
    out.send(records(b"a", b"b"))
    out.send(records(b"c", partition=1))
    out.positions({0: AT}, log.membership(), 1.0)
    out.commit(1.0)


def test_markers_arrive_one_by_one_and_each_reader_waits_for_its_own(broker: FakeBroker, log: FakeEventLog) -> None:
    broker.arrival = "held"
    whole(FakeTransactions(broker, TOPICS, "x"), log)
    first, second, positions = broker.under_way()
    assert [("changes", 0), ("changes", 1), ("g", -1)] == [marker[1:] for marker in (first, second, positions)]
    for refused in (lambda: seen(broker), lambda: log.committed([0]), FakeTransactions(broker, TOPICS, "x").begin):
        with pytest.raises(Unavailable):
            refused()
    assert {} == log.committed([1])
    broker.arrive(positions)
    assert {0: AT} == log.committed([0])
    broker.arrive(second)
    assert [b"c"] == seen(broker, 1)
    with pytest.raises(Unavailable):
        seen(broker)
    broker.arrive(first)
    assert [b"a", b"b"] == seen(broker)
    assert [] == broker.under_way()


def test_markers_that_are_waited_for_arrive(broker: FakeBroker, log: FakeEventLog) -> None:
    broker.arrival = "waited for"
    out = FakeTransactions(broker, TOPICS, "x")
    whole(out, log)
    assert [b"a", b"b"] == seen(broker)
    assert 2 == len(broker.under_way())
    assert {0: AT} == log.committed([0])
    whole(out, log)
    assert [b"c", b"c"] == seen(broker, 1)


def test_what_was_decided_is_committed_by_who_settles_it(broker: FakeBroker, log: FakeEventLog) -> None:
    broker.arrival = "held"
    whole(FakeTransactions(broker, TOPICS, "x"), log)
    follower = FakeTransactions(broker, TOPICS, "x")
    with pytest.raises(Unavailable):
        follower.settle(1.0)
    broker.arrival = "waited for"
    follower.settle(1.0)
    assert ([b"a", b"b"], {0: AT}) == (seen(broker), log.committed([0]))


def test_markers_of_an_abort_may_be_late_too(broker: FakeBroker, log: FakeEventLog) -> None:
    broker.arrival = "held"
    out = FakeTransactions(broker, TOPICS, "x")
    out.begin()
    out.send(records(b"a"))
    out.positions({0: AT}, log.membership(), 1.0)
    broker.append("changes", 0, b"k", b"after")
    out.abort(1.0)
    with pytest.raises(Unavailable):
        seen(broker)
    with pytest.raises(Unavailable):
        log.committed([0])
    out.begin()
    out.send(records(b"next"))
    with pytest.raises(Unclear):
        out.commit(1.0)  # it waits for the one before
    for marker in broker.under_way():
        broker.arrive(marker)
    assert ([b"after"], {}) == (seen(broker), log.committed([0]))


@pytest.mark.parametrize(("when", "expected"), [("before", []), ("midway", [b"a", b"b"]), ("after", [b"a", b"b"])])
def test_after_a_lost_reply_of_a_commit_settling_tells_what_became_of_it(
    broker: FakeBroker, log: FakeEventLog, when: Any, expected: list[bytes]
) -> None:
    out = Faults({"transactions.commit": Fault(when=when)}).around("transactions", FakeTransactions(broker, TOPICS, "x"))
    with pytest.raises(Unclear):
        whole(out, log)
    out.settle(1.0)
    assert expected == seen(broker)
    assert ({0: AT} if expected else {}) == log.committed([0])
    whole(out, log)
    assert [*expected, b"a", b"b"] == seen(broker)


def test_who_dies_midway_leaves_half_of_its_records_in_an_open_transaction(broker: FakeBroker, log: FakeEventLog) -> None:
    out = Faults({"transactions.send": Fault(Killed, "midway")}).around("transactions", FakeTransactions(broker, TOPICS, "x"))
    with pytest.raises(Killed):
        whole(out, log)
    assert [b"a"] == [record.value for record in broker.topics["changes"][0].records]
    with pytest.raises(Unavailable):
        seen(broker)
    broker.now_ms += TRANSACTION_TIMEOUT_MS
    assert [] == seen(broker)


def test_a_failed_call_leaves_a_transaction_to_be_aborted(broker: FakeBroker, log: FakeEventLog) -> None:
    out = Faults({"transactions.send": Fault(when="after")}).around("transactions", FakeTransactions(broker, TOPICS, "x"))
    with pytest.raises(MustAbort):
        whole(out, log)
    with pytest.raises(MustAbort):
        out.commit(1.0)
    out.abort(1.0)
    whole(out, log)
    assert [b"a", b"b"] == seen(broker)


def test_while_the_broker_is_down_records_wait_and_the_transaction_ends_badly(broker: FakeBroker, log: FakeEventLog) -> None:
    out = FakeTransactions(broker, TOPICS, "x")
    for ends in (lambda: out.commit(1.0), lambda: out.positions({0: AT}, log.membership(), 1.0)):
        out.begin()
        broker.down = True
        out.send(records(b"a"))
        with pytest.raises((Unclear, MustAbort)):
            ends()
        out.abort(1.0)
        with pytest.raises(Unavailable):
            out.begin()
        broker.down = False
        out.settle(1.0)
    assert [] == seen(broker)


def test_a_copy_goes_its_own_way(broker: FakeBroker, log: FakeEventLog) -> None:
    out = FakeTransactions(broker, TOPICS, "x")
    out.begin()
    out.send(records(b"a"))
    out.positions({0: AT}, log.membership(), 1.0)
    copied = copy.deepcopy(broker)
    out.commit(1.0)
    copied.now_ms += TRANSACTION_TIMEOUT_MS
    assert ([b"a"], []) == (seen(broker), seen(copied))
    assert 2 == copied.topics["changes"][0].high
    assert {0: AT} == broker.groups["g"].committed
    assert {} == copied.groups["g"].committed
    assert {} == copied.groups["g"].pending
