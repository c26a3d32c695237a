"""What the suites of the Kafka ports run over: a fake broker, or a real one, behind the same few verbs."""

from __future__ import annotations

import itertools
import uuid
from typing import TYPE_CHECKING, Protocol

from confluent_kafka import Producer

from streamer.adapters.kafka import KafkaAdmin, KafkaEventLog, KafkaPublisher, KafkaSettings, KafkaTopicReader, TopicPlan
from streamer.core.ports import Topic
from tests.fakes.broker import FakeBroker, FakeEventLog, FakePublisher, FakeTopicReader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamer.core.columns import Headers
    from streamer.core.ports import EventLog, Publisher, TopicReader

WAIT_S = 20.0
TOPICS = [*Topic]


class World(Protocol):
    """A broker to test against; every topic is the test's own."""

    patience: int
    slow_to_rebalance: bool

    def create(self, partitions: int) -> str: ...

    def append(
        self, topic: str, partition: int, *values: bytes | None, key: bytes | None = None, headers: Headers = (), timestamp: int = 0
    ) -> None: ...

    def log(self, topic: str, group: str) -> EventLog: ...

    def publisher(self, topics: Mapping[Topic, str]) -> Publisher: ...

    def reader(self, topics: Mapping[Topic, str]) -> TopicReader: ...

    def close(self) -> None: ...


class FakeWorld:
    patience = 1_000
    slow_to_rebalance = False

    def __init__(self) -> None:
        self.broker = FakeBroker(now_ms=1_700_000_000_000)
        self._names = itertools.count()

    def create(self, partitions: int) -> str:
        name = f"t{next(self._names)}"
        self.broker.create(name, partitions)
        return name

    def append(
        self,
        topic: str,
        partition: int,
        *values: bytes | None,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp: int = 0,
    ) -> None:
        for value in values:
            self.broker.append(topic, partition, key, value, headers, timestamp or None)

    def log(self, topic: str, group: str) -> EventLog:
        return FakeEventLog(self.broker, topic, group, f"m{next(self._names)}")

    def publisher(self, topics: Mapping[Topic, str]) -> Publisher:
        return FakePublisher(self.broker, topics)

    def reader(self, topics: Mapping[Topic, str]) -> TopicReader:
        return FakeTopicReader(self.broker, topics)

    def close(self) -> None:
        pass


class RealWorld:
    patience = 1_000

    def __init__(self, bootstrap: str, properties: Mapping[str, str] | None = None) -> None:
        self.slow_to_rebalance = "group.protocol" in (properties or {})  # its heartbeats are the broker's to set, 5 s
        self.settings = KafkaSettings(bootstrap, properties or {}, timeout_s=WAIT_S)
        self.plain = KafkaSettings(bootstrap, timeout_s=WAIT_S)
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})

    def create(self, partitions: int) -> str:
        name = f"t{uuid.uuid4().hex}"
        KafkaAdmin(self.plain).ensure([TopicPlan(name, partitions)])
        return name

    def append(
        self, topic: str, partition: int, *values: bytes | None, key: bytes | None = None, headers: Headers = (), timestamp: int = 0
    ) -> None:
        for value in values:
            self._producer.produce(topic, value, key, partition, None, None, timestamp, list(headers))
        assert 0 == self._producer.flush(WAIT_S)

    def log(self, topic: str, group: str) -> EventLog:
        return KafkaEventLog(self.settings, topic, group)

    def publisher(self, topics: Mapping[Topic, str]) -> Publisher:
        return KafkaPublisher(self.plain, topics)

    def reader(self, topics: Mapping[Topic, str]) -> TopicReader:
        return KafkaTopicReader(self.plain, topics)

    def close(self) -> None:
        pass
