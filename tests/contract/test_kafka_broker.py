"""What only a real broker can show: transactions, limits, wrong settings, a broker that is not there."""

from __future__ import annotations

import socket
import time
import uuid
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from streamer.adapters.kafka import (
    EventsProducer,
    KafkaAdmin,
    KafkaEventLog,
    KafkaPublisher,
    KafkaSettings,
    KafkaTopicReader,
    KafkaTransactions,
    topic_plans,
)
from streamer.adapters.kafka.admin import TopicPlan
from streamer.adapters.kafka.events_producer import EventRecord
from streamer.core.errors import Misconfigured, Unavailable
from streamer.core.ports import Committed, MustAbort, OutRecord, Topic, Unclear
from tests.contract.kafka_worlds import RealWorld

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streamer.adapters.servers import EmbeddedKafka


@pytest.fixture
def world(kafka_bootstrap: str) -> RealWorld:
    return RealWorld(kafka_bootstrap)


@pytest.fixture
def transactional(kafka_bootstrap: str) -> Producer:
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "transactional.id": uuid.uuid4().hex, "linger.ms": 0})
    producer.init_transactions(20)
    return producer


@pytest.fixture
def nowhere() -> Iterator[KafkaSettings]:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield KafkaSettings(f"127.0.0.1:{closed.getsockname()[1]}", timeout_s=0.5)


@contextmanager
def frozen(server: EmbeddedKafka) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


def test_reading_waits_for_an_open_transaction_and_leaves_out_an_aborted_one(world: RealWorld, transactional: Producer) -> None:
    topic = world.create(1)
    reader = world.reader({Topic.JOURNAL: topic})
    for value, ends in ((b"a", transactional.commit_transaction), (b"aborted", transactional.abort_transaction)):
        transactional.begin_transaction()
        transactional.produce(topic, value, partition=0)
        transactional.flush(20)
        ends()
    assert [b"a"] == [record.value for record in reader.read(Topic.JOURNAL, 0, 0, 20.0)]
    assert [] == reader.read(Topic.JOURNAL, 0, 1, 20.0)  # nothing but markers and what was aborted
    transactional.begin_transaction()
    transactional.produce(topic, b"open", partition=0)
    transactional.flush(20)
    with pytest.raises(Unavailable, match="could not be read"):
        reader.read(Topic.JOURNAL, 0, 0, 0.5)
    transactional.commit_transaction()
    assert [b"a", b"open"] == [record.value for record in reader.read(Topic.JOURNAL, 0, 0, 20.0)]


def test_committed_positions_wait_for_an_open_transaction(kafka_bootstrap: str, world: RealWorld, transactional: Producer) -> None:
    topic = world.create(1)
    name = uuid.uuid4().hex
    member = Consumer({"bootstrap.servers": kafka_bootstrap, "group.id": name})
    member.subscribe([topic])
    while not member.assignment():
        member.poll(0.1)
    transactional.begin_transaction()
    transactional.produce(topic, b"x", partition=0)
    offsets = [TopicPartition(topic, 0, 5, metadata="pending")]
    transactional.send_offsets_to_transaction(offsets, member.consumer_group_metadata(), 20)
    short = KafkaEventLog(KafkaSettings(kafka_bootstrap, timeout_s=1.0), topic, name)
    with pytest.raises(Unavailable):
        short.committed([0])
    assert (0, 1) == short.bounds(0)  # the high watermark, not the last stable offset
    transactional.commit_transaction()
    assert {0: Committed(5, "pending")} == short.committed([0])
    short.close()
    member.close()


def test_a_record_that_is_too_large_is_told_and_the_next_ones_go_out(world: RealWorld) -> None:
    topics = {Topic.CHANGES: world.create(1)}
    publisher = KafkaPublisher(world.plain, topics)
    with pytest.raises(Misconfigured, match=r"max\.message\.bytes"):
        publisher.send([OutRecord(Topic.CHANGES, 0, b"k", b"x" * 2_000_000, ())])
    publisher.send([OutRecord(Topic.CHANGES, 0, b"k", b"fits", ())])
    publisher.wait(20.0)
    assert [b"fits"] == [record.value for record in world.reader(topics).read(Topic.CHANGES, 0, 0, 20.0)]


def test_a_failed_delivery_is_raised_by_waiting_once(world: RealWorld) -> None:
    publisher = KafkaPublisher(world.plain, {Topic.CHANGES: world.create(1)})
    publisher.send([OutRecord(Topic.CHANGES, 7, b"k", b"no such partition", ())])
    with pytest.raises(Unavailable, match="artition"):
        publisher.wait(20.0)
    publisher.wait(20.0)


