"""What every event log keeps, over the fake and Kafka in both of its group protocols."""

from __future__ import annotations

import itertools
import random
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from streamer.core.ports import Committed, OffsetOutOfRange, OutRecord, Rebalanced, Topic, Unavailable
from tests.contract.kafka_worlds import FakeWorld, RealWorld, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamer.core.columns import Fetched
    from streamer.core.ports import EventLog

Row = tuple[int, int, bytes]
RECORDS = [b"%d" % i for i in range(500)]
HOURS_S = 7_200.0


both_protocols = pytest.mark.parametrize(
    "world", ["fake", *(pytest.param(name, marks=pytest.mark.servers) for name in ("real", "real-consumer-protocol"))], indirect=True
)
"""For what depends on how the group shares partitions out."""


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.servers)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "fake":
        made: World = FakeWorld()
    else:
        protocol = {"group.protocol": "consumer"} if request.param.endswith("protocol") else {"heartbeat.interval.ms": "300"}
        made = RealWorld(request.getfixturevalue("kafka_bootstrap"), protocol)
    yield made
    made.close()


@pytest.fixture
def logs(world: World) -> Iterator[Callable[[str, str], EventLog]]:
    """Open logs that are closed at the end."""
    opened: list[EventLog] = []

    def open_log(topic: str, group: str) -> EventLog:
        opened.append(world.log(topic, group))
        return opened[-1]

    yield open_log
    for log in opened:
        log.close()


def group() -> str:
    return f"g{uuid.uuid4().hex}"


def rows(fetched: Fetched) -> list[Row]:
    bounds = fetched.bounds.tolist()
    values = [fetched.values[begin:end] for begin, end in itertools.pairwise(bounds)]
    return list(zip(fetched.partition.tolist(), fetched.offset.tolist(), values, strict=True))


def fetch_until(world: World, log: EventLog, enough: Callable[[list[Row]], bool], records_max: int = 1_000) -> list[Row]:
    found: list[Row] = []
    for _ in range(world.patience):
        found += rows(log.fetch(records_max, 0.1, 0.0))
        if enough(found):
            return found
    message = f"not enough after {world.patience} fetches: {found[-3:]}"
    raise AssertionError(message)


def fetch_into(found: list[Row], world: World, log: EventLog) -> None:
    """Fetch until it raises."""
    for _ in range(world.patience):
        found += rows(log.fetch(100, 0.1, 0.0))


def assigned(world: World, log: EventLog, partitions: set[int]) -> None:
    """Fetch until the log has exactly these, from nothing."""
    held: set[int] = set()
    for _ in range(world.patience):
        assert [] == rows(log.fetch(100, 0.1, 0.0))
        told = log.rebalanced()
        held = (held - {*told.revoked, *told.lost}) | {*told.assigned}
        if held == partitions:
            return
    message = f"assigned {held}, not {partitions}"
    raise AssertionError(message)


def test_assignment_is_told_once_and_nothing_is_delivered_before_start(world: World, logs: Callable[..., EventLog]) -> None:
    topic = world.create(3)
    world.append(topic, 1, *RECORDS)
    log = logs(topic, group())
    assigned(world, log, {0, 1, 2})
    for _ in range(5):
        assert [] == rows(log.fetch(100, 0.1, 0.0))
    assert Rebalanced((), (), ()) == log.rebalanced()


@both_protocols
def test_the_first_record_is_the_one_started_at_and_the_rest_follow_in_order(world: World, logs: Callable[..., EventLog]) -> None:
    topic = world.create(2)
    world.append(topic, 0, *RECORDS)
    world.append(topic, 1, *RECORDS)
    log = logs(topic, group())
    assigned(world, log, {0, 1})
    log.start(1, 300)
    found = fetch_until(world, log, lambda found: len(found) == 200)
    assert [(1, offset, RECORDS[offset]) for offset in range(300, 500)] == found
    log.start(0, 0)
    found = fetch_until(world, log, lambda found: len(found) == 500, records_max=99)
    assert [(0, offset, RECORDS[offset]) for offset in range(500)] == found


@both_protocols
def test_starting_anew_is_exact_whatever_was_prefetched(world: World, logs: Callable[..., EventLog]) -> None:
    topic = world.create(2)
    world.append(topic, 0, *RECORDS)
    world.append(topic, 1, *RECORDS)
    log = logs(topic, group())
    assigned(world, log, {0, 1})
    log.start(1, 0)
    rng = random.Random(1)
    for _ in range(25):
        offset = rng.randrange(500)
        if rng.random() < 0.3:
            log.pause([0])
        log.start(0, offset)
        if rng.random() < 0.2:
            log.start(0, offset := rng.randrange(500))
        if rng.random() < 0.2:
            log.start(1, 0)
        found = fetch_until(world, log, lambda found: any(partition == 0 for partition, _, _ in found), records_max=rng.choice([1, 7, 50]))
        mine = [at for partition, at, _ in found if partition == 0]
        assert list(range(offset, offset + len(mine))) == mine


