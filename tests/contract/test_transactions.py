"""What transactions keep, and what others see of them, over the fake and Kafka, in both of its group protocols where it matters."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import pytest

from streamer.core.ports import ClientFailed, Committed, LogRecord, MustAbort, OutRecord, Topic, Unavailable, Unclear
from tests.contract.kafka_worlds import FakeWorld, RealWorld, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from streamer.core.columns import Headers
    from streamer.core.ports import EventLog, Publisher, TopicReader, Transactions

WAIT_S = 20.0
SHORT_S = 1.0

both_protocols = pytest.mark.parametrize(
    "world", ["fake", *(pytest.param(name, marks=pytest.mark.servers) for name in ("real", "real-consumer-protocol"))], indirect=True
)
"""For what depends on the group."""


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.servers)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "fake":
        made: World = FakeWorld()
    else:
        protocol = {"group.protocol": "consumer"} if request.param.endswith("protocol") else {"heartbeat.interval.ms": "300"}
        made = RealWorld(request.getfixturevalue("kafka_bootstrap"), protocol)
    yield made
    made.close()


class Place:
    """One input topic, its group, and the topics that are written."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.input = world.create(2)
        self.group = f"g{uuid.uuid4().hex}"
        self.topics = {Topic.CHANGES: world.create(2), Topic.JOURNAL: world.create(2)}
        self.name = f"x{uuid.uuid4().hex}"
        self.opened: list[EventLog | Transactions | Publisher] = []

    def log(self, timeout_s: float = WAIT_S) -> EventLog:
        made = self.world.log(self.input, self.group, timeout_s)
        self.opened.append(made)
        return made

    def transactions(self, *, brief: bool = False) -> Transactions:
        made = self.world.transactions(self.topics, self.input, self.name, brief=brief)
        self.opened.append(made)
        return made

    def reader(self) -> TopicReader:
        return self.world.reader(self.topics)

    def seen(self, topic: Topic = Topic.CHANGES, partition: int = 0) -> list[bytes | None]:
        return [record.value for record in self.read(topic, partition)]

    def read(self, topic: Topic = Topic.CHANGES, partition: int = 0, first: int = 0, end: int | None = None) -> list[LogRecord]:
        return self.reader().read(topic, partition, first, WAIT_S, end)

    def committed(self, partitions: tuple[int, ...] = (0, 1)) -> dict[int, Committed]:
        return self.log().committed(partitions)


@pytest.fixture
def place(world: World) -> Iterator[Place]:
    place = Place(world)
    yield place
    for one in place.opened:
        one.close()


def change(value: bytes | None, partition: int = 0, topic: Topic = Topic.CHANGES, headers: Headers = ()) -> OutRecord:
    return OutRecord(topic, partition, b"k", value, headers)


def member(place: Place, partitions: set[int]) -> EventLog:
    """Join the group and fetch until it has exactly these."""
    log = place.log()
    settled(place, {log: partitions})
    return log


def whole(out: Transactions, value: bytes) -> None:
    """Send a record in a transaction of its own."""
    out.begin()
    out.send([change(value)])
    out.commit(WAIT_S)


def arrived(bounds: Callable[[], tuple[int, int]], high: int) -> None:
    """Wait for records that are on their way."""
    for _ in range(1_000):
        if bounds() == (0, high):
            return
        time.sleep(0.01)
    assert (0, high) == bounds()


def followed(held: dict[EventLog, set[int]]) -> None:
    """Let each member fetch, and note what it has."""
    for log, had in held.items():
        log.fetch(10, 0.05, 0.0)
        told = log.rebalanced()
        held[log] = (had - {*told.revoked, *told.lost}) | {*told.assigned}


def settled(place: Place, wanted: Mapping[EventLog, set[int]]) -> None:
    held: dict[EventLog, set[int]] = {log: set() for log in wanted}
    for _ in range(place.world.patience):
        followed(held)
        if held == wanted:
            return
    message = f"assigned {list(held.values())}, not {list(wanted.values())}"
    raise AssertionError(message)