def test_a_broker_that_is_not_there_is_unavailable_and_nothing_stays_queued(nowhere: KafkaSettings) -> None:
    topics = {Topic.CHANGES: "t"}
    publisher = KafkaPublisher(nowhere, topics)
    publisher.send([OutRecord(Topic.CHANGES, 0, b"k", b"v", ())])
    with pytest.raises(Unavailable):
        publisher.wait(0.3)
    publisher.wait(0.3)
    publisher.close()
    with pytest.raises(Unavailable):
        KafkaTopicReader(nowhere, topics).read(Topic.CHANGES, 0, 0, 0.3)
    with pytest.raises(Unavailable):
        KafkaAdmin(nowhere).partitions("t")
    log = KafkaEventLog(nowhere, "t", "g")
    with pytest.raises(Unavailable):
        _ = [log.fetch(1, 0.1, 0.0) for _ in range(50)]
    for asks in (lambda: log.committed([0]), lambda: log.bounds(0), lambda: log.start(0, 0)):
        with pytest.raises(Unavailable):
            asks()
    log.close()


def test_a_full_queue_waits_within_its_bound(nowhere: KafkaSettings) -> None:
    full = KafkaSettings(nowhere.bootstrap, {"queue.buffering.max.messages": 10}, timeout_s=0.3)
    publisher = KafkaPublisher(full, {Topic.CHANGES: "t"})
    with pytest.raises(Unavailable, match="queue is full"):
        publisher.send([OutRecord(Topic.CHANGES, 0, b"k", b"v", ())] * 11)
    publisher.wait(0.1)
    publisher.close()


@pytest.mark.parametrize(
    ("properties", "named"),
    [
        ({"enable.auto.commit": "true"}, "enable.auto.commit"),
        ({"auto.commit.enable": "true"}, "enable.auto.commit"),
        ({"isolation.level": "read_uncommitted"}, "isolation.level"),
        ({"auto.offset.reset": "latest"}, "auto.offset.reset"),
        ({"partition.assignment.strategy": "range"}, "partition.assignment.strategy"),
        ({"group.protocol": "consumer", "partition.assignment.strategy": "range"}, "partition.assignment.strategy"),
        ({"group.id": "other"}, "group.id"),
        ({"bootstrap.servers": "other:9092"}, "bootstrap.servers"),
        ({"no.such.property": "1"}, "no.such.property"),
        ({"fetch.max.bytes": "many"}, "fetch.max.bytes"),
    ],
)
def test_properties_that_contradict_a_guarantee_or_are_unknown_are_refused(properties: dict[str, str], named: str) -> None:
    with pytest.raises(Misconfigured, match=named):
        KafkaEventLog(KafkaSettings("127.0.0.1:1", properties), "t", "g")


@pytest.mark.parametrize("properties", [{"acks": 1}, {"request.required.acks": 1}, {"enable.idempotence": False}])
def test_a_publisher_stays_idempotent(properties: dict[str, object]) -> None:
    with pytest.raises(Misconfigured, match="guarantees rest on"):
        KafkaPublisher(KafkaSettings("127.0.0.1:1", properties), {})  # type: ignore[arg-type]


def test_any_other_property_can_be_set(world: RealWorld) -> None:
    properties: dict[str, str | int] = {
        "fetch.max.bytes": 2_000_000,
        "client.rack": "r",
        "session.timeout.ms": "7000",
        "enable.auto.commit": "False",
    }
    log = KafkaEventLog(KafkaSettings(world.plain.bootstrap, properties), world.create(1), uuid.uuid4().hex, instance_id="one")
    log.fetch(1, 0.1, 0.0)
    log.close()


@pytest.mark.parametrize(
    ("properties", "named"),
    [
        ({"transactional.id": "other"}, "transactional.id"),
        ({"transaction.timeout.ms": 60_000}, "transaction.timeout.ms"),
        ({"enable.idempotence": False}, "enable.idempotence"),
        ({"acks": 1}, "acks"),
        ({"socket.timeout.ms": 60_000}, "socket.timeout.ms"),
    ],
)
def test_transactions_keep_what_guarantees_rest_on(properties: dict[str, str | int], named: str) -> None:
    with pytest.raises(Misconfigured, match=named):
        KafkaTransactions(KafkaSettings("127.0.0.1:1", properties), {}, "t", "x")