def test_a_paused_partition_is_silent_until_it_is_started(world: World, logs: Callable[..., EventLog]) -> None:
    topic = world.create(2)
    world.append(topic, 0, *RECORDS)
    world.append(topic, 1, *RECORDS)
    log = logs(topic, group())
    assigned(world, log, {0, 1})
    log.start(0, 0)
    log.start(1, 0)
    fetch_until(world, log, lambda found: {0, 1} == {partition for partition, _, _ in found}, records_max=7)
    log.pause([0])
    world.append(topic, 1, b"last")
    found = fetch_until(world, log, lambda found: (1, 500, b"last") in found)
    assert {1} == {partition for partition, _, _ in found}
    log.start(0, 499)
    assert [(0, 499, b"499")] == fetch_until(world, log, lambda found: len(found) >= 1)


def test_columns_tell_null_from_empty_and_carry_keys_headers_and_timestamps(world: World, logs: Callable[..., EventLog]) -> None:
    topic = world.create(1)
    world.append(topic, 0, b"a", b"", key=b"k", timestamp=1_234)
    world.append(topic, 0, None, b"\0z", headers=(("h", b"\xff"), ("h", None), ("", b"")), timestamp=5)
    log = logs(topic, group())
    assigned(world, log, {0})
    log.start(0, 0)
    fetched = log.fetch(4, 10.0, 1.0)
    while len(fetched) < 4:
        log.start(0, 0)
        fetched = log.fetch(4, 10.0, 1.0)
    assert b"a\0z" == fetched.values
    assert [0, 1, 1, 1, 3] == fetched.bounds.tolist()
    assert [False, False, True, False] == fetched.empty.tolist()
    assert (b"k", b"k", None, None) == fetched.keys
    headers = (("h", b"\xff"), ("h", None), ("", b""))
    assert {2: headers, 3: headers} == fetched.headers
    assert [1_234, 1_234, 5, 5] == fetched.timestamp.tolist()
    assert ["int32", "int64", "int64", "int64", "bool"] == [
        str(column.dtype) for column in (fetched.partition, fetched.offset, fetched.timestamp, fetched.bounds, fetched.empty)
    ]


def test_an_empty_fetch_has_the_same_columns(world: World, logs: Callable[..., EventLog]) -> None:
    fetched = logs(world.create(1), group()).fetch(10, 0.0, 0.0)
    assert (0, [0], b"", (), {}) == (len(fetched), fetched.bounds.tolist(), fetched.values, fetched.keys, fetched.headers)


def test_a_fetch_gives_no_more_than_asked(world: World, logs: Callable[..., EventLog]) -> None:
    topic = world.create(1)
    world.append(topic, 0, *RECORDS)
    log = logs(topic, group())
    assigned(world, log, {0})
    log.start(0, 0)
    for _ in range(10):
        assert len(log.fetch(3, 1.0, 0.2)) <= 3
    assert 1 == len(log.fetch(1, 1.0, 0.2))


def test_what_is_there_is_given_at_once(world: World, logs: Callable[..., EventLog]) -> None:
    """It came while the last batch was worked on: to gather more would make it wait again, which took a third of all latency."""
    topic = world.create(1)
    world.append(topic, 0, *RECORDS)
    log = logs(topic, group())
    assigned(world, log, {0})
    log.start(0, 0)
    fetch_until(world, log, lambda found: len(found) >= 1, records_max=1)
    began = time.monotonic()
    fetched = log.fetch(len(RECORDS), 0.0, HOURS_S)
    while not len(fetched):  # not fetched ahead yet
        fetched = log.fetch(len(RECORDS), 0.0, HOURS_S)
    assert len(fetched) < len(RECORDS)
    assert time.monotonic() - began < HOURS_S


@both_protocols
def test_committed_positions_come_back_with_their_commit_ids(world: World, logs: Callable[..., EventLog]) -> None:
    topic = world.create(3)
    world.append(topic, 2, *RECORDS)
    name = group()
    log = logs(topic, name)
    assigned(world, log, {0, 1, 2})
    assert {} == log.committed([0, 1, 2])
    log.commit({0: Committed(0, "commit-1"), 2: Committed(7, "")})
    log.commit({2: Committed(9, "commit/ü")})
    assert {0: Committed(0, "commit-1"), 2: Committed(9, "commit/ü")} == log.committed([0, 1, 2])
    log.commit({1: Committed(2**40, "last")})
    log.commit({})
    log.close()
    follower = logs(topic, name)
    follower.fetch(1, 0.0, 0.0)
    assert {1: Committed(2**40, "last"), 2: Committed(9, "commit/ü")} == follower.committed([1, 2])