def test_records_and_positions_are_there_once_the_transaction_is_committed(place: Place) -> None:
    log = member(place, {0, 1})
    out = place.transactions()
    out.settle(WAIT_S)
    out.begin()
    headers = (("commit_id", b"c1"), ("none", None))
    out.send([change(b"a", 0, headers=headers), change(None, 1), change(b"j", 1, Topic.JOURNAL)])
    out.send([change(b"%d" % i) for i in range(500)])
    out.positions({0: Committed(7, "commit/ü"), 1: Committed(0, "")}, log.membership(), WAIT_S)
    out.commit(WAIT_S)
    assert [b"a", *(b"%d" % i for i in range(500))] == place.seen()
    assert (headers, b"k") == (place.read()[0].headers, place.read()[0].key)
    assert ([None], [b"j"], []) == (place.seen(partition=1), place.seen(Topic.JOURNAL, 1), place.seen(Topic.JOURNAL, 0))
    assert {0: Committed(7, "commit/ü"), 1: Committed(0, "")} == log.committed([0, 1])


def test_one_transaction_follows_another_and_each_leaves_a_marker_that_takes_an_offset(place: Place) -> None:
    out = place.transactions()
    for i in range(5):
        out.begin()
        out.send([change(b"%d" % i), change(b"%d'" % i)])
        out.commit(WAIT_S)
    found = place.read()
    assert [0, 1, 3, 4, 6, 7, 9, 10, 12, 13] == [record.offset for record in found]
    reader = place.reader()
    assert ((0, 15), (0, 0)) == (reader.bounds(Topic.CHANGES, 0), reader.bounds(Topic.CHANGES, 1))
    assert [b"4'"] == [record.value for record in reader.read(Topic.CHANGES, 0, 13, WAIT_S)]
    assert [] == reader.read(Topic.CHANGES, 0, 14, WAIT_S)  # nothing but a marker
    assert [b"1", b"1'", b"2"] == [record.value for record in reader.read(Topic.CHANGES, 0, 2, WAIT_S, 7)]
    assert [b"4", b"4'"] == [record.value for record in reader.read(Topic.CHANGES, 0, 11, WAIT_S, 1_000)]


def test_what_is_aborted_is_never_seen_and_its_positions_are_not_committed(place: Place) -> None:
    log = member(place, {0, 1})
    out = place.transactions()
    out.begin()
    out.send([change(b"kept")])
    out.positions({0: Committed(1, "c1")}, log.membership(), WAIT_S)
    out.commit(WAIT_S)
    out.begin()
    out.send([change(b"dropped"), change(b"dropped", 1)])
    out.positions({0: Committed(2, "c2"), 1: Committed(2, "c2")}, log.membership(), WAIT_S)
    out.abort(WAIT_S)
    out.begin()
    out.send([change(b"kept too")])
    out.commit(WAIT_S)
    assert ([b"kept", b"kept too"], []) == (place.seen(), place.seen(partition=1))
    assert {0: Committed(1, "c1")} == log.committed([0, 1])


def test_nothing_of_an_open_transaction_is_seen_and_who_must_know_waits(place: Place) -> None:
    log = member(place, {0, 1})
    out = place.transactions()
    out.begin()
    out.send([change(b"before")])
    out.commit(WAIT_S)
    out.begin()
    out.send([change(b"open")])
    out.positions({0: Committed(3, "c")}, log.membership(), WAIT_S)
    reader = place.reader()
    arrived(lambda: reader.bounds(Topic.CHANGES, 0), 3)
    with pytest.raises(Unavailable):
        reader.read(Topic.CHANGES, 0, 0, SHORT_S)
    with pytest.raises(Unavailable):
        reader.read(Topic.CHANGES, 0, 2, SHORT_S, 3)
    assert [b"before"] == [record.value for record in reader.read(Topic.CHANGES, 0, 0, WAIT_S, 2)]
    brief = place.log(SHORT_S)
    with pytest.raises(Unavailable):
        brief.committed([0])
    with pytest.raises(Unavailable):
        brief.committed([1, 0])
    assert {} == brief.committed([1])
    out.commit(WAIT_S)
    assert [b"before", b"open"] == place.seen()
    assert {0: Committed(3, "c")} == brief.committed([0, 1])


def test_an_event_log_gives_neither_open_nor_aborted_records(place: Place) -> None:
    writer = place.world.transactions({Topic.CHANGES: place.input}, place.input, place.name)
    place.opened.append(writer)
    log = member(place, {0, 1})
    for high, value, ends in ((1, b"a", writer.commit), (3, b"aborted", writer.abort), (5, b"b", writer.commit)):
        writer.begin()
        writer.send([change(value)])
        arrived(lambda: log.bounds(0), high)
        ends(WAIT_S)
    writer.begin()
    writer.send([change(b"open")])
    arrived(lambda: log.bounds(0), 7)
    place.world.append(place.input, 0, b"after")
    log.start(0, 0)
    found: list[tuple[int, bytes]] = []

    def take(values: bytes) -> None:
        for _ in range(place.world.patience):
            fetched = log.fetch(1, 0.05, 0.0)
            found.extend((offset, fetched.values) for offset in fetched.offset.tolist())
            if b"".join(value for _, value in found) == values:
                return

    take(b"ab")
    assert b"ab" == b"".join(value for _, value in found)
    for _ in range(5):
        assert 0 == len(log.fetch(10, 0.05, 0.0))
    writer.commit(WAIT_S)
    take(b"abopenafter")
    assert [b"a", b"b", b"open", b"after"] == [value for _, value in found]
    assert [0, 4] == [offset for offset, _ in found[:2]]


