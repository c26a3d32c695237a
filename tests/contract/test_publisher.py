"""What every publisher and every reader of topics keep, over the fakes and Kafka."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from streamer.core.ports import LogRecord, OutRecord, Topic
from tests.contract.kafka_worlds import FakeWorld, RealWorld, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.core.columns import Headers
    from streamer.core.ports import Publisher, TopicReader


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.servers)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    fake = request.param == "fake"
    made: World = FakeWorld() if fake else RealWorld(request.getfixturevalue("kafka_bootstrap"))
    yield made
    made.close()


@pytest.fixture
def topics(world: World) -> dict[Topic, str]:
    return {Topic.CHANGES: world.create(2), Topic.DEAD_LETTERS: world.create(4)}


@pytest.fixture
def publisher(world: World, topics: dict[Topic, str]) -> Iterator[Publisher]:
    publisher = world.publisher(topics)
    yield publisher
    publisher.close()


@pytest.fixture
def reader(world: World, topics: dict[Topic, str]) -> TopicReader:
    return world.reader(topics)


def change(
    value: bytes | None, partition: int | None = 0, key: bytes | None = b"k", headers: Headers = (), topic: Topic = Topic.CHANGES
) -> OutRecord:
    return OutRecord(topic, partition, key, value, headers)


def values(records: list[LogRecord]) -> list[bytes | None]:
    return [record.value for record in records]


def test_what_was_sent_is_read_back_in_order_and_whole(publisher: Publisher, reader: TopicReader) -> None:
    headers = (("ce_id", b"1"), ("ce_id", b"\xff\0"), ("none", None))
    publisher.send([change(b"a", 1, b"\xff", headers), change(None, 1), change(b"", 1, None)])
    publisher.send([change(b"%d" % i, i % 2) for i in range(2_000)])
    publisher.wait(20.0)
    found = reader.read(Topic.CHANGES, 1, 0, 20.0)
    assert [b"a", None, b"", *(b"%d" % i for i in range(1, 2_000, 2))] == values(found)
    assert [b"\xff", b"k", None] == [record.key for record in found[:3]]
    assert [headers, (), ()] == [record.headers for record in found[:3]]
    assert list(range(len(found))) == [record.offset for record in found]
    assert all(record.timestamp > 0 for record in found)
    assert [b"%d" % i for i in range(0, 2_000, 2)] == values(reader.read(Topic.CHANGES, 0, 0, 20.0))


def test_reading_starts_at_the_offset_asked_for(publisher: Publisher, reader: TopicReader) -> None:
    publisher.send([change(b"%d" % i) for i in range(100)])
    publisher.wait(20.0)
    assert [b"97", b"98", b"99"] == values(reader.read(Topic.CHANGES, 0, 97, 20.0))
    assert [b"%d" % i for i in range(40, 100)] == values(reader.read(Topic.CHANGES, 0, 40, 20.0))
    assert [] == reader.read(Topic.CHANGES, 0, 100, 20.0)
    assert [] == reader.read(Topic.CHANGES, 0, 1_000, 20.0)
    assert [] == reader.read(Topic.CHANGES, 1, 0, 20.0)
    publisher.send([change(b"later")])
    publisher.wait(20.0)
    assert [b"later"] == values(reader.read(Topic.CHANGES, 0, 100, 20.0))


def test_without_a_partition_the_key_decides(publisher: Publisher, reader: TopicReader) -> None:
    publisher.send([change(b"%d" % i, None, b"key%d" % (i % 10), (), Topic.DEAD_LETTERS) for i in range(100)])
    publisher.wait(20.0)
    found = [reader.read(Topic.DEAD_LETTERS, partition, 0, 20.0) for partition in range(4)]
    assert 100 == sum(map(len, found))
    assert 10 == sum(len({record.key for record in some}) for some in found)  # each key in one partition only


def test_waiting_for_nothing_returns(publisher: Publisher) -> None:
    publisher.wait(0.1)
    publisher.send([])
    publisher.wait(0.1)