def test_a_record_that_the_client_refuses_ends_its_transaction(world: RealWorld) -> None:
    topics = {Topic.CHANGES: world.create(1)}
    out = KafkaTransactions(world.plain, topics, "t", uuid.uuid4().hex)

    def whole(records: list[OutRecord]) -> None:
        out.begin()
        out.send(records)
        out.commit(20.0)

    refused = [(MustAbort, 7, b"no such partition"), (Misconfigured, 0, b"x" * 2_000_000)]
    for error, partition, value in refused:
        with pytest.raises(error):
            whole([OutRecord(Topic.CHANGES, 0, b"k", b"before", ()), OutRecord(Topic.CHANGES, partition, b"k", value, ())])
        out.abort(20.0)
    whole([OutRecord(Topic.CHANGES, 0, b"k", b"fits", ())])
    assert [b"fits"] == [record.value for record in world.reader(topics).read(Topic.CHANGES, 0, 0, 20.0)]
    out.close()


def test_transactions_with_a_broker_that_is_not_there_are_unavailable(nowhere: KafkaSettings) -> None:
    out = KafkaTransactions(nowhere, {Topic.CHANGES: "t"}, "t", "x")
    with pytest.raises(Unavailable):
        out.settle(0.3)
    with pytest.raises(Unavailable):
        out.begin()
    out.abort(0.3)
    out.close()


def test_a_broker_that_hangs_leaves_nothing_to_guess(own_kafka: EmbeddedKafka) -> None:
    settings = KafkaSettings(own_kafka.address, timeout_s=20.0)
    world = RealWorld(own_kafka.address)
    topics = {Topic.CHANGES: world.create(1)}
    source = world.create(1)
    log = KafkaEventLog(replace(settings, timeout_s=2.0), source, "g")
    while not log.rebalanced().assigned:
        log.fetch(1, 0.1, 0.0)
    out = KafkaTransactions(settings, topics, source, "x")

    def stage(value: bytes) -> None:
        out.begin()
        out.send([OutRecord(Topic.CHANGES, 0, b"k", value, ())])

    stage(b"a")
    out.commit(20.0)
    stage(b"b")
    out.positions({0: Committed(1, "b")}, log.membership(), 20.0)
    with frozen(own_kafka):
        began = time.monotonic()
        with pytest.raises((Unclear, MustAbort)):
            out.commit(1.0)
        out.abort(1.0)
        assert time.monotonic() - began < 4.0
    out.settle(20.0)
    reader = KafkaTopicReader(settings, topics)
    told = [record.value for record in reader.read(Topic.CHANGES, 0, 0, 20.0)]
    assert told in ([b"a"], [b"a", b"b"])
    stage(b"c")
    with frozen(own_kafka):
        began = time.monotonic()
        with pytest.raises(MustAbort):
            out.positions({0: Committed(2, "c")}, log.membership(), 1.0)
        out.abort(1.0)
        with pytest.raises(Unavailable):
            log.commit({0: Committed(2, "c")}, wait=True)
        assert time.monotonic() - began < 20.0
    log.commit({0: Committed(3, "d")}, wait=True)
    assert {0: Committed(3, "d")} == log.committed([0])
    stage(b"d")
    out.commit(20.0)
    assert [*told, b"d"] == [record.value for record in reader.read(Topic.CHANGES, 0, 0, 20.0)]
    out.close()
    reader.close()
    log.close()


def test_a_broker_that_goes_away_while_positions_are_sent_keeps_nobody_waiting(own_kafka: EmbeddedKafka) -> None:
    """The client may never return from it, not even when the broker is back: found by chaos, as a worker that stood still for ever."""
    settings = KafkaSettings(own_kafka.address, timeout_s=20.0)
    world = RealWorld(own_kafka.address)
    topics = {Topic.CHANGES: world.create(1)}
    source = world.create(1)
    log = KafkaEventLog(replace(settings, timeout_s=2.0), source, "g")
    while not log.rebalanced().assigned:
        log.fetch(1, 0.1, 0.0)
    out = KafkaTransactions(settings, topics, source, "x")

    def stage(value: bytes) -> None:
        out.begin()
        out.send([OutRecord(Topic.CHANGES, 0, b"k", value, ())])

    stage(b"a")
    out.positions({0: Committed(1, "a")}, log.membership(), 20.0)
    out.commit(20.0)
    stage(b"b")
    own_kafka.kill()
    began = time.monotonic()
    with pytest.raises((MustAbort, Unclear)):
        out.positions({0: Committed(2, "b")}, log.membership(), 7.0)
    out.abort(1.0)
    assert time.monotonic() - began < 9.0
    own_kafka.start()
    out.settle(20.0)
    stage(b"c")
    out.commit(20.0)
    assert [b"a", b"c"] == [record.value for record in KafkaTopicReader(settings, topics).read(Topic.CHANGES, 0, 0, 20.0)]
    assert {0: Committed(1, "a")} == KafkaEventLog(settings, source, "g").committed([0])
    out.close()
    log.close()