@both_protocols
def test_the_broker_refuses_positions_of_a_member_that_has_not_heard_of_a_rebalance(place: Place) -> None:
    first = member(place, {0, 1})
    before = first.membership()
    out = place.transactions()
    out.begin()
    out.positions({0: Committed(1, "c1")}, before, WAIT_S)
    out.commit(WAIT_S)
    second = place.log()
    held = {first: {0, 1}, second: set[int]()}
    for _ in range(place.world.patience):
        followed(held)
        if [1, 1] == [len(some) for some in held.values()]:
            break
    out.begin()
    out.send([change(b"x")])
    with pytest.raises(MustAbort):
        out.positions({0: Committed(2, "c2")}, before, WAIT_S)
    with pytest.raises(MustAbort):
        out.commit(WAIT_S)
    out.abort(WAIT_S)
    assert {0: Committed(1, "c1")} == first.committed([0])
    out.begin()
    out.send([change(b"x")])
    out.positions({0: Committed(2, "c2")}, first.membership(), WAIT_S)
    out.commit(WAIT_S)
    assert [b"x"] == place.seen()
    # The broker does not ask who owns a partition: a member of the current generation commits for the other one.
    [stranger] = held[second]
    out.begin()
    out.positions({stranger: Committed(9, "not mine")}, first.membership(), WAIT_S)
    out.commit(WAIT_S)
    assert Committed(9, "not mine") == first.committed([stranger])[stranger]


@both_protocols
def test_the_broker_refuses_positions_of_one_that_has_left(place: Place) -> None:
    log = member(place, {0, 1})
    gone = log.membership()
    follower = place.log()
    log.close()
    settled(place, {follower: {0, 1}})
    out = place.transactions()
    out.begin()
    with pytest.raises(MustAbort):
        out.positions({0: Committed(2, "c2")}, gone, WAIT_S)
    out.abort(WAIT_S)
    assert {} == follower.committed([0])


def test_positions_of_one_that_has_not_joined_yet_are_refused(place: Place) -> None:
    out = place.transactions()
    out.begin()
    with pytest.raises(MustAbort):
        out.positions({0: Committed(2, "c2")}, place.log().membership(), WAIT_S)
    out.abort(WAIT_S)


def test_a_membership_stays_what_it_was_until_the_next_fetch(place: Place) -> None:
    first = member(place, {0, 1})
    before = first.membership()
    second = place.log()
    for _ in range(10):
        second.fetch(10, 0.1, 0.0)
    assert before is first.membership()


def test_settling_aborts_what_an_earlier_client_left_open_and_fences_it(place: Place) -> None:
    log = member(place, {0, 1})
    earlier, later = place.transactions(), place.transactions()
    earlier.begin()
    earlier.send([change(b"left open")])
    earlier.positions({0: Committed(1, "c1")}, log.membership(), WAIT_S)
    later.settle(WAIT_S)
    later.settle(WAIT_S)  # nothing is left to settle
    later.begin()
    later.send([change(b"later")])
    later.positions({0: Committed(2, "c2")}, log.membership(), WAIT_S)
    with pytest.raises(Unclear):
        earlier.commit(WAIT_S)
    earlier.abort(WAIT_S)  # there is none any more
    later.commit(WAIT_S)
    assert [b"later"] == place.seen()
    assert {0: Committed(2, "c2")} == log.committed([0])


def test_a_fenced_client_learns_it_from_any_call_and_can_go_on_after_settling(place: Place) -> None:
    log = member(place, {0, 1})
    first, second = place.transactions(), place.transactions()
    first.begin()
    first.send([change(b"x")])
    second.settle(WAIT_S)
    with pytest.raises(Unclear):
        first.positions({0: Committed(1, "c1")}, log.membership(), WAIT_S)
    first.settle(WAIT_S)
    whole(first, b"y")
    with pytest.raises((MustAbort, Unclear)):
        whole(second, b"z")
    second.abort(WAIT_S)
    assert [b"y"] == place.seen()