def test_bounds_are_the_first_offset_and_the_end(world: World, logs: Callable[..., EventLog]) -> None:
    topic = world.create(2)
    world.append(topic, 1, b"a", b"b")
    log = logs(topic, group())
    assert [(0, 0), (0, 2)] == [log.bounds(0), log.bounds(1)]


def test_the_end_comes_with_the_records_of_a_partition(world: World, logs: Callable[..., EventLog]) -> None:
    topic = world.create(1)
    world.append(topic, 0, b"a", b"b", b"c")
    log = logs(topic, group())
    assigned(world, log, {0})
    assert log.end(0) in {None, 3}
    log.start(0, 0)
    assert 3 == len(fetch_until(world, log, lambda found: len(found) == 3, records_max=2))
    assert 3 == log.end(0)


def test_marks_of_transactions_are_nothing_that_is_left(world: World, logs: Callable[..., EventLog]) -> None:
    topic = world.create(1)
    writes = world.transactions({Topic.EVENTS: topic}, topic, uuid.uuid4().hex)
    writes.settle(20.0)
    log = logs(topic, group())
    assigned(world, log, {0})
    log.start(0, 0)
    for n in (1, 2):
        writes.begin()
        writes.send([OutRecord(Topic.EVENTS, 0, b"k", b"a", ())] * 2)
        writes.commit(20.0)
        last = fetch_until(world, log, lambda found: len(found) == 2)[-1][1]
        assert 3 * n - 2 == last
        for _ in range(world.patience):
            if log.end(0) == last + 1:
                break
            assert [] == rows(log.fetch(10, 0.1, 0.0))
        assert last + 1 == log.end(0)
        assert last + 2 == log.bounds(0)[1]
    writes.close()


@both_protocols
def test_a_partition_goes_to_a_new_member_once_and_comes_back_when_it_leaves(world: World, logs: Callable[..., EventLog]) -> None:
    topic = world.create(4)
    for partition in range(4):
        world.append(topic, partition, *RECORDS)
    name = group()
    first = logs(topic, name)
    assigned(world, first, {0, 1, 2, 3})
    for partition in range(4):
        first.start(partition, 0)
    second = logs(topic, name)
    revoked: set[int] = set()
    given: set[int] = set()
    for _ in range(world.patience):
        found = rows(first.fetch(10, 0.05, 0.0))
        told = first.rebalanced()
        revoked |= {*told.revoked}
        assert ((), ()) == (told.assigned, told.lost)
        assert not revoked & {partition for partition, _, _ in found}
        assert [] == rows(second.fetch(10, 0.05, 0.0))
        given |= {*second.rebalanced().assigned}
        assert given <= revoked  # never two owners
        if len(given) == 2:
            break
    assert given == revoked
    with pytest.raises(Unavailable):
        first.start(min(given), 0)
    second.start(min(given), 490)
    found = fetch_until(world, second, lambda found: len(found) >= 10)
    assert [(min(given), offset, RECORDS[offset]) for offset in range(490, 500)] == found
    second.close()
    if world.slow_to_rebalance:
        return
    back: set[int] = set()
    for _ in range(world.patience):
        assert not given & {partition for partition, _, _ in rows(first.fetch(1_000, 0.05, 0.0))}
        back |= {*first.rebalanced().assigned}
        if back == given:
            break
    assert given == back
    first.start(max(given), 499)
    assert (max(given), 499, b"499") in fetch_until(world, first, lambda found: (max(given), 499, b"499") in found)


@both_protocols
def test_an_offset_that_the_log_does_not_hold_is_told_and_stops_that_partition_only(world: World, logs: Callable[..., EventLog]) -> None:
    topic = world.create(2)
    world.append(topic, 0, *RECORDS)
    world.append(topic, 1, *RECORDS)
    log = logs(topic, group())
    assigned(world, log, {0, 1})
    log.start(0, 501)
    log.start(1, 0)
    found: list[Row] = []
    with pytest.raises(OffsetOutOfRange, match="501") as raised:
        fetch_into(found, world, log)
    assert (0, 501) == (raised.value.partition, raised.value.offset)
    found += fetch_until(world, log, lambda more: len(found) + len(more) == 500)
    assert [(1, offset, RECORDS[offset]) for offset in range(500)] == found
    log.start(0, 498)
    assert [(0, 498, b"498"), (0, 499, b"499")] == fetch_until(world, log, lambda found: len(found) == 2)


def test_starting_at_the_end_waits_for_what_comes(world: World, logs: Callable[..., EventLog]) -> None:
    topic = world.create(1)
    world.append(topic, 0, *RECORDS)
    log = logs(topic, group())
    assigned(world, log, {0})
    log.start(0, 500)
    assert [] == rows(log.fetch(10, 0.3, 0.0))
    world.append(topic, 0, b"new")
    assert [(0, 500, b"new")] == fetch_until(world, log, lambda found: len(found) >= 1)