def test_positions_are_committed_while_partitions_are_being_given_up(world: RealWorld) -> None:
    """In the callback itself: the client's own waiting call, made in another thread, returned only after it (found as repetitions)."""
    source = world.create(2)
    settings = replace(world.plain, properties={"heartbeat.interval.ms": 500}, timeout_s=5.0)
    log = KafkaEventLog(settings, source, source)
    while not log.rebalanced().assigned:
        log.fetch(1, 0.1, 0.0)
    told: list[object] = []

    def hand_over(partitions: Sequence[int]) -> None:
        positions = {partition: Committed(3, f"c{partition}") for partition in partitions}
        began = time.monotonic()
        log.commit(positions, wait=True)
        told.append((log.committed(partitions) == positions, time.monotonic() - began < 2.0))

    log.before_revoked(hand_over)
    other = KafkaEventLog(settings, source, source)
    deadline = time.monotonic() + 20.0
    taken: tuple[int, ...] = ()
    while not (told and taken) and time.monotonic() < deadline:  # to the end of the rebalance: who closes in it waits for its session's
        log.fetch(1, 0.1, 0.0)
        other.fetch(1, 0.1, 0.0)
        taken += other.rebalanced().assigned
    assert (1, [(True, True)]) == (len(taken), told)
    other.close()
    log.close()
    assert [(True, True)] * 2 == told  # what was left is given up in closing


def test_topics_that_are_missing_are_made_and_those_there_are_left_alone(world: RealWorld) -> None:
    admin = KafkaAdmin(world.plain)
    prefix = uuid.uuid4().hex
    names: dict[Topic, str] = {topic: f"{prefix}.{topic.value}" for topic in Topic if topic is not Topic.EVENTS}
    plans = topic_plans(names, 3, config={Topic.JOURNAL: {"retention.bytes": "1000000000"}})
    assert sorted(names.values()) == sorted(admin.ensure(plans))
    assert [] == admin.ensure(plans)
    assert [3, 3, 1, 1, None] == [
        admin.partitions(name)
        for name in (names[Topic.CHANGES], names[Topic.JOURNAL], names[Topic.MODELS], names[Topic.DEAD_LETTERS], prefix)
    ]
    with pytest.raises(Misconfigured, match=f"{names[Topic.CHANGES]} has 3 partitions and needs 4.*{names[Topic.JOURNAL]} has 3"):
        admin.ensure(topic_plans(names, 4))
    with pytest.raises(Misconfigured, match="name the topic differently"):
        admin.ensure([TopicPlan("no/such/name", 1)])


def test_events_go_where_java_clients_would_put_them(world: RealWorld) -> None:
    topic = world.create(5)
    producer = EventsProducer(world.plain, topic)
    told: list[int] = []
    murmur2 = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}  # as Java computes it
    keys = {key: (number & 0x7FFF_FFFF) % 5 for key, number in murmur2.items()}
    events = [EventRecord(key, b"%d" % i, (("h", b"v"),), 1_000 + i) for i in range(600) for key in keys]
    assert 2_400 == producer.send(iter(events), told.append)
    producer.wait(20.0)
    producer.close()
    assert [1_000, 1_000, 400] == told
    reader = KafkaTopicReader(world.plain, {Topic.CHANGES: topic})
    found = {partition: reader.read(Topic.CHANGES, partition, 0, 20.0) for partition in range(5)}
    assert keys == {record.key: partition for partition, records in found.items() for record in records}
    assert [(1_000 + i, b"%d" % i, (("h", b"v"),)) for i in range(600)] == [
        (record.timestamp, record.value, record.headers) for record in found[1] if record.key == b"foobar"
    ]
    reader.close()


def test_a_member_that_was_expelled_is_told_what_it_lost(world: RealWorld) -> None:
    topic = world.create(2)
    world.append(topic, 0, b"a")
    properties = {"session.timeout.ms": 6_000, "max.poll.interval.ms": 6_000, "heartbeat.interval.ms": 300}
    log = KafkaEventLog(KafkaSettings(world.plain.bootstrap, properties), topic, uuid.uuid4().hex)
    deadline = time.monotonic() + 20
    while not (first := log.rebalanced()).assigned and time.monotonic() < deadline:
        log.fetch(1, 0.1, 0.0)
    log.start(0, 0)
    time.sleep(8.0)
    lost: set[int] = set()
    again: set[int] = set()
    while not again and time.monotonic() < deadline:
        assert 0 == len(log.fetch(10, 0.1, 0.0))
        told = log.rebalanced()
        lost |= {*told.lost}
        again |= {*told.assigned}
    assert {*first.assigned} == lost == again == {0, 1}
    log.close()