def test_two_clients_that_take_an_id_from_each_other_are_told(place: Place) -> None:
    first, second = place.transactions(), place.transactions()

    first.settle(WAIT_S)
    for _ in range(2):
        second.settle(WAIT_S)
        with pytest.raises((MustAbort, Unclear)):
            whole(first, b"x")
        first.abort(WAIT_S)
        whole(first, b"x")
        with pytest.raises((MustAbort, Unclear)):
            whole(second, b"x")
        second.abort(WAIT_S)
    second.settle(WAIT_S)
    with pytest.raises(ClientFailed, match="another client keeps on taking the transactional id"):
        whole(first, b"x")


def test_the_broker_ends_a_transaction_whose_time_is_over_and_the_client_goes_on(place: Place) -> None:
    log = member(place, {0, 1})
    out, other = place.transactions(brief=True), Place(place.world)
    other.topics, other.input = place.topics, place.input
    second, third = other.transactions(brief=True), Place(place.world)
    third.topics, third.input = place.topics, place.input
    last = third.transactions(brief=True)
    for one in (out, second, last):
        one.begin()
        one.send([change(b"late")])
    out.positions({0: Committed(1, "c1")}, log.membership(), WAIT_S)
    place.world.wait_out()
    assert {} == log.committed([0])
    assert [] == place.seen()
    with pytest.raises(Unclear):
        out.commit(WAIT_S)
    with pytest.raises(Unclear):
        second.positions({0: Committed(1, "c1")}, log.membership(), WAIT_S)
    last.abort(WAIT_S)
    for one in (out, second, last):
        one.settle(WAIT_S)
        whole(one, b"again")
        one.close()
    assert [b"again"] * 3 == place.seen()


def test_an_empty_transaction_and_none_at_all_are_ended_in_peace(place: Place) -> None:
    out = place.transactions()
    out.abort(WAIT_S)
    out.begin()
    out.abort(WAIT_S)
    out.begin()
    out.send([])
    out.commit(WAIT_S)
    out.abort(WAIT_S)
    for step in (lambda: out.send([change(b"x")]), lambda: out.commit(WAIT_S)):
        with pytest.raises(RuntimeError, match="begin one"):
            step()
    out.begin()
    with pytest.raises(RuntimeError, match="commit or abort it"):
        out.begin()
    assert [] == place.seen()


def test_positions_that_were_sent_later_win_whichever_is_committed_later(place: Place) -> None:
    log = member(place, {0, 1})
    other = Place(place.world)
    other.topics, other.input = place.topics, place.input
    first, second = place.transactions(), other.transactions()
    for out, at in ((first, Committed(1, "first")), (second, Committed(2, "second"))):
        out.begin()
        out.positions({0: at}, log.membership(), WAIT_S)
    second.commit(WAIT_S)
    first.commit(WAIT_S)
    second.close()
    assert {0: Committed(2, "second")} == log.committed([0])


@both_protocols
def test_what_is_done_before_partitions_are_revoked_is_done_while_they_are_owned(place: Place) -> None:
    first = member(place, {0, 1})
    out = place.transactions()
    told: list[int] = []

    def hand_over(partitions: Sequence[int]) -> None:
        told.extend(partitions)
        out.begin()
        out.positions({partition: Committed(5, "handed over") for partition in partitions}, first.membership(), WAIT_S)
        out.commit(WAIT_S)
        message = "this is logged"
        raise ValueError(message)

    first.before_revoked(hand_over)
    second = place.log()
    given: tuple[int, ...] = ()
    for _ in range(place.world.patience):
        first.fetch(10, 0.05, 0.0)
        second.fetch(10, 0.05, 0.0)
        given += second.rebalanced().assigned
        if given:
            break
    assert [*given] == told
    assert {*given} == {*first.rebalanced().revoked}
    assert {given[0]: Committed(5, "handed over")} == second.committed(given)
    first.close()
    assert [0, 1] == sorted(told)
    assert {0: Committed(5, "handed over"), 1: Committed(5, "handed over")} == second.committed([0, 1])


def test_a_commit_that_is_waited_for_is_there_when_it_returns(place: Place) -> None:
    log = member(place, {0, 1})
    log.commit({0: Committed(4, "c4"), 1: Committed(5, "")}, wait=True)
    assert {0: Committed(4, "c4"), 1: Committed(5, "")} == place.log().committed([0, 1])
    log.commit({}, wait=True)
