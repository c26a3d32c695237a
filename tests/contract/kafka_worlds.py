"""What the suites of the Kafka ports run over: a fake broker, or a real one, behind the same few verbs."""

from __future__ import annotations

import itertools
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from confluent_kafka import Producer

from streamer.adapters.kafka import KafkaAdmin, KafkaEventLog, KafkaPublisher, KafkaSettings, KafkaTopicReader, KafkaTransactions, TopicPlan
from streamer.adapters.kafka.transactions import TIMEOUT_MS
from streamer.core.ports import Topic
from tests.fakes.broker import TRANSACTION_TIMEOUT_MS, FakeBroker, FakeEventLog, FakePublisher, FakeTopicReader
from tests.fakes.transactions import FakeTransactions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamer.core.columns import Headers
    from streamer.core.ports import EventLog, Publisher, TopicReader, Transactions

WAIT_S = 20.0
TOPICS = [*Topic]
BRIEF_MS = 1_000
BROKER_LOOKS_S = 10.5
"""How often the broker looks for transactions whose time is over, and a little more."""


class World(Protocol):
    """A broker to test against; every topic is the test's own."""

    patience: int
    slow_to_rebalance: bool

    def create(self, partitions: int) -> str: ...

    def append(
        self, topic: str, partition: int, *values: bytes | None, key: bytes | None = None, headers: Headers = (), timestamp: int = 0
    ) -> None: ...

    def log(self, topic: str, group: str, timeout_s: float = WAIT_S) -> EventLog: ...

    def publisher(self, topics: Mapping[Topic, str]) -> Publisher: ...

    def reader(self, topics: Mapping[Topic, str]) -> TopicReader: ...

    def transactions(self, topics: Mapping[Topic, str], input_topic: str, name: str, *, brief: bool = False) -> Transactions: ...

    def wait_out(self) -> None:
        """Wait until the broker has aborted what is open, if that is `brief`."""

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

    def log(self, topic: str, group: str, timeout_s: float = WAIT_S) -> EventLog:  # noqa: ARG002  # a fake waits for nothing
        return FakeEventLog(self.broker, topic, group, f"m{next(self._names)}")

    def publisher(self, topics: Mapping[Topic, str]) -> Publisher:
        return FakePublisher(self.broker, topics)

    def reader(self, topics: Mapping[Topic, str]) -> TopicReader:
        return FakeTopicReader(self.broker, topics)

    def transactions(self, topics: Mapping[Topic, str], input_topic: str, name: str, *, brief: bool = False) -> Transactions:  # noqa: ARG002
        return FakeTransactions(self.broker, topics, name)

    def wait_out(self) -> None:
        self.broker.now_ms += TRANSACTION_TIMEOUT_MS

    def close(self) -> None:
        pass


class RealWorld:
    patience = 1_000

    def __init__(self, bootstrap: str, properties: Mapping[str, str] | None = None) -> None:
        self.slow_to_rebalance = "group.protocol" in (properties or {})  # its heartbeats are the broker's to set, 5 s
        self.settings = KafkaSettings(bootstrap, properties or {}, timeout_s=WAIT_S)
        self.plain = KafkaSettings(bootstrap, timeout_s=WAIT_S)
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "enable.idempotence": True})  # a retry must not reorder

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

    def log(self, topic: str, group: str, timeout_s: float = WAIT_S) -> EventLog:
        return KafkaEventLog(replace(self.settings, timeout_s=timeout_s), topic, group)

    def publisher(self, topics: Mapping[Topic, str]) -> Publisher:
        return KafkaPublisher(self.plain, topics)

    def reader(self, topics: Mapping[Topic, str]) -> TopicReader:
        return KafkaTopicReader(self.plain, topics)

    def transactions(self, topics: Mapping[Topic, str], input_topic: str, name: str, *, brief: bool = False) -> Transactions:
        return KafkaTransactions(self.plain, topics, input_topic, name, BRIEF_MS if brief else TIMEOUT_MS)

    def wait_out(self) -> None:
        time.sleep(BRIEF_MS / 1_000 + BROKER_LOOKS_S)

    def close(self) -> None:
        pass
