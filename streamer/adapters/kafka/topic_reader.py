"""`TopicReader` on a Kafka consumer without a group."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from streamer.adapters.kafka.client import Watch, configuration, error_of, explain, made
from streamer.adapters.kafka.headers import headers_of
from streamer.adapters.kafka.offsets import Watermarks, without_group
from streamer.core.errors import Unavailable
from streamer.core.ports import LogRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confluent_kafka import Message

    from streamer.adapters.kafka.client import KafkaSettings, Value
    from streamer.core.ports import Topic

CONSUME_MAX = 5_000
_DEFAULTS = {"fetch.wait.max.ms": 100, "queued.max.messages.kbytes": 32_768}
_FIXED: dict[str, Value] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "isolation.level": "read_committed",
    "auto.offset.reset": "earliest",
    "enable.partition.eof": True,
    "group.id": "unused",  # the client asks for one, and no group is ever joined
}


class KafkaTopicReader:
    """Reads back the journal, the models and what was published."""

    def __init__(self, settings: KafkaSettings, topics: Mapping[Topic, str]) -> None:
        """Prepare; connects with the first read.

        Args:
            settings: the brokers, and properties for the consumer.
            topics: each topic's name.

        """
        self._topics = dict(topics)
        self._timeout_s = settings.timeout_s
        self._watermarks = Watermarks(settings)
        self._watch = Watch("reading topics back")
        self._config = configuration(without_group(settings), defaults=_DEFAULTS, fixed=_FIXED) | self._watch.callbacks()
        self._consumer: Any = None

    def bounds(self, topic: Topic, partition: int) -> tuple[int, int]:
        """Read a partition's first offset and high watermark, whatever transactions are open.

        Raises:
            Unavailable: no answer within the settings' time-out.

        """
        return self._watermarks.of(self._topics[topic], partition, self._timeout_s)

    def read(self, topic: Topic, partition: int, first: int, timeout_s: float, end: int | None = None) -> list[LogRecord]:
        """Read committed records from offset `first` (or the earliest later one) to `end`, or to the high watermark of now.

        Waits until no transaction below that offset is open. Offsets have gaps where records were compacted away, where a transaction
        ended or where one was aborted; the end is therefore told by the position, not by a record.

        Raises:
            Unavailable: not within `timeout_s`.

        """
        deadline = time.monotonic() + timeout_s
        name = self._topics[topic]
        earliest, high = self._watermarks.of(name, partition, timeout_s)
        end = high if end is None else min(end, high)
        position = max(first, earliest)
        if position >= end:
            return []
        if self._consumer is None:
            self._consumer = made(Consumer, self._config)
        self._consumer.assign([TopicPartition(name, partition, position)])
        records: list[LogRecord] = []
        try:
            while position < end:
                left = deadline - time.monotonic()
                if left <= 0:
                    late = f"{name}[{partition}] could not be read from {first} to {end} within {timeout_s} s (read to {position})"
                    raise Unavailable(late)
                for message in self._take(left):
                    position = max(position, self._position(message, name))
                    if message.error() is None and first <= int(message.offset() or 0) < end:
                        records.append(_record(message))
        finally:
            self._consumer.unassign()
        return records

    def close(self) -> None:
        """Close the connections."""
        self._watermarks.close()
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _take(self, timeout_s: float) -> list[Message]:
        try:
            message = self._consumer.poll(min(timeout_s, 1.0))
            if message is None:
                self._watch.check()
                return []
            return [message, *self._consumer.consume(CONSUME_MAX, 0)]
        except KafkaException as error:
            raise explain(error_of(error), self._watch.what) from error

    @staticmethod
    def _position(message: Message, name: str) -> int:
        """Tell the offset that is read next."""
        error = message.error()
        offset = int(message.offset() or 0)
        if error is None:
            return offset + 1
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # librdkafka's own codes begin so
            return offset
        raise explain(error, f"reading {name}")


def _record(message: Message) -> LogRecord:
    _, timestamp = message.timestamp()
    return LogRecord(int(message.offset() or 0), timestamp, message.key(), message.value(), headers_of(message))
